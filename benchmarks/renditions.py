"""How fast an order of renditions is made, next to one ffmpeg a piece with black bars.

The film is joined of the shots of `masters`. Both sides run in turns, at the same low priority;
ours verifies each piece, the old method verifies none. What counts is processor time: on as many
cores as it takes, both use all of them, and others on the machine do not count.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.masters import (
    OLD_ENCODER,
    processor_seconds,
    sources_of,
    usual_shots,
    work_directory,
)
from lens_pipeline.derivatives.orders import FORMATS, Film, Order, Piece, plan
from lens_pipeline.media.concat.join import join
from lens_pipeline.media.ffmpeg.run import Work, run_long
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.models import ScaleSpec
from lens_pipeline.media.renditions.render import Renditions

_SHOTS, _QUICK_SHOTS, _SHOT_SECONDS = 10, 2, 5
_FRAGMENTS = 10
# As renditions were encoded one by one up to version 0.3.
_EARLIER_ENCODER = OLD_ENCODER | {"preset": "faster", "crf": 21}


def run(quick: bool = False) -> dict[str, float]:
    """Measure; above 1 means that ours is faster."""
    count = _QUICK_SHOTS if quick else _SHOTS
    with work_directory() as work:
        film = join(sources_of(usual_shots(count)), Tools.find(), work, None).path
        film = film.rename(work.directory / "film.mp4")
        joins = [float(_SHOT_SECONDS * number) for number in range(1, count)]
        known = Film(float(_SHOT_SECONDS * count), 1920, 1080, joins)
        formats = plan(Order(list(FORMATS)), known)
        fragments = plan(Order(list(FORMATS), count=_FRAGMENTS, seed=1), known)

        def ours(pieces: Sequence[Piece], fill: str) -> float:
            return _seconds(lambda inner: _order(film, pieces, fill, inner))

        def old(pieces: Sequence[Piece], encoder: Mapping[str, object]) -> float:
            return _seconds(lambda inner: _one_by_one(film, pieces, encoder, inner))

        rounds = 1 if quick else 2
        found: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, seconds in (
                ("formats", lambda: ours(formats, "black")),
                ("formats, blur", lambda: ours(formats, "blur")),
                ("formats, old", lambda: old(formats, OLD_ENCODER)),
                ("formats, earlier", lambda: old(formats, _EARLIER_ENCODER)),
            ):
                found.setdefault(name, []).append(seconds())
                print(f"  {name}: {found[name][-1]:.1f} s", flush=True)
        found["fragments"] = [ours(fragments, "black")]
        found["fragments, blur"] = [ours(fragments, "blur")]
        found["fragments, old"] = [old(fragments, OLD_ENCODER)]
    median = {name: statistics.median(values) for name, values in found.items()}
    return {
        "formats_vs_one_by_one": median["formats, old"] / median["formats"],
        "formats_blur_vs_one_by_one": median["formats, old"] / median["formats, blur"],
        "formats_vs_earlier_version": median["formats, earlier"] / median["formats"],
        "fragments_vs_one_by_one": median["fragments, old"] / median["fragments"],
        "fragments_blur_vs_one_by_one": median["fragments, old"] / median["fragments, blur"],
    }


def _seconds(make: Callable[[Work], None]) -> float:
    with work_directory() as work:
        before = processor_seconds()
        make(work)
        return processor_seconds() - before


def _order(film: Path, pieces: Sequence[Piece], fill: str, work: Work) -> None:
    specs = [
        ScaleSpec(one.width, one.height, one.start, one.end, fill, enlarge=False) for one in pieces
    ]
    renditions = Renditions(film, specs, Tools.find(), work)
    with ThreadPoolExecutor(2) as threads:
        for made in threads.map(renditions.render, range(len(specs))):
            made.path.unlink()


def _one_by_one(
    film: Path, pieces: Sequence[Piece], encoder: Mapping[str, object], work: Work
) -> None:
    made = work.directory / "piece.mp4"
    for one in pieces:
        start = one.start or 0.0
        part = ["-t", f"{one.end - start:.3f}"] if one.end is not None else []
        size = f"{one.width}:{one.height}"
        command = [
            *(str(Tools.find().ffmpeg), "-loglevel", "warning", "-ss", f"{start:.3f}"),
            *("-f", "mov", "-i", f"file:{film}", *part),
            *("-vf", f"scale={size}:force_original_aspect_ratio=decrease,pad={size}:-1:-1"),
            *(text for name, value in encoder.items() for text in (f"-{name}", str(value))),
            *("-movflags", "+faststart", f"file:{made}"),
        ]
        run_long(command, 60, "old method", work)
