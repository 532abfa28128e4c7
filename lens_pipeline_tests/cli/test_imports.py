"""Commands that need no Dagster do not import it: that takes longer than all else they do."""

import json
import subprocess
import sys

import click
import pytest

from lens_pipeline.cli import lens
from lens_pipeline_tests.support.site import Site

# By command line: its exit status, and whether Dagster is imported after it.
_RUN = """
import contextlib, io, json, sys
from lens_pipeline.cli import main

told = {}
for line in sys.argv[1:]:
    sys.argv = ["lens", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
    told[line] = [code, "dagster" in sys.modules]
print(json.dumps(told))
"""


@pytest.mark.slow
def test_help_usage_errors_and_commands_that_only_look_need_no_dagster(site: Site) -> None:
    site.add("a", "https://example.com/a.jpg")
    names = lens.list_commands(click.Context(lens))
    well = ["status", "status a", "dead-letters", "report --days 2 --json", "verify"]
    well += [f"{name} --help" for name in names]
    wrong = [*(f"{name} --wrong" for name in names), "retry", "worker --queue x", "token"]
    command = [sys.executable, "-c", _RUN, *well, *wrong]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    expected = {line: [0, False] for line in well} | {line: [2, False] for line in wrong}
    assert json.loads(done.stdout) == expected
