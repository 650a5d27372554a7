"""The steps of a ladder of noise levels, on the state `y = x / mean_scale = x0 + sigma z` of every SDE.

There `x0 = y + gain score` with `gain = sigma^2 mean_scale`, and every step is `y + d D v + n M z`, v made of x0 - y:
one fused update, without the linear part that the drift of x has. It costs one pass that multiplies by the mean scale
what the network reads, none for VE; in x itself v would cost a pass, of three tensors instead of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from tdas_ops import _arguments
from tdas_ops.noise import Stream
from tdas_ops.samplers._run import Filters, NoiseSampler, Options, Run, ScoreFn, check_sde
from tdas_ops.sde import Ladder, Marginal, NoiseLevels

if TYPE_CHECKING:
    from typing_extensions import Unpack

Levels = Ladder | Sequence[float] | Callable[[int], Sequence[float]]
"""A kind of ladder; or noise levels that fall, taken as they are, so that the last one is where the run ends; or a
function that makes so many levels above 0. A kind and a function are followed by 0."""


class Step(NamedTuple):
    """A step from sigma to sigma_next: numbers in the list of a run, tensors without dimensions in an iteration.

    Attributes:
        condition: what the score function is told.
        mean_scale: what it receives is mean_scale times the state.
        gain: `x0 = x + gain score`.
    """

    condition: Any
    mean_scale: Any
    gain: Any
    sigma: Any
    sigma_next: Any


def step_of(row: Tensor) -> tuple[Step, tuple[Tensor, ...]]:
    """A row of coefficients: the step and what the sampler has put behind it, as views."""
    values = row.unbind()
    return Step(*values[:5]), values[5:]


def step_from(sde: NoiseLevels, sigma: float, sigma_next: float) -> Step:
    level = sde.marginal(sigma)
    return Step(level.condition, level.mean_scale, sigma**2 * level.mean_scale, sigma, sigma_next)


def steps_of(sde: NoiseLevels, sigmas: Sequence[float]) -> list[Step]:
    return [step_from(sde, *pair) for pair in pairwise(sigmas)]


def run_of(
    score_fn: ScoreFn,
    shape: Sequence[int],
    M: Filters | None,
    noise: Stream,
    steps: Sequence[Step],
    coefficients: Sequence[Sequence[float]],
    *,
    history: int = 0,
    arrivals: Sequence[float] | None = None,
    noise_sampler: NoiseSampler | None = None,
    **options: Unpack[Options],
) -> Run:
    """The run over these steps, each with coefficients of its own, which reach sigma_next unless told otherwise."""
    levels = [arrival(sigma) for sigma in arrivals or [step.sigma_next for step in steps]]
    rows = [(*step, *own) for step, own in zip(steps, coefficients, strict=True)]
    scaled = any(step.mean_scale != 1.0 for step in steps)
    own: dict[str, Any] = {"scaled": scaled, "history": history, "noise_sampler": noise_sampler}
    between = [(step.sigma, step.sigma_next) for step in steps]
    return Run(score_fn, shape, M, noise, levels, rows, steps[0].sigma, between=between, **own, **options)


def arrival(sigma: Any) -> Marginal:
    """What a hook is told of the state `x0 + sigma z`, sigma 0 included."""
    return Marginal(sigma, 1.0, sigma)


def noise_levels(sde: NoiseLevels, evaluations: int | None, ladder: Levels, each: int = 1) -> list[float]:
    """The levels of a run, the last one included.

    Args:
        sde, evaluations, ladder: as the sampler has them.
        each: evaluations of a step; the last one, where it goes to 0, takes one.

    Raises:
        ValueError, TypeError: they do not fit one another.
    """
    check_sde(sde, NoiseLevels, "VE, VP, SubVP, Discrete")
    if evaluations is not None:
        evaluations = _arguments.whole("evaluations", evaluations, 1)
    sigmas = _made(sde, evaluations, ladder, each)
    if len(sigmas) < 2:
        raise ValueError(f"ladder: got {len(sigmas)} noise levels, expected at least two, between which a step goes")
    if not all(math.isfinite(sigma) for sigma in sigmas):
        raise ValueError("ladder: got noise levels that are not finite, expected finite ones")
    for before, after in pairwise(sigmas):
        if not before > after:
            raise ValueError(f"ladder: got {after:g} after {before:g}, expected noise levels that fall")
    lowest = sigmas[-1] if sigmas[-1] != 0 else sigmas[-2]
    if sigmas[0] > sde.sigma_max * (1 + 1e-6) or lowest < sde.sigma_min * (1 - 1e-6):
        expected = f"levels from {sde.sigma_max:g} to {sde.sigma_min:g} as the SDE has them, and 0 at most after them"
        raise ValueError(f"ladder: got noise levels from {sigmas[0]:g} to {lowest:g}, expected {expected}")
    steps = len(sigmas) - 1
    used = each * steps - (each - 1) * (sigmas[-1] == 0)
    if evaluations is not None and used != evaluations:
        raise ValueError(f"evaluations: got {evaluations} beside a ladder of {steps} steps, expected {used} or None")
    return sigmas


def _made(sde: NoiseLevels, evaluations: int | None, ladder: Levels, each: int) -> list[float]:
    if not isinstance(ladder, str) and not callable(ladder):
        return _floats(ladder)
    if evaluations is None:
        raise ValueError("evaluations: got None, expected a positive integer, or a ladder that says how many")
    if (evaluations - 1) % each:
        raise ValueError(f"evaluations: got {evaluations}, expected an odd number: two a step, one for the last to 0")
    count = 1 + (evaluations - 1) // each
    levels = sde.ladder(count, ladder) if isinstance(ladder, str) else ladder(count)  # type: ignore[arg-type]
    return [*_floats(levels), 0.0]


def _floats(levels: Any) -> list[float]:
    try:
        return [float(sigma) for sigma in (levels.tolist() if isinstance(levels, Tensor) else levels)]
    except (TypeError, ValueError):
        expected = "the name of a kind, a sequence of numbers or a function that makes one"
        raise TypeError(f"ladder: got {type(levels).__name__}, expected {expected}") from None


def between(name: str, value: Any, low: float, high: float) -> float:
    """A number of any library from `low` to `high`, both included."""
    expected = f"a number from {low:g} to {high:g}"
    found = _arguments.number(name, value, expected)
    if not low <= found <= high:
        raise ValueError(f"{name}: got {_arguments.shown(value)}, expected {expected}")
    return found
