"""Files: written whole or not at all, under names that are nobody's, read with a bound, locked, and named safely."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".tdas-ops.lock"


def shown(text: object) -> str:
    """Text for a terminal: what is not printable (escape sequences, line ends, stray bytes of a name) is escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in str(text)
    )


def fresh_name(path: Path) -> Path:
    """A name beside `path`, hidden and of the same kind, that is not in use."""
    return path.with_name(f".{secrets.token_hex(8)}{path.suffix}")


@contextmanager
def fresh_files(*targets: Path) -> Iterator[list[Path]]:
    """Empty files of their own beside the targets, to be filled; at the end each is moved to its target in one step.

    What stops the body leaves the targets as they were and none of these files.
    """
    names = [fresh_name(target) for target in targets]
    try:
        for name, target in zip(names, targets, strict=True):
            try:
                # Never through a link that waits there, and with the permissions that the user's umask gives.
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(target)) from None
        yield names
        for name, target in zip(names, targets, strict=True):
            name.replace(target)
    finally:
        for name in names:
            name.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path`, then moves it there in one step."""
    with fresh_files(path) as (name,):
        write(name)


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: it cannot be read, is a pipe, a device or a folder, or has more than `limit` bytes.
    """
    # A pipe that nobody writes to would block the opening itself.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
        return file.read()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder that ask for the same; the lock of a process that was killed is free.

    Raises:
        ValueError: another one holds it, or something else has its name.
        OSError: the folder cannot be written.
    """
    path = folder / LOCK
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file() or path.stat().st_size):
        raise ValueError(f"--out: got {path}, which is not the lock of tdas-ops, expected a folder without it")
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise ValueError(f"--out: got {folder}, where another tdas-ops is at work, expected another folder") from None
    except NotImplementedError:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path)) from None


def reserve(folder: Path, size: int) -> None:
    """Finds out whether a folder has room for `size` bytes, quotas included, by taking and freeing them.

    Raises:
        OSError: it has not, or cannot be written.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
