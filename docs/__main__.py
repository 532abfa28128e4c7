"""Writes the tables and help texts of settings.md and commands.md: `make docs`.

The text above the mark of each page is written by hand and stays as it is.
"""

from pathlib import Path
from typing import Any

import click

from lens_pipeline.cli import lens
from lens_pipeline.settings import PREFIX, Settings

FOLDER = Path(__file__).parent
MARK = "<!-- Everything below is written by `make docs`. -->\n"
_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def rendered(page: str) -> str:
    """The whole text of `page`, with its generated part made anew."""
    by_hand, _, _ = (FOLDER / page).read_text().partition(MARK)
    return by_hand + MARK + "\n" + PAGES[page]()


def _settings() -> str:
    lines = ["| variable | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for name, described in Settings.model_json_schema()["properties"].items():
        # The first alternative of an optional field is its type.
        field = described | described.get("anyOf", [{}])[0]
        meaning = " ".join(field["description"].split())
        lines.append(
            f"| `{PREFIX}{name.upper()}` | {_default(field)} | {_allowed(field)} | {meaning} |"
        )
    return "\n".join(lines) + "\n"


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value is None or value == []:
        return ""
    if isinstance(value, list):
        return f"`{','.join(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:.15g}`" if isinstance(value, float) else f"`{value}`"


def _allowed(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "minLength" in field:
        return f"≥ {field['minLength']} characters"
    return ", ".join(f"{sign} {field[key]:g}" for key, sign in _SIGNS.items() if key in field)


def _commands() -> str:
    # As wide as a line of the source, whatever terminal this runs in.
    group = click.Context(lens, info_name="lens", terminal_width=100, **lens.context_settings)
    parts = []
    for name in lens.list_commands(group):
        command = lens.get_command(group, name)
        assert command is not None, name
        context = click.Context(command, parent=group, info_name=name)
        parts.append(f"## lens {name}\n\n```text\n{context.get_help()}\n```\n")
        for inner in command.commands.values() if isinstance(command, click.Group) else ():
            text = click.Context(inner, parent=context, info_name=inner.name).get_help()
            parts.append(f"```text\n{text}\n```\n")
    return "\n".join(parts)


PAGES = {"settings.md": _settings, "commands.md": _commands}

if __name__ == "__main__":
    for page in PAGES:
        (FOLDER / page).write_text(rendered(page))
