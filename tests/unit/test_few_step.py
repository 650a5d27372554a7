"""Samplers that know a Gaussian law of the data, and what is predicted of them, against the law itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import even, relative_rms
from torch import Tensor

from tdas_ops import NoiseStream, Preconditioner, calibrate, samplers
from tdas_ops.calibrate import FewStep, Prior, Target
from tdas_ops.sde import VE, VP

SHAPE = (2, 4, 6)
PIXELS = math.prod(SHAPE)
GENERATOR = torch.Generator().manual_seed(3)
MEAN = torch.rand(SHAPE, generator=GENERATOR, dtype=torch.float64) + 0.5
SPECTRUM = even(torch.rand(SHAPE, generator=GENERATOR, dtype=torch.float64) ** 3 * 4 + 0.01)
VECTORS = torch.linalg.qr(torch.randn(PIXELS, 5, generator=GENERATOR, dtype=torch.float64))[0].T.reshape(5, *SHAPE)
LAWS = {
    "pca": Prior(MEAN, torch.tensor([9.0, 4.0, 1.0, 0.5, 0.01]), VECTORS, basis="pca"),
    "fourier": Prior(MEAN, SPECTRUM[..., :4], basis="fourier"),
    "pixel": Prior(MEAN, SPECTRUM, basis="pixel"),
}
NOTHING = Prior(MEAN, basis="mean")
EXPLODING, PRESERVING = VE(0.01, 8.0), VP()


def score_of(law: Prior, sde: VE | VP) -> samplers.ScoreFn:
    """The exact score of a law in the parametrisation of the SDE."""

    def score(x: Tensor, level: Tensor) -> Tensor:
        t = float(level[0])
        scale, std = (math.exp(sde.log_mean(t)), sde.std(t)) if isinstance(sde, VP) else (1.0, t)
        x = x if x.dtype is torch.float64 else x.float()
        sigma, y = std / scale, x / scale
        mean = law.mean.to(x.dtype)
        x0 = mean + law._filtered(lambda L: L / (L + sigma**2), y - mean)
        return (x0 - y) / sigma**2 / scale

    return score


def white(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The samplers


@pytest.mark.parametrize("basis", LAWS)
@pytest.mark.parametrize("sde", [EXPLODING, PRESERVING], ids=["VE", "VP"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_data_of_the_prior_take_one_step(basis: str, sde: VE | VP, order: int) -> None:
    """The flow of the law from the highest level to 0: `mean + (L / (L + s^2))^(1/2) (x - mean)`, with any ladder."""
    law, top = LAWS[basis], sde.sigma_max
    start = MEAN + top * white(4)
    expected = MEAN + law._filtered(lambda L: (L / (L + top**2)).sqrt(), start - MEAN)
    ladders = [[top, 0.0]] if order == 1 else [[top, 3.0, 1.0, 0.3, 0.0], [top, 0.5, 0.4, 0.0]]
    for ladder in ladders:
        shared = {"noise": NoiseStream(1), "ladder": ladder, "order": order, "start": start, "progress": False}
        got = samplers.dpmpp(score_of(law, sde), start.shape, sde, prior=law, **shared)
        assert relative_rms(got, expected) < 1e-9
        plain = samplers.dpmpp(score_of(law, sde), start.shape, sde, **shared)
        assert relative_rms(plain, expected) > 1e-3


@pytest.mark.parametrize("eta", [0.0, 1.0, 0.4])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_without_variance_a_prior_changes_nothing(eta: float, order: int) -> None:
    """For any score, in float32 and float64, with the same noise."""
    score = lambda x, sigma: (0.8 * torch.sin(x) - x) / sigma.reshape(-1, 1, 1, 1) ** 2
    ladder = [8.0, 3.0, 1.0, 0.3, 0.1, 0.0]
    for dtype, bound in ((torch.float32, 3e-6), (torch.float64, 1e-12)):
        shared = {"ladder": ladder, "order": order, "eta": eta, "progress": False, "start": 8 * white(2).to(dtype)}
        plain = samplers.dpmpp(score, (2, *SHAPE), EXPLODING, noise=NoiseStream(1), **shared)
        for prior in (NOTHING, LAWS["pca"].scaled(0.0), LAWS["fourier"].scaled(0.0)):
            same = samplers.dpmpp(score, (2, *SHAPE), EXPLODING, noise=NoiseStream(1), prior=prior, **shared)
            assert relative_rms(same, plain) < bound


@pytest.mark.parametrize("basis", LAWS)
@pytest.mark.parametrize("settings", [{}, {"network_dtype": torch.bfloat16}, {"channels_last": True}])
def test_interrupted_runs_continue_to_the_bit(basis: str, settings: dict) -> None:
    law, states = LAWS[basis], []
    shared = {"ladder": [8.0, 3.0, 1.0, 0.3, 0.0], "progress": False, **settings}
    runs: list[Callable[..., Tensor]] = [
        lambda **more: samplers.dpmpp(
            score_of(law, EXPLODING), (3, *SHAPE), EXPLODING, order=3, eta=1.0, prior=law, **shared, **more
        ),
        lambda **more: samplers.ancestral(
            score_of(law, EXPLODING), (3, *SHAPE), EXPLODING, covariance=law, share=0.5, **shared, **more
        ),
    ]
    for run in runs:
        states.clear()
        whole = run(noise=NoiseStream(1), callback=lambda state: states.append(state.state_dict()))
        for state in states[:-1]:
            assert torch.equal(run(noise=NoiseStream(9), resume=state), whole)


BATCH = 5_000
LIMIT = 5.0  # standard errors; 2,300 figures a test, each beyond it with a probability of 6e-7


def off_law(draws: Tensor, mean: Tensor, cov: Tensor) -> float:
    """The largest deviation of moments from a law, in standard errors."""
    flat = draws.double().flatten(1)
    spread = cov.diag().clamp_min(1e-8).sqrt()
    of_mean = (flat.mean(0) - mean.flatten()).abs() / (spread / math.sqrt(len(flat)))
    of_cov = (torch.cov(flat.T) - cov).abs() / ((spread[:, None] * spread) ** 2 + cov**2).div(len(flat)).sqrt()
    return float(max(of_mean.max(), of_cov.max()))


def covariance(gain: Callable[[Tensor], Tensor], law: Prior) -> Tensor:
    unit = torch.eye(PIXELS, dtype=torch.float64).reshape(PIXELS, *SHAPE)
    return law._filtered(gain, unit).reshape(PIXELS, PIXELS)


@pytest.mark.parametrize("basis", LAWS)
@pytest.mark.parametrize("sampler", ["ancestral", "dpmpp"])
def test_posterior_covariance_keeps_the_law(basis: str, sampler: str) -> None:
    """With the exact score, ancestral steps of any length: the state at every level has the law of the noised data.
    Isotropic noise does not."""
    law, end = LAWS[basis], 0.5
    known = {"covariance": law} if sampler == "ancestral" else {"prior": law, "eta": 1.0, "order": 1}
    start = law.start(8.0, (BATCH, *SHAPE), NoiseStream(2))
    shared = {"ladder": [8.0, 2.0, end], "start": start, "noise": NoiseStream(3), "progress": False}
    run = getattr(samplers, sampler)
    score, wanted = score_of(law, EXPLODING), covariance(lambda L: L + end**2, law)
    assert off_law(run(score, start.shape, EXPLODING, **known, **shared), MEAN, wanted) < LIMIT
    isotropic = {"eta": 1.0, "order": 1} if sampler == "dpmpp" else {}
    assert off_law(run(score, start.shape, EXPLODING, **isotropic, **shared), MEAN, wanted) > LIMIT


# The prediction

RUNS = {
    "dpmpp 1": FewStep(EXPLODING, 5, order=1),
    "dpmpp 2": FewStep(EXPLODING, 5),
    "dpmpp 3, VP": FewStep(PRESERVING, 6, order=3, ladder="time"),
    "sde": FewStep(EXPLODING, 5, eta=1.0),
    "sde 3": FewStep(EXPLODING, 6, eta=0.6, order=3),
    "sde, start": FewStep(EXPLODING, 4, eta=1.0, start=NOTHING, sigma=3.0),
    "ancestral": FewStep(EXPLODING, 6, "ancestral", eta=1.0),
    "ancestral, eta": FewStep(EXPLODING, 6, "ancestral", eta=0.5, ladder="snr"),
    "ancestral, ends above 0": FewStep(EXPLODING, None, "ancestral", ladder=[8.0, 2.0, 0.5], eta=1.0),
    "heun": FewStep(EXPLODING, 5, "heun"),
    "heun, churn": FewStep(EXPLODING, 7, "heun", s_churn=1.0),
    "euler": FewStep(EXPLODING, 5, "probability_flow"),
    "euler, churn": FewStep(EXPLODING, 5, "probability_flow", s_churn=2.0),
}


def simulated(law: Prior, run: FewStep) -> Tensor:
    return run.sample(score_of(law, run.sde), (BATCH, *SHAPE), NoiseStream(4), progress=False)


def predicted(law: Prior, run: FewStep) -> tuple[calibrate.Prediction, Tensor, Tensor]:
    """The prediction, and mean and covariance in pixels."""
    made = calibrate.predict(None, law, run)
    inside, outside = (
        (made.variance[:-1], made.variance[-1]) if law.basis == "pca" else (made.variance, torch.zeros(()))
    )
    cov = covariance(lambda L: inside if L.dim() else outside, law)
    # A run begun from white noise is at a multiple of the mean, smaller than it.
    power = law.field.mean_power / law.field.weight
    share = torch.from_numpy(power).reshape(made.mean_error.shape).clamp_min(1e-300)
    rho = 1 - (made.mean_error / share).sqrt()
    inside, outside = (rho[:-1], rho[-1]) if law.basis == "pca" else (rho, torch.zeros(()))
    return made, law._filtered(lambda L: inside if L.dim() else outside, MEAN[None]), cov


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("basis", ["pca", "fourier"])
def test_prediction_is_what_the_sampler_does(name: str, basis: str) -> None:
    law, run = LAWS[basis], RUNS[name]
    _, mean, cov = predicted(law, run)
    assert off_law(simulated(law, run), mean, cov) < LIMIT
    other = replace(run, ladder="geometric" if run.ladder != "geometric" else "karras", evaluations=run.count + 2)
    _, mean, cov = predicted(law, other)
    assert off_law(simulated(law, run), mean, cov) > LIMIT


def test_prediction_with_priors_and_covariance() -> None:
    for law in LAWS.values():
        runs = [
            FewStep(EXPLODING, 4, prior=law.scaled(0.3)),
            FewStep(EXPLODING, 4, prior=law.scaled(0.3), eta=1.0, order=3),
            FewStep(EXPLODING, 4, eta=1.0, covariance=law, share=0.5, start=law.scaled(2.0), sigma=2.0),
            FewStep(EXPLODING, 4, "ancestral", eta=0.7, covariance=law, start=NOTHING, sigma=2.0),
        ]
        for run in runs:
            _, mean, cov = predicted(law, run)
            assert off_law(simulated(law, run), mean, cov) < LIMIT
            _, mean, cov = predicted(law, replace(run, prior=None, covariance=None))
            assert off_law(simulated(law, run), mean, cov) > LIMIT


def test_what_a_law_known_exactly_predicts() -> None:
    """Nothing is left to solve: distance 0, on the ladder, in one evaluation; a start alone does not do that."""
    for law in LAWS.values():
        exact = calibrate.predict(None, law, FewStep(EXPLODING, 1, order=1, prior=law, start=law))
        assert exact.distance < 1e-20 and float(exact.off_ladder.max()) < 1e-12 and exact.reach == 1
        ancestral = FewStep(
            EXPLODING, None, "ancestral", eta=1.0, ladder=[8.0, 2.0, 0.4, 0.1], covariance=law, start=law
        )
        assert float(calibrate.predict(None, law, ancestral).off_ladder.max()) < 1e-12
        plain, begun = (
            calibrate.predict(None, law, FewStep(EXPLODING, 4, start=start, sigma=sigma)).distance
            for start, sigma in ((None, None), (law, 2.0))
        )
        assert 0 < begun < plain


def test_a_spectrum_is_a_target_or_a_prior() -> None:
    """`Target` and a "fourier" prior of the same images expect the same; its picture can be drawn."""
    images = torch.rand(60, *SHAPE, generator=GENERATOR, dtype=torch.float64)
    target, prior = Target.from_images(images), Prior.from_images(images, "fourier")
    run = FewStep(EXPLODING, 5, start=prior, sigma=2.0)
    of_target, of_prior = (calibrate.predict(None, law, run) for law in (target, prior))
    assert of_target.distance == pytest.approx(of_prior.distance, rel=1e-9)
    torch.testing.assert_close(of_target.radial_error(4), of_prior.radial_error(4))
    torch.testing.assert_close(of_target.variance_error, of_prior.variance_error)


# Settings


def test_settings_are_the_arguments_of_the_sampler() -> None:
    law = LAWS["pca"]
    run = FewStep(EXPLODING, 4, eta=1.0, order=2, covariance=law, share=0.5, start=law, sigma=3.0)
    assert run.count == 4 and run.levels[0] == 3.0 and run.levels[-1] == 0.0
    got = run.sample(score_of(law, EXPLODING), (2, *SHAPE), NoiseStream(5), progress=False)
    stream = NoiseStream(5)
    start = calibrate.start(law, 3.0, (2, *SHAPE), stream)
    expected = samplers.dpmpp(
        score_of(law, EXPLODING),
        (2, *SHAPE),
        EXPLODING,
        noise=stream,
        ladder=[*EXPLODING.ladder(4, "karras", sigma_max=3.0), 0.0],
        eta=1.0,
        covariance=law,
        share=0.5,
        start=start,
        progress=False,
    )
    assert torch.equal(got, expected)
    assert run.name == "dpmpp 2, karras, eta 1, start pca at 3, covariance pca x 0.5"
    assert FewStep(EXPLODING, 5, "heun").count == 5 and FewStep(EXPLODING, 5, "heun").follows_flow
    assert not run.follows_flow


LAW = LAWS["pca"]
STREAM = NoiseStream(0)
BAD: dict[str, Callable[[], object]] = {
    "sampler: got 'unipc', expected one of dpmpp, ancestral": lambda: FewStep(EXPLODING, 4, "unipc"),
    "order: got 3, expected 1, 2 or 3 and at most the number of steps, 2": lambda: FewStep(EXPLODING, 2, order=3),
    "eta: got 2": lambda: FewStep(EXPLODING, 4, "ancestral", eta=2),
    "sigma: got str, expected a number": lambda: FewStep(EXPLODING, 4, sigma="high"),
    "sde: got NoneType, expected VE, VP, SubVP, Discrete or": lambda: FewStep(None, 4, sigma=1.0),
    "start: got str, expected a calibrate.Prior": lambda: FewStep(EXPLODING, 4, start="pca"),
    "sigma: got 9": lambda: FewStep(EXPLODING, 4, sigma=9.0),
    "sigma: got 0.0001, expected a level of the SDE, from": lambda: FewStep(EXPLODING, 4, sigma=1e-4),
    "covariance: got str, expected a calibrate.Prior": lambda: FewStep(EXPLODING, 4, covariance="pca"),
    "prior: got Target, expected": lambda: FewStep(EXPLODING, 4, prior=Target.from_spectrum(SPECTRUM)),
    "share: got 2, expected a number from 0 to 1": lambda: FewStep(EXPLODING, 4, share=2),
    "covariance: got a law of shape (1, 4, 6), expected (2, 4, 6) as start has it": lambda: FewStep(
        EXPLODING, 4, start=LAW, covariance=Prior(MEAN[:1], basis="mean")
    ),
    "evaluations: got 4, expected an odd number": lambda: FewStep(EXPLODING, 4, "heun"),
    "M: got a filter for a FewStep run": lambda: calibrate.predict(
        Preconditioner.identity(SHAPE), LAW, FewStep(EXPLODING, 4)
    ),
    "expected a filter and a Target": lambda: calibrate.predict(None, LAW, calibrate.PC(EXPLODING, 4)),
    "prior: got a prior in a basis of its own (fourier), expected that of the target (pca)": lambda: calibrate.predict(
        None, LAW, FewStep(EXPLODING, 4, prior=LAWS["fourier"])
    ),
    "start: got a prior of shape (1, 4, 6), expected (2, 4, 6)": lambda: calibrate.predict(
        None, LAW, FewStep(EXPLODING, 4, start=Prior(MEAN[:1], basis="mean"))
    ),
    "prior: got a prior of shape (2, 4, 6), expected (2, 4, 5)": lambda: samplers.dpmpp(
        score_of(LAW, EXPLODING), (1, 2, 4, 5), EXPLODING, noise=STREAM, evaluations=3, prior=LAW
    ),
    "covariance: got Target, expected a calibrate.Prior": lambda: samplers.ancestral(
        score_of(LAW, EXPLODING),
        (1, *SHAPE),
        EXPLODING,
        noise=STREAM,
        evaluations=3,
        covariance=Target.from_spectrum(SPECTRUM),
    ),
    "share: got 1.5": lambda: samplers.ancestral(
        score_of(LAW, EXPLODING), (1, *SHAPE), EXPLODING, noise=STREAM, evaluations=3, covariance=LAW, share=1.5
    ),
    "M: got a filter with masks beside prior": lambda: samplers.dpmpp(
        score_of(LAW, EXPLODING),
        (1, *SHAPE),
        EXPLODING,
        Preconditioner.from_masks(SPECTRUM),
        noise=STREAM,
        evaluations=3,
        prior=LAW,
    ),
    "prior: got a prior on meta, expected one on cpu": lambda: samplers.dpmpp(
        score_of(LAW, EXPLODING),
        (1, *SHAPE),
        EXPLODING,
        Preconditioner.identity(SHAPE),
        noise=STREAM,
        evaluations=3,
        prior=LAW.to("meta"),
    ),
    "radial_error: got the basis 'pca'": lambda: calibrate.predict(None, LAW, FewStep(EXPLODING, 4)).radial_error(),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_sentence(message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        BAD[message]()
    assert message in str(error.value) and "\n" not in str(error.value)
    assert int(STREAM.draw) == 0
