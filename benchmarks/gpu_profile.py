"""What binds each CUDA kernel: its launches under Nsight Compute, and a CSV file of the counters that tell.

    python benchmarks/gpu_profile.py --out benchmarks/results

Where ncu is missing or may not read the counters, it says so and nothing is written.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SECTIONS = ["SpeedOfLight", "LaunchStats", "Occupancy", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis"]
SECTIONS += ["SchedulerStats", "WarpStateStats"]
EXTRA = ["gpu__time_duration.sum", "dram__bytes.sum", "smsp__inst_executed.sum", "smsp__thread_inst_executed.sum"]
EXTRA += ["dram__throughput.avg.pct_of_peak_sustained_elapsed", "sm__throughput.avg.pct_of_peak_sustained_elapsed"]
EXTRA += [f"l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_{op}.sum" for op in ("ld", "st")]
EXTRA += ["sm__inst_issued.avg.pct_of_peak_sustained_active", "sm__warps_active.avg.pct_of_peak_sustained_active"]

# Column of our file: (counter, what to multiply it with; None: divide it by the elements of the call).
COLUMNS: dict[str, tuple[str, float | None]] = {
    "microseconds": ("gpu__time_duration.sum", 1e-3),
    "dram_percent": ("dram__throughput.avg.pct_of_peak_sustained_elapsed", 1),
    "sm_percent": ("sm__throughput.avg.pct_of_peak_sustained_elapsed", 1),
    "issue_slots_percent": ("sm__inst_issued.avg.pct_of_peak_sustained_active", 1),
    "occupancy_percent": ("sm__warps_active.avg.pct_of_peak_sustained_active", 1),
    "dram_bytes_per_element": ("dram__bytes.sum", None),
    "thread_instructions_per_element": ("smsp__thread_inst_executed.sum", None),
    "bank_conflicts_load_per_element": ("l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum", None),
    "bank_conflicts_store_per_element": ("l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum", None),
    "registers": ("launch__registers_per_thread", 1),
    "shared_bytes_per_block": ("launch__shared_mem_per_block_dynamic", 1),
}
STALLS = re.compile(r"^smsp__average_warps_issue_stalled_(\w+)_per_issue_active\.ratio$")

SIZES = (32, 64, 128)
IN_PASSES = 1024
ELEMENTS = 24 << 20  # of a call: 300 MB from x, v to x'
CALLS = ["step pds R", "step tdas R", "step pds RA", "step tdas RA", "noise R", "MMt R", "step pds A", "normals"]
PASS_CALLS = [*CALLS[:6], "snr pds R", "snr pds RA"]  # all planes in one chunk: one launch a pass


def calls_of(size: int) -> list[str]:
    return PASS_CALLS if size == IN_PASSES else CALLS


def labels() -> list[str]:
    return [f"{call} {size}" for size in (*SIZES, IN_PASSES) for call in calls_of(size)]


def launch() -> None:
    """Every call once, in an NVTX range of its name."""
    import torch

    import tdas_ops
    from benchmarks import contenders

    def calls(size: int) -> dict[str, Callable[[], Any]]:
        shape = (ELEMENTS // (3 * size * size), 3, size, size)
        x, v, out = (torch.randn(shape, device="cuda") for _ in range(3))
        stream = tdas_ops.NoiseStream(7, device="cuda")
        M = {
            f"{method} {masks}": contenders.masks(shape, method, masks == "RA", "cuda").M
            for method in ("pds", "tdas")
            for masks in ("R", "RA")
        }
        M["pds A"] = tdas_ops.Preconditioner.from_masks(None, M["pds RA"].space).to("cuda")
        g = torch.empty((*shape[:-1], size // 2), dtype=torch.complex64, device="cuda")
        step = lambda key: tdas_ops.step(x, v, M[key], 0.1, noise=stream, out=out)
        return {
            **{f"step {key}": lambda key=key: step(key) for key in M},
            "noise R": lambda: tdas_ops.noise(M["pds R"], shape, stream, out=out),
            "MMt R": lambda: tdas_ops.precondition(v, M["pds R"], "MMt", out=out),
            "normals": lambda: torch.ops.tdas_ops.normals.cuda(g, stream.seeds, stream.draw, 0, False),
            **{
                f"snr {key}": lambda key=key: tdas_ops.langevin_step(x, v, M[key], 0.16, noise=stream, out=out)
                for key in M
            },
        }

    with tdas_ops.use_backend("cuda"):
        tdas_ops._extension.load().limit_scratch(8 * ELEMENTS)
        for size in (*SIZES, IN_PASSES):
            runs = calls(size)
            for call in calls_of(size):
                torch.cuda.nvtx.range_push(f"{call} {size}")
                runs[call]()
                torch.cuda.synchronize()
                torch.cuda.nvtx.range_pop()


def find_ncu() -> str | None:
    found = shutil.which("ncu")
    if found:
        return found
    installed = [*Path("/usr/local").glob("cuda*/bin/ncu"), *Path("/opt/nvidia/nsight-compute").glob("*/ncu")]
    return str(max(installed)) if installed else None


def command(ncu: str, extra: bool) -> list[str]:
    """The clocks of the device are left as they are."""
    options = ["--clock-control", "none", "--target-processes", "all", "--nvtx", "--csv", "--page", "raw"]
    options += ["--print-units", "base", "--kernel-name-base", "demangled", "--kernel-name", "regex:.*tdas_ops.*"]
    options += [word for section in SECTIONS for word in ("--section", section)]
    options += ["--metrics", ",".join(EXTRA)] if extra else []
    return [ncu, *options, sys.executable, str(Path(__file__).resolve()), "--launch"]


def parse(output: str) -> list[dict[str, Any]]:
    """The launches of a raw page, one row each; our columns, and what warps wait for most."""
    lines = [line for line in output.splitlines() if line.startswith('"')]
    rows = []
    for raw in csv.DictReader(lines):
        if not (raw.get("ID") or "").strip().isdigit():  # the line of units
            continue
        ranges = " ".join(value for key, value in raw.items() if key and "Range" in key and value)
        label = next((label for label in labels() if f":{label}:" in ranges), "")
        kernel = raw.get("Kernel Name") or ""
        if "advance" in kernel:  # one thread
            continue
        row: dict[str, Any] = {"call": label, "kernel": kernel.rsplit("(", 1)[0].removeprefix("void ")}
        for name, (counter, factor) in COLUMNS.items():
            value = number(raw.get(counter))
            row[name] = None if value is None else value / ELEMENTS if factor is None else value * factor
        waits = {found[1]: number(raw[key]) for key in raw if key and (found := STALLS.match(key))}
        most = sorted(((v, k) for k, v in waits.items() if v is not None and k != "selected"), reverse=True)[:3]
        row["stalls_per_issue"] = " ".join(f"{k}={v:.2f}" for v, k in most)
        rows.append(row)
    return rows


def number(text: str | None) -> float | None:
    try:
        value = float((text or "").replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def formatted(rows: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    return [{key: cell(value) for key, value in row.items()} for row in rows]


def profile(ncu: str) -> tuple[list[dict[str, Any]], str]:
    """The rows, or none and ncu's own words. Without the single counters where this ncu knows one of them not."""
    said = ""
    for extra in (True, False):
        done = subprocess.run(command(ncu, extra), capture_output=True, text=True, cwd=ROOT)
        rows = parse(done.stdout)
        if rows:
            return rows, ""
        said = said or "; ".join(re.findall(r"==ERROR==\s*(.+)", done.stdout + done.stderr)[:2])
        said = said or (done.stderr.strip().splitlines() or ["no launch was profiled"])[-1]
        if "ERR_NVGPUCTRPERM" in said or "LibraryNotLoaded" in said:
            break
    return [], said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--launch", action="store_true", help="only launch the kernels, for the profiler")
    arguments = parser.parse_args()
    if arguments.launch:
        launch()
        return
    ncu = find_ncu()
    if ncu is None:
        print("gpu_profile: skipped, ncu is not found")
        return
    rows, said = profile(ncu)
    if not rows:
        print(f"gpu_profile: skipped, ncu does not profile here: {said}")
        return
    import torch

    from benchmarks import gpu_table

    table = formatted(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{gpu_table.file_stem(torch.cuda.get_device_name())}-ncu.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    print(path.read_text())


if __name__ == "__main__":
    main()
