"""Makes a master: examines, copies or encodes shots, joins them, verifies the result."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from lens_pipeline.media.concat import audio, bitstream, decode, encode, mux, verify
from lens_pipeline.media.concat.parallel import run_all
from lens_pipeline.media.concat.plan import (
    Action,
    Compatibility,
    Decision,
    Method,
    Plan,
    encode_all,
    make_plan,
)
from lens_pipeline.media.concat.probe import Shot, probe
from lens_pipeline.media.errors import MediaError, ShotError, explain_disk_full
from lens_pipeline.media.ffmpeg.run import Work, file_input, run_long
from lens_pipeline.media.ffmpeg.tools import Tools

# Raise it when `Shot` or its meaning changes.
_FACTS_VERSION = 3
# Packets of the next shot that are decoded, and of the last group before it if that may be short.
_PACKETS_BESIDE_JOIN = 4


@dataclass(frozen=True, slots=True)
class Source:
    name: str  # for messages
    path: Path
    sha256: str
    is_quiet: bool = False  # its sound keeps its level


@dataclass(frozen=True, slots=True)
class Limits:
    pixels: int | None = None  # in a frame
    seconds: float | None = None  # of all shots: a small file may promise days


_NO_LIMITS = Limits()


class Pieces(Protocol):
    """A cache for later masters, under short safe names."""

    def find(self, key: str) -> Path | None: ...

    def keep(self, key: str, file: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class ShotReport:
    name: str
    action: Action
    reason: str
    seconds: float  # in the master
    cached: bool  # whether an earlier encoding or examination was used
    gain: float  # of its sound, dB


@dataclass(frozen=True, slots=True)
class Master:
    """H.264, or the codec of all shots, and stereo AAC."""

    path: Path
    method: Method
    shots: tuple[ShotReport, ...]
    duration_seconds: float
    frames: int
    width: int  # as shown, with square pixels
    height: int
    fallback: str | None  # why the first result was discarded


@dataclass(frozen=True, slots=True)
class _Prepared:
    number: int
    source: Source
    shot: Shot
    stored: Shot | None  # what the cache knows of it

    @property
    def cached(self) -> bool:
        return self.stored is not None


@dataclass(frozen=True, slots=True)
class _Piece:
    part: mux.Part
    shot: Shot  # of the piece; if copied, of its source
    cached: bool


class _FramesDropped(Exception):
    """By SHA-256 of a shot: the key frame for which it cannot be copied, as in `Shot`."""

    def __init__(self, keys: Mapping[str, int]) -> None:
        self.keys = keys


class _VerificationFailed(Exception):
    """A result is wrong, and no shot is to blame."""


def join(
    sources: Sequence[Source],
    tools: Tools,
    work: Work,
    pieces: Pieces | None = None,
    limits: Limits = _NO_LIMITS,
    compatibility: Compatibility = "source",
    loudness: float | None = None,
) -> Master:
    """Join `sources`, in order, into an MP4 in `work.directory`.

    Video that matches most shots, and is fit for players of `compatibility`, is copied bit for bit,
    the rest encoded to match. Audio is cut or padded to its video, and brought to `loudness` LUFS;
    None: it keeps its level. If verification fails, all shots are encoded.

    Raises ShotError: a shot is no video, damaged, over a limit, or cannot be encoded. MediaError:
    no sources, too long together, or verification failed. MediaProcessDied, Cancelled, DiskFull.
    """
    if not sources:
        raise MediaError("a master needs at least one shot")
    store = pieces or _WriteOnly(None)
    prepared = _examine_all(sources, tools, work, store)
    for each in prepared:
        _refuse_large(each.source, each.shot, limits)
    total = float(sum(each.shot.length for each in prepared))
    if limits.seconds is not None and total > limits.seconds:
        raise MediaError(
            f"the shots last {total:.0f} s together, over the limit of {limits.seconds:g} s",
            over_limit=True,
        )
    while True:
        prepared, plan = _plan(prepared, compatibility, tools, work)
        try:
            return _Attempt(prepared, plan, tools, work, store, loudness).run(None)
        except _FramesDropped as found:
            prepared = [_with_dropped(each, found.keys) for each in prepared]
        except _VerificationFailed as failure:
            reason = str(failure)
            break
    shots = [each.shot for each in prepared]
    plan = encode_all(shots, f"verification failed: {reason}", compatibility)
    try:
        # Earlier results may be wrong.
        again = _Attempt(prepared, plan, tools, work, _WriteOnly(store), loudness)
        return again.run(reason)
    except _VerificationFailed as failure:
        raise MediaError(f"the master cannot be verified: {failure}") from failure


def examine(
    source: Source, tools: Tools, work: Work, pieces: Pieces, limits: Limits = _NO_LIMITS
) -> Shot:
    """Probe and decode a shot, and keep the facts for later.

    Raises what `join` raises: also what an encoding would.
    """
    known = _stored_facts(pieces, _facts_key(source))
    if known is not None and known.is_examined:
        return known
    shot = known or _probe(source, tools, work)
    _refuse_large(source, shot, limits)
    if not shot.frame_hashes:
        shot = _decoded(source, shot, tools, work)
    try:
        if shot.audio:
            shot = replace(shot, audio=audio.measure(source.path, shot, shot.audio, tools, work))
        encode.check(source.path, shot, encode_all([shot], "", "web").target, tools, work)
    except MediaError as error:
        raise ShotError(source.name, error.reason, error.over_limit) from error
    shot = replace(shot, is_examined=True)
    _keep_facts(_facts_key(source), shot, work, pieces)
    return shot


@dataclass(frozen=True, slots=True)
class _WriteOnly:
    """Finds nothing, but keeps what is new."""

    store: Pieces | None

    def find(self, key: str) -> Path | None:
        return None

    def keep(self, key: str, file: Path) -> None:
        if self.store is not None:
            self.store.keep(key, file)


def _examine_all(
    sources: Sequence[Source], tools: Tools, work: Work, store: Pieces
) -> list[_Prepared]:
    def prepare(number: int, source: Source, work: Work) -> _Prepared:
        work.report(f"checking shot {number + 1} of {len(sources)}", 0.0)
        known = _stored_facts(store, _facts_key(source))
        return _Prepared(number, source, known or _probe(source, tools, work), known)

    tasks = [partial(prepare, number, source) for number, source in enumerate(sources)]
    return run_all(tasks, work)


def _plan(
    prepared: Sequence[_Prepared], compatibility: Compatibility, tools: Tools, work: Work
) -> tuple[list[_Prepared], Plan]:
    """Decode what is to be copied: a shot of which not all is shown changes the plan."""
    prepared = list(prepared)
    while True:
        plan = make_plan(_planned(prepared), compatibility)
        unseen = {
            each.source.sha256: each
            for each, decision in zip(prepared, plan.decisions, strict=True)
            if decision.action == "copy" and not each.shot.frame_hashes
        }
        if not unseen:
            return prepared, plan
        tasks = [partial(_decoded, each.source, each.shot, tools) for each in unseen.values()]
        shots = dict(zip(unseen, run_all(tasks, work), strict=True))
        prepared = [
            replace(each, shot=shots.get(each.source.sha256, each.shot)) for each in prepared
        ]


def _with_dropped(each: _Prepared, keys: Mapping[str, int]) -> _Prepared:
    key = keys.get(each.source.sha256, each.shot.drops_prior)
    return replace(each, shot=replace(each.shot, drops_prior=key))


def _planned(prepared: Sequence[_Prepared]) -> list[Shot]:
    first, *others = (each.shot for each in prepared)
    # Nothing is before it.
    return [replace(first, drops_prior=first.drops_prior or None), *others]


def _probe(source: Source, tools: Tools, work: Work) -> Shot:
    try:
        return probe(source.path, tools, work)
    except MediaError as error:
        raise ShotError(source.name, error.reason, error.over_limit) from error


def _facts_key(source: Source) -> str:
    return f"{source.sha256}-{_FACTS_VERSION}.json"


def _stored_facts(store: Pieces, key: str) -> Shot | None:
    file = store.find(key)
    if file is None:
        return None
    try:
        return Shot.from_json(file.read_text("utf-8"))
    except (ValueError, KeyError, TypeError):  # another version wrote it
        return None


class _Attempt:
    def __init__(
        self,
        prepared: Sequence[_Prepared],
        plan: Plan,
        tools: Tools,
        work: Work,
        store: Pieces,
        loudness: float | None,
    ) -> None:
        self._prepared = prepared
        self._plan = plan
        self._tools = tools
        self._work = work
        self._store = store
        self._loudness = loudness
        self._rate = plan.target.frame_rate
        if plan.method != "encode":
            copied = self._numbers("copy")[0]
            self._rate = prepared[copied].shot.signature.frame_rate
        frames = [
            each.shot.frames
            if decision.action == "copy"
            else encode.frames_at(each.shot, self._rate)
            for each, decision in zip(prepared, plan.decisions, strict=True)
        ]
        self._firsts = list(itertools.accumulate(frames, initial=0))

    def run(self, fallback: str | None) -> Master:
        """Raises _FramesDropped and _VerificationFailed, besides what `join` raises."""
        tasks = [partial(self._unpack, each) for each in self._prepared]
        tracks, self._prepared = zip(*run_all(tasks, self._work), strict=True)
        encodings = self._numbers("encode")
        pieces = {number: self._copied(number) for number in self._numbers("copy")}
        self._check_output(pieces)
        seconds = [float(self._prepared[number].shot.length) for number in encodings]
        encoded = run_all(
            [partial(self._encode, number) for number in encodings], self._work, seconds
        )
        pieces |= zip(encodings, encoded, strict=True)
        parts = [pieces[number].part for number in range(len(self._prepared))]
        checks = self._checks(parts)
        audio_file, *_ = run_all([partial(self._encode_audio, tracks), *checks], self._work)
        master = self._work.directory / "master.mp4"
        self._work.report("joining", 0.0)
        try:
            mux.write(parts, audio_file, self._rate, master, self._work.cancelled)
            self._work.report("verifying", 0.0)
            verify.check_structure(master, parts, self._rate, self._tools, self._work)
        except MediaError as error:
            master.unlink(missing_ok=True)
            raise _VerificationFailed(error.reason) from error
        for each in self._prepared:
            if each.shot != each.stored:
                _keep_facts(_facts_key(each.source), each.shot, self._work, self._store)
        return self._master(master, pieces, fallback)

    def _numbers(self, action: Action) -> list[int]:
        decisions = enumerate(self._plan.decisions)
        return [number for number, decision in decisions if decision.action == action]

    def _unpack(self, each: _Prepared, work: Work) -> tuple[Path | None, _Prepared]:
        """Its audio as PCM, and its video if that is copied; and what that says of the audio."""
        copies = self._plan.decisions[each.number].action == "copy"
        track = each.shot.audio
        if not copies and track is None:
            return None, each
        outputs: list[str] = []
        if copies:
            outputs += ["-map", f"0:{each.shot.stream}", "-c", "copy", "-f", "mp4"]
            # The encoder's name would change the sample entry.
            outputs += ["-map_metadata", "-1"]
            if each.shot.signature.codec == "hevc":
                # For Apple's players; FFmpeg would choose hev1.
                outputs += ["-tag:v", "hvc1"]
            outputs.append(f"file:{_copy_name(each.number)}")
        pcm = f"audio-{each.number}.pcm"
        if track is not None:
            samples = self._samples(each.number) + 1
            outputs += audio.pcm_options(track.stream, each.shot.start, samples, pcm)
        command = [
            # Audio that does not decode is silent. Copied video is compared with its source.
            *(str(self._tools.ffmpeg), "-y", "-v", "error", "-copyts"),
            *(*file_input(each.source.path.resolve(), each.shot.demuxer), *outputs),
        ]
        stage = f"unpacking shot {each.number + 1} of {len(self._prepared)}"
        try:
            messages = run_long(command, float(each.shot.length), stage, work)
            if track is not None:
                track = replace(track, damaged=track.damaged or audio.is_damaged(messages))
                if self._loudness is not None and track.loudness is None:
                    track = audio.measured(track, work.directory / pcm, self._tools, work)
        except MediaError as error:
            _decoded(each.source, each.shot, self._tools, work)
            reason = error.reason if error.over_limit else audio.UNDECODABLE
            raise ShotError(each.source.name, reason, error.over_limit) from error
        if track is None:
            return None, each
        shot = replace(each.shot, audio=track)
        return work.directory / pcm, replace(each, shot=shot)

    def _samples(self, number: int) -> int:
        first, end = (audio.sample_at(self._firsts[at] / self._rate) for at in (number, number + 1))
        return end - first

    def _copied(self, number: int) -> _Piece:
        each = self._prepared[number]
        file = self._work.directory / _copy_name(number)
        try:
            return _Piece(mux.Part.of(file, each.shot), each.shot, each.cached)
        except MediaError as error:
            reason = f"shot {each.source.name} cannot be copied: {error.reason}"
            raise _VerificationFailed(reason) from error

    def _encode_audio(self, tracks: Sequence[Path | None], work: Work) -> Path | None:
        pieces = [
            audio.Piece(track, self._samples(each.number), self._gain(each))
            for each, track in zip(self._prepared, tracks, strict=True)
        ]
        return audio.encode(pieces, "audio.mp4", self._tools, work)

    def _gain(self, each: _Prepared) -> float:
        """In dB."""
        if self._loudness is None or each.source.is_quiet:
            return 0.0
        return audio.gain(each.shot.audio, self._loudness)

    def _encode(self, number: int, work: Work) -> _Piece:
        each = self._prepared[number]
        key = encode.identity(each.source.sha256, self._plan.target)
        file, facts = self._store.find(f"{key}.mp4"), _stored_facts(self._store, f"{key}.json")
        if file is not None and facts is not None:
            # A piece damaged in the store is made again.
            with contextlib.suppress(MediaError):
                return _Piece(mux.Part.of(file, facts), facts, cached=True)
        stage, output = f"encoding shot {each.source.name}", f"encoded-{number}.mp4"
        shot, target = each.shot, self._plan.target
        try:
            file = encode.encode(each.source.path, shot, target, output, stage, self._tools, work)
        except MediaError as error:
            _decoded(each.source, shot, self._tools, work)
            raise ShotError(each.source.name, error.reason, error.over_limit) from error
        facts = self._check_encoded(each, number, file, work)
        # At once: an attempt that is interrupted loses no shot.
        self._store.keep(f"{key}.mp4", file)
        _keep_facts(f"{key}.json", facts, work, self._store)
        return _Piece(mux.Part.of(file, facts), facts, cached=False)

    def _check_encoded(self, each: _Prepared, number: int, file: Path, work: Work) -> Shot:
        """Raise _VerificationFailed unless all its frames are there and shown."""
        name = each.source.name
        facts = probe(file, self._tools, work)
        try:
            hashes = _hashes(file, facts, f"checking encoded shot {name}", self._tools, work)
        except decode.DecodeError as error:
            if error.over_limit:
                raise
            problem = f"shot {name} does not decode when encoded: {error.reason}"
            raise _VerificationFailed(problem) from error
        wanted = self._firsts[number + 1] - self._firsts[number]
        if not facts.frames == len(hashes) == wanted:
            raise _VerificationFailed(f"shot {name} has a wrong number of frames when encoded")
        return replace(facts, frame_hashes=hashes)

    def _checks(self, parts: Sequence[mux.Part]) -> list[Callable[[Work], None]]:
        """Tasks that decode across each join."""
        contained = [self._is_self_contained(part, number) for number, part in enumerate(parts)]
        # The next shot begins after a reset, with the parameter sets that it has alone.
        clean = [number for number, pair in enumerate(pairwise(contained)) if all(pair)]
        rest = [number for number in range(len(parts)) if number not in clean]
        return [
            *([partial(self._check_clean_joins, parts, clean)] if clean else []),
            *(partial(self._check_join, parts, number) for number in rest),
        ]

    def _is_self_contained(self, part: mux.Part, number: int) -> bool:
        # A field may wait for another.
        is_progressive = self._prepared[number].shot.signature.field_order == "progressive"
        keys = (0, part.last_key)
        return is_progressive and bitstream.is_self_contained(
            part.track, keys, self._work.cancelled
        )

    def _check_clean_joins(
        self, parts: Sequence[mux.Part], numbers: Sequence[int], work: Work
    ) -> None:
        """Decode the beginning of each of these shots' last group, and of the next shot.

        One process does it for all; if a frame is not as in its shot, each is checked by itself.
        """
        window: list[mux.Part] = []
        for number in numbers:
            this, following = parts[number : number + 2]
            end = this.last_key + _PACKETS_BESIDE_JOIN
            window += [this.cut(this.last_key, end), following.cut(0, _PACKETS_BESIDE_JOIN)]
        if self._difference(window, parts, "joins", "checking joins", work):
            for number in numbers:
                self._check_join(parts, number, work)

    def _check_join(self, parts: Sequence[mux.Part], number: int, work: Work) -> None:
        """Decode the end of a shot with the beginning of the next."""
        self._check_independence(parts, number, work)
        following = parts[number + 1 : number + 2]
        if not following:
            return
        beginning = following[0].cut(0, _PACKETS_BESIDE_JOIN)
        stage = f"checking shot {number + 1} of {len(parts)}"
        window = [parts[number].cut(parts[number].last_key, None), beginning]
        difference = self._difference(window, parts, str(number), stage, work)
        if not difference:
            return
        for each in self._prepared[number : number + 2]:
            _decoded(each.source, each.shot, self._tools, work)
        name = self._prepared[number].source.name
        raise _VerificationFailed(f"shot {name} and the next are not shown whole: {difference}")

    def _difference(
        self,
        window: Sequence[mux.Part],
        parts: Sequence[mux.Part],
        name: str,
        stage: str,
        work: Work,
    ) -> str:
        """Between the frames that are shown of a window and those of its shots; empty if none.

        Raises _VerificationFailed: the parts do not fit together.
        """
        file = work.directory / f"check-{name}.mp4"
        try:
            mux.write(window, None, self._rate, file, work.cancelled, parts)
        except MediaError as error:
            raise _VerificationFailed(error.reason) from error
        wanted = [frame for part in window for frame in part.frame_hashes]
        seconds = float(len(wanted) / self._rate)
        try:
            shown = decode.frame_hashes(file, "mov", 0, seconds, stage, self._tools, work)
        except decode.DecodeError as error:
            if error.over_limit:
                raise
            return error.reason
        file.unlink()
        if len(shown) != len(wanted):
            return f"{len(shown)} of {len(wanted)} frames are shown"
        return "" if list(shown) == wanted else "their frames differ from the shots'"

    def _check_output(self, copies: Mapping[int, _Piece]) -> None:
        """Raise _FramesDropped: players would drop frames of a copy, or before it.

        _VerificationFailed: unknown.
        """
        keys: dict[str, int] = {}
        for number, piece in copies.items():
            source = self._prepared[number].source
            try:
                key = bitstream.drops_prior(piece.part.track, number == 0, self._work.cancelled)
            except MediaError as error:
                reason = f"shot {source.name} cannot be copied: {error.reason}"
                raise _VerificationFailed(reason) from error
            if key is not None:
                keys[source.sha256] = max(key, keys.get(source.sha256, 0))
        if keys:
            raise _FramesDropped(keys)

    def _check_independence(self, parts: Sequence[mux.Part], number: int, work: Work) -> None:
        """Raise _VerificationFailed: a copy would decode to other pictures."""
        if self._plan.decisions[number].action != "copy":
            return
        following = parts[number + 1].track if number + 1 < len(parts) else None
        try:
            bitstream.check_independence(parts[number].track, following, work.cancelled)
        except MediaError as error:
            name = self._prepared[number].source.name
            raise _VerificationFailed(f"shot {name} cannot be copied: {error.reason}") from error

    def _master(self, file: Path, pieces: Mapping[int, _Piece], fallback: str | None) -> Master:
        if self._plan.method == "encode":
            width, height = self._plan.target.width, self._plan.target.height
        else:
            copied = self._prepared[self._numbers("copy")[0]].shot
            width, height = (round(edge) for edge in copied.display_size)
        reports = tuple(
            ShotReport(
                each.source.name,
                decision.action,
                _reason(decision, each.shot),
                float(pieces[each.number].part.frames / self._rate),
                pieces[each.number].cached,
                self._gain(each),
            )
            for each, decision in zip(self._prepared, self._plan.decisions, strict=True)
        )
        frames = self._firsts[-1]
        return Master(
            path=file,
            method=self._plan.method,
            shots=reports,
            duration_seconds=float(frames / self._rate),
            frames=frames,
            width=width,
            height=height,
            fallback=fallback,
        )


def _reason(decision: Decision, shot: Shot) -> str:
    damaged = shot.audio is not None and shot.audio.damaged
    return f"{decision.reason}; {audio.DAMAGED}" if damaged else decision.reason


def _refuse_large(source: Source, shot: Shot, limits: Limits) -> None:
    width, height = shot.signature.width, shot.signature.height
    if limits.pixels is not None and width * height > limits.pixels:
        reason = f"{width} x {height} pixels are over the limit of {limits.pixels}"
    elif limits.seconds is not None and shot.length > limits.seconds:
        reason = f"its {float(shot.length):.0f} s are over the limit of {limits.seconds:g} s"
    else:
        return
    raise ShotError(source.name, reason, over_limit=True)


def _decoded(source: Source, shot: Shot, tools: Tools, work: Work) -> Shot:
    """The shot with its frames. Raises ShotError, with the time, if the file does not decode."""
    try:
        hashes = _hashes(source.path, shot, f"looking for damage in {source.name}", tools, work)
    except decode.DecodeError as error:
        seconds = float(error.frames / shot.signature.frame_rate)
        reason = f"video is damaged at {seconds:.1f} s"
        raise ShotError(source.name, reason, error.over_limit) from error
    if not hashes:
        raise ShotError(source.name, "video is damaged: none of its frames can be shown")
    return replace(shot, frame_hashes=hashes)


def _hashes(file: Path, shot: Shot, stage: str, tools: Tools, work: Work) -> tuple[str, ...]:
    seconds = float(shot.length)
    return decode.frame_hashes(file, shot.demuxer, shot.stream, seconds, stage, tools, work)


def _keep_facts(key: str, shot: Shot, work: Work, store: Pieces) -> None:
    file = work.directory / f"facts-{threading.get_ident()}.json"
    with explain_disk_full():
        file.write_text(shot.to_json(), "utf-8")
    store.keep(key, file)


def _copy_name(number: int) -> str:
    return f"copied-{number}.mp4"
