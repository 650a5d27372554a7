"""Every CUDA path against float64 and the CPU."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from conftest import relative_rms
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream
from tests.kernels.gpu.problems import (
    BATCH,
    CASES,
    COMPOSED,
    DRAWN,
    FUSED,
    GIVEN,
    LARGE,
    MASKS,
    needs_gpu,
    problem,
    stream,
)

pytestmark = needs_gpu


LAYOUTS = ["plain", "last", "spread", "unaligned", "turned", "apart", "gaps"]
DENSE = ["plain", "last", "unaligned"]  # what an output may be


def laid_out(t: Tensor, layout: str) -> Tensor:
    """The same values in another storage, NaN between them."""
    c, h, w = t.shape[1:]
    strides, offset = {
        "plain": ((c * h * w, h * w, w, 1), 0),
        "last": ((h * w * c, 1, w * c, c), 0),
        "spread": ((c * h * w * 2, h * w * 2, w * 2, 2), 1),
        "unaligned": ((c * h * w, h * w, w, 1), 1),
        "turned": ((c * h * w, h * w, 1, h), 0),
        "apart": ((2 * c * h * w, h * w, w, 1), 4),
        "gaps": ((c * h * w + 2, h * w, w, 1), 0),
    }[layout]
    room = t.new_full((2 * t.numel() + 8,), math.nan)
    return room.as_strided(t.shape, strides, offset).copy_(t)


def scale(kind: str, batch: int, value: float):
    each = value * torch.linspace(0.5, 1.5, batch)
    return {
        "number": value,
        "one": torch.tensor([value]),
        "each": each,
        "half": torch.tensor([value], dtype=torch.bfloat16),
        "narrow": each.half(),
        "column": each.double().reshape(-1, 1, 1, 1),
    }[kind]


SCALES = ["number", "one", "each", "half", "narrow", "column"]


def on_device(value):
    return value.cuda() if isinstance(value, Tensor) else value


def noise_of(kind: str | None, x: Tensor):
    """Noise for the state x: the same every time."""
    if kind == "stream":
        return stream()
    if kind == "seeds":
        return NoiseStream(seeds=list(range(3, 3 + len(x))))
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(3)) if kind == "tensor" else None


def check_update(p, M, op: str, kind: str | None, mean: bool, rng: random.Random) -> None:
    """One update against float64 on the CPU; what the test does not name is drawn at random."""
    dtype = rng.choice([torch.float32, torch.bfloat16, torch.float16])
    layout_x, layout_v, layout_z = (rng.choice(LAYOUTS) for _ in range(3))
    out_layout = rng.choice([*DENSE, None])
    in_place = layout_x in DENSE and rng.random() < 0.5
    x, v, noise = p.x.float(), p.v.to(dtype), noise_of(kind, p.x)
    if op == "step":
        n = 0.0 if kind is None else rng.choice([None, scale(rng.choice(SCALES), len(x), 0.4)])
        options = {"step_size": scale(rng.choice(SCALES), len(x), 0.2), "noise_scale": n}
        run = tdas_ops.step
    else:
        options = {
            "snr": 0.16,
            "alpha": scale(rng.choice(SCALES), len(x), 0.7),
            "norm": rng.choice(["batch", "sample"]),
        }
        run = tdas_ops.langevin_step
    wide = noise.double() if isinstance(noise, Tensor) else noise
    expected = run(x.double(), v.double(), p.M, noise=wide, return_mean=mean, **options)

    device_x, device_v = laid_out(x.cuda(), layout_x), laid_out(v.cuda(), layout_v)
    device_noise = laid_out(noise.cuda(), layout_z) if isinstance(noise, Tensor) else noise_of(kind, p.x)
    device_options = {key: on_device(value) for key, value in options.items()}
    nothing = torch.full_like(x, math.nan, device="cuda")
    out = device_x if in_place else None if out_layout is None else laid_out(nothing, out_layout)
    got = run(device_x, device_v, M, noise=device_noise, out=out, return_mean=mean, **device_options)
    case = (op, kind, mean, dtype, layout_x, layout_v, layout_z, out_layout, in_place, options)
    pairs = list(zip(got, expected, strict=True)) if mean else [(got, expected)]
    for i, (a, b) in enumerate(pairs):
        exact = (i == 1 and op == "step") or kind in ("tensor", None)
        assert a.dtype is torch.float32 and a.is_cuda
        assert relative_rms(a.cpu(), b) < (GIVEN if exact else DRAWN), case
    assert out is None or pairs[0][0] is out
    assert in_place or torch.equal(device_x.cpu(), x), case
    assert torch.equal(device_v.cpu(), v), case
    if isinstance(noise, NoiseStream):
        assert device_noise.state_dict() == noise.state_dict()


@pytest.mark.parametrize(("method", "masks"), CASES)
@pytest.mark.parametrize("shape", FUSED + LARGE + COMPOSED, ids=str)
def test_updates_agree_with_float64(shape, method, masks, poisoned):
    p, rng = problem(shape, method, masks), random.Random(f"{shape} {method} {masks}")
    M = p.M.to("cuda")
    for kind, mean in itertools.product(("stream", "seeds", "tensor", None), (False, True)):
        for _ in range(1 if shape in LARGE else 3):
            check_update(p, M, "step", kind, mean, rng)
        if kind is not None:
            check_update(p, M, "langevin_step", kind, mean, rng)


@pytest.mark.parametrize("masks", [m for m in MASKS if "w" not in m])
@pytest.mark.parametrize("shape", FUSED + LARGE + COMPOSED, ids=str)
def test_filters_and_noise_agree_with_float64(shape, masks, poisoned):
    p = problem(shape, masks=masks)
    M = p.M.to("cuda")
    bounds = {torch.float32: GIVEN, torch.bfloat16: 4e-3, torch.float16: 6e-4}
    for which, (dtype, bound) in itertools.product(("M", "Mt", "MMt"), bounds.items()):
        v = p.v.to(dtype)
        expected = tdas_ops.precondition(v.double(), p.M, which)
        for layout in LAYOUTS:
            got = tdas_ops.precondition(laid_out(v.cuda(), layout), M, which)
            assert got.dtype is dtype
            assert relative_rms(got.cpu(), expected) < bound, (which, layout, dtype)
    for kind, n in itertools.product(("stream", "seeds", "tensor"), SCALES):
        noise, n = noise_of(kind, p.x), scale(n, BATCH, 3.0)
        wide = noise.double() if isinstance(noise, Tensor) else noise
        expected = tdas_ops.noise(p.M, p.x.shape, wide, n, dtype=torch.float64)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            given = on_device(noise_of(kind, p.x))
            got = tdas_ops.noise(M, p.x.shape, given, on_device(n), memory_format=memory_format)
            assert got.is_contiguous(memory_format=memory_format)
            assert relative_rms(got.cpu(), expected) < (GIVEN if kind == "tensor" else DRAWN)


@pytest.mark.parametrize("shape", FUSED + LARGE, ids=str)
def test_the_bounds_reject_a_wrong_filter(shape):
    """One column of R off by 2e-5, a draw too many, a sample shifted by one, a plane that is another's."""
    p = problem(shape, masks="R")
    z = noise_of("tensor", p.x)
    expected = tdas_ops.noise(p.M, p.x.shape, z.double(), dtype=torch.float64)
    R = p.R.clone()
    R[..., 1] *= 1 + 2e-5 * shape[2] / 32
    R[..., -1] *= 1 + 2e-5 * shape[2] / 32
    wrong = tdas_ops.Preconditioner.from_masks(R, None, None, shape=shape).to("cuda")
    assert relative_rms(tdas_ops.noise(wrong, p.x.shape, z.cuda()).cpu(), expected) > GIVEN
    right = tdas_ops.noise(p.M.to("cuda"), p.x.shape, z.cuda()).cpu()
    assert relative_rms(right, expected) < GIVEN < relative_rms(right.roll(1, 0), expected)
    drawn = tdas_ops.noise(p.M, p.x.shape, stream(), dtype=torch.float64)
    for other in (NoiseStream(5, first_sample=7, draw=3), NoiseStream(5, first_sample=8, draw=2)):
        assert relative_rms(tdas_ops.noise(p.M.to("cuda"), p.x.shape, other).cpu(), drawn) > 0.1


@pytest.mark.parametrize("masks", ["R", "A"])
@pytest.mark.parametrize("shape", FUSED + LARGE + COMPOSED, ids=str)
def test_coloured_noise_is_that_of_the_cpu_kernels(shape, masks):
    """To 1e-5 of every unit normal, in frequencies or in pixels, wherever they are drawn."""
    p = problem(shape, masks=masks)
    shape = p.x.shape
    wrong = tdas_ops.noise(p.M.to("cuda"), shape, stream()).cpu() - tdas_ops.noise(p.M, shape, stream())
    if masks == "R":
        wrong = math.sqrt(2) * torch.fft.rfft2(wrong.double(), norm="ortho") / p.M.freq
    else:
        wrong = wrong / p.M.space
    assert wrong.abs().max() < 1e-5


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_the_other_backends_agree_with_float64(backend):
    p = problem((2, 32, 16))
    expected = tdas_ops.step(p.x, p.v, p.M, 0.1, noise=stream())
    with tdas_ops.use_backend(backend):
        got = tdas_ops.step(p.x.float().cuda(), p.v.float().cuda(), p.M.to("cuda"), 0.1, noise=stream())
    assert relative_rms(got.cpu(), expected) < DRAWN


def test_what_runs_is_what_backend_info_says():
    info = tdas_ops.backend_info()
    assert "cuda" in info["available"] and info["chosen"] == "automatic"
    paths = info["paths"]["cuda"]
    assert all("fused" in paths[op] for op in ("step", "langevin_step", "noise", "precondition"))
    assert "torch.fft" in paths["step"] and "torch.fft" in paths["langevin_step"]
    with tdas_ops.use_backend("cuda"):
        own = tdas_ops.backend_info()
    assert own["chosen"] == "cuda" and "triton" not in str(own["paths"]["cuda"])
    first = lambda path: path.split(";")[0]  # what has a kernel; for the rest it is not Triton then
    assert all(first(own["paths"]["cuda"][op]) == first(path) for op, path in paths.items())
