"""Containerfile, scripts and compose.yaml, by their own checkers and by what they mean together."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from lens_pipeline.derivatives.registry import QUEUES
from lens_pipeline.settings import load
from lens_pipeline.supervisor.roles import ROLES
from lens_pipeline_tests.deploy.compose import compose

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# What a worker needs after the grace of its runs: cancelling them and recording that, seconds.
CANCEL_SECONDS = 20
VENV = Path(sys.executable).parent


def check(program: str, *arguments: object) -> None:
    """Run a checker of this environment; it must find nothing."""
    done = subprocess.run(
        [VENV / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_hadolint_finds_nothing() -> None:
    check("hadolint", "--failure-threshold", "style", DEPLOY / "Containerfile")


def test_shellcheck_finds_nothing() -> None:
    scripts = [
        path for path in DEPLOY.rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!")
    ]
    assert len(scripts) >= 5
    check("shellcheck", "--external-sources", *scripts)


def test_actionlint_finds_nothing() -> None:
    check("actionlint", "-shellcheck", VENV / "shellcheck", ROOT / ".github/workflows/lens.yml")


DOCKER = """\
#!/bin/sh
echo "$IMAGE $*" >> "$CALLS"
case "$*" in
  *--services) printf 'postgres\\napi\\ndaemon\\ncode\\nmigrate\\n' ;;
  *migrate*) [ "$IMAGE" != lens:tables ] ;;
  "compose up"*daemon) [ "$IMAGE" != lens:broken ] ;;
  "compose up"*code) [ "$IMAGE" != "$LOST" ] ;;
esac
"""


def test_a_rollout_goes_role_by_role_and_back(tmp_path: Path) -> None:
    """A bad image on all roles at once, or no way back when it turns out to be bad."""
    shutil.copy(DEPLOY / "rollout.sh", tmp_path)
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    calls = tmp_path / "calls"
    said = ""

    def rollout(argument: str, **variables: str) -> tuple[int, list[str]]:
        """Status, and the image of each role that was started."""
        nonlocal said
        calls.write_text("")
        done = subprocess.run(
            [tmp_path / "rollout.sh", argument],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls), **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        said = done.stderr
        lines = [line.split() for line in calls.read_text().splitlines() if " up " in line]
        return done.returncode, [f"{line[0]} {line[-1]}" for line in lines]

    (tmp_path / ".env").write_text("API_TOKEN=secret\n")
    assert rollout("lens:2") == (2, [])
    assert rollout("--back") == (2, [])
    # Compose takes quotes, and a file whose last line has no end.
    (tmp_path / ".env").write_text("IMAGE='lens:1'  # mine\nAPI_TOKEN=secret")

    assert rollout("lens:2") == (0, ["lens:2 code", "lens:2 daemon", "lens:2 api"])
    environment = (tmp_path / ".env").read_text()
    assert environment == "IMAGE=lens:2\nPREVIOUS_IMAGE=lens:1\nAPI_TOKEN=secret"
    assert rollout("lens:tables") == (2, [])
    broken = ["lens:broken code", "lens:broken daemon", "lens:2 code", "lens:2 daemon"]
    assert rollout("lens:broken") == (2, broken)
    assert said.endswith(": back to lens:2\n")
    assert rollout("lens:broken", LOST="lens:2") == (2, broken)
    assert said.endswith(": back to lens:2, but these do not run again: code\n")
    assert (tmp_path / ".env").read_text() == environment
    assert rollout("--back") == (0, ["lens:1 code", "lens:1 daemon", "lens:1 api"])
    assert "PREVIOUS_IMAGE=lens:2" in (tmp_path / ".env").read_text()
    # The one that runs, made anew under the same name.
    assert rollout("lens:1") == (0, ["lens:1 code", "lens:1 daemon", "lens:1 api"])
    assert "PREVIOUS_IMAGE=lens:2" in (tmp_path / ".env").read_text()


@pytest.mark.parametrize(
    ("variables", "sent"),
    [
        ({"TAG": "v1.2-rc_3"}, "lens/deploy/rollout.sh registry/lens:v1.2-rc_3"),
        ({"TAG": ""}, "lens/deploy/rollout.sh --back"),
        ({"TAG": "v1; reboot"}, None),
        ({"TAG": "v1", "HOSTS": ""}, None),
    ],
)
def test_the_workflow_sends_a_tag_and_no_other_command(
    variables: Mapping[str, str], sent: str | None, tmp_path: Path
) -> None:
    """What is typed at *Run workflow*, run by the shell of every host."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/lens.yml").read_text())
    (tmp_path / "ssh").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "ssh").chmod(0o755)
    known = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "IMAGE": "registry/lens", "HOSTS": "a b"}
    done = subprocess.run(
        ["bash", "-e", "-c", workflow["jobs"]["deploy"]["steps"][-1]["run"]],
        env={**known, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.stdout.splitlines() == ([f"{host} {sent}" for host in "ab"] if sent else [])
    assert (done.returncode == 0) == (sent is not None)


def test_what_the_image_copies_is_in_its_context() -> None:
    """A build that needs files which a clean checkout does not have."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    text = (DEPLOY / "Containerfile").read_text()
    copies = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", text, re.MULTILINE)
    copied = {name for line in copies for name in line.split()}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_every_version_is_this_one() -> None:
    """An upgrade that installs the previous image."""
    assert f"IMAGE=lens-pipeline:{VERSION}" in (DEPLOY / "example.env").read_text()
    chart = yaml.safe_load((DEPLOY / "helm" / "lens" / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    values = yaml.safe_load((DEPLOY / "helm" / "dagster-values.yaml").read_text())
    assert values["dagsterWebserver"]["image"]["tag"] == VERSION
    assert values["dagsterDaemon"]["image"]["tag"] == VERSION


def config(directory: Path, *options: str) -> Mapping[str, Any]:
    done = subprocess.run(
        [*compose(), *options, "config"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "variable is not set" not in done.stderr
    return yaml.safe_load(done.stdout)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """compose.yaml, with example.env filled in."""
    directory = tmp_path_factory.mktemp("compose")
    for name in ("compose.yaml", "Caddyfile", "compose"):
        source = DEPLOY / name
        if source.is_dir():
            shutil.copytree(source, directory / name)
        else:
            shutil.copy(source, directory / name)
    example = (DEPLOY / "example.env").read_text()
    filled = re.sub(r"^(\w+)=$", r"\1=0123456789abcdef", example, flags=re.MULTILINE)
    assert filled != example
    (directory / ".env").write_text(filled)
    shutil.copy(DEPLOY / "example.lens.env", directory / "lens.env")
    return directory


@pytest.fixture(scope="module")
def project(directory: Path) -> Mapping[str, Any]:
    """It as Compose understands it."""
    return config(directory)


@pytest.mark.slow
def test_the_backup_has_all_its_scripts(directory: Path) -> None:
    """A nightly job that ends at a file which its container lacks, or with another pg_dump."""
    services = config(directory, "--profile", "backup")["services"]
    backup = services["backup"]
    mounted = set(re.findall(r"/deploy/([\w-]+\.sh)", str(backup["volumes"])))
    assert mounted == {"backup.sh", "check-backup.sh", "restore.sh", "databases.sh"}
    assert backup["image"] == services["postgres"]["image"]


@pytest.mark.slow
def test_compose_runs_every_role_with_settings_that_are_valid(project: Mapping[str, Any]) -> None:
    """A container that ends at once because its settings are invalid."""
    roles = {
        name: service
        for name, service in project["services"].items()
        if service["image"] == f"lens-pipeline:{VERSION}"
    }
    commands = {tuple(service["command"]) for service in roles.values()}
    assert commands == {
        *(("run", role) for role in ROLES),
        *(("worker", "--queue", queue) for queue in QUEUES),
        ("migrate",),
    }
    for name, service in roles.items():
        lens = {k: str(v) for k, v in service["environment"].items() if k.startswith("LENS_")}
        settings, warnings = load(lens, dotenv=None)
        assert warnings == []
        assert settings.code_bind == ("0.0.0.0" if name == "code" else "127.0.0.1")
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        if name.startswith("worker"):
            stop = seconds(service["stop_grace_period"])
            assert stop >= settings.grace_seconds + CANCEL_SECONDS


def seconds(duration: str) -> int:
    minutes = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert minutes is not None, duration
    return int(minutes[1] or 0) * 60 + int(minutes[2] or 0)


@pytest.mark.slow
def test_compose_opens_the_proxy_alone(project: Mapping[str, Any]) -> None:
    """A database, a store or a code server on the internet."""
    services = project["services"]
    assert {name for name, service in services.items() if service.get("ports")} == {"proxy"}
    assert set(services["proxy"]["networks"]) == {"edge"}
    beside_it = {name for name, service in services.items() if "edge" in service["networks"]}
    assert beside_it == {"proxy", "api", "dagster"}
    address = services["proxy"]["networks"]["edge"]["ipv4_address"]
    assert services["api"]["environment"]["LENS_TRUSTED_PROXIES"] == address


@pytest.mark.slow
def test_compose_waits_for_what_says_that_it_is_healthy(project: Mapping[str, Any]) -> None:
    """A start that waits for ever, or not at all."""
    services = project["services"]
    for name, service in services.items():
        assert re.search(r":[\d.]+(-\w+)?$", service["image"]), name
        if name not in ("migrate", "backup"):
            assert service["restart"] == "unless-stopped"
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                own = services[other]["image"].startswith("lens-pipeline:")
                assert own or services[other]["healthcheck"]["test"], other
            else:
                assert (how["condition"], other) == ("service_completed_successfully", "migrate")
