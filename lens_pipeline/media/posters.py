"""Videos to posters with libav; in the sandbox, since decoders may crash."""

import errno
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import pyvips
from av.container import InputContainer
from av.error import EOFError as EndOfFile
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition

from lens_pipeline.media import images, stills
from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg.sample_tables import ENCRYPTED, check_samples
from lens_pipeline.media.formats import VIDEO_CODECS, header_error, read_head, video_demuxer
from lens_pipeline.media.frames import Candidate, Chooser
from lens_pipeline.media.models import Poster, PosterSpec

# Other names of decoders for these codecs.
_DECODERS = VIDEO_CODECS | {"libdav1d", "libvpx", "libvpx-vp9"}
# FFmpeg's own ones leave out the transparency of WebM.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}

# Seconds, seconds between judged frames, and most frames (24 a second).
_BEGINNING_SECONDS = 3.0
_STEP_SECONDS = 0.25
_BEGINNING_FRAMES = 72
# Shares of the duration, and the most frames from a key frame on.
_LATER = (0.3, 0.5, 0.8)
_LATER_FRAMES = 300

# A Matroska file that starts later, in seconds, may state its end for its length.
_LATE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Video:
    container: InputContainer
    stream: av.VideoStream
    decoder: av.VideoCodecContext
    start_seconds: float  # of the first packet, which players show as 0

    @property
    def duration_seconds(self) -> float | None:
        """As the container states it."""
        return self.container.duration / av.time_base if self.container.duration else None


def render_poster(source: Path, spec: PosterSpec) -> Poster:
    """Render a poster of an MP4, QuickTime, WebM or Matroska file.

    Raises MediaError: another kind, no video, nothing to decode, or over the pixel limit.
    """
    demuxer = video_demuxer(read_head(source))
    try:
        with _open(source, demuxer) as container:
            return _render(container, spec)
    except FFmpegError as error:
        if error.errno == errno.ENOMEM:
            raise MediaError("video needs more memory than allowed", over_limit=True) from error
        raise MediaError(f"video is damaged: {error.strerror}") from error
    except pyvips.Error as error:
        raise MediaError(f"poster cannot be encoded: {error}") from error


def _open(source: Path, demuxer: str) -> InputContainer:
    if demuxer == "mov":
        check_samples(source)
    try:
        return av.open(
            f"file:{source.resolve()}",
            format=demuxer,
            options={"protocol_whitelist": "file"},
            # The encoding of names must not matter.
            metadata_errors="replace",
        )
    except (InvalidDataError, EndOfFile) as error:
        raise header_error(source, demuxer) from error


def _render(container: InputContainer, spec: PosterSpec) -> Poster:
    stream = _video_stream(container)
    codec = stream.codec_context
    if codec.width and codec.height:
        images.check_pixels(codec.width, codec.height, 1, spec.max_pixels)
    decoder = _decoder(stream)
    decoder.options = {"max_pixels": str(spec.max_pixels)}
    # Threads would only delay the first frame.
    decoder.thread_count = 1
    video = _Video(container, stream, decoder, (container.start_time or 0) / av.time_base)
    chosen = _choose(video)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    picture = stills.render(chosen.frame, aspect, spec)
    size = stills.shown_size(chosen.frame, aspect)
    return Poster(
        picture=images.encode(picture, spec, size),
        duration_seconds=_duration(video, chosen),
        poster_at_seconds=chosen.seconds,
    )


def _video_stream(container: InputContainer) -> av.VideoStream:
    covers = Disposition.attached_pic
    stream = next((each for each in container.streams.video if not each.disposition & covers), None)
    if stream is None:
        raise MediaError("no video track" + (", only audio" if container.streams.audio else ""))
    name = stream.codec_context.name if stream.codec_context else "an unknown codec"
    if name not in _DECODERS:
        raise MediaError(f"video is coded with {name}, which is not supported")
    if "enc_key_id" in stream.metadata:
        raise MediaError(ENCRYPTED)
    return stream


def _decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    own = stream.codec_context
    name = _ALPHA_DECODERS.get(own.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return own
    return cast("av.VideoCodecContext", av.CodecContext.create(name, "r"))


def _choose(video: _Video) -> Candidate:
    chooser = Chooser()
    chooser.watch(_beginning(video))
    for seconds in [share * (video.duration_seconds or 0.0) for share in _LATER]:
        if chooser.usable is not None or not seconds:
            break
        found = _frame_at(video, seconds)
        if found is not None:
            chooser.consider(found)
    if chooser.any is None:
        raise MediaError("no frame of the video can be decoded")
    return chooser.any


def _beginning(video: _Video) -> Iterator[Candidate]:
    """About four frames a second."""
    due = 0.0
    for candidate in itertools.islice(_decode(video), _BEGINNING_FRAMES):
        if candidate.seconds >= due:
            yield candidate
            due = candidate.seconds + _STEP_SECONDS
        if candidate.seconds > _BEGINNING_SECONDS:
            return


def _frame_at(video: _Video, seconds: float) -> Candidate | None:
    try:
        video.container.seek(round((video.start_seconds + seconds) * av.time_base))
    except FFmpegError:
        # The file has no index, or ends before.
        return None
    video.decoder.flush_buffers()
    last = None
    for candidate in itertools.islice(_decode(video), _LATER_FRAMES):
        last = candidate
        if candidate.seconds >= seconds:
            break
    return last


def _decode(video: _Video) -> Iterator[Candidate]:
    """Damaged packets are skipped."""
    packets = video.container.demux(video.stream)
    rate = video.stream.average_rate or Fraction(25)
    for number, frame in enumerate(_frames(packets, video.decoder)):
        seconds = number / rate if frame.time is None else frame.time - video.start_seconds
        yield Candidate(frame, max(0.0, float(seconds)))


def _frames(packets: Iterator[av.Packet], decoder: av.VideoCodecContext) -> Iterator[av.VideoFrame]:
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:
            # The file is cut off here.
            return
        if packet is None:
            return
        try:
            decoded = decoder.decode(packet)
        except FFmpegError as error:
            if error.errno == errno.ENOMEM:
                raise
            continue
        yield from decoded


def _duration(video: _Video, chosen: Candidate) -> float:
    """The container's or the stream's, else of the last packet."""
    stated = video.duration_seconds or 0.0
    is_matroska = video.container.format.name.startswith("matroska")
    if stated and not (is_matroska and video.start_seconds > _LATE_SECONDS):
        return stated
    if video.stream.duration and video.stream.time_base:
        return float(video.stream.duration * video.stream.time_base)
    return _last_end(video, stated) or stated or chosen.seconds


def _last_end(video: _Video, near_seconds: float) -> float:
    """Of the packets from about `near_seconds` on; 0: there are none."""
    end = 0.0
    try:
        video.container.seek(round(near_seconds * av.time_base))
        for packet in video.container.demux(video.stream):
            if packet.pts is not None and packet.time_base is not None:
                stop = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                end = max(end, stop - video.start_seconds)
    except FFmpegError:
        # The file is cut off here.
        return end
    return end
