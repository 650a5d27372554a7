"""Peak memory of one pds step beside its inputs and its output, each contender in turn: JSON rows on standard output.

    MALLOC_MMAP_THRESHOLD_=65536 python -m benchmarks.peak_memory frequency|both B C H W

Linux only: reads the peak of the resident set, which writing 5 to /proc/self/clear_refs starts anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tdas_ops
from benchmarks import contenders
from benchmarks.parity import Oracle

SMALL = (2, 1, 64, 64)


def resident(field: str) -> int:
    """VmRSS or VmHWM (its peak), bytes."""
    found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def peak(run: Callable[[], object]) -> int:
    """Bytes that `run` holds at most above what was held before it."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    result = run()
    after = resident("VmHWM")
    del result
    return max(0, after - before)


def calls(shape: tuple[int, ...], masks: str) -> dict[str, Callable[[Tensor, Tensor], object]]:
    """Each contender's step."""
    m = contenders.masks(shape, "pds", masks == "both")
    step, stream = contenders.package("step", m.M), tdas_ops.NoiseStream(7)
    return {"tdas_ops": lambda x, v: step(x, v, stream), **contenders.baselines("step", m)}


def main(masks: str, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    for run in calls(SMALL, masks).values():  # code pages and library states are no cost of a call
        run(torch.randn(SMALL), torch.randn(SMALL))
    x, v = torch.randn(shape), torch.randn(shape)
    rows = []
    for name, run in calls(shape, masks).items():
        used = peak(lambda run=run: run(x, v)) - x.nbytes
        rows.append({"name": name, "bytes_beside": max(0, used), "states_beside": round(max(0, used) / x.nbytes, 2)})
    Oracle("step", contenders.masks(shape, "pds", masks == "both").M, x, v).check()
    return rows


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], tuple(map(int, sys.argv[2:6])))))
