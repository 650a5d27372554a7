"""Spectra of pictures: from images, at another size, starts and posterior covariance, files, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import relative_rms

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner, Spectrum, samplers
from tdas_ops.sde import VE

MIX = torch.tensor([[1.0, 0.2, 0.1], [0.5, 0.8, 0.0], [0.3, -0.4, 0.6]], dtype=torch.float64)


def law(height: int, width: int, slope: float = 2.0, phases: bool = False) -> Spectrum:
    """A power law whose colours change with frequency: two covariances of the channels, one fading into the other."""
    rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    columns = torch.fft.rfftfreq(width, dtype=torch.float64)[None]
    radii = torch.hypot(rows, columns)
    radii[0, 0] = 0.25 / max(height, width)
    low, high = MIX @ MIX.T, torch.eye(3, dtype=torch.float64)
    S = 0.01 * radii.pow(-slope)[..., None, None] * (low + 2 * radii[..., None, None] * high)
    if phases:
        turn = torch.exp(0.7j * torch.sin(2 * math.pi * rows + 0 * columns))[..., None]
        S = S.to(torch.complex128)
        S[..., 0, :] *= turn
        S[..., :, 0] *= turn.conj()
    return Spectrum((3, height, width), torch.tensor([0.5, 0.4, 0.3]), S, slope)


def drawn(S: Spectrum, count: int, seed: int = 1) -> torch.Tensor:
    return S.start(0.0, (count, *S.shape), NoiseStream(seed)).double()


@pytest.mark.parametrize("phases", [False, True])
def test_what_a_spectrum_draws_has_it(phases):
    S, count = law(16, 16, phases=phases), 3000
    got = Spectrum.from_images(drawn(S, count).split(700), window=False, phases=phases, slope=2.0)
    largest = torch.diagonal(S.matrices, dim1=-2, dim2=-1).real.amax(-1)[..., None, None]
    assert ((got.matrices - S.matrices).abs() / largest).max() < 6 * (2 / count) ** 0.5
    assert got.matrices.is_complex() == phases
    assert (got.mean - S.mean).abs().max() < 0.05


def test_a_window_keeps_the_power_of_white_noise():
    x = torch.randn(2000, 2, 16, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    S = Spectrum.from_images(0.3 * x)
    inner = S.matrices[3:6, 2:5]
    assert (inner - 0.09 * torch.eye(2)).abs().max() < 0.015
    white = torch.randn(20, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert Spectrum.from_images(white).slope == 1.0  # the flattest that is taken


@pytest.mark.parametrize("size", [(64, 64), (32, 128), (31, 33), (16, 16), (48, 20)])
@pytest.mark.parametrize("phases", [False, True])
def test_another_size_has_the_same_law_at_the_same_cycles_per_pixel(size, phases):
    S, expected = law(32, 32, phases=phases), law(*size, phases=phases)
    got = S.resize(*size)
    assert got.shape == (3, *size) and torch.equal(got.mean, S.mean)
    rows, columns = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None]
    radii = torch.hypot(rows, columns)
    close = lambda part, bound: ((got.matrices - expected.matrices)[part].norm(dim=(-2, -1)) / expected.matrices[part].norm(dim=(-2, -1))).max() < bound  # fmt: skip
    assert close(radii > 0.2, 0.05)
    if bool(((radii < 0.03) & (radii > 0)).any()):
        assert close((radii < 0.03) & (radii > 0), 0.5)  # a power law in all but colour
    power = lambda S: float(torch.diagonal(S.matrices[1:], dim1=-2, dim2=-1).real.sum())
    assert 0.8 < power(got) / power(expected) < 1.25
    assert torch.linalg.eigvalsh(got.matrices).min() > 0


def test_the_same_size_is_the_same_spectrum_and_back_again_is_near():
    S = law(32, 32)
    assert S.resize(32, 32) is S
    back = S.resize(64, 64).resize(32, 32)
    assert relative_rms(back.matrices[2:, 2:], S.matrices[2:, 2:]) < 0.02
    assert relative_rms(back.matrices[0, 0], S.matrices[0, 0]) < 0.05


def test_the_fitted_slope_is_that_of_the_law():
    S = law(128, 128, slope=2.6)
    assert abs(Spectrum.from_images(drawn(S, 40), window=False).slope - 2.6) < 0.3


def test_a_start_is_the_noise_of_its_filter_at_any_size():
    S = law(16, 24)
    x = S.start(0.3, (2, 3, 16, 24), NoiseStream(4), dtype=torch.float64)
    M = Preconditioner.from_cross_spectrum(S.matrices, 0.3, shape=(3, 16, 24), method=None)
    z = tdas_ops.noise(M, (2, 3, 16, 24), NoiseStream(4), dtype=torch.float64)
    assert relative_rms(x, z + S.mean[:, None, None]) < 1e-12
    assert S.start(0.3, (1, 3, 40, 33), NoiseStream(4)).shape == (1, 3, 40, 33)
    own = S.start(0.3, (1, 3, 16, 24), NoiseStream(4, first_sample=1), dtype=torch.float64)
    assert torch.equal(own, x[1:])


def test_posterior_covariance_is_exact_for_data_of_the_law():
    """Ancestral steps with the exact denoiser of the law end in the law, in few steps; isotropic noise does not."""
    S, sigmas, count = law(8, 8), [4.0, 1.0, 0.3, 0.1, 0.02], 1500
    values, vectors = S._eigen

    def score(x, s):
        gains = values / (values + float(s.flatten()[0]) ** 2)
        D = Preconditioner((3, 8, 8), tdas_ops._channels.compose(gains, vectors), method=None)
        mean = S.mean[:, None, None].to(x.dtype)
        return (mean + tdas_ops.precondition(x - mean, D) - x) / s.reshape(-1, 1, 1, 1) ** 2

    def end(M, seed=3):
        noise = NoiseStream(seed)
        start = S.start(sigmas[0], (count, 3, 8, 8), noise)
        run = {"noise": noise, "start": start, "ladder": sigmas, "progress": False}
        x = samplers.ancestral(score, start.shape, VE(0.02, 4.0), M, **run)
        return Spectrum.from_images(x, window=False, slope=2.0).matrices

    expected = S.matrices + 0.02**2 * torch.eye(3)
    largest = torch.diagonal(expected, dim1=-2, dim2=-1).amax(-1)[..., None, None]
    error = lambda got: float(((got - expected).abs() / largest).max())
    bound = 6 * (2 / count) ** 0.5
    assert error(end(S.posterior(sigmas))) < bound
    assert error(end(None)) > 1.5 * bound
    assert error(end(S.posterior(sigmas, share=0.0))) == pytest.approx(error(end(None)), rel=1e-2)


def test_posterior_filters_are_the_formula():
    S = law(6, 7)
    (M, last) = S.posterior([0.5, 0.2, 0.0], eta=0.7, share=0.4)
    assert torch.equal(M.freq, last.freq) and M.method == "tdas"
    whole = S.matrices + 0.2**2 * torch.eye(3)
    before = S.matrices + 0.5**2 * torch.eye(3)
    values, vectors = torch.linalg.eigh(torch.linalg.solve(before, whole))  # they commute
    power = vectors @ torch.diag_embed(values.pow(0.7)) @ torch.linalg.inv(vectors)
    isotropic = 0.2**2 * (1 - 0.4**1.4)
    expected = torch.eye(3) + 0.4 * (whole @ (torch.eye(3) - power) / isotropic - torch.eye(3))
    assert relative_rms(M.freq @ M.freq, expected) < 1e-7


def test_save_and_load(tmp_path):
    for S in (law(6, 7), law(6, 6, phases=True)):
        S.save(tmp_path / "s.safetensors")
        again = Spectrum.load(tmp_path / "s.safetensors")
        assert torch.equal(again.matrices, S.matrices) and torch.equal(again.mean, S.mean)
        assert (again.shape, again.slope) == (S.shape, S.slope) and "slope=2.00" in repr(again)
    Preconditioner.identity((1, 4, 4)).save(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="expected a saved Spectrum"):
        Spectrum.load(tmp_path / "m.safetensors")


def test_a_target_for_calibrate_has_the_channels_apart():
    S = law(8, 8)
    target = S.target()
    assert torch.allclose(target.variance[1], S.matrices[..., 1, 1])
    assert target.mean_power[0, 0, 0] == pytest.approx(64 * 0.25)


X = torch.rand(4, 3, 8, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Spectrum.from_images(X[:1]), "images: got 1, expected at least two"),
        (lambda: Spectrum.from_images(X[0]), r"images: got torch.float32 \(3, 8, 8\), expected floating-point batches"),
        (lambda: Spectrum.from_images([X, X[..., 1:]]), r"images: got \(3, 8, 7\) after \(3, 8, 8\), expected one size"),
        (lambda: Spectrum.from_images(X / 0), "images: got non-finite values, expected finite ones"),
        (lambda: Spectrum.from_images(X, slope=-1.0), "slope: got -1.0, expected a finite number"),
        (lambda: Spectrum((3, 8, 8), torch.zeros(2), law(8, 8).matrices), r"mean: got shape \(2,\), expected \(3,\)"),
        (lambda: Spectrum((3, 8, 9), torch.zeros(3), law(8, 7).matrices), "matrices: got shape"),
        (lambda: law(8, 8).resize(0, 8), "height: got 0, expected a positive integer"),
        (lambda: law(8, 8).resize(8, 8.5), "width: got 8.5, expected a positive integer"),
        (lambda: law(8, 8).start("high", (1, 3, 8, 8), NoiseStream(1)), "sigma: got str, expected a finite number"),
        (lambda: law(8, 8).start(1.0, (0, 3, 8, 8), NoiseStream(1)), r"shape: got \(0, 3, 8, 8\), expected"),
        (lambda: Spectrum.from_images(X[..., :0]), r"images: got torch.float32 \(.*, 3, 8, 0\), expected"),
        (lambda: law(8, 8).start(-1.0, (1, 3, 8, 8), NoiseStream(1)), "sigma: got -1.0, expected"),
        (lambda: law(8, 8).start(1.0, (1, 2, 8, 8), NoiseStream(1)), r"shape: got \(1, 2, 8, 8\), expected \(B, 3, H, W"),
        (lambda: law(8, 8).posterior([0.1, 0.2]), "ladder: got .* expected two or more falling noise levels"),
        (lambda: law(8, 8).posterior([0.2]), "ladder: got .* expected two or more falling noise levels"),
        (lambda: law(8, 8).posterior([0.2, 0.1], share=2.0), "eta, share: got 1.0, 2.0, expected eta above 0"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize("size", [(64, 64), (20, 16), (64, 16)])
def test_the_mean_of_a_part_keeps_its_variance_at_another_size(size):
    """What larger pictures gain in low frequencies, their mean colour loses."""
    S = law(32, 32, slope=1.5)
    got, box = S.resize(*size), (min(size[0], 32), min(size[1], 32))
    part = lambda S: drawn(S, 2000)[..., : box[0], : box[1]].mean((2, 3))
    for a, b in zip(torch.cov(part(got).T).diagonal(), torch.cov(part(S).T).diagonal(), strict=True):
        assert abs(float(a / b) - 1) < 0.2
