"""The solvers: masks for which the recursion ends, or stays, where it should."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tdas_ops._gaussian.recursion import (
    Gains,
    Law,
    advance_all,
    by_iteration,
    distance,
    furthest_drift,
    marginal,
    off_ladder,
    trace,
)
from tdas_ops._gaussian.runs import Run, Update
from tdas_ops._gaussian.target import Array, Field, Target

Bounds = tuple[Array, Array]
Method = Literal["pds", "tdas"]

_GRID = 49
_REFINEMENTS = 36
_ROUNDS = 60
_SLACK = 0.01
_CONVERGED = 1e-7
_BOUNDS: dict[str, tuple[float, float]] = {"pds": (0.8, 1.6), "tdas": (0.01, 1.6)}


def _solved(variance: Callable[[Array], Array], wanted: Array, method: Method, bounds: tuple[Array, Array]) -> Array:
    """R `[K]` within bounds for which `variance(R)` is the wanted one, or as near to it as can be.

    "tdas" filters nothing but noise: there the variance is affine in R^2. For "pds" it falls and then rises with R; of
    several roots the one nearest to 1 is taken, and among errors that differ by less than 1 % the R nearest to 1.
    """
    low, high = bounds
    if method == "tdas":
        none, one = variance(np.zeros_like(wanted)), variance(np.ones_like(wanted))
        missing = wanted - none  # R is 1 where noise does not reach the result, as in a last step without a corrector
        R2 = np.divide(missing, one - none, out=np.ones_like(wanted), where=one > none)
        return np.asarray(np.sqrt(R2.clip(low**2, high**2)))

    def error(log_R: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.nan_to_num(np.log(variance(np.exp(log_R)) / wanted), nan=np.inf)

    def cost(log_R: Array) -> Array:
        return np.asarray(np.abs(error(log_R)) + _SLACK * np.abs(log_R))

    grid = np.log(low) + np.linspace(0, 1, _GRID)[:, None] * np.log(high / low)
    values = error(grid)
    crossing = np.sign(values[:-1]) != np.sign(values[1:])
    root = np.where(crossing, np.abs(grid[:-1] + grid[1:]), np.inf).argmin(0)
    least = (np.abs(values) + _SLACK * np.abs(grid)).argmin(0)
    found, columns = crossing.any(0), np.arange(grid.shape[1])
    left = grid[np.where(found, root, least - 1).clip(0), columns]
    right = grid[np.where(found, root + 1, least + 1).clip(max=_GRID - 1), columns]
    return np.exp(_golden_section(cost, left, right))


def _golden_section(cost: Callable[[Array], Array], left: Array, right: Array) -> Array:
    """The minimum of a function with one minimum between left and right, element by element."""
    golden = (math.sqrt(5) - 1) / 2
    a, b = right - golden * (right - left), left + golden * (right - left)
    cost_a, cost_b = cost(a), cost(b)
    for _ in range(_REFINEMENTS):
        lower = cost_a < cost_b
        left, right = np.where(lower, left, a), np.where(lower, b, right)
        new = np.where(lower, right - golden * (right - left), left + golden * (right - left))
        cost_new = cost(new)
        a, b = np.where(lower, new, b), np.where(lower, a, new)
        cost_a, cost_b = np.where(lower, cost_new, cost_b), np.where(lower, cost_a, cost_new)
    return np.asarray(0.5 * (left + right))


def _bounds(field: Field, updates: Sequence[Update], method: Method, bounds: tuple[float, float]) -> Bounds:
    """Bounds of R at every frequency; for "pds" `furthest_drift` is another one."""
    low, high = (np.full_like(field.variance, bound) for bound in bounds)
    if method == "pds":
        high = np.minimum(high, np.sqrt(furthest_drift(field, updates)))
    return low, np.maximum(low, high)


@dataclass(frozen=True)
class _Part:
    """Some updates of a run, from a law or (None) from the start point, as a function of the mask R."""

    field: Field
    run: Run
    method: Method
    updates: Sequence[Update]
    begin: Law | None
    last: bool

    def laws(self, R: Array, etas: Sequence[float] | None = None) -> tuple[Law, Law, list[float]]:
        """The laws before and after, and the step sizes of the snr rule."""
        gains = Gains.of_mask(R, self.method)
        before = Law.start(gains, self.run.start_scale) if self.begin is None else self.begin
        clean, law, used = advance_all(self.field, before, gains, self.updates, etas)
        return before, clean if self.last and self.run.denoise else law, used

    def solve(
        self, wanted: Array, bounds: tuple[float, float], start_wanted: Array | None = None
    ) -> tuple[Array, bool]:
        """R for which the variance after is the wanted one, and whether step sizes and R came to agree.

        The step sizes of the snr rule depend on R at all frequencies: R for given step sizes and step sizes for given R
        follow each other until nothing changes; of all on the way, R = 1 included, the R of the least Frechet distance
        is returned. With `start_wanted`, R makes the geometric mean of the variances before and after that of the two
        wanted ones.
        """
        limits = _bounds(self.field, self.updates, self.method, bounds)
        wanted = wanted if start_wanted is None else np.sqrt(start_wanted * wanted)

        def law(R: Array, etas: Sequence[float] | None = None) -> tuple[Law, list[float]]:
            before, after, used = self.laws(R, etas)
            both = after.variance if start_wanted is None else np.sqrt(before.variance * after.variance)
            return Law(both, after.mean), used

        R = best = np.ones_like(wanted).clip(*limits)
        least, etas = math.inf, [0.0]
        for _ in range(_ROUNDS):
            reached, used = law(R)
            error = distance(self.field, reached, wanted, mean=1.0 if self.last else None)
            if error < least:
                least, best = error, R
            if len(etas) == len(used) and all(
                np.allclose(a, b, _CONVERGED, 0) for a, b in zip(etas, used, strict=True)
            ):
                return best, True
            etas = used
            R = _solved(lambda R, etas=etas: law(R, etas)[0].variance, wanted, self.method, limits)  # type: ignore[misc]
        return best, False


def calibrated_mask(
    target: Target, run: Run, method: Method, bounds: tuple[float, float] | None
) -> tuple[Tensor, dict[str, Any]]:
    """R, half spectrum, for which a run ends at the variance of the target; and plain values about it."""
    bounds = _checked_bounds(method, bounds)
    nodes = target.field.condensed()
    R, settled = _Part(nodes, run, method, run.updates, None, last=True).solve(nodes.variance, bounds)
    reached = distance(nodes, trace(nodes, [Gains.of_mask(R, method)], run).law)
    about = {"iterations": run.count, "bounds": list(bounds), "distance": reached, "settled": settled}
    return _half_spectrum(nodes.interpolated(R), target), about


def scheduled_masks(
    target: Target, run: Run, method: Method, bounds: tuple[float, float] | None
) -> tuple[Tensor, list[dict[str, Any]]]:
    """R of every iteration, `[iterations, C, H, W // 2 + 1]`, that brings the variance to that of the next level.

    The last iteration aims at the target itself. The first filter also makes the start point: it leaves the start and
    the second level off by one factor, in opposite directions.
    """
    bounds = _checked_bounds(method, bounds)
    nodes = target.field.condensed()
    parts = by_iteration(run)
    ladder = [marginal(nodes, updates[0]) for updates in parts] + [nodes.variance]
    masks, about, law = [], [], None
    for i, updates in enumerate(parts):
        part = _Part(nodes, run, method, updates, law, last=i + 1 == run.count)
        R, settled = part.solve(ladder[i + 1], bounds, ladder[0] if i == 0 else None)
        _, law, _ = part.laws(R)
        masks.append(R)
        facts = {"iteration": i, "iterations": run.count, "bounds": list(bounds), "settled": settled}
        about.append({**facts, "off_ladder": off_ladder(nodes, law, ladder[i + 1])})
    return _half_spectrum(nodes.interpolated(np.stack(masks)), target), about


def _checked_bounds(method: Method, bounds: tuple[float, float] | None) -> tuple[float, float]:
    if method not in _BOUNDS:
        raise ValueError(f"method: got {method!r}, expected 'pds' or 'tdas'")
    if bounds is None:
        return _BOUNDS[method]
    if len(bounds) != 2 or not 0 < bounds[0] <= 1 <= bounds[1] < math.inf:
        raise ValueError(f"bounds: got {tuple(bounds)}, expected (low, high) with 0 < low <= 1 <= high")
    return float(bounds[0]), float(bounds[1])


def _half_spectrum(values: Array, target: Target) -> Tensor:
    return torch.from_numpy(values).reshape(*values.shape[:-1], *target.variance.shape)
