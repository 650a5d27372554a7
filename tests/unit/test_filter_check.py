"""What `samplers.pc` says before a run about filters that do not suit it."""

from __future__ import annotations

import re
import warnings

import pytest
import torch

from tdas_ops import NoiseStream, Preconditioner, calibrate, models, samplers
from tdas_ops._gaussian import unsuited
from tdas_ops.sde import VE, VP, SubVP

SHAPE = (1, 8, 8)
IMAGES = torch.rand(50, *SHAPE, generator=torch.Generator().manual_seed(0)) * torch.linspace(0, 1, 8)


def filters(alpha: float, method: str = "pds", **masks: bool) -> Preconditioner:
    return Preconditioner.from_images(IMAGES, alpha, method, **masks)


def bound_of(message: str) -> tuple[float, float]:
    """R A and alpha that the message names."""
    found = re.search(r"R A up to ([\d.]+) at \d+ iterations \(alpha from ([\d.]+)\)", message)
    assert found is not None, message
    return float(found[1]), float(found[2])


@pytest.mark.parametrize("sde", [VE(0.01, 50.0), VP(), SubVP()], ids=["VE", "VP", "SubVP"])
@pytest.mark.parametrize("space", [True, False])
def test_what_it_suggests_is_accepted(sde: VE | VP, space: bool) -> None:
    """The strength, the count of iterations and the method that the message names would not warn, and hardly less of
    any would do."""
    count, snr = 24, 0.16
    strong = filters(1.1, space=space)
    message = unsuited([strong], sde, count, snr)
    assert message is not None and "\n" not in message and "method='tdas'" in message
    reach, alpha = bound_of(message)
    assert unsuited([filters(1.02 * alpha, space=space)], sde, count, snr) is None
    flat = Preconditioner.radial(lambda k: reach + 0 * k, SHAPE)
    assert unsuited([flat], sde, count, snr) is None
    beyond = Preconditioner.radial(lambda k: 1.1 * reach + 0 * k, SHAPE)
    assert "1.2" in str(unsuited([beyond], sde, count, snr))  # 1.1^2 times the way
    enough = re.search(r"(\d+) iterations, or method", str(unsuited([beyond], sde, count, snr)))
    assert enough is not None and unsuited([beyond], sde, int(enough[1]), snr) is None
    assert unsuited([filters(1.1, "tdas", space=space)], sde, count, snr) is None


def test_what_diverges() -> None:
    """Without a predictor to bound, by the recursion."""
    only = {"predictor": None, "corrector_steps": 2}
    spike = Preconditioner.radial(lambda k: 1 + 60 * (k > 0.65), (1, 32, 32))
    message = unsuited([spike], VE(0.01, 50.0), 60, 0.16, **only)
    assert message is not None and "diverges in the Gaussian model" in message
    mild = Preconditioner.radial(lambda k: 1 + 0.2 * (k > 0.65), (1, 32, 32))
    assert unsuited([mild], VE(0.01, 50.0), 60, 0.16, **only) is None


def test_filters_made_for_a_run_suit_it() -> None:
    """Those of the embedded model, calibrated ones and schedules of "tdas"; a schedule of "pds" at few iterations
    swings beyond the denoised image, and was measured to be worse than none."""
    model = models.load("digits")
    for count in (20, 6):
        run = calibrate.PC(model.sde, count, model.snr)
        good = [model.preconditioner(method, iterations=count) for method in ("plain", "tdas", "pds")]
        good += [calibrate.calibrated(model.target, run, method) for method in ("pds", "tdas")]
        for M in good:
            assert unsuited([M], model.sde, count, model.snr) is None
        assert unsuited(calibrate.schedule(model.target, run), model.sde, count, model.snr) is None
        assert unsuited(calibrate.constant(model.shape, run), model.sde, count, model.snr) is None
    assert unsuited(calibrate.schedule(model.target, run, "pds"), model.sde, count, model.snr) is not None


def test_pc_warns_once_and_samples() -> None:
    score = lambda x, sigma: -x / sigma.reshape(-1, 1, 1, 1) ** 2
    shared = {"noise": NoiseStream(0), "iterations": 6, "progress": False}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            x = samplers.pc(score, (2, *SHAPE), VE(0.01, 50.0), filters(1.5), **shared)
    assert [w.category for w in caught] == [RuntimeWarning] and caught[0].filename == __file__
    assert x.shape == (2, *SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for M in (None, filters(200.0), filters(1.5, "tdas"), [filters(200.0)] * 6):
            samplers.pc(score, (2, *SHAPE), VE(0.01, 50.0), M, **shared)
            samplers.pc(score, (2, *SHAPE), VE(0.01, 50.0), M, corrector="ald", snr=0.0, **shared)
