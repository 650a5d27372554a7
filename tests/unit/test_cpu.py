"""The CPU kernels on every path (fused planes, torch's complex FFT, pixels alone): parity with float64, equal bits."""

from __future__ import annotations

import itertools
import math
import random
from functools import partial

import pytest
import torch
from conftest import make_problem, relative_rms
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream

MISSING = tdas_ops.backend_info()["missing"]
pytestmark = pytest.mark.skipif("cpp" in MISSING, reason=MISSING.get("cpp", ""))

FUSED = [(2, 32, 32), (1, 64, 32), (2, 32, 128), (1, 256, 64), (2, 96, 40), (1, 45, 38), (1, 36, 33), (1, 35, 37)]
PACKED = [(2, 6, 8), (1, 9, 10), (1, 1, 2), (1, 24, 96)]
ODD = [(2, 8, 9), (1, 7, 5), (1, 1, 1), (1, 6, 1), (1, 3, 1)]
MASKS = [(f, a, w) for f in (True, False) for a in (True, False) for w in (True, False)]
BATCH = 3


def name(mask: tuple[bool, bool, bool]) -> str:
    return "".join(letter for letter, there in zip("RAw", mask, strict=True) if there) or "identity"


def problem(shape, method="pds", mask=(True, True, False), batch=BATCH, seed=0):
    freq, space, skew = mask
    return make_problem(batch, shape, method, freq, space, skew, seed)


def stream() -> NoiseStream:
    return NoiseStream(5, first_sample=7, draw=2)


def scale(kind: str, batch: int, value: float):
    each = value * torch.linspace(0.5, 1.5, batch)
    return {
        "number": value,
        "one": torch.tensor([value]),
        "each": each,
        "half": torch.tensor([value], dtype=torch.bfloat16),
        "column": each.double().reshape(-1, 1, 1, 1),
    }[kind]


def laid_out(t: Tensor, layout: str) -> Tensor:
    """The same values in another storage."""
    if layout == "last":
        return t.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        wide = torch.empty(*t.shape[:-1], 2 * t.shape[-1] + 1, dtype=t.dtype)
        return wide[..., 1::2].copy_(t)
    if layout == "unaligned":
        return torch.empty(t.numel() + 1, dtype=t.dtype)[1:].reshape(t.shape).copy_(t)
    if layout == "turned":
        return t.transpose(2, 3).contiguous().transpose(2, 3)
    return t.clone()


LAYOUTS = ("plain", "last", "strided", "unaligned", "turned")


def noise_of(kind: str, x: Tensor, layout: str):
    if kind == "stream":
        return stream()
    if kind == "seeds":
        return NoiseStream(seeds=list(range(3, 3 + len(x))))
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    return laid_out(z, layout).to(x.dtype)


def check_updates(p, shape, seed, ops=("step", "langevin_step")):
    """The ops in every kind of noise, with and without mean; the other choices drawn at random."""
    rng = random.Random(seed)
    for kind, mean, op in itertools.product(("stream", "seeds", "tensor", None), (False, True), ops):
        langevin = op == "langevin_step"
        if langevin and kind is None:
            continue
        dtype = rng.choice([torch.float32, torch.bfloat16, torch.float16])
        layout_x, layout_v, layout_z, layout_out = (rng.choice(LAYOUTS) for _ in range(4))
        scales = ("number", "one", "each", "half", "column")
        x, v = p.x.float(), p.v.to(dtype)
        expected_x, expected_v = x.double(), v.double()
        noise, expected_noise = noise_of(kind, x, layout_z), noise_of(kind, expected_x, "plain")
        x, v = laid_out(x, layout_x), laid_out(v, layout_v)
        if kind is None:
            noise = expected_noise = None
        in_place = layout_x in ("plain", "last", "unaligned") and rng.random() < 0.5
        before = [t.clone() for t in (x, v)]
        out = x if in_place else laid_out(torch.full_like(p.x.float(), math.nan), layout_out)
        if not (out.is_contiguous() or out.is_contiguous(memory_format=torch.channels_last)):
            out = None
        if langevin:
            options = {
                "snr": 0.16,
                "alpha": scale(rng.choice(scales), BATCH, 0.7),
                "norm": rng.choice(["batch", "sample"]),
            }
            run = partial(tdas_ops.langevin_step, M=p.M, return_mean=mean, **options)
        else:
            n = None if rng.random() < 0.3 else scale(rng.choice(scales), BATCH, 0.4)
            options = {"step_size": scale(rng.choice(scales), BATCH, 0.2), "noise_scale": 0.0 if kind is None else n}
            run = partial(tdas_ops.step, M=p.M, return_mean=mean, **options)
        expected = run(expected_x, expected_v, noise=expected_noise)
        got = run(x, v, noise=noise, out=out)
        case = (kind, mean, langevin, dtype, layout_x, layout_v, layout_z, layout_out, in_place, options)
        for a, b in zip(got, expected, strict=True) if mean else ((got, expected),):
            assert a.dtype is torch.float32
            assert relative_rms(a, b) < 1e-6, case
        assert in_place or torch.equal(x, before[0]), case
        assert torch.equal(v, before[1]), case
        if isinstance(noise, NoiseStream):
            assert noise.state_dict() == expected_noise.state_dict()


@pytest.mark.parametrize("mask", MASKS, ids=name)
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("shape", FUSED + PACKED + ODD, ids=str)
def test_updates_agree_with_float64(shape, method, mask, poisoned):
    if mask[2] and (method == "tdas" or shape[1] * shape[2] == 1):
        pytest.skip("no such skew part")
    p = problem(shape, method, mask)
    check_updates(p, shape, seed=f"{shape} {method} {mask}")


@pytest.mark.parametrize("shape", [(1, 2048, 32), (1, 32, 2048), (1, 62, 2050)], ids=str)
def test_the_largest_sizes_agree_with_float64(shape):
    check_updates(problem(shape, mask=(True, False, True)), shape, seed=1)


def lengths(primes: tuple[int, ...]) -> list[int]:
    """From 32 to 2048, and nothing but these prime factors."""
    smooth = [1]
    for prime in primes:
        for n in smooth:  # which grows meanwhile
            if n * prime <= 2048:
                smooth.append(n * prime)
    return sorted(n for n in smooth if n >= 32)


def test_backend_info_says_which_planes_are_fused():
    path = tdas_ops.backend_info()["paths"]["cpu"]["step"]
    assert "for H and W from 32 to 2048 without a prime factor above 256; complex torch.fft" in path


@pytest.mark.parametrize("axis", ["height", "width"])
def test_every_length_agrees_with_float64(axis):
    """All of 2^a 3^b 5^c, and some with larger primes: the longest sums and the largest prime with a kernel."""
    assert len(lengths((2, 3, 5))) == 92
    for length in [*lengths((2, 3, 5)), 34, 37, 49, 77, 91, 103, 127, 181, 241, 251, 502, 721, 1081, 2008, 257, 514]:
        shape = (1, length, 32) if axis == "height" else (1, 32, length)
        p = problem(shape, mask=(True, False, False), batch=1)
        got = tdas_ops.langevin_step(p.x.float(), p.v.float(), p.M, 0.16, noise=stream())
        assert relative_rms(got, tdas_ops.langevin_step(p.x, p.v.float().double(), p.M, 0.16, noise=stream())) < 1e-6


@pytest.mark.parametrize("mask", [m for m in MASKS if not m[2]], ids=name)
@pytest.mark.parametrize("shape", FUSED + PACKED + ODD, ids=str)
def test_filters_and_noise_agree_with_float64(shape, mask, poisoned):
    p = problem(shape, mask=mask)
    for which, layout in itertools.product(("M", "Mt", "MMt"), LAYOUTS):
        for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 4e-3), (torch.float16, 6e-4)):
            v = p.v.to(dtype)
            got = tdas_ops.precondition(laid_out(v, layout), p.M, which)
            assert got.dtype is dtype
            assert relative_rms(got, tdas_ops.precondition(v.double(), p.M, which)) < bound
    for kind, n in itertools.product(("stream", "seeds", "tensor"), ("number", "one", "each", "column")):
        like = torch.empty(BATCH, *shape)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            got = tdas_ops.noise(
                p.M, like.shape, noise_of(kind, like, "last"), scale(n, BATCH, 3.0), memory_format=memory_format
            )
            expected = tdas_ops.noise(
                p.M, like.shape, noise_of(kind, like.double(), "plain"), scale(n, BATCH, 3.0), dtype=torch.float64
            )
            assert got.is_contiguous(memory_format=memory_format)
            assert relative_rms(got, expected) < 1e-6


def test_the_bound_rejects_a_wrong_filter():
    """A mask off by a millionth of its scale in one column, a draw too many, a sample shifted by one."""
    p = problem((2, 32, 32), mask=(True, False, False))
    expected = tdas_ops.noise(p.M, p.x.shape, stream(), dtype=torch.float64)
    for other in (NoiseStream(5, first_sample=7, draw=3), NoiseStream(5, first_sample=8, draw=2)):
        assert relative_rms(tdas_ops.noise(p.M, p.x.shape, other), expected) > 0.1
    R = p.R.clone()
    R[..., 1] *= 1 + 2e-5
    R[..., -1] *= 1 + 2e-5
    wrong = tdas_ops.Preconditioner.from_masks(R, None, None, shape=(2, 32, 32))
    assert relative_rms(tdas_ops.noise(wrong, p.x.shape, stream()), expected) > 1e-6
    assert relative_rms(tdas_ops.noise(p.M, p.x.shape, stream()), expected) < 1e-6


# Equal bits

RUNS = {
    "step": lambda M, x, v, noise, **o: tdas_ops.step(x, v, M, 0.1, noise=noise, **o),
    "step with mean": lambda M, x, v, noise: torch.stack(tdas_ops.step(x, v, M, 0.1, noise=noise, return_mean=True)),
    "langevin": lambda M, x, v, noise, **o: tdas_ops.langevin_step(x, v, M, 0.16, noise=noise, norm="sample", **o),
    "langevin with mean": lambda M, x, v, noise: torch.stack(
        tdas_ops.langevin_step(x, v, M, 0.16, noise=noise, norm="sample", return_mean=True)
    ),
    "noise": lambda M, x, v, noise: tdas_ops.noise(M, x.shape, noise),
    "precondition": lambda M, x, v, noise: tdas_ops.precondition(v, M, "MMt"),
}
BITS = pytest.mark.parametrize(
    ("run", "shape", "mask"),
    [
        pytest.param(run, shape, mask, id=f"{key} {shape} {name(mask)}")
        for key, run in RUNS.items()
        for shape in ((3, 32, 64), (2, 45, 38), (1, 34, 35), (3, 24, 24), (2, 9, 10), (2, 8, 9))
        for mask in ((True, False, False), (True, True, True), (False, True, False))
    ],
)


def single(shape, mask, batch):
    p = problem(shape, mask=mask, batch=batch)
    return p.M, p.x.float(), p.v.float()


@BITS
def test_a_sample_never_depends_on_its_batch(run, shape, mask):
    M, x, v = single(shape, mask, 5)
    whole = run(M, x, v, NoiseStream(5, first_sample=7))
    parts = [run(M, x[a:b], v[a:b], NoiseStream(5, first_sample=7 + a)) for a, b in ((0, 1), (1, 4), (4, 5))]
    assert torch.equal(torch.cat(parts, dim=whole.dim() - 4), whole)
    seeds = [4, 9, 4, 2, 1]
    whole = run(M, x, v, NoiseStream(seeds=seeds))
    parts = [run(M, x[b : b + 1], v[b : b + 1], NoiseStream(seeds=seeds[b : b + 1])) for b in range(5)]
    assert torch.equal(torch.cat(parts, dim=whole.dim() - 4), whole)


@BITS
def test_threads_and_storage_change_no_bit(run, shape, mask):
    M, x, v = single(shape, mask, 4)
    expected = run(M, x, v, stream())
    for layout in LAYOUTS:
        assert torch.equal(run(M, laid_out(x, layout), laid_out(v, layout), stream()), expected), layout
    if run in (RUNS["step"], RUNS["langevin"]):
        other = run(M, x.clone(), v, stream(), out=torch.empty_like(x))
        state = x.clone()
        assert torch.equal(run(M, state, v, stream(), out=state), expected)
        assert torch.equal(other, expected)
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(run(M, x, v, stream()), expected), threads
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("shape", [(1, 512, 512), (1, 721, 90)], ids=str)
def test_threads_change_no_bit_of_several_tasks(shape):
    M, x, v = single(shape, (True, False, False), 3)
    run = RUNS["langevin"]
    expected = run(M, x, v, stream())
    try:
        torch.set_num_threads(3)
        assert torch.equal(run(M, x, v, stream()), expected)
        assert torch.equal(run(M, x[1:2], v[1:2], NoiseStream(5, first_sample=8, draw=2)), expected[1:2])
    finally:
        torch.set_num_threads(1)


@BITS
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_sample(run, shape, mask, bad):
    M, x, v = single(shape, mask, 4)
    expected = run(M, x, v, stream())
    v[2, -1, 3, 5] = bad
    got = run(M, x, v, stream())
    samples = (0, 1, 3)
    if run is RUNS["noise"]:
        samples = (0, 1, 2, 3)
    else:
        assert not got[..., 2, :, :, :].isfinite().all()
    for b in samples:
        assert torch.equal(got[..., b, :, :, :], expected[..., b, :, :, :])


def test_batches_larger_than_a_chunk_of_scratch():
    """The path through torch's FFT takes some samples at a time."""
    shape = (3, 514, 100)
    M, x, v = single(shape, (True, True, True), 9)
    run = RUNS["langevin with mean"]
    whole = run(M, x, v, stream())
    assert torch.equal(run(M, x[7:8], v[7:8], NoiseStream(5, first_sample=14, draw=2)), whole[:, 7:8])


@pytest.mark.parametrize("shape", [(2, 32, 32), (2, 6, 8), (1, 7, 9)], ids=str)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_expanded_inputs(run, shape):
    """The same element read many times: one sample for the batch, one pixel for a row."""
    M, x, v = single(shape, (True, True, False), 3)
    for a, b in ((x[:1], v[..., :1]), (x[:, :1, :1], v[:1, :, :1, :1])):
        a, b = a.expand(x.shape), b.expand(x.shape)
        assert torch.equal(run(M, a, b, stream()), run(M, a.clone(), b.clone(), stream()))


def test_neighbours_in_memory_are_no_overlap():
    M, x, v = single((2, 32, 32), (True, False, False), 3)
    memory = torch.cat([x, v, torch.zeros(1, 2, 32, 32), v, x])
    out = memory[3:6]
    expected = tdas_ops.step(x, v, M, 0.1, noise=stream())
    got = tdas_ops.step(memory[:3], memory[7:10], M, 0.1, noise=stream(), out=out)
    assert got is out
    assert torch.equal(got, expected)
    assert torch.equal(memory[:3], x)
    assert torch.equal(memory[7:10], v)


def test_float64_is_reference_work():
    _, x, v = single((2, 32, 32), (True, False, False), 2)
    with tdas_ops.use_backend("cpp"):
        assert tdas_ops._backends.kernel("step", x, None).name().endswith("step.cpp")
        assert tdas_ops._backends.kernel("step", x.double(), None).name().endswith("step.reference")
    with pytest.raises(ValueError, match="`out` has dtype Double; expected float32"):
        torch.ops.tdas_ops.precondition.cpp(v.double(), v.double(), None, None, "M")
