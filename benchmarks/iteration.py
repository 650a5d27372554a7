"""One whole predictor-corrector iteration with an NCSN++ network: two evaluations of the score, the corrector with the
snr rule, the predictor. Time, share of the update and peak memory, with the update of the papers, the best composition
of torch and the package; eager, compiled and captured in a CUDA graph; float32 and bfloat16.

    benchmarks/gpu.sh iteration                                  NCSN++ of the sizes of CIFAR-10 and FFHQ-1024
    DEVICE=cpu GPU_ROWS=FILE python benchmarks/iteration.py --networks tiny

Needs diffusers. A row of GPU_ROWS is kept for each case; what was measured before is not measured again.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import gpu_device  # first: it chooses which extension is loaded

# isort: split
import torch
from torch import Tensor

import tdas_ops
from benchmarks import best_torch, contenders, networks, published
from benchmarks.gpu_device import DEVICE, ON_GPU, Row, Run, first_line, keep, rounded

Network = Callable[[Tensor], Tensor]  # x in the network's dtype to the score
Iterate = Callable[[Network], object]

SIGMA, SNR, D = 1.0, contenders.SNR, 1e-3
N = D**0.5
EAGER, COMPILED, CAPTURED = "eager", "compiled", "captured"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PACKAGE, TORCH, PUBLISHED = "tdas_ops", "torch", "published"


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


def score_of(network: networks.Network, dtype: torch.dtype, device: str) -> Network:
    model = networks.ncsnpp(network).to(device=device, dtype=dtype)
    sigma = torch.full((network.shape[0],), SIGMA, device=device)
    return lambda x: model(x, sigma).sample


def ready(iterate: Iterate, network: Network, mode: str) -> Run:
    """The iteration as it is timed, after its first call."""
    if mode == CAPTURED:
        return gpu_device.captured(lambda i: iterate(network), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about what it leaves to torch
        iterate(network)
    return lambda i: iterate(network)


def measure(network: networks.Network, mode: str, dtype: str) -> Row:
    """Whole iterations, their updates alone (the network replaced by its own last result), and peak memory.

    The row has microseconds of an iteration and of its update, the update's share in percent, MiB, and whose iteration
    cannot run here, by whose update it is. Casts between the float32 state and the network's dtype are the update's.
    """
    score = score_of(network, DTYPES[dtype], DEVICE)
    constant = score(torch.zeros(network.shape, dtype=DTYPES[dtype], device=DEVICE)).clone()
    if mode == COMPILED:
        torch.compiler.reset()
        score = torch.compile(score, dynamic=False)
    m = contenders.masks(network.shape, "pds", True, DEVICE)
    whole: dict[str, Run] = {}
    alone: dict[str, Run] = {}
    mib: dict[str, float] = {}
    obstacles: dict[str, str] = {}
    for who, iterate in updates(network.shape, m, DTYPES[dtype], DEVICE).items():
        try:
            if ON_GPU:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            run = ready(iterate, score, mode)
            run(0)
            gpu_device.synchronize()
            if ON_GPU:
                mib[who] = rounded(torch.cuda.max_memory_allocated() / (1 << 20))
            alone[who] = ready(iterate, lambda x: constant, EAGER if mode == COMPILED else mode)
            whole[who] = run
        except Exception as error:
            obstacles[who] = f"{mode} fails here: {first_line(error)}"
    seconds, of_update = (gpu_device.in_turns(runs, most_calls=2) for runs in (whole, alone))
    row: Row = {
        "us": {who: rounded(s * 1e6) for who, s in seconds.items()},
        "update_us": {who: rounded(s * 1e6) for who, s in of_update.items()},
        "update_percent": {who: rounded(100 * of_update[who] / s) for who, s in seconds.items()},
    }
    if PACKAGE in seconds:
        row["ratio"] = {who: rounded(s / seconds[PACKAGE]) for who, s in seconds.items() if who != PACKAGE}
    return row | ({"mib": mib} if mib else {}) | ({"obstacles": obstacles} if obstacles else {})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(networks.NETWORKS), default=["CIFAR-10", "FFHQ-1024"])
    parser.add_argument("--modes", nargs="+", choices=[EAGER, COMPILED, CAPTURED], default=[EAGER, COMPILED, CAPTURED])
    chosen = parser.parse_args(arguments)
    if ON_GPU and not torch.cuda.is_available():
        raise SystemExit("iteration: torch finds no CUDA device; DEVICE=cpu measures without one")
    try:
        import diffusers  # noqa: F401
    except ImportError:
        raise SystemExit("iteration: diffusers is not installed (pip install diffusers)") from None
    for name in chosen.networks:
        network = networks.NETWORKS[name]
        m = contenders.masks(network.shape, "pds", True, DEVICE)
        for op in ("langevin_step", "step"):
            gpu_device.check(op, m, network.shape)
        for mode, dtype in itertools.product(chosen.modes, DTYPES):
            case = f"{name}, {dtype}, {mode}"
            if gpu_device.kept(case):
                print(f"iteration: {case} was measured before", flush=True)
                continue
            keep(case=case, shape=list(network.shape), **measure(network, mode, dtype))
            gc.collect()


if __name__ == "__main__":
    with torch.no_grad():
        main()
