"""What a command answers: one JSON document, or texts and tables for people."""

from collections.abc import Iterable
from collections.abc import Sequence
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.plaindata import dumps
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from typing import Any

#: Columns of a table that goes to a file or a pipe.
WIDTH = 200


@dataclass(frozen=True)
class Table:
    """Rows under columns. Cells are shown as texts; empty ones stay empty."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""


@dataclass(frozen=True)
class Answer:
    """``data`` is what --json prints; ``blocks``: texts and tables; ``attention``: the exit code is 1."""

    data: Any
    blocks: Sequence[str | Table] = field(default=())
    attention: bool = False

    def as_json(self) -> str:
        """The answer as one JSON document."""
        return dumps(self.data)

    def as_text(self, width: int | None = None) -> str:
        """The answer for people. ``width``: columns of the terminal; None: it goes to a file or a pipe."""
        return "\n".join(part for block in self.blocks for part in _lines(block, width or WIDTH))


def shown(value: Any) -> str:
    """One cell."""
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def _lines(block: str | Table, width: int) -> Iterable[str]:
    if isinstance(block, str):
        yield block
        return
    if block.title:
        yield block.title
    yield _table(block, width)


def _table(table: Table, width: int) -> str:
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text
    except ImportError:
        raise ConfigurationError(
            "tables need the package rich: install collective.zcasync[cli], or ask for --json"
        ) from None
    drawn = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=any(table.columns))
    for column in table.columns:
        drawn.add_column(column, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(shown(cell)) for cell in row))
    console = Console(width=width, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
