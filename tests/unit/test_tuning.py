"""The search for settings, on laws whose score is known, and the measure it goes by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tdas_ops import NoiseStream, calibrate
from tdas_ops.calibrate import FewStep, Likeness, Prior
from tdas_ops.calibrate.likeness import radial_power
from tdas_ops.sde import VE, VP

SHAPE = (1, 8, 8)
GENERATOR = torch.Generator().manual_seed(3)
VECTORS = torch.linalg.qr(torch.randn(64, 6, generator=GENERATOR, dtype=torch.float64))[0].T.reshape(6, *SHAPE)
MEAN = torch.linspace(0, 2, 64, dtype=torch.float64).reshape(SHAPE)
LAW = Prior(MEAN, torch.tensor([4.0, 2.0, 1.0, 0.5, 0.2, 0.1]), VECTORS, basis="pca")
SDE = VE(0.01, 20.0)


def images(count: int, seed: int = 1) -> Tensor:
    return LAW.start(1e-3, (count, *SHAPE), NoiseStream(seed))


class Network:
    """The exact score of the law, which above `knows` is that of noise around 0 alone; counts its calls."""

    def __init__(self, knows: float = math.inf, sde: VE | VP = SDE) -> None:
        self.knows, self.sde, self.calls = knows, sde, 0

    def __call__(self, x: Tensor, level: Tensor) -> Tensor:
        self.calls += 1
        t = float(level[0])
        scale, std = (math.exp(self.sde.log_mean(t)), self.sde.std(t)) if isinstance(self.sde, VP) else (1.0, t)
        sigma, y, mean = std / scale, x / scale, LAW.mean.float()
        x0 = mean + LAW._filtered(lambda L: L / (L + sigma**2), y - mean) if sigma < self.knows else 0 * y
        return (x0 - y) / sigma**2 / scale


# The measure


def test_likeness_sees_more_than_second_moments() -> None:
    """Pictures of edges against noise of their spectrum: the power spectrum cannot tell them apart, features can."""
    g = torch.Generator().manual_seed(0)
    steps = (torch.arange(16)[None, :] > torch.randint(2, 14, (400, 1), generator=g)).double()[:, None, None, :]
    edges = steps.expand(-1, 1, 16, -1) * torch.randn(400, 1, 1, 1, generator=g, dtype=torch.float64)
    likeness = Likeness(edges[:200])
    spectra = torch.fft.rfft2(edges[200:])
    phases = torch.fft.rfft2(torch.randn(200, 1, 16, 16, generator=g, dtype=torch.float64))
    noise = torch.fft.irfft2(spectra.abs() * phases / phases.abs(), s=(16, 16))
    assert likeness.spectrum_error(noise) == pytest.approx(likeness.spectrum_error(edges[200:]), rel=0.1)
    assert likeness.distance(noise) > 2.5 * likeness.distance(edges[200:])


def test_likeness_of_plain_cases() -> None:
    real = images(300)
    likeness = Likeness(real)
    assert likeness.distance(real) < 1e-12 and likeness.spectrum_error(real) < 1e-9
    assert likeness.spectrum_error(2 * real) == pytest.approx(2.0, abs=1e-3)  # octaves of power
    other, moved = likeness.distance(images(300, 2)), likeness.distance(real + 0.5)
    assert 0 < other < 0.2 < moved
    assert likeness.distance(real / 0) == math.inf and likeness.spectrum_error(real / 0) == math.inf
    assert Likeness(torch.zeros(3, 3, 4, 4)).distance(torch.zeros(5, 3, 4, 4)) == 0.0


# The search


def test_what_is_sorted_is_judged_whole() -> None:
    """The floor is that of images of all kinds, of a set sorted by kind as well."""
    half = images(400)
    both = torch.cat([half, half + 3])
    result = calibrate.tune(Network(), SDE, both, 3, samples=64, calls=3, progress=False)
    assert result.floor < 0.5


def tuned(network: Network, **settings: object) -> calibrate.Tuned:
    shared = {"evaluations": 3, "samples": 64, "progress": False, **settings}
    return calibrate.tune(network, network.sde, images(200), **shared)


def test_it_is_a_function_of_its_seed_and_keeps_its_budget() -> None:
    first, second = Network(), Network()
    one, two = tuned(first), tuned(second)
    assert one.table() == two.table() and first.calls == second.calls == one.calls <= 34 * 3 + 20 + 36
    assert one.table() != tuned(Network(), seed=1).table()
    small = Network()
    few = tuned(small, calls=30)
    assert small.calls == few.calls <= 30 and 0 < len(few.trials) < len(one.trials)
    assert [trial.name for trial in tuned(Network(), calls=3).trials] == ["dpmpp 2, karras, eta 0"]
    split = Network()
    halves = tuned(split, calls=30, batch=32)
    assert split.calls == 2 * halves.calls
    for a, b in zip(halves.trials, few.trials, strict=True):
        assert a.name == b.name and a.distance == pytest.approx(b.distance, rel=1e-2, abs=1e-4)


def test_the_table_has_the_null_hypotheses() -> None:
    result = tuned(Network())
    names = [trial.name for trial in result.trials]
    for part in (
        "start mean at",
        "start pca at",
        "start fourier at",
        "start mixture at",
        "covariance pca",
        "prior pca",
        "heun",
        "ancestral",
    ):
        assert any(part in name for name in names), part
    assert {"pc, filter none", "pc, filter constant", "pc, filter schedule"} <= set(names)
    assert len(set(names)) == len(names)
    lines = result.table().splitlines()
    assert len(lines) == len(names) + 2 and lines[1].startswith(names[0]) and lines[-1].startswith("real images")
    assert set(result.starts) == {"mean", "pca", "fourier", "mixture"}
    best = result.trials[0]
    assert best.runs == 2 and best.distance < 1.5 * result.floor  # a law known exactly: as good as real images
    plain = next(trial for trial in result.trials if trial.name == "dpmpp 2, karras, eta 0")
    assert best.distance < plain.distance and plain.to_flow is not None and plain.to_flow > 0.01
    assert all(trial.to_flow is None for trial in result.trials if "eta 1" in trial.name or "start" in trial.name)


@pytest.mark.parametrize("sde", [SDE, VP()], ids=["VE", "VP"])
def test_a_network_that_fails_at_high_noise_gets_a_start(sde: VE | VP) -> None:
    network = Network(knows=3.0, sde=sde)
    result = tuned(network)
    settings = result.settings
    assert isinstance(settings, FewStep) and settings.start is not None and settings.levels[0] <= 3.5
    assert result.starts["pca"].sigma < result.starts["mean"].sigma <= 3.5
    assert result.starts["pca"].gain > result.starts["mean"].gain > 0
    plain = next(trial for trial in result.trials if trial.name == "dpmpp 2, karras, eta 0")
    assert result.trials[0].distance < 0.85 * plain.distance
    x = result.sample(network, (5, *SHAPE), NoiseStream(8), progress=False)
    again = settings.sample(network, (5, *SHAPE), NoiseStream(8), progress=False)
    assert torch.equal(x, again) and x.shape == (5, *SHAPE)
    assert torch.equal(replace(settings).sample(network, (5, *SHAPE), NoiseStream(8), progress=False), x)


BAD: dict[str, Callable[[], object]] = {
    "images: got shape (20, 1, 8, 8), expected [N >= 32": lambda: calibrate.tune(Network(), SDE, images(20)),
    "images: got shape (1, 8, 8)": lambda: calibrate.tune(Network(), SDE, images(40)[0]),
    "images: got shape (40, 1, 8, 8), expected": lambda: calibrate.tune(Network(), SDE, images(40) / 0),
    "evaluations: got 0": lambda: tuned(Network(), evaluations=0),
    "samples: got 3": lambda: tuned(Network(), samples=3),
    "batch: got 0": lambda: tuned(Network(), batch=0),
    "calls: got 2, expected at least 3": lambda: tuned(Network(), calls=2),
    "calls: got 'all', expected an integer": lambda: tuned(Network(), calls="all"),
    "images: got ndarray, expected a tensor": lambda: calibrate.tune(Network(), SDE, images(40).numpy()),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_sentence(message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        BAD[message]()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_ring_power_of_white_noise_is_flat_and_of_a_wave_is_one_ring():
    flat = radial_power(torch.randn(200, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert len(flat) == 24 and float((flat - 1).abs().max()) < 0.15
    wave = torch.cos(2 * math.pi * 5 * torch.arange(32) / 32).expand(1, 1, 32, 32)
    power = radial_power(wave)
    assert int(power.argmax()) == 5 and float(power[5]) > 0.999 * float(power.sum())
