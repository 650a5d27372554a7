"""Random fields of one spectrum by several libraries: time a point, memory, error of the spectrum, in one table.

    pip install powerbox gstools        # a library that is missing is left out
    python -m experiments.random_fields

Each figure comes from a process of its own with one thread. The page is RESULTS.md beside this file.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.page import number, table

GRIDS = [(4096,), (1 << 20,), (256, 256), (1024, 1024), (721, 1440), (64,) * 3, (128,) * 3]
LENGTH = 2.0  # of the correlation exp(-r^2 / (2 LENGTH^2)), in points
SLOW = 1 << 17  # points that GSTools is measured up to: its time a point does not depend on their number
PAGE = Path(__file__).with_name("RESULTS.md")
Draw = Callable[[int], Any]


def P(k: Any, dimensions: int, exp: Callable[[Any], Any]) -> Any:
    return (2 * math.pi * LENGTH**2) ** (dimensions / 2) * exp(-0.5 * (k * LENGTH) ** 2)


def ours(shape: tuple[int, ...], double: bool = False) -> Draw:
    import torch

    from tdas_ops import GaussianField

    made = GaussianField(lambda k: P(k, len(shape), torch.exp), shape)
    dtype = torch.float64 if double else torch.float32
    return lambda seed: made.sample(seed, dtype=dtype)[0]


def plain_torch(shape: tuple[int, ...], double: bool = False) -> Draw:
    """White noise, a real FFT, the root of the spectrum, and back."""
    import torch

    dtype = torch.float64 if double else torch.float32
    axes = [torch.fft.fftfreq(n, dtype=dtype) for n in shape[:-1]] + [torch.fft.rfftfreq(shape[-1], dtype=dtype)]
    k = 2 * math.pi * torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    root = P(k, len(shape), torch.exp).sqrt()

    def draw(seed: int) -> Any:
        z = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
        return torch.fft.irfftn(torch.fft.rfftn(z).mul_(root), s=shape)

    return draw


def powerbox(shape: tuple[int, ...]) -> Draw:
    """A new PowerBox a field: one has one seed."""
    import numpy
    import powerbox

    size = tuple(map(float, shape))
    pk = lambda k: P(k, len(shape), numpy.exp)
    return lambda seed: powerbox.PowerBox(shape=shape, size=size, pk=pk, seed=seed, nthreads=1).delta_x()


def gstools(shape: tuple[int, ...]) -> Draw:
    """The randomisation method with its 1000 modes."""
    import gstools

    model = gstools.Gaussian(dim=len(shape), var=1, len_scale=math.sqrt(2) * LENGTH, rescale=1)
    axes = [list(range(n)) for n in shape]
    return lambda seed: gstools.SRF(model, seed=seed).structured(axes)


METHODS: dict[str, Callable[[tuple[int, ...]], Draw]] = {
    "tdas_ops": ours,
    "tdas_ops, float64": lambda shape: ours(shape, double=True),
    "torch": plain_torch,
    "torch, float64": lambda shape: plain_torch(shape, double=True),
    "powerbox": powerbox,
    "GSTools": gstools,
}
PACKAGES = {"powerbox": "powerbox", "GSTools": "gstools"}


def measure(method: str, shape: tuple[int, ...]) -> dict[str, float]:
    """CPU time a point of one thread, least of several fields, and of making what they share; peak of memory above that
    of the imports; RMS of the error of the spectrum in standard errors, over shells up to `k LENGTH = 3`."""
    import torch

    from tdas_ops import power_spectrum

    torch.set_num_threads(1)
    points = math.prod(shape)
    METHODS[method]((16,) * len(shape))(0)  # imports, threads, tables
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = math.inf
    for _ in range(3):
        begin = time.process_time()
        draw = METHODS[method](shape)
        made = min(made, time.process_time() - begin)
    times, seed = [], 0
    while seed < 3 or (sum(times) < 1 and seed < 200):
        begin = time.process_time()
        field = draw(seed)
        times.append(time.process_time() - begin)
        seed += 1
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    members = max(4, min(64, (1 << 19) // points)) if method != "GSTools" else 4
    total, found = 0.0, None
    for each in range(members):
        field = torch.as_tensor(draw(1000 + each))
        found = power_spectrum(field[None])
        total = total + found.power
    assert found is not None
    errors = (total / members / P(found.k, len(shape), torch.exp) - 1) * (found.modes * members / 2).sqrt()
    kept = (found.k * LENGTH > 0.2) & (found.k * LENGTH < 3)
    error = float(errors[kept].square().mean().sqrt())
    return {"made": made / points, "each": min(times) / points, "memory": memory * 1024 / points, "error": error}


def rows(methods: list[str], grids: list[tuple[int, ...]]) -> list[dict[str, Any]]:
    found = []
    for shape in grids:
        for method in methods:
            if method == "GSTools" and math.prod(shape) > SLOW:
                continue
            call = [sys.executable, "-m", "experiments.random_fields", "--measure", method, *map(str, shape)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            done = subprocess.run(call, env=environment, capture_output=True, text=True)
            if done.returncode:
                print(f"{method}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            found.append({"grid": shape, "method": method, **json.loads(done.stdout)})
            print(found[-1], flush=True)
    return found


def page(found: list[dict[str, Any]]) -> str:
    from tdas_ops import machine_info

    about = machine_info()
    versions = [f"{name} {importlib.metadata.version(package)}" for name, package in PACKAGES.items()]
    lines = []
    for row in found:
        same = next((r["each"] for r in found if r["grid"] == row["grid"] and r["method"] == "tdas_ops"), math.nan)
        memory = number(row["memory"]) if math.prod(row["grid"]) >= 1 << 16 else "-"
        cells = [number(1e9 * row["each"]), number(row["each"] / same), number(1e9 * row["made"]), memory]
        lines.append([" x ".join(map(str, row["grid"])), row["method"], *cells, f"{row['error']:.2f}"])
    header = ["grid", "method", "ns a point", "over tdas_ops", "made once, ns", "bytes a point", "spectrum error"]
    text = [
        "# Random fields",
        "",
        "Generated by `python -m experiments.random_fields`, which says how. One field at a time, one thread: CPU time",
        "a point, least of several; the same for what is made once for a spectrum and grid; peak of memory above that",
        "of the imports, the result included; RMS of the error of the spectrum in standard errors, 1 for sampling",
        "error alone. float32 for `tdas_ops` and `torch`, float64 for the others. GSTools has modes in place of a",
        "transform: its time does not depend on the grid, its spectrum scatters with its 1000 modes.",
        "",
        f"{about['cpu']}, {about['instruction_set']}, torch {about['torch']}, {', '.join(versions)}.",
        "",
        *table(header, lines, words=2),
    ]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        method, *shape = asked.measure
        print(json.dumps(measure(method, tuple(map(int, shape)))))
        return
    from tdas_ops._files import write_whole

    text = page(rows(asked.methods, GRIDS))
    write_whole(PAGE, lambda partial: partial.write_text(text))


if __name__ == "__main__":
    main()
