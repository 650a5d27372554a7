"""The Triton kernels of an update, in Triton's interpreter: parity with float64 and the noise contract, layouts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import make_problem, relative_rms
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream, reference

pytest.importorskip("triton")
from tdas_ops.triton_kernels import pixels, spectral, update
from tdas_ops.triton_kernels.scales import ONE, Drawn, Scale

pytestmark = pytest.mark.skipif("triton" not in tdas_ops.backend_info()["available"], reason="no Triton here")

SIZES = [(2, 6, 8), (1, 5, 7), (2, 7, 4), (1, 4, 9), (1, 1, 1)]
CASES = [("pds", *there) for there in itertools.product((True, False), repeat=3)]
CASES += [("tdas", freq, space, False) for freq, space in itertools.product((True, False), repeat=2)]
EACH = torch.tensor([0.1, 0.0, 0.3])
SMALL = [*itertools.product(range(1, 6), range(1, 5)), (33, 20), (520, 3)]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c[0] + "".join(" RAw"[i] for i in (1, 2, 3) if c[i]))


def stream() -> NoiseStream:
    return NoiseStream(5, first_sample=7, draw=(3 << 32) + 2)


def problem(shape, case=("pds", True, True, True)):
    method, freq, space, skew = case
    p = make_problem(3, shape, method, freq, space, skew)
    return p.M, p.x.float(), p.v.float()


def both(backend_double: str, run, *tensors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Results of Triton in float32 and of another backend in float64."""
    with tdas_ops.use_backend("triton"):
        got = run(*tensors)
    with tdas_ops.use_backend(backend_double):
        expected = run(*(t.double() for t in tensors))
    return [list(r) if isinstance(r, tuple) else [r] for r in (got, expected)]


@pytest.fixture(params=[False, True], ids=["complex", "real"])
def transforms(request, monkeypatch):
    """The transforms that a CPU takes, and those of a GPU."""
    monkeypatch.setattr(update, "_real_transforms", lambda t: request.param)
    return request.param


@each_case
@pytest.mark.parametrize(
    ("shape", "transforms"), list(zip(SIZES, [0, 0, 1, 1, 1], strict=True)), indirect=["transforms"]
)
def test_step_agrees_with_float64(shape, case, transforms, poisoned):
    """One call draws and has scales for each sample, one takes noise and numbers; one of them returns x_mean."""
    M, x, v = problem(shape, case)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    drawn = lambda x, v, z: tdas_ops.step(x, v, M, EACH.to(x.dtype), noise=stream(), return_mean=bool(transforms))
    given = lambda x, v, z: tdas_ops.step(x, v, M, 0.1, noise_scale=0.4, noise=z, return_mean=not transforms)
    for run in (drawn, given):
        for got, expected in zip(*both("reference", run, x, v, z), strict=True):
            assert relative_rms(got, expected) < 1e-6


@pytest.mark.parametrize(("freq", "space"), list(itertools.product((True, False), repeat=2)))
@pytest.mark.parametrize("shape", [(2, 6, 8), (1, 5, 7)], ids=str)
def test_noise_and_precondition_agree_with_float64(shape, freq, space, transforms, poisoned):
    M, _, v = problem(shape, ("pds", freq, space, False))
    calls = [lambda v, which=which: tdas_ops.precondition(v, M, which) for which in ("M", "Mt", "MMt")]
    calls += [lambda v: tdas_ops.noise(M, v.shape, stream(), EACH, dtype=v.dtype)]
    calls += [lambda v: tdas_ops.noise(M, v.shape, v, 0.7, dtype=v.dtype)]
    for run in calls:
        for got, expected in zip(*both("reference", run, v), strict=True):
            assert relative_rms(got, expected) < 1e-6


@pytest.mark.parametrize("seeds", [[5], [5, 1 << 40, -1]], ids=["one seed", "seeds"])
@pytest.mark.parametrize("size", SMALL, ids=str)
def test_spectral_noise_is_that_of_the_contract(size, seeds):
    """Every place of the half spectrum, against the normals that the reference lays out; no other place is written."""
    shape = (3, 2, *size)
    drawn = Drawn(torch.tensor(seeds), torch.tensor([(3 << 32) + 2]), 0 if len(seeds) > 1 else (1 << 31) - 1)
    half = (3, 2, size[0], size[1] // 2 + 1)
    g = torch.empty(3, 2, size[0], (size[1] + 1) // 2, dtype=torch.complex64)
    reference.normals(g, *drawn, True)
    expected = reference.spectral_noise(g, size[1])
    guarded = torch.full((math.prod(half) + 2,), complex(math.nan, math.nan), dtype=torch.complex64)
    out = guarded[1:-1].view(half)
    spectral.filtered(shape, None, None, torch.ones(half[1:]), None, 0, ONE, ONE, drawn, out)
    assert (out - expected).abs().max() < 1e-5 * math.sqrt(math.prod(size))
    assert guarded[[0, -1]].isnan().all()
    assert drawn.draw.item() == (3 << 32) + 2


@pytest.mark.parametrize("size", [(6, 8), (5, 7)], ids=str)
@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("noise", ["drawn", "given", "none"])
def test_spectral_update_in_place(size, power, noise):
    """`Y = d (R^power + i w) V + n R Z` in the memory of V, of Z and apart: the same bits, near the formula."""
    shape, half = (3, 2, *size), (size[0], size[1] // 2 + 1)
    g = torch.Generator().manual_seed(3)
    V, Z = (torch.randn(3, 2, *half, dtype=torch.complex64, generator=g) for _ in range(2))
    R, w = (torch.rand(2, *half, generator=g) + 0.5 for _ in range(2))
    drawn = Drawn(torch.tensor([5]), torch.tensor([1]), 2) if noise == "drawn" else None
    scales = Scale(0.0, EACH), Scale(0.0, None, root_of_two_d=True)
    run = lambda V, Z, out: spectral.filtered(
        shape, V, Z if noise == "given" else None, R, w, power, *scales, drawn, out
    ).clone()
    apart = run(V, Z, torch.full_like(V, math.nan))
    if noise == "drawn":
        Z = spectral.filtered(shape, None, None, torch.ones_like(R), None, 0, ONE, ONE, drawn, torch.empty_like(V))
    d = EACH.double().reshape(-1, 1, 1, 1)
    factor = torch.complex(R.double() ** power if power else torch.zeros_like(R).double(), w.double())
    expected = d * factor * V.to(torch.complex128)
    if noise != "none":
        expected += (2 * d).sqrt() * R * Z.to(torch.complex128)
    assert relative_rms(torch.view_as_real(apart), torch.view_as_real(expected)) < 2e-7
    kept = V.clone()
    assert torch.equal(run(kept, Z, kept), apart)
    if noise == "given":
        kept = Z.clone()
        assert torch.equal(run(V, kept, kept), apart)


LAYOUTS = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "sliced": lambda t: torch.cat([t, t], dim=-1)[..., 1 : 1 + t.shape[-1]],
    "one sample": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", [("pds", True, True, True), ("tdas", True, False, False), ("pds", False, True, False)])
def test_layouts_and_dtypes_change_no_bit(layout, dtype, case):
    M, x, v = problem((2, 6, 5), case)
    x, v, z = (layout(t) for t in (x, v.to(dtype), x.flip(0)))
    plain = [t.contiguous() for t in (x, v.float(), z)]
    dense = x.is_contiguous(memory_format=torch.channels_last)
    with tdas_ops.use_backend("triton"):
        expected = tdas_ops.step(*plain[:2], M, EACH, noise=plain[2])
        out = torch.full_like(x if dense else plain[0], math.nan)
        assert torch.equal(tdas_ops.step(x, v, M, EACH, noise=z, out=out), expected)
        if dense:
            assert torch.equal(tdas_ops.step(x, v, M, EACH, noise=z, out=x), expected)


@each_case
def test_step_advances_the_draw_once_and_leaves_the_score(case):
    M, x, v = problem((1, 4, 6), case)
    before, noise = v.clone(), NoiseStream(5)
    with tdas_ops.use_backend("triton"):
        tdas_ops.step(x, v, M, 0.1, noise=noise)
        assert noise.state_dict()["draw"] == 1
        without = tdas_ops.step(x, v, M, 0.1, noise_scale=0.0)
        assert torch.equal(tdas_ops.step(x, v, M, 0.1, noise_scale=0.0, return_mean=True)[1], without) or case[1]
    assert torch.equal(v, before)


class Silent:
    """In the place of a kernel: launched like one, and does nothing."""

    def __getitem__(self, grid):
        return lambda *args, **kwargs: None


@each_case
def test_no_op_waits_for_the_device(case, monkeypatch):
    """Around kernels that do nothing; on fake tensors every read of a value raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(spectral, "spectral_kernel", Silent())
    monkeypatch.setattr(pixels, "pixel_kernel", Silent())
    M, x, v = problem((2, 6, 5), case)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        masks = [None if m is None else mode.from_tensor(m) for m in M.masks(torch.float32)]
        x, v, d = mode.from_tensor(x), mode.from_tensor(v), mode.from_tensor(EACH)
        counter = mode.from_tensor(torch.zeros(1, dtype=torch.int64))
        out, mean = torch.empty_like(x), torch.empty_like(x)
        for noise in ((None, counter, counter, 1), (v, None, None, 0)):
            update.noise(out, *masks[:2], 0.0, d, *noise)
            for each in (None, mean):
                update.step(out, each, x, v, *masks, case[0] == "pds", 0.0, d, None, None, *noise)
        for which in ("M", "Mt", "MMt"):
            update.precondition(out, v, *masks[:2], which)


@pytest.mark.parametrize("kernel", ["spectral_kernel", "pixel_kernel"])
def test_a_kernel_that_does_nothing_is_found(kernel, monkeypatch, poisoned):
    monkeypatch.setattr(spectral if kernel == "spectral_kernel" else pixels, kernel, Silent())
    M, x, v = problem((2, 6, 5))
    run = lambda x, v: tdas_ops.step(x, v, M, 0.1, noise=stream())
    got, expected = both("reference", run, x, v)
    assert not relative_rms(got[0], expected[0]) < 1e-6
