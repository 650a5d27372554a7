"""The program of native/, which runs the CPU kernels without Python or torch, from any compiler."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kernels.compiled import COMPILER, CSRC, ROOT, compiled, digest_of, run_compiler

NATIVE = ROOT / "tests" / "kernels" / "native"
INSTRUCTION_SETS = ("avx512", "avx2", "baseline")
# GCC's own intrinsics come up as perhaps uninitialised; psabi speaks of vectors as arguments, all of them inlined.
WARN = ("-Wall", "-Wextra", "-Werror", "-Wno-psabi")
WARN_GCC = ("-Wno-maybe-uninitialized", "-Wno-uninitialized")

# Checks of addresses are calls: as code in place, they take longer to compile than to run.
SANITIZE = (
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "--param=asan-instrumentation-with-call-threshold=0",
)


def native_program(compiler: str, kernels: Sequence[str], checks: Sequence[str] = (), link: Sequence[str] = ()) -> Path:
    """Its kernels with these flags, and all but the reference with `checks`."""
    version = subprocess.check_output([compiler, "--version"], text=True)
    warn = WARN if "clang" in version else (*WARN, *WARN_GCC)

    def compile_source(source: Path, *flags: str) -> Path:
        command = ("-std=c++17", "-ffp-contract=fast", *warn, *flags, "-c", source)
        inputs = (version, command, digest_of(CSRC, CSRC / "cpu", NATIVE))
        return compiled(
            f"{source.stem}.o", inputs, lambda target: run_compiler(*command, "-o", target, compiler=compiler)
        )

    sources = [(source, (*kernels, *checks)) for source in sorted((CSRC / "cpu").glob("*.cpp"))]
    sources += [(NATIVE / "plane_test.cpp", ("-O1", *checks)), (NATIVE / "reference.cpp", ("-O2",))]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda each: compile_source(each[0], *each[1]), sources))
    command = (*checks, "-pthread", *link, *objects)
    return compiled(
        "plane_test", (version, *command), lambda target: run_compiler(*command, "-o", target, compiler=compiler)
    )


def sanitized_program() -> Path:
    assert COMPILER is not None
    return native_program(COMPILER, ["-O1"], ["-g1", *SANITIZE])


def run_program(
    program: Path, *arguments: object, instruction_set: str, emulator: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Of this instruction set, which is skipped where the machine does not have it."""
    environment = {**os.environ, "ASAN_OPTIONS": "", "UBSAN_OPTIONS": "print_stacktrace=1"}
    environment.pop("LD_PRELOAD", None)
    environment["TDAS_OPS_CPU_ISA"] = instruction_set
    command = [*emulator, program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "expected avx512, avx2 or baseline, and one that this machine has" in done.stderr:
        pytest.skip(f"this machine has no {instruction_set}")
    return done
