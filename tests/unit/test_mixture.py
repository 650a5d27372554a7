"""The law of several Gaussian bumps: against dense float64 algebra, by law, and what a start with it is worth."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import relative_rms
from torch import Tensor

from tdas_ops import NoiseStream, calibrate
from tdas_ops.calibrate import FewStep, Mixture, Prior
from tdas_ops.sde import VE

SHAPE = (2, 3, 4)
PIXELS = 24
SDE = VE(0.01, 20.0)


def images(count: int, seed: int = 0) -> Tensor:
    """Of three groups, 20, 30 and 50 % of all, each around its own image along its own two directions."""
    g = torch.Generator().manual_seed(seed)
    own = torch.Generator().manual_seed(9)
    centres = 3 * torch.randn(3, PIXELS, generator=own, dtype=torch.float64)
    along = torch.randn(3, 2, PIXELS, generator=own, dtype=torch.float64) * torch.tensor([1.0, 0.3])[:, None] / 5
    group = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2, 2]).repeat(-(-count // 10))[:count]
    x = centres[group] + torch.einsum(
        "bi,bij->bj", torch.randn(count, 2, generator=g, dtype=torch.float64), along[group]
    )
    return x.reshape(count, *SHAPE)


def laws(law: Mixture) -> list[tuple[float, Tensor, Tensor]]:
    """Share, mean and covariance of every group, put together from the attributes."""
    within = law.within.double().flatten(1)
    made = []
    for k in range(len(law.share)):
        vectors = law.vectors[k].double() @ within
        covariance = vectors.T @ law.variance[k].double().diag() @ vectors
        made.append((float(law.share[k]), law.mean[k].double().flatten(), covariance))
    return made


def test_groups_are_those_of_the_data() -> None:
    x = images(200)
    law = Mixture.from_images(x, 3, shrinkage=0.0)
    found = sorted(laws(law), key=lambda each: each[0])
    assert [share for share, _, _ in found] == pytest.approx([0.2, 0.3, 0.5])
    flat, part = x.flatten(1), torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2, 2]).repeat(20)
    for k, (_, mean, covariance) in enumerate(found):
        own = flat[part == k]
        assert relative_rms(mean, own.mean(0)) < 1e-6
        assert relative_rms(covariance, own.T.cov()) < 1e-5
    drawn_in = laws(Mixture.from_images(x, 3, shrinkage=1.0))
    assert relative_rms(drawn_in[0][2], drawn_in[1][2]) < 1e-5
    one, prior = Mixture.from_images(x, 1, shrinkage=0.0), Prior.from_images(x)
    assert relative_rms(one.denoise(x.float(), 0.7), prior.denoise(x, 0.7)) < 1e-5
    assert one.denoise(x.double(), 0.7).dtype == torch.float64


def test_it_denoises_as_the_posterior_mean() -> None:
    law = Mixture.from_images(images(200), 3)
    for sigma in (0.1, 1.0, 30.0):
        x = images(20, 3) + sigma * torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(1))
        likely, means = [], []
        for share, mean, covariance in laws(law):
            total = covariance + sigma**2 * torch.eye(PIXELS, dtype=torch.float64)
            normal = torch.distributions.MultivariateNormal(mean, total)
            likely.append(torch.tensor(share).log() + normal.log_prob(x.flatten(1)))
            means.append(mean + (x.flatten(1) - mean) @ torch.linalg.solve(total, covariance))
        weight = torch.stack(likely).softmax(0)
        expected = torch.einsum("kb,kbi->bi", weight, torch.stack(means)).reshape(x.shape)
        assert relative_rms(law.denoise(x.float(), sigma), expected) < 1e-4


def test_starts_have_its_law() -> None:
    law, sigma, count = Mixture.from_images(images(200), 3), 0.5, 40_000
    x = law.start(sigma, (count, *SHAPE), NoiseStream(4)).double().flatten(1)
    nearest = torch.cdist(x, law.mean.double().flatten(1)).argmin(1)
    for k, (share, mean, covariance) in enumerate(laws(law)):
        own = x[nearest == k]
        assert len(own) / count == pytest.approx(share, abs=0.01)
        assert relative_rms(own.mean(0), mean) < 0.02
        assert relative_rms(own.T.cov(), covariance + sigma**2 * torch.eye(PIXELS)) < 0.06


def test_a_sample_is_the_same_in_any_batch_and_takes_two_draws() -> None:
    law, noise = Mixture.from_images(images(200), 3), NoiseStream(4, first_sample=0)
    whole = law.start(0.5, (9, *SHAPE), noise)
    part = law.start(0.5, (4, *SHAPE), NoiseStream(4, first_sample=5))
    assert relative_rms(part, whole[5:]) < 1e-6 and noise.draw == 2
    assert law.start(0.5, (2, *SHAPE), NoiseStream(4), dtype=torch.float64).dtype is torch.float64
    assert law.to("cpu") is law and repr(law) == "Mixture(shape=(2, 3, 4), groups=3, device=cpu)"
    again = Mixture.from_images(images(200), 3)
    assert torch.equal(again.vectors, law.vectors) and torch.equal(again.mean, law.mean)


def test_a_start_with_groups_pays_at_lower_levels_than_one_bump() -> None:
    known, held_out = images(400), images(200, 2)
    law, prior = Mixture.from_images(known, 3, shrinkage=0.0), Prior.from_images(known)

    truth = Mixture.from_images(images(2000, 5), 3, shrinkage=0.0)

    def score(x: Tensor, sigma: Tensor) -> Tensor:  # exact but for an offset
        level = float(sigma[0])
        return (truth.denoise(x, level) + 0.2 * level - x) / level**2

    mixture, one = (calibrate.start_level(score, SDE, held_out, each) for each in (law, prior))
    assert mixture.sigma < 0.5 * one.sigma and mixture.gain > one.gain > 0
    run = FewStep(SDE, 3, start=law, sigma=max(mixture.sigma, 0.1))
    assert "start mixture at" in run.name and not run.follows_flow
    x = run.sample(score, (400, *SHAPE), NoiseStream(1), progress=False)
    real = calibrate.Likeness(held_out)
    assert real.distance(x) < 0.5 * real.distance(
        FewStep(SDE, 3).sample(score, x.shape, NoiseStream(1), progress=False)
    )


X = images(40)
BAD: dict[str, Callable[[], object]] = {
    "images: got 3, expected at least 4": lambda: Mixture.from_images(X[:3]),
    "images: got non-finite": lambda: Mixture.from_images(X / 0),
    "groups: got 21 for 40 images, expected at most 20": lambda: Mixture.from_images(X, 21),
    "groups: got 0": lambda: Mixture.from_images(X, 0),
    "shrinkage: got 1.5": lambda: Mixture.from_images(X, 2, shrinkage=1.5),
    "sigma: got 0, expected a finite number greater than 0": lambda: Mixture.from_images(X, 2).denoise(X, 0),
    "mixture: got shape": lambda: Mixture.from_images(X, 2).denoise(X[..., 1:], 1.0),
    "seed: got -1": lambda: Mixture.from_images(X, 2, seed=-1),
    "sigma: got 0": lambda: Mixture.from_images(X, 2).start(0, (1, *SHAPE), NoiseStream(1)),
    "mixture: got shape (2, 3, 4)": lambda: Mixture.from_images(X, 2).start(1, (1, 2, 3, 5), NoiseStream(1)),
    "start: got a Mixture": lambda: calibrate.predict(
        None, Prior.from_images(X), FewStep(SDE, 3, start=Mixture.from_images(X, 2), sigma=1.0)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_sentence(message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        BAD[message]()
    assert message in str(error.value) and "\n" not in str(error.value)
