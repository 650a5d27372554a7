"""`make bench`: the benchmarks of this machine's CPU.

python -m benchmarks.run                      all of them, into benchmarks/results/ and RESULTS.md
python -m benchmarks.run -k "step and LSUN"   groups whose names have these words: prints their figures, keeps nothing
python -m benchmarks.run --base main          the package against another commit of it, with the same benchmark code

Names are such as `update step pds both LSUN`; words are joined by `and`, alternatives by `or`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator

from benchmarks import bench_floor, bench_overhead, bench_scaling, bench_update, compare, measure, performance, report
from benchmarks.circumstances import circumstances, instruction_set
from benchmarks.parity import ParityError
from benchmarks.rows import Row

MODULES = (bench_update, bench_scaling, bench_floor, bench_overhead)
MAIN_TABLE = "update step pds or corrector"


def wanted(name: str, expression: str) -> bool:
    """Whether a name has all words of one of the alternatives."""
    return any(all(word in name for word in part.split(" and ")) for part in expression.split(" or "))


def chosen(expression: str) -> Iterator[tuple[str, measure.Build]]:
    for module in MODULES:
        yield from ((name, build) for name, build in module.groups() if wanted(name, expression))


def run(expression: str) -> list[Row]:
    """The rows of the groups, printed one group after the other.

    Raises:
        SystemExit: something is computed wrongly, so that no figure can be trusted; or nothing has such a name.
    """
    rows: list[Row] = []
    for name, build in chosen(expression):
        try:
            found = build()
            rows += (own := found if isinstance(found, list) else measure.measured(found))
        except ParityError as error:
            raise SystemExit(f"benchmarks: {name}: {error}; nothing is kept") from None
        print(report.listing(name, own), flush=True)
    if not rows:
        raise SystemExit(f"benchmarks: -k: got {expression!r}, expected words as in 'update step pds both LSUN'")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="", metavar="WORDS", help="only groups whose names have these words")
    parser.add_argument("--keep", action="store_true", help="write the rows of a selection as well")
    parser.add_argument("--base", metavar="REF", help="branch, tag or commit")
    arguments = parser.parse_args()
    if arguments.base is not None:
        compare.against(arguments.base)
        return
    warnings.filterwarnings("ignore", "M: got a 'pds' filter", RuntimeWarning)  # these masks were made for no data
    rows = run(arguments.k)
    if arguments.k and not arguments.keep:
        return
    copy = {"copy_gb_per_s": round(measure.copy_bandwidth() / 1e9, 2)}
    report.write(instruction_set(), circumstances() | copy, rows)
    if not arguments.k:
        if instruction_set() == "avx512":
            # What most machines run, on the machine at hand: the main table alone.
            command = [sys.executable, "-m", "benchmarks.run", "--keep", "-k", MAIN_TABLE]
            subprocess.run(command, env={**os.environ, "TDAS_OPS_CPU_ISA": "avx2"}, check=True)
        report.write_page()
        performance.write_page()


if __name__ == "__main__":
    main()
