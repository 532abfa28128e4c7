"""Dependences between packets of H.264 (7.4.1) and HEVC (H.265, 7.4.2.2)."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lens_pipeline.media.concat import avcc, slices
from lens_pipeline.media.concat.mp4 import Track
from lens_pipeline.media.errors import Cancelled, MediaError

_CHECK_EVERY = 64
# Hold the flags in the header of a slice.
_HEADER_BYTES = 48
# In a packet. H.264 knows 32 SPS and 256 PPS, of about a hundred bytes.
_MOST_SET_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class _Format:
    lengths_at: int
    """Byte of the configuration; its last two bits are the size of a length, less one."""
    shift: int
    mask: int  # of the type in a unit's first byte
    refresh: frozenset[int]  # pictures before which a decoder forgets all
    sets: frozenset[int]  # parameter sets
    pictures: frozenset[int]


_H264 = _Format(4, 0, 0x1F, frozenset({5}), frozenset({7, 8}), frozenset(range(1, 6)))
# Without CRA (21): a decoder forgets nothing at a later one.
_HEVC = _Format(
    21, 1, 0x3F, frozenset(range(16, 21)), frozenset({32, 33, 34}), frozenset(range(32))
)
_FORMATS = {b"avc1": _H264, b"avc3": _H264, b"hvc1": _HEVC, b"hev1": _HEVC}


def check_independence(
    track: Track, following: Track | None, cancelled: Callable[[], bool]
) -> None:
    """Raise MediaError: a shot needs the one before, or `following` would need `track`.

    Decoders would show wrong pictures without an error. Raises Cancelled.
    """
    form = _FORMATS.get(track.entry[4:8])
    if form is None:
        return
    if len(track.configuration) <= form.lengths_at:
        raise MediaError("it has no parameter sets in its header")
    if not any(kind in form.refresh for kind, _ in _nal_units(track, form, 0)):
        raise MediaError("its first frame needs frames before it")
    if following is None or _starts_with_sets(following, form):
        return
    if not _keeps_sets(track, form, cancelled):
        raise MediaError("its parameter sets change on the way")


def seekable(track: Track) -> frozenset[int] | None:
    """The key frames to which players can seek.

    Chromium shows nothing if it seeks to another than an IDR picture of H.264: to one of an open
    group, or of a gradual refresh.
    """
    form = _FORMATS.get(track.entry[4:8])
    if form is None or form is _HEVC or len(track.configuration) <= form.lengths_at:
        return track.keys
    return frozenset(
        number
        for number in _keys(track)
        if any(kind in form.refresh for kind, _ in _nal_units(track, form, number))
    )


def check_output(track: Track, is_first: bool, cancelled: Callable[[], bool]) -> None:
    """Raise MediaError: at one of its key frames, players drop frames that they have not shown.

    Harmless at the very beginning of the first track. Raises Cancelled.
    """
    form = _FORMATS.get(track.entry[4:8])
    keys = _keys(track)[1 if is_first else 0 :]
    if form is None or not keys:
        return
    number = keys[0]
    try:
        sets = _configured_sets(track, form)
        for number in keys:
            if cancelled():
                raise Cancelled("checking")
            if _drops_prior(track, form, number, sets):
                raise MediaError(f"at its key frame {number}, players drop frames before")
    except (IndexError, KeyError, ValueError) as error:
        raise MediaError(f"the header of its key frame {number} cannot be read") from error


def _keys(track: Track) -> Sequence[int]:
    return range(len(track.sizes)) if track.keys is None else sorted(track.keys)


def _configured_sets(track: Track, form: _Format) -> slices.H264Sets | None:
    """None: it is HEVC, the pictures of which need none."""
    if form is _HEVC:
        return None
    configuration = avcc.Configuration.parse(track.configuration)
    sets = slices.H264Sets()
    for unit in (*configuration.sps, *configuration.pps):
        sets.add(unit)
    return sets


def _drops_prior(track: Track, form: _Format, number: int, sets: slices.H264Sets | None) -> bool:
    """Adds the parameter sets of the packet to `sets`."""
    for kind, unit in _nal_units(track, form, number):
        if kind in form.sets and sets:
            sets.add(unit)
        elif kind in form.refresh and (
            slices.h264_drops_prior(unit, sets) if sets else slices.hevc_drops_prior(unit)
        ):
            return True
    return False


def is_self_contained(track: Track, keys: Iterable[int], cancelled: Callable[[], bool]) -> bool:
    """Whether each of the packets `keys` lets a decoder forget all, and no parameter set changes.

    False: it is not so, or unknown. Raises Cancelled.
    """
    form = _FORMATS.get(track.entry[4:8])
    if form is None or len(track.configuration) <= form.lengths_at:
        return False
    try:
        for number in keys:
            kinds = {kind for kind, _ in _nal_units(track, form, number)}
            pictures = kinds & form.pictures
            if not pictures or not pictures <= form.refresh:
                return False
        return _keeps_sets(track, form, cancelled)
    except MediaError:
        return False


def _keeps_sets(track: Track, form: _Format, cancelled: Callable[[], bool]) -> bool:
    """Whether no packet has other parameter sets than the configuration."""
    for number in range(len(track.sizes)):
        if number % _CHECK_EVERY == 0 and cancelled():
            raise Cancelled("checking")
        for kind, unit in _nal_units(track, form, number):
            if kind in form.sets and unit not in track.configuration:
                return False
    return True


def _starts_with_sets(track: Track, form: _Format) -> bool:
    if _FORMATS.get(track.entry[4:8]) != form:
        return False
    return form.sets <= {kind for kind, _ in _nal_units(track, form, 0)}


def _nal_units(track: Track, form: _Format, number: int) -> Iterator[tuple[int, bytes]]:
    """Type and content; of all but parameter sets the beginning.

    Raises MediaError: parameter sets are too large.
    """
    length_bytes = (track.configuration[form.lengths_at] & 3) + 1
    offset = track.offsets[number]
    end = offset + track.sizes[number]
    set_bytes = 0
    with track.file.open("rb") as file:
        while offset + length_bytes < end:
            head = os.pread(file.fileno(), length_bytes + _HEADER_BYTES, offset)
            size = int.from_bytes(head[:length_bytes], "big")
            kind = head[length_bytes] >> form.shift & form.mask
            content = head[length_bytes : length_bytes + size]
            if kind in form.sets:
                set_bytes += size
                if set_bytes > _MOST_SET_BYTES or offset + length_bytes + size > end:
                    raise MediaError("its parameter sets are too large")
                content = os.pread(file.fileno(), size, offset + length_bytes)
            yield kind, content
            offset += length_bytes + size
