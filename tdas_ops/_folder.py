"""A folder of runs: `run.json`, `grid.png` and one folder of pictures a run. Nothing else writes or removes there.

`run.json` lists every file with the digest of its bytes. A path may be replaced or removed while it holds what is
listed; whatever else stands in the way is refused before anything is sampled. Files are made in a folder `.partial-...`
that the record names, so that what a killed process left there is known to be this program's. Beside it,
`.partial-...-batches` has the finished batches of runs that were stopped, until these runs are finished.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tdas_ops._files import LOCK, fresh_name, locked, read_bounded, reserve, write_whole
from tdas_ops._record import FORMAT, Run, Settings, entry_of, read_record, run_of
from tdas_ops._version import __version__

RECORD, GRID = "run.json", "grid.png"
_LARGEST = 1 << 30  # bytes of a picture
_BLOCK = 1 << 12  # what a small file takes of a disk
# Unfinished files: pictures and the grid, new and old, in the one hidden folder, batches in the other one.
_OWN = re.compile(r"(new|old)/[^/]+\.png|old|grid\.png|(\d{9}|\.[0-9a-f]{16})\.safetensors")


class FolderError(ValueError):
    """One sentence about what stands in a folder of runs."""


class Folder:
    """The finished runs of a folder. Making one reads it and writes nothing.

    Attributes:
        path: the folder, which need not exist.
        record: what is in `run.json`, or what will be.

    Raises:
        ValueError: it is a file, holds runs with other settings, or a `run.json` of something else.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        with self._explained():
            self.record = self._read()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise FolderError(f"--out: got {self.path} ({reason}), expected a folder that can be written") from None

    def _read(self) -> dict[str, Any]:
        new = {
            "format": FORMAT,
            "settings": json.loads(json.dumps(asdict(self.settings))),
            "runs": [],
            "files": {},
            "partial": f".partial-{secrets.token_hex(8)}",
        }
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--out: got {self.path}, which is a file, expected a folder")
        if not os.path.lexists(self.path / RECORD):
            return new
        self._refuse_link(self.path / RECORD)
        earlier, record = read_record(self.path / RECORD)
        for name, value in asdict(self.settings).items():
            if record["runs"] and getattr(earlier, name) != value:
                raise ValueError(
                    f"--out: got {self.path}, which holds runs with {name} {getattr(earlier, name)!r}, "
                    f"expected {value!r} or another folder"
                )
        return {**new, **record, "settings": new["settings"]}

    def finished(self, run: Run) -> dict[str, Any] | None:
        """The record of a run that is complete in the folder."""
        for record in self.record["runs"]:
            if run_of(record) == run:
                return record if all((self.path / name).is_file() for name in record["pictures"]) else None
        return None

    def complete(self, runs: Iterable[Run]) -> bool:
        """Whether there is nothing left to be made."""
        return all(self.finished(run) for run in runs) and (self.path / GRID).is_file()

    def check(self, runs: Iterable[Run]) -> None:
        """What the runs that are still to be made would write over must be theirs.

        Raises:
            FolderError: something else stands there.
        """
        with self._explained():
            for run in runs:
                if not self.finished(run):
                    self._check_pictures(self.path / run.folder, run.folder)
            if not self.complete(runs):
                self._check_file(self.path / GRID, GRID)

    def _check_pictures(self, folder: Path, listed_in: str) -> None:
        self._refuse_link(folder)
        if folder.exists() and not folder.is_dir():
            self._refuse(folder)
        for entry in sorted(folder.iterdir()) if folder.exists() else []:
            self._check_file(entry, f"{listed_in}/{entry.name}")

    def _check_file(self, path: Path, listed_as: str) -> None:
        if not os.path.lexists(path):
            return
        self._refuse_link(path)
        digest = self.record["files"].get(listed_as)
        if digest is None or not path.is_file() or _digest(read_bounded(path, _LARGEST)) != digest:
            self._refuse(path)

    def _refuse_link(self, path: Path) -> None:
        if path.is_symlink():
            raise FolderError(f"--out: got {path}, which is a link, expected no links in the folder of the runs")

    def _refuse(self, path: Path) -> None:
        raise FolderError(
            f"--out: got {path}, which no run of {self.path / RECORD} has written, expected another folder"
        )

    @contextmanager
    def opened(self, runs: Sequence[Run], size: int) -> Iterator[None]:
        """Holds the folder for runs that will write `size` bytes; it and its parents are made where they are missing.

        Raises:
            ValueError: another process holds it, something in it stands in the way, it has no room or is read-only.
        """
        with ExitStack() as stack:
            with self._explained():
                self._open(stack, runs, size)
            yield

    def _open(self, stack: ExitStack, runs: Sequence[Run], size: int) -> None:
        for folder in _missing(self.path):
            try:
                folder.mkdir()
            except FileExistsError:
                if not folder.is_dir():
                    raise
            else:
                stack.callback(_remove_empty, folder)
        stack.enter_context(locked(self.path))
        stack.callback(self._remove_unused_lock, bool(_entries(self.path)))
        self.record = self._read()  # another process may have finished some
        self.check(runs)
        self._check_hidden(runs)
        self._clear(runs)
        self._check_empty(self._partial())
        reserve(self.path, size + _BLOCK * (len(runs) + 4))
        stack.callback(self._close, runs)
        self._write_record()
        self._partial().mkdir()

    def _partial(self) -> Path:
        return self.path / str(self.record["partial"])

    def batches(self, run: Run) -> Path:
        """Where the batches of a run are kept until it is finished: a place of these settings and this software."""
        about = [asdict(self.settings), entry_of(run), __version__, torch.__version__]
        return self._all_batches() / _digest(json.dumps(about, sort_keys=True).encode())[:16]

    def _all_batches(self) -> Path:
        return self.path / f"{self.record['partial']}-batches"

    def _unfinished(self, runs: Iterable[Run]) -> set[Path]:
        return {self.batches(run) for run in runs if not self.finished(run)}

    def _check_hidden(self, runs: Iterable[Run]) -> None:
        """Where the folders of unfinished files shall be, there is nothing else."""
        for folder in (self._partial(), self._all_batches(), *self._unfinished(runs)):
            self._refuse_link(folder)
            if folder.exists() and not folder.is_dir():
                self._refuse(folder)

    def _check_empty(self, folder: Path) -> None:
        for entry in sorted(folder.iterdir()) if folder.exists() else []:
            self._refuse(entry)

    def _clear(self, runs: Iterable[Run]) -> None:
        """Removes the files that are not finished, this process's own or what a killed one left, but not the batches
        of these runs that are still to be finished. What somebody else has put among them stays."""
        wanted, batches = self._unfinished(runs), self._all_batches()
        _remove_own(self._partial())
        if batches.is_dir() and not batches.is_symlink():
            for folder in batches.iterdir():
                if folder not in wanted:
                    _remove_own(folder)
                _remove_empty(folder)
            _remove_empty(batches)

    def _close(self, runs: Iterable[Run]) -> None:
        self._clear(runs)
        if not self.record["runs"] and not self._all_batches().exists():
            (self.path / RECORD).unlink(missing_ok=True)

    def _remove_unused_lock(self, used: bool) -> None:
        if not used and not _entries(self.path):
            (self.path / LOCK).unlink(missing_ok=True)

    def _write_record(self) -> None:
        text = json.dumps(self.record, indent=1) + "\n"
        write_whole(self.path / RECORD, lambda path: path.write_text(text, encoding="ascii"))

    def keep(self, run: Run, about: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
        """Adds a finished run: its pictures by name (relative to the folder) and what is recorded of it.

        Raises:
            FolderError: somebody has put something in its place meanwhile.
            OSError: it cannot be written; the folder is as it was.
        """
        name = run.folder
        new = self._partial() / "new"
        new.mkdir()
        for picture, content in pictures.items():
            (new / Path(picture).name).write_bytes(content)
        entry = {**entry_of(run), **about, "pictures": list(pictures)}
        others = [r for r in self.record["runs"] if run_of(r) != run]
        files = {n: d for n, d in self.record["files"].items() if not n.startswith(f"{name}/")}
        files |= {picture: _digest(content) for picture, content in pictures.items()}
        with self._exchanged(name, new, {"runs": [*others, entry], "files": files}):
            self._check_pictures(self._partial() / "old", name)
        with suppress(OSError):
            _remove_own(self.batches(run))

    def put_grid(self, content: bytes) -> None:
        """Writes the grid; errors as those of `keep`."""
        new = self._partial() / GRID
        new.write_bytes(content)
        with self._exchanged(GRID, new, {"files": {**self.record["files"], GRID: _digest(content)}}):
            self._check_file(self._partial() / "old", GRID)

    @contextmanager
    def _exchanged(self, name: str, new: Path, changes: dict[str, Any]) -> Iterator[None]:
        """Puts `new` in the place of `name`: the old one goes aside, where the body checks it, then the record says
        what will be there, then the new one comes. Stopped in between, the next command makes it again; an error
        brings the old one back."""
        place, old, before = self.path / name, self._partial() / "old", self.record
        if os.path.lexists(place):
            place.rename(old)
        try:
            yield
            self.record = {**self.record, **changes}
            self._write_record()
            if os.path.lexists(place):
                self._refuse(place)
            new.rename(place)
        except BaseException:
            if os.path.lexists(place) and not os.path.lexists(new):
                place.rename(new)
            if os.path.lexists(old):
                old.rename(fresh_name(place) if os.path.lexists(place) else place)
            self.record = before
            with suppress(OSError):
                self._write_record()
            raise
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)


def default_folder(name: str, settings: Settings, avoid: Path | None = None) -> Path:
    """The folder of a command that names none: of `name`, `name-2` and so on the first that is empty or missing, or
    holds runs with these settings, other than the folder of the file `avoid`."""
    for number in itertools.count(1):
        path = Path(name if number == 1 else f"{name}-{number}")
        if avoid is not None and avoid.exists() and path.exists() and path.samefile(avoid.parent):
            continue
        with suppress(ValueError, OSError):
            if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
                return path
            if read_record(path / RECORD)[0] == settings:
                return path
    raise AssertionError


def _missing(folder: Path) -> list[Path]:
    """The folder and its parents, as far as they do not exist, the outermost first."""
    missing: list[Path] = []
    while not folder.is_dir() and folder not in missing:
        missing.insert(0, folder)
        folder = folder.parent
    return missing


def _remove_own(folder: Path) -> None:
    """Removes the unfinished files in a folder, and it, where nothing is left."""
    if folder.is_symlink():
        return
    for place, folders, files in os.walk(folder, topdown=False):
        for path in (Path(place, name) for name in files):
            if _OWN.fullmatch(path.relative_to(folder).as_posix()) and not path.is_symlink():
                path.unlink()
        for name in folders:
            _remove_empty(Path(place, name))
    _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _entries(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name != LOCK]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
