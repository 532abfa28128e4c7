"""How fast masters are joined, next to encoding all of their shots anew in one filter graph.

Shots are pans and zooms over photos with film grain, encoded with options unlike ours, so that
they match each other but not what we encode. Both sides run in turns, at the same low priority;
ours starts with an empty cache each time, but for `master_cached_speedup`.
"""

import hashlib
import re
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import ffmpeg as ffmpeg_python
import psutil

from benchmarks.photos import WORK, jpegs
from lens_pipeline.catalog.rows import MasterVideo
from lens_pipeline.defs.assets.provenance import Provenance
from lens_pipeline.defs.assets.renderers import PosterRenderer
from lens_pipeline.media.concat.join import Master, Source, examine, join
from lens_pipeline.media.ffmpeg.run import Work, run_long
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.settings import Settings
from lens_pipeline_tests.support.certificates import issue

# Of the photos that are panned over: more than a shot shows, so that the pan moves.
_PHOTO = (2400, 1350)
_SAMPLE_RATE = 48_000
_CUT_SECONDS, _QUICK_SECONDS = 5, 1
_SHOTS, _LONG_SECONDS = 10, 10
_LUFS = -14.0
# Whose film is signed.
_ROW = MasterVideo("bench", "bench", "bench", (), None)
_BT709 = {"color_primaries": "bt709", "color_trc": "bt709", "colorspace": "bt709"}
# What stock tools do when shots differ; libx264's own defaults.
OLD_ENCODER = {"c:v": "libx264", "preset": "medium", "crf": 23, "c:a": "aac", "b:a": "160k"}


@dataclass(frozen=True, slots=True)
class Shape:
    """What shots must share to be joined without encoding."""

    width: int
    height: int
    rate: Fraction


_USUAL = Shape(1920, 1080, Fraction(24))
_ODD = (
    Shape(1920, 1080, Fraction(25)),
    Shape(1280, 720, Fraction(24)),
    Shape(1920, 1080, Fraction(30)),
    Shape(1080, 1920, Fraction(24)),
    Shape(1440, 1080, Fraction(24)),
    Shape(1280, 720, Fraction(30)),
    Shape(1920, 1080, Fraction(24000, 1001)),
    Shape(1080, 1080, Fraction(24)),
    Shape(1280, 720, Fraction(60)),
    Shape(1920, 800, Fraction(24)),
)


class _Folder:
    """Keeps what joining may use again, as the object store does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str) -> Path | None:
        path = self._folder / key
        return path if path.exists() else None

    def keep(self, key: str, file: Path) -> None:
        shutil.copyfile(file, self._folder / key)


@dataclass(frozen=True, slots=True)
class _Bench:
    tools: Tools
    # Of each shot of all but the long masters.
    seconds: int

    def shots(self, shapes: Sequence[Shape], first: int = 0) -> list[Path]:
        return [
            _shot(number, shape, self.seconds, self.tools)
            for number, shape in enumerate(shapes, first)
        ]

    def compare(
        self, key: str, shots: Sequence[Path], shape: Shape, rounds: int
    ) -> dict[str, float]:
        """How many times as fast as the old method ours is: of shots that were checked when they
        came into their project, and of shots that it has never seen.
        """
        unseen: list[float] = []
        checked: list[float] = []
        old: list[float] = []
        for _ in range(rounds):
            with work_directory() as work:
                pieces = _folder(work, "pieces")
                unseen.append(self.join_seconds(f"{key}, unseen", shots, work, pieces))
            with work_directory() as work:
                pieces = _folder(work, "pieces")
                for source in sources_of(shots):
                    examine(source, self.tools, work, pieces)
                checked.append(self.join_seconds(f"{key}, checked", shots, work, pieces))
            with work_directory() as work:
                old.append(self.old_seconds(key, shots, shape, work))
        return {
            f"{key}_speedup": statistics.median(old) / statistics.median(checked),
            f"{key}_unseen_speedup": statistics.median(old) / statistics.median(unseen),
        }

    def compare_odd(self) -> dict[str, float]:
        """All shots differ; then a second master that shares all but one of them."""
        shots = self.shots(_ODD[: 3 if self.seconds == _QUICK_SECONDS else None])
        others = [*shots[:-1], *self.shots([_ODD[0]], first=len(shots))]
        with (
            work_directory() as work,
            work_directory() as old_work,
            work_directory() as second,
            work_directory() as old_second,
        ):
            pieces = _folder(work, "pieces")
            ours = self.join_seconds("all odd", shots, work, pieces)
            shape = _shape_of(work.directory / "master.mp4")
            old = self.old_seconds("all odd", shots, shape, old_work)
            cached = self.join_seconds("cached", others, second, pieces)
            old_others = self.old_seconds("cached", others, shape, old_second)
            similar = self.ssim(work.directory / "master.mp4", shots, shape, work)
            old_similar = self.ssim(old_work.directory / "master.mp4", shots, shape, work)
        return {
            "master_all_odd_speedup": old / ours,
            "master_all_odd_ssim": similar,
            "master_all_odd_ssim_vs_old": similar / old_similar,
            "master_cached_speedup": old_others / cached,
        }

    def loudness_ratio(self, shots: Sequence[Path], rounds: int) -> float:
        """Processor time of a master of unseen shots with level sound, over that without."""
        seconds: dict[float | None, list[float]] = {None: [], _LUFS: []}
        for _ in range(rounds):
            for loudness, found in seconds.items():
                with work_directory() as work:
                    before = processor_seconds()
                    pieces = _folder(work, "pieces")
                    join(sources_of(shots), self.tools, work, pieces, loudness=loudness)
                    found.append(processor_seconds() - before)
        return statistics.median(seconds[_LUFS]) / statistics.median(seconds[None])

    def signing_ratios(self, shots: Sequence[Path], rounds: int) -> dict[str, float]:
        """Time of a master and its poster that is signed, over that without: of plain shots, and of
        such that are signed themselves.
        """
        with work_directory() as work:
            pair = issue(work.directory / "pair")
            bare = Settings(home=work.directory)
            signing = bare.model_copy(update={"c2pa_cert": pair.cert, "c2pa_key": pair.key})
            copies = [Path(shutil.copy(shot, work.directory)) for shot in shots]
            plain = self.signing_ratio(copies, bare, signing, work, rounds)
            for copy in copies:
                Provenance(signing).complete_mp4(_ROW, copy, copy.name, list)
            signed = self.signing_ratio(copies, bare, signing, work, rounds)
        return {"c2pa_time_ratio": plain, "c2pa_signed_shots_time_ratio": signed}

    def signing_ratio(
        self, shots: Sequence[Path], bare: Settings, signing: Settings, work: Work, rounds: int
    ) -> float:
        poster = PosterRenderer(bare, bare.preview_edge)
        sources, pieces = sources_of(shots), _Folder(work.directory)
        for source in sources:
            examine(source, self.tools, work, pieces)
        seconds: dict[Settings, list[float]] = {bare: [], signing: []}
        for _ in range(rounds + 1):
            for settings, found in seconds.items():
                provenance = Provenance(settings)
                started = time.perf_counter()
                master = join(sources, self.tools, work, pieces).path
                # As masters are made.
                with ThreadPoolExecutor(1) as thread:
                    rendered = thread.submit(poster.render, master)
                    provenance.complete_mp4(
                        _ROW,
                        master,
                        master.name,
                        lambda by=provenance: [
                            by.source(_ROW, one.name, one.path, one.sha256) for one in sources
                        ],
                    )
                    rendered.result()
                found.append(time.perf_counter() - started)
        # In the first, processes start.
        return statistics.median(seconds[signing][1:]) / statistics.median(seconds[bare][1:])

    def join_seconds(self, name: str, shots: Sequence[Path], work: Work, pieces: _Folder) -> float:
        sources = sources_of(shots)
        started = time.perf_counter()
        master = join(sources, self.tools, work, pieces)
        seconds = time.perf_counter() - started
        master.path.rename(work.directory / "master.mp4")
        _say(name, f"ours {seconds:.2f} s, {_summary(master)}")
        return seconds

    def old_seconds(self, name: str, shots: Sequence[Path], shape: Shape, work: Work) -> float:
        command = ffmpeg_python.output(
            *_one_graph(shots, shape),
            f"file:{work.directory / 'master.mp4'}",
            movflags="+faststart",
            loglevel="warning",
            **OLD_ENCODER,
        ).compile(cmd=str(self.tools.ffmpeg))
        started = time.perf_counter()
        run_long(command, _total_seconds(shots), "old method", work)
        seconds = time.perf_counter() - started
        _say(name, f"old {seconds:.2f} s")
        return seconds

    def ssim(self, master: Path, shots: Sequence[Path], shape: Shape, work: Work) -> float:
        """Mean similarity of a master's frames to those of its shots, scaled without loss.

        Shot by shot and by number of frame: a comparison of all at once goes by time, in which
        two ways of rounding shots to whole frames are a frame apart.
        """
        total, first = 0.0, 0
        for shot in shots:
            frames = _frames_at(shot, shape.rate)
            shown = (
                ffmpeg_python.input(f"file:{master}", format="mov")
                .video.filter("trim", start_frame=first, end_frame=first + frames)
                .filter("setpts", "PTS-STARTPTS")
            )
            wanted, _ = _one_graph([shot], shape)
            compared = ffmpeg_python.filter([shown, wanted], "ssim", shortest=1)
            command = compared.output("-", format="null").compile(cmd=str(self.tools.ffmpeg))
            messages = run_long(command, _total_seconds([shot]), "comparing", work)
            found = re.search(r"SSIM .* All:([0-9.]+)", messages)
            if found is None:
                raise RuntimeError(f"ffmpeg reported no similarity: {messages}")
            total += float(found[1]) * frames
            first += frames
        return total / first


def run(quick: bool = False) -> dict[str, float]:
    """Measure; above 1 means that ours is faster. Prints what was done for each master."""
    bench = _Bench(Tools.find(), _QUICK_SECONDS if quick else _CUT_SECONDS)
    rounds = 1 if quick else 3
    few = bench.shots([_USUAL] * 3)
    results = bench.compare("master_copy_3x5", few, _USUAL, rounds)
    results["loudness_time_ratio"] = bench.loudness_ratio(few, 3 * rounds)
    results |= bench.signing_ratios(few, 3 * rounds)
    if not quick:
        long = _Bench(bench.tools, _LONG_SECONDS)
        many = long.shots([_USUAL] * _SHOTS)
        results |= long.compare("master_copy", many, _USUAL, 1)
    one_odd = bench.shots([*[_USUAL] * 4, _ODD[5], *[_USUAL] * 5])
    results |= bench.compare("master_one_odd", one_odd, _USUAL, 1)
    return results | bench.compare_odd()


def usual_shots(count: int) -> list[Path]:
    return _Bench(Tools.find(), _CUT_SECONDS).shots([_USUAL] * count)


def processor_seconds() -> float:
    """Of this process and of all that it has started."""
    used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    living = [process.cpu_times() for process in psutil.Process().children()]
    return sum(one.ru_utime + one.ru_stime for one in used) + sum(
        one.user + one.system for one in living
    )


def sources_of(shots: Sequence[Path]) -> list[Source]:
    return [Source(path.stem, path, _sha256(path)) for path in shots]


def _shot(number: int, shape: Shape, seconds: int, tools: Tools) -> Path:
    """A shot over photo `number`, made by the first run."""
    folder = WORK / "shots"
    folder.mkdir(parents=True, exist_ok=True)
    rate = str(shape.rate).replace("/", "_")
    path = folder / f"{number:02d}-{shape.width}x{shape.height}-{rate}-{seconds}s.mp4"
    if not path.exists():
        with work_directory() as work:
            made = work.directory / "shot.mp4"
            command = _generate(number, shape, seconds, made).compile(cmd=str(tools.ffmpeg))
            run_long(command, seconds, "making a shot", work)
            shutil.move(made, path)
        _say("making shots", path.name)
    return path


def _generate(number: int, shape: Shape, seconds: int, path: Path) -> Any:
    """A slow zoom and pan with film grain, which costs encoders and decoders what film does."""
    photo = jpegs(number + 1, *_PHOTO)[number]
    frames = int(seconds * shape.rate)
    # To and fro by the number of the shot, so that not all move alike.
    moved = f"on/{frames}" if number % 2 else f"(1-on/{frames})"
    picture = (
        ffmpeg_python.input(f"file:{photo}")
        .filter(
            "zoompan",
            z=f"1.1+0.3*on/{frames}",
            x=f"(iw-iw/zoom)*{moved}",
            y=f"(ih-ih/zoom)*(0.3+0.4*{moved})",
            d=frames,
            s=f"{shape.width}x{shape.height}",
            fps=str(shape.rate),
        )
        # The photos have JPEG's range and matrix, videos do not.
        .filter("scale", out_range="tv", out_color_matrix="bt709")
        .filter("format", "yuv420p")
        .filter("noise", alls=3, allf="t")
        .filter("setparams", range="tv", **_BT709)
    )
    tone = f"sine=frequency={220 + 40 * number}:sample_rate={_SAMPLE_RATE}:duration={seconds}"
    hiss = f"anoisesrc=amplitude=0.05:color=pink:sample_rate={_SAMPLE_RATE}:duration={seconds}"
    sound = ffmpeg_python.filter(
        [ffmpeg_python.input(source, format="lavfi").audio for source in (tone, hiss)], "join"
    )
    return ffmpeg_python.output(
        picture,
        sound,
        f"file:{path}",
        loglevel="warning",
        **{"c:v": "libx264", "preset": "medium", "crf": 20, "c:a": "aac", "b:a": "128k"},
        **{"x264-params": "keyint=48:bframes=2:ref=2:aud=1"},
    )


def _one_graph(shots: Sequence[Path], shape: Shape) -> tuple[Any, Any]:
    """Picture and sound of all shots, each brought to `shape`, one after the other."""
    streams: list[Any] = []
    for shot in shots:
        source = ffmpeg_python.input(f"file:{shot}", format="mov")
        streams += [
            source.video.filter(
                "scale",
                shape.width,
                shape.height,
                force_original_aspect_ratio="decrease",
                flags="lanczos",
            )
            .filter("pad", shape.width, shape.height, "(ow-iw)/2", "(oh-ih)/2")
            .filter("setsar", 1)
            .filter("fps", str(shape.rate))
            .filter("format", "yuv420p"),
            source.audio.filter("aresample", _SAMPLE_RATE).filter(
                "aformat", channel_layouts="stereo"
            ),
        ]
    joined = ffmpeg_python.concat(*streams, v=1, a=1).node
    return joined[0], joined[1]


def _shape_of(video: Path) -> Shape:
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        return Shape(stream.width, stream.height, Fraction(stream.average_rate or 0))


def _frames_at(shot: Path, rate: Fraction) -> int:
    with av.open(str(shot)) as container:
        stream = container.streams.video[0]
        return round(stream.frames / Fraction(stream.average_rate or 0) * rate)


def _total_seconds(shots: Sequence[Path]) -> float:
    total = 0.0
    for shot in shots:
        with av.open(str(shot)) as container:
            total += (container.duration or 0) / av.time_base
    return total


@contextmanager
def work_directory() -> Iterator[Work]:
    """On the disk of the shots, not in /tmp, which may be memory."""
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as directory:
        yield Work(Path(directory), lambda: False, _ignore)


def _ignore(stage: str, share: float) -> None:
    """Progress, of which nobody waits to hear."""


def _folder(work: Work, name: str) -> _Folder:
    folder = work.directory / name
    folder.mkdir()
    return _Folder(folder)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _summary(master: Master) -> str:
    copied = sum(shot.action == "copy" for shot in master.shots)
    cached = sum(shot.cached for shot in master.shots)
    return (
        f"method {master.method}: {copied} copied, {len(master.shots) - copied} encoded, "
        f"{cached} of them cached; fallback: {master.fallback}"
    )


def _say(name: str, text: str) -> None:
    print(f"  {name}: {text}", flush=True)
