"""The errors of rendering. Only a `MediaError` is about the file."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class MediaError(Exception):
    """`over_limit`: needs too many pixels, memory or time."""

    def __init__(self, reason: str, over_limit: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.over_limit = over_limit


class CommandFailed(MediaError):
    """The reason is what ffmpeg or ffprobe said."""


class ShotError(MediaError):
    def __init__(self, shot: str, reason: str, over_limit: bool = False) -> None:
        super().__init__(f"shot {shot!r}: {reason}", over_limit)
        self.shot = shot


class SandboxUnavailable(Exception):
    """The sandbox cannot start a process."""


class MediaProcessDied(Exception):
    """A signal from outside ended ffmpeg or a decoder, such as the kernel out of memory."""


class ToolUnusable(Exception):
    """ffmpeg or ffprobe is absent or does not start, as during an upgrade."""


class SignerUnusable(Exception):
    """Content credentials cannot be signed, for want of a certificate, its key or the library."""


class Cancelled(Exception):
    """The caller asked to stop."""


class DiskFull(Exception):
    pass


@contextmanager
def explain_disk_full() -> Iterator[None]:
    """Raise DiskFull for a full disk, quota or file size."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"no space left: {error.strerror}") from error
        raise
