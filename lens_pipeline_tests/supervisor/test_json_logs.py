"""Logs of which every line is one JSON object, whatever wrote it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lens_pipeline.supervisor.json_logs import as_object
from lens_pipeline.supervisor.program import Program
from lens_pipeline.supervisor.supervisor import Supervisor
from lens_pipeline_tests.support.site import eventually

_WRITER = """
import sys, time
print('{"message": "its own"}', flush=True)
sys.stdout.write("half a "); sys.stdout.flush(); time.sleep(0.2)
print("line")
print("100 % of {them", flush=True)
sys.stdout.buffer.write(b"\\xff not UTF-8\\n\\n"); sys.stdout.flush()
sys.stderr.write("the last words"); sys.stderr.flush()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [(b"plain", "plain"), (b'{"a":', '{"a":'), (b"[1]", "[1]"), (b'"x"\r', '"x"')],
)
def test_what_is_no_object_is_put_into_one(line: bytes, message: str) -> None:
    entry = json.loads(as_object(line, "postgres"))
    assert (entry["logger"], entry["message"], entry["level"]) == ("postgres", message, "info")
    assert entry["time"].endswith("+00:00")


def test_an_object_stays_and_an_empty_line_goes() -> None:
    assert as_object(b'{"a": 1}', "api") == b'{"a": 1}\n'
    assert as_object(b" \r", "api") == b""


@pytest.mark.slow
def test_why_a_role_does_not_start_is_an_object_as_well(tmp_path: Path) -> None:
    """The one line that says what is wrong, dropped by what collects the logs."""
    given = {"LENS_DATABASE_URL": "postgresql://lens@127.0.0.1:1/lens", "LENS_LOG_FORMAT": "json"}
    given |= {"LENS_HOME": str(tmp_path), "LENS_BROKER_URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run(
        [sys.executable, "-m", "lens_pipeline.cli", "worker", "--queue", "previews"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    (entry,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (done.returncode, done.stdout, entry["level"]) == (2, "", "error")
    assert "cannot be reached" in entry["message"]


@pytest.mark.slow
def test_a_program_that_knows_no_json(tmp_path: Path) -> None:
    program = Program("writer", (sys.executable, "-c", _WRITER), stop_seconds=1)
    log, own = tmp_path / "logs" / "writer.log", tmp_path / "logs" / "supervisord.log"
    with Supervisor(tmp_path, [program], json_logs=True) as supervisor:
        supervisor.start()
        eventually(lambda: log.exists() and log.read_text().count("\n") == 4, 20, "the lines")
    messages = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    assert messages == [
        *("its own", "half a line", "100 % of {them", "\ufffd not UTF-8", "the last words"),
    ]
    lines = [json.loads(line) for line in own.read_text().splitlines()]
    assert any(line["message"].startswith("spawned: 'writer'") for line in lines)
    assert {line["logger"] for line in lines} == {"supervisord"}
