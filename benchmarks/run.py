"""`make bench`: all benchmarks of this machine's CPU, then RESULTS.md.

python -m benchmarks.run                      everything, into benchmarks/results/ and RESULTS.md
python -m benchmarks.run -k "step and LSUN"   a selection (pytest's arguments): prints its figures, keeps nothing
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.circumstances import instruction_set

ROOT = Path(__file__).resolve().parents[1]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--benchmark-quiet"]
PYTEST += ["-W", "ignore::DeprecationWarning"]  # torch.compile brings some


def run(command: list[str], **environment: str) -> None:
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(done.returncode)


def main(arguments: list[str]) -> None:
    if arguments:
        named = any((ROOT / argument.split("::")[0]).exists() for argument in arguments)
        run([*PYTEST, *([] if named else ["benchmarks"]), *arguments])
        return
    run([*PYTEST, "--results", "benchmarks"])
    if instruction_set() == "avx512":
        # What most machines run, on the machine at hand: the main table alone.
        selection = ["benchmarks/bench_update.py", "-k", "test_step and pds or test_corrector"]
        run([*PYTEST, "--results", *selection], TDAS_OPS_CPU_ISA="avx2")
    run([sys.executable, "-m", "benchmarks.report"])


if __name__ == "__main__":
    main(sys.argv[1:])
