"""R as a matrix at every frequency: the operator, the noise contract, every backend, bits, what is refused, files."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import relative_rms
from test_cpu import BATCH, EACH_DTYPE, LAYOUTS, RUNS, bound, laid_out, noise_of, oracle, scale, stream
from test_ops import arguments
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner, _backends, calibrate, sde

SHAPES = [(3, 32, 64), (3, 24, 40), (2, 9, 10), (4, 7, 9), (1, 8, 5), (5, 1, 2), (3, 6, 1), (2, 4, 4)]
METHODS = ["pds", "tdas"]


def full_matrices(shape: tuple[int, int, int], complex_: bool = True, seed: int = 0) -> Tensor:
    """Random L(k) `[C, C, H, W]` with L(-k) = conj L(k): the spectra of random real kernels."""
    channels, height, width = shape
    kernels = torch.randn(
        channels, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    full = torch.fft.fft2(kernels, norm="ortho") + 2 * torch.eye(channels)[..., None, None]
    return full if complex_ else full.real


def filter_of(shape, complex_=True, method="pds", space=False, seed=0) -> Preconditioner:
    half = full_matrices(shape, complex_, seed).permute(2, 3, 0, 1)[:, : shape[2] // 2 + 1]
    A = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5 if space else None
    return Preconditioner(shape, half, A, method=method)


def transcription(v: Tensor, L: Tensor, A: Tensor | None = None) -> Tensor:
    """F^-1 L F A v, channel by channel, with full complex transforms."""
    v = v.double() if A is None else A * v.double()
    spectrum = torch.fft.fft2(v)
    return torch.fft.ifft2(torch.einsum("abhw,nbhw->nahw", L.to(spectrum.dtype), spectrum)).real


def field(shape, seed=3) -> Tensor:
    return torch.randn(BATCH, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("space", [False, True])
@pytest.mark.parametrize("complex_", [False, True])
def test_the_reference_is_the_operator(shape, complex_, space):
    M, L, v = filter_of(shape, complex_, space=space), full_matrices(shape, complex_), field(shape)
    assert relative_rms(tdas_ops.precondition(v, M), transcription(v, L, M.space)) < 1e-13
    A = torch.ones(()) if M.space is None else M.space
    adjoint = L.transpose(0, 1).conj()
    assert relative_rms(tdas_ops.precondition(v, M, "Mt"), A * transcription(v, adjoint)) < 1e-13
    assert relative_rms(tdas_ops.precondition(v, M, "MMt"), transcription(A * A * transcription(v, adjoint), L)) < 1e-13
    u = field(shape, seed=4)
    dot = lambda a, b: float((a * b).sum())
    assert abs(dot(u, tdas_ops.precondition(v, M)) - dot(tdas_ops.precondition(u, M, "Mt"), v)) < 1e-10 * dot(v, v)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("space", [False, True])
def test_drawn_noise_is_that_of_the_contract(shape, space):
    """F(M z)(k) = L(k) F z(k) with the z that a filter without mixing gets."""
    M = filter_of(shape, space=space)
    one = Preconditioner.from_masks(torch.ones(shape, dtype=torch.float64), M.space)
    z = tdas_ops.noise(one, (BATCH, *shape), stream(), dtype=torch.float64)
    got = tdas_ops.noise(M, (BATCH, *shape), stream(), 0.5, dtype=torch.float64)
    assert relative_rms(got, 0.5 * transcription(z, full_matrices(shape))) < 1e-13
    given = tdas_ops.noise(M, (BATCH, *shape), field(shape), dtype=torch.float64)
    assert torch.equal(given, tdas_ops.precondition(field(shape), M))


@pytest.mark.parametrize("shape", [(3, 12, 16), (2, 9, 10), (2, 8, 9)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_diagonal_matrices_are_the_mask(backend, shape, method):
    R = torch.rand(shape, dtype=torch.float64) + 0.5
    R = 0.5 * (R + torch.roll(R.flip(-2, -1), (1, 1), (-2, -1)))
    plain = Preconditioner.from_masks(R, method=method)
    mixing = Preconditioner.from_masks(torch.diag_embed(plain.freq.permute(1, 2, 0)), shape=shape, method=method)
    x, v = field(shape).float(), field(shape, seed=5).float()
    for run in RUNS.values():
        assert relative_rms(run(mixing, x, v, stream()), run(plain, x, v, stream()).double()) < 1e-6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("space", [False, True])
@pytest.mark.parametrize(("complex_", "method"), [(False, "tdas"), (True, "pds"), (True, "tdas")])
@EACH_DTYPE
def test_every_backend_agrees_with_the_reference(backend, dtype, shape, complex_, method, space):
    M = filter_of(shape, complex_, method, space)
    given, score = field(shape).to(dtype), field(shape, seed=5).to(dtype)
    x, v = given.double(), score.double()
    for kind, mean in itertools.product(("stream", "seeds", "tensor"), (False, True)):
        noise = lambda like, kind=kind: noise_of(kind, like, "plain")
        options = {"step_size": scale("each", BATCH, 0.2), "noise_scale": scale("each", BATCH, 0.4)}
        rule = {"snr": 0.16, "alpha": scale("each", BATCH, 0.7), "norm": "sample" if mean else "batch"}
        for run, more in ((tdas_ops.step, options), (tdas_ops.langevin_step, rule)):
            got = run(given, score, M=M, noise=noise(given), return_mean=mean, **more)
            expected = oracle(run, x, v, M=M, noise=noise(x), return_mean=mean, **more)
            for a, b in zip(got, expected, strict=True) if mean else ((got, expected),):
                assert relative_rms(a, b) < bound(dtype, noise(x)), (kind, mean, run)
        got = tdas_ops.noise(M, x.shape, noise(given), scale("each", BATCH, 3.0), dtype=dtype)
        expected = oracle(tdas_ops.noise, M, x.shape, noise(x), scale("each", BATCH, 3.0), dtype=torch.float64)
        assert relative_rms(got, expected) < bound(dtype, noise(x))
    for which in ("M", "Mt", "MMt"):
        got = tdas_ops.precondition(score, M, which)
        assert relative_rms(got, oracle(tdas_ops.precondition, v, M, which)) < bound(dtype)


def test_the_bound_rejects_a_wrong_entry():
    shape = (3, 32, 64)
    M = filter_of(shape)
    expected = oracle(tdas_ops.noise, M, (BATCH, *shape), stream(), dtype=torch.float64)
    wrong = M.freq.clone()
    wrong[:, 5, 0, 2] *= 1 + 1e-4
    wrong = Preconditioner.from_masks(wrong, shape=shape)
    assert relative_rms(tdas_ops.noise(wrong, (BATCH, *shape), stream()), expected) > 1e-6
    turned = Preconditioner.from_masks(M.freq.transpose(-1, -2), shape=shape)
    assert relative_rms(tdas_ops.noise(turned, (BATCH, *shape), stream()), expected) > 0.1


@pytest.mark.parametrize("shape", [(3, 32, 64), (3, 24, 24), (2, 9, 10), (2, 8, 9)], ids=str)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
@EACH_DTYPE
def test_no_bit_depends_on_batch_threads_or_storage(backend, dtype, run, shape):
    M, v = filter_of(shape), torch.cat([field(shape)] * 2)[:5].to(dtype)
    x = v.flip(0).contiguous()
    whole = run(M, x, v, NoiseStream(5, first_sample=7))
    if backend == "cpp" or run is RUNS["noise"]:  # the reference's real transforms depend on the batch
        parts = [run(M, x[a:b], v[a:b], NoiseStream(5, first_sample=7 + a)) for a, b in ((0, 1), (1, 4), (4, 5))]
        assert torch.equal(torch.cat(parts, dim=whole.dim() - 4), whole)
    if backend == "cpp":
        for layout in LAYOUTS:
            again = run(M, laid_out(x, layout), laid_out(v, layout), NoiseStream(5, first_sample=7))
            assert torch.equal(again, whole)
        try:
            torch.set_num_threads(3)
            assert torch.equal(run(M, x, v, NoiseStream(5, first_sample=7)), whole)
        finally:
            torch.set_num_threads(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_sample(backend, bad):
    shape = (3, 8, 10)
    M, x, v = filter_of(shape), field(shape).float(), field(shape, seed=5).float()
    expected = tdas_ops.step(x, v, M, 0.1, noise=stream())
    v[1, 0, 2, 3] = bad
    got = tdas_ops.step(x, v, M, 0.1, noise=stream())
    assert not got[1].isfinite().all()
    assert torch.equal(got[::2], expected[::2])


def test_outputs_are_fully_written(backend, poisoned):
    for shape in ((3, 6, 8), (2, 5, 7)):
        M, v = filter_of(shape), field(shape).float()
        for got in tdas_ops.langevin_step(v, v, M, 0.16, noise=NoiseStream(1), return_mean=True):
            assert got.isfinite().all()
        assert tdas_ops.noise(M, (3, *shape), NoiseStream(1)).isfinite().all()


@pytest.mark.parametrize("op", ["noise", "precondition", "step", "langevin_step"])
@pytest.mark.parametrize("complex_", [False, True])
def test_opcheck(backend, op, complex_):
    shape = (3, 4, 6)
    M, v = filter_of(shape, complex_), field(shape).float()
    overload = getattr(getattr(torch.ops.tdas_ops, op), backend)
    torch.library.opcheck(overload, arguments(op, M, v.clone(), v, NoiseStream(1), mean=True))


def test_noise_has_the_cross_spectrum_it_was_made_from():
    shape, sigma, count = (3, 8, 8), 0.3, 4000
    L = full_matrices(shape, seed=2).permute(2, 3, 0, 1)[:, :5]
    S = L @ L.mH
    M = Preconditioner.from_cross_spectrum(S, sigma, shape=shape)
    assert M.mixing and M.method == "tdas"
    assert torch.allclose(M.freq, M.freq.mH)
    expected = S + sigma**2 * torch.eye(3)
    assert torch.allclose(M.freq @ M.freq, expected, rtol=1e-10)
    z = torch.fft.rfft2(tdas_ops.noise(M, (count, *shape), NoiseStream(2)).double(), norm="ortho")
    got = torch.einsum("nahw,nbhw->hwab", z, z.conj()) / count
    largest = torch.diagonal(expected, dim1=-2, dim2=-1).real.amax(-1)[..., None, None]
    assert ((got - expected).abs() / largest).max() < 6 * (2 / count) ** 0.5


def test_save_load_move_and_draw(tmp_path):
    for complex_ in (False, True):
        M = filter_of((3, 4, 6), complex_, space=True)
        M.save(tmp_path / "m.safetensors")
        again = Preconditioner.load(tmp_path / "m.safetensors")
        assert torch.equal(again.freq, M.freq) and torch.equal(again.space, M.space)
        assert again.freq.is_complex() == complex_
        assert "matrices" in repr(again) and again.clone().mixing
        assert M.to("meta").masks(torch.float32)[0].shape == (3, 3, 4, 4)
        M.picture(tmp_path / "m.png")
    real = Preconditioner.from_masks(filter_of((3, 4, 6), False).freq.to(torch.complex64), shape=(3, 4, 6))
    assert not real.freq.is_complex()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("complex_", [False, True])
def test_matrices_are_tensors_or_arrays(shape, complex_):
    """Those of pictures of one row begin with an axis of one, as a mask `[1, C, H, W]` does."""
    M = filter_of(shape, complex_)
    for given in (M.freq, M.freq.numpy(), M.freq.flip(0).contiguous().numpy()[::-1]):
        for made in (Preconditioner.from_masks(given, shape=shape), Preconditioner(shape, given)):
            assert made.mixing and torch.equal(made.freq, M.freq)
    C, H, W = shape
    assert not Preconditioner.from_masks(torch.ones(1, C, H, W)).mixing or (C, H, W) == (1, 1, 1)


GOOD = filter_of((3, 4, 6)).freq
ONE = Preconditioner.from_masks
SHAPE = {"shape": (3, 4, 6)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ONE(GOOD), r"got a mask of shape \(4, 4, 3, 3\) and no shape, expected \[C, H, W\]"),
        (lambda: ONE(GOOD, shape=(3, 4, 8)), r"freq: got shape \(4, 4, 3, 3\), expected \(4, 5, 3, 3\)"),
        (lambda: ONE(GOOD * math.nan, **SHAPE), "freq: got non-finite values, expected finite ones"),
        (lambda: ONE(GOOD + 0.1j, **SHAPE), r"freq: got matrices that miss R\(-k\) = conj R\(k\) by 0.2, expected"),
        (lambda: ONE(GOOD.real.long(), **SHAPE), "freq: got torch.int64, expected a floating-point or complex tensor"),
        (lambda: ONE(0 * GOOD, **SHAPE), "freq: got a singular matrix, expected regular ones"),
        (lambda: ONE(GOOD, skew=torch.zeros(3, 4, 4), **SHAPE), "skew: got a skew part beside matrices, expected none"),
        (lambda: ONE(space=GOOD, **SHAPE), "space: got torch.complex128, expected a floating-point tensor"),
        (lambda: Preconditioner.from_cross_spectrum(GOOD, **SHAPE), "spectrum: got matrices that miss S = S"),
        (lambda: Preconditioner.from_cross_spectrum(-GOOD @ GOOD.mH, **SHAPE), "spectrum: got an eigenvalue of -"),
        (lambda: Preconditioner.from_cross_spectrum(GOOD @ GOOD.mH, -1.0, **SHAPE), "sigma: got -1.0, expected"),
    ],
)
def test_bad_matrices_are_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_singular_matrices_may_colour_noise():
    M = ONE(torch.zeros(4, 4, 3, 3), method=None, **SHAPE)
    assert not tdas_ops.noise(M, (1, 3, 4, 6), NoiseStream(1)).any()


def test_what_cannot_mix_says_so():
    M, v = filter_of((3, 4, 6)), field((3, 4, 6)).float()
    target = calibrate.Target.from_images(torch.rand(5, 3, 4, 6))
    with pytest.raises(ValueError, match="M: got matrices that mix the channels, expected a mask"):
        calibrate.predict(M, target, calibrate.PC(sde.VE(0.01, 10.0), 5))
    freq = M.masks(torch.float32)[0]
    if "cpp" not in tdas_ops.backend_info()["available"]:
        return
    with pytest.raises(ValueError, match="`skew` is there beside matrices; expected none"):
        torch.ops.tdas_ops.step.cpp(
            v, None, v, v, freq, None, torch.zeros(3, 4, 4), True, 0.1, None, None, None, v.clone(), None, None, 0
        )
    with pytest.raises(ValueError, match=r"`freq` has shape \[3, 3, 4, 3\]; expected \[3, 3, 4, 4\]"):
        torch.ops.tdas_ops.precondition.cpp(v, v, freq[..., :3], None, "M")
    with pytest.raises(ValueError, match="`freq` has dtype ComplexDouble; expected float32 or complex64"):
        torch.ops.tdas_ops.precondition.cpp(v, v, freq.to(torch.complex128), None, "M")
    with pytest.raises(ValueError, match="expected a contiguous tensor"):
        torch.ops.tdas_ops.precondition.cpp(v, v, freq.transpose(0, 1), None, "M")


def test_a_gpu_takes_the_composition():
    freq = torch.zeros(3, 3, 64, 33)
    assert not _backends._fused("noise", torch.zeros(1, 3, 64, 64), freq, None, None)
    assert _backends._fused("noise", torch.zeros(1, 3, 64, 64), freq[0], None, None)
    assert "R as matrices" in tdas_ops.backend_info()["paths"]["cpu"]["noise"]


def test_triton_composes():
    if "triton" not in tdas_ops.backend_info()["available"]:
        pytest.skip(tdas_ops.backend_info()["missing"]["triton"])
    M, v = filter_of((2, 3, 4)), field((2, 3, 4)).float()
    expected = [run(M, v.double(), v.double(), stream()) for run in (RUNS["step"], RUNS["langevin"])]
    filtered = tdas_ops.precondition(v.double(), M, "Mt")
    with tdas_ops.use_backend("triton"):
        for run, each in zip((RUNS["step"], RUNS["langevin"]), expected, strict=True):
            assert relative_rms(run(M, v, v, stream()), each) < 1e-6
        assert relative_rms(tdas_ops.precondition(v, M, "Mt"), filtered) < 1e-6
