"""`make image-test`: builds the image and runs every role in it, until a photo has gone through.

Needs root, buildah and debootstrap, and no registry of images: the base is a Debian made here.
Takes minutes, so it is no part of `make test`. IMAGE_OPTIONS: more options for the builder.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from lens_pipeline_tests.deploy.roles import COMMANDS, Roles, roles_on_servers
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.servers import HostileServer

ROOT = Path(__file__).parents[2]
BASE = "localhost/lens-debian:12"
IMAGE = "localhost/lens-pipeline:try"
_USER = 10001


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def buildah(*arguments: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(["buildah", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def make_base() -> None:
    """Debian 12 as debootstrap makes it, unless an earlier run has left one."""
    if buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        return
    with tempfile.TemporaryDirectory(prefix="lens-debian-") as directory:
        say("making a Debian to build on")
        subprocess.run(
            ["debootstrap", "--variant=minbase", "bookworm", directory],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, directory, "/")
        buildah("commit", "--quiet", "--rm", container, BASE)


def build() -> None:
    options = shlex.split(os.environ.get("IMAGE_OPTIONS", ""))
    subprocess.run(
        [ROOT / "deploy" / "build-image.sh", IMAGE, *options],
        env={**os.environ, "BASE": BASE, "BUILDER": "buildah"},
        check=True,
    )


class Container:
    """One container of the image, in which every role is a process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._name = buildah("from", "--quiet", IMAGE)

    def launch(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        own = {k: v for k, v in environment.items() if k.startswith(("LENS_", "AWS_"))}
        home = Path(own["LENS_HOME"])
        home.mkdir(exist_ok=True)
        os.chown(home, _USER, _USER)
        with log.open("wb") as output:
            return subprocess.Popen(
                [
                    *("buildah", "run", "--isolation", "chroot"),
                    *("--volume", f"{self._directory}:{self._directory}"),
                    *(f"--env={name}={value}" for name, value in own.items()),
                    # As the entry point, told that it is not the first process here.
                    *(self._name, "--", "/usr/bin/tini", "-s", "--", "lens", *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def remove(self) -> None:
        buildah("rm", self._name)


def terminate(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the first process of the container, as a container's engine does."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.cmdline()[:1] == ["/usr/bin/tini"]:
            child.send_signal(signal.SIGTERM)


def try_roles(roles: Roles) -> None:
    status, said = roles.run("api", "migrate")
    assert status == 0, said
    say(f"lens migrate: {said.strip()}")
    roles.start()
    for role in COMMANDS:
        status, said = roles.run(role, "health")
        assert (status, said) == (0, f"{role} lives\n"), said
        say(f"lens health: {said.strip()}")
    with HostileServer() as server:
        url = server.put("/one.jpg", sources.jpeg()).replace("127.0.0.1", "localhost")
        roles.add_photo("one", url)
        ready = roles.await_ready("one")
    say(f"one photo went through: {ready['path']}, {ready['status']}")
    statuses = roles.stop(terminate)
    say(f"stopped: {statuses}")
    assert set(statuses.values()) == {0}, statuses


def main() -> None:
    missing = [name for name in ("buildah", "debootstrap") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        sys.exit(f"image-test needs root and: apt install {' '.join(missing) or '(nothing)'}")
    os.environ.setdefault("BUILDAH_ISOLATION", "chroot")
    os.environ.setdefault("STORAGE_DRIVER", "vfs")
    make_base()
    say("building the image")
    build()
    with tempfile.TemporaryDirectory(prefix="lens-image-") as name:
        directory = Path(name)
        # The image's user passes through it.
        directory.chmod(0o755)
        container = Container(directory)
        try:
            with roles_on_servers(directory, container.launch) as roles:
                try_roles(roles)
        finally:
            container.remove()
    say("the image works")


if __name__ == "__main__":
    main()
