"""What is said of runs and of the machine: labels of the grid, rows of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tdas_ops._record import run_of

HEAD = ("sampler", "alpha", "evaluations", "speed-up", "seconds", "Frechet distance")

_ABSENT = 1000.0  # from this alpha on masks are within 0.1 % of 1, which is no filter

Row = tuple[str, ...]


def in_order(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of runs as tables and grids show them: many evaluations first."""
    return sorted(records, key=lambda record: (-run_of(record).network_evaluations, run_of(record).rank))


def label(record: dict[str, Any]) -> list[str]:
    """The label of a run in the grid."""
    speedup, measured, run = record["speedup"], record["frechet"], run_of(record)
    share = f"native / {speedup:.3g}" if speedup != 1 else "native"
    lines = [run.words, f"{run.network_evaluations} evaluations ({share})"]
    if measured is not None:
        lines.append(f"Frechet distance {measured['distance']:.2f}, n = {measured['count']}")
        lines.append(f"real images: {_floor(measured)}")
    return lines


def rows(records: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows below `HEAD`: runs in the order of the grid, then what real images have in their place."""
    made: list[Row] = []
    floors: dict[Row, None] = {}
    for record in in_order(records):
        measured, run = record["frechet"], run_of(record)
        distance = "-" if measured is None else f"{measured['distance']:.2f}"
        figures = (str(run.network_evaluations), f"{record['speedup']:.3g}", f"{record['seconds']:.1f}", distance)
        made.append((run.words, _alpha(record), *figures))
        if measured is not None:
            floors[(f"real images, n = {measured['count']}", "", "", "", "", _floor(measured))] = None
    return [*made, *floors]


def _floor(measured: dict[str, Any]) -> str:
    return f"{measured['floor']:.2f} ± {measured['floor_scatter']:.2f}"


def _alpha(record: dict[str, Any]) -> str:
    """The strength of the filter of a run; "-" for a filter without such a number."""
    used = record.get("filter", {"source": "identity"})
    alpha = used.get("alpha")
    if alpha is None:
        return "none" if used.get("source") == "identity" else "-"
    return "none" if alpha >= _ABSENT else f"{alpha:.4g}"


def machine_rows(machine: dict[str, Any]) -> list[Row]:
    """What a bug report needs of `machine_info()`, as names and values in words; a path has a line of its own."""
    commit = f", commit {machine['commit']}" if machine["commit"] else ""
    cuda = f"CUDA {machine['cuda']}" if machine["cuda"] else "without CUDA"
    triton = f"triton {machine['triton']}" if machine["triton"] else "without triton"
    cpu = (machine["cpu"], machine["machine"], machine["instruction_set"] or "no compiled kernels")
    gpus = [
        f"{gpu['name']}, capability {gpu['capability']}, {gpu['multiprocessors']} multiprocessors, "
        f"{gpu['memory_gib']} GiB, L2 {gpu['l2_mib']} MiB, driver {machine['driver'] or 'unknown'}"
        for gpu in machine["gpus"]
    ]
    backends = machine["backends"]
    made: list[Row] = [
        ("tdas_ops", machine["tdas_ops"] + commit + (", with local changes" if machine["dirty"] else "")),
        ("python", f"{machine['python']}, {machine['system']}"),
        ("torch", f"{machine['torch']}, {cuda}, {triton}"),
        ("cpu", f"{', '.join(cpu)}, {_count(machine['cores'], 'core')}, {_count(machine['threads'], 'thread')}"),
        *(("gpu", gpu) for gpu in gpus or ["none"]),
        ("build", "; ".join(f"{name} {_value(value)}" for name, value in machine["build"].items())),
        *([("chosen", backends["chosen"])] if backends["chosen"] != "automatic" else []),
        *((f"no {name}", reason) for name, reason in backends["missing"].items() if gpus or name == "cpp"),
    ]
    for device, paths in backends["paths"].items():
        name = f"on {device}"
        for path in dict.fromkeys(paths.values()):
            ops = ", ".join(op for op, taken in paths.items() if taken == path)
            for i, part in enumerate(path.split("; ")):
                made.append((name, part if i else f"{ops}: {part}"))
                name = ""
    return made


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
