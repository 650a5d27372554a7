"""What a chain is worth: the integrated autocorrelation time of an observable."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from tdas_ops import _arguments, _arrays


class Autocorrelation(NamedTuple):
    """The integrated autocorrelation time of an observable, in steps.

    Attributes:
        time: `tau = 1/2 + sum_(t >= 1) rho(t)`, summed up to the window: 1/2 for independent values. The mean of n
            values has the variance of `n / (2 tau)` independent ones.
        error: its standard error, `tau sqrt(2 (2 W + 1) / n)`, n all values of all chains.
        window: W, the first lag of at least `c` times the sum up to it; 0 if the values stand still.
    """

    time: float
    error: float
    window: int


def autocorrelation_time(trace: Any, c: float = 6.0) -> Autocorrelation:
    """The integrated autocorrelation time of an observable, from `Chain.trace` without the steps before equilibrium.

    The autocovariance is averaged over the chains, about the mean of all of them.

    Args:
        trace: `[steps]` or `[steps, chains]`, real numbers; waits for the device.
        c: how many autocorrelation times the window has; large ones have less bias and more noise.

    Raises:
        ValueError, TypeError: another shape, values that are not finite, fewer than 4 steps, or a trace too short to
            say anything, below `20 tau` values in all.

    Source: Sokal, in Functional Integration (1997), equations 3.15 to 3.19; Madras and Sokal, J. Stat. Phys. 50, 109
        (1988), for window and error.
    """
    values = _arrays.own("trace", trace, "fiu")
    if values.dim() not in (1, 2) or len(values) < 4 or values.numel() == 0:
        raise ValueError(f"trace: got shape {tuple(values.shape)}, expected [steps] or [steps, chains], steps >= 4")
    if not bool(values.isfinite().all()):
        raise ValueError("trace: got values that are not finite, expected finite ones")
    limit = _arguments.number("c", c)
    if not 1 <= limit < math.inf:
        raise ValueError(f"c: got {c}, expected a number of at least 1")
    values = values.reshape(len(values), -1)
    values = values / values.abs().max().clamp_min(1e-300)
    low, high = values.aminmax()
    if bool(low == high):
        return Autocorrelation(math.inf, math.inf, 0)
    values = (values - low) / (high - low)  # of no scale, so that no square is 0 or infinite
    values = values - values.mean()
    steps, total = len(values), values.numel()
    size = 1 << (2 * steps - 1).bit_length()
    power = torch.fft.rfft(values, n=size, dim=0).abs().square()
    lags = torch.arange(steps, 0, -1, dtype=torch.float64)
    covariance = torch.fft.irfft(power, n=size, dim=0)[:steps].mean(1) / lags
    time = (covariance / covariance[0]).cumsum(0) - 0.5
    enough = torch.arange(steps) >= limit * time
    window = int(enough.to(torch.uint8).argmax()) if bool(enough.any()) else steps - 1
    tau = max(float(time[window]), 1e-12)
    if total < 20 * tau:
        raise ValueError(f"trace: got {total} values, expected more: tau is about {tau:.3g} or larger")
    return Autocorrelation(tau, tau * math.sqrt(2 * (2 * window + 1) / total), window)
