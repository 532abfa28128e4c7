"""Tables of text for commands that look."""

import io
from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Characters: more than the longest reason and id have.
_WIDEST = 1000


def print_table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Container[int] = ()
) -> None:
    """Fit the table into the terminal; elsewhere each row is one line. `right`: aligned columns."""
    from rich.table import Table  # `lens status ID` has no table

    table = Table(box=None, pad_edge=False)
    for place, title in enumerate(titles):
        table.add_column(title, justify="right" if place in right else "left")
    for row in rows:
        table.add_row(*row)
    console = _console()
    if console.is_terminal:
        console.print(table)
        return
    text = io.StringIO()
    _console(text, _WIDEST).print(table)
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def _console(file: io.StringIO | None = None, width: int | None = None) -> "Console":
    """What a cell holds is no markup."""
    from rich.console import Console

    return Console(file=file, width=width, markup=False, emoji=False, highlight=False)
