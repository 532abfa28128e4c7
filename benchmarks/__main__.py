"""`python -m benchmarks [NAME...] [--quick]`: measure, print a table, write `results.json`."""

import argparse
import importlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

NAMES = (
    *("render", "throughput", "latency", "webhook", "run_start", "growth", "memory", "idle"),
    *(
        "masters",
        "renditions",
        "beside_masters",
        "clips",
        "status_pages",
        "streaming",
        "fairness",
        "retention",
        "scale",
        "cost",
        "backfill",
    ),
)
RESULTS = Path(__file__).parent / "results.json"

AT_LEAST = {
    "render_vs_sharp": 0.95,
    "throughput_vs_loop": 0.75,
    "throughput_growth_100k": 0.7,
    "scale_8_workers": 0.85,
    "master_copy_speedup": 20,
    "master_copy_3x5_speedup": 20,
    "master_one_odd_speedup": 4,
    "master_all_odd_speedup": 1.0,
    "master_all_odd_ssim_vs_old": 1.0,
    "master_cached_speedup": 4,
    "formats_vs_one_by_one": 2.5,
    "fragments_vs_one_by_one": 3,
    "video_throughput_vs_nginx": 0.7,
}
AT_MOST = {
    "backfill_million_seconds": 3,
    "backfill_idle_ms": 50,
    "fairness_worst_delay_seconds": 60,
    "busy_mib": 800,
    "idle_mib": 500,
    "start_cpu_seconds": 5,
    "idle_cores": 0.05,
    "idle_transactions_a_second": 30,
    "latency_p50_vs_poller": 0.6,
    "latency_p95_vs_poller": 0.6,
    "webhook_p50_vs_poller": 0.35,
    "run_start_vs_default": 0.1,
    "tick_growth_100k": 2.0,
    "preview_p95_beside_masters": 1.5,
    "poster_p95_clips_ratio": 1.1,
    "loudness_time_ratio": 1.05,
    "c2pa_time_ratio": 1.03,
    "status_page_growth_100k": 1.5,
    "retention_single_gigabytes_30_days": 32,
}


def main() -> None:
    arguments = _parser().parse_args()
    measured: dict[str, float] = {}
    for name in arguments.names or NAMES:
        started = time.monotonic()
        # Imported when needed: each sets its libraries up in its own way.
        found = importlib.import_module(f"benchmarks.{name}").run(arguments.quick)
        measured |= found
        print(f"\n{name} ({time.monotonic() - started:.0f} s)\n{_table(found)}", flush=True)
        if not arguments.quick:
            _write(found)
    missed = [key for key, value in measured.items() if verdict(key, value) == "MISSED"]
    print(f"\nmissed: {', '.join(missed) or 'none'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", type=_name, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few rounds of each, to see that it works; results.json is left as it is",
    )
    return parser


def _name(text: str) -> str:
    if text not in NAMES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(NAMES)}")
    return text


def _table(figures: Mapping[str, float]) -> str:
    frame = pd.DataFrame(
        {
            "figure": list(figures),
            "value": [f"{value:.3f}" for value in figures.values()],
            "target": [_target(key) for key in figures],
            "": [verdict(key, value) for key, value in figures.items()],
        }
    )
    return frame.to_string(index=False)


def _target(key: str) -> str:
    if key in AT_LEAST:
        return f">= {AT_LEAST[key]}"
    return f"<= {AT_MOST[key]}" if key in AT_MOST else ""


def verdict(key: str, value: float) -> str:
    if key in AT_LEAST:
        return "ok" if value >= AT_LEAST[key] else "MISSED"
    if key in AT_MOST:
        return "ok" if value <= AT_MOST[key] else "MISSED"
    return ""


def _write(figures: Mapping[str, float]) -> None:
    """Merge into what earlier benchmarks wrote."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    merged = known | {key: round(value, 4) for key, value in figures.items()}
    unfinished = RESULTS.with_suffix(".tmp")
    unfinished.write_text(json.dumps(merged, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(RESULTS)


if __name__ == "__main__":
    main()
