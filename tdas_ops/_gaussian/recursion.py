"""The recursion: what updates do to mean and variance of every frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tdas_ops._gaussian.runs import Run, Update
from tdas_ops._gaussian.target import Array, Field, Target


class Filter(Protocol):
    """What the recursion reads of a `Preconditioner`."""

    shape: tuple[int, int, int]
    method: Any
    freq: Tensor | None
    space: Tensor | None
    skew: Tensor | None


@dataclass(frozen=True)
class Gains:
    """A filter at every frequency, `[..., K]`: what it makes of the variance of noise and of a start, and D."""

    noise: Array
    drift: Array
    start: Array

    @classmethod
    def of_mask(cls, R: Array, method: str) -> Gains:
        """Of a frequency mask R `[..., K]`."""
        plain = np.ones_like(R)
        return cls(R**2, R**2 if method == "pds" else plain, plain if method == "noise" else R**2)

    @classmethod
    def of_filter(cls, M: Filter, target: Target) -> Gains:
        """Of a filter; a space mask must be constant, since another one mixes frequencies.

        Raises:
            ValueError: a filter without a method, of another shape than the target, or with a space mask that varies.
        """
        if tuple(M.shape) != target.shape:
            raise ValueError(f"M: got shape {tuple(M.shape)}, expected {target.shape} as the target has it")
        if M.method is None:
            raise ValueError("M: got method None, expected 'pds', 'tdas' or 'noise'")
        if M.freq is not None and M.freq.dim() == 4:
            raise ValueError(
                "M: got matrices that mix the channels, expected a mask: the prediction has no such mixing"
            )
        R = torch.ones_like(target.variance) if M.freq is None else M.freq
        if M.space is not None:
            low, high = float(M.space.min()), float(M.space.max())
            if high - low > 1e-9 * high:
                raise ValueError(
                    f"M: got a space mask from {low:.4g} to {high:.4g}, expected none or a constant one: others mix "
                    "frequencies, which the prediction treats one by one"
                )
            R = high * R
        gains = cls.of_mask(R.numpy().ravel(), M.method)
        return gains if M.skew is None else replace(gains, drift=gains.drift + 1j * M.skew.numpy().ravel())


@dataclass
class Law:
    """The law of a state, `[..., K]`: variance, and mean over the mean of the target."""

    variance: Array
    mean: Array

    @classmethod
    def start(cls, gains: Gains, scale: float) -> Law:
        return cls(scale**2 * gains.start, np.zeros_like(gains.drift))


def marginal(field: Field, update: Update) -> Array:
    """The variance `[K]` of `mean_scale x(0) + std z`: the score is minus the distance from the mean over it."""
    return update.mean_scale**2 * field.variance + update.std**2


def mean_norm(field: Field, variance: Array, mean: Array | None = None) -> float:
    """E |y| of a Gaussian field with these variances and these multiples of the target's mean, `[K]`.

    |y|^2 is taken as a gamma variable of its own mean and variance (Welch, Satterthwaite): exact for white fields of
    mean 0, and for all in the limit of many frequencies, where it is the root of the mean of |y|^2.
    """
    weighted = field.weight * variance
    first, second = float(weighted.sum()), float(weighted @ variance)
    if mean is not None and field.has_mean:
        power = np.abs(mean) ** 2 * field.mean_power
        first, second = first + float(power.sum()), second + 2 * float(variance @ power)
    if not math.isfinite(second) or second == 0:
        return math.sqrt(first)
    shape = first * (first / second) / 2
    return math.sqrt(first / shape) * math.exp(math.lgamma(shape + 0.5) - math.lgamma(shape))


def snr_step(field: Field, law: Law, gains: Gains, update: Update, noise_norm: float) -> float:
    """eta of the snr rule: `2 alpha (snr E|M z| / E|D score|)^2`."""
    assert update.snr is not None
    gain = np.abs(gains.drift) / marginal(field, update)
    drift_norm = mean_norm(field, gain * gain * law.variance, gain * (law.mean - update.mean_scale))
    return 2 * update.alpha * (update.snr * noise_norm / drift_norm) ** 2


def advance(field: Field, law: Law, gains: Gains, update: Update, eta: float | None = None) -> tuple[Law, Law]:
    """The laws of x_mean and of x after an update; `eta` stands for b, and sqrt(2 eta) for n, where it is given."""
    b, n2 = (update.b, update.n**2) if eta is None else (eta, 2 * eta)
    drift = gains.drift if update.filtered else 1.0
    pull = drift * (b / marginal(field, update))
    factor = 1 + drift * update.a - pull
    power = factor * factor if np.isrealobj(factor) else np.abs(factor) ** 2
    clean = Law(power * law.variance, factor * law.mean + update.mean_scale * pull if field.has_mean else law.mean)
    return clean, Law(clean.variance + n2 * gains.noise, clean.mean)


def advance_all(
    field: Field, law: Law, gains: Gains, updates: Sequence[Update], etas: Sequence[float] | None = None
) -> tuple[Law, Law, list[float]]:
    """The laws of x_mean and of x after some updates, and eta of each with the snr rule; `etas` imposes them."""
    clean = law
    used: list[float] = []
    with np.errstate(over="ignore", invalid="ignore"):
        noise_norm = mean_norm(field, gains.noise) if etas is None else math.nan
        for update in updates:
            eta = None
            if update.snr is not None:
                eta = snr_step(field, law, gains, update, noise_norm) if etas is None else etas[len(used)]
                used.append(eta)
            clean, law = advance(field, law, gains, update, eta)
    return clean, law, used


@dataclass
class Trace:
    """A whole run: the law of the samples, eta of every update with the snr rule, and `off_ladder` before iterations.

    off_ladder: RMS over frequencies of log(variance / variance of the noised target) of what the network is fed first.
    """

    law: Law
    etas: list[float]
    off_ladder: list[float]


def off_ladder(field: Field, law: Law, wanted: Array) -> float:
    """RMS over frequencies of log(variance / wanted)."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        squares = np.log(law.variance / wanted) ** 2
        return math.sqrt(squares @ field.weight / field.weight.sum())


def by_iteration(run: Run) -> list[list[Update]]:
    return [list(group) for _, group in groupby(run.updates, lambda update: update.iteration)]


def trace(field: Field, gains: Sequence[Gains], run: Run) -> Trace:
    """Follows a run; `gains` has one element, or one an iteration."""
    law = clean = Law.start(gains[0], run.start_scale)
    etas: list[float] = []
    off: list[float] = []
    for i, updates in enumerate(by_iteration(run)):
        off.append(off_ladder(field, law, marginal(field, updates[0])))
        clean, law, used = advance_all(field, law, gains[i if len(gains) > 1 else 0], updates)
        etas += used
    return Trace(clean if run.denoise else law, etas, off)


def distance(field: Field, law: Law, variance: Array | None = None, mean: float | None = 1.0) -> float:
    """The Frechet distance of a law and the target over the target's total variance; inf where it diverged.

    Both are Gaussian and diagonal in frequency: `sum (sqrt v - sqrt lambda)^2 + |mean error|^2`. `variance` stands for
    that of the target; without `mean`, that of the target in multiples of itself, variances alone are compared.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = field.variance if variance is None else variance
        result = float((np.sqrt(law.variance) - np.sqrt(wanted)) ** 2 @ field.weight)
        if mean is not None:
            result += float(np.abs(law.mean - mean) ** 2 @ field.mean_power)
    result /= float(wanted @ field.weight)
    return result if math.isfinite(result) else math.inf


def furthest_drift(field: Field, updates: Sequence[Update]) -> Array:
    """The largest D, `[K]`, with which no predictor goes beyond the denoised image: `D (b / variance - a) <= 1`."""
    pulls = [u.b / marginal(field, u) - u.a for u in updates if u.snr is None and u.filtered]
    return np.asarray(1 / np.max([np.full_like(field.variance, 1e-12), *pulls], axis=0))
