"""Where files and sockets are made."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.core.files import make_socket_directory, socket_path


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory for temporary files, with room for a socket's name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setattr("tempfile.tempdir", directory)
        yield Path(directory)


@pytest.mark.parametrize("name", ["plain", "a#b", "a?b", "a%41"])
def test_grpc_finds_the_socket_of_any_home(short: Path, name: str) -> None:
    """A code server that listens elsewhere, or that nothing reaches."""
    path = socket_path(short / name, "code.sock")
    path.parent.parent.mkdir(exist_ok=True)
    make_socket_directory(path.parent)
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    assert path.is_socket()
    server.stop(0).wait()


def test_no_place_for_a_socket_is_an_error(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(short / "a#b"))
    with pytest.raises(StackError, match="TMPDIR"):
        socket_path(short / "a#b", "code.sock")
