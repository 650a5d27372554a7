"""The three SDEs of Song et al. (arXiv 2011.13456), and chains of discrete noise levels.

Everything here is Python floats, computed once before a run: the samplers hand them to the ops as scalars, so no
iteration reads from a device. Times run from 1 (noise) to an end time near 0 (data).

`pc` takes an SDE discretised with a given number of iterations (`SDE.levels`). The speed-up rule of TDAS and PDS: with
`iterations = native / r`, the discretisation is made anew with that many points, and the end time is r times the
native one.

`ancestral`, `dpmpp`, `heun` and `probability_flow` take a ladder of noise levels `sigma = std / mean_scale`, of
`NoiseLevels.ladder` or of the caller's own: in x / mean_scale every SDE is variance-exploding.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from tdas_ops import _arguments

Ladder = Literal["geometric", "karras", "time", "snr"]
_LADDERS = get_args(Ladder)


@dataclass(frozen=True)
class Marginal:
    """A noise level: `x = mean_scale x0 + std z`.

    Attributes:
        condition: what the score function is told there: sigma for VE, t for VP and sub-VP, the label for `Discrete`.
        mean_scale, std: as above.
    """

    condition: float
    mean_scale: float
    std: float


@dataclass(frozen=True)
class Level(Marginal):
    """One iteration of `pc`: everything it needs to know about the noise level it starts from.

    Attributes:
        time: t in (0, 1].
        alpha: alpha_t of the snr rule.
        reverse: the reverse-diffusion predictor (arXiv 2011.13456, equation 46): `x_mean = x + a x + b score`, noise
            scale n, as (a, b, n).
        euler: the Euler-Maruyama predictor, as (a, b, n).
        ancestral: the predictor of ancestral sampling (the same, appendix F), as (a, b, n); None where there is none.
    """

    time: float
    alpha: float
    reverse: tuple[float, float, float]
    euler: tuple[float, float, float]
    ancestral: tuple[float, float, float] | None = None


@runtime_checkable
class SDE(Protocol):
    """What `pc` reads of an SDE; any object that has it will do.

    Attributes:
        native_iterations: the iteration count that is taken where none is given.
        start_scale: noise scale of the start point.
    """

    @property
    def native_iterations(self) -> int: ...
    @property
    def start_scale(self) -> float: ...

    def levels(self, iterations: int, end_time: float | None = None) -> list[Level]:
        """The levels of a run, from noise to data, one an iteration."""
        ...


@runtime_checkable
class NoiseLevels(Protocol):
    """What the samplers on a ladder of noise levels read of an SDE; any object that has it will do.

    Attributes:
        sigma_min, sigma_max: the noise levels `std / mean_scale` that the network knows.
    """

    @property
    def sigma_min(self) -> float: ...
    @property
    def sigma_max(self) -> float: ...

    def marginal(self, sigma: float) -> Marginal:
        """The level of `sigma = std / mean_scale > 0`."""
        ...

    def ladder(self, count: int, kind: Ladder) -> Sequence[float]:
        """So many falling noise levels above 0; called where the caller names a kind of ladder."""
        ...


class _Ladders:
    """The ladders of an SDE that knows the time of a noise level and the noise level of a time."""

    sigma_min: float
    sigma_max: float

    def sigma(self, t: float) -> float:
        raise NotImplementedError

    def time(self, sigma: float) -> float:
        raise NotImplementedError

    def ladder(
        self,
        count: int,
        kind: Ladder = "karras",
        *,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
        rho: float = 7.0,
    ) -> list[float]:
        """Falling noise levels `sigma = std / mean_scale` from sigma_max to sigma_min, both included.

        >>> [round(sigma, 2) for sigma in tdas_ops.sde.VE(0.01, 50.0).ladder(4)]
        [50.0, 7.69, 0.59, 0.01]

        Args:
            count: how many; one is sigma_max alone.
            kind: "karras" is uniform in `sigma^(1 / rho)` (arXiv 2206.00364, equation 5), "geometric" in log sigma,
                which is also uniform in the log-snr and then called "snr" (arXiv 2206.00927), "time" in t.
            sigma_max, sigma_min: by default those of the SDE.
            rho: of "karras".

        Raises:
            ValueError: an unknown kind, no level, limits that are not those of the SDE or within, or rho below 1.
        """
        count = _arguments.whole("count", count, 1)
        if kind not in _LADDERS:
            raise ValueError(f"ladder: got {kind!r}, expected one of {', '.join(_LADDERS)}, or noise levels")
        high = self.sigma_max if sigma_max is None else float(sigma_max)
        low = self.sigma_min if sigma_min is None else float(sigma_min)
        if not self.sigma_min * (1 - 1e-9) <= low < high <= self.sigma_max * (1 + 1e-9):
            expected = f"falling numbers from {self.sigma_max:g} to {self.sigma_min:g}"
            raise ValueError(f"ladder: got sigma_max, sigma_min = ({high:g}, {low:g}), expected {expected}")
        if not 1.0 <= rho < math.inf:
            raise ValueError(f"rho: got {rho}, expected a finite number of at least 1")
        inner = [i / (count - 1) for i in range(1, count - 1)]
        if kind == "karras":
            first, last = high ** (1 / rho), low ** (1 / rho)
            between = [(first + u * (last - first)) ** rho for u in inner]
        elif kind == "time":
            first, last = self.time(high), self.time(low)
            between = [self.sigma(first + u * (last - first)) for u in inner]
        else:
            between = [low * math.exp(math.log(high / low) * (1 - u)) for u in inner]
        return [high, *between, low][:count]


def _own_numbers(sde: Any, *names: str) -> None:
    """Makes the fields of an SDE Python's own numbers, so that no other precision enters."""
    for name in (*names, "native_end_time"):
        object.__setattr__(sde, name, _arguments.number(name, getattr(sde, name)))
    object.__setattr__(sde, "native_iterations", _arguments.whole("native_iterations", sde.native_iterations, 1))


def _times(iterations: int, end: float) -> list[float]:
    end = _arguments.number("end_time", end)
    if not 0.0 < end < 1.0:
        raise ValueError(f"end_time: got {end}, expected a number between 0 and 1")
    if iterations == 1:
        return [1.0]
    return [1.0 + i / (iterations - 1) * (end - 1.0) for i in range(iterations)]


@dataclass(frozen=True)
class VE(_Ladders):
    """The variance-exploding SDE: `dx = sigma(t) sqrt(2 ln(sigma_max / sigma_min)) dw`.

    Args:
        sigma_min, sigma_max: `sigma(t) = sigma_min (sigma_max / sigma_min)^t`, in the units of x.
        native_iterations: the iteration count the network was made for (r = 1).
        native_end_time: end time at r = 1.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    native_iterations: int = 1000
    native_end_time: float = 1e-5

    def __post_init__(self) -> None:
        _own_numbers(self, "sigma_min", "sigma_max")
        if not 0.0 < self.sigma_min < self.sigma_max < math.inf:
            got = f"sigma_min, sigma_max = ({self.sigma_min}, {self.sigma_max})"
            raise ValueError(f"VE: got {got}, expected 0 < first < second")

    @property
    def start_scale(self) -> float:
        """Noise scale of the start point."""
        return self.sigma_max

    def end_time(self, iterations: int) -> float:
        return min(self.native_end_time * self.native_iterations / iterations, 0.5)

    def sigma(self, t: float) -> float:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def time(self, sigma: float) -> float:
        """The t of a noise level."""
        return math.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)

    def marginal(self, sigma: float) -> Marginal:
        """`x = x0 + sigma z`; the network is told sigma."""
        return Marginal(sigma, 1.0, sigma)

    def levels(self, iterations: int, end_time: float | None = None) -> list[Level]:
        """The levels of a run, from sigma_max down; the last predictor ends at sigma = 0."""
        iterations = _arguments.whole("iterations", iterations, 1)
        times = _times(iterations, self.end_time(iterations) if end_time is None else end_time)
        ladder = [*self.ladder(iterations, "geometric"), 0.0]
        growth = 2 * math.log(self.sigma_max / self.sigma_min) / iterations
        result = []
        for t, (sigma, below) in zip(times, pairwise(ladder), strict=True):
            here = self.sigma(t)
            d, g2 = sigma**2 - below**2, here**2 * growth
            result.append(
                Level(
                    condition=here,
                    mean_scale=1.0,
                    std=here,
                    time=t,
                    alpha=1.0,
                    reverse=(0.0, d, math.sqrt(d)),
                    euler=(0.0, g2, math.sqrt(g2)),
                    ancestral=(0.0, d, below / sigma * math.sqrt(d)),
                )
            )
        return result


@dataclass(frozen=True)
class VP(_Ladders):
    """The variance-preserving SDE: `dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw`, `beta(t)` linear.

    Args:
        beta_min, beta_max: beta(0) and beta(1); may be equal.
        native_iterations: the iteration count the network was made for (r = 1).
        native_end_time: end time at r = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    native_iterations: int = 1000
    native_end_time: float = 1e-3

    def __post_init__(self) -> None:
        _own_numbers(self, "beta_min", "beta_max")
        if not 0.0 < self.beta_min <= self.beta_max < math.inf:
            got = f"beta_min, beta_max = ({self.beta_min}, {self.beta_max})"
            raise ValueError(f"{type(self).__name__}: got {got}, expected 0 < first <= second")

    @property
    def sigma_min(self) -> float:  # type: ignore[override]
        """The noise level of the native end time."""
        return self.sigma(self.native_end_time)

    @property
    def sigma_max(self) -> float:  # type: ignore[override]
        """The noise level of t = 1."""
        return self.sigma(1.0)

    @property
    def start_scale(self) -> float:
        """Noise scale of the start point."""
        return 1.0

    def end_time(self, iterations: int) -> float:
        return min(self.native_end_time * self.native_iterations / iterations, 0.5)

    def beta(self, t: float) -> float:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def log_mean(self, t: float) -> float:
        """Logarithm of the mean scale at time t."""
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def std(self, t: float) -> float:
        return math.sqrt(-math.expm1(2 * self.log_mean(t)))

    def sigma(self, t: float) -> float:
        """The noise level std / mean_scale at time t."""
        return self.std(t) * math.exp(-self.log_mean(t))

    def time(self, sigma: float) -> float:
        """The t of a noise level."""
        # log_mean(t) = -depth is a quadratic equation; this form of its root holds for beta_min = beta_max too.
        slope, half = self.beta_max - self.beta_min, 0.5 * self.beta_min
        depth = self._minus_log_mean(sigma)
        return 2 * depth / (half + math.sqrt(half**2 + slope * depth))

    def _minus_log_mean(self, sigma: float) -> float:
        return 0.5 * math.log1p(sigma**2)

    def marginal(self, sigma: float) -> Marginal:
        """The level of a noise level std / mean_scale; the network is told t."""
        mean_scale = math.exp(-self._minus_log_mean(sigma))
        return Marginal(self.time(sigma), mean_scale, sigma * mean_scale)

    def diffusion_squared(self, t: float) -> float:
        """The square of the diffusion coefficient at time t."""
        return self.beta(t)

    def _reverse(self, t: float, beta: float, iterations: int) -> tuple[float, float, float]:
        """Ancestral-like discretisation of DDPM: `f = sqrt(1 - beta_i) x - x`, `G = sqrt(beta_i)`."""
        return 1 - math.sqrt(1 - beta), beta, math.sqrt(beta)

    def _ancestral(self, beta: float) -> tuple[float, float, float] | None:
        """`x_mean = (x + beta_i score) / sqrt(1 - beta_i)`, noise sqrt(beta_i)."""
        root = math.sqrt(1 - beta)
        return 1 / root - 1, beta / root, math.sqrt(beta)

    def levels(self, iterations: int, end_time: float | None = None) -> list[Level]:
        """The levels of a run, from t = 1 down to the end time."""
        iterations = _arguments.whole("iterations", iterations, 1)
        times = _times(iterations, self.end_time(iterations) if end_time is None else end_time)
        if self.beta_max >= iterations:
            rule = f"more than beta_max = {self.beta_max:g} for {type(self).__name__}"
            raise ValueError(f"iterations: got {iterations}, expected {rule}")
        span = (self.beta_max - self.beta_min) / max(1, iterations - 1)
        betas = [(self.beta_min + span * i) / iterations for i in range(iterations)]
        result = []
        for i, t in enumerate(times):
            # Song et al. index the discrete betas by floor(t (N - 1)).
            beta = betas[min(iterations - 1, int(t * (iterations - 1)))] if i else betas[-1]
            g2 = self.diffusion_squared(t) / iterations
            result.append(
                Level(
                    condition=t,
                    mean_scale=math.exp(self.log_mean(t)),
                    std=self.std(t),
                    time=t,
                    alpha=1 - beta,
                    reverse=self._reverse(t, beta, iterations),
                    euler=(0.5 * self.beta(t) / iterations, g2, math.sqrt(g2)),
                    ancestral=self._ancestral(beta),
                )
            )
        return result


@dataclass(frozen=True)
class SubVP(VP):
    """The sub-VP SDE: the drift of VP with `g(t)^2 = beta(t) (1 - exp(-2 int_0^t beta))`; arguments as in `VP`."""

    def std(self, t: float) -> float:
        return -math.expm1(2 * self.log_mean(t))

    def _minus_log_mean(self, sigma: float) -> float:
        # std = 1 - mean_scale^2, so that sigma = 1 / mean_scale - mean_scale = 2 sinh(-log mean_scale).
        return math.asinh(0.5 * sigma)

    def diffusion_squared(self, t: float) -> float:
        return self.beta(t) * -math.expm1(4 * self.log_mean(t))

    def _reverse(self, t: float, beta: float, iterations: int) -> tuple[float, float, float]:
        """Song et al. give sub-VP no ancestral rule; its reverse diffusion is the Euler discretisation."""
        g2 = self.diffusion_squared(t) / iterations
        return 0.5 * self.beta(t) / iterations, g2, math.sqrt(g2)

    def _ancestral(self, beta: float) -> tuple[float, float, float] | None:
        return None


@dataclass(frozen=True)
class Discrete(_Ladders):
    """A variance-preserving chain of N noise levels, as DDPM networks are trained on; not for `pc`.

    The network is told the label, from 0 to N - 1: a whole number on the ladder "time" (respacing: labels as evenly
    apart as whole numbers allow), between two labels elsewhere, linear in the logarithm of the noise level.

    Args:
        alphas_cumprod: the cumulated alphas of the labels, N falling numbers between 0 and 1; a tensor will do.

    Raises:
        ValueError: fewer than two, or others.

    Source: Ho et al., arXiv 2006.11239; respacing: Nichol and Dhariwal, arXiv 2102.09672, section 4.
    """

    alphas_cumprod: Sequence[float]

    def __post_init__(self) -> None:
        table = tuple(float(a) for a in self.alphas_cumprod)
        if len(table) < 2 or not all(1 > a > b > 0 for a, b in pairwise(table)):
            raise ValueError(f"alphas_cumprod: got {len(table)} numbers, expected two or more that fall from 1 to 0")
        object.__setattr__(self, "alphas_cumprod", table)
        object.__setattr__(self, "_logs", [0.5 * (math.log1p(-a) - math.log(a)) for a in table])

    @property
    def sigma_min(self) -> float:  # type: ignore[override]
        return self.sigma(0)

    @property
    def sigma_max(self) -> float:  # type: ignore[override]
        return self.sigma(len(self.alphas_cumprod) - 1)

    def sigma(self, t: float) -> float:
        """The noise level of a label."""
        logs: list[float] = self._logs  # type: ignore[attr-defined]
        below = min(max(int(t), 0), len(logs) - 2)
        return math.exp(logs[below] + (t - below) * (logs[below + 1] - logs[below]))

    def time(self, sigma: float) -> float:
        """The label of a noise level."""
        logs: list[float] = self._logs  # type: ignore[attr-defined]
        log = math.log(sigma)
        below = min(max(bisect_right(logs, log) - 1, 0), len(logs) - 2)
        label = below + (log - logs[below]) / (logs[below + 1] - logs[below])
        return float(round(label)) if abs(label - round(label)) < 1e-6 else label

    def marginal(self, sigma: float) -> Marginal:
        """The level of a noise level std / mean_scale; the network is told its label."""
        mean_scale = 1 / math.hypot(1.0, sigma)
        return Marginal(self.time(sigma), mean_scale, sigma * mean_scale)

    def ladder(
        self,
        count: int,
        kind: Ladder = "karras",
        *,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
        rho: float = 7.0,
    ) -> list[float]:
        made = super().ladder(count, kind, sigma_max=sigma_max, sigma_min=sigma_min, rho=rho)
        return [self.sigma(round(self.time(sigma))) for sigma in made] if kind == "time" else made
