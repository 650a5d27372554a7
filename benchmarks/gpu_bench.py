"""Benchmarks on one CUDA device: JSON and a markdown table, every figure beside the copy bandwidth of the same run.

Run by `benchmarks/gpu.sh` after the tests have passed on the same build. Times are medians over device events, over
buffers that together exceed the cache several times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import tdas_ops  # noqa: E402
from benchmarks import contenders  # noqa: E402
from benchmarks.circumstances import circumstances, command_output  # noqa: E402

REPEATS, WARM_UP = 50, 5
SLEEP_CYCLES = 2_000_000  # about a millisecond
COLD_BYTES = 512 << 20  # several times the largest L2

UPDATE_SHAPES = [(1024, 3, 32, 32), (256, 3, 64, 64), (8, 3, 64, 64), (128, 3, 128, 128), (32, 3, 256, 256)]
UPDATE_SHAPES += [(8, 3, 1024, 1024)]
NOISE_SHAPES = [
    (512, 3, 32, 32),
    (128, 3, 64, 64),
    (4, 3, 64, 64),
    (16, 3, 256, 256),
    (4, 3, 1024, 1024),
    (4, 3, 1000, 999),
]


def seconds(run: Callable[[int], object], buffers: int) -> float:
    """Median device seconds of `run(i)`, i cycling through the buffers.

    The device sleeps while the host enqueues, so launch latency is left out; `bench_overhead.py` measures that.
    """
    for i in range(WARM_UP):
        run(i % buffers)
    times = []
    for i in range(REPEATS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(SLEEP_CYCLES)
        start.record()
        run(i % buffers)
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e-3)
    return statistics.median(times)


def buffer_count(bytes_each: int) -> int:
    return max(2, min(32, -(-COLD_BYTES // bytes_each)))


def copy_bandwidth() -> float:
    """Bytes read and written a second by a copy of 1 GiB."""
    source, target = (torch.empty(1 << 28, device="cuda").normal_() for _ in range(2))
    return 2 * source.nbytes / seconds(lambda i: target.copy_(source), 1)


def noise_candidates(outs: list[Tensor]) -> dict[str, Callable[[int], object]]:
    seeds, draw = (torch.tensor([n], device="cuda") for n in (7, 3))
    return {
        "normals.cuda": lambda i: torch.ops.tdas_ops.normals.cuda(outs[i], seeds, draw, 0, False),
        "normals.triton": lambda i: torch.ops.tdas_ops.normals.triton(outs[i], seeds, draw, 0, False),
        "torch.randn": lambda i: torch.view_as_real(outs[i]).normal_(),
    }


def noise_rows(bandwidth: float) -> list[dict[str, Any]]:
    rows = []
    for shape in NOISE_SHAPES:
        bytes_written = 8 * torch.Size(shape).numel()
        count = buffer_count(bytes_written)
        outs = [torch.empty(shape, dtype=torch.complex64, device="cuda") for _ in range(count)]
        for name, run in noise_candidates(outs).items():
            rows.append(row("white noise", name, shape, "complex64", seconds(run, count), bytes_written, bandwidth))
    return rows


def over_buffers(
    update: Callable[[Tensor, Tensor], object], xs: list[Tensor], vs: list[Tensor]
) -> Callable[[int], object]:
    return lambda i: update(xs[i], vs[i])


def update_rows(bandwidth: float) -> list[dict[str, Any]]:
    rows = []
    for shape in UPDATE_SHAPES:
        bytes_moved = 12 * torch.Size(shape).numel()  # x and v read, x' written
        count = buffer_count(bytes_moved)
        xs, vs = ([torch.randn(shape, device="cuda") for _ in range(count)] for _ in range(2))
        for method in ("pds", "tdas"):
            for space in (False, True):
                what = f"update {method}, {'both masks' if space else 'frequency mask'}"
                for name, update in contenders.updates(shape, method, space, "cuda").items():
                    time = seconds(over_buffers(update, xs, vs), count)
                    rows.append(row(what, name, shape, "float32", time, bytes_moved, bandwidth))
    return rows


def row(
    what: str, name: str, shape: tuple[int, ...], dtype: str, time: float, least_bytes: int, bandwidth: float
) -> dict[str, Any]:
    return {
        "what": what,
        "name": name,
        "shape": list(shape),
        "dtype": dtype,
        "microseconds": time * 1e6,
        "least_bytes": least_bytes,
        "bytes_per_second": least_bytes / time,
        "share_of_copy": least_bytes / time / bandwidth,
    }


def device_circumstances() -> dict[str, Any]:
    driver = command_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return circumstances() | {
        "device": torch.cuda.get_device_name(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "driver": driver.splitlines()[0] if driver else None,
        "torch_cuda": torch.version.cuda,
        "build": tdas_ops._extension.load().build_info(),
        "backends": tdas_ops.backend_info(),
    }


def markdown(result: dict[str, Any]) -> str:
    about = result["circumstances"]
    lines = [
        f"# {about['device']}, {about['date']}",
        "",
        f"torch {about['torch']} (CUDA {about['torch_cuda']}), driver {about['driver']}, "
        f"commit {about['commit']}{' with local changes' if about['dirty'] else ''}. "
        f"A copy of 1 GiB moves {result['copy_bytes_per_second'] / 1e12:.2f} TB/s, read and written together.",
        "",
        "GB/s counts the least bytes the operation must move; the share is of the measured copy. Medians of "
        f"{REPEATS} runs over cold buffers.",
        "",
        "| what | who | shape | dtype | us | GB/s | share of copy |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for r in result["rows"]:
        shape = "x".join(map(str, r["shape"]))
        figures = f"{r['microseconds']:.1f} | {r['bytes_per_second'] / 1e9:.0f} | {r['share_of_copy']:.0%}"
        lines.append(f"| {r['what']} | {r['name']} | {shape} | {r['dtype']} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu_bench: torch finds no CUDA device")
    for backend in ("cuda", "triton"):
        if backend in tdas_ops.backend_info()["missing"]:
            raise SystemExit(f"gpu_bench: {tdas_ops.backend_info()['missing'][backend]}")
    bandwidth = copy_bandwidth()
    rows = noise_rows(bandwidth) + update_rows(bandwidth)
    result = {"circumstances": device_circumstances(), "copy_bytes_per_second": bandwidth, "rows": rows}
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / f"{torch.cuda.get_device_name().lower().replace(' ', '-')}-{result['circumstances']['date']}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
