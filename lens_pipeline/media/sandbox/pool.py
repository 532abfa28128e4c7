"""Rendering in processes that can be killed. No decoder is imported here.

Decoders crash, hang and may be taken over: workers hold no secret, have limits, reach no file but
their source, and end with their parent: at the end of stdin, or within a second of work.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import IO, Self, cast

import lens_pipeline
from lens_pipeline.media.errors import (
    Cancelled,
    MediaError,
    MediaProcessDied,
    SandboxUnavailable,
)
from lens_pipeline.media.ffmpeg.run import CRASHES
from lens_pipeline.media.models import (
    Credentials,
    Manifest,
    Picture,
    PictureSize,
    Poster,
    PosterSpec,
    PreviewSpec,
    Signer,
)
from lens_pipeline.media.sandbox import protocol
from lens_pipeline.media.sandbox.confinement import confined_thread

# To import decoders: 0.4 s, from a cold disk 20 s.
_START_SECONDS = 60.0
# Bounds leaks and fragmentation.
_RENDERS_PER_WORKER = 1000
# All but one then end: each has 30 MiB, and the next picture does not wait for a start.
_IDLE_SECONDS = 60.0
# From the end of answers to the exit status.
_EXIT_SECONDS = 1.0
_WORKER = "lens_pipeline.media.sandbox.worker"
# What a process answers to: see `worker`.
RENDERS, CREDENTIALS = "renders", "credentials"
_CHUNK_BYTES = 1 << 20
_MESSAGE_BYTES = 64 * 1024

_OUT_OF_MEMORY = re.compile(
    rb"bad_alloc|out of memory|failed to allocate|cannot allocate", re.IGNORECASE
)

_PACKAGE = Path(lens_pipeline.__file__).parent
# With `--user` or PYTHONPATH, packages lie elsewhere. A clone has no such metadata: it may hold
# settings and LENS_HOME, which stay out of reach.
_INSTALLED = [Path(one).absolute() for one in sys.path if any(Path(one).glob("*.dist-info"))]
_READABLE = (Path(sys.prefix), Path(sys.base_prefix), _PACKAGE, *_INSTALLED)

# No setting, credential or home directory.
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    # The number of workers sets the parallelism.
    "VIPS_CONCURRENCY": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Large pictures meet the memory limit and become no file.
    "VIPS_DISC_THRESHOLD": "64g",
    # Arenas reserve address space, which is limited.
    "MALLOC_ARENA_MAX": "2",
    # The worker keeps 64 MiB instead of clearing it for each file: 3 % less time.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}


class Sandbox:
    """Up to `workers` processes, started at first need; safe across threads.

    Create it after a fork: processes belong to the one that started them.
    """

    def __init__(
        self,
        workers: int,
        timeout_seconds: float,
        memory_mib: int,
        directory: Path,
        module: str = RENDERS,
    ) -> None:
        """`timeout_seconds` is for a render, `memory_mib` for a worker's address space.

        `directory` is for sources that are being rendered, best on their disk; the caller removes
        it.
        """
        self._directory = directory
        self._workers = workers
        self._timeout_seconds = timeout_seconds
        self._memory_mib = memory_mib
        self._module = module
        self._changed = threading.Condition()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        # Also those that are being started.
        self._count = 0
        # The thread whose render may have no other beside it.
        self._alone: int | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start all workers and wait. Raises SandboxUnavailable: one fails. Cancelled: closed."""
        started: list[_Worker] = []
        try:
            while len(started) < self._workers:
                started.append(self._acquire())
            for worker in started:
                worker.wait_until_ready()
        except BaseException:
            for worker in started:
                self._discard(worker)
            raise
        for worker in started:
            self._release(worker)

    def preview(self, source: Path, spec: PreviewSpec) -> Picture:
        """Call `images.render_preview` in a worker.

        Raises MediaError: as there, or it crashed, or took too much time or memory (`over_limit`).
        MediaProcessDied: killed twice. SandboxUnavailable: it does not start. Cancelled: closed.
        FileNotFoundError.
        """
        return _picture(*self._ask({"kind": "preview", "spec": asdict(spec)}, [source]))

    def poster(self, source: Path, spec: PosterSpec) -> Poster:
        """Call `posters.render_poster` in a worker. Raises as `preview`."""
        header, body = self._ask({"kind": "poster", "spec": asdict(spec)}, [source])
        with _parsing():
            duration, at = float(header["duration_seconds"]), float(header["poster_at_seconds"])
        return Poster(_picture(header, body), duration, at)

    def credentials(self, source: Path) -> Credentials:
        """What the C2PA manifest of a file says. Of CREDENTIALS. Raises as `preview`."""
        header, _ = self._ask({"kind": "read"}, [source])
        with _parsing():
            return Credentials.clipped(**header["credentials"])

    def signed(self, manifest: Manifest, picture: bytes, signer: Signer) -> bytes:
        """`picture` with the manifest; or, if that has a hash, the manifest alone. Of CREDENTIALS.

        The key stays here, and signs once for each request. Raises as `preview`, and what
        `signer.sign` raises.
        """
        sources = [one.file for one in manifest.ingredients if one.file]
        spec = asdict(manifest)
        for one in spec["ingredients"]:
            one["file"] = one["file"] is not None
        spec |= {"chain": signer.chain, "algorithm": signer.algorithm}
        _, body = self._ask({"kind": "sign", "spec": spec}, sources, picture, signer)
        return body

    def close(self) -> None:
        """Kill all workers; calls in progress raise Cancelled. May be repeated."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            # Its pipes belong to the waiting thread.
            for worker in self._busy:
                worker.kill()
            self._changed.notify_all()
        for worker in idle:
            worker.dispose()

    def _ask(
        self,
        request: protocol.Header,
        sources: Sequence[Path],
        body: bytes = b"",
        signer: Signer | None = None,
    ) -> tuple[protocol.Header, bytes]:
        request |= {"timeout_seconds": self._timeout_seconds}
        sources = [source.resolve(strict=True) for source in sources]
        try:
            return self._ask_once(request, sources, body, signer)
        except _DecoderEnded:
            # Another decoder may do better.
            return self._ask_once(request, sources, body, signer)
        except MediaProcessDied:
            # The machine may be out of memory.
            with self._no_other_render():
                return self._ask_once(request, sources, body, signer)

    @contextlib.contextmanager
    def _no_other_render(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._alone is None)
            self._alone = threading.get_ident()
            self._changed.wait_for(lambda: self._closed or not self._busy)
        try:
            yield
        finally:
            with self._changed:
                self._alone = None
                self._changed.notify_all()

    def _ask_once(
        self,
        request: protocol.Header,
        sources: Sequence[Path],
        body: bytes,
        signer: Signer | None,
    ) -> tuple[protocol.Header, bytes]:
        worker = self._acquire()
        try:
            header, body = worker.ask(request, sources, body, signer, self._timeout_seconds)
        except BaseException as error:
            reason = worker.explain_end() if isinstance(error, EOFError) else None
            self._discard(worker)
            if self._closed:
                raise Cancelled("the sandbox was closed") from error
            if reason is not None:
                raise reason from error
            if isinstance(error, protocol.ProtocolError):
                raise _improper_answer(error) from error
            raise
        self._release(worker)
        if "error" in header:
            raise MediaError(str(header["error"]), over_limit=bool(header.get("over_limit")))
        return header, body

    def _acquire(self) -> "_Worker":
        """Idle, or a new one up to the limit."""
        with self._changed:
            ours = (None, threading.get_ident())
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or (self._alone in ours and (self._idle or self._count < self._workers))
                )
            )
            if self._closed:
                raise Cancelled("the sandbox is closed")
            while self._idle:
                worker = self._idle.pop()
                if worker.is_alive():
                    self._busy.add(worker)
                    return worker
                worker.dispose()
                self._count -= 1
            self._count += 1
            try:
                stays = self._count == 1
                worker = _Worker(self._module, self._memory_mib, self._directory, stays=stays)
            except BaseException:
                self._count -= 1
                self._changed.notify_all()
                raise
            self._busy.add(worker)
            return worker

    def _release(self, worker: "_Worker") -> None:
        with self._changed:
            keep = not self._closed and worker.renders < _RENDERS_PER_WORKER
            if keep:
                self._busy.discard(worker)
                self._idle.append(worker)
                self._changed.notify_all()
        if not keep:
            self._discard(worker)

    def _discard(self, worker: "_Worker") -> None:
        worker.dispose()
        with self._changed:
            self._busy.discard(worker)
            self._count -= 1
            self._changed.notify_all()


class _DecoderEnded(MediaError):
    pass


class _Worker:
    """For one thread at a time, except for `kill`."""

    def __init__(self, module: str, memory_mib: int, directory: Path, *, stays: bool) -> None:
        """Unless it `stays`, it ends by itself when idle.

        Raises SandboxUnavailable: the machine has no room for a process, thread or file.
        """
        arguments = (module, os.getpid(), memory_mib, *(() if stays else (_IDLE_SECONDS,)))
        self.renders = 0
        self._ready = False
        self._ending = threading.Lock()
        try:
            with contextlib.ExitStack() as stack:
                self._start(tuple(map(str, arguments)), directory, stack)
                self._held = stack.pop_all()
        except (OSError, RuntimeError) as error:
            raise SandboxUnavailable(f"a worker cannot be started: {error}") from error
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)
        self._readable = select.poll()
        self._readable.register(self._answers, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(self._requests, select.POLLOUT)

    def _start(
        self, arguments: tuple[str, ...], directory: Path, held: contextlib.ExitStack
    ) -> None:
        self._directory = Path(tempfile.mkdtemp(dir=directory))
        held.callback(shutil.rmtree, self._directory, ignore_errors=True)
        # The package's own directory may hold a home or settings, which stay out of reach.
        (self._directory / _PACKAGE.name).symlink_to(_PACKAGE)
        self._messages, write_end = os.pipe()
        held.callback(os.close, self._messages)
        # What does not fit is lost, and does not block.
        os.set_blocking(write_end, False)
        os.set_blocking(self._messages, False)
        given = {Path(one).absolute() for one in os.environ.get("PYTHONPATH", "").split(os.pathsep)}
        modules = [self._directory, *(one for one in _INSTALLED if one in given)]
        try:
            with confined_thread([*_READABLE, self._directory]) as thread:
                self._process = thread.submit(
                    subprocess.Popen,
                    # -P: no modules from the current directory.
                    [sys.executable, "-P", "-m", _WORKER, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=write_end,
                    bufsize=0,
                    cwd="/",
                    env=_ENVIRONMENT
                    | {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(map(str, modules))},
                    start_new_session=True,
                ).result()
        finally:
            os.close(write_end)

    def is_alive(self) -> bool:
        with self._ending:
            return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Raise SandboxUnavailable: it does not come up."""
        if self._ready:
            return
        try:
            self._receive(time.monotonic() + _START_SECONDS)
        except (EOFError, TimeoutError, protocol.ProtocolError) as error:
            self.kill()
            tail = self._read_messages().decode("utf-8", "replace").strip()[-400:]
            raise SandboxUnavailable(f"a worker does not come up: {tail or error}") from error
        self._ready = True

    def ask(
        self,
        request: protocol.Header,
        sources: Sequence[Path],
        body: bytes,
        signer: Signer | None,
        timeout_seconds: float,
    ) -> tuple[protocol.Header, bytes]:
        """Raises MediaError: too slow. EOFError: it ended. ProtocolError, SandboxUnavailable."""
        self.wait_until_ready()
        self.renders += 1
        lent: list[Path] = []
        deadline = time.monotonic() + timeout_seconds
        try:
            for number, source in enumerate(sources):
                lent.append(_lend(source, self._directory / f"source-{number}"))
            paths = [str(one) for one in lent]
            self._send(protocol.pack(request | {"paths": paths}, body), deadline)
            return self._answer(signer, deadline)
        except BrokenPipeError as error:
            raise EOFError from error
        except TimeoutError as error:
            raise MediaError(
                f"rendering took longer than {timeout_seconds:g} s", over_limit=True
            ) from error
        finally:
            for one in lent:
                one.unlink(missing_ok=True)

    def _answer(self, signer: Signer | None, deadline: float) -> tuple[protocol.Header, bytes]:
        header, body = self._receive(deadline)
        if signer is not None and "sign" in header:
            # Once: a process that was taken over gets nothing else signed.
            self._send(protocol.pack({}, signer.sign(body)), deadline)
            header, body = self._receive(deadline)
        return header, body

    def explain_end(self) -> MediaError | MediaProcessDied:
        """Why the process, which has closed its pipe, ended."""
        try:
            self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        if _OUT_OF_MEMORY.search(self._read_messages()):
            return MediaError("rendering needs more memory than allowed", over_limit=True)
        status = self._process.returncode
        if -status in CRASHES:
            return _DecoderEnded(f"the decoder crashed ({signal.Signals(-status).name})")
        if status < 0:
            return MediaProcessDied(f"the decoder was ended from outside (signal {-status})")
        if status == 0:
            # It had rested for long enough when the request came.
            return MediaProcessDied("the decoder had ended before the file came")
        return _DecoderEnded(f"the decoder ended (exit status {status})")

    def kill(self) -> None:
        """End the process and its children, and wait; from any thread."""
        with self._ending:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def dispose(self) -> None:
        self.kill()
        self._requests.close()
        self._answers.close()
        self._held.close()

    def _send(self, message: bytes, deadline: float) -> None:
        """Raises TimeoutError, BrokenPipeError."""
        left = memoryview(message)
        while left:
            if not self._writable.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            # As much as a pipe that can be written takes without a wait.
            left = left[os.write(self._requests.fileno(), left[: select.PIPE_BUF]) :]

    def _receive(self, deadline: float) -> tuple[protocol.Header, bytes]:
        return protocol.receive(lambda size: self._read(size, deadline))

    def _read(self, size: int, deadline: float) -> bytes:
        """Exactly `size` bytes. Raises TimeoutError, EOFError."""
        data = bytearray()
        while len(data) < size:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not self._readable.poll(remaining * 1000):
                raise TimeoutError
            chunk = os.read(self._answers.fileno(), min(size - len(data), _CHUNK_BYTES))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)

    def _read_messages(self) -> bytes:
        try:
            return os.read(self._messages, _MESSAGE_BYTES)
        except BlockingIOError:
            return b""


def _lend(source: Path, lent: Path) -> Path:
    """The source by another name, below what a worker may read."""
    try:
        lent.hardlink_to(source)
    except OSError:
        # Another disk, or one without links.
        shutil.copyfile(source, lent)
    return lent


def _picture(header: protocol.Header, body: bytes) -> Picture:
    with _parsing():
        stream = BytesIO(body)
        return Picture(
            webp=stream.read(int(header["webp_bytes"])),
            width=int(header["width"]),
            height=int(header["height"]),
            thumbhash=str(header["thumbhash"]),
            inline=stream.read(int(header["inline_bytes"])),
            source_width=int(header["source_width"]),
            source_height=int(header["source_height"]),
            sizes=tuple(
                PictureSize(
                    int(size["edge"]),
                    int(size["width"]),
                    int(size["height"]),
                    stream.read(int(size["bytes"])),
                )
                for size in header["sizes"]
            ),
        )


@contextlib.contextmanager
def _parsing() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise _improper_answer(error) from error


def _improper_answer(error: Exception) -> MediaError:
    return MediaError(f"the decoder gave no proper answer ({type(error).__name__}: {error})")
