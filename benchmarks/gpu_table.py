"""The results of `benchmarks/gpu_bench.py`: the parts of one build gathered, and their table. Needs no GPU."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Result = dict[str, Any]  # circumstances and rows

PACKAGE = "tdas_ops"
TORCH, COMPILED, PUBLISHED = "best torch", "compiled torch", "published"
UPDATE, OPS, WHITE = "update", "filters and noise", "white noise"
GRAPH, CALL, SCRATCH = "in a graph", "one call from Python", "scratch memory"
CHUNKS, TICKETS, SNR = "scratch of the passes", "passes by tickets", "snr rule in one launch"
ITERATION, SHARE, MEMORY = "one iteration", "share of the update", "peak memory of an iteration"

SECTIONS = {
    UPDATE: "One step, `x' = x + d D v + n M z`, large batches. Microseconds of device time over cold buffers.",
    OPS: "Coloured noise and the filter M M^T alone, and the snr rule, large batches. Microseconds of device time over "
    "cold buffers.",
    WHITE: "Complex unit normals. Microseconds of device time over cold buffers.",
    GRAPH: "One step of a small batch. Microseconds of device time a call, in the replay of a CUDA graph of many calls "
    "one after the other; the data stay in the cache.",
    CALL: "One step of a small batch, called from Python. Microseconds of the calling thread, enqueued behind a busy "
    "device.",
    SCRATCH: "Large batches. Peak of torch's memory beside inputs and output, MiB.",
    CHUNKS: "Planes in passes over memory, with as much scratch as the package chooses (tdas_ops) and with at most so "
    "much. Microseconds of device time over cold buffers.",
    TICKETS: "The passes over planes of 1024 x 1024 as launches of their own (tdas_ops) and as tickets of one launch "
    "(`TDAS_OPS_LARGE=ticket`). Microseconds of device time over cold buffers.",
    SNR: "langevin_step of planes on chip: norms, rule and update as launches of their own (tdas_ops) and as one "
    "(`TDAS_OPS_SNR=cooperative`). Microseconds of device time a call, in the replay of a CUDA graph of many calls "
    "over cold buffers.",
    ITERATION: "A predictor-corrector iteration with an NCSN++ network of random weights, pds, both masks: two "
    "evaluations of the score, corrector with the snr rule, predictor (`benchmarks/iteration.py`). Microseconds.",
    SHARE: "Of such an iteration, what is left where the network takes no time, in percent; casts between the float32 "
    "state and the network's dtype are the update's.",
    MEMORY: "Peak of torch's memory of such an iteration, network included, MiB.",
}

METHOD = """\
Times are medians of samples taken in turns (A, B, C, A, B, C, ...), so that ratios are those of one run; a sample lies
between two device events and is enqueued while the device sleeps. "Cold": the calls of a sample go through buffers that
together exceed the L2 cache several times. "Share" is of the bandwidth of a copy of 1 GiB, timed in the same turns, by
the least bytes the op must move: 12 an element for a step (x and v read, x' written), 8 for the filter, 4 for noise.
"best torch" is `benchmarks/best_torch.py` eager, "compiled torch" the same through torch.compile, "published" the
sequence of the papers (`benchmarks/published.py`), "cuFFT alone" one rfft2 and one irfft2 of the same planes. Before
anything is timed, the package and the eager baselines are compared with the float64 reference. Share, GB/s and the
ratios to others are those of tdas_ops."""


def merge(folder: Path, part: str) -> Result:
    """The rows of all parts that were measured where `part` was; its circumstances are those of the result.

    Parts of another commit, build or machine stay out.
    """
    own = json.loads((folder / f"bench-{part}.json").read_text())
    parts = [json.loads(path.read_text()) for path in sorted(folder.glob("bench-*.json"))]
    same = lambda other: _identity(other["circumstances"]) == _identity(own["circumstances"])
    rows = [row for other in parts if same(other) for row in other["rows"]]
    order = list(SECTIONS)
    return {
        "circumstances": own["circumstances"],
        "rows": sorted(rows, key=lambda row: order.index(row["section"])),
    }


def kept(path: Path, circumstances: dict[str, Any]) -> Result:
    """What a part has measured so far on this build and machine, to go on with."""
    if path.exists():
        found = json.loads(path.read_text())
        if _identity(found["circumstances"]) == _identity(json.loads(json.dumps(circumstances))):
            return found
    return {"circumstances": circumstances, "rows": []}


def _identity(circumstances: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in circumstances.items() if key != "date"}


def write(result: Result, folder: Path) -> Path:
    """Writes the JSON file and the table beside it; returns the path of the table."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / file_stem(result["circumstances"]["device"])
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    table = stem.with_suffix(".md")
    table.write_text(markdown(result))
    return table


def file_stem(device: str) -> str:
    return "gpu-" + "-".join(device.lower().split())


def markdown(result: Result) -> str:
    about, rows = result["circumstances"], result["rows"]
    copies = sorted(row["copy_gb_per_s"] for row in rows if "copy_gb_per_s" in row)
    lines = [
        f"# {about['device']}",
        "",
        f"{about['date']}, driver {about['driver']}, torch {about['torch']} (CUDA {about['torch_cuda']}), "
        f"triton {about['triton']}, Python {about['python']}, CUDA compiler {about['build']['cuda']} for "
        f"{', '.join(about['build']['cuda_architectures'])}, "
        f"commit {about['commit']}{' with local changes' if about['dirty'] else ''}.",
    ]
    if copies:
        lines += ["", f"Copies of 1 GiB, read and written together: {copies[0]:.0f} to {copies[-1]:.0f} GB/s."]
    lines += ["", METHOD]
    notes: list[str] = []
    for section, title in SECTIONS.items():
        found = [row for row in rows if row["section"] == section]
        if found:
            lines += ["", f"## {section[0].upper()}{section[1:]}", "", title, "", *_table(found, notes)]
    lines += ["", *(f"({number}) {note}" for number, note in enumerate(notes, 1))] if notes else []
    return "\n".join(lines) + "\n"


def _table(rows: list[Row], notes: list[str]) -> list[str]:
    """One line a case and one column a contender; share and ratios where they were measured."""
    cases = list(dict.fromkeys((row["case"], tuple(row["shape"])) for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    shared = any("share_of_copy" in row for row in rows)
    ratios = any(row.get("ratios") for row in rows if row["name"] == PACKAGE)
    head = ["what", "shape", *names]
    head += ["share", "GB/s"] if shared else []
    head += ["to best torch, compiled or not", "to published"] if ratios else []
    lines = ["| " + " | ".join(head) + " |", "|---|---" + "|---:" * (len(head) - 2) + "|"]
    for case, shape in cases:
        of_case = {row["name"]: row for row in rows if (row["case"], tuple(row["shape"])) == (case, shape)}
        own = of_case.get(PACKAGE, {})
        cells = [case, "x".join(map(str, shape)), *(_value(of_case.get(name), notes) for name in names)]
        if shared:
            cells += [f"{own['share_of_copy']:.0%}", f"{own['gb_per_s']:.0f}"] if "share_of_copy" in own else ["-", "-"]
        if ratios:
            torch_ratios = [own.get("ratios", {})[name] for name in (TORCH, COMPILED) if name in own.get("ratios", {})]
            cells.append(f"{min(torch_ratios):.3g}" if torch_ratios else "-")
            cells.append(f"{own['ratios'][PUBLISHED]:.3g}" if PUBLISHED in own.get("ratios", {}) else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _value(row: Row | None, notes: list[str]) -> str:
    if row is None:
        return "-"
    if "obstacle" in row:
        if row["obstacle"] not in notes:
            notes.append(row["obstacle"])
        return f"({notes.index(row['obstacle']) + 1})"
    if "mib" in row:
        return f"{row['mib']:.1f}"
    if "percent" in row:
        return f"{row['percent']:.3g}%"
    return f"{row['microseconds']:.4g}"


def ratios(medians: dict[str, float], names: Iterable[str] = (TORCH, COMPILED, PUBLISHED)) -> dict[str, float]:
    """How many times longer others take than the package."""
    return {name: float(f"{medians[name] / medians[PACKAGE]:.4g}") for name in names if name in medians}
