"""Rows: what was measured, dicts of plain values, one a line of JSON; those of a finished measurement are packed.

python -m benchmarks.rows FILE...      packs FILE.jsonl into FILE.jsonl.xz; `read` takes both, and needs no torch
"""

from __future__ import annotations

import json
import lzma
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def rounded(value: Any, digits: int = 6) -> Any:
    """So many digits of every number; null where it is not finite."""
    if isinstance(value, dict):
        return {name: rounded(inner, digits) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner, digits) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def packed(path: Path) -> Path:
    """Where rows of `path` lie that are packed."""
    return path.with_name(f"{path.name}.xz")


def read(path: Path) -> list[Row]:
    """The rows of a file, packed ones first, none where it does not exist; a line that a process was ended in is left
    out."""
    text = lzma.decompress(packed(path).read_bytes()).decode() if packed(path).exists() else ""
    rows = []
    for line in (text + (path.read_text() if path.exists() else "")).splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def append(path: Path, row: Row) -> None:
    """Adds a row in one write, so that several processes may add to one file; after a broken line on one of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        whole = file.tell() == 0 or (file.seek(-1, os.SEEK_END), file.read(1))[1] == b"\n"
        file.write(f"{'' if whole else chr(10)}{json.dumps(row)}\n".encode())


def write(path: Path, rows: Iterable[Row]) -> None:
    """A file of these rows, packed if it is named so."""
    from tdas_ops._files import write_whole  # not where rows are read: it needs torch

    text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME) if path.suffix == ".xz" else text
    write_whole(path, lambda partial: partial.write_bytes(content))


def pack(path: Path) -> None:
    """Packs the rows of a file, each of them once."""
    rows = {json.dumps(row): row for row in read(path)}
    write(packed(path), rows.values())
    path.unlink(missing_ok=True)


def select(rows: Iterable[Row], **labels: Any) -> list[Row]:
    """Those with these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in labels.items())]


def values(rows: Iterable[Row], label: str) -> list[Any]:
    """The different values of a label, in the order of the rows."""
    return list(dict.fromkeys(row[label] for row in rows if label in row))


def main(files: Sequence[str]) -> None:
    for file in files:
        pack(Path(file.removesuffix(".xz")))


if __name__ == "__main__":
    main(sys.argv[1:])
