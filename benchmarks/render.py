"""How fast previews are rendered, next to sharp (npm) and to the bare decoder and encoder.

    python benchmarks/render.py [--quick] [--sweep]

Needs node and npm: sharp is installed into benchmarks/.work/ by the first run. Photos come from
scikit-image, enlarged and with sensor noise, so that they compress as camera pictures do. Ours
runs where the product runs it, in a sandbox of one worker. Both sides use one thread, and each
round measures one right after the other.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import IO, cast

# libvips reads it when it is first imported.
os.environ["VIPS_CONCURRENCY"] = "1"

import numpy as np
import psutil
import pyvips
import skimage.data
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage.metrics import structural_similarity

from lens_pipeline.media.images import render_preview
from lens_pipeline.media.models import PreviewSpec
from lens_pipeline.media.sandbox.pool import Sandbox

_WORK = Path(__file__).parent / ".work"
_SHARP_VERSION = "0.35.5"
_SPEC = PreviewSpec(longest_edge=768, quality=80, effort=4, max_pixels=50_000_000)
_PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "retina")
_MIXED = ((1024, 1024), (1536, 2048))
_UHD = ((3840, 2160),)
_ROUNDS, _QUICK_ROUNDS = 7, 3

_SHARP_SCRIPT = """
const sharp = require('sharp'), fs = require('fs');
sharp.concurrency(1); sharp.cache(false);
require('readline').createInterface({input: process.stdin}).on('line', async line => {
  const {files, edge, quality, effort, save} = JSON.parse(line);
  const cpu = process.cpuUsage(), started = process.hrtime.bigint(); let bytes = 0;
  for (const [index, file] of files.entries()) {
    const webp = await sharp(file, {failOn: 'error'}).rotate()
      .resize(edge, edge, {fit: 'inside', withoutEnlargement: true})
      .webp({quality, effort}).toBuffer();
    bytes += webp.length;
    if (save) fs.writeFileSync(`${save}/${index}.webp`, webp);
  }
  const wall = Number(process.hrtime.bigint() - started) / 1e9, used = process.cpuUsage(cpu);
  console.log(JSON.stringify({wall, cpu: (used.user + used.system) / 1e6, bytes}));
});
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of rendering a set of photos once: seconds on the clock and of the processor, and bytes."""

    wall: float
    cpu: float
    bytes: int = 0


class Sharp:
    """A node process that renders with sharp."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def render(self, files: list[Path], spec: PreviewSpec, save: Path | None = None) -> Cost:
        request = {
            "files": [str(file) for file in files],
            "edge": spec.longest_edge,
            "quality": spec.quality,
            "effort": spec.effort,
            "save": str(save) if save else None,
        }
        requests = cast("IO[str]", self._process.stdin)
        requests.write(json.dumps(request) + "\n")
        requests.flush()
        return Cost(**json.loads(cast("IO[str]", self._process.stdout).readline()))


def run(quick: bool = False) -> dict[str, float]:
    """Measure; ratios above 1 mean that ours is faster, except for `render_vs_floor`.

    `…_vs_sharp` compares time on the clock, `…_cpu` processor time, which other load on the
    machine does not blur. `ssim_…` is the mean similarity to a Lanczos reduction without loss.
    """
    rounds = _QUICK_ROUNDS if quick else _ROUNDS
    mixed, uhd = _photos(_MIXED, quick), _photos(_UHD, quick)
    results: dict[str, float] = {}
    with _start_sharp() as sharp, _sandbox() as sandbox:
        sandbox.start()
        results |= _compare("render", sharp, sandbox, mixed, rounds)
        results |= _compare("render_4k", sharp, sandbox, uhd, rounds)
        results["sandbox_vs_in_process"] = _sandbox_ratio(sandbox, mixed, rounds)
        results |= _similarity("render", sharp, mixed)
        results |= _similarity("render_4k", sharp, uhd)
    results["render_vs_floor"] = _over_floor(mixed, rounds)
    return results


def sweep(quick: bool = False) -> list[tuple[int, int, float, float, float]]:
    """Effort, quality, photos per processor second, KiB per photo and SSIM of our settings."""
    files = _photos(_MIXED, quick)
    references = [_reference(file) for file in files]
    rows: list[tuple[int, int, float, float, float]] = []
    for effort in (0, 1, 2, 3, 4, 5, 6):
        for quality in (78, 80, 81, 82) if effort in (2, 3, 4) else (80,):
            spec = replace(_SPEC, effort=effort, quality=quality)
            cost = min((_render(files, spec) for _ in range(3)), key=lambda cost: cost.cpu)
            webps = [render_preview(file, spec).webp for file in files]
            ssim = statistics.mean(map(_ssim, webps, references))
            kib = statistics.mean(map(len, webps)) / 1024
            rows.append((effort, quality, len(files) / cost.cpu, kib, ssim))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure rendering against sharp.")
    parser.add_argument("--quick", action="store_true", help="fewer photos and rounds")
    parser.add_argument("--sweep", action="store_true", help="compare efforts and qualities")
    arguments = parser.parse_args()
    if arguments.sweep:
        table = Table("effort", "quality", "photos / CPU s", "KiB / photo", "SSIM")
        for effort, quality, rate, kib, ssim in sweep(arguments.quick):
            table.add_row(str(effort), str(quality), f"{rate:.1f}", f"{kib:.1f}", f"{ssim:.4f}")
    else:
        table = Table("measure", "value")
        for name, value in run(arguments.quick).items():
            table.add_row(name, f"{value:.4f}" if name.startswith("ssim") else f"{value:.3f}")
    Console().print(table)


def _photos(sizes: tuple[tuple[int, int], ...], quick: bool) -> list[Path]:
    """JPEG and PNG files of each photo in each of `sizes`, made by the first run."""
    folder = _WORK / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in _PHOTOS[:2] if quick else _PHOTOS:
        for width, height in sizes:
            jpeg, png = (folder / f"{name}-{width}x{height}.{kind}" for kind in ("jpg", "png"))
            if not png.exists():
                picture = _photo(name, width, height)
                picture.save(jpeg, quality=90)
                picture.save(png)
            files += [jpeg, png]
    return files


def _photo(name: str, width: int, height: int) -> Image.Image:
    original = Image.fromarray(getattr(skimage.data, name)())
    scale = max(width / original.width, height / original.height)
    size = round(original.width * scale), round(original.height * scale)
    enlarged = original.resize(size, Image.Resampling.LANCZOS).crop((0, 0, width, height))
    noise = np.random.default_rng(len(name)).normal(0, 4, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(enlarged) + noise, 0, 255).astype(np.uint8))


@contextmanager
def _start_sharp() -> Iterator[Sharp]:
    script = _WORK / "sharp.cjs"
    if not (_WORK / "node_modules" / "sharp").exists():
        _WORK.mkdir(exist_ok=True)
        (_WORK / "package.json").write_text('{"private": true}\n')
        install = ["npm", "install", "--no-package-lock", "--no-audit", f"sharp@{_SHARP_VERSION}"]
        subprocess.run(install, cwd=_WORK, check=True, stdout=subprocess.DEVNULL)
    script.write_text(_SHARP_SCRIPT)
    process = subprocess.Popen(
        ["node", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Sharp(process)
    finally:
        process.kill()
        process.wait()


def _render(files: list[Path], spec: PreviewSpec) -> Cost:
    wall, cpu, size = time.perf_counter(), time.process_time(), 0
    for file in files:
        size += len(render_preview(file, spec).webp)
    return Cost(time.perf_counter() - wall, time.process_time() - cpu, size)


def _sandbox() -> Sandbox:
    return Sandbox(1, 60, 3072, Path(tempfile.gettempdir()))


def _render_in(sandbox: Sandbox, files: list[Path], spec: PreviewSpec) -> Cost:
    wall, cpu = time.perf_counter(), _cpu_with_workers()
    size = sum(len(sandbox.preview(file, spec).webp) for file in files)
    return Cost(time.perf_counter() - wall, _cpu_with_workers() - cpu, size)


def _cpu_with_workers() -> float:
    """Processor seconds of this process and its workers (and of node, which idles meanwhile)."""
    process = psutil.Process()
    times = [member.cpu_times() for member in (process, *process.children())]
    return sum(spent.user + spent.system for spent in times)


def _compare(
    name: str, sharp: Sharp, sandbox: Sandbox, files: list[Path], rounds: int
) -> dict[str, float]:
    pairs: list[tuple[Cost, Cost]] = []
    for number in range(rounds + 1):
        # Whoever comes second finds the files in the cache: take turns, and warm up once.
        if number % 2:
            ours, theirs = _render_in(sandbox, files, _SPEC), sharp.render(files, _SPEC)
        else:
            theirs, ours = sharp.render(files, _SPEC), _render_in(sandbox, files, _SPEC)
        pairs.append((ours, theirs))
    pairs = pairs[1:]
    median = statistics.median
    return {
        f"{name}_per_second": len(files) / median(ours.wall for ours, _ in pairs),
        f"{name}_sharp_per_second": len(files) / median(theirs.wall for _, theirs in pairs),
        f"{name}_vs_sharp": median(theirs.wall / ours.wall for ours, theirs in pairs),
        f"{name}_vs_sharp_cpu": median(theirs.cpu / ours.cpu for ours, theirs in pairs),
        f"{name}_bytes_vs_sharp": pairs[0][0].bytes / pairs[0][1].bytes,
    }


def _similarity(name: str, sharp: Sharp, files: list[Path]) -> dict[str, float]:
    folder = _WORK / "sharp"
    folder.mkdir(exist_ok=True)
    sharp.render(files, _SPEC, save=folder)
    references = [_reference(file) for file in files]
    theirs = [(folder / f"{index}.webp").read_bytes() for index in range(len(files))]
    ours = [render_preview(file, _SPEC).webp for file in files]
    return {
        f"ssim_{name}": statistics.mean(map(_ssim, ours, references)),
        f"ssim_{name}_sharp": statistics.mean(map(_ssim, theirs, references)),
    }


def _reference(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        picture.thumbnail(
            (_SPEC.longest_edge, _SPEC.longest_edge), Image.Resampling.LANCZOS, reducing_gap=None
        )
        return np.asarray(picture.convert("L"))


def _ssim(webp: bytes, reference: np.ndarray) -> float:
    luma = np.asarray(Image.open(BytesIO(webp)).convert("L"))
    similarity = structural_similarity(luma, reference)
    assert isinstance(similarity, float)
    return similarity


def _over_floor(files: list[Path], rounds: int) -> float:
    """Our time over that of decoding the file and encoding the finished pixels, nothing else."""
    resized = [
        pyvips.Image.new_from_buffer(render_preview(file, _SPEC).webp, "").copy_memory()
        for file in files
    ]
    ratios = []
    for _ in range(rounds):
        started = time.perf_counter()
        for file, image in zip(files, resized, strict=True):
            _decode(file).copy_memory()
            image.webpsave_buffer(Q=_SPEC.quality, effort=_SPEC.effort, keep=0)
        floor = time.perf_counter() - started
        ratios.append(_render(files, _SPEC).wall / floor)
    return statistics.median(ratios)


def _decode(file: Path) -> pyvips.Image:
    if file.suffix == ".png":
        return pyvips.Image.pngload(str(file), access="sequential")
    with Image.open(file) as header:
        reduction = max(header.size) / _SPEC.longest_edge
    factor = 4 if reduction >= 4 else 2 if reduction >= 2 else 1
    return pyvips.Image.jpegload(str(file), shrink=factor, access="sequential")


def _sandbox_ratio(sandbox: Sandbox, files: list[Path], rounds: int) -> float:
    """Speed in the sandbox over speed in process: what the safety costs."""
    return statistics.median(
        _render(files, _SPEC).wall / _render_in(sandbox, files, _SPEC).wall for _ in range(rounds)
    )


if __name__ == "__main__":
    main()
