"""CUDA sources compiled as C++ with tests/simt: the compiler, copies with planted mistakes, the address sanitizer."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
SIMT = ROOT / "tests" / "simt"
COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no g++ to compile the kernels with")

ORDERS = ("fwd", "rev", "1", "2")
SHARED = ("-fPIC", "-shared")
SANITIZE = ("-g1", "-fsanitize=address", "-DSIMT_MAIN")


def compile_simt(source: str, target: Path, *flags: str, csrc: Path = CSRC) -> Path:
    paths = [f"-I{SIMT}", f"-I{csrc}", str(SIMT / source), "-o", target]
    done = subprocess.run([COMPILER, "-std=c++20", "-O1", "-Wall", *flags, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return target


def load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.simt_error.restype = ctypes.c_char_p
    return library


def mutated_csrc(folder: Path, files: str, said: str, says: str) -> Path:
    """A copy of csrc with other words in the one place of `files` (a pattern) that says so, in any line breaks."""
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc)
    words = re.compile(r"\s+".join(map(re.escape, said.split())))
    places = [(file, place) for file in csrc.glob(files) for place in words.finditer(file.read_text())]
    assert len(places) == 1, f"{len(places)} places of csrc/{files} say {said!r}"
    ((file, place),) = places
    text = file.read_text()
    file.write_text(text[: place.start()] + says + text[place.end() :])
    return csrc


def has_sanitizer(folder: Path) -> bool:
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    built = subprocess.run([COMPILER, "-fsanitize=address", probe, "-o", folder / "probe"], capture_output=True)
    return built.returncode == 0 and subprocess.run([folder / "probe"], capture_output=True).returncode == 0


def run_sanitized(*command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
