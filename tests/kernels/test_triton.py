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
from tdas_ops.triton_kernels import pixels, scales, snr, spectral, update
from tdas_ops.triton_kernels.scales import Drawn, Scale
from tdas_ops.triton_kernels.spectral import Spectrum

pytestmark = pytest.mark.skipif("triton" not in tdas_ops.backend_info()["available"], reason="no Triton here")

SIZES = [(2, 6, 8), (1, 5, 7), (2, 7, 4), (1, 4, 9), (1, 1, 1)]
CASES = [("pds", *there) for there in itertools.product((True, False), repeat=3)]
CASES += [("tdas", freq, space, False) for freq, space in itertools.product((True, False), repeat=2)]
EACH = torch.tensor([0.1, 0.0, 0.3])
SMALL = [(1, 1), (2, 1), (5, 1), (1, 2), (4, 2), (1, 3), (3, 3), (2, 4), (3, 4), (5, 4), (33, 20), (520, 3)]
SEEDS = {"one seed": [5], "seeds": [5, 1 << 40, -1]}
name_of = lambda c: c[0] + "".join(" RAw"[i] for i in (1, 2, 3) if c[i])
each_case = pytest.mark.parametrize("case", CASES, ids=name_of)


def placed(times: int):
    """Every case with sizes in turn, both transforms, and its number."""
    numbers = itertools.product(enumerate(CASES), range(times))
    found = [(case, SIZES[(i + 2 * k) % 5], i + k, bool((i + k) % 2)) for (i, case), k in numbers]
    ids = [f"{name_of(case)} {shape}" for case, shape, _, _ in found]
    return pytest.mark.parametrize(("case", "shape", "number", "transforms"), found, ids=ids, indirect=["transforms"])


def stream() -> NoiseStream:
    return NoiseStream(5, first_sample=7, draw=(3 << 32) + 2)


def problem(shape, case=("pds", True, True, True)):
    method, freq, space, skew = case
    p = make_problem(3, shape, method, freq, space, skew)
    return p.M, p.x.float(), p.v.float()


def both(run, *tensors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Results of Triton in float32 and of the reference in float64, and as many draws of their streams."""
    results, streams = [], (stream(), stream())
    for backend, dtype, noise in zip(("triton", "reference"), (torch.float32, torch.float64), streams, strict=True):
        with tdas_ops.use_backend(backend):
            results.append(run(*(t.to(dtype) for t in tensors), noise))
    assert streams[0].state_dict() == streams[1].state_dict()
    return [list(r) if isinstance(r, tuple) else [r] for r in results]


@pytest.fixture(params=[False, True], ids=["complex", "real"])
def transforms(request, monkeypatch):
    """The transforms that a CPU takes, and those of a GPU."""
    monkeypatch.setattr(update, "_real_transforms", lambda t: request.param)
    return request.param


@placed(2)
def test_step_agrees_with_float64(shape, case, number, transforms, poisoned):
    """A draw and scales for each sample, or noise and numbers that are given; with x_mean or without."""
    M, x, v = problem(shape, case)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    mean, before = number % 4 in (1, 2), v.clone()
    drawn = lambda x, v, z, noise: tdas_ops.step(x, v, M, EACH.to(x.dtype), noise=noise, return_mean=mean)
    given = lambda x, v, z, noise: tdas_ops.step(x, v, M, 0.1, noise_scale=0.4, noise=z, return_mean=mean)
    for got, expected in zip(*both(given if number % 2 else drawn, x, v, z), strict=True):
        assert relative_rms(got, expected) < 1e-6
    assert torch.equal(v, before)


@placed(1)
def test_step_without_noise_agrees_with_float64(shape, case, number, transforms, poisoned):
    M, x, v = problem(shape, case)
    run = lambda x, v, noise: tdas_ops.step(x, v, M, 0.1, noise_scale=0.0, return_mean=bool(number % 3))
    for got, expected in zip(*both(run, x, v), strict=True):
        assert relative_rms(got, expected) < 1e-6


@placed(1)
@pytest.mark.parametrize("norm", ["batch", "sample"])
def test_langevin_step_agrees_with_float64(shape, case, number, transforms, norm, poisoned):
    """Norms of the batch or of each sample, noise drawn or given, alpha a number or of each sample, x_mean or not."""
    M, x, v = problem(shape, case)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    mean, before = bool(number // 2 % 2), v.clone()
    alpha = EACH if norm == "batch" else 0.7
    drawn = (number % 2 == 0) == (norm == "batch")

    def run(x, v, z, noise):
        noise = noise if drawn else z
        return tdas_ops.langevin_step(x, v, M, 0.16, noise=noise, norm=norm, alpha=alpha, return_mean=mean)

    for got, expected in zip(*both(run, x, v, z), strict=True):
        assert relative_rms(got, expected) < 1e-6
    assert torch.equal(v, before)


@pytest.mark.parametrize("case", [("pds", True, False, True), ("tdas", True, False, False)], ids=name_of)
def test_langevin_step_of_a_sample_is_the_same_alone_and_again(case):
    """To the bit, where the sums of a sample come from several programs; inference mode changes nothing."""
    M, x, v = problem((2, 24, 24), case)
    run = lambda a, b: tdas_ops.langevin_step(
        x[a:b], v[a:b], M, 0.16, noise=NoiseStream(5, first_sample=a), norm="sample"
    )
    with tdas_ops.use_backend("triton"):
        whole = run(0, 2)
        with torch.inference_mode():
            assert torch.equal(run(1, 2), whole[1:])
    with tdas_ops.use_backend("reference"):
        assert relative_rms(whole, run(0, 2)) < 1e-6


@pytest.mark.parametrize(
    ("case", "norm"),
    [
        (("pds", True, False, True), "batch"),
        (("pds", False, True, False), "batch"),
        (("tdas", True, False, False), "sample"),
    ],
    ids=lambda c: c if isinstance(c, str) else name_of(c),
)
def test_a_non_finite_score_stays_in_its_sample(case, norm):
    M, x, v = problem((1, 5, 6), case)
    broken = v.clone()
    broken[1, 0, 2, 3] = math.nan
    run = lambda x, v, noise: tdas_ops.langevin_step(x, v, M, 0.16, noise=x.flip(0), norm=norm)
    got, expected = both(run, x, broken)
    assert got[0][1].isnan().any()
    assert relative_rms(got[0][::2], expected[0][::2]) < 1e-6
    if norm == "sample":
        with tdas_ops.use_backend("triton"):
            assert torch.equal(run(x, v, None)[::2], got[0][::2])


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("each", [True, False])
def test_step_size_of_many_samples_and_blocks(per_sample, each, poisoned, monkeypatch):
    """More of both than a program takes at once; a norm that is not finite is left out of the average alone."""
    monkeypatch.setattr(snr, "BLOCK", 16)
    g = torch.Generator().manual_seed(2)
    drift, noise = torch.rand(20, 3, generator=g), torch.rand(20, 40, generator=g)
    drift[7, 2], noise[8, 39] = math.nan, math.inf
    alpha = torch.rand(20, generator=g)
    eta = snr.step_size(drift, noise, 0.16, Scale(0.5, alpha if each else None), per_sample)
    norms = [squares.double().sum(dim=1).sqrt() for squares in (drift, noise)]
    if not per_sample:
        norms = [norm[norm.isfinite()].mean() for norm in norms]
    expected = (2 * (alpha.double() if each else 0.5) * (0.16 * norms[1] / norms[0]) ** 2).expand(20)
    finite = expected.isfinite()
    assert torch.equal(eta.isfinite(), finite) and finite.sum() == (18 if per_sample else 20)
    assert relative_rms(eta[finite], expected[finite]) < 2e-7


@pytest.mark.parametrize(("freq", "space"), list(itertools.product((True, False), repeat=2)))
@pytest.mark.parametrize(("shape", "transforms"), [((2, 6, 8), False), ((1, 5, 7), True)], indirect=["transforms"])
def test_noise_and_precondition_agree_with_float64(shape, freq, space, transforms, poisoned):
    M, _, v = problem(shape, ("pds", freq, space, False))
    calls = [lambda v, noise, which=which: tdas_ops.precondition(v, M, which) for which in ("M", "Mt", "MMt")]
    calls += [lambda v, noise: tdas_ops.noise(M, v.shape, noise, EACH, dtype=v.dtype)]
    calls += [lambda v, noise: tdas_ops.noise(M, v.shape, v, 0.7, dtype=v.dtype)]
    for run in calls:
        for got, expected in zip(*both(run, v), strict=True):
            assert relative_rms(got, expected) < 1e-6


@pytest.mark.parametrize(
    ("size", "seeds"), [(size, list(SEEDS)[sum(size) % 2]) for size in SMALL] + [((4, 4), "seeds")], ids=str
)
def test_spectral_noise_is_that_of_the_contract(size, seeds):
    """Every place of the half spectrum, against the normals that the reference lays out; no other place is written."""
    shape = (3, 2, *size)
    seeds = SEEDS[seeds]
    drawn = Drawn(torch.tensor(seeds), torch.tensor([(3 << 32) + 2]), 0 if len(seeds) > 1 else (1 << 31) - 1)
    half = (3, 2, size[0], size[1] // 2 + 1)
    g = torch.empty(3, 2, size[0], (size[1] + 1) // 2, dtype=torch.complex64)
    reference.normals(g, *drawn, True)
    expected = reference.spectral_noise(g, size[1])
    guarded = torch.full((math.prod(half) + 2,), complex(math.nan, math.nan), dtype=torch.complex64)
    out = guarded[1:-1].view(half)
    spectral.filtered(Spectrum(shape, torch.ones(half[1:]), drawn=drawn), out)
    assert (out - expected).abs().max() < 1e-5 * math.sqrt(math.prod(size))
    assert guarded[[0, -1]].isnan().all()
    assert drawn.draw.item() == (3 << 32) + 2


@pytest.mark.parametrize("size", [(6, 8), (5, 7)], ids=str)
@pytest.mark.parametrize(
    ("power", "noise"), [(None, "drawn"), (0, "given"), (1, "none"), (2, "drawn"), (2, "given")], ids=str
)
def test_spectral_update_in_place(size, power, noise):
    """`Y = d (R^power + i w) V + n R Z` in the memory of V, of Z and apart: the same bits, near the formula."""
    shape, half = (3, 2, *size), (size[0], size[1] // 2 + 1)
    g = torch.Generator().manual_seed(3)
    V, Z = (torch.randn(3, 2, *half, dtype=torch.complex64, generator=g) for _ in range(2))
    R, w = (torch.rand(2, *half, generator=g) + 0.5 for _ in range(2))
    drawn = Drawn(torch.tensor([5]), torch.tensor([1]), 2) if noise == "drawn" else None
    scales = Scale(0.0, EACH), Scale(0.0, None, root_of_two_d=True)

    def run(V, Z, out):
        t = Z if noise == "given" else None
        spectral.filtered(Spectrum(shape, R, w, V, power, t, drawn), out, *scales, gain=0.3)
        return out.clone()

    apart = run(V, Z, torch.full_like(V, math.nan))
    if noise == "drawn":
        spectral.filtered(Spectrum(shape, torch.ones_like(R), drawn=drawn), Z)
    d = EACH.double().reshape(-1, 1, 1, 1)
    factor = torch.complex(torch.zeros_like(w) if power is None else R**power, w).to(torch.complex128)
    expected = d * factor * V.to(torch.complex128)
    if noise != "none":
        expected += (2 * d).sqrt() * R * Z.to(torch.complex128)
    assert relative_rms(torch.view_as_real(apart), 0.3 * torch.view_as_real(expected)) < 2e-7
    kept = V.clone()
    assert torch.equal(run(kept, Z, kept), apart)
    if noise == "given":
        kept = Z.clone()
        assert torch.equal(run(V, kept, kept), apart)


@pytest.mark.parametrize(
    ("size", "noise"),
    [
        ((1, 1), "drawn"),
        ((1, 4), "given"),
        ((4, 1), "given"),
        ((5, 2), "drawn"),
        ((4, 7), "given"),
        ((33, 34), "drawn"),
    ],
    ids=str,
)
def test_squares_of_spectra_are_those_of_pixels(size, noise, poisoned):
    """Parseval on half spectra, against the planes that they stand for."""
    g = torch.Generator().manual_seed(3)
    v, z = torch.randn(2, 2, 1, *size, generator=g)
    R = torch.rand(1, size[0], size[1] // 2 + 1, generator=g) + 0.5
    R = torch.fft.rfft2(torch.fft.irfft2(R, s=size)).real.contiguous()  # even where the half spectrum is its own mirror
    spectra = Spectrum(tuple(v.shape), R, None, update._spectra(v), 2)
    drawn = Drawn(torch.tensor([5]), torch.tensor([1]), 2)
    spectra = spectra._replace(drawn=drawn) if noise == "drawn" else spectra._replace(t=update._spectra(z))
    squares = spectral.spectral_squares(spectra, v.device)
    drift = update._planes(spectra._replace(t=None, drawn=None), keep=True)
    coloured = update._planes(spectra._replace(v=None, power=None))
    for got, expected in zip(squares, (drift, coloured), strict=True):
        assert relative_rms(got.double().sum(dim=1), expected.double().square().flatten(1).sum(dim=1)) < 1e-6


LAYOUTS = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "sliced": lambda t: torch.cat([t, t], dim=-1)[..., 1 : 1 + t.shape[-1]],
    "one sample": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize(
    ("op", "case", "layout", "dtype"),
    [
        ("step", ("pds", True, True, True), "channels_last", torch.bfloat16),
        ("step", ("pds", True, False, False), "sliced", torch.float16),
        ("step", ("tdas", True, False, False), "channels_last", torch.bfloat16),
        ("step", ("tdas", True, True, False), "transposed", torch.float32),
        ("step", ("pds", False, True, False), "one sample", torch.float16),
        ("langevin_step", ("pds", True, False, False), "channels_last", torch.bfloat16),
        ("langevin_step", ("tdas", True, False, False), "transposed", torch.float16),
        ("langevin_step", ("pds", False, True, False), "channels_last", torch.float32),
        ("langevin_step", ("pds", False, False, False), "sliced", torch.bfloat16),
    ],
    ids=lambda c: name_of(c) if isinstance(c, tuple) else str(c),
)
def test_layouts_and_dtypes_change_no_bit(op, case, layout, dtype):
    M, x, v = problem((2, 6, 5), case)
    x, v, z = (LAYOUTS[layout](t) for t in (x, v.to(dtype), x.flip(0)))
    plain = [t.contiguous() for t in (x, v.float(), z)]
    dense = x.is_contiguous(memory_format=torch.channels_last)
    run = lambda x, v, z, **out: getattr(tdas_ops, op)(x, v, M, EACH if op == "step" else 0.16, noise=z, **out)
    with tdas_ops.use_backend("triton"):
        expected = run(*plain)
        out = torch.full_like(x if dense else plain[0], math.nan)
        cast = torch.full_like(out, math.nan, dtype=dtype)
        assert torch.equal(run(x, v, z, out=out, cast=cast), expected)
        assert torch.equal(cast, expected.to(dtype))
        if dense:
            assert torch.equal(run(x, v, z, out=x), expected)


def test_a_sample_too_large_to_count_in_32_bits_is_refused(monkeypatch):
    M, x, v = problem((1, 4, 6))
    monkeypatch.setattr(scales, "LIMIT", 24)
    with (
        tdas_ops.use_backend("triton"),
        pytest.raises(ValueError, match=r"x: got shape \(3, 1, 4, 6\), expected fewer"),
    ):
        tdas_ops.step(x, v, M, 0.1, noise=v, out=x)
    assert torch.equal(x, problem((1, 4, 6))[1])


class Silent:
    """In the place of a kernel: launched like one, and does nothing."""

    def __getitem__(self, grid):
        return lambda *args, **kwargs: None


KERNELS = {"spectral_kernel": spectral, "pixel_kernel": pixels, "norm_kernel": snr, "step_size_kernel": snr}


@each_case
def test_no_op_waits_for_the_device(case, monkeypatch):
    """Around kernels that do nothing; on fake tensors every read of a value raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    for kernel, module in KERNELS.items():
        monkeypatch.setattr(module, kernel, Silent())
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
                for of_batch in (d, None):
                    rule = (0.16, 0.5, of_batch, of_batch is not None)
                    update.langevin_step(out, each, x, v, *masks, case[0] == "pds", *rule, *noise)
        for which in ("M", "Mt", "MMt"):
            update.precondition(out, v, *masks[:2], which)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:triton")  # of the poison that it leaves
def test_a_kernel_that_does_nothing_is_found(kernel, monkeypatch, poisoned):
    monkeypatch.setattr(KERNELS[kernel], kernel, Silent())
    M, x, v = problem((1, 4, 5))
    run = lambda x, v, noise: tdas_ops.langevin_step(x, v, M, 0.1, noise=noise)
    got, expected = both(run, x, v)
    assert not relative_rms(got[0], expected[0]) < 1e-6
