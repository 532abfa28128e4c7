"""What a program that a hostile file has taken over can still do."""

import os
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg.run import Work, run, run_long
from lens_pipeline.media.models import PreviewSpec
from lens_pipeline.media.sandbox import pool
from lens_pipeline.media.sandbox.confinement import confined_thread, missing_protections
from lens_pipeline.media.sandbox.pool import Sandbox

_PYTHON = (Path(sys.prefix), Path(sys.base_prefix))
_ATTEMPTS = """
import ctypes, os, socket, sys
secret, directory, parent = sys.argv[1], sys.argv[2], int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
for name, attempt in {
    "read a secret": lambda: open(secret),
    "list a directory": lambda: os.listdir(directory),
    "write a file": lambda: open(directory + "/new", "w"),
    "remove a file": lambda: os.unlink(secret),
    "read the parent's environment": lambda: open(f"/proc/{parent}/environ").read(),
    "signal the parent": lambda: os.kill(parent, 0),
    "open a socket": lambda: socket.socket(),
    "trace the parent": lambda: call(libc.ptrace, 16, parent, None, None),
    "enter a namespace": lambda: call(libc.unshare, 0x10000000),
}.items():
    try:
        attempt()
    except OSError as error:
        continue
    print(name)
"""


def _confined(
    arguments: Iterable[object], read: Iterable[Path] = (), write: Iterable[Path] = ()
) -> subprocess.CompletedProcess[str]:
    with confined_thread([*_PYTHON, *read], write) as thread:
        return thread.submit(
            subprocess.run, list(map(str, arguments)), capture_output=True, text=True, check=False
        ).result()


def test_nothing_is_missing_on_this_kernel() -> None:
    """Tests of protections that pass without any."""
    assert missing_protections(_PYTHON) == []


def test_a_confined_program_reaches_nothing_of_the_machine(tmp_path: Path) -> None:
    """A taken-over decoder that reads settings, calls out, or takes over its parent."""
    secret = tmp_path / ".env"
    secret.write_text("LENS_API_TOKEN=secret")
    done = _confined([sys.executable, "-c", _ATTEMPTS, secret, tmp_path, os.getpid()])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert secret.is_file()


def test_a_confined_program_has_its_input_and_its_output(tmp_path: Path) -> None:
    """A protection that stops the work."""
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_text("a picture")
    output.mkdir()
    copied = _confined(["cp", source, output / "copy"], [source], [output])
    assert (copied.returncode, copied.stderr) == (0, "")
    assert (output / "copy").read_text() == "a picture"
    # This process has lost nothing.
    (tmp_path / "new").write_text("")


def test_privileges_are_gone_for_good() -> None:
    """A decoder under root that changes the clock, or gains rights by a setuid program."""
    status = _confined(["cat", "/proc/self/status"], [Path("/proc")]).stdout
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    if os.geteuid() == 0:
        assert fields["CapBnd"] == "0" * 16


@pytest.mark.as_root
def test_root_reaches_a_clone_in_a_private_home(tmp_path: Path) -> None:
    """`sudo lens up` in a user's home, where root without capabilities may not enter."""
    home, secret = tmp_path / "home", tmp_path / "secret"
    (home / "clone").mkdir(parents=True)
    tool = home / "clone" / "tool"
    tool.write_text(f"#!/bin/sh\ncat {secret}; echo works\n")
    tool.chmod(0o755)
    secret.write_text("secret")
    for path in (home, home / "clone", tool):
        os.chown(path, 12_345, 12_345)
    home.chmod(0o700)
    done = _confined([tool], [tool])
    assert done.stdout == "works\n"
    assert "CAP_DAC_OVERRIDE" in missing_protections([tool])[0]


def test_ffmpeg_reads_its_inputs_and_writes_its_directory(tmp_path: Path) -> None:
    """A hostile video that makes ffmpeg read the settings or write a start-up script."""
    secret, shot, work = tmp_path / "secret", tmp_path / "shot", tmp_path / "work"
    secret.write_text("secret")
    shot.write_text("shot")
    work.mkdir()
    tool = tmp_path / "ffmpeg"
    tool.write_text(
        textwrap.dedent(
            f"""\
            #!/bin/sh
            cat {shot} {secret} > seen
            echo > {tmp_path}/written
            exit 0
            """
        )
    )
    tool.chmod(0o755)
    command = [str(tool), "-i", f"file:{shot}"]
    messages = run_long(command, 1, "x", Work(work, lambda: False, lambda *_: None))
    assert (work / "seen").read_text() == "shot"
    assert not (tmp_path / "written").exists()
    assert messages.count("ermission denied") == 2
    run(command, 10)
    assert not (tmp_path / "written").exists()


def test_a_worker_of_the_sandbox_reads_its_source_only(
    sandbox: Sandbox, photo: Path, preview_spec: PreviewSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A taken-over decoder that reads settings, or pictures of other users."""
    elder = psutil.Process().children()
    assert sandbox.preview(photo, preview_spec).width == 200
    (worker,) = (one for one in psutil.Process().children() if one not in elder)
    status = Path(f"/proc/{worker.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    assert "Seccomp:\t2" in status
    monkeypatch.setattr(pool, "_lend", lambda source, _: source)
    with pytest.raises(MediaError, match="Permission denied"):
        sandbox.preview(photo, preview_spec)


@pytest.mark.slow
def test_packages_outside_pythons_own_directories_are_found(photo: Path, tmp_path: Path) -> None:
    """Packages installed with `--user` or `--target`, beside a clone with settings."""
    clone, packages = Path(pool.__file__).parents[3], sysconfig.get_path("platlib")
    code = """if True:
        import sys
        from pathlib import Path
        from lens_pipeline.media.models import PreviewSpec
        from lens_pipeline.media.sandbox import pool
        with pool.Sandbox(1, 20, 2048, Path(sys.argv[2])) as sandbox:
            print(sandbox.preview(Path(sys.argv[1]), PreviewSpec(200, 80, 2, 50_000_000)).width)
        print(*pool._READABLE, sep="\\n")
    """
    python = Path(sys.base_prefix) / "bin" / "python3"
    done = subprocess.run(
        [python, "-c", code, photo, tmp_path],
        env={"PYTHONPATH": f"{clone}:{packages}"},
        capture_output=True,
        text=True,
        check=False,
    )
    width, *readable = done.stdout.splitlines() or [done.stderr]
    assert width == "200"
    assert packages in readable and str(clone) not in readable


def test_a_source_is_lent_across_disks(photo: Path, preview_spec: PreviewSpec) -> None:
    """A home on one disk and scratch files on another, between which nothing can be linked."""
    with Sandbox(1, 20, 2048, Path("/dev/shm")) as sandbox:
        assert sandbox.preview(photo, preview_spec).width == 200
    assert photo.is_file()
