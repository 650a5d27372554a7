"""Compile gate for the CUDA kernels: builds every csrc/cuda/*.cu for each architecture and prints what ptxas reports.

Needs nvcc and no GPU. A register spill fails the run.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("80", "90", "100")


class Kernel(NamedTuple):
    """What ptxas says of one kernel on one architecture."""

    name: str
    architecture: str
    registers: int
    spill_bytes: int
    shared_bytes: int


def short_name(mangled: str) -> str:
    """The function's own name out of a mangled one: the last length-prefixed identifier outside template arguments."""
    names, rest = [], mangled.removeprefix("_ZN").removeprefix("_Z")
    while found := re.match(r"(\d+)", rest):
        length = int(found[1])
        start = len(found[1])
        names.append(rest[start : start + length])
        rest = rest[start + length :]
    return names[-1] if names else mangled


def parse(report: str) -> list[Kernel]:
    """The kernels of one `ptxas -v` report."""
    kernels = []
    entries = re.split(r"Compiling entry function ", report)[1:]
    for entry in entries:
        name, architecture = re.match(r"'(\w+)' for 'sm_(\w+)'", entry).groups()
        spills = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", entry)]
        registers = int(re.search(r"Used (\d+) registers", entry)[1])
        shared = re.search(r"(\d+) bytes smem", entry)
        kernels.append(Kernel(short_name(name), architecture, registers, sum(spills), int(shared[1]) if shared else 0))
    return kernels


def compile_source(nvcc: str, source: Path, architecture: str) -> tuple[int, str]:
    """Exit status and report of one compilation; a spill is an error."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            nvcc,
            "-std=c++20",
            "-O3",
            "--expt-relaxed-constexpr",
            f"-gencode=arch=compute_{architecture},code=sm_{architecture}",
        ]
        command += ["-Xptxas", "-v,-warn-spills,-Werror", "-cubin", "-o", f"{folder}/out.cubin", str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--require", action="store_true", help="fail where nvcc is not found")
    parser.add_argument("sources", nargs="*", type=Path, help="default: csrc/cuda/*.cu")
    arguments = parser.parse_args()
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("check-cuda: skipped, nvcc is not found; the CUDA kernels were not compiled.")
        return int(arguments.require)
    failed = False
    print(f"{'kernel':<32}{'arch':>6}{'registers':>11}{'spill B':>9}{'shared B':>10}")
    for source in arguments.sources or sorted((ROOT / "csrc/cuda").glob("*.cu")):
        for architecture in ARCHITECTURES:
            status, report = compile_source(nvcc, source, architecture)
            for k in parse(report) if status == 0 else []:
                print(f"{k.name:<32}{'sm_' + k.architecture:>6}{k.registers:>11}{k.spill_bytes:>9}{k.shared_bytes:>10}")
            if status != 0:
                failed = True
                print(f"check-cuda: {source.name} does not compile cleanly for sm_{architecture}:\n{report}")
    print("check-cuda: failed" if failed else "check-cuda: no spills")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
