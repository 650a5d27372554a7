"""CUDA sources compiled as C++ with tests/simt: the compiler, copies with planted mistakes, the address sanitizer."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
SIMT = ROOT / "tests" / "kernels" / "simt"
COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no g++ to compile the kernels with")

Size = tuple[int, int]
Mistake = tuple[str, str]
"""What one place of csrc says, and what it would say. A part in « », statements or an expression, says the other thing
where a library is told the mistake's number as it runs: many share one library. What is worked out while the library is
compiled has no such part, and takes one of its own."""

ORDERS = ("fwd", "rev", "1", "2")
# Libraries of one process keep their own state of the harness, which is not the same in all.
SHARED = ("-fPIC", "-shared", "-fno-gnu-unique")
SANITIZE = ("-g1", "-fsanitize=address", "-DSIMT_MAIN")
# The threads of a block change stacks behind the sanitizer's back, which may therefore keep none of its own.
SANITIZE_THREADS = ("-g1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0", "-DSIMT_MAIN")


COMMAND = (COMPILER, "-std=c++20", "-O1", "-Wall")
# The kernels are inlined all the same; the rest takes a third less time to compile without.
SPARING = ("-fno-inline",)


def compile_simt(source: str, target: Path, *flags: str, csrc: Path = CSRC) -> Path:
    paths = [f"-I{SIMT}", f"-I{csrc}", str(SIMT / source), "-o", target]
    done = subprocess.run([*COMMAND, *flags, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return target


def standard_headers(folder: Path) -> Path:
    """What simt.h includes of the standard library, compiled once: a fifth of what each library takes."""
    headers, compiled = folder / "standard.h", folder / "standard.h.gch"
    if not compiled.exists():
        folder.mkdir(exist_ok=True)
        headers.write_text("".join(re.findall(r"#include <\w+>\n", (SIMT / "simt.h").read_text().partition("#if")[0])))
        subprocess.run([*COMMAND, *SPARING, *SHARED, "-x", "c++-header", headers, "-o", compiled], check=True)
    return headers


def load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.simt_error.restype = ctypes.c_char_p
    return library


def is_chosen(mistake: Mistake) -> bool:
    """Whether a library makes it where it is told so, and not always."""
    return "«" in mistake[0]


def place_of(csrc: Path, said: str) -> tuple[Path, int, int]:
    """The one place of the sources of the kernels that says so, in any line breaks: file, begin and end of the part."""
    pieces = re.findall(r"[«»]|\s+|[^«»\s]+", said)
    named = {"«": "(", "»": ")"}
    words = re.compile("".join(r"\s+" if piece.isspace() else named.get(piece) or re.escape(piece) for piece in pieces))
    places = [
        (file, *found.span(words.groups))
        for file in [*csrc.glob("*.h"), *csrc.glob("cuda/*")]
        for found in words.finditer(file.read_text())
    ]
    assert len(places) == 1, f"{len(places)} places of csrc say {said!r}"
    return places[0]


def planted(part: str, mistakes: list[tuple[int, str]]) -> str:
    """Statements, or an expression, that are those of a mistake where its number is chosen."""
    if not part or part.endswith(";"):
        chosen = "".join(f"if (simt::planted({number})) {{ {says} }} else " for number, says in mistakes)
        return f"{{ {chosen}{{ {part} }} }}"
    chosen = "".join(f"simt::planted({number}) ? ({says}) : " for number, says in mistakes)
    return f"({chosen}({part}))"


def mistaken_csrc(folder: Path, mistakes: Sequence[Mistake]) -> Path:
    """A copy of csrc with these mistakes, those that are chosen by the number of their place, from 1 on."""
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc)
    places: dict[tuple[Path, int, int], list[tuple[int, str]]] = {}
    for i, mistake in enumerate(mistakes):
        places.setdefault(place_of(csrc, mistake[0]), []).append((i + 1 if is_chosen(mistake) else 0, mistake[1]))
    for file, begin, end in sorted(places, key=lambda place: place[1], reverse=True):
        text, here = file.read_text(), places[file, begin, end]
        assert all(not (f == file and begin < e <= end and (b, e) != (begin, end)) for f, b, e in places), text[
            begin:end
        ]
        says = planted(text[begin:end], here) if here[0][0] else here[0][1]
        file.write_text(text[:begin] + says + text[end:])
    return csrc


def has_sanitizer(folder: Path, *flags: str) -> bool:
    """The address sanitizer, or that of SANITIZE_THREADS."""
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    built = subprocess.run([COMPILER, *(flags or SANITIZE), probe, "-o", folder / "probe"], capture_output=True)
    return built.returncode == 0 and subprocess.run([folder / "probe"], capture_output=True).returncode == 0


def run_sanitized(*command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)


class Build(NamedTuple):
    """Kernels of one size as a library or a sanitized program, maybe with a mistake."""

    size: Size
    kinds: int = 0  # bits of SIMT_KINDS; all
    mistakes: tuple[Mistake, ...] = ()
    sanitized: bool = False
    source: str = "plane_library.cpp"
    flags: tuple[str, ...] = ()

    def run(self, folder: Path, headers: Future[Path]) -> Path:
        folder.mkdir()
        csrc = mistaken_csrc(folder, self.mistakes) if self.mistakes else CSRC
        flags = [*SPARING, f"-DSIMT_HEIGHT={self.size[0]}", f"-DSIMT_WIDTH={self.size[1]}"]
        flags += [f"-DSIMT_KINDS={self.kinds}"] if self.kinds else []
        # Nor do the arrays of a thread need watching, whose indices the compiler knows: they are registers on a GPU.
        if SANITIZE_THREADS[1] not in self.flags:
            library = [*SHARED, "-Winvalid-pch", "-include", str(headers.result())]
            flags += [*SANITIZE, "--param=asan-stack=0"] if self.sanitized else library
        flags += self.flags
        return compile_simt(self.source, folder / "kernels", *flags, csrc=csrc)


def with_mistakes(builds: Sequence[tuple[Build, Mistake]]) -> list[tuple[Build, int]]:
    """For each the build that makes the mistake, and its number there: builds that differ in their kinds share one."""
    result = []
    for build, mistake in builds:
        if not is_chosen(mistake):
            result.append((build._replace(mistakes=(mistake,)), 0))
            continue
        alike = [(b.kinds, m) for b, m in builds if is_chosen(m) and b._replace(kinds=0) == build._replace(kinds=0)]
        kinds, together = functools.reduce(int.__or__, (k for k, _ in alike)), tuple(dict.fromkeys(m for _, m in alike))
        result.append((build._replace(kinds=kinds, mistakes=together), together.index(mistake) + 1))
    return result


class Builds:
    """What was built, side by side while tests run."""

    def __init__(self, folder: Path, headers: Path):
        self.folder = folder
        self.pool = ThreadPoolExecutor(os.cpu_count())
        self.headers = self.pool.submit(standard_headers, headers)
        self.started: dict[Build, Future[Path]] = {}

    def start(self, build: Build) -> Future[Path]:
        if build not in self.started:
            self.started[build] = self.pool.submit(build.run, self.folder / str(len(self.started)), self.headers)
        return self.started[build]

    def path(self, build: Build) -> Path:
        return self.start(build).result()


def start_builds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builds]:
    """For a fixture of a module: starts all that its tests of this run need, in their order."""
    builds = Builds(tmp_path_factory.mktemp("kernels"), tmp_path_factory.getbasetemp() / "standard")
    for item in request.session.items:
        if item.path == request.path and hasattr(item, "callspec") and "build" in item.callspec.params:
            builds.start(item.callspec.params["build"])
    yield builds
    builds.pool.shutdown(cancel_futures=True)
