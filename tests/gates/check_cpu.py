"""Regression gate for the fused CPU kernels: instructions an element, which are the same on every run.

Compiles check_cpu.cpp with the flags of the extension for each instruction set, counts, and fails where a figure is
more than 3 % above the recorded one. Figures belong to one compiler; `--record` writes them for the one at hand.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_suffix(".json")
TOLERANCE = 0.03
VECTOR_BYTES = {"avx512": 64, "avx2": 32}
FEATURES = {
    "avx512": {"avx512f", "avx512dq", "avx512vl", "avx512bw", "avx2", "fma", "f16c"},
    "avx2": {"avx2", "fma", "f16c"},
}

Figures = dict[str, float]


def compile_flags() -> list[str]:
    """The flags that setup.py compiles C++ with."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CXX_FLAGS":
            return ast.literal_eval(node.value)
    raise ValueError("setup.py: got no list CXX_FLAGS, expected the flags of the C++ compiler")


def compiler_version(compiler: str) -> str:
    """Name with major and minor version, such as "g++ 12.2"."""
    version = subprocess.check_output([compiler, "-dumpfullversion"], text=True)
    return "g++ " + ".".join(version.strip().split(".")[:2])


def count(compiler: str, instruction_set: str, double: bool, folder: Path) -> Figures:
    """Instructions an element of every case; a count of nothing where the machine does not let programs trap."""
    program = folder / f"{instruction_set}{double}"
    sources = [ROOT / "tests/gates/check_cpu.cpp", ROOT / "csrc/cpu/tables.cpp"]
    flags = [*compile_flags(), f"-DTDAS_OPS_VECTOR_BYTES={VECTOR_BYTES[instruction_set]}"]
    flags += ["-DTDAS_OPS_DOUBLE"] if double else []
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(program)], check=True)
    lines = subprocess.check_output([str(program)], text=True).splitlines()
    cases = (line.split("\t") for line in lines)
    return {f"{instruction_set}, {name}": round(int(n) / int(elements), 3) for name, n, elements in cases}


def compare(figures: Figures, recorded: Figures) -> list[str]:
    """A sentence for every figure that has risen, is gone, or is not recorded."""
    problems = []
    for name in recorded.keys() | figures.keys():
        new, old = figures.get(name), recorded.get(name)
        if new is None or old is None:
            problems.append(f"{name}: {'not counted' if new is None else 'not recorded'}")
        elif new > old * (1 + TOLERANCE):
            problems.append(f"{name}: {new:.2f} instructions an element, {100 * (new / old - 1):.1f} % above {old:.2f}")
    return sorted(problems)


def machine_sets() -> list[str]:
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.exists():
        return []
    words = set(re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)[1].split())
    return [name for name, features in FEATURES.items() if features <= words]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write the figures of this compiler to check_cpu.json")
    arguments = parser.parse_args()
    compiler, sets = shutil.which("g++"), machine_sets()
    if compiler is None or not sets:
        print(f"check-cpu: skipped, {'g++ is not found' if compiler is None else 'this machine has no AVX2'}.")
        return 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        programs = itertools.product(sets, (False, True))
        counted = pool.map(lambda each: count(compiler, *each, Path(folder)), programs)
        figures = {name: figure for part in counted for name, figure in part.items()}
    if not all(figures.values()):
        print("check-cpu: skipped, this machine does not let a program count its instructions by traps.")
        return 0
    version = compiler_version(compiler)
    records: dict[str, Figures] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    recorded = {name: n for name, n in records.get(version, {}).items() if name.split(",")[0] in sets}
    print(f"{'instructions an element, ' + version:<44}{'now':>9}{'recorded':>10}")
    for name, figure in figures.items():
        print(f"{name:<44}{figure:>9.2f}{recorded.get(name, float('nan')):>10.2f}")
    if arguments.record:
        records[version] = records.get(version, {}) | figures
        RECORD.write_text(json.dumps(records, indent=2, sort_keys=True) + "\n")
        print(f"check-cpu: recorded for {version}")
        return 0
    if version not in records:
        print(f"check-cpu: nothing is recorded for {version}.")
        return 0
    problems = compare(figures, recorded)
    print(
        "\n".join(["check-cpu: failed (`make check-cpu RECORD=1` after a rise that is wanted)", *problems])
        if problems
        else "check-cpu: no figure has risen"
    )
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
