"""Videos to posters with libav; in the sandbox, since decoders may crash."""

import errno
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyvips
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from lens_pipeline.media import color, images
from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg.ffprobe import display_size
from lens_pipeline.media.ffmpeg.filters import is_hd
from lens_pipeline.media.ffmpeg.sample_tables import check_samples
from lens_pipeline.media.formats import VIDEO_CODECS, header_error, read_head, video_demuxer
from lens_pipeline.media.frames import Candidate, Chooser
from lens_pipeline.media.models import Poster, PosterSpec

# Other names of decoders for these codecs.
_DECODERS = VIDEO_CODECS | {"libdav1d", "libvpx", "libvpx-vp9"}

# Seconds, seconds between judged frames, and most frames (24 a second).
_BEGINNING_SECONDS = 3.0
_STEP_SECONDS = 0.25
_BEGINNING_FRAMES = 72
# Shares of the duration, and the most frames from a key frame on.
_LATER = (0.3, 0.5, 0.8)
_LATER_FRAMES = 300

_HDR = (color.PQ, color.HLG)
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_SCALER = (
    Interpolation.LANCZOS
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


@dataclass(frozen=True, slots=True)
class _Video:
    container: InputContainer
    stream: av.VideoStream
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
    except InvalidDataError as error:
        raise header_error(source, demuxer) from error


def _render(container: InputContainer, spec: PosterSpec) -> Poster:
    stream = _video_stream(container)
    codec = stream.codec_context
    if codec.width and codec.height:
        images.check_pixels(codec.width, codec.height, 1, spec.max_pixels)
    codec.options = {"max_pixels": str(spec.max_pixels)}
    # Threads would only delay the first frame.
    codec.thread_count = 1
    video = _Video(container, stream, (container.start_time or 0) / av.time_base)
    chosen = _choose(video)
    picture = _upright(_to_srgb(chosen.frame, stream, spec), chosen.frame)
    return Poster(
        picture=images.encode(picture, spec, _shown_size(chosen.frame, stream)),
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
    return stream


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
    for number, frame in enumerate(_frames(packets)):
        seconds = number / rate if frame.time is None else frame.time - video.start_seconds
        yield Candidate(frame, max(0.0, float(seconds)))


def _frames(packets: Iterator[av.Packet]) -> Iterator[av.VideoFrame]:
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:
            # The file is cut off here.
            return
        if packet is None:
            return
        try:
            decoded = packet.decode()
        except FFmpegError as error:
            if error.errno == errno.ENOMEM:
                raise
            continue
        yield from (frame for frame in decoded if isinstance(frame, av.VideoFrame))


def _duration(video: _Video, chosen: Candidate) -> float:
    """The container's or the stream's, else of the last packet."""
    if video.duration_seconds:
        return video.duration_seconds
    if video.stream.duration and video.stream.time_base:
        return float(video.stream.duration * video.stream.time_base)
    end = chosen.seconds
    try:
        video.container.seek(0)
        for packet in video.container.demux(video.stream):
            if packet.pts is not None and packet.time_base is not None:
                stop = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                end = max(end, stop - video.start_seconds)
    except FFmpegError:
        # The file is cut off here.
        return end
    return end


def _to_srgb(frame: av.VideoFrame, stream: av.VideoStream, spec: PosterSpec) -> pyvips.Image:
    """Square pixels, not yet upright."""
    images.check_pixels(frame.width, frame.height, 1, spec.max_pixels)
    width, height = _fit(frame, stream, spec.largest_edge)
    is_hdr = frame.color_trc in _HDR
    scaled = frame.reformat(
        width=width,
        height=height,
        format="rgb48le" if is_hdr else "rgb24",
        interpolation=_SCALER,
        src_colorspace=_matrix(frame),
        dst_color_range=ColorRange.JPEG,
    ).to_ndarray()
    if is_hdr:
        scaled = color.to_srgb(scaled.astype(np.uint16), frame.color_trc)
    return pyvips.Image.new_from_array(np.ascontiguousarray(scaled), interpretation="srgb")


def _matrix(frame: av.VideoFrame) -> Colorspace:
    known = _MATRICES.get(frame.colorspace)
    if known is not None:
        return known
    if frame.color_trc in _HDR:
        return Colorspace.BT2020
    # FFmpeg takes BT.601 for HD, too.
    return Colorspace.ITU709 if is_hd(frame.width, frame.height) else Colorspace.ITU601


def _fit(frame: av.VideoFrame, stream: av.VideoStream, longest_edge: int) -> tuple[int, int]:
    """With square pixels, not enlarged."""
    width, height = _shown_size(frame, stream)
    scale = min(Fraction(1), longest_edge / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _shown_size(frame: av.VideoFrame, stream: av.VideoStream) -> tuple[int, int]:
    """With square pixels."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width, height = display_size(frame.width, frame.height, aspect)
    return round(width), round(height)


def _upright(picture: pyvips.Image, frame: av.VideoFrame) -> pyvips.Image:
    """Apply quarter turns and mirroring of cameras."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return picture
    matrix = np.frombuffer(bytes(side_data), dtype=np.int32)
    a, b, _, c, d = (int(number) for number in matrix[:5])
    if a * d - b * c < 0:
        picture = picture.fliphor()
        a, b = -a, -b
    if abs(b) > abs(a):
        return picture.rot("d90" if b > 0 else "d270")
    return picture.rot("d180") if a < 0 else picture
