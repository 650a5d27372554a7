"""The CPU kernels under the sanitizers of addresses and undefined behaviour, without Python (native/)."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kernels.compiled import CSRC, ROOT, compiled, digest_of, needs_compiler, run_compiler
from tests.kernels.simt_library import has_sanitizer

NATIVE = ROOT / "tests" / "kernels" / "native"
pytestmark = needs_compiler

# Checks of addresses are calls: as code in place, they take longer to compile than to run.
SANITIZE = (
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "--param=asan-instrumentation-with-call-threshold=0",
)
# GCC's own intrinsics come up as perhaps uninitialised; psabi speaks of vectors as arguments, all of them inlined.
WARN = ("-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized", "-Wno-psabi")


def compile_source(source: Path, *flags: str) -> Path:
    command = ("-std=c++17", "-g1", "-ffp-contract=fast", *WARN, *flags, "-c", source)
    inputs = (command, digest_of(CSRC, CSRC / "cpu", NATIVE))
    return compiled(f"{source.stem}.o", inputs, lambda target: run_compiler(*command, "-o", target))


@pytest.fixture(scope="module")
def built() -> Path:
    if not has_sanitizer(*SANITIZE):
        pytest.skip("no address and undefined-behaviour sanitizers here")
    checked = [NATIVE / "plane_test.cpp", *sorted((CSRC / "cpu").glob("*.cpp"))]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda source: compile_source(source, "-O1", *SANITIZE), checked))
    objects.append(compile_source(NATIVE / "reference.cpp", "-O2"))
    link = (*SANITIZE, "-pthread", *objects)
    return compiled("plane_test", link, lambda target: run_compiler(*link, "-o", target))


@pytest.fixture(params=["avx512", "avx2", "baseline"])
def program(request: pytest.FixtureRequest, built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TDAS_OPS_CPU_ISA", request.param)
    if "expected avx512, avx2 or baseline, and one that this machine has" in run(built, "nothing").stderr:
        pytest.skip(f"this machine has no {request.param}")
    return built


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASAN_OPTIONS": "", "UBSAN_OPTIONS": "print_stacktrace=1"}
    environment.pop("LD_PRELOAD", None)
    return subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)


def test_the_kernels_are_clean_and_right(program: Path):
    done = run(program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failures" in done.stdout


@pytest.mark.parametrize(
    ("plant", "found"),
    [("read", "READ of size"), ("write", "WRITE of size"), ("unwritten", "relative RMS")],
)
def test_a_planted_mistake_is_found(program: Path, plant: str, found: str):
    done = run(program, plant)
    assert done.returncode != 0
    assert found in done.stdout + done.stderr
