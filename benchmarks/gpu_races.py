"""Reads racecheck's list of hazards from its input, keeps a count of each kind, and tells what is a race.

    compute-sanitizer --tool racecheck --racecheck-report hazard ... | python benchmarks/gpu_races.py

Planes of at most 32 threads (32 x 32 and 32 x 64) wait with __syncwarp, which the assembler leaves out where it finds
the warp together; racecheck then sees no barrier. Hazards there between threads of one warp are counted apart and are
no failure; between warps, or in any other kernel, they are.
"""

from __future__ import annotations

import re
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_device import keep

HAZARD = re.compile(r"Potential (\w+) hazard detected")
ACCESS = re.compile(r"(?:Read|Write) Thread \((\d+), ?(\d+), ?(\d+)\) at (.*)")
PLANE = re.compile(r"\w*plane_kernel<(?:\(int\))?(\d+), ?(?:\(int\))?(\d+)")
KERNEL = re.compile(r"(\w+)(?:<.*?>)?\(|(\w+)\+0x")
OTHER = re.compile(r"^(?!=)|SUMMARY|Internal")  # what is not of a hazard


class Hazard(NamedTuple):
    kind: str
    kernel: str
    excused: bool  # within a warp of a plane that waits with __syncwarp


def hazards(lines: Iterable[str]) -> Iterator[Hazard]:
    """Every hazard of a report: the line that announces it, and one line for each of its two accesses."""
    kind, accesses = "", list[re.Match[str]]()
    for line in lines:
        if found := HAZARD.search(line):
            kind, accesses = found[1], []
        elif kind and (access := ACCESS.search(line)):
            accesses.append(access)
            if len(accesses) == 2:
                yield _hazard(kind, accesses)
                kind = ""


def _hazard(kind: str, accesses: list[re.Match[str]]) -> Hazard:
    where = accesses[0][4]
    plane = PLANE.search(where)
    by_warps = plane is not None and int(plane[1]) * int(plane[2]) // 64 <= 32
    # Blocks are lines of threads, so that y and z are zero.
    same_warp = len({int(access[1]) // 32 for access in accesses}) == 1
    named = KERNEL.search(where)
    kernel = plane[0] + ">" if plane else (named[1] or named[2]) if named else where[:60]
    return Hazard(kind, kernel, by_warps and same_warp)


def main() -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the checker may be ended; what it has found remains

    def lines() -> Iterator[str]:
        for line in sys.stdin:
            if OTHER.search(line):
                print(line, end="", flush=True)
            yield line

    counts = Counter(hazards(lines()))
    for hazard, count in counts.items():
        keep(ok=hazard.excused, case=f"{hazard.kind} {hazard.kernel}", hazards=count, within_a_warp=hazard.excused)
    return int(not all(hazard.excused for hazard in counts))


if __name__ == "__main__":
    sys.exit(main())
