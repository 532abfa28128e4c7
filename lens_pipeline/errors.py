"""What can go wrong with one file, and whether trying again can help."""

from dataclasses import dataclass


class LensError(Exception):
    """Something that people can mend: told in one line that says how, without a traceback."""


class DerivativeError(LensError):
    """One file could not be processed; the rest of its batch is unaffected.

    Subclasses are the `error_class` that people see, so their names say what happened.
    """

    permanent = True
    # The fault of our own set-up or surroundings: no attempt that counts against the file.
    blameless = False


class TransientError(DerivativeError):
    """Worth trying again: the fault lies in the moment, not in the file."""

    permanent = False


class UnsafeAddress(DerivativeError):
    """The URL leads to an address that is not public, or is no http(s) URL at all."""


class SourceMissing(DerivativeError):
    """The source does not exist (404, 410, no such object, empty `asset_url`)."""


class SourceRefused(DerivativeError):
    """The server refuses to hand the source out (401, 403 and other final 4xx)."""


class SourceTooLarge(DerivativeError):
    """The source has more bytes than LENS_MAX_SOURCE_BYTES."""


class SourceUnavailable(TransientError):
    """The source could not be read now: time-out, broken connection, 5xx, 429."""

    def __init__(self, reason: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class StoreUnavailable(TransientError):
    """The object store could not be read or written now."""

    blameless = True


class DiskFull(TransientError):
    """No room for the source in the scratch directory."""

    blameless = True


class SourceUnreadable(DerivativeError):
    """The bytes are not a picture or video that can be decoded."""


class SourceOverLimit(DerivativeError):
    """Decoding would need more pixels, frames, memory or time than allowed."""


class InvalidRow(DerivativeError):
    """The application's row cannot be used as it is."""


class ShotUnusable(DerivativeError):
    """A shot of a master cannot be used; the reason names it."""


class NotReady(TransientError):
    """What it is to be made from is not there yet."""

    blameless = True


class EncoderDied(TransientError):
    """ffmpeg was ended from outside."""


class EncoderUnusable(TransientError):
    """ffmpeg or ffprobe is absent on the worker's machine, or does not start."""

    blameless = True


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed file as it is recorded in the event log."""

    error: str
    error_class: str
    permanent: bool
    blameless: bool = False

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describe `error`; anything that is not a `DerivativeError` counts as transient.

        An unforeseen exception says nothing about the file, so it is retried up to the limit
        rather than given up on at once.
        """
        permanent = error.permanent if isinstance(error, DerivativeError) else False
        reason = " ".join(str(error).split()) or type(error).__name__
        blameless = isinstance(error, DerivativeError) and error.blameless
        return cls(reason[:500], type(error).__name__, permanent, blameless)


def first_line(error: BaseException) -> str:
    """The first line of its message, the driver's own of one by SQLAlchemy; else its class."""
    lines = str(getattr(error, "orig", error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
