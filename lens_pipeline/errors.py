"""What can go wrong with a file or command, and whether another attempt can help."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class LensError(Exception):
    """People see the message in one line, without a traceback."""


class DerivativeError(LensError):
    """One file could not be processed; the subclass's name is stored as `error_class`."""

    permanent = True
    # The surroundings are at fault: the attempt does not count.
    blameless = False


class TransientError(DerivativeError):
    """Another attempt may succeed."""

    permanent = False


class UnsafeAddress(DerivativeError):
    """The address is not public, or no http(s) URL."""


class SourceMissing(DerivativeError):
    """The source does not exist (404, 410, no such object, empty `asset_url`)."""


class SourceRefused(DerivativeError):
    """The server refuses the source (401, 403 and other final 4xx)."""


class SourceTooLarge(DerivativeError):
    """The source has more bytes than LENS_MAX_SOURCE_BYTES."""


class SourceUnavailable(TransientError):
    """The source cannot be read now: time-out, broken connection, 5xx, 429."""

    def __init__(self, reason: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class HostUnreachable(SourceUnavailable):
    """Nothing listens at the source's host, or its name cannot be looked up now."""

    blameless = True


class StoreUnavailable(TransientError):
    """The object store cannot be read or written now."""

    blameless = True


class DiskFull(TransientError):
    """The scratch directory has no room for the source."""

    blameless = True


class SourceUnreadable(DerivativeError):
    """The bytes are no decodable picture or video."""


class ExtraMissing(TransientError):
    """An original is kept, a further result of its task is not yet."""

    def __init__(self, reason: str, metadata: Mapping[str, Any]) -> None:
        super().__init__(reason)
        self.metadata = metadata
        """Of the original's materialization."""


class SourceOverLimit(DerivativeError):
    """Decoding needs more pixels, frames, memory or time than allowed."""


class InvalidRow(DerivativeError):
    """The application's row is not usable."""


class ShotUnusable(DerivativeError):
    """A shot of a master cannot be used; the reason names it."""


class NotReady(TransientError):
    """The source of a derivative does not exist yet."""

    blameless = True


class EncoderDied(TransientError):
    """A signal from outside ended ffmpeg or a decoder, such as the kernel out of memory."""

    blameless = True


class EncoderUnusable(TransientError):
    """ffmpeg, ffprobe or the process of a decoder is absent or does not start."""

    blameless = True


class SigningUnavailable(TransientError):
    """Content credentials cannot be signed now, as with a certificate that has expired."""

    blameless = True


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed file as recorded in the event log."""

    error: str
    error_class: str
    permanent: bool
    blameless: bool = False

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """An unforeseen error counts as transient, up to the limit of attempts.

        Of a file that cannot be opened, the reason leaves out where it is.
        """
        permanent = error.permanent if isinstance(error, DerivativeError) else False
        text = error.strerror if isinstance(error, OSError) else None
        reason = " ".join((text or str(error)).split()) or type(error).__name__
        blameless = isinstance(error, DerivativeError) and error.blameless
        return cls(reason[:500], type(error).__name__, permanent, blameless)


def first_line(error: BaseException) -> str:
    """The first line of the message (for SQLAlchemy, the driver's), else the class."""
    return next(iter(str(getattr(error, "orig", error)).strip().splitlines()), type(error).__name__)
