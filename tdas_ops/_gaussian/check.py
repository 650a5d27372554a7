"""Whether a filter suits a run, as far as that can be said without data: at noise levels far above them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tdas_ops._gaussian.recursion import Filter, Gains, Law, advance_all, by_iteration, furthest_drift, marginal
from tdas_ops._gaussian.runs import PC, Update
from tdas_ops._gaussian.target import Field
from tdas_ops.sde import SDE

_NODES = 16
_MARGIN = 1.1
_MORE = 100.0
_TINY = 1e-12
_OFTEN = 1 << 12


def unsuited(filters: Sequence[Filter], sde: SDE, iterations: int, snr: float, **settings: Any) -> str | None:
    """What is wrong with filters for a run of `samplers.pc` with these settings, and which one would not be; or None.

    The law of the data has no variance here, so that the score is `-x / std^2`; levels below the scale of data,
    `std < mean_scale`, are left out. Two things are looked for: a predictor that goes beyond the denoised image, of
    which a trained network knows nothing, and a variance that leaves the ladder a hundred times further than plain
    sampling.
    """
    if all(M.freq is None and M.space is None and M.skew is None for M in filters):
        return None
    if any(M.freq is not None and M.freq.dim() == 4 for M in filters):
        return None  # matrices, whose channels the model would have to mix
    run = PC(sde, iterations, max(snr, _TINY), **settings)
    strongest = max(filters, key=_largest)
    drift = _largest(strongest)
    reach = drift * _pull(run)
    if strongest.method == "pds" and drift > 1 and reach > _MARGIN:
        return (
            f"M: got a 'pds' filter that takes a predictor step {reach:.2f} times the way to the denoised image, where "
            f"networks fail; expected R A up to {math.sqrt(1 / _pull(run)):.3f} at {run.iterations} iterations "
            f"(alpha from {_alpha(strongest, run):.3g}), {_enough(drift, run)}or method='tdas'"
        )
    if max(drift, _values(strongest)[-1]) <= 1:
        return None
    plain, found = _growth([1.0], "tdas", run), _growth(_values(strongest), str(strongest.method), run)
    if found > _MORE * plain:
        return (
            f"M: got a {strongest.method!r} filter with which the run diverges in the Gaussian model (variance "
            f"{found:.3g} times that of the noise level, {plain:.3g} without it); expected one nearer to 1, a smaller "
            "snr or more iterations"
        )
    return None


def _values(M: Filter) -> list[float]:
    """R A of the filter at a few places that stand for all, from the least to the largest."""
    at = np.linspace(0, 1, _NODES)
    parts = [np.quantile(np.abs(m.numpy()), at) if m is not None else np.ones(_NODES) for m in (M.freq, M.space)]
    return list(parts[0] * parts[1])


def _largest(M: Filter) -> float:
    """The largest |D|."""
    if M.method != "pds":
        return 1.0
    skew = 0.0 if M.skew is None else float(M.skew.abs().max())
    return math.hypot(_values(M)[-1] ** 2, skew)


def _field(filters: int, pixels: int) -> Field:
    return Field(np.full(filters, _TINY), np.full(filters, pixels / filters), np.zeros(filters))


def _pull(run: PC) -> float:
    """The share of the way to the denoised image that the longest predictor step goes, without a filter."""
    return float(1 / furthest_drift(_field(1, 1), [u for u in run.updates if _far_above(u)])[0])


def _far_above(update: Update) -> bool:
    return update.iteration == 0 or update.std >= update.mean_scale


def _growth(values: Sequence[float], method: str, run: PC) -> float:
    """The largest variance over that of the noise level that the network is fed."""
    gains, field = Gains.of_mask(np.asarray(values), method), _field(len(values), 4096)
    law, most = Law.start(gains, run.start_scale), 0.0
    for updates in by_iteration(run):
        if not _far_above(updates[0]):
            break
        with np.errstate(over="ignore", invalid="ignore"):
            most = max(most, float(np.nan_to_num(law.variance / marginal(field, updates[0]), nan=np.inf).max()))
        _, law, _ = advance_all(field, law, gains, updates)
    return most


def _alpha(M: Filter, run: PC) -> float:
    """The strength of the papers' masks that goes no further: each of them is at most alpha / (alpha - 1)."""
    masks = max(1, (M.freq is not None) + (M.space is not None))
    bound = (1 / _pull(run)) ** (0.5 / masks)
    return bound / (bound - 1) if bound > 1 else math.inf


def _enough(drift: float, run: PC) -> str:
    """The fewest iterations, by powers of two, with which the filter goes no further; nothing where there are none."""
    count = run.iterations
    while count < _OFTEN:
        count *= 2
        if drift * _pull(replace(run, iterations=count)) <= 1:
            return f"{count} iterations, "
    return ""
