"""How rendering fails."""


class MediaError(Exception):
    """A file cannot be rendered, now or later: the reason is for people to read.

    `over_limit` tells a file that may be fine but needs more pixels, memory or time than allowed
    from one that is broken or of a wrong kind.
    """

    def __init__(self, reason: str, over_limit: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.over_limit = over_limit


class SandboxUnavailable(Exception):
    """The sandbox was closed or cannot start a process: says nothing about the file."""


class FfmpegDied(MediaError):
    """ffmpeg was ended by a signal from outside: kill, or the kernel out of memory.

    Says little about the file: it may be tried again.
    """


class ToolUnusable(Exception):
    """ffmpeg or ffprobe is absent or does not start, as while a system is upgraded.

    Says nothing about the file.
    """


class Cancelled(Exception):
    """Someone asked to stop: says nothing about the file."""


class DiskFull(Exception):
    """There is no space left to write to: says nothing about the file."""


class ShotError(MediaError):
    """A shot of a master cannot be used; `shot` names it."""

    def __init__(self, shot: str, reason: str, over_limit: bool = False) -> None:
        super().__init__(f"shot {shot!r}: {reason}", over_limit)
        self.shot = shot
