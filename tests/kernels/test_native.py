"""The CPU kernels under the sanitizers of addresses and undefined behaviour, without Python (tests/native)."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "tests" / "kernels" / "native"
BUILD = ROOT / "build" / "native"
COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++ to compile the kernels with")

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# GCC's own intrinsics come up as perhaps uninitialised; psabi speaks of vectors as arguments, all of them inlined.
WARN = ("-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized", "-Wno-psabi")


def sanitizers_missing(folder: Path) -> bool:
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    return subprocess.run([COMPILER, *SANITIZE, probe, "-o", folder / "probe"], capture_output=True).returncode != 0


def compile_once(source: Path, *flags: str) -> Path:
    """The object of a source, compiled unless nothing has changed since: csrc, tests/native, this file."""
    target = BUILD / f"{source.stem}.o"
    inputs = [Path(__file__), *NATIVE.iterdir(), *(ROOT / "csrc").rglob("*.*")]
    if not target.exists() or target.stat().st_mtime <= max(path.stat().st_mtime for path in inputs):
        command = [COMPILER, "-std=c++17", "-g1", "-ffp-contract=fast", *WARN, *flags, "-c", source, "-o", target]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sanitizers_missing(tmp_path_factory.mktemp("probe")):
        pytest.skip("no address and undefined-behaviour sanitizers here")
    BUILD.mkdir(parents=True, exist_ok=True)
    checked = [NATIVE / "plane_test.cpp", *sorted((ROOT / "csrc/cpu").glob("*.cpp"))]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda source: compile_once(source, "-O1", *SANITIZE), checked))
    objects.append(compile_once(NATIVE / "reference.cpp", "-O2"))
    program = BUILD / "plane_test"
    subprocess.run([COMPILER, *SANITIZE, "-pthread", *objects, "-o", program], check=True)
    return program


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
