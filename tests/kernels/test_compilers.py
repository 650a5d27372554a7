"""The CPU kernels from other compilers and for other machines, with the flags of the package: the same numbers.

Each compiler that is there takes part. The numbers are those of the g++ that all other tests use.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.gates import check_cpu
from tests.kernels.compiled import needs_compiler
from tests.kernels.native_program import INSTRUCTION_SETS, native_program, run_program, sanitized_program

pytestmark = needs_compiler


def numbers(path: Path, program: Path, instruction_set: str, emulator: Sequence[str] = ()) -> list[tuple]:
    """The results of the program, which it has also compared with float64: (values, bound) each."""
    done = run_program(program, "numbers", path, instruction_set=instruction_set, emulator=emulator)
    assert done.returncode == 0, done.stdout + done.stderr
    raw, results, at = path.read_bytes(), [], 0
    while at < len(raw):
        count, bound = struct.unpack_from("if", raw, at)
        results.append((np.frombuffer(raw, np.float64, count, at + 8), bound))
        at += 8 + 8 * count
    return results


def assert_same(found: list[tuple], expected: list[tuple], *, bits: bool = False) -> None:
    """Within the contract of docs/design.md, or to the bit."""
    assert [values.size for values, _ in found] == [values.size for values, _ in expected] != []
    for (values, bound), (reference, _) in zip(found, expected, strict=True):
        assert np.linalg.norm(values - reference) <= (0 if bits else bound) * np.linalg.norm(reference)


@pytest.mark.parametrize("compiler", ["clang++", "g++-11"])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_another_compiler_makes_the_same_numbers(compiler: str, instruction_set: str, tmp_path: Path):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    expected = numbers(tmp_path / "expected", sanitized_program(), instruction_set)
    program = native_program(compiler, check_cpu.compile_flags())
    # Compilers differ in which product of two they fuse with a sum; the baseline of x86 fuses none.
    assert_same(numbers(tmp_path / "found", program, instruction_set), expected, bits=instruction_set == "baseline")


def test_arm_makes_the_same_numbers(tmp_path: Path):
    compiler, emulator = "aarch64-linux-gnu-g++", "qemu-aarch64"
    if shutil.which(compiler) is None or shutil.which(emulator) is None:
        pytest.skip(f"no {compiler} and {emulator} here")
    expected = numbers(tmp_path / "expected", sanitized_program(), "avx2")  # which fuses products and sums, as Arm does
    program = native_program(compiler, check_cpu.compile_flags(), link=["-static"])
    assert_same(numbers(tmp_path / "found", program, "baseline", [emulator]), expected)
