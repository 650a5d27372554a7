"""The CPU kernels on every path (fused planes, torch's complex FFT, pixels alone): parity with the reference in
float64, equal bits."""

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
from tdas_ops import NoiseStream, reference

MISSING = tdas_ops.backend_info()["missing"]
pytestmark = pytest.mark.skipif("cpp" in MISSING, reason=MISSING.get("cpp", ""))

FUSED = [(2, 32, 32), (1, 64, 32), (2, 32, 128), (1, 256, 64), (2, 96, 40), (1, 45, 38), (1, 36, 33), (1, 35, 37)]
PACKED = [(2, 6, 8), (1, 9, 10), (1, 1, 2), (1, 24, 96)]
ODD = [(2, 8, 9), (1, 7, 5), (1, 1, 1), (1, 6, 1), (1, 3, 1)]
MASKS = [(f, a, w) for f in (True, False) for a in (True, False) for w in (True, False)]
BATCH = 3
HALVES = [torch.bfloat16, torch.float16]
SCORES = {torch.float32: [torch.float32, *HALVES], torch.float64: [torch.float64, torch.float32, *HALVES]}
EACH_DTYPE = pytest.mark.parametrize("dtype", SCORES, ids=["float32", "float64"])


def bound(dtype: torch.dtype, noise: object = None) -> float:
    """Normals that are drawn are those of float32."""
    return 1e-14 if dtype is torch.float64 and not isinstance(noise, NoiseStream) else 1e-6


def oracle(run, *args, **options):
    """What the reference gives."""
    with tdas_ops.use_backend("reference"):
        return run(*args, **options)


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


def check_updates(p, shape, seed, state, ops=("step", "langevin_step")):
    """The ops in every kind of noise, with and without mean; the other choices drawn at random."""
    rng = random.Random(seed)
    for kind, mean, op in itertools.product(("stream", "seeds", "tensor", None), (False, True), ops):
        langevin = op == "langevin_step"
        if langevin and kind is None:
            continue
        dtype = rng.choice(SCORES[state])
        layout_x, layout_v, layout_z, layout_out = (rng.choice(LAYOUTS) for _ in range(4))
        scales = ("number", "one", "each", "half", "column")
        x, v = p.x.to(state), p.v.to(dtype)
        expected_x, expected_v = x.double(), v.double()
        noise, expected_noise = noise_of(kind, x, layout_z), noise_of(kind, expected_x, "plain")
        x, v = laid_out(x, layout_x), laid_out(v, layout_v)
        if kind is None:
            noise = expected_noise = None
        in_place = layout_x in ("plain", "last", "unaligned") and rng.random() < 0.5
        before = [t.clone() for t in (x, v)]
        out = x if in_place else laid_out(torch.full_like(p.x.to(state), math.nan), layout_out)
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
        expected = oracle(run, expected_x, expected_v, noise=expected_noise)
        got = run(x, v, noise=noise, out=out)
        case = (kind, mean, langevin, dtype, layout_x, layout_v, layout_z, layout_out, in_place, options)
        for a, b in zip(got, expected, strict=True) if mean else ((got, expected),):
            assert a.dtype is state
            assert relative_rms(a, b) < bound(state, noise), case
        assert in_place or torch.equal(x, before[0]), case
        assert torch.equal(v, before[1]), case
        if isinstance(noise, NoiseStream):
            assert noise.state_dict() == expected_noise.state_dict()


@pytest.mark.parametrize("mask", MASKS, ids=name)
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("shape", FUSED + PACKED + ODD, ids=str)
@EACH_DTYPE
def test_updates_agree_with_the_reference(dtype, shape, method, mask, poisoned):
    if mask[2] and (method == "tdas" or shape[1] * shape[2] == 1):
        pytest.skip("no such skew part")
    p = problem(shape, method, mask)
    check_updates(p, shape, f"{shape} {method} {mask}", dtype)


@pytest.mark.parametrize("shape", [(1, 2048, 32), (1, 32, 2048), (1, 62, 2050)], ids=str)
@EACH_DTYPE
def test_the_largest_sizes_agree_with_the_reference(dtype, shape):
    check_updates(problem(shape, mask=(True, False, True)), shape, 1, dtype)


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
    assert path.endswith("float64 likewise")


@pytest.mark.parametrize("axis", ["height", "width"])
@EACH_DTYPE
def test_every_length_agrees_with_the_reference(dtype, axis):
    """All of 2^a 3^b 5^c, and some with larger primes: the longest sums and the largest prime with a kernel."""
    assert len(lengths((2, 3, 5))) == 92
    for length in [*lengths((2, 3, 5)), 34, 37, 49, 77, 91, 103, 127, 181, 241, 251, 502, 721, 1081, 2008, 257, 514]:
        shape = (1, length, 32) if axis == "height" else (1, 32, length)
        p = problem(shape, mask=(True, False, False), batch=1)
        noise = noise_of("stream" if dtype is torch.float32 else "tensor", p.x.to(dtype), "plain")
        got = tdas_ops.langevin_step(p.x.to(dtype), p.v.to(dtype), p.M, 0.16, noise=noise)
        again = stream() if dtype is torch.float32 else noise
        expected = oracle(tdas_ops.langevin_step, p.x, p.v.to(dtype).double(), p.M, 0.16, noise=again)
        assert relative_rms(got, expected) < bound(dtype, noise)


@pytest.mark.parametrize("mask", [m for m in MASKS if not m[2]], ids=name)
@pytest.mark.parametrize("shape", FUSED + PACKED + ODD, ids=str)
@EACH_DTYPE
def test_filters_and_noise_agree_with_the_reference(dtype, shape, mask, poisoned):
    p = problem(shape, mask=mask)
    for which, layout in itertools.product(("M", "Mt", "MMt"), LAYOUTS):
        bounds = {torch.bfloat16: 4e-3, torch.float16: 6e-4} if dtype is torch.float32 else {}
        for each, error in (bounds | {dtype: bound(dtype)}).items():
            v = p.v.to(each)
            got = tdas_ops.precondition(laid_out(v, layout), p.M, which)
            assert got.dtype is each
            assert relative_rms(got, oracle(tdas_ops.precondition, v.double(), p.M, which)) < error
    for kind, n in itertools.product(("stream", "seeds", "tensor"), ("number", "one", "each", "column")):
        like = torch.empty(BATCH, *shape, dtype=dtype)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            noise, n_each = noise_of(kind, like, "last"), scale(n, BATCH, 3.0)
            got = tdas_ops.noise(p.M, like.shape, noise, n_each, dtype=dtype, memory_format=memory_format)
            noise_again = noise_of(kind, like.double(), "plain")
            expected = oracle(tdas_ops.noise, p.M, like.shape, noise_again, n_each, dtype=torch.float64)
            assert got.is_contiguous(memory_format=memory_format)
            assert relative_rms(got, expected) < bound(dtype, noise)


@pytest.mark.parametrize("mask", [(True, False, False), (True, True, False), (False, True, False)], ids=name)
@pytest.mark.parametrize("shape", FUSED + PACKED + ODD, ids=str)
def test_float64_is_made_of_the_normals_of_float32(shape, mask):
    """To all digits, where the reference takes the normals of the kernels."""
    p = problem(shape, mask=mask)
    for each in (stream(), NoiseStream(seeds=[3, 1, 4])):
        drawn = each.arguments(BATCH, p.x.device)
        expected = torch.full_like(p.x, math.nan)
        draw = drawn[1].clone()
        reference.noise(
            expected, *p.M.masks(torch.float64)[:2], 0.7, None, None, drawn[0], draw, drawn[2],
            normal=torch.ops.tdas_ops.normals.cpp,
        )  # fmt: skip
        got = tdas_ops.noise(p.M, p.x.shape, each, 0.7, dtype=torch.float64)
        assert relative_rms(got, expected) < 1e-14


def test_the_bound_rejects_a_wrong_filter():
    """A mask off by a millionth of its scale in one column, a draw too many, a sample shifted by one."""
    p = problem((2, 32, 32), mask=(True, False, False))
    expected = oracle(tdas_ops.noise, p.M, p.x.shape, stream(), dtype=torch.float64)
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
    "noise": lambda M, x, v, noise: tdas_ops.noise(M, x.shape, noise, dtype=x.dtype),
    "precondition": lambda M, x, v, noise: tdas_ops.precondition(v, M, "MMt"),
}
BITS = pytest.mark.parametrize(
    ("run", "shape", "mask", "dtype"),
    [
        pytest.param(run, shape, mask, dtype, id=f"{key} {shape} {name(mask)} {dtype}")
        for key, run in RUNS.items()
        for dtype, shapes in (
            (torch.float32, ((3, 32, 64), (2, 45, 38), (1, 34, 35), (3, 24, 24), (2, 9, 10), (2, 8, 9))),
            (torch.float64, ((3, 32, 64), (1, 34, 35), (2, 9, 10))),
        )
        for shape in shapes
        for mask in ((True, False, False), (True, True, True), (False, True, False))
    ],
)


def single(shape, mask, batch, dtype=torch.float32):
    p = problem(shape, mask=mask, batch=batch)
    return p.M, p.x.to(dtype), p.v.to(dtype)


@BITS
def test_a_sample_never_depends_on_its_batch(run, shape, mask, dtype):
    M, x, v = single(shape, mask, 5, dtype)
    whole = run(M, x, v, NoiseStream(5, first_sample=7))
    parts = [run(M, x[a:b], v[a:b], NoiseStream(5, first_sample=7 + a)) for a, b in ((0, 1), (1, 4), (4, 5))]
    assert torch.equal(torch.cat(parts, dim=whole.dim() - 4), whole)
    seeds = [4, 9, 4, 2, 1]
    whole = run(M, x, v, NoiseStream(seeds=seeds))
    parts = [run(M, x[b : b + 1], v[b : b + 1], NoiseStream(seeds=seeds[b : b + 1])) for b in range(5)]
    assert torch.equal(torch.cat(parts, dim=whole.dim() - 4), whole)


@BITS
def test_threads_and_storage_change_no_bit(run, shape, mask, dtype):
    M, x, v = single(shape, mask, 4, dtype)
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


@pytest.mark.parametrize("shape", [(1, 1, 4095), (1, 12000, 1)], ids=str)
@EACH_DTYPE
def test_threads_change_no_bit_of_a_row_that_is_alone(dtype, shape):
    M, x, v = single(shape, (True, False, False), 3, dtype)
    for run in (RUNS["langevin"], RUNS["step"]):
        expected = run(M, x, v, stream())
        alone = lambda run=run: run(M, x[1:2], v[1:2], NoiseStream(5, first_sample=8, draw=2))
        same = [alone()]
        try:
            torch.set_num_threads(2)
            same.append(alone())
            assert torch.equal(run(M, x, v, stream()), expected)
        finally:
            torch.set_num_threads(1)
        assert torch.equal(*same)


@pytest.mark.parametrize("shape", [(1, 512, 512), (1, 721, 90)], ids=str)
@EACH_DTYPE
def test_threads_change_no_bit_of_several_tasks(dtype, shape):
    M, x, v = single(shape, (True, False, False), 3, dtype)
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
def test_what_is_not_finite_stays_in_its_sample(run, shape, mask, dtype, bad):
    M, x, v = single(shape, mask, 4, dtype)
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


@EACH_DTYPE
def test_batches_larger_than_a_chunk_of_scratch(dtype):
    """The path through torch's FFT takes some samples at a time."""
    shape = (3, 514, 100)
    M, x, v = single(shape, (True, True, True), 9, dtype)
    run = RUNS["langevin with mean"]
    whole = run(M, x, v, stream())
    assert torch.equal(run(M, x[7:8], v[7:8], NoiseStream(5, first_sample=14, draw=2)), whole[:, 7:8])


@pytest.mark.parametrize("shape", [(2, 32, 32), (2, 6, 8), (1, 7, 9)], ids=str)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
@EACH_DTYPE
def test_expanded_inputs(dtype, run, shape):
    """The same element read many times: one sample for the batch, one pixel for a row."""
    M, x, v = single(shape, (True, True, False), 3, dtype)
    for a, b in ((x[:1], v[..., :1]), (x[:, :1, :1], v[:1, :, :1, :1])):
        a, b = a.expand(x.shape), b.expand(x.shape)
        assert torch.equal(run(M, a, b, stream()), run(M, a.clone(), b.clone(), stream()))


@EACH_DTYPE
@pytest.mark.parametrize("run", [RUNS["step"], RUNS["langevin"]], ids=["step", "langevin"])
def test_neighbours_in_memory_are_no_overlap(run, dtype):
    M, x, v = single((2, 32, 32), (True, False, False), 3, dtype)
    memory = torch.cat([x, v, torch.zeros(1, 2, 32, 32), v, x])
    out = memory[3:6]
    expected = run(M, x, v, stream())
    got = run(M, memory[:3], memory[7:10], stream(), out=out)
    assert got is out
    assert torch.equal(got, expected)
    assert torch.equal(memory[:3], x)
    assert torch.equal(memory[7:10], v)


@EACH_DTYPE
@pytest.mark.parametrize("mask", MASKS, ids=name)
@pytest.mark.parametrize("shape", [FUSED[0], FUSED[5], PACKED[0], ODD[1]], ids=str)
def test_a_noise_scale_is_of_the_noise_alone(shape, mask, dtype):
    """x_mean has nothing of one that is not a number."""
    p = problem(shape, "pds", mask)
    x, v = p.x.to(dtype), p.v.to(dtype)
    sizes, scales = torch.tensor([-0.1, 0.1, 0.1]), torch.tensor([0.1, math.nan, math.inf])
    for options in ({}, {"noise_scale": scales}):
        out, mean = tdas_ops.step(x, v, p.M, sizes, noise=stream(), return_mean=True, **options)
        expected = tdas_ops.step(x, v, p.M, sizes, noise_scale=0.0)
        assert relative_rms(mean, expected) < bound(dtype)
        whole = options["noise_scale"].isfinite() if options else sizes > 0
        assert torch.equal(out.isfinite().flatten(1).all(1), whole)


def test_float64_has_kernels():
    p = problem((2, 32, 32), mask=(True, True, False), batch=2)
    x, v = p.x, p.v.double()
    for dtype in (torch.float32, torch.float64):
        assert tdas_ops._backends.kernel("step", x.to(dtype), None).name().endswith("step.cpp")
    precondition = partial(torch.ops.tdas_ops.precondition.cpp, which="M")
    freq, space, _ = p.M.masks(torch.float64)
    out = torch.full_like(x, math.nan)
    for given, sentence in [
        ((out.float(), v, freq.float(), None), "`v` has dtype Double; expected float32, bfloat16 or float16"),
        (
            (out, v.int(), freq, None),
            "`v` has dtype Int; expected float64, float32, bfloat16 or float16 beside `out` in",
        ),
        ((out, v, freq.float(), None), "`freq` has dtype Float; expected float64"),
        ((out.float(), v.float(), freq, None), "`freq` has dtype Double; expected float32"),
        ((out, v, freq, space.float()), "`space` has dtype Float; expected float64"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            precondition(*given)
        assert given[0].isnan().all()
    mean = torch.full_like(x, math.nan, dtype=torch.float32)
    with pytest.raises(ValueError, match="`mean` has dtype Float; expected float64 beside `out` in float64"):
        torch.ops.tdas_ops.step.cpp(out, mean, x, v, freq, None, None, True, 0.1, None, 0.0, None, None, None, None, 0)
    assert out.isnan().all() and mean.isnan().all()


@pytest.mark.parametrize("wrong", ["out", "mean", "x"])
@pytest.mark.parametrize("mask", [(True, True, False), (False, False, False)], ids=name)
def test_a_state_has_the_dtype_that_is_computed_in(mask, wrong):
    """Its memory, and that of its mean, may hold spectra between norms and update."""
    p = problem((2, 32, 32), mask=mask, batch=2)
    freq, space, _ = p.M.masks(torch.float32)
    given = {name: torch.full_like(p.x, 7.0, dtype=torch.float32) for name in ("out", "mean", "x")}
    memory = torch.full((3, *p.x.shape), 7.0, dtype=torch.float16)  # what is written beyond a half shows as well
    given[wrong] = memory[0]
    draw = torch.tensor([2])
    given |= {"freq": freq, "space": space, "skew": None, "filter_drift": True}
    given |= {"z": None, "seeds": torch.tensor([1]), "draw": draw, "first_sample": 0}
    step = partial(torch.ops.tdas_ops.step.cpp, v=p.v.float(), d=0.1, d_tensor=None, n=None, n_tensor=None)
    rule = {"snr": 0.16, "alpha": 1.0, "alpha_tensor": None, "per_sample": False}
    for op in (step, partial(torch.ops.tdas_ops.langevin_step.cpp, score=p.v.float(), **rule)):
        with pytest.raises(ValueError, match=f"`{wrong}` has dtype Half; expected float32"):
            op(**given)
        assert all((t == 7.0).all() for t in (memory, given["out"], given["mean"])) and draw.item() == 2


@pytest.mark.parametrize("shape", [(2, 0, 5, 4), (2, 3, 0, 4), (2, 3, 5, 0)], ids=str)
def test_planes_without_pixels_are_refused(shape):
    nothing, freq = torch.empty(shape), torch.ones(*shape[1:3], shape[3] // 2 + 1)
    with pytest.raises(ValueError, match="expected planes that are not empty"):
        torch.ops.tdas_ops.precondition.cpp(nothing, nothing, freq, None, "M")


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_scales_are_floating_point_numbers(dtype):
    out, draw = torch.full((2, 1, 4, 4), 7.0), torch.tensor([2])
    with pytest.raises(ValueError, match=r"`n_tensor` has dtype .*; expected float32, float64, bfloat16 or float16"):
        torch.ops.tdas_ops.noise.cpp(out, None, None, 1.0, torch.ones(2, dtype=dtype), None, draw, draw, 0)
    assert (out == 7.0).all() and draw.item() == 2
