"""The private names of Dagster that this product builds on, and what happens without them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from dagster._daemon.daemon import SpanMarker
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
    QueuedRunCoordinatorDaemon,
)

import lens_pipeline
from lens_pipeline.engine.processes import run_queue_daemon
from lens_pipeline.engine.processes.run_queue_daemon import LensRunQueueDaemon
from lens_pipeline.engine.upstream import CONTRACT, UnknownDagster, check
from lens_pipeline_tests.support.site import Site

ROOT = Path(lens_pipeline.__file__).parent
# Packages of Dagster whose top level is public, and those of which nothing is.
LIBRARIES = ("dagster_celery", "dagster_postgres")
WITHOUT_API = ("dagster_graphql", "dagster_shared", "dagster_webserver")


def _is_private(module: str) -> bool:
    package, *parts = module.split(".")
    if package == "dagster":
        return any(part.startswith("_") for part in parts)
    return package in WITHOUT_API or (package in LIBRARIES and bool(parts))


def _private_imports() -> Iterator[tuple[Path, str, str]]:
    """File, module and name ("": the module itself) of each."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and _is_private(node.module or ""):
                yield from ((path, node.module or "", alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((path, n.name, "") for n in node.names if _is_private(n.name))


def _named() -> dict[str, set[str]]:
    """Names of the contract by module, without attributes and parameters."""
    named: dict[str, set[str]] = {}
    for modules in CONTRACT.values():
        for module, names in modules.items():
            roots = (name.partition("(")[0].partition(".")[0] for name in names)
            named.setdefault(module, set()).update(roots)
    return named


def test_every_private_import_is_named_in_the_contract() -> None:
    """An upgrade of Dagster that fails in the middle of a run."""
    named = _named()
    missing = [
        f"{path.relative_to(ROOT)}: {module} {name}"
        for path, module, name in _private_imports()
        # A name may be a module itself.
        if name not in named.get(module, ()) and f"{module}.{name}".strip(".") not in named
    ]
    assert missing == []


def test_private_imports_are_in_few_places() -> None:
    places = {path.relative_to(ROOT) for path, _, _ in _private_imports()}
    elsewhere = {p for p in places if p.parts[0] != "engine" and str(p) != "event_log/pruning.py"}
    assert elsewhere == set()


@pytest.mark.parametrize("group", CONTRACT)
def test_the_installed_dagster_is_as_named(group: str) -> None:
    check(group)


MISMATCHES = {
    "lacks _execute_run_command_body": SimpleNamespace(),
    "has _execute_run_command_body(run)": SimpleNamespace(_execute_run_command_body=lambda run: 0),
    "cannot be imported": None,
}


@pytest.mark.parametrize(("problem", "api"), MISMATCHES.items())
def test_another_dagster_is_told_in_one_line(
    problem: str, api: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dagster._cli.api", api)
    with pytest.raises(UnknownDagster, match=r"^dagster [\d.]+ is not supported: ") as caught:
        check("worker")
    line = f"dagster._cli.api {problem}, which is for: executes a run; install dagster<1.14,>=1.13"
    assert line in str(caught.value)


WITHOUT_HOOK = """
import sys
import dagster_webserver.app
import uvicorn
del dagster_webserver.app.create_app_from_workspace_process_context
uvicorn.run = lambda *_, **__: print("serves")
from lens_pipeline.web import dagster_ui
dagster_ui.main()
"""


@pytest.mark.slow
def test_a_ui_that_cannot_be_guarded_is_not_served() -> None:
    """A Dagster UI that anybody may use, because Dagster makes it otherwise than before."""
    served = subprocess.run(
        [sys.executable, "-c", WITHOUT_HOOK, "-h", "127.0.0.1", "-p", "1", "-w", "workspace.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (served.returncode, served.stdout) == (2, "")
    assert "Traceback" not in served.stderr
    told = served.stderr.splitlines()[-1]
    assert "dagster_webserver.app lacks create_app_from_workspace_process_context" in told


def test_a_daemon_that_dagster_does_not_ask_gives_up(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A run queue that stays as it is, without an error."""

    def core_loop(*_: object) -> Iterator[SpanMarker]:
        yield from (SpanMarker.START_SPAN, SpanMarker.END_SPAN)

    def end(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(QueuedRunCoordinatorDaemon, "core_loop", core_loop)
    monkeypatch.setattr(run_queue_daemon.os, "_exit", end)
    context = SimpleNamespace(instance=site.dagster)
    with pytest.raises(SystemExit):
        list(LensRunQueueDaemon().core_loop(context, Event()))  # pyright: ignore[reportArgumentType]
    assert "does not call `run_iteration`" in caplog.text
