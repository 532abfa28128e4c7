"""What `lens --help`, mistyped words and the completion of a shell tell people."""

import os
import re
import shlex
import subprocess
import sys

import click
import pytest

from lens_pipeline.cli import lens
from lens_pipeline_tests.support.site import lens as run

_GROUP = click.Context(lens, **lens.context_settings)
_NAMES = lens.list_commands(_GROUP)
# Prints to standard error which of the project's modules it took.
_COMPLETE = """
import sys
from lens_pipeline.cli import main
try:
    main()
finally:
    print(*(name for name in sys.modules if name.startswith("lens_pipeline.")), file=sys.stderr)
"""


def test_commands_are_listed_in_groups() -> None:
    told = run("--help").out
    groups = [word for word in ("Run:", "Look:", "Work:", "Set up:") if f"\n{word}\n" in told]
    assert len(groups) == 4
    assert [name for name in _NAMES if not re.search(rf"^  {name} ", told, re.MULTILINE)] == []


@pytest.mark.parametrize("name", _NAMES)
def test_a_command_has_two_examples_that_it_understands(name: str) -> None:
    """An example with an option that was renamed."""
    examples = run(name, "--help").out.partition("Examples:\n")[2].splitlines()
    assert len(examples) == 2
    command = lens.get_command(_GROUP, name)
    assert command is not None
    for example in examples:
        found = re.search(rf"\blens {name}(?P<arguments>[^|>)\"]*)", example)
        assert found is not None, example
        command.make_context(name, shlex.split(found["arguments"]), parent=_GROUP)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("stauts", "status"),
        ("deadletters", "dead-letters"),
        ("status --jsn", "--json"),
    ],
)
def test_a_mistyped_word_is_guessed(line: str, meant: str) -> None:
    told = run(*line.split())
    assert (told.code, f"'{meant}'" in told.err.partition("Did you mean")[2]) == (2, True)
    assert run("zzz").err.count("Did you mean") == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_names_without_loading_commands(shell: str) -> None:
    """A key press that takes as long as the command would."""
    assert "_LENS_COMPLETE" in run("completion", shell).out
    words = {"COMP_WORDS": "lens s", "COMP_CWORD": "s" if shell == "fish" else "1"}
    done = subprocess.run(
        [sys.executable, "-c", _COMPLETE],
        env={**os.environ, **words, "_LENS_COMPLETE": f"{shell}_complete"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "status" in done.stdout
    assert "lens_pipeline.cli.inspect" not in done.stderr
