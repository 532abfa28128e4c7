"""A mount whose server does not answer, as of a network share in an outage; for root."""

import ctypes
import os
from pathlib import Path
from typing import Self

_LIBC = ctypes.CDLL(None, use_errno=True)
_DETACHED = 2  # MNT_DETACH of umount2(2)


class HangingMount:
    """A FUSE file system at `place`: every call on it hangs, and fails after `end`."""

    def __init__(self, place: Path) -> None:
        self._place = os.fsencode(place)
        self._server = -1

    def __enter__(self) -> Self:
        self._server = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._server},rootmode=40000,user_id=0,group_id=0"
        if _LIBC.mount(b"hanging", self._place, b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), "this root may not mount")
        return self

    def end(self) -> None:
        """Its server is gone for good."""
        os.close(self._server)
        self._server = -1

    def __exit__(self, *_: object) -> None:
        if self._server >= 0:
            self.end()
        _LIBC.umount2(self._place, _DETACHED)
