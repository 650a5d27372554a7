"""The CUDA noise kernel, compiled as C++ and run on the CPU thread by thread (simt/), under several orders.

What this cannot see: real concurrency, and the accuracy of the special function unit: exact functions stand in.
"""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.kernels.compiled import needs_compiler
from tests.kernels.simt_library import (
    ORDERS,
    SANITIZE_ADDRESSES,
    SHARED,
    Mistake,
    compile_simt,
    load,
    run_sanitized,
)
from tests.noise_contract import SHAPES, contract, signed

pytestmark = needs_compiler


def rows_of(shape, spectral):
    """samples, rows, width and half, as the binding works them out."""
    samples, channels, height, width = shape
    if spectral:
        return samples, channels, height * width, (height + 1) // 2 * width
    return samples, channels * height, width, (width + 1) // 2


class NoiseKernel:
    """normals of the CUDA kernel, as the op takes it, on a NaN-filled output."""

    def __init__(self, path: Path):
        self.library = load(path)
        self.library.simt_quotient.restype = ctypes.c_uint32
        i64, pointer = ctypes.c_int64, ctypes.c_void_p
        self.library.simt_normals.argtypes = [pointer] * 3 + [i64] * 5 + [ctypes.c_int]

    def __call__(self, shape, seeds=7, draw=0, first_sample=0, spectral=False):
        samples, rows, width, half = rows_of(shape, spectral)
        out = torch.full(shape, complex("nan+nanj"), dtype=torch.complex64)
        seeds = np.array(seeds if isinstance(seeds, list) else [seeds], dtype=np.int64)
        draw = np.array([draw], dtype=np.int64)
        per_sample = int(len(seeds) > 1)
        status = self.library.simt_normals(
            out.data_ptr(), seeds.ctypes.data, draw.ctypes.data, samples, rows, width, half, first_sample, per_sample
        )
        assert status == 0, self.library.simt_error()
        return out


def noise_library(flags: tuple[str, ...] = SHARED, *mistakes: Mistake) -> Path:
    return compile_simt("noise", "noise_library.cpp", flags, mistakes)


def planted_bugs(flags: tuple[str, ...] = SHARED) -> Path:
    return compile_simt("planted_bugs", "planted_bugs.cpp", flags)


@pytest.fixture(scope="module")
def kernel() -> NoiseKernel:
    return NoiseKernel(noise_library())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spectral", [False, True])
def test_the_kernel_follows_the_contract_in_every_order(kernel, shape, spectral, order, monkeypatch):
    monkeypatch.setenv("SIMT_ORDER", order)
    seed, draw = 0x9E3779B97F4A7C15, 0x0000000300000002
    got = kernel(shape, signed(seed), draw, 5, spectral)
    assert (got - contract(shape, seed, draw, 5, spectral)).abs().max() < 1e-5


def test_one_seed_a_pair(kernel):
    seeds = [3, -1, 1 << 40]
    for plane, seed in zip(kernel((3, 2, 4, 6), seeds, draw=9), seeds, strict=True):
        assert (plane - contract((1, 2, 4, 6), seed % (1 << 64), 9)[0]).abs().max() < 1e-5


def test_more_samples_than_the_grid_has_rows(kernel):
    got = kernel((65537, 1, 1, 1), 5)
    assert not torch.view_as_real(got).isnan().any()
    for sample in (0, 1, 65534, 65535, 65536):
        assert (got[sample] - contract((1, 1, 1, 1), 5, first_sample=sample)[0]).abs().max() < 1e-5


def test_empty_outputs_launch_nothing(kernel):
    assert kernel((0, 1, 2, 2)).numel() == kernel((1, 1, 0, 2)).numel() == 0


def test_division_by_a_known_number(kernel):
    random = np.random.default_rng(0)
    divisors = [1, 2, 3, 5, 7, 64, 641, 65535, 65536, 65537, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1]
    for divisor in divisors + random.integers(1, 2**32, 50).tolist():
        around = [k * divisor + d for k in (1, 2, (2**32 - 1) // divisor) for d in (-1, 0, 1)]
        for n in [0, 2**32 - 1, *around, *random.integers(0, 2**32, 20).tolist()]:
            if 0 <= n < 2**32:
                assert kernel.library.simt_quotient(n, divisor) == n // divisor, (n, divisor)


MISTAKES = {
    "the wrong key word": ("^ «key.high»,", "key.low"),
    "nine rounds": ("round < 10; ++round) {«»", "if (round == 9) break;"),
    "the draw's high word lost": (
        "sample, static_cast<uint32_t>(bits), «static_cast<uint32_t>(bits >> 32)»",
        "0u",
    ),
    "an unwritten element": ("if («has_right»)", "has_right && quad > 0"),
    "the first sample ignored": ("static_cast<uint32_t>(«args.first_sample + sample»)", "sample"),
    "a wrong series": ("__fmaf_rn(t, t, «t + t»)", "2.01f * t"),
}


@pytest.fixture(scope="module")
def mistaken() -> NoiseKernel:
    return NoiseKernel(noise_library(SHARED, *MISTAKES.values()))


@pytest.mark.parametrize("number", range(1, len(MISTAKES) + 1), ids=MISTAKES)
def test_planted_mistakes_are_caught(mistaken, number):
    mistaken.library.simt_plant(number)
    shape, seed, draw = (2, 2, 16, 33), 0x9E3779B97F4A7C15, 0x0000000300000002
    got = mistaken(shape, signed(seed), draw, first_sample=5)
    assert not (got - contract(shape, seed, draw, first_sample=5)).abs().max() < 1e-5


@pytest.fixture(scope="module")
def planted() -> ctypes.CDLL:
    library = load(planted_bugs())
    library.simt_planted.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    return library


@pytest.mark.parametrize("order", ORDERS)
def test_the_harness_runs_a_correct_kernel(planted, order, monkeypatch):
    monkeypatch.setenv("SIMT_ORDER", order)
    data = np.arange(64, dtype=np.float32)
    assert planted.simt_planted(b"reverse", data.ctypes.data) == 0
    assert data.tolist() == list(range(63, -1, -1))


@pytest.mark.parametrize(
    ("kernel_name", "message"),
    [
        ("divergent barrier", "divergent __syncthreads"),
        ("partial shuffle", "not all lanes of its mask reach"),
        ("outside shuffle", "reads a lane outside its mask"),
    ],
)
def test_the_harness_reports(planted, kernel_name, message):
    data = np.zeros(64, dtype=np.float32)
    assert planted.simt_planted(kernel_name.encode(), data.ctypes.data) != 0
    assert message in planted.simt_error().decode()


def test_the_harness_shows_races_and_unwritten_shared_memory(planted, monkeypatch):
    results = set()
    for order in ORDERS:
        monkeypatch.setenv("SIMT_ORDER", order)
        data = np.arange(64, dtype=np.float32)
        planted.simt_planted(b"race", data.ctypes.data)
        results.add(data.tobytes())
        assert np.isnan(data).any()
    assert len(results) > 1
    data = np.zeros(64, dtype=np.float32)
    planted.simt_planted(b"unwritten shared", data.ctypes.data)
    assert np.isnan(data).nonzero()[0].tolist() == [63]


def test_under_the_address_sanitizer(address_sanitizer, monkeypatch):
    for shape, spectral in itertools.product(SHAPES, (False, True)):
        done = run_sanitized(noise_library(SANITIZE_ADDRESSES), *rows_of(shape, spectral))
        assert done.returncode == 0, done.stderr
    # Two mistakes it must report: an element right of an odd row, and a thread too many.
    outside = [("«column < args.width - half»", "column <= args.width - half"), ("«quad >= quads»", "quad > quads")]
    for number in (1, 2):
        monkeypatch.setenv("SIMT_MISTAKE", str(number))
        assert "AddressSanitizer" in run_sanitized(noise_library(SANITIZE_ADDRESSES, *outside), 1, 3, 7, 4).stderr
    monkeypatch.delenv("SIMT_MISTAKE")
    assert run_sanitized(planted_bugs(SANITIZE_ADDRESSES), "reverse").returncode == 0
    assert "out_of_bounds_kernel" in run_sanitized(planted_bugs(SANITIZE_ADDRESSES), "out of bounds").stderr
