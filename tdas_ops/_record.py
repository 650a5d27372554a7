"""`run.json`: its settings, their bounds, and the check that everything in it is what this program writes."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch

from tdas_ops import models
from tdas_ops._files import read_bounded, shown
from tdas_ops.calibrate.few_step import SAMPLERS, Sampler
from tdas_ops.sde import Ladder

FORMAT = "tdas_ops runs/1"
ITERATIONS, SAMPLES, BATCH, THREADS = 100_000, 1_000_000, 4096, 1024
"""Bounds of the settings: beyond them memory or the thread library gives way before a first sample is there."""
SCHEDULED = 10_000
"""Bound of the iterations of method "schedule", which makes a filter for each of them."""

_LARGEST = 1 << 30  # bytes
WITH_ORDER: tuple[Sampler, ...] = ("dpmpp",)
WITH_ETA: tuple[Sampler, ...] = ("dpmpp", "ancestral")
"""Samplers that have these settings."""


class PCRun(NamedTuple):
    """A run of `samplers.pc`."""

    method: models.Method
    iterations: int

    @property
    def network_evaluations(self) -> int:
        """Calls of the network for a batch: the corrector's and the predictor's."""
        return 2 * self.iterations

    @property
    def words(self) -> str:
        """What a line of text calls it."""
        return f"pc {self.method}, {self.iterations} iteration{'s' if self.iterations > 1 else ''}"

    @property
    def folder(self) -> str:
        """The folder of its pictures."""
        return f"{self.method}_{self.iterations}"

    @property
    def rank(self) -> tuple[Any, ...]:
        """Its place among runs of as many evaluations."""
        return 0, models.METHODS.index(self.method)


class LadderRun(NamedTuple):
    """A run of another sampler on a ladder of noise levels, settings as in `calibrate.FewStep`; order and eta are None
    where the sampler has none of them, sigma is None for the highest level."""

    sampler: Sampler
    evaluations: int
    order: int | None = None
    eta: float | None = None
    ladder: Ladder = "karras"
    start: models.Start = "none"
    sigma: float | None = None

    @property
    def network_evaluations(self) -> int:
        return self.evaluations

    @property
    def words(self) -> str:
        parts = [self.sampler if self.order is None else f"{self.sampler} {self.order}"]
        parts += [] if self.ladder == "karras" else [self.ladder]
        parts += [] if self.eta is None else [f"eta {self.eta:.3g}"]
        begin = "white noise" if self.start == "none" else f"start {self.start}"
        at = [] if self.sigma is None else [f"{begin} at {self.sigma:.3g}"]
        return ", ".join([*parts, *(at or ([] if self.start == "none" else [begin]))])

    @property
    def folder(self) -> str:
        parts = [self.sampler, str(self.evaluations)]
        for name, value in (("order", self.order), ("eta", self.eta)):
            parts += [] if value is None else [f"{name}{_shortest(value)}"]
        parts += [word for word in (self.ladder, self.start) if word not in ("karras", "none")]
        return "_".join([*parts, *([] if self.sigma is None else [f"from{_shortest(self.sigma)}"])])

    @property
    def rank(self) -> tuple[Any, ...]:
        begin = (models.STARTS.index(self.start), self.sigma or 0.0)
        return 1, SAMPLERS.index(self.sampler), begin, self.order or 0, self.eta or 0.0, self.ladder


Run = PCRun | LadderRun


def _shortest(value: float) -> str:
    return repr(value).removesuffix(".0")


def run_of(entry: dict[str, Any]) -> Run:
    """The run that an entry of a record is of; entries of older records are of `pc` and do not say so."""
    kind = PCRun if entry.get("sampler", "pc") == "pc" else LadderRun
    return kind(**{name: entry[name] for name in kind._fields})  # type: ignore[no-any-return]


def entry_of(run: Run) -> dict[str, Any]:
    """What a record says of the settings of a run."""
    return {"sampler": "pc", **run._asdict()}


@dataclass(frozen=True)
class Settings:
    """What all runs of a folder share: `seed` or `seeds` (one a sample), `filter` a file.

    A field that a later version adds must have a default with which older records mean what they meant.
    """

    model: str = "digits"
    samples: int = 16
    batch: int = 64
    seed: int | None = 0
    seeds: tuple[int, ...] | None = None
    snr: float | None = None
    norm: str = "batch"
    alpha: float | None = None
    filter: str | None = None
    filter_sha256: str | None = None
    device: str = "cpu"
    threads: int = 0
    distance: bool = True


def device_named(name: str) -> torch.device:
    """The device of `--device`.

    Raises:
        ValueError: there is no such device here.
    """
    expected = "'cpu', 'cuda' or 'cuda:N'"
    try:
        device = torch.device(name)
        known = device.type in ("cpu", "cuda")
    except RuntimeError:
        known = False
    if not known:
        raise ValueError(f"--device: got {name!r}, expected {expected}")
    local = os.environ.get("LOCAL_RANK", "")
    # Each process of a machine has a GPU of its own.
    if name == "cuda" and local.isdigit() and torch.cuda.is_available():
        device = torch.device("cuda", int(local) % torch.cuda.device_count())
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device: got {name!r}, expected 'cpu' or one of {torch.cuda.device_count()} CUDA devices")
    return device


class _Kind(NamedTuple):
    """What a value of the record must be."""

    holds: Callable[[Any], bool]
    words: str


def _whole(low: int, high: int) -> _Kind:
    return _Kind(lambda v: type(v) is int and low <= v <= high, f"an integer from {low} to {high}")


def _one_of(*values: str) -> _Kind:
    return _Kind(lambda v: v in values if isinstance(v, str) else False, f"one of {', '.join(values)}")


def _optional(kind: _Kind) -> _Kind:
    return _Kind(lambda v: v is None or kind.holds(v), f"null or {kind.words}")


def _all(kind: _Kind) -> _Kind:
    return _Kind(lambda v: isinstance(v, list) and all(map(kind.holds, v)), f"a list, each {kind.words}")


def _table(key: _Kind, value: _Kind) -> _Kind:
    return _Kind(
        lambda v: isinstance(v, dict) and all(key.holds(a) and value.holds(b) for a, b in v.items()),
        f"names, each {value.words}",
    )


_ANY = _Kind(lambda v: True, "anything")
_TEXT = _Kind(lambda v: isinstance(v, str), "text")
_DIGEST = _Kind(lambda v: isinstance(v, str) and len(v) == 64, "a SHA-256 digest")
_FLAG = _Kind(lambda v: isinstance(v, bool), "true or false")
_NUMBER = _Kind(lambda v: type(v) in (int, float) and abs(v) < 1e300, "a finite number")
_SEED = _whole(0, (1 << 64) - 1)
_PARTIAL = _Kind(
    lambda v: isinstance(v, str) and v.startswith(".partial-") and len(v) == 25 and v[9:].isalnum(),
    "a name .partial-...",
)
_OBJECT = _Kind(lambda v: isinstance(v, dict), "an object")

_RECORD = {"settings": _OBJECT, "runs": _all(_OBJECT)}
_LATER = {"files": _table(_TEXT, _DIGEST), "partial": _PARTIAL}
"""Parts that older records lack: without them nothing in the folder may be replaced."""
_SETTINGS = {
    "model": _TEXT,
    "samples": _whole(1, SAMPLES),
    "batch": _whole(1, BATCH),
    "seed": _optional(_SEED),
    "seeds": _optional(_all(_SEED)),
    "snr": _optional(_NUMBER),
    "norm": _one_of("batch", "sample"),
    "alpha": _optional(_NUMBER),
    "filter": _optional(_TEXT),
    "filter_sha256": _optional(_TEXT),
    "device": _TEXT,
    "threads": _whole(0, THREADS),
    "distance": _FLAG,
}
_RUN = {
    "speedup": _NUMBER,
    "seconds": _NUMBER,
    "frechet": _optional(_OBJECT),
    "pictures": _all(_TEXT),
}
_PC_RUN = {"method": _one_of(*models.METHODS), "iterations": _whole(1, ITERATIONS), "filter": _OBJECT}
_LADDER_RUN = {
    "evaluations": _whole(1, ITERATIONS),
    "order": _optional(_whole(1, 3)),
    "eta": _optional(_Kind(lambda v: type(v) in (int, float) and 0 <= v <= 1, "a number from 0 to 1")),
    "ladder": _one_of(*get_args(Ladder)),
    "start": _one_of(*models.STARTS),
    "sigma": _optional(_Kind(lambda v: type(v) in (int, float) and 0 < v < 1e300, "a number above 0")),
}
_FRECHET = {"distance": _NUMBER, "count": _whole(0, SAMPLES), "floor": _NUMBER, "floor_scatter": _NUMBER}


def _check(where: str, values: dict[str, Any], kinds: dict[str, _Kind]) -> None:
    for name, kind in kinds.items():
        if name not in values:
            raise ValueError(f"{where}{name} is missing")
        if not kind.holds(values[name]):
            raise ValueError(f"{where}{name} is {shown(reprlib.repr(values[name]))}, expected {kind.words}")


def picture_names(settings: Settings, run: Run) -> list[str]:
    """The pictures of a run, relative to the folder of all runs."""
    seeds = [""] * settings.samples if settings.seeds is None else [f"_seed{seed}" for seed in settings.seeds]
    return [f"{run.folder}/{index:04d}{seed}.png" for index, seed in enumerate(seeds)]


def _check_record(record: Any) -> Settings:
    """The settings of a record, once all that this program reads of it was found to be of its kind."""
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError("it has no or another format")
    _check("", record, _RECORD)
    _check("", record, {name: kind for name, kind in _LATER.items() if name in record})
    given = record["settings"]
    known = {field.name for field in fields(Settings)}
    if set(given) - known:
        raise ValueError(f"settings.{shown(min(set(given) - known))} is a setting that this version does not know")
    _check("settings.", given, {name: _SETTINGS.get(name, _ANY) for name in known & set(given)})
    seeds = given.get("seeds")
    settings = Settings(**{**given, "seeds": None if seeds is None else tuple(seeds)})
    if (settings.seed is None) == (seeds is None) or (seeds is not None and len(seeds) != settings.samples):
        raise ValueError("settings.seeds is not one seed a sample, or seed and seeds are both or neither there")
    seen: set[Run] = set()
    for index, entry in enumerate(record["runs"]):
        where = f"runs[{index}]."
        run = _checked_run(where, entry)
        if run in seen:
            raise ValueError(f"{where}{' and '.join(run._fields[:2])} are those of another run")
        seen.add(run)
        if entry["pictures"] != picture_names(settings, run):
            raise ValueError(f"{where}pictures are not one a sample under the names that they get")
    return settings


def _checked_run(where: str, entry: dict[str, Any]) -> Run:
    """The run that an entry is of, once all that this program reads of it was found to be of its kind."""
    _check(where, {"sampler": "pc", **entry}, {"sampler": _one_of("pc", *SAMPLERS)})
    pc = entry.get("sampler", "pc") == "pc"
    _check(where, entry, {**(_PC_RUN if pc else _LADDER_RUN), **_RUN})
    if entry["frechet"] is not None:
        _check(f"{where}frechet.", entry["frechet"], _FRECHET)
    if pc:
        _check(f"{where}filter.", {"alpha": None, **entry["filter"]}, {"alpha": _optional(_NUMBER)})
        return run_of(entry)
    for name, having in (("order", WITH_ORDER), ("eta", WITH_ETA)):
        if (entry[name] is not None) != (entry["sampler"] in having):
            expected = "a number" if entry[name] is None else "null"
            raise ValueError(f"{where}{name} is {entry[name]}, expected {expected} for {entry['sampler']}")
    return run_of(entry)


def is_deep(value: Any) -> bool:
    """Whether lists and dictionaries lie in each other more deeply than in anything that this program writes."""
    level = [value]
    for _ in range(20):
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [part for parts in inner for part in parts]
    return bool(level)


def read_record(path: Path) -> tuple[Settings, dict[str, Any]]:
    """The settings of a `run.json`, and all of it.

    Raises:
        ValueError: one sentence about what is wrong with the file.
    """
    try:
        record = json.loads(read_bounded(path, _LARGEST))
        if is_deep(record):
            raise RecursionError
        return _check_record(record), record
    except OSError as error:
        reason = error.strerror or str(error)
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:  # of JSON and Unicode as well
        reason = str(error)
    raise ValueError(
        f"run.json: got {shown(path)} ({shown(reason)}), expected a file that `tdas-ops sample` wrote"
    ) from None
