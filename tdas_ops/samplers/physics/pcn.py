"""The preconditioned Crank-Nicolson proposal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tdas_ops.noise import NoiseStream, Stream
from tdas_ops.samplers.physics.chain import (
    Chain,
    Energy,
    Mass,
    Options,
    Point,
    Target,
    checked_state,
    coloured,
    positive,
    run,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


def pcn(
    potential: Energy,
    start: Tensor,
    steps: int,
    step_size: float,
    *,
    M: Mass | None = None,
    mean: Tensor | None = None,
    noise: Stream,
    **options: Unpack[Options],
) -> Chain:
    """Preconditioned Crank-Nicolson: `x' = m + sqrt(1 - b^2) (x - m) + b M z`, taken with `min(1, exp(P(x) - P(x')))`.

    For a density `exp(-P(x))` beside the Gaussian prior of mean m and covariance `M M^T`, which the proposal keeps: the
    acceptance does not fall with the number of points, and is 1 where P is constant. No gradient; two draws a step.

    Args:
        potential: P, `x -> [chains]`: minus the log likelihood, without the prior.
        start: `[chains, ...]`, float32, or float64 on the CPU; not changed. Draws of the prior are good ones.
        steps: proposals.
        step_size: b, above 0 and at most 1.
        M: `M M^T` is the prior covariance (`mass_of_spectrum`); by default 1.
        mean: m, of the shape of one chain, in the dtype and on the device of start; by default 0.
        noise, options: as in `hmc`.

    Returns: the `Chain`.

    Raises:
        ValueError, TypeError: bad arguments; a potential of another shape.

    Warns:
        RejectionWarning: as in `hmc`.

    Source: Cotter, Roberts, Stuart and White, Statist. Sci. 28, 424 (2013), arXiv 1202.0709, equation 4.8.
    """
    checked_state(start, M)
    size = positive("step_size", step_size)
    if size > 1:
        raise ValueError(f"step_size: got {step_size}, expected a number above 0 and at most 1")
    like = isinstance(mean, Tensor) and mean.shape == start.shape[1:] and mean.dtype is start.dtype
    if mean is not None and not (like and mean.device == start.device):
        got = f"{tuple(mean.shape)} {mean.dtype} on {mean.device}" if isinstance(mean, Tensor) else type(mean).__name__
        raise ValueError(f"mean: got {got}, expected {tuple(start.shape[1:])} {start.dtype} on {start.device}")
    target = Target(potential, name="potential")

    def propose(point: Point, size: float, z: NoiseStream) -> tuple[Point, Tensor]:
        centred = point.x if mean is None else point.x - mean
        x = torch.add(coloured(z, point.x, M).mul_(size), centred, alpha=math.sqrt((1 - size) * (1 + size)))
        if mean is not None:
            x += mean
        end = Point(x, target.energy(x))
        return end, end.energy - point.energy

    begin = lambda x: Point(x, target.energy(x))  # noqa: E731
    return run("pcn", start, steps, size, noise, begin, propose, (), **options)
