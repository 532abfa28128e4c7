"""The chart of a day, by hour."""

import base64
import datetime as dt
import io
import math
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from lens_pipeline.monitoring.reports.statistics import IN_TIME_SECONDS, Record, hours

# Inches, dots an inch: each report adds about 15 KiB to the event log.
_SIZE, _DPI = (8.4, 2.8), 90
_BARS = {
    "in_time": ("#2f9e44", f"ready within {IN_TIME_SECONDS:g} s"),
    "late": ("#f08c00", "ready later"),
    "not_made": ("#c92a2a", "not ready"),
}


def draw(day: dt.date, files: Sequence[Record]) -> bytes:
    """A PNG of the photos and videos in `files`, rows of `statistics.FILES`."""
    by_hour = hours(file for file in files if file["kind"] in ("photo", "video"))
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    count, latency = figure.subplots(1, 2)
    below = [0] * len(by_hour)
    for name, (colour, label) in _BARS.items():
        height = [row[name] for row in by_hour]
        count.bar(range(24), height, bottom=below, color=colour, label=label)
        below = [lower + upper for lower, upper in zip(below, height, strict=True)]
    count.set_title(f"Photos and videos of {day}", fontsize=9)
    count.legend(fontsize=7, loc="upper left")
    for name, style in (("p50", "o-"), ("p95", "s--")):
        seconds = [math.nan if row[name] is None else row[name] for row in by_hour]
        latency.plot(range(24), seconds, style, markersize=3, linewidth=1, label=name)
    latency.axhline(IN_TIME_SECONDS, color="#c92a2a", linewidth=0.8, linestyle=":")
    latency.set_yscale("log")
    longest = max(IN_TIME_SECONDS, *(row["p95"] or 0 for row in by_hour))
    latency.set_ylim(0.1, 2 * longest)
    latency.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    latency.yaxis.set_minor_formatter(NullFormatter())
    latency.set_title("Seconds from finished to ready", fontsize=9)
    latency.legend(fontsize=7, loc="upper left")
    for axes, shown in ((count, below), (latency, [row["p50"] for row in by_hour])):
        if not any(shown):
            axes.text(0.5, 0.5, "no files", transform=axes.transAxes, ha="center", va="center")
        axes.set_xlim(-0.6, 23.6)
        axes.set_xlabel("hour (UTC)", fontsize=8)
        axes.tick_params(labelsize=7)
    count.set_ylim(0, 1.35 * max(*below, 1))  # room for the legend
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def inline(png: bytes, name: str) -> str:
    """The picture in Markdown."""
    return f"![{name}](data:image/png;base64,{base64.b64encode(png).decode()})"
