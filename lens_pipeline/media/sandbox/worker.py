"""A rendering process of `pool`: requests on stdin, pictures on stdout.

Usage: python -m lens_pipeline.media.sandbox.worker PARENT_PID MEMORY_MIB [IDLE_SECONDS]
"""

import ctypes
import faulthandler
import os
import resource
import select
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.images import render_preview
from lens_pipeline.media.models import Picture, PosterSpec, PreviewSpec
from lens_pipeline.media.posters import render_poster
from lens_pipeline.media.sandbox import protocol

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
    parent_pid, memory_mib = int(sys.argv[1]), int(sys.argv[2])
    idle_seconds = float(sys.argv[3]) if len(sys.argv) > 3 else None
    threading.Thread(target=_watch, args=(parent_pid,), daemon=True).start()
    requests, answers = _take_pipes()
    _limit(resource.RLIMIT_AS, memory_mib * 1024 * 1024)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    # Rendering writes no file.
    _limit(resource.RLIMIT_FSIZE, 0)
    _send(answers, {"ready": True})
    while True:
        if not _has_request(requests, _REST_SECONDS):
            if _trim:
                _trim(0)
            if not _has_request(requests, idle_seconds):
                return
        try:
            request, _ = protocol.receive(lambda size: _read(requests, size))
        except EOFError:
            return
        # It needs no interpreter lock, which a decoder may keep from `_watch`.
        faulthandler.dump_traceback_later(request["timeout_seconds"] + _OVERTIME_SECONDS, exit=True)
        header, body = _answer(request)
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


def _answer(request: protocol.Header) -> tuple[protocol.Header, bytes]:
    try:
        picture, times = _render(request["kind"], Path(request["path"]), request["spec"])
    except MediaError as error:
        return {"error": error.reason, "over_limit": error.over_limit}, b""
    names = ("width", "height", "source_width", "source_height", "thumbhash")
    header = {name: getattr(picture, name) for name in names}
    header["webp_bytes"], header["inline_bytes"] = len(picture.webp), len(picture.inline)
    header["sizes"] = [
        {"edge": size.edge, "width": size.width, "height": size.height, "bytes": len(size.webp)}
        for size in picture.sizes
    ]
    body = b"".join([picture.webp, picture.inline, *(size.webp for size in picture.sizes)])
    return header | times, body


def _render(kind: str, source: Path, spec: dict[str, Any]) -> tuple[Picture, dict[str, float]]:
    try:
        if kind == "preview":
            return render_preview(source, PreviewSpec(**spec)), {}
        poster = render_poster(source, PosterSpec(**spec))
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError("rendering needs more memory than allowed", over_limit=True) from error
    except Exception as error:
        # The unforeseen fails this file only.
        reason = error.strerror if isinstance(error, OSError) else error
        raise MediaError(f"rendering failed: {type(error).__name__}: {reason}") from error
    names = ("duration_seconds", "poster_at_seconds")
    return poster.picture, {name: getattr(poster, name) for name in names}


if __name__ == "__main__":
    main()
