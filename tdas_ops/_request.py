"""The runs that a command line asks for, and those of the demo."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from tdas_ops import models
from tdas_ops._record import ITERATIONS, SAMPLES, WITH_ETA, WITH_ORDER, LadderRun, PCRun, Run
from tdas_ops.calibrate.few_step import SAMPLERS

_EVALUATIONS = 8
_DEMO, _FEW = (24, 8, 5), 20
_TAKEN_BY: dict[str, Collection[str]] = {
    **dict.fromkeys(("method", "iterations", "speedup", "snr", "norm", "alpha", "filter"), ("pc",)),
    **dict.fromkeys(("ladder", "start", "sigma"), SAMPLERS),
    "order": WITH_ORDER,
    "eta": WITH_ETA,
}
"""The samplers that an option is of, where it is not of all."""


@dataclass(frozen=True)
class Request:
    """The options of `tdas-ops sample` that say what is run; empty and None for what was not given."""

    samplers: Sequence[str] = ("pc",)
    evaluations: Sequence[int] = ()
    order: int | None = None
    eta: float | None = None
    ladder: str = "karras"
    start: str = "none"
    sigma: float | None = None
    methods: Sequence[str] = ("plain",)
    iterations: Sequence[int] = ()
    speedups: Sequence[float] = ()


def runs(asked: Request, model: str, given: Collection[str] = ()) -> list[Run]:
    """The runs of a request, every default of theirs filled in.

    Args:
        asked: the options.
        model: name of the embedded model.
        given: names of the options that were given: those that no sampler of the request has are refused.

    Raises:
        ValueError: one sentence about what does not fit.
    """
    for name in asked.samplers:
        if name not in ("pc", *SAMPLERS):
            raise ValueError(f"--sampler: got {name!r}, expected one of {', '.join(('pc', *SAMPLERS))}")
    for name, takers in _TAKEN_BY.items():
        if name in given and not set(takers) & set(asked.samplers):
            expected = " or ".join(takers)
            raise ValueError(f"--{name}: got it with --sampler {', '.join(asked.samplers)}, expected {expected}")
    if "alpha" in given and not {"tdas", "pds"} & set(asked.methods):
        raise ValueError(f"--alpha: got it with --method {', '.join(asked.methods)}, expected tdas or pds")
    loaded, made = models.load(model), list[Run]()
    for sampler in dict.fromkeys(asked.samplers):
        if sampler == "pc":
            methods = [models.method_named(name) for name in asked.methods]
            made += [PCRun(method, count) for count in _iterations(asked, loaded) for method in methods]
        else:
            counts = asked.evaluations or [_EVALUATIONS + (sampler == "heun")]
            made += [_ladder_run(asked, loaded, sampler, count) for count in counts]
    return made


def _ladder_run(asked: Request, model: models.Model, sampler: str, evaluations: int) -> LadderRun:
    own: dict[str, Any] = {}
    if sampler in WITH_ORDER:
        own["order"] = min(2, evaluations) if asked.order is None else asked.order
    if sampler in WITH_ETA:
        own["eta"] = float(sampler == "ancestral") if asked.eta is None else asked.eta
    run = model.few_step(evaluations, sampler, ladder=asked.ladder, start=asked.start, sigma=asked.sigma, **own)  # type: ignore[arg-type]
    return LadderRun(sampler, evaluations, ladder=asked.ladder, start=asked.start, sigma=run.sigma, **own)  # type: ignore[arg-type]


def _iterations(asked: Request, model: models.Model) -> list[int]:
    """Iteration counts of pc: --iterations and --speedup, or half of --evaluations, or the native one."""
    native = model.sde.native_iterations
    counted = [*asked.iterations]
    for speedup in asked.speedups:
        if not native / ITERATIONS <= speedup <= native:
            expected = f"a number from {native / ITERATIONS:g} to {native} (native)"
            raise ValueError(f"--speedup: got {speedup:g}, expected {expected}")
        counted.append(max(1, round(native / speedup)))
    if counted and asked.evaluations and set(asked.samplers) == {"pc"}:
        raise ValueError("--evaluations: got --iterations or --speedup beside it, expected one of them for pc alone")
    if counted or not asked.evaluations:
        return counted or [native]
    for count in asked.evaluations:
        if count % 2:
            raise ValueError(f"--evaluations: got {count} for pc, expected an even number: an iteration takes two")
    return [count // 2 for count in asked.evaluations]


def seed_list(text: str) -> tuple[int, ...]:
    """Seeds from "3,5,8" or "0-15", mixed at will."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise ValueError(f"--seeds: got {text!r}, expected seeds such as 3,5,8 or 0-15")
        if len(seeds) + last - first >= SAMPLES:
            raise ValueError(f"--seeds: got {text!r}, expected at most {SAMPLES} of them")
        seeds += range(first, last + 1)
    return tuple(seeds)


def pictured(runs: Sequence[Run]) -> list[Run]:
    """Of the demo's runs those that one picture needs: the longest of `pc`, and at the fewest evaluations that both
    samplers take `pc` plain and with the published filter, and DPM-Solver++ from noise of the data's spectrum. None
    where they have no count in common: then all are worth a row."""
    by_pc = {run.network_evaluations for run in runs if isinstance(run, PCRun)}
    few = min(by_pc & {run.network_evaluations for run in runs if isinstance(run, LadderRun)}, default=0)

    def told(run: Run) -> bool:
        if isinstance(run, LadderRun):
            return run.evaluations == few and run.start == "gaussian"
        longest = run.method == "plain" and run.network_evaluations == max(by_pc)
        return longest or (run.network_evaluations == few and run.method in ("plain", "tdas"))

    return [run for run in runs if told(run)] if few else []


def demonstrated(model: str, evaluations: Sequence[int] | None = None) -> list[Run]:
    """What the demo shows at each number of evaluations, by default the native one and a few.

    Natively `pc` without a filter; below that also with the filters that suit few iterations, where the number is even,
    and up to 20 evaluations DPM-Solver++(2M) from white noise, from the mean image and white noise (the null hypothesis
    of a start), and from the mean image and noise of the data's spectrum.
    """
    native = PCRun("plain", models.load(model).sde.native_iterations)
    made = list[Run]()
    for count in evaluations or (native.network_evaluations, *_DEMO):
        if count == native.network_evaluations:
            made.append(native)
            continue
        if count % 2 == 0:
            made += runs(Request(evaluations=[count], methods=("plain", "tdas", "schedule")), model)
        for start in models.STARTS if count <= _FEW else ():
            made += runs(Request(samplers=("dpmpp",), evaluations=[count], start=start), model)
    return made
