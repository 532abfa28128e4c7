"""Rendering in processes that can be killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from lens_pipeline.defs.assets.renderers import media_failures
from lens_pipeline.errors import EncoderDied, Failure
from lens_pipeline.media.errors import Cancelled, MediaError, SandboxUnavailable
from lens_pipeline.media.models import PosterSpec, PreviewSpec
from lens_pipeline.media.sandbox import pool
from lens_pipeline.media.sandbox.pool import Sandbox
from lens_pipeline_tests.media.samples import decoded, save, scene, texture, write_video

pytestmark = pytest.mark.slow


Workers = Callable[[], list[psutil.Process]]


@pytest.fixture
def workers() -> Workers:
    """The media processes that this test has started: other tests' sandboxes may live on."""
    elder = _workers_of(os.getpid())
    return lambda: [worker for worker in _workers_of(os.getpid()) if worker not in elder]


def _workers_of(pid: int) -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process(pid).children()
        if "lens_pipeline.media.sandbox.worker" in _command(process)
    ]


def _command(process: psutil.Process) -> list[str]:
    # One that ended by itself is a zombie until the next request, and then no process.
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def _eventually(condition: Callable[[], bool], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.fixture(scope="session")
def slow_photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes seconds to render: the encoder does its best on 16 megapixels."""
    directory = tmp_path_factory.mktemp("slow")
    return save(texture(2400, 1700).resize((4800, 3400)), directory / "slow.jpg", "JPEG")


@pytest.fixture
def slow_spec() -> PreviewSpec:
    return PreviewSpec(longest_edge=6000, quality=80, effort=6, max_pixels=50_000_000)


def test_a_sandbox_renders_what_the_decoders_render(
    sandbox: Sandbox,
    photo: Path,
    tmp_path: Path,
    preview_spec: PreviewSpec,
    poster_spec: PosterSpec,
) -> None:
    """A field lost on the way between the processes."""
    from lens_pipeline.media.images import render_preview
    from lens_pipeline.media.posters import render_poster

    video = write_video(tmp_path / "v.mp4", [scene()] * 24)
    assert sandbox.preview(photo, preview_spec) == render_preview(photo, preview_spec)
    assert sandbox.poster(video, poster_spec) == render_poster(video, poster_spec)


def test_a_refused_file_keeps_its_reason_and_its_worker(
    sandbox: Sandbox, photo: Path, tmp_path: Path, preview_spec: PreviewSpec, workers: Workers
) -> None:
    """A new process for each broken file."""
    sandbox.preview(photo, preview_spec)
    before = workers()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<html>")
    with pytest.raises(MediaError, match="not a picture: starts with '<html>'") as e:
        sandbox.preview(broken, preview_spec)
    assert not e.value.over_limit
    with pytest.raises(MediaError, match="over the limit") as e:
        sandbox.preview(photo, replace(preview_spec, max_pixels=10))
    assert e.value.over_limit
    assert workers() == before


def test_a_missing_file_is_not_blamed_on_its_content(
    sandbox: Sandbox, tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """A swept scratch file recorded as a broken picture."""
    with pytest.raises(FileNotFoundError):
        sandbox.preview(tmp_path / "absent.jpg", preview_spec)


def test_a_render_over_its_time_is_killed_and_replaced(
    tmp_path: Path,
    photo: Path,
    slow_photo: Path,
    slow_spec: PreviewSpec,
    preview_spec: PreviewSpec,
    workers: Workers,
) -> None:
    """A decoder in an endless loop that holds a place for ever."""
    with Sandbox(1, 0.4, 2048, tmp_path) as sandbox:
        sandbox.start()
        (worker,) = workers()
        with pytest.raises(MediaError, match=r"took longer than 0\.4 s") as e:
            sandbox.preview(slow_photo, slow_spec)
        assert e.value.over_limit
        assert not worker.is_running()
        assert sandbox.preview(photo, preview_spec).width == 200


def test_a_crash_fails_its_own_file_only(
    sandbox: Sandbox,
    photo: Path,
    slow_photo: Path,
    slow_spec: PreviewSpec,
    preview_spec: PreviewSpec,
    workers: Workers,
) -> None:
    """One hostile file that takes a whole batch down."""
    with ThreadPoolExecutor(1) as pool:
        doomed = pool.submit(sandbox.preview, slow_photo, slow_spec)
        _end_the_busy_one(workers, signal.SIGSEGV)
        _end_the_busy_one(workers, signal.SIGSEGV)
        with pytest.raises(MediaError, match=r"the decoder crashed \(SIGSEGV\)") as e:
            doomed.result()
        assert not e.value.over_limit
    assert sandbox.preview(photo, preview_spec).width == 200


def _end_the_busy_one(workers: Workers, number: signal.Signals) -> None:
    """Let the worker that renders crash as a decoder would, or kill it."""
    busy: list[int] = []
    seconds: dict[int, float] = {}

    def find() -> bool:
        earlier = dict(seconds)
        for process in workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                seconds[process.pid] = process.cpu_times().user
        # One that has finished in the meantime takes no more time.
        busy[:] = [pid for pid, now in seconds.items() if now > max(0.8, earlier.get(pid, now))]
        return bool(busy)

    assert _eventually(find, 30)
    os.kill(busy[0], number)
    # One that had just finished is waited for with the next request.
    assert _eventually(lambda: busy[0] not in {p.pid for p in workers()}, 30)


def test_a_worker_that_is_killed_once_fails_no_file(
    sandbox: Sandbox, slow_photo: Path, slow_spec: PreviewSpec, workers: Workers
) -> None:
    """A dead letter because somebody killed the wrong process."""
    with ThreadPoolExecutor(1) as pool:
        spared = pool.submit(sandbox.preview, slow_photo, slow_spec)
        _end_the_busy_one(workers, signal.SIGSEGV)
        assert spared.result().width > 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_decoder_that_is_killed_again_and_again_blames_no_file(
    sandbox: Sandbox,
    slow_photo: Path,
    slow_spec: PreviewSpec,
    workers: Workers,
    number: signal.Signals,
) -> None:
    """Good files given up on for ever, since the kernel was out of memory."""
    with ThreadPoolExecutor(1) as pool:
        doomed = pool.submit(sandbox.preview, slow_photo, slow_spec)
        _end_the_busy_one(workers, number)
        _end_the_busy_one(workers, number)
        with pytest.raises(EncoderDied) as e, media_failures():
            doomed.result()
    failure = Failure.of(e.value)
    assert (failure.permanent, failure.blameless) == (False, True)


def test_a_decoder_that_was_killed_renders_alone_the_second_time(
    sandbox: Sandbox, slow_photo: Path, slow_spec: PreviewSpec, workers: Workers
) -> None:
    """The same number of renders in the same memory, each killed in its turn."""
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(sandbox.preview, slow_photo, slow_spec) for _ in range(2)]
        _end_the_busy_one(workers, signal.SIGKILL)
        while not any(render.done() for render in both):
            assert len(workers()) == 1
            time.sleep(0.02)
        assert {render.result().width for render in both} == {4800}


def test_an_idle_worker_that_died_is_not_blamed_on_the_next_file(
    tmp_path: Path, photo: Path, preview_spec: PreviewSpec, workers: Workers
) -> None:
    """A file given up since the system killed an idle process before it came."""
    with Sandbox(1, 20, 2048, tmp_path) as sandbox:
        sandbox.start()
        (worker,) = workers()
        worker.kill()
        assert _eventually(lambda: worker.status() == psutil.STATUS_ZOMBIE)
        assert sandbox.preview(photo, preview_spec).width == 200


def test_workers_at_rest_give_back_their_memory_and_end_but_for_one(
    tmp_path: Path,
    photo: Path,
    slow_photo: Path,
    preview_spec: PreviewSpec,
    monkeypatch: pytest.MonkeyPatch,
    workers: Workers,
) -> None:
    """A small server whose memory is full of what one busy minute left."""
    monkeypatch.setattr(pool, "_IDLE_SECONDS", 0.5)
    with Sandbox(2, 20, 2048, tmp_path) as sandbox:
        sandbox.start()
        first, second = workers()
        spec = replace(preview_spec, longest_edge=4000)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda _: sandbox.preview(slow_photo, spec), range(2)))
        busy = first.memory_info().rss
        assert _eventually(lambda: second.status() == psutil.STATUS_ZOMBIE, 10)
        assert first.memory_info().rss < busy - (8 << 20)
        assert sandbox.preview(photo, preview_spec).width == 200
        assert workers() == [first]


def test_too_much_memory_is_an_error_of_that_file(
    tmp_path: Path, photo: Path, preview_spec: PreviewSpec
) -> None:
    """A machine that swaps, or the wrong process killed for want of memory."""
    black, file = Image.new("RGB", (9000, 9000)), tmp_path / "large.webp"
    large = save(black, file, "WEBP", quality=1, method=0)
    with Sandbox(1, 20, 512, tmp_path) as sandbox:
        with pytest.raises(MediaError, match="needs more memory than allowed") as e:
            sandbox.preview(
                large, PreviewSpec(longest_edge=9000, quality=1, effort=0, max_pixels=10**9)
            )
        assert e.value.over_limit
        assert sandbox.preview(photo, preview_spec).width == 200


def test_a_worker_holds_no_secret(
    tmp_path: Path,
    photo: Path,
    preview_spec: PreviewSpec,
    monkeypatch: pytest.MonkeyPatch,
    workers: Workers,
) -> None:
    """A taken-over decoder that reads the database's password."""
    monkeypatch.setenv("LENS_DATABASE_URL", "postgresql://user:swordfish@host/db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "swordfish")
    with Sandbox(1, 20, 2048, tmp_path) as sandbox:
        sandbox.preview(photo, preview_spec)
        (worker,) = workers()
        environment = worker.environ()
        # Limits as the kernel holds them: no core dump, no file written, few open.
        assert worker.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert worker.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
        assert worker.rlimit(psutil.RLIMIT_NOFILE)[0] <= 64
    assert "swordfish" not in json.dumps(environment)
    assert {"HOME", "LENS_DATABASE_URL"}.isdisjoint(environment)


def test_many_threads_share_the_workers(
    sandbox: Sandbox, photo: Path, preview_spec: PreviewSpec, workers: Workers
) -> None:
    """Answers that get to the wrong thread, or more processes than allowed."""
    edges = [16 + number for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        pictures = list(
            pool.map(
                lambda edge: sandbox.preview(photo, replace(preview_spec, longest_edge=edge)),
                edges,
            )
        )
    assert [picture.width for picture in pictures] == edges
    assert [decoded(picture.webp).width for picture in pictures] == edges
    assert len(workers()) == 2


def test_closing_ends_a_render_in_progress(
    tmp_path: Path, slow_photo: Path, slow_spec: PreviewSpec, workers: Workers
) -> None:
    """A stop that waits for the longest render, or blames its file."""
    sandbox = Sandbox(1, 60, 2048, tmp_path)
    with ThreadPoolExecutor(2) as pool:
        rendering = pool.submit(sandbox.preview, slow_photo, slow_spec)
        waiting = pool.submit(sandbox.preview, slow_photo, slow_spec)
        assert _eventually(lambda: any(p.cpu_times().user > 0.5 for p in workers()))
        started = time.monotonic()
        sandbox.close()
        for call in (rendering, waiting):
            with pytest.raises(Cancelled, match="closed"):
                call.result()
        assert time.monotonic() - started < 1
    assert workers() == []
    with pytest.raises(Cancelled):
        sandbox.preview(slow_photo, slow_spec)


def test_an_interrupt_leaves_no_process(tmp_path: Path, slow_photo: Path) -> None:
    """Ctrl-C that leaves decoders running."""
    child = _start_rendering_process(tmp_path, slow_photo)
    worker = _busy_worker(child)
    os.kill(child.pid, signal.SIGINT)
    child.wait(5)
    assert _eventually(lambda: not worker.is_running(), 3)


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_no_worker_outlives_a_parent_that_is_killed(
    busy: bool, tmp_path: Path, slow_photo: Path
) -> None:
    """Orphans after an out-of-memory kill, each still rendering."""
    child = _start_rendering_process(tmp_path, slow_photo, busy=busy)
    worker = _busy_worker(child) if busy else _idle_worker(child)
    child.kill()
    child.wait(5)
    assert _eventually(lambda: not worker.is_running(), 3)


def test_a_worker_outlives_the_thread_that_started_it(
    sandbox: Sandbox, photo: Path, preview_spec: PreviewSpec, workers: Workers
) -> None:
    """A parent-death signal that fires when a thread of a pool ends."""
    thread = threading.Thread(target=sandbox.preview, args=(photo, preview_spec))
    thread.start()
    thread.join()
    before = workers()
    time.sleep(0.8)
    sandbox.preview(photo, preview_spec)
    assert workers() == before != []


@pytest.mark.parametrize(
    "error", [OSError, RuntimeError("can't start new thread"), BrokenThreadPool]
)
@pytest.mark.parametrize("part", ["subprocess.Popen", "os.pipe", "pathlib.Path.symlink_to"])
def test_a_worker_that_cannot_be_started_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, error: Exception
) -> None:
    """Descriptors and directories that run out on a machine that has no room for a moment."""

    def fail(*_: object, **__: object) -> None:
        raise error

    opened = psutil.Process().num_fds()
    monkeypatch.setattr(part, fail)
    with Sandbox(1, 60, 2048, tmp_path) as sandbox, pytest.raises(SandboxUnavailable):
        sandbox.start()
    assert psutil.Process().num_fds() == opened
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["sandbox.pool", "concat.join"])
def test_importing_it_loads_no_decoder(module: str) -> None:
    """A decoder's threads and caches in a process that forks, and its memory in all of Dagster."""
    code = f"import sys, lens_pipeline.media.{module}; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"pyvips", "av", "numpy", "PIL"}.isdisjoint(modules)


def _start_rendering_process(
    tmp_path: Path, photo: Path, busy: bool = True
) -> subprocess.Popen[bytes]:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import time
            from pathlib import Path
            from lens_pipeline.media.models import PreviewSpec
            from lens_pipeline.media.sandbox.pool import Sandbox

            with Sandbox(1, 60, 2048, Path({str(tmp_path)!r})) as sandbox:
                sandbox.start()
                if {busy}:
                    sandbox.preview(Path({str(photo)!r}), PreviewSpec(6000, 80, 6, 50_000_000))
                time.sleep(60)
            """
        )
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL
    )


def _busy_worker(parent: subprocess.Popen[bytes]) -> psutil.Process:
    assert _eventually(lambda: any(p.cpu_times().user > 0.8 for p in _workers_of(parent.pid)), 10)
    (worker,) = _workers_of(parent.pid)
    return worker


def _idle_worker(parent: subprocess.Popen[bytes]) -> psutil.Process:
    assert _eventually(lambda: bool(_workers_of(parent.pid)), 10)
    (worker,) = _workers_of(parent.pid)
    time.sleep(0.6)
    return worker
