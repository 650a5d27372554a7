"""What binds the headline kernels: each launch under Nsight Compute, and the counters that tell, a row a launch.

    python benchmarks/gpu_profile.py STEM      started by benchmarks/gpu.sh; see gpu_device.py

Also writes all counters to STEM.csv, and those of every instruction to STEM-source.csv.gz. Needs ncu on PATH.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import gpu_device  # first: it chooses which extension is loaded

# isort: split
import torch

from benchmarks import contenders
from benchmarks.gpu_times import KINDS

# Of a row: (counter, what to multiply it with; None: divide it by the elements of the call).
COLUMNS: dict[str, tuple[str, float | None]] = {
    "microseconds": ("gpu__time_duration.sum", 1e-3),
    "dram_percent": ("gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed", 1),
    "sm_percent": ("sm__throughput.avg.pct_of_peak_sustained_elapsed", 1),
    "issue_slots_percent": ("sm__inst_issued.avg.pct_of_peak_sustained_active", 1),
    "occupancy_percent": ("sm__warps_active.avg.pct_of_peak_sustained_active", 1),
    "dram_bytes_per_element": ("dram__bytes.sum", None),
    "instructions_per_element": ("smsp__thread_inst_executed.sum", None),
    "bank_conflicts_load_per_element": ("l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum", None),
    "bank_conflicts_store_per_element": ("l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum", None),
    "registers": ("launch__registers_per_thread", 1),
}
SECTIONS = ["SpeedOfLight", "LaunchStats", "Occupancy", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis"]
SECTIONS += ["SchedulerStats", "WarpStateStats", "InstructionStats", "SourceCounters"]
EXTRA = [counter for counter, factor in COLUMNS.values() if factor is None]
READING = 15  # seconds, of the report
MOST_BYTES = 16_000_000
STALLS = re.compile(r"^smsp__average_warps_issue_stalled_(\w+)_per_issue_active\.ratio$")

# Samples of three planes: 300 MB from x, v to x', and, of planes in passes, as many as go through the scratch at once.
# Those come first: of the first launches alone there is time to read every instruction.
SAMPLES = {32: 8192, 64: 2048, 128: 512, 1024: 2}
CALLS = [("step", 1024, "pds"), ("step", 1024, "tdas"), ("langevin_step", 64, "pds"), ("step", 64, "pds")]
CALLS += [("step", size, kind) for size, kind in ((64, "tdas"), (64, "both"), (128, "pds"), (128, "tdas"), (32, "pds"))]


def label(call: tuple[str, int, str]) -> str:
    return " ".join(map(str, call))


def launch() -> int:
    """Every call once, in an NVTX range of its name; ncu replays what it measures, so that nothing is warmed up."""
    torch.set_grad_enabled(False)
    for op, size, kind in CALLS:
        shape = (SAMPLES[size] if gpu_device.ON_GPU else 1, 3, size, size)
        M = contenders.masks(shape, *KINDS[kind], gpu_device.DEVICE).M
        run = gpu_device.Buffers(shape, cold=False).own(op, M)
        if gpu_device.ON_GPU:
            torch.cuda.nvtx.range_push(label((op, size, kind)))
        run(0)
        gpu_device.synchronize()
        if gpu_device.ON_GPU:
            torch.cuda.nvtx.range_pop()
    return 0


def parse(output: str) -> list[dict[str, Any]]:
    """The launches of a raw page, one row each; our columns, and what warps wait for most."""
    lines = [line for line in output.splitlines() if line.startswith('"')]
    rows = []
    for raw in csv.DictReader(lines):
        kernel = (raw.get("Kernel Name") or "").removeprefix("void ").replace("tdas_ops::cuda::", "")
        if not (raw.get("ID") or "").strip().isdigit() or "advance" in kernel:  # the line of units; one thread
            continue
        ranges = " ".join(value for key, value in raw.items() if key and "Range" in key and value)
        call = next((call for call in CALLS if f":{label(call)}:" in ranges), None)
        elements = SAMPLES[call[1]] * 3 * call[1] ** 2 if call else None
        row: dict[str, Any] = {"case": label(call) if call else "", "kernel": kernel.rsplit("(", 1)[0]}
        for name, (counter, factor) in COLUMNS.items():
            value = number(raw.get(counter))
            scale = factor if factor is not None else 1 / elements if elements else None
            row[name] = None if value is None or scale is None else gpu_device.rounded(value * scale)
        waits = {found[1]: number(raw[key]) for key in raw if key and (found := STALLS.match(key))}
        most = sorted(((v, k) for k, v in waits.items() if v is not None and k != "selected"), reverse=True)[:4]
        row["stalls_per_issue"] = " ".join(f"{k}={v:.2f}" for v, k in most)
        rows.append(row)
    return rows


def number(text: str | None) -> float | None:
    try:
        value = float((text or "").replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def ncu(seconds: float, *arguments: str) -> str:
    """What it prints, within so many seconds."""
    command = ["timeout", "-k", "2", f"{max(1.0, seconds):.0f}", "ncu", *arguments]
    done = subprocess.run(command, cwd=gpu_device.ROOT, stdout=subprocess.PIPE, text=True, errors="replace")
    return done.stdout


def profile(stem: str) -> int:
    """Rows and files; the single counters are done without where this ncu knows one of them not."""
    left = lambda: min(gpu_device.DEADLINE - time.time(), 600.0)
    # The clocks of the device are left as they are.
    options = ["--clock-control", "none", "--target-processes", "all", "--nvtx", "--kernel-name-base", "demangled"]
    options += ["--kernel-name", "regex:(plane_kernel|rows_kernel|columns_kernel)", "--launch-count", "24"]
    options += [word for section in SECTIONS for word in ("--section", section)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.ncu-rep"
        for extra in (["--metrics", ",".join(EXTRA)], []):
            program = [sys.executable, __file__, "--launch"]
            print(
                ncu(left() - READING, *options, *extra, "-f", "-o", str(report.with_suffix("")), *program), flush=True
            )
            if report.exists():
                break
        else:
            gpu_device.keep(ok=False, why="ncu: no launch was profiled; the log has its words")
            return 1
        raw = ncu(left(), "--import", str(report), "--page", "raw", "--csv", "--print-units", "base")
        Path(f"{stem}.csv").write_text(raw)
        rows = parse(raw)
        for row in rows:
            gpu_device.keep(**row)
        source = gzip.compress(ncu(left(), "--import", str(report), "--page", "source", "--csv").encode())
        if len(source) < MOST_BYTES:
            Path(f"{stem}-source.csv.gz").write_bytes(source)
    return int(not rows)


if __name__ == "__main__":
    sys.exit(launch() if sys.argv[1] == "--launch" else profile(sys.argv[1]))
