"""The compile gate: it reads ptxas reports, passes the kernels and fails on a spill."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import check_cuda

ROOT = Path(__file__).parents[1]

REPORT = """
ptxas info    : Compiling entry function '_ZN8tdas_ops4cuda10_GLOBAL__N11step_kernelILi64EEEvPf' for 'sm_90'
ptxas info    : Function properties for x
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 61 registers, used 1 barriers, 16 bytes cumulative stack size, 2048 bytes smem
"""

# 96 live values a thread where 1024 threads leave 64 registers.
SPILLING = """
__global__ void __launch_bounds__(1024) spilling_kernel(float* x, int rounds) {
  float v[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) v[i] = x[threadIdx.x + 1024 * i];
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < 96; ++i) v[i] = fmaf(v[i], v[(i + 37) % 96], 1.0f);
  }
#pragma unroll
  for (int i = 0; i < 96; ++i) x[threadIdx.x + 1024 * i] = v[i];
}
"""


def gate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/check_cuda.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_reports_are_read():
    assert check_cuda.parse(REPORT) == [check_cuda.Kernel("step_kernel", "90", 61, 20, 2048)]


def test_without_nvcc_it_says_so_and_passes_unless_required():
    done = gate(PATH="")
    assert done.returncode == 0 and "skipped, nvcc is not found" in done.stdout
    assert gate("--require", PATH="").returncode == 1


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not found")
def test_a_spill_fails(tmp_path: Path):
    source = tmp_path / "spilling.cu"
    source.write_text(SPILLING)
    done = gate(str(source))
    assert done.returncode == 1
    assert "spilling.cu does not compile cleanly for sm_80" in done.stdout


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not found")
def test_the_kernels_pass():
    done = gate("--require")
    assert done.returncode == 0, done.stdout
    assert "normals_kernel" in done.stdout
