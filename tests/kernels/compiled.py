"""What the tests compile, kept in build/tests under what went into it: processes and runs share it."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "tests"
COMPILER = shutil.which("g++")
DAYS = 3  # that what is not used stays

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no g++ to compile the kernels with")


def run_compiler(*arguments: object, compiler: str | None = COMPILER) -> str:
    """What the compiler said; where it failed, that is the failure."""
    done = subprocess.run([str(part) for part in (compiler, *arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@functools.cache
def digest_of(*folders: Path) -> str:
    """Of the sources in these folders, as they are when first asked for, and of the compiler."""
    digest = hashlib.sha256(subprocess.check_output([COMPILER, "--version"]))
    for folder in folders:
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def compiled(name: str, inputs: Iterable[object], build: Callable[[Path], object]) -> Path:
    """The file that `build` makes where it is told to; once, as long as all inputs are the same."""
    digest = hashlib.sha256(repr([str(part) for part in inputs]).encode()).hexdigest()
    target = BUILD / f"{name}-{digest[:20]}"
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        if target.exists():
            target.touch()
            return target
        for old in BUILD.iterdir():
            if old.suffix != ".lock" and time.time() - old.stat().st_mtime > DAYS * 86400:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        partial = target.with_name(f"{target.name}.partial")
        build(partial)
        return partial.rename(target)
