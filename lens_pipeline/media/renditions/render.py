"""Renders pieces of one master: those that share frames come from one decode of them."""

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from lens_pipeline.media.concat import bitstream
from lens_pipeline.media.concat.mp4 import read_track
from lens_pipeline.media.errors import DiskFull, MediaError, MediaProcessDied
from lens_pipeline.media.ffmpeg import filters
from lens_pipeline.media.ffmpeg.run import Work, run_long
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.models import Rendition, ScaleSpec
from lens_pipeline.media.renditions import graph
from lens_pipeline.media.renditions.film import Film, key_frames, probe_film
from lens_pipeline.media.renditions.plan import Pass, Piece, Strip, passes, piece_of
from lens_pipeline.media.renditions.verify import (
    Packet,
    check_piece,
    check_same,
    check_strips,
    check_times,
    packets_of,
)

logger = logging.getLogger(__name__)

# Of the work on a piece; the rest is to cut, to check and to store it.
_ENCODED_SHARE = 0.9
# After which a pass is not run again: its pieces are made one by one.
_PASS_ERRORS = (MediaError, DiskFull, MediaProcessDied)


def render_scaled(master: Path, spec: ScaleSpec, tools: Tools, work: Work) -> Rendition:
    """Render a part of a master MP4 with constant frame rate, as H.264 and AAC, and verify it.

    Frame n is in it if `start_seconds` <= n / rate < `end_seconds`, with times as exact fractions.
    Raises MediaError: the part or the size is impossible, or the master cannot be read; and what
    `run_long` raises.
    """
    return Renditions(master, [spec], tools, work).render(0)


@dataclass(frozen=True, slots=True)
class _Reel:
    """A video without sound that was checked."""

    path: Path
    packets: Sequence[Packet]
    is_copied: bool = False


class Renditions:
    """Of one master, by number. Thread-safe.

    `render` makes what several share when the first of them is asked for.
    """

    def __init__(self, master: Path, specs: Sequence[ScaleSpec], tools: Tools, work: Work) -> None:
        """Raises MediaError: the master cannot be read."""
        self._tools, self._work = tools, work
        self._film = probe_film(master, tools)
        self._pieces: dict[int, Piece] = {}
        self._errors: dict[int, MediaError] = {}
        for number, spec in enumerate(specs):
            try:
                self._pieces[number] = piece_of(number, spec, self._film)
            except MediaError as error:
                self._errors[number] = error
        pieces = self._pieces.values()
        self._copied = _copied(pieces, self._film, tools, work)
        planned = passes((one for one in pieces if one not in self._copied), self._film)
        shared = [_Shared(self, one) for one in planned]
        self._shared = {piece: one for one in shared for piece in one.wanted.pieces}
        self._lock, self._encoding = threading.Lock(), threading.Lock()
        self._sounds = {cut: threading.Lock() for cut in {piece.cut for piece in pieces}}
        # Of files that several use.
        self._users = Counter(file for piece in pieces for file in self._files(piece))
        # Of the work on each.
        self._shares = [0.0] * len(specs)

    def render(self, number: int) -> Rendition:
        """Verified. Raises as `render_scaled`."""
        try:
            if number in self._errors:
                raise self._errors[number]
            piece = self._pieces[number]
            try:
                with filters.explain_missing_filter():
                    return self._cut(piece, *self._reel(piece))
            finally:
                self._leave(self._files(piece))
        finally:
            self._report([number], 1)

    def encoded(self, wanted: Pass) -> dict[Strip, _Reel]:
        """One decode makes all strips. Raises as `render_scaled`, and leaves no strip then."""
        files = [self._strip_file(strip) for strip in wanted.strips]
        with contextlib.ExitStack() as failed:
            for file in files:
                failed.callback(file.unlink, missing_ok=True)
            reels = self._checked(wanted, files)
            failed.pop_all()
        return reels

    def _checked(self, wanted: Pass, files: Sequence[Path]) -> dict[Strip, _Reel]:
        seconds = float(len(wanted.span) / self._film.rate)
        command = graph.strips_command(self._film, wanted, files, self._tools)
        with self._encoding:
            run_long(command, seconds, "scaling", self._followed(wanted))
        check = self._work if len(self._shares) == 1 else self._quiet
        check_strips(files, seconds, self._tools, check)
        reels: dict[Strip, _Reel] = {}
        for strip, file in zip(wanted.strips, files, strict=True):
            packets = packets_of(file, seconds, self._tools, self._work)
            if len(packets) != len(strip.span):
                raise MediaError(
                    f"the rendition has {len(packets)} frames instead of {len(strip.span)}"
                )
            check_times(packets, float(1 / self._film.rate))
            reels[strip] = _Reel(file, packets)
        return reels

    def _reel(self, piece: Piece) -> tuple[_Reel, int]:
        """A video, and its frame with which the piece begins."""
        is_copied = piece in self._copied
        failures = MediaError if is_copied else _PASS_ERRORS
        try:
            if is_copied:
                return self._copy(piece), 0
            return self._shared[piece].reel(piece)
        except failures as error:
            if not is_copied and len(self._shared[piece].wanted.pieces) == 1:
                raise
            # Another piece may be at fault, or it takes less memory and disk.
            logger.info("a rendition is made alone: %s", error)
        alone = _alone(piece)
        return self.encoded(Pass([alone]))[alone], 0

    def _copy(self, piece: Piece) -> _Reel:
        """Raises MediaError: the packets alone do not show it."""
        path = self._copy_file(piece)
        begins = self._film.start + piece.cut.start / self._film.rate
        frames, seconds = len(piece.cut), float(len(piece.cut) / self._film.rate)
        command = graph.piece_command(self._film.path, begins, frames, None, path, self._tools)
        run_long(command, seconds, "scaling", self._quiet)
        # Its first frame needs none before it.
        if not bitstream.is_self_contained(read_track(path), [0], self._work.cancelled):
            raise MediaError("its first frame needs frames before it")
        packets = packets_of(path, seconds, self._tools, self._work)
        if isinstance(whole := self._film_packets, MediaError):
            raise whole
        check_same(packets, _from(whole, piece.cut.start, self._film.rate))
        check_times(packets, float(1 / self._film.rate))
        check_strips([path], seconds, self._tools, self._quiet)
        return _Reel(path, packets, is_copied=True)

    def _cut(self, piece: Piece, reel: _Reel, first: int) -> Rendition:
        (width, height), frames, rate = piece.look.size, len(piece.cut), self._film.rate
        name = f"rendition-{width}x{height}-{piece.cut.start}-{frames}"
        if len(self._shares) > 1:
            name += f"-{piece.number}"
        path = self._work.directory / f"{name}.mp4"
        rendition = Rendition(path, width, height, float(frames / rate), frames, reel.is_copied)
        sound = self._sound(piece.cut) if self._film.has_audio else None
        command = graph.piece_command(
            reel.path, Fraction(first) / rate, frames, sound, path, self._tools
        )
        run_long(command, rendition.duration_seconds, "scaling", self._quiet)
        packets = _from(reel.packets, first, rate)
        check_piece(rendition, packets, sound is not None, self._tools, self._work)
        return rendition

    def _sound(self, cut: range) -> Path:
        """Formats of one cut share it."""
        path = self._sound_file(cut)
        with self._sounds[cut]:
            if not path.exists():
                draft = path.with_suffix(".draft")
                command = graph.sound_command(self._film, cut, draft, self._tools)
                run_long(command, float(len(cut) / self._film.rate), "scaling", self._quiet)
                draft.rename(path)
        return path

    def _strip_file(self, strip: Strip) -> Path:
        first, count = strip.pieces[0].number, len(strip.pieces)
        return self._work.directory / f"strip-{first}-{count}.mp4"

    def _copy_file(self, piece: Piece) -> Path:
        return self._work.directory / f"copy-{piece.number}.mp4"

    def _files(self, piece: Piece) -> list[Path]:
        """Of which it may be cut."""
        is_copied = piece in self._copied
        strip = None if is_copied else self._shared[piece].strip_of(piece)
        video = self._strip_file(strip) if strip else self._copy_file(piece)
        return [video, self._strip_file(_alone(piece)), self._sound_file(piece.cut)]

    def _sound_file(self, cut: range) -> Path:
        return self._work.directory / f"sound-{cut.start}-{len(cut)}.m4a"

    def _leave(self, files: Iterable[Path]) -> None:
        """Removes what no other piece needs."""
        with self._lock:
            for file in files:
                self._users[file] -= 1
                if not self._users[file]:
                    file.unlink(missing_ok=True)

    @cached_property
    def _film_packets(self) -> Sequence[Packet] | MediaError:
        """An error is kept: the next piece would wait for it as long."""
        seconds = float(self._film.seconds)
        try:
            return packets_of(self._film.path, seconds, self._tools, self._work)
        except MediaError as error:
            return error

    @property
    def _quiet(self) -> Work:
        return replace(self._work, report=lambda _stage, _share: None)

    def _followed(self, wanted: Pass) -> Work:
        """Reports the share of all pieces."""
        if len(self._shares) == 1:
            return self._work
        numbers = [piece.number for piece in wanted.pieces]
        return replace(
            self._work,
            report=lambda _stage, share: self._report(numbers, share * _ENCODED_SHARE),
        )

    def _report(self, numbers: Iterable[int], share: float) -> None:
        """Of these pieces, `share` of the work is done at least."""
        if len(self._shares) == 1:
            return
        with self._lock:
            for number in numbers:
                self._shares[number] = max(self._shares[number], share)
            text = f"scaling: {self._shares.count(1)} of {len(self._shares)} are done"
            done = sum(self._shares) / len(self._shares)
        self._work.report(text, done)


class _Shared:
    """A pass that is run once, by the first piece that needs it."""

    def __init__(self, renditions: Renditions, wanted: Pass) -> None:
        self.wanted = wanted
        self._renditions = renditions
        self._lock = threading.Lock()
        self._reels: dict[Strip, _Reel] = {}
        self._error: Exception | None = None

    def strip_of(self, piece: Piece) -> Strip:
        return next(strip for strip in self.wanted.strips if piece in strip.pieces)

    def reel(self, piece: Piece) -> tuple[_Reel, int]:
        """Raises as `encoded`: the pass failed, which says nothing of this piece."""
        with self._lock:
            if self._error:
                raise self._error
            if not self._reels:
                try:
                    self._reels = self._renditions.encoded(self.wanted)
                except _PASS_ERRORS as error:
                    self._error = error
                    raise
        strip = self.strip_of(piece)
        return self._reels[strip], piece.cut.start - strip.span.start


def _alone(piece: Piece) -> Strip:
    return Strip(piece.look, piece.cut, (piece,))


def _copied(pieces: Iterable[Piece], film: Film, tools: Tools, work: Work) -> set[Piece]:
    """Those of which a copy of packets shows all frames and no other."""
    alike = [
        piece
        for piece in pieces
        if film.is_usual
        and piece.look.part is None
        and piece.look.size == (film.width, film.height)
    ]
    if not alike:
        return set()
    order, keys = key_frames(film, tools, work)
    places = {frame: place for place, frame in enumerate(order)}
    return {
        piece
        for piece in alike
        if piece.cut.start in keys
        and len(order) == film.frames
        and set(order[(first := places[piece.cut.start]) : first + len(piece.cut)])
        == set(piece.cut)
    }


def _from(packets: Sequence[Packet], first: int, rate: Fraction) -> Sequence[Packet]:
    """From the key frame on that is shown as number `first`."""
    at = min(one.time for one in packets) + float(first / rate)
    (start,) = (n for n, one in enumerate(packets) if abs(one.time - at) < 0.5 / rate)
    return packets[start:]
