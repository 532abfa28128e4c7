"""Programs that the tests need and no wheel has; prints the Debian packages of the missing ones."""

import shutil

from lens_pipeline_tests.web.pages import chromium

# Debian's package by program. Chromium has several names.
PACKAGES = {
    "promtool": "prometheus",
    "caddy": "caddy",
    "nginx": "nginx-light",
    "docker-compose": "docker-compose",
    "systemd-analyze": "systemd",
    "epmd": "rabbitmq-server",
    "rabbitmq-server": "rabbitmq-server",
}
# Where Debian has programs that only root has on PATH.
_SYSTEM = "/usr/sbin"


def find(program: str) -> str:
    """Its path. Raises FileNotFoundError, saying how to get it."""
    found = _which(program)
    if found is None:
        raise FileNotFoundError(f"no {program}: apt install {PACKAGES[program]}")
    return found


def missing() -> list[str]:
    """Debian packages of what this machine lacks."""
    packages = {package for program, package in PACKAGES.items() if not _which(program)}
    return sorted(packages if chromium.find() else {"chromium", *packages})


def _which(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=_SYSTEM)


if __name__ == "__main__":
    print(*missing())
