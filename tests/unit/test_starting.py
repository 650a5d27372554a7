"""The level at which a start pays, on laws whose denoiser is known, and what it says of the start."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tdas_ops import NoiseStream, calibrate
from tdas_ops.calibrate import Prior, StartLevel
from tdas_ops.sde import VE, VP

SHAPE = (1, 8, 8)
G = torch.Generator().manual_seed(3)
VECTORS = torch.linalg.qr(torch.randn(64, 6, generator=G, dtype=torch.float64))[0].T.reshape(6, *SHAPE)
MEAN = torch.linspace(0, 2, 64, dtype=torch.float64).reshape(SHAPE)
LAW = Prior(MEAN, torch.tensor([4.0, 2.0, 1.0, 0.5, 0.2, 0.1]), VECTORS, basis="pca")
MEAN_ALONE = Prior(MEAN, basis="mean")
SDE = VE(0.01, 20.0)


def images(count: int, seed: int = 1) -> Tensor:
    return LAW.start(1e-3, (count, *SHAPE), NoiseStream(seed))


class Network:
    """The exact score of the law with its denoised image off by `wrong(sigma)` in every value; counts its calls."""

    def __init__(self, wrong: Callable[[float], float] = lambda sigma: 0.0, sde: VE | VP = SDE) -> None:
        self.wrong, self.sde, self.calls = wrong, sde, 0

    def __call__(self, x: Tensor, level: Tensor) -> Tensor:
        self.calls += 1
        t = float(level[0])
        scale, std = (math.exp(self.sde.log_mean(t)), self.sde.std(t)) if isinstance(self.sde, VP) else (1.0, t)
        sigma, y = std / scale, x / scale
        return (LAW.denoise(y, sigma) + self.wrong(sigma) - y) / sigma**2 / scale


def found(network: Network, prior: Prior = LAW, count: int = 200, **settings: object) -> StartLevel:
    return calibrate.start_level(network, network.sde, images(count), prior, **settings)


def mean_errors(sigma: float) -> tuple[float, float]:
    """Of the mean image and of the law, `E |x0 - D|^2` of an image."""
    L = LAW.variance
    return float(L.sum()), float((L * sigma**2 / (L + sigma**2)).sum())


def divergence(sigma: float) -> float:
    """Of the law at a level from white noise around its mean: what a start without covariance loses."""
    ratio = (LAW.variance + sigma**2) / sigma**2
    return float(0.5 * (ratio - 1 - ratio.log()).sum())


@pytest.mark.parametrize("sde", [SDE, VP()], ids=["VE", "VP"])
def test_it_begins_where_network_and_law_err_alike(sde: VE | VP) -> None:
    """Against an exact network whose images are off by 0.3 from sigma 2 up, and by nothing below."""
    network = Network(lambda sigma: 0.3 if sigma > 2.0 else 0.0, sde)
    level = found(network, MEAN_ALONE, tolerance=0.0)
    alike = next(s for s in torch.logspace(1.3, -1, 400).tolist() if mean_errors(s)[0] - mean_errors(s)[1] > 64 * 0.09)
    assert 2.0 / 1.3 < level.sigma < 2.6 and alike < 2.0  # the network is the worse one down to 2, not below
    smooth = Network(lambda sigma: 0.1 * sigma, sde)
    level = found(smooth, MEAN_ALONE, tolerance=0.0)
    alike = min(
        torch.logspace(1.3, -1, 400).tolist(),
        key=lambda s: abs(mean_errors(s)[0] - mean_errors(s)[1] - 64 * (0.1 * s) ** 2),
    )
    assert level.sigma == pytest.approx(alike, rel=0.25)
    assert level.bound[level.levels.index(min(level.levels, key=lambda s: abs(s - level.sigma)))] < 0.1


def test_what_a_start_loses_is_its_divergence() -> None:
    """With an exact network the bias is that of the start, and the level the one where it reaches the tolerance."""
    for tolerance in (0.2, 0.5):
        level = found(Network(), MEAN_ALONE, 2000, tolerance=tolerance)
        exact = divergence(level.sigma) - divergence(SDE.sigma_max)
        assert level.bias == pytest.approx(exact, rel=0.15)
        assert level.gain == pytest.approx(-tolerance, rel=0.05)
    exact = found(Network(), LAW)
    assert exact.bias < 1e-6 and exact.sigma == pytest.approx(SDE.sigma_min)  # nothing is left for a network to do
    assert exact.network == pytest.approx(exact.prior, rel=1e-3)


def test_the_better_law_gains_more() -> None:
    network = Network(lambda sigma: 0.3 if sigma > 3.0 else 0.0)
    pca, mean = found(network, LAW, tolerance=0.0), found(network, MEAN_ALONE, tolerance=0.0)
    assert pca.gain > mean.gain > 0 and pca.sigma <= mean.sigma


def test_it_is_a_function_of_its_seed_in_any_batch_and_counts_its_calls() -> None:
    first, second = Network(lambda sigma: 0.1 * sigma), Network(lambda sigma: 0.1 * sigma)
    one, parts = found(first, MEAN_ALONE), found(second, MEAN_ALONE, batch=50)
    assert first.calls == one.calls == len(one.levels) and second.calls == parts.calls == 4 * one.calls
    assert parts.sigma == pytest.approx(one.sigma, rel=1e-4)
    assert found(Network(lambda sigma: 0.1 * sigma), MEAN_ALONE).sigma == one.sigma
    assert one.sigma != found(Network(lambda sigma: 0.1 * sigma), MEAN_ALONE, seed=1).sigma
    assert one.levels[0] == SDE.sigma_max and one.levels[-1] > SDE.sigma_min  # not further than it has to
    assert all(1 < a / b <= 1.2501 for a, b in zip(one.levels, one.levels[1:], strict=False))
    lines = one.table().splitlines()
    assert len(lines) == 1 + len(one.levels) and lines[1].split()[0] == "20"


def test_levels_below_one_that_fails_are_left_out() -> None:
    level = found(Network(lambda sigma: math.nan if sigma < 5 else 0.3))
    assert level.levels[-1] > 5 and math.isfinite(level.sigma)
    with pytest.raises(FloatingPointError, match="not finite at level 20"):
        found(Network(lambda sigma: math.nan))
    with pytest.raises(FloatingPointError, match="prior: got denoised images that are not finite"):
        calibrate.start_level(Network(), SDE, images(20), calibrate.Prior.from_images(1e30 * images(20)))


BAD: dict[str, Callable[[], object]] = {
    "images: got shape (8, 1, 8, 8), expected [N >= 16": lambda: calibrate.start_level(Network(), SDE, images(8), LAW),
    "images: got shape (20, 1, 8, 8), expected": lambda: calibrate.start_level(Network(), SDE, images(20) / 0, LAW),
    "images: got ndarray": lambda: calibrate.start_level(Network(), SDE, images(20).numpy(), LAW),
    "prior: got Tensor": lambda: calibrate.start_level(Network(), SDE, images(20), MEAN),
    "prior: got shape (1, 8, 8), expected (1, 4, 8)": lambda: calibrate.start_level(
        Network(), SDE, images(20)[:, :, :4], LAW
    ),
    "tolerance: got -1": lambda: found(Network(), tolerance=-1),
    "tolerance: got str": lambda: found(Network(), tolerance="some"),
    "batch: got 0": lambda: found(Network(), batch=0),
    "seed: got -1": lambda: found(Network(), seed=-1),
    "sde: got the class VE": lambda: calibrate.start_level(Network(), VE, images(20), LAW),
    "score_fn: got NoneType": lambda: calibrate.start_level(None, SDE, images(20), LAW),  # type: ignore[arg-type]
    "score_fn: got (20, 1, 8, 4)": lambda: calibrate.start_level(lambda x, s: x[..., :4], SDE, images(20), LAW),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_sentence(message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        BAD[message]()
    assert message in str(error.value) and "\n" not in str(error.value)
