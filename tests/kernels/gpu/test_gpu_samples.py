"""Samples on a CUDA device: no bit depends on the rest of the batch, and no batch is too large."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import relative_rms

import tdas_ops
from tdas_ops import NoiseStream
from tests.kernels.gpu.problems import (
    DRAWN,
    FUSED,
    GIVEN,
    LARGE,
    MEMORY,
    needs_gpu,
    only_where,
    problem,
    single,
    stream,
)

pytestmark = needs_gpu


RUNS = {
    "step": lambda M, x, v, noise, **o: tdas_ops.step(x, v, M, 0.1, noise=noise, **o),
    "noise": lambda M, x, v, noise, **o: tdas_ops.noise(M, x.shape, noise, **o),
    "precondition": lambda M, x, v, noise, **o: tdas_ops.precondition(v, M, "MMt", **o),
}
each_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
each_plane = pytest.mark.parametrize("shape", FUSED + LARGE, ids=str)


@each_run
@each_plane
@pytest.mark.parametrize("masks", ["R", "RAw", "A"])
def test_a_sample_never_depends_on_its_batch(run, shape, masks):
    M, x, v = single(shape, masks, 5)
    whole = run(M, x, v, NoiseStream(5, first_sample=7))
    parts = [run(M, x[a:b], v[a:b], NoiseStream(5, first_sample=7 + a)) for a, b in ((0, 1), (1, 4), (4, 5))]
    assert torch.equal(torch.cat(parts), whole)
    seeds = [4, 9, 4, 2, 1]
    whole = run(M, x, v, NoiseStream(seeds=seeds))
    parts = [run(M, x[b : b + 1], v[b : b + 1], NoiseStream(seeds=seeds[b : b + 1])) for b in range(5)]
    assert torch.equal(torch.cat(parts), whole)


@each_run
@each_plane
@pytest.mark.parametrize("masks", ["R", "RAw", "A"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_sample(run, shape, masks, bad):
    M, x, v = single(shape, masks, 4)
    expected = run(M, x, v, stream())
    v[2, -1, 3, 5] = bad
    got = run(M, x, v, stream())
    others = [0, 1, 3] if run is not RUNS["noise"] else [0, 1, 2, 3]
    assert torch.equal(got[others], expected[others])
    assert run is RUNS["noise"] or not got[2, -1].isfinite().all()


@each_plane
def test_in_place_and_apart_give_the_same_bits(shape):
    M, x, v = single(shape)
    expected = tdas_ops.step(x, v, M, 0.1, noise=stream())
    state = x.clone()
    assert torch.equal(tdas_ops.step(state, v, M, 0.1, noise=stream(), out=state), expected)
    one = tdas_ops.step(x[:1].expand_as(x), v[..., :1].expand_as(v), M, 0.1, noise=stream())
    plain = tdas_ops.step(x[:1].repeat(len(x), 1, 1, 1), v[..., :1].repeat(1, 1, 1, shape[2]), M, 0.1, noise=stream())
    assert relative_rms(one, plain) < GIVEN


# More than 2^31 elements, of which some samples on both sides of every boundary of 32 bits are looked at
MANY = (1 << 31) // (128 * 128) + 3
LOOKED_AT = [0, MANY // 4 - 1, MANY // 2 - 1, MANY - 5, MANY - 2]


@only_where(MEMORY > 26 << 30)
@pytest.mark.parametrize("masks", ["R", "RA", "A"])
def test_more_elements_than_32_bits_count(masks):
    p = problem((1, 128, 128), masks=masks, batch=1)
    M = p.M.to("cuda")
    x = torch.empty(MANY, 1, 128, 128, device="cuda").normal_()
    v = torch.empty(x.shape, dtype=torch.bfloat16, device="cuda").normal_()
    before = [(x[b : b + 2].cpu(), v[b : b + 2].cpu()) for b in LOOKED_AT]
    tdas_ops.step(x, v, M, 0.1, noise=NoiseStream(5), out=x)
    for b, (old, score) in zip(LOOKED_AT, before, strict=True):
        expected = tdas_ops.step(old.double(), score.double(), p.M, 0.1, noise=NoiseStream(5, first_sample=b))
        assert relative_rms(x[b : b + 2].cpu(), expected) < DRAWN, b
    tdas_ops.noise(M, x.shape, NoiseStream(6), out=x)
    for b in LOOKED_AT:
        noise = NoiseStream(6, first_sample=b)
        expected = tdas_ops.noise(p.M, (2, 1, 128, 128), noise, dtype=torch.float64)
        assert relative_rms(x[b : b + 2].cpu(), expected) < DRAWN, b
    del x, v
    torch.cuda.empty_cache()
