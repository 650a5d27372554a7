"""The one renderer of tables: laid out by rich to the width of a terminal, as wide as they need to be elsewhere."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from tdas_ops._files import shown

_UNBOUNDED = 100_000  # columns; lines of a file or a pipe are not broken
_GAP = 2
_LEAST = 20  # columns; a terminal with fewer breaks the lines itself
_READABLE = 16  # columns of names: broken into narrower ones they are hard to read

Cells = Sequence[str]


def text(head: Cells, rows: Sequence[Cells], width: int | None = None, *, bold: bool = False) -> str:
    """A table as lines of text: the first column to the left, figures below their names to the right.

    Args:
        head: names of the columns; none for a list of names and values, both to the left.
        rows: as many cells each.
        width: columns of the terminal, or None for as many as it takes. Where it lacks, names are broken between their
            words, those of the first column first and never a figure; where that is not enough, each row is a list.
        bold: whether the names of the columns are printed so.
    """
    from rich.console import Console, Group  # on first use: an import of the package does not need it

    width = max(width or _UNBOUNDED, _LEAST)
    rows = [[shown(cell) for cell in row] for row in rows]
    color: Any = "standard" if bold else None
    # Of the process it asks nothing: neither its variables, nor whether it is a notebook, nor its streams.
    known: Any = {"force_terminal": bold, "color_system": color, "force_jupyter": False, "legacy_windows": False}
    console = Console(file=io.StringIO(), width=width, **known)
    if not head:
        console.print(_list(rows, width))
    elif widths := _widths(head, rows, width):
        console.print(_columns(head, rows, widths))
    else:
        for row in rows:
            values = [(f"  {name}", cell) for name, cell in zip(head[1:], row[1:], strict=True) if cell]
            console.print(Group(_cell(row[0], "bold"), _list(values, width)))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)


def _widths(head: Cells, rows: Sequence[Cells], width: int) -> list[int] | None:
    """Widths of the columns, or None where a table cannot be so narrow."""
    columns = [[row[i] for row in rows] for i in range(len(head))]
    wide = [max(len(name), _longest(cells)) for name, cells in zip(head, columns, strict=True)]
    narrow = [max(_longest(name.split()), _longest(cells)) for name, cells in zip(head, columns, strict=True)]
    for own, first in ((wide, wide[0]), (narrow, min(wide[0], _READABLE))):
        room = width - sum(own[1:]) - _GAP * (len(head) - 1)
        if room >= first:
            return [min(room, wide[0]), *own[1:]]
    return None


def _columns(head: Cells, rows: Sequence[Cells], widths: Sequence[int]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for i, (name, width) in enumerate(zip(head, widths, strict=True)):
        table.add_column(_cell(name), justify="right" if i else "left", width=width)
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _list(rows: Sequence[Cells], width: int) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=False)
    table.add_column(width=min(_longest(row[0] for row in rows), width // 2))
    table.add_column()
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(content: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(content, style=style, overflow="fold")


def _longest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)


def written(head: Cells, rows: Sequence[Cells], stream: TextIO) -> str:
    """The table for a stream: what its encoding lacks is spelled in ASCII, and only a terminal has a width and bold."""
    if not _encodes(stream, "±"):
        rows = [[cell.replace("±", "+-") for cell in row] for row in rows]
    if not stream.isatty():
        return text(head, rows)
    plain = os.environ.get("TERM") in ("dumb", "unknown") or bool(os.environ.get("NO_COLOR"))
    return text(head, rows, shutil.get_terminal_size().columns, bold=not plain)


def _encodes(stream: TextIO, sample: str) -> bool:
    try:
        sample.encode(stream.encoding or "utf-8")
    except (UnicodeError, LookupError):
        return False
    return True
