"""The fused CPU kernels under the sanitizers of addresses and undefined behaviour, without Python (tests/native)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "tests" / "native"
BUILD = ROOT / "build" / "native"
COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++ to compile the kernels with")

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# GCC's own intrinsics come up as perhaps uninitialised; psabi speaks of vectors as arguments, all of them inlined.
WARN = ("-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized", "-Wno-psabi")
VECTOR_BYTES = {"avx512": 64, "avx2": 32, "baseline": 16}
FEATURES = {
    "avx512": ("avx512f", "avx512dq", "avx512vl", "avx512bw", "avx2", "fma", "f16c"),
    "avx2": ("avx2", "fma", "f16c"),
}


def machine_has(instruction_set: str) -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    words = cpuinfo.read_text().split() if cpuinfo.exists() and platform.machine() == "x86_64" else []
    return set(FEATURES.get(instruction_set, ())) <= set(words)


def compile_once(target: Path, sources: list[Path], *flags: str) -> Path:
    """Compiles `sources` (.cpp or .o) unless nothing has changed since: csrc, tests/native, this file."""
    inputs = [*sources, Path(__file__), *NATIVE.iterdir(), *(ROOT / "csrc").rglob("*.*")]
    if not target.exists() or target.stat().st_mtime <= max(path.stat().st_mtime for path in inputs):
        BUILD.mkdir(parents=True, exist_ok=True)
        command = [COMPILER, "-std=c++17", "-g", "-ffp-contract=off", *WARN, *flags, *sources, "-o", target]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module", params=VECTOR_BYTES)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = request.param
    if not machine_has(name):
        pytest.skip(f"this machine has no {name}")
    probe = tmp_path_factory.mktemp("probe") / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    if subprocess.run([COMPILER, *SANITIZE, probe, "-o", probe.with_suffix("")], capture_output=True).returncode != 0:
        pytest.skip("no address and undefined-behaviour sanitizers here")
    reference = compile_once(BUILD / "reference.o", [NATIVE / "reference.cpp"], "-O2", "-c")
    flags = [f"-m{feature}" for feature in FEATURES.get(name, ())]
    flags += [*SANITIZE, "-O1", "-pthread", f"-DTDAS_OPS_VECTOR_BYTES={VECTOR_BYTES[name]}"]
    return compile_once(BUILD / name, [NATIVE / "plane_test.cpp", ROOT / "csrc/cpu/tables.cpp", reference], *flags)


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
