"""The Gaussian law of the data: its operations against dense float64 algebra, its noise by law, files and bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import even, relative_rms
from PIL import Image
from torch import Tensor

from tdas_ops import NoiseStream
from tdas_ops.prior import Prior

SHAPE = (2, 4, 6)
PIXELS = math.prod(SHAPE)
BASES = ("pca", "fourier", "pixel", "mean")
GENERATOR = torch.Generator().manual_seed(3)
MEAN = torch.rand(SHAPE, generator=GENERATOR, dtype=torch.float64) + 0.5
SPECTRUM = even(torch.rand(SHAPE, generator=GENERATOR, dtype=torch.float64) ** 3 * 4)
VECTORS = torch.linalg.qr(torch.randn(PIXELS, 5, generator=GENERATOR, dtype=torch.float64))[0].T.reshape(5, *SHAPE)


def prior(basis: str, scale: float = 1.0) -> Prior:
    variance = {
        "pca": torch.tensor([9.0, 4.0, 1.0, 0.01, 0.0], dtype=torch.float64),
        "fourier": SPECTRUM[..., :4],
        "pixel": SPECTRUM,
        "mean": torch.zeros(0),
    }[basis]
    return Prior(MEAN, scale * variance, VECTORS if basis == "pca" else None, basis=basis)


def covariance(p: Prior) -> Tensor:
    """`[PIXELS, PIXELS]`, put together from the attributes."""
    if p.basis == "mean":
        return torch.zeros(PIXELS, PIXELS, dtype=torch.float64)
    if p.basis == "pixel":
        return p.variance.flatten().diag()
    if p.basis == "pca":
        flat = p.vectors.flatten(1)
        return flat.T @ p.variance.diag() @ flat
    _, height, width = p.shape
    unit = torch.eye(PIXELS, dtype=torch.float64).reshape(PIXELS, *p.shape)
    full = torch.empty(p.shape, dtype=torch.float64)
    for ky in range(height):
        for kx in range(width):
            full[:, ky, kx] = p.variance[:, ky, kx] if kx <= width // 2 else p.variance[:, -ky % height, width - kx]
    return torch.fft.ifft2(full * torch.fft.fft2(unit)).real.reshape(PIXELS, PIXELS)


def power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0) ** exponent) @ vectors.T


def applied(matrix: Tensor, v: Tensor) -> Tensor:
    return (v.double().flatten(1) @ matrix).reshape(v.shape)


def noised(p: Prior, sigma: float) -> Tensor:
    return covariance(p) + sigma**2 * torch.eye(PIXELS, dtype=torch.float64)


def denoiser(p: Prior, x: Tensor, sigma: float) -> Tensor:
    return MEAN + applied(covariance(p) @ power(noised(p, sigma), -1), x - MEAN)


def random(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Operations


@pytest.mark.parametrize("basis", BASES)
def test_a_gaussian_law_is_solved_in_one_step(basis: str) -> None:
    """Its denoiser implies its mean; one step of any length is the exact flow, or the mean of the exact posterior."""
    p, s, t = prior(basis), 3.0, 0.2
    x = MEAN + s * random(3)
    x0 = denoiser(p, x, s)
    score = (x0 - x) / s**2
    assert relative_rms(p.denoise(x, s), x0) < 1e-12
    assert relative_rms(p.implied_mean(x, x0, s), MEAN.expand_as(x)) < 1e-12
    flow = MEAN + applied(power(noised(p, t), 0.5) @ power(noised(p, s), -0.5), x - MEAN)
    assert relative_rms(p.flow(x, x0, score, s, t), flow) < 1e-12
    posterior = MEAN + applied(noised(p, t) @ power(noised(p, s), -1), x - MEAN)
    assert relative_rms(p.flow(x, x0, score, s, t, eta=1.0), posterior) < 1e-12
    ancestral = x0 + (t / s) ** 2 * (x - x0)
    assert relative_rms(ancestral, posterior) < 1e-12
    end = MEAN + applied(power(covariance(p), 0.5) @ power(noised(p, s), -0.5), x - MEAN)
    assert relative_rms(p.flow(x, x0, score, s, 0.0), end) < 1e-7  # the root of a matrix that is singular


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_flow_around_any_mean(basis: str, eta: float) -> None:
    """With x0 and score of any denoiser: `m + (S' / S)^((1 + eta) / 2) (x - m)` around the mean they imply."""
    p, s, t = prior(basis), 1.3, 0.4
    x, x0 = random(2, 1), random(2, 2)
    m = p.implied_mean(x, x0, s)
    expected = m + applied(power(noised(p, t) @ power(noised(p, s), -1), (1 + eta) / 2), x - m)
    assert relative_rms(p.flow(x, x0, (x0 - x) / s**2, s, t, eta), expected) < 1e-12


def test_without_variance_it_is_dpm_solver_and_ancestral_sampling() -> None:
    x, x0, s, t = random(2, 1).float(), random(2, 2).float(), 1.3, 0.4
    for basis in BASES:
        p, score = prior(basis, 0.0), (x0 - x) / s**2
        dpm = (t / s) * x + (1 - t / s) * x0
        torch.testing.assert_close(p.flow(x, x0, score, s, t), dpm, rtol=2e-6, atol=1e-6)
        ancestral = x0 + (t / s) ** 2 * (x - x0)
        torch.testing.assert_close(p.flow(x, x0, score, s, t, eta=1.0), ancestral, rtol=2e-6, atol=1e-6)
        white = p._white((2, *SHAPE), NoiseStream(1), torch.float32)
        isotropic = (t / s) * math.sqrt(s**2 - t**2) * white
        torch.testing.assert_close(p.posterior_noise(s, t, x.shape, NoiseStream(1)), isotropic)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(
    ("s", "t", "scale"),
    [
        (1348.0, 0.002, 1.0),
        (1348.0, 1300.0, 1.0),
        (1348.0, 20.0, 1e6),
        (0.01, 0.005, 1e4),
        (0.01, 0.0, 1e4),
        (2.0, 0.0, 0.0),
        (0.01, 0.00999, 1.0),
    ],
)
def test_float32_is_float64_to_rounding(basis: str, s: float, t: float, scale: float) -> None:
    """At the largest noise levels, at variances from 0 to millions of times the noise, and at steps of a thousandth.

    Against rounding of what the step weighs: x by r, x0 by 1 - r, the score by (1 - r) L.
    """
    p = prior(basis, scale)
    x = MEAN.float() + (s * random(4)).float()
    x0 = denoiser(p, x, s).float()
    x0 = x0 + 0.1 * min(s, 1.0) * random(4, 5).float()  # the error of a network
    score = (x0 - x) / s**2
    L = torch.cat([p.variance.flatten(), torch.zeros(1)])
    for eta in (0.0, 1.0):
        exact = p.flow(x.double(), x0.double(), score.double(), s, t, eta)
        got = p.flow(x, x0, score, s, t, eta)
        r = ((L + t**2) / (L + s**2)) ** ((1 + eta) / 2)
        size = r.max() * x.abs().max() + x0.abs().max() + ((1 - r) * L).max() * score.abs().max()
        assert got.dtype == torch.float32
        assert float((got - exact).abs().max()) < 1e-6 * float(size)
    for share in (1.0, 0.5):
        draws = [
            p.posterior_noise(s, t, (4, *SHAPE), NoiseStream(3), share=share, dtype=dtype)
            for dtype in (torch.float32, torch.float64)
        ]
        assert draws[1].isfinite().all()
        assert float((draws[0] - draws[1]).abs().max()) <= 1e-5 * float(draws[1].abs().max()) + 1e-30
    starts = [p.start(s, (4, *SHAPE), NoiseStream(3), dtype=dtype) for dtype in (torch.float32, torch.float64)]
    assert relative_rms(starts[0], starts[1]) < 1e-6


def test_levels_may_be_tensors() -> None:
    """Of a graph that serves every iteration."""
    x, x0 = random(2, 1).float(), random(2, 2).float()
    s, t = torch.tensor(1.3), torch.tensor(0.4)
    for basis in BASES:
        p = prior(basis)
        score = (x0 - x) / 1.3**2
        torch.testing.assert_close(p.flow(x, x0, score, s, t), p.flow(x, x0, score, 1.3, 0.4))
        torch.testing.assert_close(p.implied_mean(x, x0, s), p.implied_mean(x, x0, 1.3))
        torch.testing.assert_close(
            p.posterior_noise(s, t, x.shape, NoiseStream(1)), p.posterior_noise(1.3, 0.4, x.shape, NoiseStream(1))
        )


# Noise


DRAWS = 40_000


def off_law(draws: Tensor, mean: Tensor, cov: Tensor) -> float:
    """The largest deviation of moments from a law, in standard errors."""
    flat = draws.double().flatten(1)
    spread = cov.diag().sqrt()
    of_mean = (flat.mean(0) - mean.flatten()).abs() / (spread / math.sqrt(len(flat)))
    of_cov = (torch.cov(flat.T) - cov).abs() / ((spread[:, None] * spread) ** 2 + cov**2).div(len(flat)).sqrt()
    return float(max(of_mean.max(), of_cov.max()))


LIMIT = 5.0  # standard errors: 2,300 figures a test, each beyond it with a probability of 6e-7


def test_one_seed_is_the_same_noise_in_every_basis() -> None:
    """Far above the data a start is sigma z: samples differ by what is known of the data alone."""
    sigma = 1e4
    shape = (3, *SHAPE)
    starts = {b: prior(b).start(sigma, shape, NoiseStream(7), dtype=torch.float64) for b in BASES}
    for basis, x in starts.items():
        assert relative_rms(x, starts["mean"]) < 1e-3, basis


@pytest.mark.parametrize("basis", BASES)
def test_the_law_of_a_start(basis: str) -> None:
    p, sigma = prior(basis), 0.7
    draws = p.start(sigma, (DRAWS, *SHAPE), NoiseStream(5))
    assert off_law(draws, MEAN, noised(p, sigma)) < LIMIT
    assert off_law(draws, MEAN, noised(p, 1.1 * sigma)) > LIMIT
    assert off_law(draws, MEAN + 0.05, noised(p, sigma)) > LIMIT


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("eta", "share"), [(1.0, 1.0), (1.0, 0.5), (0.4, 1.0)])
def test_the_law_of_posterior_noise(basis: str, eta: float, share: float) -> None:
    """`S' - S' (S' / S)^eta` in matrices; of what exceeds isotropic noise a share."""
    p, s, t = prior(basis), 1.5, 0.6
    S, S_next = noised(p, s), noised(p, t)
    whole = S_next - S_next @ power(S_next @ power(S, -1), eta)
    isotropic = t**2 * (1 - (t / s) ** (2 * eta)) * torch.eye(PIXELS, dtype=torch.float64)
    draws = p.posterior_noise(s, t, (DRAWS, *SHAPE), NoiseStream(5), eta=eta, share=share)
    zero = torch.zeros(SHAPE, dtype=torch.float64)
    assert off_law(draws, zero, isotropic + share * (whole - isotropic)) < LIMIT
    assert off_law(draws, zero, whole + 0.1 * isotropic) > LIMIT


@pytest.mark.parametrize("basis", BASES)
def test_a_sample_is_the_same_in_any_batch(basis: str) -> None:
    p = prior(basis)
    draws: list[Callable[[int, NoiseStream], Tensor]] = [
        lambda batch, stream: p.start(0.7, (batch, *SHAPE), stream),
        lambda batch, stream: p.posterior_noise(1.5, 0.6, (batch, *SHAPE), stream),
    ]
    for draw in draws:
        together, stream = draw(7, NoiseStream(5)), NoiseStream(5, first_sample=4)
        alone = draw(1, stream)
        torch.testing.assert_close(alone, together[4:5], rtol=0, atol=1e-6)
        assert int(stream.draw) == 1
        assert not torch.allclose(alone, together[3:4], atol=0.1)


# Where it comes from


def images(count: int = 40) -> Tensor:
    return 100 + random(count, 7) * SPECTRUM.sqrt()  # a mean far from 0


@pytest.mark.parametrize("basis", BASES)
def test_from_images(basis: str) -> None:
    data = images()
    p = Prior.from_images(data, basis)
    torch.testing.assert_close(p.mean, data.mean(0))
    expected = {"pixel": lambda: data.var(0), "fourier": lambda: torch.fft.rfft2(data, norm="ortho").var(0)}
    if basis in expected:
        torch.testing.assert_close(p.variance, expected[basis]())
    if basis == "pca":
        assert p.variance.shape == (39,)
        torch.testing.assert_close(covariance(p), torch.cov(data.flatten(1).T))
    parts = Prior.from_images(iter(data.float().split(13)), basis)
    torch.testing.assert_close(parts.mean, p.mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(covariance(parts), covariance(p), rtol=1e-4, atol=1e-5)
    assert p.provenance["images"] == 40


def test_rank() -> None:
    data = images()
    whole, part = Prior.from_images(data), Prior.from_images(data, rank=np.int64(3))
    assert part.variance.shape == (3,) and part.vectors.shape == (3, *SHAPE)
    torch.testing.assert_close(part.variance, whole.variance[:3])
    assert Prior.from_images(data[:, :, :1, :1].expand(-1, -1, 4, 6)).variance.shape == (2,)  # no more than there are
    assert Prior.from_images(data[:1].expand(5, -1, -1, -1)).variance.numel() == 0


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for i, grey in enumerate((0, 255, 51)):
        Image.new("L", (6, 4), grey).save(tmp_path / f"{i}.png")
    p = Prior.from_images(tmp_path, "pixel", grey=True, limits=(-1.0, 1.0))
    assert p.shape == (1, 4, 6) and p.provenance == {"source": "images", "folder": tmp_path.name, "images": 3}
    torch.testing.assert_close(p.mean, torch.full((1, 4, 6), (-1 + 1 - 0.6) / 3, dtype=torch.float64))


@pytest.mark.parametrize("limits", [(1.0, -1.0), (0.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_limits_are_those_of_black_and_of_white(limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"limits: got \(.*\), expected finite x of black and of white"):
        Prior.from_images(images(), limits=limits)


def test_what_people_have_in_memory() -> None:
    """Arrays, pictures and pairs with labels are read in [0, 1]; tensors are x already."""
    grey = [0, 255, 51]
    arrays = np.stack([np.full((4, 6, 1), value, np.uint8) for value in grey])
    pictures = [Image.new("L", (6, 4), value) for value in grey]
    for given in (arrays, pictures, [(picture, "label") for picture in pictures], iter(pictures)):
        p = Prior.from_images(given, "mean", grey=given is not arrays, limits=(-1.0, 1.0))
        torch.testing.assert_close(p.mean, torch.full((1, 4, 6), -0.2, dtype=torch.float64))


@pytest.mark.parametrize("basis", BASES)
def test_files_keep_everything(basis: str, tmp_path: Path) -> None:
    p = Prior.from_images(images(), basis).scaled(0.5)
    p.save(tmp_path / "prior.safetensors")
    loaded = Prior.load(tmp_path / "prior.safetensors")
    assert (loaded.basis, loaded.shape, loaded.provenance) == (p.basis, p.shape, p.provenance)
    assert torch.equal(loaded.mean, p.mean) and torch.equal(loaded.variance, p.variance)
    assert p.vectors is None if loaded.vectors is None else torch.equal(loaded.vectors, p.vectors)
    for here, there in zip(p._tensors(torch.float32), loaded._tensors(torch.float32), strict=True):
        assert here is there is None or here.stride() == there.stride()  # so that both sum in one order


def test_scaled_and_moved() -> None:
    p = prior("pca")
    torch.testing.assert_close(p.scaled(0.5).scaled(0.5).variance, 0.25 * p.variance)
    assert p.scaled(0.5).scaled(0.5).provenance["factor"] == 0.25
    assert p.to("cpu") is p and repr(p) == "Prior(shape=(2, 4, 6), basis='pca', rank=5, device=cpu)"
    assert p.to("meta")._tensors(torch.float32)[2].device.type == "meta"


def unlike(tmp: Path) -> Prior:
    from safetensors.torch import save_file

    save_file({"mean": MEAN}, tmp / "other.safetensors")
    return Prior.load(tmp / "other.safetensors")


STREAM = NoiseStream(0)
BAD: dict[str, Callable[[Path], object]] = {
    "basis: got 'dct', expected one of pca, fourier, pixel, mean": lambda _: Prior.from_images(images(), "dct"),
    "basis: got 'wavelet'": lambda _: Prior(MEAN, basis="wavelet"),
    "rank: got 40 for 40 images, expected at most 39": lambda _: Prior.from_images(images(), rank=40),
    "rank: got 0, expected a positive integer": lambda _: Prior.from_images(images(), rank=0),
    "rank: got 3 with basis 'fourier'": lambda _: Prior.from_images(images(), "fourier", 3),
    "images: got torch.float32 (4, 3, 0, 4), expected": lambda _: Prior.from_images(torch.zeros(4, 3, 0, 4)),
    "factor: got str, expected a finite number": lambda _: prior("pca").scaled("half"),
    "sigma: got str, expected a finite number": lambda _: prior("mean").start("high", (2, *SHAPE), STREAM),
    "shape: got None, expected (B, C, H, W)": lambda _: prior("mean").start(1.0, None, STREAM),
    "images: got 1, expected at least two": lambda _: Prior.from_images(images(1)),
    "images: got 0, expected at least two": lambda _: Prior.from_images([], "pixel"),
    "images: got torch.int64 (3, 1, 2, 2), expected": lambda _: Prior.from_images(torch.zeros(3, 1, 2, 2).long()),
    "images: got non-finite values": lambda _: Prior.from_images(images() / 0, "mean"),
    "images: got (2, 4, 5) after (2, 4, 6), expected one size": lambda _: Prior.from_images(
        [images(), images()[..., 1:]], "fourier"
    ),
    "images: got (2, 4, 5) after (2, 4, 6), expected one": lambda _: Prior.from_images([images(), images()[..., 1:]]),
    "mean: got shape (4, 6), expected [C, H, W]": lambda _: Prior(MEAN[0], basis="mean"),
    "mean: got torch.int64, expected a floating-point": lambda _: Prior(torch.ones(SHAPE).long(), basis="mean"),
    "vectors: got none with basis 'pca'": lambda _: Prior(MEAN, torch.ones(3)),
    "vectors: got some with basis 'pixel'": lambda _: Prior(MEAN, MEAN, VECTORS, basis="pixel"),
    "vectors: got shape (5, 2, 4, 5), expected": lambda _: Prior(MEAN, torch.ones(5), VECTORS[..., 1:]),
    "vectors: got ones that are not orthonormal by": lambda _: Prior(MEAN, torch.ones(5), 1.1 * VECTORS),
    "variance: got shape (4,), expected (5,)": lambda _: Prior(MEAN, torch.ones(4), VECTORS),
    "variance: got shape (2, 4, 6), expected (2, 4, 4)": lambda _: Prior(MEAN, MEAN, basis="fourier"),
    "variance: got -1, expected none below 0": lambda _: Prior(MEAN, -torch.ones(SHAPE), basis="pixel"),
    "variance: got non-finite": lambda _: Prior(MEAN, MEAN / 0, basis="pixel"),
    "factor: got -1": lambda _: prior("pca").scaled(-1),
    "sigma: got 0": lambda _: prior("pca").start(0, (2, *SHAPE), STREAM),
    "prior: got shape (2, 4, 6) for samples (2, 2, 4, 5)": lambda _: prior("pca").start(1, (2, 2, 4, 5), STREAM),
    "prior: got shape (2, 4, 6) for samples (2, 4, 6)": lambda _: prior("pixel").posterior_noise(1, 0.5, SHAPE, STREAM),
    "of format None with ['mean'], expected a saved Prior": unlike,
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_sentence(message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        BAD[message](tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert int(STREAM.draw) == 0
