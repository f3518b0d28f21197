"""Tables and progress on a terminal. rich is imported when something is shown, since no worker needs it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Final

CELL_MAX: Final = 60
"""What a table shows of a long text, characters."""
FILE_WIDTH: Final = 200
"""Of a table that goes to a file, characters."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def show_table(out: Any, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as wide as the terminal, each row in one line; agent and error are cut first when it is narrow."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in columns:
        table.add_column(column, no_wrap=column not in {"agent", "error"}, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    width = None if sys.stdout.isatty() else FILE_WIDTH
    Console(file=out, width=width, highlight=False).print(table)


def counter(stack: ExitStack, text: str, **counts: Any) -> Callable[..., None]:
    """A line on stderr that shows counts as they are given, until the stack ends; nothing if that is no terminal."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        return lambda **counts: None
    bar = stack.enter_context(Progress(TextColumn(text), TimeElapsedColumn(), console=console, transient=True))
    task = bar.add_task("", total=None, **counts)
    return lambda **counts: bar.update(task, **counts)


def short(text: str) -> str:
    """In one line that fits a cell."""
    line = " ".join(clean(text).split())
    return line if len(line) <= CELL_MAX else line[: CELL_MAX - 3] + "..."


def clean(text: str) -> str:
    """Text that can't move the cursor or change the title of a terminal: anybody may write to an inbox."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
