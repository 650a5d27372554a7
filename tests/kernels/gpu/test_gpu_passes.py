"""Planes that pass through memory, on a CUDA device: the largest, many at once, and the scratch of their passes."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import relative_rms
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream
from tests.kernels.gpu.problems import (
    CASES,
    DRAWN,
    GIVEN,
    LARGE,
    crowd,
    each_update,
    needs_gpu,
    problem,
    single,
    stream,
)

pytestmark = needs_gpu


@pytest.fixture
def chunks():
    """Sets how many bytes of scratch the passes take at once."""
    limit = tdas_ops._extension.load().limit_scratch
    yield limit
    limit(0)


@each_update
@pytest.mark.parametrize(("method", "masks"), CASES)
@pytest.mark.parametrize("size", [1024, 2048])
def test_the_largest_planes_agree_with_float64(size, method, masks, update):
    p = problem((1, size, size), method, masks, batch=1)
    v = p.v.bfloat16()
    expected = update(p.x, v.double(), p.M, stream(), return_mean=True)
    got = update(p.x.float().cuda(), v.cuda(), p.M.to("cuda"), stream(), return_mean=True)
    for a, b in zip(got, expected, strict=True):
        assert relative_rms(a.cpu(), b) < DRAWN


@pytest.mark.parametrize("size", [1024, 2048])
@pytest.mark.parametrize("masks", ["R", "RA"])
def test_noise_and_filters_of_the_largest_planes(size, masks):
    p = problem((1, size, size), masks=masks, batch=1)
    M = p.M.to("cuda")
    expected = tdas_ops.noise(p.M, p.x.shape, stream(), dtype=torch.float64)
    assert relative_rms(tdas_ops.noise(M, p.x.shape, stream()).cpu(), expected) < DRAWN
    for which in ("M", "Mt", "MMt"):
        got = tdas_ops.precondition(p.v.float().cuda(), M, which)
        assert relative_rms(got.cpu(), tdas_ops.precondition(p.v.float().double(), p.M, which)) < GIVEN


def every_output(M, x, v) -> list[Tensor]:
    """What the ops that have no snr rule return, and those that have one where it is a kernel's."""
    outputs = [*tdas_ops.step(x, v, M, 0.1, noise=stream(), return_mean=True)]
    outputs.append(tdas_ops.step(x, v.bfloat16(), M, 0.1, noise_scale=0.0))
    if M.skew is None:
        outputs += [tdas_ops.precondition(v, M, which) for which in ("M", "Mt", "MMt")]
        outputs += [tdas_ops.noise(M, x.shape, noise) for noise in (stream(), v)]
    if M.skew is None or M.space is None:
        outputs += [
            tdas_ops.langevin_step(x, v, M, 0.16, noise=noise, norm=norm)
            for noise, norm in itertools.product((stream(), v.flip(0)), ("batch", "sample"))
        ]
    return outputs


@pytest.mark.parametrize("masks", ["R", "RA", "Rw", "RAw"])
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_neither_runs_nor_chunks_change_a_bit(shape, masks, chunks):
    """The scratch holds all planes, the same once more, one plane, four of them."""
    M, x, v = single(shape, masks)
    plane = 4 * (shape[1] + 1) * shape[2]  # bytes
    expected = every_output(M, x, v)
    for most in (0, 1, 4 * plane):
        chunks(most)
        assert all(torch.equal(a, b) for a, b in zip(every_output(M, x, v), expected, strict=True)), most


@each_update
@pytest.mark.parametrize("masks", ["R", "RA", "Rw"])
@pytest.mark.parametrize("shape", [(3, 32, 64), (1, 256, 256), (1, 2048, 32), (1, 64, 2048), (1, 1024, 1024)], ids=str)
def test_many_blocks_in_flight(shape, masks, update, chunks):
    M, x, v = single(shape, masks, batch=crowd(shape))
    expected = update(x.cpu().double(), v.cpu().double(), problem(shape, masks=masks, batch=1).M, stream())
    got = update(x, v, M, stream())
    assert relative_rms(got.cpu(), expected) < DRAWN
    for most in (0, 1 << 30):
        chunks(most)
        for _ in range(5):
            assert torch.equal(update(x, v, M, stream()), got)


@pytest.mark.parametrize("masks", ["R", "RA", "Rw"])
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_the_scratch_is_what_was_allowed(shape, masks, chunks):
    M, x, v = single(shape, masks)
    out, noise = torch.empty_like(x), NoiseStream(7, device="cuda")
    plane = 4 * (shape[1] + 1) * shape[2]  # bytes
    for planes in (1, 2, 5):
        chunks(planes * plane)
        tdas_ops.step(x, v, M, 0.1, noise=noise, out=out)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        tdas_ops.step(x, v, M, 0.1, noise=noise, out=out)
        used = torch.cuda.max_memory_allocated() - before
        assert planes * plane <= used <= planes * plane + 1024
