"""The three SDEs of Song et al. (arXiv 2011.13456), discretised with a given number of iterations.

Everything here is Python floats, computed once before a run: the samplers hand them to the ops as scalars, so no
iteration reads from a device. Times run from 1 (noise) to an end time near 0 (data).

The speed-up rule of TDAS and PDS: with `iterations = native / r`, the discretisation is made anew with that many
points, and the end time is r times the native one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """One iteration of a sampler: everything it needs to know about the noise level it starts from.

    Attributes:
        time: t in (0, 1].
        condition: what the score function is told: sigma for VE, t for VP and sub-VP.
        mean_scale, std: the marginal `x(t) = mean_scale x(0) + std z`.
        alpha: alpha_t of the snr rule.
        reverse: the reverse-diffusion predictor (arXiv 2011.13456, equation 46): `x_mean = x + a x + b score`, noise
            scale n, as (a, b, n).
        euler: the Euler-Maruyama predictor, as (a, b, n).
    """

    time: float
    condition: float
    mean_scale: float
    std: float
    alpha: float
    reverse: tuple[float, float, float]
    euler: tuple[float, float, float]


def _positive(name: str, low: float, high: float, names: str) -> None:
    if not 0.0 < low < high < math.inf:
        raise ValueError(f"{name}: got {names} = ({low}, {high}), expected 0 < first < second")


def _check_iterations(iterations: int) -> None:
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"iterations: got {iterations!r}, expected a positive integer")


def _times(iterations: int, end: float) -> list[float]:
    if not 0.0 < end < 1.0:
        raise ValueError(f"end_time: got {end}, expected a number between 0 and 1")
    if iterations == 1:
        return [1.0]
    return [1.0 + i / (iterations - 1) * (end - 1.0) for i in range(iterations)]


@dataclass(frozen=True)
class VE:
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
        _positive("VE", self.sigma_min, self.sigma_max, "sigma_min, sigma_max")

    @property
    def start_scale(self) -> float:
        """Noise scale of the start point."""
        return self.sigma_max

    def end_time(self, iterations: int) -> float:
        return min(self.native_end_time * self.native_iterations / iterations, 0.5)

    def sigma(self, t: float) -> float:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def ladder(self, iterations: int) -> list[float]:
        """sigma_i, i = 0 .. iterations - 1: geometric from sigma_min to sigma_max."""
        if iterations == 1:
            return [self.sigma_max]
        ratio = math.log(self.sigma_max / self.sigma_min)
        return [self.sigma_min * math.exp(ratio * i / (iterations - 1)) for i in range(iterations)]

    def levels(self, iterations: int, end_time: float | None = None) -> list[Level]:
        """The levels of a run, from sigma_max down; the last predictor ends at sigma = 0."""
        _check_iterations(iterations)
        times = _times(iterations, self.end_time(iterations) if end_time is None else end_time)
        ladder = [0.0, *self.ladder(iterations)]
        growth = 2 * math.log(self.sigma_max / self.sigma_min) / iterations
        result = []
        for i, t in enumerate(times):
            sigma, below, here = ladder[iterations - i], ladder[iterations - i - 1], self.sigma(t)
            d, g2 = sigma**2 - below**2, here**2 * growth
            result.append(
                Level(t, here, 1.0, here, 1.0, reverse=(0.0, d, math.sqrt(d)), euler=(0.0, g2, math.sqrt(g2)))
            )
        return result


@dataclass(frozen=True)
class VP:
    """The variance-preserving SDE: `dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw`, `beta(t)` linear.

    Args:
        beta_min, beta_max: beta(0) and beta(1).
        native_iterations: the iteration count the network was made for (r = 1).
        native_end_time: end time at r = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    native_iterations: int = 1000
    native_end_time: float = 1e-3

    def __post_init__(self) -> None:
        _positive(type(self).__name__, self.beta_min, self.beta_max, "beta_min, beta_max")

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

    def diffusion_squared(self, t: float) -> float:
        """The square of the diffusion coefficient at time t."""
        return self.beta(t)

    def _reverse(self, t: float, beta: float, iterations: int) -> tuple[float, float, float]:
        """Ancestral-like discretisation of DDPM: `f = sqrt(1 - beta_i) x - x`, `G = sqrt(beta_i)`."""
        return 1 - math.sqrt(1 - beta), beta, math.sqrt(beta)

    def levels(self, iterations: int, end_time: float | None = None) -> list[Level]:
        """The levels of a run, from t = 1 down to the end time."""
        _check_iterations(iterations)
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
                    time=t,
                    condition=t,
                    mean_scale=math.exp(self.log_mean(t)),
                    std=self.std(t),
                    alpha=1 - beta,
                    reverse=self._reverse(t, beta, iterations),
                    euler=(0.5 * self.beta(t) / iterations, g2, math.sqrt(g2)),
                )
            )
        return result


@dataclass(frozen=True)
class SubVP(VP):
    """The sub-VP SDE: the drift of VP with `g(t)^2 = beta(t) (1 - exp(-2 int_0^t beta))`; arguments as in `VP`."""

    def std(self, t: float) -> float:
        return -math.expm1(2 * self.log_mean(t))

    def diffusion_squared(self, t: float) -> float:
        return self.beta(t) * -math.expm1(4 * self.log_mean(t))

    def _reverse(self, t: float, beta: float, iterations: int) -> tuple[float, float, float]:
        """Song et al. give sub-VP no ancestral rule; its reverse diffusion is the Euler discretisation."""
        g2 = self.diffusion_squared(t) / iterations
        return 0.5 * self.beta(t) / iterations, g2, math.sqrt(g2)


SDE = VE | VP
