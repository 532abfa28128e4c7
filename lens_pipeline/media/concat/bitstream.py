"""Whether packets of H.264 and HEVC depend on what is decoded before them. Nothing is decoded.

ITU-T H.264, 7.4.1, and H.265, 7.4.2.2: types of NAL units.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lens_pipeline.media.concat.mp4 import Track
from lens_pipeline.media.errors import Cancelled, MediaError

_CHECK_EVERY = 64


@dataclass(frozen=True, slots=True)
class _Format:
    lengths_at: int
    """Byte of the configuration whose last two bits are the bytes of a unit's length, less one."""
    shift: int
    mask: int
    """Where in the first byte of a unit its type is."""
    fresh: frozenset[int]
    """Types of pictures with which a decoder forgets everything before."""
    sets: frozenset[int]
    """Types of parameter sets."""


_H264 = _Format(4, 0, 0x1F, frozenset({5}), frozenset({7, 8}))
# CRA pictures (21) may begin a file, but do not make a decoder forget in the middle of one.
_HEVC = _Format(21, 1, 0x3F, frozenset(range(16, 21)), frozenset({32, 33, 34}))
_FORMATS = {b"avc1": _H264, b"avc3": _H264, b"hvc1": _HEVC, b"hev1": _HEVC}


def check_alone(track: Track, following: Track | None, cancelled: Callable[[], bool]) -> None:
    """Check that a shot's pictures do not depend on the shot before, nor the next one's on it.

    Decoders show wrong pictures rather than complain. The tracks are of MP4s that ffmpeg has
    written; those of other codecs than H.264 and HEVC are not looked at.

    Raises MediaError: there is such a dependence; the reason says which. Cancelled.
    """
    form = _FORMATS.get(track.entry[4:8])
    if form is None:
        return
    if len(track.configuration) <= form.lengths_at:
        raise MediaError("it has no parameter sets in its header")
    if not any(kind in form.fresh for kind, _ in _units(track, form, 0)):
        raise MediaError("its first frame needs frames before it")
    if following is None or _brings_its_sets(following, form):
        return
    for number in range(len(track.sizes)):
        if number % _CHECK_EVERY == 0 and cancelled():
            raise Cancelled("checking")
        for kind, unit in _units(track, form, number):
            if kind in form.sets and unit not in track.configuration:
                raise MediaError("its parameter sets change on the way")


def _brings_its_sets(track: Track, form: _Format) -> bool:
    if _FORMATS.get(track.entry[4:8]) != form:
        return False
    return form.sets <= {kind for kind, _ in _units(track, form, 0)}


def _units(track: Track, form: _Format, number: int) -> Iterator[tuple[int, bytes]]:
    """Type and content of each unit of a packet; of pictures, the first byte only."""
    length_bytes = (track.configuration[form.lengths_at] & 3) + 1
    offset = track.offsets[number]
    end = offset + track.sizes[number]
    with track.file.open("rb") as file:
        while offset + length_bytes < end:
            head = os.pread(file.fileno(), length_bytes + 1, offset)
            size = int.from_bytes(head[:length_bytes], "big")
            kind = head[-1] >> form.shift & form.mask
            content = head[length_bytes:]
            if kind in form.sets:
                content = os.pread(file.fileno(), size, offset + length_bytes)
            yield kind, content
            offset += length_bytes + size
