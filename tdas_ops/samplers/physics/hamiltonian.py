"""Langevin steps without (ULA) and with accept/reject (MALA), and Hamiltonian Monte Carlo, one leapfrog for all.

In place of the momentum p stands the velocity `v = M M^T p`, noise `M z` at the start of a trajectory. A kick
`v' = v - c M M^T g` changes the kinetic energy `v^T (M M^T)^-1 v / 2` by `-c g (v + v') / 2`, so that it is summed on
the way and no M is ever inverted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tdas_ops import _arguments, ops
from tdas_ops._brownian import planes
from tdas_ops.fields import GaussianField
from tdas_ops.noise import NoiseStream, Stream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.samplers.physics.chain import (
    Chain,
    Energy,
    Mass,
    Observable,
    Options,
    Point,
    Target,
    checked_state,
    coloured,
    dot,
    inverse_mass,
    positive,
    run,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


def hmc(
    energy: Energy,
    start: Tensor,
    steps: int,
    step_size: float,
    *,
    leapfrog: int = 10,
    jitter: float = 0.2,
    M: Mass | None = None,
    noise: Stream,
    grad: Observable | None = None,
    **options: Unpack[Options],
) -> Chain:
    """Hamiltonian Monte Carlo with the kinetic energy `p^T M M^T p / 2`; two draws a step.

    A step draws p and takes `leapfrog` steps of `p -= (e / 2) grad U; x += e M M^T p; p -= (e / 2) grad U`; it is
    accepted with probability `min(1, exp(-dH))`. For `M M^T` the covariance of a Gaussian law all modes turn at
    frequency 1, the leapfrog is stable up to `step_size = 2`, and a trajectory of `leapfrog * step_size = pi / 2`
    forgets where it began.

    Args:
        energy: U, `x -> [chains]`, floats; summed in float64 it costs no decision.
        start: `[chains, ...]`, float32, or float64 on the CPU; not changed.
        steps: trajectories, each with its decision.
        step_size: e, of the leapfrog.
        leapfrog: leapfrog steps, and gradients, of a trajectory.
        jitter: share, at most, that the step of a trajectory is longer or shorter, in an even sequence that depends on
            the number of the trajectory alone. With 0 a mode that makes half turns keeps its amplitude for ever.
        M: `M M^T` is the inverse mass (`mass_of_spectrum`, `mass_of_samples`); by default 1.
        noise: stream of the run, or its seed; one for each chain as `NoiseStream(seeds=...)`.
        grad: gradient of U, `x -> like x`; by default that of autograd.
        options: see `physics.Options`.

    Returns: the `Chain`.

    Raises:
        ValueError, TypeError: bad arguments; an energy or a gradient of another shape.

    Warns:
        RejectionWarning: chains that accepted nothing in 20 steps or more, with a step size that would be accepted.

    Source: Duane et al., Phys. Lett. B 195, 216 (1987); Neal, arXiv 1206.1901, section 4.1 for the mass; Mackenzie,
        Phys. Lett. B 226, 369 (1989), for the jitter.
    """
    leapfrog = _arguments.whole("leapfrog", leapfrog, 1)
    if not 0 <= _arguments.number("jitter", jitter) < 1:
        raise ValueError(f"jitter: got {jitter}, expected a number from 0 to below 1")
    return _trajectories("hmc", energy, start, steps, step_size, leapfrog, M, noise, grad, options, float(jitter))


def mala(
    energy: Energy,
    start: Tensor,
    steps: int,
    step_size: float,
    *,
    M: Mass | None = None,
    noise: Stream,
    grad: Observable | None = None,
    **options: Unpack[Options],
) -> Chain:
    """The Metropolis-adjusted Langevin algorithm: `x - h M M^T grad U + sqrt(2 h) M z`, accepted or not; two draws.

    The same as `hmc` with one leapfrog step of `sqrt(2 h)`. All else as there, and h is `step_size` as in `ula`.

    Source: Roberts and Tweedie, Bernoulli 2, 341 (1996); as one leapfrog step: Neal, arXiv 1206.1901, section 5.2.
    """
    return _trajectories("mala", energy, start, steps, step_size, None, M, noise, grad, options)


def ula(
    energy: Energy,
    start: Tensor,
    steps: int,
    step_size: float,
    *,
    M: Mass | None = None,
    noise: Stream,
    grad: Observable | None = None,
    **options: Unpack[Options],
) -> Chain:
    """Langevin steps `x - h M M^T grad U + sqrt(2 h) M z` without a decision: a bias of first order in h; one draw.

    Of a Gaussian law of covariance C with `M M^T = C` the variance is `1 / (1 - h / 2)` times too large. With `grad`
    the energy is never asked. All else as in `hmc`; `Chain.accepted` counts every step.

    Source: Parisi, Nucl. Phys. B 180, 378 (1981); Batrouni et al., Phys. Rev. D 32, 2736 (1985), for the acceleration.
    """
    checked_state(start, M)
    target, shape = Target(energy, grad), planes(tuple(start.shape))
    filter_ = Preconditioner.identity(shape[1:]).to(start.device) if M is None else M

    def propose(point: Point, size: float, z: NoiseStream) -> tuple[Point, Tensor]:
        drift = target.grad(point.x).neg()
        if isinstance(filter_, GaussianField):
            x = coloured(z, point.x, filter_).mul_(math.sqrt(2 * size)).add_(point.x)
            x = x.add_(filter_.covariance(drift), alpha=size)
        else:
            x = ops.step(point.x.reshape(shape), drift.reshape(shape), filter_, size, noise=z).reshape(point.x.shape)
        return Point(x, point.energy), point.energy

    nothing = lambda x: Point(x, torch.zeros(len(x), dtype=torch.float64, device=x.device))  # noqa: E731
    return run("ula", start, steps, positive("step_size", step_size), noise, nothing, propose, (), True, **options)


def _trajectories(
    name: str,
    energy: Energy,
    start: Tensor,
    steps: int,
    step_size: float,
    length: int | None,
    M: Mass | None,
    noise: Stream,
    grad: Observable | None,
    options: Options,
    jitter: float = 0.0,
) -> Chain:
    checked_state(start, M)
    target = Target(energy, grad)

    def propose(point: Point, size: float, z: NoiseStream) -> tuple[Point, Tensor]:
        v = coloured(z, point.x, M)
        step = math.sqrt(2 * size) if length is None else size
        end, _, change = trajectory(target, point, v, step, length or 1, M)
        return end, change

    size = positive("step_size", step_size)
    return run(name, start, steps, size, noise, target.at, propose, (length,), jitter=jitter, **options)


def trajectory(
    target: Target, point: Point, v: Tensor, step: float, length: int, M: Mass | None
) -> tuple[Point, Tensor, Tensor]:
    """`length` leapfrog steps: where they end, the velocity there, the change of H, `[chains]` float64."""
    kinetic = torch.zeros_like(point.energy)
    x, end = point.x, point
    for i in range(length + 1):
        grad, share = end.grad, step if 0 < i < length else step / 2
        assert grad is not None
        kicked = torch.add(v, inverse_mass(grad, M), alpha=-share)
        kinetic -= 0.5 * share * dot(grad, v + kicked)
        v = kicked
        if i < length:
            x = torch.add(x, v, alpha=step)
            inner = i + 1 < length and target.grad_fn is not None
            end = Point(x, point.energy, target.grad(x)) if inner else target.at(x)
    return end, v, end.energy - point.energy + kinetic
