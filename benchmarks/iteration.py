"""One whole predictor-corrector iteration with an NCSN++ network: two evaluations of the score, the corrector with the
snr rule, the predictor. Time, share of the update and peak memory, with the update of the papers, the best composition
of torch and the package; eager, compiled and captured in a CUDA graph; float32 and bfloat16.

    python benchmarks/iteration.py                            on a GPU: NCSN++ of the sizes of CIFAR-10 and FFHQ-1024
    python benchmarks/iteration.py --networks tiny --device cpu

Needs diffusers. Rows are kept under --parts as they are measured; a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import tdas_ops  # noqa: E402
from benchmarks import best_torch, contenders, gpu_bench, gpu_table, networks, published  # noqa: E402
from benchmarks.circumstances import circumstances  # noqa: E402
from benchmarks.gpu_table import ITERATION, MEMORY, PACKAGE, PUBLISHED, SHARE, TORCH  # noqa: E402
from benchmarks.parity import Oracle  # noqa: E402

Row = dict[str, Any]
Network = Callable[[Tensor], Tensor]  # x in the network's dtype to the score
Iterate = Callable[[Network], object]

SIGMA, SNR, D = 1.0, contenders.SNR, 1e-3
N = D**0.5
EAGER, COMPILED, CAPTURED = "eager", "compiled", "captured"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PART = "iteration"


def updates(shape: tuple[int, ...], m: contenders.Masks, dtype: torch.dtype, device: str) -> dict[str, Iterate]:
    """An iteration from the same state each time, by the network's dtype and whose update it is."""
    M, R, half, A = m
    x = SIGMA * torch.randn(shape, device=device)
    state, seen = torch.empty_like(x), x.to(dtype)
    noise = tdas_ops.NoiseStream(7, device=device)
    cast = None if dtype is x.dtype else seen
    method = str(M.method)
    compose = getattr(best_torch, method)

    def own(network: Network) -> Tensor:
        tdas_ops.langevin_step(x, network(seen), M, SNR, noise=noise, out=state, cast=cast)
        return tdas_ops.step(
            state, network(seen if cast is not None else state), M, D, noise_scale=N, noise=noise, out=state, cast=cast
        )

    def torch_only(network: Network) -> Tensor:
        y = best_torch.langevin(x, network(x.to(dtype)).to(x.dtype), half, A, SNR, method)
        return compose(y, network(y.to(dtype)).to(x.dtype), half, A, D, N)

    def of_papers(network: Network) -> Tensor:
        z = torch.randn_like
        y, _ = published.langevin(x, network(x.to(dtype)).to(x.dtype), R, A, SNR, 1.0, z(x), method)
        return published.update(y, network(y.to(dtype)).to(x.dtype), R, A, D, N, z(x), method)[0]

    return {PACKAGE: own, TORCH: torch_only, PUBLISHED: of_papers}


def check(shape: tuple[int, ...], device: str) -> None:
    """Refuses to time a wrong update."""
    for op in ("langevin_step", "step"):
        if device == "cuda":
            gpu_bench.check(shape, op, "pds", True)
            continue
        m = contenders.masks(shape, "pds", True)
        oracle = Oracle(op, m.M, torch.randn(shape), torch.randn(shape))
        oracle.check()
        for baseline in contenders.baselines(op, m).values():
            oracle.check_baseline(baseline)


def score_of(network: networks.Network, dtype: torch.dtype, device: str) -> Network:
    model = networks.ncsnpp(network).to(device=device, dtype=dtype)
    sigma = torch.full((network.shape[0],), SIGMA, device=device)
    return lambda x: model(x, sigma).sample


def in_turns(runs: dict[str, gpu_bench.Run], device: str, rounds: int = 5) -> dict[str, float]:
    """Median seconds a call of each, in turns."""
    if device == "cuda":
        return gpu_bench.in_turns(runs, most_calls=2)
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(0)
            samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in samples.items()}


def ready(iterate: Iterate, network: Network, mode: str, device: str) -> gpu_bench.Run:
    """The iteration as it is timed, after its first call."""
    if mode == CAPTURED:
        if device != "cuda":
            raise RuntimeError("CUDA graphs need a CUDA device")
        return gpu_bench.captured(lambda i: iterate(network), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about what it leaves to torch
        iterate(network)
    return lambda i: iterate(network)


def measure(network: networks.Network, name: str, mode: str, dtype: str, device: str) -> list[Row]:
    """Whole iterations, their updates alone (the network replaced by its own last result), and peak memory."""
    score = score_of(network, DTYPES[dtype], device)
    constant = score(torch.zeros(network.shape, dtype=DTYPES[dtype], device=device)).clone()
    if mode == COMPILED:
        torch.compiler.reset()
        score = torch.compile(score, dynamic=False)
    m = contenders.masks(network.shape, "pds", True, device)
    labels = {"case": f"{name}, {dtype}, {mode}", "shape": list(network.shape), "dtype": dtype}
    rows: list[Row] = []
    whole: dict[str, gpu_bench.Run] = {}
    alone: dict[str, gpu_bench.Run] = {}
    for who, iterate in updates(network.shape, m, DTYPES[dtype], device).items():
        try:
            if device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            run = ready(iterate, score, mode, device)
            run(0)
            if device == "cuda":
                torch.cuda.synchronize()
                peak = gpu_bench.rounded(torch.cuda.max_memory_allocated() / (1 << 20))
                rows.append({**labels, "section": MEMORY, "name": who, "mib": peak})
            alone[who] = ready(iterate, lambda x: constant, EAGER if mode == COMPILED else mode, device)
            whole[who] = run
        except Exception as error:
            why = f"{mode} fails here: {gpu_bench.first_line(error)}"
            rows += [{**labels, "section": section, "name": who, "obstacle": why} for section in (ITERATION, SHARE)]
    seconds, of_update = in_turns(whole, device), in_turns(alone, device)
    for who, time_each in seconds.items():
        row = {**labels, "section": ITERATION, "name": who, "microseconds": gpu_bench.rounded(time_each * 1e6)}
        rows.append(row | ({"ratios": gpu_table.ratios(seconds)} if who == PACKAGE else {}))
        share = gpu_bench.rounded(100 * of_update[who] / time_each)
        update = {"percent": share, "update_microseconds": gpu_bench.rounded(of_update[who] * 1e6)}
        rows.append({**labels, "section": SHARE, "name": who, **update})
    return rows


def cpu_circumstances() -> dict[str, Any]:
    """Those of a table without a GPU."""
    about = circumstances()
    build = {"cuda": None, "cuda_architectures": []}
    return about | {"device": about["cpu"], "driver": None, "torch_cuda": None, "triton": None, "build": build}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(networks.NETWORKS), default=["CIFAR-10", "FFHQ-1024"])
    parser.add_argument("--modes", nargs="+", choices=[EAGER, COMPILED, CAPTURED], default=[EAGER, COMPILED, CAPTURED])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--parts", type=Path, default=ROOT / "build" / "gpu", help="where rows are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("iteration: torch finds no CUDA device; --device cpu measures without one")
    try:
        import diffusers  # noqa: F401
    except ImportError:
        raise SystemExit("iteration: diffusers is not installed (pip install diffusers)") from None
    about = gpu_bench.device_circumstances() if chosen.device == "cuda" else cpu_circumstances()
    kept = chosen.parts / f"bench-{PART}.json"
    result = gpu_table.kept(kept, about)
    chosen.parts.mkdir(parents=True, exist_ok=True)
    for name in chosen.networks:
        network = networks.NETWORKS[name]
        check(network.shape, chosen.device)
        for mode, dtype in itertools.product(chosen.modes, DTYPES):
            case = f"{name}, {dtype}, {mode}"
            if any(row["case"] == case for row in result["rows"]):
                print(f"iteration: {case} was measured before", flush=True)
                continue
            print(f"iteration: {case}", flush=True)
            result["rows"] += measure(network, name, mode, dtype, chosen.device)
            kept.write_text(json.dumps(result, indent=1) + "\n")
            gc.collect()
    table = gpu_table.write(gpu_table.merge(chosen.parts, PART), chosen.out)
    print(table.read_text())


if __name__ == "__main__":
    with torch.no_grad():
        main()
