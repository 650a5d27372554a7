"""Filters made for an iteration count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tdas_ops import _gaussian
from tdas_ops._gaussian import Run, Target
from tdas_ops.calibrate.prediction import predict
from tdas_ops.preconditioner import Preconditioner

_WEAK, _STRONG, _ALPHAS = 1e3, 0.05, 33


def choose_alpha(
    target: Target, run: Run, method: Literal["pds", "tdas"] = "pds", statistic: Tensor | None = None
) -> float:
    """The strength alpha of the papers' frequency mask with the least predicted distance.

    For "pds" it is sought among the masks with which no predictor step goes beyond the denoised image, as in
    `calibrated`: stronger ones can look good in the Gaussian model and fail on a trained network.

    Args:
        target: the data.
        run: `PC(...)` or `AnnealedLangevin(...)`.
        method: "pds" or "tdas".
        statistic: raw f(k), full spectrum `[C, H, W]`, that the mask is made from; by default that of the target,
            which is right where x is the image in [0, 1].

    Returns: alpha from 1.05 to 1,001, to about 1 % of alpha - 1; 1,001 says that no filter is best.
    """
    statistic = target.statistic if statistic is None else statistic
    furthest = _gaussian.furthest_drift(target.field, run.updates)

    def cost(log_strength: float) -> float:
        M = Preconditioner.from_statistics(statistic, None, 1 + math.exp(log_strength), method)
        too_far = float((_gaussian.Gains.of_filter(M, target).drift / furthest).max())
        # Beyond the bound by more than any distance, and falling towards it.
        return predict(M, target, run).distance if too_far <= 1 else 1e30 * too_far

    low, high, width = math.log(_STRONG), math.log(_WEAK), math.log(_WEAK / _STRONG) / (_ALPHAS - 1)
    best = min((low + i * width for i in range(_ALPHAS)), key=cost)
    while width > 0.01:
        width /= 2
        best = min((min(max(best + step, low), high) for step in (0.0, -width, width)), key=cost)
    return 1 + math.exp(best)


def calibrated(
    target: Target,
    run: Run,
    method: Literal["pds", "tdas"] = "pds",
    bounds: tuple[float, float] | None = None,
) -> Preconditioner:
    """The frequency mask for which a run ends at the variance of the target, in the Gaussian model of it.

    Args:
        target: the data.
        run: `PC(...)` or `AnnealedLangevin(...)`.
        method: "pds" or "tdas".
        bounds: of R, by default (0.8, 1.6) for "pds" and (0.01, 1.6) for "tdas". For "pds" a further one keeps every
            predictor step from going beyond the denoised image: `R^2 (b / variance - a) <= 1`.

    Returns: a filter whose provenance has the predicted distance, and `settled`: whether mask and step sizes of the snr
        rule came to agree.

    Source: `docs/calibration.md`.
    """
    R, about = _gaussian.calibrated_mask(target, run, method, bounds)
    return Preconditioner(target.shape, R, method=method, provenance={"source": "calibrated", **about})


def schedule(
    target: Target,
    run: Run,
    method: Literal["pds", "tdas"] = "tdas",
    bounds: tuple[float, float] | None = None,
) -> list[Preconditioner]:
    """One filter an iteration that keep the variance on the ladder: at every noise level that of the noised target.

    "tdas" can do so at any iteration count; its masks are then the variance of the posterior of the next level: the
    posterior covariance of a stationary Gaussian field (DDPM, arXiv 2006.11239, equation 7, with one variance a
    frequency; the transfer function is that of Benita et al., arXiv 2502.00180). "pds" ties drift to noise and cannot
    where a predictor takes off more than a quarter of the variance.

    Args:
        target: the data.
        run: `PC(...)` or `AnnealedLangevin(...)`.
        method: "tdas" or "pds".
        bounds: of R, by default (0.01, 1.6) for "tdas", (0.8, 1.6) for "pds"; "pds" has a further one, as `calibrated`.

    Returns: filters for the argument M of a sampler. `provenance["off_ladder"]` of each is the RMS over frequencies of
        log(variance / wanted variance) after its iteration: 0 where the bounds let it reach what is wanted.
    """
    masks, about = _gaussian.scheduled_masks(target, run, method, bounds)
    made = zip(masks, about, strict=True)
    return [
        Preconditioner(target.shape, R, method=method, provenance={"source": "schedule", **facts}) for R, facts in made
    ]


def constant(shape: Sequence[int], run: Run) -> list[Preconditioner]:
    """The number an iteration that keeps the variance on the ladder far above the data: `schedule` without data.

    Few iterations of the reverse-diffusion predictor add more noise than the next level has; this takes it back and
    knows nothing else. It is the null hypothesis of every filter: what one gains beyond it comes from the data.

    Args:
        shape: (C, H, W).
        run: `PC(...)` or `AnnealedLangevin(...)`.

    Returns: filters for the argument M of a sampler, without a transform. Without a corrector `R = s' / s` from level s
        to s'; the last iteration, which has no next level, has the number of the one before.
    """
    channels, height, width = shape
    nearly_none = (1e-6 * min(update.std for update in run.updates)) ** 2
    target = Target.from_spectrum(torch.full((channels, height, width), nearly_none, dtype=torch.float64))
    masks, _ = _gaussian.scheduled_masks(target, run, "tdas", (1e-4, 1.6))
    values = masks[:, 0, 0, 0].tolist()
    values[-1] = values[-2] if len(values) > 1 else 1.0
    return [
        Preconditioner(
            target.shape,
            space=torch.full(target.shape, value, dtype=torch.float64),
            method="tdas",
            provenance={"source": "constant", "value": value, "iteration": i, "iterations": run.count},
        )
        for i, value in enumerate(values)
    ]
