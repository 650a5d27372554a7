"""`run.json`: its settings, its bounds, and the check that everything in it is what this program writes."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from tdas_ops import models
from tdas_ops._files import read_bounded, shown

FORMAT = "tdas_ops runs/1"
ITERATIONS, SAMPLES, BATCH, THREADS = 100_000, 1_000_000, 4096, 1024
"""Bounds of the settings: beyond them memory or the thread library gives way before a first sample is there."""
SCHEDULED = 10_000
"""Bound of the iterations of method "schedule", which makes a filter for each of them."""

_LARGEST = 1 << 30  # bytes
Run = tuple[models.Method, int]
"""Method and iteration count."""


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
    "method": _one_of(*models.METHODS),
    "iterations": _whole(1, ITERATIONS),
    "speedup": _NUMBER,
    "filter": _OBJECT,
    "seconds": _NUMBER,
    "frechet": _optional(_OBJECT),
    "pictures": _all(_TEXT),
}
_FRECHET = {"distance": _NUMBER, "count": _whole(0, SAMPLES), "floor": _NUMBER, "floor_scatter": _NUMBER}


def _check(where: str, values: dict[str, Any], kinds: dict[str, _Kind]) -> None:
    for name, kind in kinds.items():
        if name not in values:
            raise ValueError(f"{where}{name} is missing")
        if not kind.holds(values[name]):
            raise ValueError(f"{where}{name} is {shown(reprlib.repr(values[name]))}, expected {kind.words}")


def folder_name(run: Run) -> str:
    """The folder of a run's pictures."""
    return f"{run[0]}_{run[1]}"


def picture_names(settings: Settings, run: Run) -> list[str]:
    """The pictures of a run, relative to the folder of all runs."""
    seeds = [""] * settings.samples if settings.seeds is None else [f"_seed{seed}" for seed in settings.seeds]
    return [f"{folder_name(run)}/{index:04d}{seed}.png" for index, seed in enumerate(seeds)]


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
    for index, run in enumerate(record["runs"]):
        where = f"runs[{index}]."
        _check(where, run, _RUN)
        if run["frechet"] is not None:
            _check(f"{where}frechet.", run["frechet"], _FRECHET)
        _check(f"{where}filter.", {"alpha": None, **run["filter"]}, {"alpha": _optional(_NUMBER)})
        name: Run = (run["method"], run["iterations"])
        if name in seen:
            raise ValueError(f"{where}method and iterations are those of another run")
        seen.add(name)
        if run["pictures"] != picture_names(settings, name):
            raise ValueError(f"{where}pictures are not one a sample under the names that they get")
    return settings


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
