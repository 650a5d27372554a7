"""CUDA sources compiled as C++ with tests/kernels/simt: the compiler, copies with planted mistakes, the sanitizers."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.kernels.compiled import COMPILER, CSRC, ROOT, compiled, digest_of, run_compiler

SIMT = ROOT / "tests" / "kernels" / "simt"

Size = tuple[int, int]
Mistake = tuple[str, str]
"""What one place of csrc says, and what it would say. A part in « », statements or an expression, says the other thing
where a library is told the mistake's number as it runs: many share one library. What is worked out while the library is
compiled has no such part, and takes one of its own."""

ORDERS = ("fwd", "rev", "1", "2")
COMMAND = ("-std=c++20", "-O1", "-Wall")
# Libraries of one process keep their own state of the harness, which is not the same in all.
SHARED = ("-fPIC", "-shared", "-fno-gnu-unique")
# The kernels are inlined all the same; the rest takes a third less time to compile without.
SPARING = ("-fno-inline",)
# Nor do the arrays of a thread need watching, whose indices the compiler knows: they are registers on a GPU. Checks
# are calls: as code in place, they take longer to compile than to run.
SANITIZE_ADDRESSES = (
    *("-g1", "-fsanitize=address", "-DSIMT_MAIN"),
    *("--param=asan-stack=0", "--param=asan-instrumentation-with-call-threshold=0"),
)
# The threads of a block change stacks behind the sanitizer's back, which may therefore keep none of its own.
SANITIZE_THREADS = ("-g1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0", "-DSIMT_MAIN")


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


def standard_headers() -> Path:
    """What the harness includes of the standard library, compiled: a fifth of what each library takes."""
    found = {line for path in SIMT.glob("*.h") for line in re.findall(r"#include <\w+>\n", path.read_text())}
    included = "".join(sorted(found))
    flags = (*COMMAND, *SPARING, *SHARED)

    def build(headers: Path) -> None:
        headers.mkdir()
        (headers / "standard.h").write_text(included)
        run_compiler(*flags, "-x", "c++-header", headers / "standard.h", "-o", headers / "standard.h.gch")

    return compiled("standard_headers", (included, flags, digest_of()), build) / "standard.h"


def compile_simt(name: str, source: str, flags: Sequence[str], mistakes: Sequence[Mistake] = ()) -> Path:
    """A source of tests/kernels/simt with the kernels, in which mistakes may be planted."""

    def build(target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            csrc = mistaken_csrc(Path(folder), mistakes) if mistakes else CSRC
            said = run_compiler(*COMMAND, *flags, f"-I{SIMT}", f"-I{csrc}", SIMT / source, "-o", target)
        assert "warning" not in said, said

    sources = digest_of(CSRC, CSRC / "cuda", SIMT), Path(__file__).read_text()
    return compiled(name, (source, flags, mistakes, sources), build)


def load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.simt_error.restype = ctypes.c_char_p
    return library


@functools.cache
def has_sanitizer(*flags: str) -> bool:
    """That of SANITIZE_ADDRESSES or SANITIZE_THREADS, or another."""
    with tempfile.TemporaryDirectory() as folder:
        probe, program = Path(folder, "probe.cpp"), Path(folder, "probe")
        probe.write_text("int main() { return 0; }")
        built = subprocess.run([COMPILER, *flags, probe, "-o", program], capture_output=True)
        return built.returncode == 0 and subprocess.run([program], capture_output=True).returncode == 0


def run_sanitized(*command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)


class Build(NamedTuple):
    """Kernels of some sizes as a library or a sanitized program, maybe with mistakes."""

    source: str
    sizes: tuple[tuple[Size, int], ...]  # each with the bits of its kinds (SIMT_KINDS)
    mistakes: tuple[Mistake, ...] = ()
    sanitize: tuple[str, ...] = ()
    alone: bool = False  # without the kernels that do the same in several launches

    @property
    def size(self) -> Size:
        return self.sizes[0][0]

    @property
    def name(self) -> str:
        """Tells libraries of one source apart; of those with mistakes there is one."""
        parts = [f"{height}x{width}" for (height, width), _ in self.sizes]
        parts = ["mistaken" if self.mistakes else "-".join(parts), *(["sanitized"] if self.sanitize else [])]
        return re.sub(r"[^\w-]+", "_", "-".join([self.source.removesuffix(".cpp"), *parts]))

    def __str__(self) -> str:
        return self.name

    def path(self) -> Path:
        """Compiles it, unless it is there."""
        columns: dict[int, int] = {}
        for (height, _), bits in self.sizes:
            columns[height] = columns.get(height, 0) | bits
        planes = {f"height == {height} && width == {width}": bits for (height, width), bits in self.sizes}
        heights = {f"height == {height}": bits for height, bits in columns.items()}
        widths = " || ".join(f"width == {width}" for (_, width), _ in self.sizes)
        of = lambda choices: "".join(f"{choice} ? {bits} : " for choice, bits in choices.items()) + "0"
        flags = [*SPARING, f"-DSIMT_HEIGHT={self.size[0]}", f"-DSIMT_WIDTH={self.size[1]}"]
        flags += [f"-DSIMT_KINDS(height, width)=({of(planes)})", f"-DSIMT_COLUMN_KINDS(height)=({of(heights)})"]
        flags += [f"-DSIMT_HAS_WIDTH(width)=({widths})"]
        flags += ["-DSIMT_ALONE"] if self.alone else []
        flags += self.sanitize or [*SHARED, "-Winvalid-pch", "-include", str(standard_headers())]
        return compile_simt(self.name, self.source, tuple(flags), self.mistakes)


def with_mistakes(builds: Sequence[tuple[Build, Mistake]]) -> list[tuple[Build, int]]:
    """For each the build that makes the mistake, and its number there: builds that differ in their sizes share one."""
    result = []
    for build, mistake in builds:
        if not is_chosen(mistake):
            result.append((build._replace(mistakes=(mistake,)), 0))
            continue
        alike = [(b, m) for b, m in builds if is_chosen(m) and b._replace(sizes=()) == build._replace(sizes=())]
        kinds: dict[Size, int] = {}
        for size, bits in (pair for b, _ in alike for pair in b.sizes):
            kinds[size] = kinds.get(size, 0) | bits
        together = tuple(dict.fromkeys(m for _, m in alike))
        shared = build._replace(sizes=tuple(kinds.items()), mistakes=together)
        result.append((shared, together.index(mistake) + 1))
    return result
