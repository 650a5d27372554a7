"""The Gaussian model of a run against the samplers with the exact score and closed forms; filters made from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import even, odd
from PIL import Image
from torch import Tensor

from tdas_ops import NoiseStream, Preconditioner, _gaussian, calibrate, samplers
from tdas_ops.calibrate import PC, AnnealedLangevin, Target
from tdas_ops.preconditioner import ImageStatistics
from tdas_ops.reference import full_spectrum
from tdas_ops.sde import VE, VP, SubVP

SHAPE = (2, 4, 6)
BATCH = 4000


def mask(seed: int, low: float, high: float) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return even(low + (high - low) * torch.rand(SHAPE, generator=g, dtype=torch.float64))


VARIANCE, IMAGE = mask(4, 0.2, 1.0) ** 3, mask(5, 0.5, 1.5)
TARGET = Target.from_spectrum(VARIANCE, IMAGE)
CENTRED = Target.from_spectrum(VARIANCE)
R = mask(6, 0.8, 1.2)
LADDER = [8.0 * 0.55**i for i in range(10)]


def field(size: int = 64, power: float = 2.0) -> Target:
    """A target of spectrum `|k|^-power` with variance 1/16 a pixel, `[1, size, size]`."""
    k = torch.fft.fftfreq(size, dtype=torch.float64) * size
    s = torch.hypot(k[:, None], k[None, :]).clamp_min(1) ** -power
    return Target.from_spectrum((s * size**2 / 16 / s.sum())[None])


# The recursion against the samplers


def exact_score(run: calibrate.Run) -> Callable[[Tensor, Tensor], Tensor]:
    def score(x: Tensor, level: Tensor) -> Tensor:
        t = float(level[0])
        sde = getattr(run, "sde", None)
        scale, std = (math.exp(sde.log_mean(t)), sde.std(t)) if isinstance(sde, VP) else (1.0, t)
        away = torch.fft.fft2(x.double() - scale * IMAGE)
        return -torch.fft.ifft2(away / (scale**2 * VARIANCE + std**2)).real.float()

    return score


def simulated(M: Preconditioner | list[Preconditioner], run: calibrate.Run) -> tuple[Tensor, Tensor]:
    """Variance and mean of every frequency over BATCH samples of the sampler itself, half spectra."""
    shared = {"noise": NoiseStream(9), "denoise": run.denoise, "progress": False}
    if isinstance(run, PC):
        names = ("iterations", "snr", "predictor", "corrector", "corrector_steps", "end_time")
        sampler, levels = samplers.pc, run.sde
    else:
        names = ("step_size", "steps", "rule")
        sampler, levels = samplers.annealed_langevin, run.sigmas
    x = sampler(exact_score(run), (BATCH, *SHAPE), levels, M, **shared, **{name: getattr(run, name) for name in names})
    spectra = torch.fft.rfft2(x.double(), norm="ortho")
    return spectra.var(0), spectra.mean(0)


def deviation(samples: tuple[Tensor, Tensor], prediction: calibrate.Prediction) -> float:
    """The largest deviation of a simulation from a prediction, in standard errors.

    BATCH samples leave a variance uncertain by sqrt(2 / BATCH) of itself where the coefficient is real, by
    sqrt(1 / BATCH) where it is complex, and a mean by sqrt(variance / BATCH).
    """
    variance, mean = samples
    real = torch.zeros(SHAPE[1], SHAPE[2] // 2 + 1, dtype=torch.bool)
    real[::2, ::3] = True
    spread = torch.where(real, math.sqrt(2 / BATCH), math.sqrt(1 / BATCH))
    error = (mean - torch.fft.rfft2(IMAGE, norm="ortho")).abs() - prediction.mean_error.sqrt()
    off_variance = (variance / prediction.variance - 1).abs() / spread
    return float(torch.maximum(off_variance, error.abs() / (prediction.variance / BATCH).sqrt()).max())


RUNS: dict[str, calibrate.Run] = {
    "VE": PC(VE(0.01, 8.0), 25, snr=0.16),
    "VP": PC(VP(), 26, snr=0.16),
    "SubVP": PC(SubVP(), 26, snr=0.16),
    "few": PC(VE(0.01, 8.0), 5, snr=0.3),
    "Euler-Maruyama": PC(VP(), 40, predictor="euler_maruyama", corrector_steps=2, denoise=False),
    "corrector only": PC(VE(0.1, 4.0), 20, snr=0.3, predictor=None, end_time=0.05),
    "predictor only": PC(VE(0.01, 8.0), 12, corrector_steps=0),
    "ancestral": PC(VE(0.01, 8.0), 12, predictor="ancestral"),
    "ancestral, VP": PC(VP(), 26, predictor="ancestral", corrector_steps=0),
    "ald": PC(VE(0.01, 8.0), 12, corrector="ald"),
    "ncsn": AnnealedLangevin(LADDER, 2e-3, 3, "ncsn"),
    "ncsnv2": AnnealedLangevin(LADDER, samplers.ncsnv2_step_size(LADDER, 4), 4, "ncsnv2"),
    "ncsnv2, noisy": AnnealedLangevin(LADDER, 1e-3, 4, "ncsnv2", denoise=False),
}
LIMIT = 4.5  # standard errors; some 40 independent figures a test, each beyond it with a probability of 7e-6


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.filterwarnings("ignore:M. got a 'pds' filter that takes a predictor step:RuntimeWarning")  # with few
def test_prediction_is_what_the_sampler_does(name: str, method: str) -> None:
    run, other = RUNS[name], "tdas" if method == "pds" else "pds"
    samples = simulated(Preconditioner.from_masks(R, method=method), run)
    predicted, wrong = (calibrate.predict(Preconditioner.from_masks(R, method=m), TARGET, run) for m in (method, other))
    assert deviation(samples, predicted) < LIMIT < deviation(samples, wrong)


def test_skew_part_and_constant_space_mask() -> None:
    torch.manual_seed(0)
    run, w = PC(VE(0.01, 8.0), 25), odd(mask(7, 0.0, 0.8) + torch.rand(SHAPE, dtype=torch.float64))
    M = Preconditioner.from_masks(R, 0.9 * torch.ones(SHAPE), w)
    without = calibrate.predict(Preconditioner.from_masks(0.9 * R), TARGET, run)
    samples = simulated(M, run)
    assert deviation(samples, calibrate.predict(M, TARGET, run)) < LIMIT < deviation(samples, without)


@pytest.mark.parametrize("name", ["VE", "VP", "SubVP", "ncsnv2"])
@pytest.mark.parametrize("method", ["pds", "tdas"])
def test_schedule_through_the_sampler(name: str, method: str) -> None:
    run = RUNS[name]
    filters = calibrate.schedule(TARGET, run, method)
    predicted = calibrate.predict(filters, TARGET, run)
    samples = simulated(filters, run)
    assert deviation(samples, predicted) < LIMIT
    assert deviation(samples, calibrate.predict(filters[::-1], TARGET, run)) > LIMIT


@pytest.mark.parametrize(("name", "method"), [("few", "tdas"), ("VP", "tdas"), ("ncsnv2", "tdas"), ("VE", "pds")])
def test_calibrated_run_ends_nearer_to_the_target(name: str, method: str) -> None:
    run = RUNS[name]
    plain = calibrate.predict(Preconditioner.identity(SHAPE), CENTRED, run)
    predicted = calibrate.predict(calibrate.calibrated(CENTRED, run, method), CENTRED, run)
    assert predicted.distance < (1e-12 if method == "tdas" else 0.01 * plain.distance)
    M = calibrate.calibrated(TARGET, run, method)
    samples = simulated(M, run)
    assert deviation(samples, calibrate.predict(M, TARGET, run)) < LIMIT
    assert deviation(samples, calibrate.predict(Preconditioner.identity(SHAPE), TARGET, run)) > LIMIT


# Closed forms


@pytest.mark.parametrize("method", ["pds", "tdas"])
def test_langevin_settles_at_its_stationary_variance(method: str) -> None:
    """At one noise level, S the variance of the noised target: `v = S / (1 - eta R^2 / 2 S)` for pds, and
    `v = R^2 S / (1 - eta / 2 S)` for tdas; the mean is right."""
    eta, sigma = 0.05, 0.5
    run = AnnealedLangevin([sigma], eta, 1500, denoise=False)
    predicted = calibrate.predict(Preconditioner.from_masks(R, method=method), TARGET, run)
    S, r = TARGET.variance + sigma**2, R[..., : SHAPE[2] // 2 + 1].square()
    expected = S / (1 - eta * r / (2 * S)) if method == "pds" else r * S / (1 - eta / (2 * S))
    torch.testing.assert_close(predicted.variance, expected, rtol=1e-9, atol=0)
    assert predicted.mean_error.max() < 1e-12


def test_one_predictor_step() -> None:
    """A VE run of one predictor: d = sigma_max^2, `x_mean = (1 - d R^2 g) R sigma_max z + d R^2 g mean`."""
    sigma = 3.0
    predicted = calibrate.predict(Preconditioner.from_masks(R), TARGET, PC(VE(0.01, sigma), 1, corrector_steps=0))
    r, power = R[..., :4].square(), torch.fft.rfft2(IMAGE, norm="ortho").abs().square()
    pull = sigma**2 * r / (TARGET.variance + sigma**2)
    variance = (1 - pull).square() * r * sigma**2
    torch.testing.assert_close(predicted.variance, variance)
    torch.testing.assert_close(predicted.mean_error, (1 - pull).square() * power)
    weight = torch.tensor([1.0, 2.0, 2.0, 1.0])
    distance = ((variance.sqrt() - TARGET.variance.sqrt()).square() + (1 - pull).square() * power) * weight
    assert predicted.distance == pytest.approx(float(distance.sum() / (TARGET.variance * weight).sum()), rel=1e-12)


def test_distance_is_the_frechet_distance_of_the_two_laws() -> None:
    """Against the general formula for covariance matrices, in pixels."""
    from tdas_ops.models import frechet_distance

    run = PC(VE(0.01, 8.0), 6)
    predicted = calibrate.predict(Preconditioner.from_masks(R), TARGET, run)
    pixels = math.prod(SHAPE)
    basis = torch.eye(pixels, dtype=torch.float64).reshape(pixels, *SHAPE)

    def covariance(half: Tensor) -> Tensor:
        return torch.fft.ifft2(full_spectrum(half, SHAPE[2]) * torch.fft.fft2(basis)).real.reshape(pixels, pixels)

    # The mean of the samples has the phases of the target's: here it is set beside the target by its error alone.
    error = torch.fft.irfft2(predicted.mean_error.sqrt().to(torch.complex128), s=SHAPE[1:], norm="ortho").flatten()
    whole = frechet_distance(
        error, covariance(predicted.variance), torch.zeros(pixels), covariance(TARGET.variance)
    ) / float(VARIANCE.sum())
    assert predicted.distance == pytest.approx(whole, rel=1e-9)
    assert predicted.distance > 0.01


def test_the_norm_of_few_frequencies() -> None:
    """Exact for white noise (a chi distribution); else it mends nine tenths of what the root of the mean misses."""
    white = _gaussian.Field(np.ones(1), np.array([24.0]), np.zeros(1))
    chi = math.sqrt(2) * math.exp(math.lgamma(12.5) - math.lgamma(12))
    assert _gaussian.mean_norm(white, np.ones(1)) == pytest.approx(chi, rel=1e-12)
    weight, variance, mean = np.array([1.0, 5.0, 20.0]), np.array([4.0, 2.0, 0.1]), np.array([1.0, -0.5, 0.3])
    coloured = _gaussian.Field(np.ones(3), weight, np.array([3.0, 2.0, 0.5]))
    rng, squares = np.random.default_rng(0), 0.0
    for w, v, m, p in zip(weight, variance, mean, coloured.mean_power, strict=True):
        z = math.sqrt(v) * rng.standard_normal((400_000, int(w)))
        z[:, 0] += m * math.sqrt(p)
        squares = squares + (z**2).sum(1)
    norms = np.sqrt(squares)
    root = math.sqrt(squares.mean())
    got = _gaussian.mean_norm(coloured, variance, mean)
    assert abs(got - norms.mean()) < 0.1 * (root - norms.mean())


@pytest.mark.parametrize("iterations", [8, 60])
def test_schedule_of_tdas_is_the_posterior_of_the_next_level(iterations: int) -> None:
    """Without a corrector, from level S to level S' a predictor of exact levels adds noise `d S' / S`: R^2 = S' / S."""
    run = PC(VE(0.01, 8.0), iterations, corrector_steps=0, end_time=1e-12)
    filters = calibrate.schedule(TARGET, run, bounds=(1e-3, 2.0))
    ladder = [TARGET.variance + level.condition**2 for level in run.sde.levels(iterations, 1e-12)]
    for i in range(2, iterations - 1):
        torch.testing.assert_close(filters[i].freq.square(), ladder[i + 1] / ladder[i], rtol=1e-6, atol=0)
        assert filters[i].provenance["off_ladder"] < 1e-9
    predicted = calibrate.predict(filters, TARGET, run)
    assert predicted.off_ladder[2:].max() < 1e-9
    assert predicted.off_ladder[0] == pytest.approx(float(predicted.off_ladder[1]), rel=1e-6)  # one factor, both ways


@pytest.mark.parametrize("corrector_steps", [0, 1])
def test_constant_keeps_the_ladder_without_data(corrector_steps: int) -> None:
    """R = s' / s without a corrector; where data have no variance the state keeps the variance of its level."""
    run = PC(VE(0.01, 8.0), 20, corrector_steps=corrector_steps, end_time=1e-12)
    filters = calibrate.constant(SHAPE, run)
    assert [M.method for M in filters] == ["tdas"] * 20 and all(M.freq is None for M in filters)
    values = [M.provenance["value"] for M in filters]
    if not corrector_steps:
        assert values[2:] == pytest.approx([(0.01 / 8.0) ** (1 / 19)] * 18, rel=1e-6)
    nothing = Target.from_spectrum(torch.full(SHAPE, 1e-20, dtype=torch.float64))
    kept, plain = (
        calibrate.predict(M, nothing, run).off_ladder for M in (filters, Preconditioner.identity(SHAPE, "tdas"))
    )
    assert kept[2:].max() < 1e-6 and plain[2:].min() > 0.1
    assert len(calibrate.constant(SHAPE, PC(VE(0.01, 8.0), 1))) == 1


# Filters made from the model


NATURAL = field(32)


@pytest.mark.parametrize("iterations", [66, 20])
@pytest.mark.parametrize("method", ["pds", "tdas"])
def test_calibrated_filters_are_better_than_plain_sampling(iterations: int, method: str) -> None:
    run = PC(VE(0.01, 50.0), iterations, snr=0.15)
    M = calibrate.calibrated(NATURAL, run, method)
    predicted, plain = (calibrate.predict(m, NATURAL, run) for m in (M, Preconditioner.identity(NATURAL.shape)))
    assert M.method == method and M.provenance["settled"]
    assert predicted.distance < (1e-10 if method == "tdas" else 0.01 * plain.distance)
    assert M.provenance["distance"] == pytest.approx(predicted.distance, rel=0.05, abs=1e-12)


def test_pds_keeps_the_bounds() -> None:
    """Neither the caller's bounds nor `R^2 b / (variance + sigma^2) <= 1` are passed."""
    for iterations in (66, 20, 8):
        run = PC(VE(0.01, 50.0), iterations)
        mask = calibrate.calibrated(NATURAL, run, bounds=(0.9, 1.2)).freq
        assert float(mask.min()) >= 0.9 and float(mask.max()) <= 1.2 + 1e-9
        for level in run.sde.levels(iterations):
            assert float((mask.square() * level.reverse[1] / (NATURAL.variance + level.condition**2)).max()) < 1 + 1e-3


@pytest.mark.parametrize("sde", [VE(0.01, 50.0), VP(), SubVP()], ids=["VE", "VP", "SubVP"])
def test_schedule_keeps_the_ladder(sde: VE | VP) -> None:
    run = PC(sde, 40)
    filters = calibrate.schedule(NATURAL, run)
    scheduled = calibrate.predict(filters, NATURAL, run)
    plain = calibrate.predict(Preconditioner.identity(NATURAL.shape), NATURAL, run)
    assert len(filters) == 40 and all(M.method == "tdas" for M in filters)
    assert scheduled.off_ladder[2:].max() < 0.01 < 5 * plain.off_ladder[2:].max()
    for i, M in enumerate(filters[:-1]):
        assert M.provenance["off_ladder"] == pytest.approx(float(scheduled.off_ladder[i + 1]), rel=0.1, abs=1e-4)


def test_a_run_that_diverges_is_infinitely_far() -> None:
    run = PC(VE(0.01, 50.0), 60)
    strong = Preconditioner.radial(lambda k: 300 + 0 * k, NATURAL.shape)
    predicted = calibrate.predict(strong, NATURAL, run)
    assert predicted.distance == math.inf and predicted.reach > 1e4
    assert calibrate.predict(calibrate.calibrated(NATURAL, run), NATURAL, run).reach < 1.001
    assert calibrate.predict(Preconditioner.identity(NATURAL.shape), NATURAL, run).distance < 0.01


def test_choose_alpha_finds_the_least_distance() -> None:
    run = PC(VE(0.01, 50.0), 30)

    def distance(alpha: float, method: str) -> float:
        M = Preconditioner.from_statistics(NATURAL.statistic, None, alpha, method)
        return calibrate.predict(M, NATURAL, run).distance

    for method in ("pds", "tdas"):
        alpha = calibrate.choose_alpha(NATURAL, run, method)
        assert 1.1 < alpha < 100
        assert distance(alpha, method) <= min(distance(1 + (alpha - 1) * factor, method) for factor in (0.8, 1.05, 1.3))
        few = calibrate.choose_alpha(NATURAL, PC(VE(0.01, 50.0), 20), method)
        assert (few > alpha) if method == "pds" else (few < alpha)
    assert calibrate.choose_alpha(NATURAL, run, "pds", 1.0 + 0 * NATURAL.statistic) > 1  # a flat mask is no filter


def test_condensing_changes_nothing_that_matters() -> None:
    """384 nodes in place of 1,024 random variances over six decades."""
    g = torch.Generator().manual_seed(0)
    variance = 10 ** (-6 * torch.rand(1, 64, 64, generator=g, dtype=torch.float64))
    mirrored = torch.roll(variance.flip(-2, -1), (1, 1), (-2, -1))
    target, run = Target.from_spectrum(0.5 * (variance + mirrored)), PC(VE(0.01, 50.0), 30)
    nodes = target.field.condensed()
    assert len(nodes.variance) < 400 < len(target.field.variance)
    assert nodes.weight.sum() == pytest.approx(64 * 64)
    assert np.abs(nodes.interpolated(nodes.variance) / target.field.variance - 1).max() < 1e-12
    whole, condensed = (
        _gaussian.distance(f, _gaussian.trace(f, [_gaussian.Gains.of_mask(np.ones_like(f.variance), "pds")], run).law)
        for f in (target.field, nodes)
    )
    assert condensed == pytest.approx(whole, rel=1e-3)


def test_pictures_show_the_error(tmp_path: Path) -> None:
    """Plain sampling at few iterations has too much variance: its line is above the middle."""
    run = PC(VE(0.01, 50.0), 14)
    plain = calibrate.predict(Preconditioner.identity(NATURAL.shape), NATURAL, run)
    made = calibrate.predict(calibrate.calibrated(NATURAL, run, "tdas"), NATURAL, run)
    plain.picture(tmp_path / "plain.png")
    calibrate.draw({"plain": plain, "calibrated": made}, tmp_path / "both.png")
    blue = (31, 95, 168)
    with Image.open(tmp_path / "plain.png") as one, Image.open(tmp_path / "both.png") as two:
        assert two.height == one.height + 18
        rows = np.argwhere((np.asarray(one)[:368] == blue).all(-1))[:, 0]
        assert len(rows) > 500 and rows.max() < 48 + 160  # pixels of the line, all above the middle
    radii, ratios = made.radial_error()
    inside = ratios.isfinite()
    assert (ratios[inside] - 1).abs().max() < 1e-3 and 0 < radii[0] < radii[-1] < 0.71
    weight = torch.from_numpy(NATURAL.field.weight)
    assert (plain.radial_error(1)[1] * (weight @ NATURAL.variance.flatten())).item() == pytest.approx(
        float(weight @ plain.variance.flatten())
    )


# Targets


def test_target_from_images_and_statistics() -> None:
    images = torch.rand(300, 2, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * torch.tensor(
        [0.2, 0.4, 0.6, 0.8, 1.0], dtype=torch.float64
    )
    target = Target.from_images(images)
    torch.testing.assert_close(target.variance, torch.fft.rfft2(images, norm="ortho").var(0))
    power = torch.fft.rfft2(images.mean(0), norm="ortho").abs().square()
    torch.testing.assert_close(target.mean_power, power)
    batches = Target.from_images(iter(images.split(70)))
    torch.testing.assert_close(batches.variance, target.variance)
    statistics = ImageStatistics()
    statistics.add(images)
    freq = statistics.result()[0]
    torch.testing.assert_close(Target.from_images(images).statistic, freq, rtol=1e-2, atol=0)  # N - 1 against N
    restored = Target.from_statistics(freq, images.mean(0), scale=2.0)
    torch.testing.assert_close(restored.variance, 4 * target.variance * 299 / 300)
    torch.testing.assert_close(restored.mean_power, 4 * power)
    torch.testing.assert_close(Target.from_statistics(freq).variance, target.variance * 299 / 300 + power)


BAD = {
    "variance: got torch.float64 (4, 6), expected finite floating-point [C, H, W]": lambda: Target.from_spectrum(
        VARIANCE[0]
    ),
    "variance: got values from -1 to": lambda: Target.from_spectrum(torch.full(SHAPE, -1.0)),
    "expected an even one": lambda: Target.from_spectrum(torch.rand(SHAPE)),
    "mean: got torch.float32 (2, 4, 5), expected": lambda: Target.from_spectrum(VARIANCE, torch.zeros(2, 4, 5)),
    "images: got 1, expected at least two": lambda: Target.from_images(torch.rand(1, 2, 4, 6)),
    "images: got torch.uint8": lambda: Target.from_images(torch.zeros(3, 1, 4, 4, dtype=torch.uint8)),
    "after (1, 4, 4), expected one size": lambda: Target.from_images([torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 5)]),
    "scale: got 0": lambda: Target.from_statistics(VARIANCE, scale=0),
    "snr: got 0": lambda: PC(VE(), 10, snr=0),
    "predictor: got 'ddim'": lambda: PC(VE(), 10, predictor="ddim"),
    "corrector_steps: got 0 with predictor None": lambda: PC(VE(), 10, predictor=None, corrector_steps=0),
    "iterations: got 0": lambda: PC(VE(), 0),
    "iterations: got 20, expected more than beta_max": lambda: PC(VP(), 20),
    "sigmas: got a sequence that is empty": lambda: AnnealedLangevin([], 1.0),
    "sigmas: got a sequence that is": lambda: AnnealedLangevin([1.0, 2.0], 1.0),
    "rule: got 'ncsn3'": lambda: AnnealedLangevin([1.0], 1.0, rule="ncsn3"),
    "steps: got 0": lambda: AnnealedLangevin([1.0], 1.0, 0),
    "step_size: got 0": lambda: AnnealedLangevin([1.0], 0.0),
    "M: got shape (1, 4, 6), expected (2, 4, 6)": lambda: calibrate.predict(
        Preconditioner.identity((1, 4, 6)), TARGET, RUNS["VE"]
    ),
    "M: got method None": lambda: calibrate.predict(Preconditioner.identity(SHAPE, None), TARGET, RUNS["VE"]),
    "mix frequencies": lambda: calibrate.predict(Preconditioner.from_masks(space=VARIANCE), TARGET, RUNS["VE"]),
    "M: got 3 filters, expected one for each of 25": lambda: calibrate.predict(
        [Preconditioner.identity(SHAPE)] * 3, TARGET, RUNS["VE"]
    ),
    "predictions: got none": lambda: calibrate.draw({}, "nothing.png"),
    "method: got 'ddim', expected 'pds' or 'tdas'": lambda: calibrate.calibrated(TARGET, RUNS["VE"], "ddim"),
    "bounds: got (1.1, 1.2)": lambda: calibrate.calibrated(TARGET, RUNS["VE"], bounds=(1.1, 1.2)),
    "bounds: got (0.0, 2.0)": lambda: calibrate.schedule(TARGET, RUNS["VE"], bounds=(0.0, 2.0)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_sentence(message: str) -> None:
    with pytest.raises(ValueError) as error:
        BAD[message]()
    assert message in str(error.value) and "\n" not in str(error.value)
