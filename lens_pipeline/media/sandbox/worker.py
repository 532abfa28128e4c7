"""A process of `pool`: requests on stdin, answers on stdout.

Usage: python -m lens_pipeline.media.sandbox.worker MODULE PARENT_PID MEMORY_MIB [IDLE_SECONDS]
MODULE, beside this one, has the function `answer`.
"""

import ctypes
import faulthandler
import importlib
import os
import resource
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.sandbox import protocol

# Takes a request, its body, and what has the parent sign bytes. Raises MediaError.
Answer = Callable[[protocol.Header, bytes, Callable[[bytes], bytes]], tuple[protocol.Header, bytes]]

_WATCH_SECONDS = 0.5
# After it a worker ends by itself; a living parent kills it before.
_OVERTIME_SECONDS = 5.0
_OPEN_FILES = 64
# Files of a batch follow each other faster: what one leaves is kept for the next.
_REST_SECONDS = 2.0
# glibc's; other C libraries give back memory by themselves.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def main() -> None:
    """Serve requests until stdin ends, the parent is gone, or no request comes for a while."""
    answer: Answer = importlib.import_module(f"{__spec__.parent}.{sys.argv[1]}").answer
    parent_pid, memory_mib = int(sys.argv[2]), int(sys.argv[3])
    idle_seconds = float(sys.argv[4]) if len(sys.argv) > 4 else None
    threading.Thread(target=_watch, args=(parent_pid,), daemon=True).start()
    requests, answers = _take_pipes()
    # macOS refuses it.
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, memory_mib * 1024 * 1024)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    # Rendering writes no file.
    _limit(resource.RLIMIT_FSIZE, 0)
    _send(answers, {"ready": True})

    def receive() -> tuple[protocol.Header, bytes]:
        return protocol.receive(lambda size: _read(requests, size))

    def sign(data: bytes) -> bytes:
        _send(answers, {"sign": True}, data)
        _, signature = receive()
        return signature

    while True:
        if not _has_request(requests, _REST_SECONDS):
            if _trim:
                _trim(0)
            if not _has_request(requests, idle_seconds):
                return
        try:
            request, body = receive()
        except EOFError:
            return
        # It needs no interpreter lock, which a decoder may keep from `_watch`.
        faulthandler.dump_traceback_later(request["timeout_seconds"] + _OVERTIME_SECONDS, exit=True)
        header, body = _answer(answer, request, body, sign)
        faulthandler.cancel_dump_traceback_later()
        _send(answers, header, body)


def _has_request(requests: BinaryIO, seconds: float | None) -> bool:
    """Also at the end of stdin. Waits at most `seconds`."""
    return bool(select.select([requests], [], [], seconds)[0])


def _watch(parent_pid: int) -> None:
    """End with the parent, even during a render. PR_SET_PDEATHSIG acts when its *thread* ends."""
    while os.getppid() == parent_pid:
        time.sleep(_WATCH_SECONDS)
    os._exit(0)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Out of reach of native code that prints."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, answers


def _limit(what: int, value: int) -> None:
    """The inherited limit cannot be raised."""
    _, hard = resource.getrlimit(what)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


def _read(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _send(answers: BinaryIO, header: protocol.Header, body: bytes = b"") -> None:
    answers.write(protocol.pack(header, body))
    answers.flush()


def _answer(
    answer: Answer, request: protocol.Header, body: bytes, sign: Callable[[bytes], bytes]
) -> tuple[protocol.Header, bytes]:
    try:
        return _answered(answer, request, body, sign)
    except MediaError as error:
        return {"error": error.reason, "over_limit": error.over_limit}, b""


def _answered(
    answer: Answer, request: protocol.Header, body: bytes, sign: Callable[[bytes], bytes]
) -> tuple[protocol.Header, bytes]:
    """Raises MediaError alone."""
    try:
        return answer(request, body, sign)
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError("rendering needs more memory than allowed", over_limit=True) from error
    except Exception as error:
        # The unforeseen fails this file only.
        reason = error.strerror if isinstance(error, OSError) else error
        raise MediaError(f"rendering failed: {type(error).__name__}: {reason}") from error


if __name__ == "__main__":
    main()
