"""Runs on a ladder of noise levels with what is known of the data: their settings, and what they do to a Gaussian law.

With the exact score of a Gaussian law every sampler is linear, coefficient by coefficient of its basis: a state is the
mean of the data times a number, plus independent normals, one of the start and one of each step that draws noise. The
recursion keeps these numbers, `[1 + normals, K]`, and does with them what the sampler does with pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from tdas_ops import _arguments, samplers
from tdas_ops._gaussian import Array, Law, Target, Trace, off_ladder
from tdas_ops.calibrate.mixture import Mixture
from tdas_ops.noise import NoiseStream, Stream
from tdas_ops.prior import Prior
from tdas_ops.samplers import ScoreFn
from tdas_ops.samplers._ladder import Levels, between, noise_levels, steps_of
from tdas_ops.samplers._run import check_sde
from tdas_ops.samplers.dpmpp import check_order, weights
from tdas_ops.samplers.heun import churned
from tdas_ops.sde import NoiseLevels

Sampler = Literal["dpmpp", "ancestral", "heun", "probability_flow"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)


@dataclass(frozen=True)
class FewStep:
    """A run of a sampler on a ladder of noise levels; fields are its arguments of that name, those it does not have are
    left alone.

    Attributes:
        sampler: "dpmpp", "ancestral", "heun" or "probability_flow".
        start: the law that the run begins with, or None for white noise.
        sigma: the level it begins at, by default the highest of the SDE; a kind of ladder goes down from there.
    """

    sde: NoiseLevels
    evaluations: int | None = None
    sampler: Sampler = "dpmpp"
    ladder: Levels = "karras"
    order: int = 2
    eta: float = 0.0
    s_churn: float = 0.0
    prior: Prior | None = None
    covariance: Prior | None = None
    share: float = 1.0
    start: Prior | Mixture | None = None
    sigma: float | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler: got {self.sampler!r}, expected one of {', '.join(SAMPLERS)}")
        check_sde(self.sde, NoiseLevels, "VE, VP, SubVP, Discrete")
        if self.sigma is not None:
            lowest, highest = self.sde.sigma_min * (1 - 1e-6), self.sde.sigma_max * (1 + 1e-6)
            if not lowest <= _arguments.number("sigma", self.sigma) <= highest:
                levels = f"{self.sde.sigma_min:g} to {self.sde.sigma_max:g}"
                raise ValueError(f"sigma: got {self.sigma}, expected a level of the SDE, from {levels}")
        if self.start is not None and not isinstance(self.start, Prior | Mixture):
            raise TypeError(f"start: got {type(self.start).__name__}, expected a calibrate.Prior or Mixture")
        for name in ("prior", "covariance"):
            if not isinstance(getattr(self, name), Prior | None):
                raise TypeError(f"{name}: got {type(getattr(self, name)).__name__}, expected a calibrate.Prior")
        laws = [(name, law) for name in ("start", "prior", "covariance") if (law := getattr(self, name)) is not None]
        for name, law in laws[1:]:
            first, like = laws[0]
            if law.shape != like.shape:
                raise ValueError(f"{name}: got a law of shape {law.shape}, expected {like.shape} as {first} has it")
        between("eta", self.eta, 0.0, 1.0)
        between("share", self.share, 0.0, 1.0)
        steps = len(self.levels) - 1
        if self.sampler == "dpmpp":
            check_order(self.order, steps)

    @cached_property
    def levels(self) -> list[float]:
        """The noise levels of the run, the last one included."""
        ladder: Levels = self._from_sigma if self.sigma is not None and isinstance(self.ladder, str) else self.ladder
        return noise_levels(self.sde, self.evaluations, ladder, each=2 if self.sampler == "heun" else 1)

    def _from_sigma(self, count: int) -> Sequence[float]:
        return self.sde.ladder(count, self.ladder, sigma_max=self.sigma)  # type: ignore[arg-type, call-arg]

    @property
    def name(self) -> str:
        """What differs from the simplest run of the sampler, in words."""
        ladder = self.ladder if isinstance(self.ladder, str) else "own ladder"
        parts = [f"{self.sampler} {self.order}" if self.sampler == "dpmpp" else self.sampler, ladder]
        parts += [f"eta {self.eta:g}"] if self.sampler in ("dpmpp", "ancestral") else []
        parts += [f"churn {self.s_churn:g}"] if self.s_churn else []
        start = "white noise" if self.start is None else f"start {self.start.basis}"
        parts += [f"{start} at {self.levels[0]:.3g}"] if self.start is not None or self.sigma is not None else []
        parts += [f"prior {self.prior.basis}"] if self.prior is not None else []
        parts += [f"covariance {self.covariance.basis} x {self.share:g}"] if self.covariance is not None else []
        return ", ".join(parts)

    @property
    def follows_flow(self) -> bool:
        """Whether it approximates the probability flow from white noise at the highest level."""
        random = (self.eta > 0 and self.sampler in ("dpmpp", "ancestral")) or self.s_churn > 0
        return not random and self.start is None and self.sigma is None

    @property
    def count(self) -> int:
        """Evaluations of the network."""
        steps = len(self.levels) - 1
        return steps if self.sampler != "heun" else 2 * steps - (self.levels[-1] == 0)

    def arguments(self, shape: Sequence[int], noise: Stream) -> dict[str, Any]:
        """Keyword arguments of the sampler, start point included, which takes a draw of the stream."""
        own = {
            "dpmpp": ("order", "eta", "prior", "covariance", "share"),
            "ancestral": ("eta", "covariance", "share"),
            "heun": ("s_churn",),
            "probability_flow": ("s_churn",),
        }[self.sampler]
        made, noise = {name: getattr(self, name) for name in own}, NoiseStream.of(noise)
        start = None if self.start is None else self.start.start(self.levels[0], shape, noise)
        return {"ladder": self.levels, "noise": noise, **made, **({} if start is None else {"start": start})}

    def sample(self, score_fn: ScoreFn, shape: Sequence[int], noise: Stream, **options: Any) -> Tensor:
        """Samples `[B, C, H, W]`; options as in the sampler."""
        run = getattr(samplers, self.sampler)
        x: Tensor = run(score_fn, shape, self.sde, **self.arguments(shape, noise), **options)
        return x


def trace(law: Target | Prior, run: FewStep) -> Trace:
    """Follows a run with the exact score of a Gaussian law."""
    around = law.field
    L = around.variance
    variances = {name: _variance_of(name, getattr(run, name), law) for name in ("start", "prior", "covariance")}
    top = run.levels[0]
    begin = np.zeros_like(L) if variances["start"] is None else variances["start"]
    rows = np.stack([np.full_like(L, float(run.start is not None)), np.sqrt(begin + top**2)])
    make = {"dpmpp": _dpmpp, "ancestral": _ancestral, "heun": _heun, "probability_flow": _euler}[run.sampler]
    end = _law(rows)
    off = [off_ladder(around, end, L + top**2)]
    for level, reached in make(L, rows, run, variances["prior"], variances["covariance"]):
        end = _law(reached)
        off.append(off_ladder(around, end, L + level**2))
    return Trace(end, [], off[:-1])


def _law(rows: Array) -> Law:
    return Law((rows[1:] ** 2).sum(0), rows[0])


def _variance_of(name: str, prior: Prior | Mixture | None, law: Target | Prior) -> Array | None:
    """The variances of a prior at the coefficients of the law, whose basis it must share."""
    if prior is None:
        return None
    if isinstance(prior, Mixture):
        raise ValueError(f"{name}: got a Mixture, expected a Prior: several bumps have no prediction")
    own = law.field.variance
    if prior.shape != law.shape:
        raise ValueError(f"{name}: got a prior of shape {prior.shape}, expected {law.shape} as the target has it")
    if prior.basis == "mean":
        return np.zeros_like(own)
    basis = law.basis if isinstance(law, Prior) else "fourier"
    same = prior.basis == basis
    if same and isinstance(law, Prior) and law.vectors is not None and prior.vectors is not None:
        same = law.vectors.shape == prior.vectors.shape and bool((law.vectors == prior.vectors).all())
    if not same:
        raise ValueError(
            f"{name}: got a prior in a basis of its own ({prior.basis}), expected that of the target ({basis}): others "
            "mix coefficients, which the prediction treats one by one"
        )
    return prior.field.variance


def _denoised(x: Array, L: Array, s: float) -> Array:
    gain = L / (L + s * s)
    x0 = gain * x
    x0[0] += 1 - gain
    return np.asarray(x0)


def _noised(x: Array, variance: Array | float) -> Array:
    return x if np.all(variance == 0) else np.vstack([x, np.broadcast_to(np.sqrt(variance), (1, x.shape[1]))])


def _posterior(L: Array, s: float, t: float, eta: float) -> Array:
    """`Prior.posterior_noise`: S' (1 - (S' / S)^eta)."""
    return np.asarray(-(L + t * t) * np.expm1(eta * np.log((L + t * t) / (L + s * s))))


def _noise_variance(run: FewStep, covariance: Array | None, s: float, t: float, eta: float) -> Array | float:
    """Of a stochastic step; none in a step to 0."""
    if t == 0 or eta == 0:
        return 0.0
    isotropic = float(_posterior(np.zeros(1), s, t, eta)[0])
    if covariance is None:
        return isotropic
    return isotropic + run.share * (_posterior(covariance, s, t, eta) - isotropic)


Steps = Iterator[tuple[float, Array]]


def _dpmpp(L: Array, x: Array, run: FewStep, prior: Array | None, covariance: Array | None) -> Steps:
    known = np.zeros_like(L) if prior is None else prior
    covariance = prior if covariance is None else covariance
    steps = steps_of(run.sde, run.levels)
    history: list[tuple[Array, Array]] = []
    for i, (s, t) in enumerate(pairwise(run.levels)):
        x0 = _denoised(x, L, s)
        now = (x0, (x0 - x) / s**2)
        before = weights(steps[: i + 1], run.order, run.eta)
        ahead = [_extrapolated(k, now, history, before) for k in range(2)]
        history = [now, *history][: run.order - 1]
        eta = run.eta if t > 0 else 0.0
        kept = ((known + t * t) / (known + s * s)) ** ((1 + eta) / 2)
        x = kept * x + (1 - kept) * (ahead[0] + known * ahead[1])
        x = _noised(x, _noise_variance(run, covariance, s, t, eta))
        yield t, x


def _extrapolated(k: int, now: tuple[Array, Array], history: Sequence[tuple[Array, Array]], w: list[float]) -> Array:
    made = now[k].copy()
    for before, weight in zip(history, w, strict=False):
        older = np.zeros_like(made)  # noise that was drawn since is not in it
        older[: len(before[k])] = before[k]
        made += weight * (now[k] - older)
    return made


def _ancestral(L: Array, x: Array, run: FewStep, prior: Array | None, covariance: Array | None) -> Steps:
    for s, t in pairwise(run.levels):
        up = run.eta * t * math.sqrt(1 - (t / s) ** 2)
        x = x + (1 - math.sqrt(t**2 - up**2) / s) * (_denoised(x, L, s) - x)
        x = _noised(x, run.eta**2 * _noise_variance(run, covariance, s, t, 1.0))
        yield t, x


def _slope(L: Array, x: Array, s: float) -> Array:
    return np.asarray((x - _denoised(x, L, s)) / s)


def _euler(L: Array, x: Array, run: FewStep, prior: Array | None, covariance: Array | None) -> Steps:
    yield from _along_flow(L, x, run, second=False)


def _heun(L: Array, x: Array, run: FewStep, prior: Array | None, covariance: Array | None) -> Steps:
    yield from _along_flow(L, x, run, second=True)


def _along_flow(L: Array, x: Array, run: FewStep, second: bool) -> Steps:
    steps, kicks, reached = churned(run.sde, run.levels, run.s_churn)
    x = _noised(x, kicks[0] ** 2)
    for step, kick, level in zip(steps, kicks[1:], reached, strict=True):
        s, t = step.sigma, step.sigma_next
        slope = _slope(L, x, s)
        ahead = x + (t - s) * slope
        x = x + 0.5 * (t - s) * (slope + _slope(L, ahead, t)) if second and t > 0 else ahead
        x = _noised(x, kick**2)
        yield level, x
