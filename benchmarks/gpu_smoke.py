"""Whether the kernels work at all on this device: every kernel, size and mask against float64, and races.

    python benchmarks/gpu_smoke.py environment | repeat | GROUP      started by benchmarks/gpu.sh; see gpu_device.py

A case that fails does not stop the next. The exit status is 1 where one failed, and where the extension is of no use.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import gpu_device  # first: it chooses which extension is loaded

# isort: split
import torch
from torch import Tensor

import tdas_ops
from benchmarks.gpu_device import DEVICE, ON_GPU, Shape, first_line, keep, late, lost
from benchmarks.parity import DRAWN, GIVEN, relative
from tdas_ops import NoiseStream, _extension

FEW = [("R", "pds"), ("R", "tdas"), ("RA", "pds")]
USUAL = [*FEW, ("RA", "tdas"), ("Rw", "pds"), ("RAw", "pds")]
ON_CHIP = list(itertools.product((32, 64, 128), repeat=2))
NORMALS = [(1, 1, 1, 1), (2, 3, 5, 8), (3, 2, 7, 33), (2, 2, 64, 64), (1, 1, 300, 129)]
ELEMENTS = 1 << (24 if ON_GPU else 17)  # of a full device
REPEATED, RUNS = (32, 64, 128, 256, 1024), 16

Case = tuple[Shape, str, str, int]  # (C, H, W), masks, method, samples


def planes(height: int) -> list[Case]:
    return [((3, *p), *kind, 3) for p in ON_CHIP if p[0] == height for kind in USUAL]


GROUPS: dict[str, list[Case]] = {
    "32": planes(32),
    "64": planes(64),
    "128": planes(128),
    "large": [((1, 65536 // n, n), *kind, 3) for n in (32, 64, 128, 256, 512, 1024, 2048) for kind in USUAL],
    "512": [((1, n, n), *kind, 2) for n in (256, 512) for kind in USUAL],
    "1024": [((1, 1024, 1024), *kind, 2) for kind in USUAL],
    "2048": [((1, 2048, 2048), *kind, 1) for kind in FEW],
    "pixels": [
        ((3, *p), masks, method, 3)
        for p in ((32, 32), (7, 9), (33, 34))
        for masks in ("A", "")
        for method in ("pds", "tdas")
    ],
    # Each compiles kernels of its own: a few, and the tests have the rest.
    "composed": [((2, *p), *kind, 3) for p, kind in (((48, 40), FEW[0]), ((9, 10), FEW[1]), ((9, 10), ("RAw", "pds")))],
    # Of a variant of the kernels: what its times are taken of.
    "variant": [((3, n, n), *kind, 3) for n in (32, 64, 128) for kind in USUAL]
    + [((1, n, n), *kind, 2) for n in (256, 512, 1024) for kind in FEW],
}

Op = Callable[[Tensor, Tensor, tdas_ops.Preconditioner, NoiseStream], Tensor]


def ops(masks: str) -> dict[str, tuple[Op, float]]:
    """What is run with these masks, and the bound on its error; outputs are poisoned."""
    nan = lambda x: torch.full_like(x, float("nan"))
    found: dict[str, tuple[Op, float]] = {
        "step": (lambda x, v, M, noise: tdas_ops.step(x, v, M, 0.1, noise=noise, out=nan(x)), DRAWN),
        "given": (lambda x, v, M, noise: tdas_ops.step(x, v, M, 0.1, noise=v.flip(0), out=nan(x)), GIVEN),
    }
    if masks != "RAw":
        found["snr"] = (lambda x, v, M, noise: tdas_ops.langevin_step(x, v, M, 0.16, noise=noise, out=nan(x)), DRAWN)
    if "w" not in masks:
        found["noise"] = (lambda x, v, M, noise: tdas_ops.noise(M, x.shape, noise, out=nan(x)), DRAWN)
        found["MMt"] = (lambda x, v, M, noise: tdas_ops.precondition(v, M, "MMt", out=nan(x)), GIVEN)
    return found


def errors_of(shape: Shape, masks: str, method: str, batch: int) -> tuple[dict[str, float], bool]:
    """Relative RMS errors against float64 on the CPU, and whether all are within their bounds."""
    generator = torch.Generator().manual_seed(1)
    x, v = (torch.randn(batch, *shape, generator=generator) for _ in range(2))
    M = gpu_device.preconditioner(shape, masks, method, "cpu")
    there = M.to(DEVICE), x.to(DEVICE), v.to(DEVICE)
    errors, right = {}, True
    for name, (run, allowed) in ops(masks).items():
        stream = lambda: NoiseStream(5, first_sample=7, draw=2)
        with tdas_ops.use_backend("reference"):
            wanted = run(x.double(), v.double(), M, stream())
        error = relative(run(there[1], there[2], there[0], stream()).cpu(), wanted)
        errors[name] = float(f"{error:.2g}")
        right &= error <= allowed
    return errors, right


def normals() -> int:
    """White noise of every kernel against that of the reference, in pixels and in frequencies."""
    failed = 0
    kinds = ("cuda", "triton") if ON_GPU else ("cpp",)
    word = lambda value, device: torch.tensor([value], device=device)
    for kind, shape, spectral in itertools.product(kinds, NORMALS, (False, True)):
        case = f"normals {kind} {'x'.join(map(str, shape))}{' spectral' if spectral else ''}"
        try:
            got, wanted = (
                torch.full(shape, complex("nan+nanj"), dtype=torch.complex64, device=d) for d in (DEVICE, "cpu")
            )
            overloads = torch.ops.tdas_ops.normals
            for out, overload in ((got, getattr(overloads, kind)), (wanted, overloads.reference)):
                overload(out, word(-7046029254386353131, out.device), word(12884901890, out.device), 5, spectral)
            error = float((got.cpu() - wanted).abs().max())
            failed += not error < 1e-5
            keep(case=case, ok=error < 1e-5, error=error)
        except Exception as error:
            failed += 1
            keep(case=case, ok=False, why=first_line(error))
    return failed


def smoke(group: str) -> int:
    if group == "normals":
        return normals()
    failed = 0
    for shape, masks, method, batch in GROUPS[group]:
        case = f"{'x'.join(map(str, shape))} {masks or 'none'} {method}"
        if late(case):
            return failed + 1
        try:
            errors, right = errors_of(shape, masks, method, batch)
            failed += not right
            keep(case=case, ok=right, **errors)
        except Exception as error:
            failed += 1
            keep(case=case, ok=False, why=first_line(error))
            if lost(error):
                break
    return failed


def repeat() -> int:
    """An error that moves is a race: a full device, the same bits again and again."""
    failed = 0
    for size, masks, method in itertools.product(REPEATED, ("R", "RA"), ("pds", "tdas")):
        shape = (max(2, ELEMENTS // (3 * size * size)), 3, size, size)
        M = gpu_device.preconditioner(shape[1:], masks, method)
        x, v = (torch.randn(shape, device=DEVICE) for _ in range(2))
        for op in ("step", "snr"):
            case = f"{op} {method} {masks} {size}"
            if late(case):
                return failed + 1
            run = partial(lambda of, *given: of(*given, NoiseStream(5)), ops(masks)[op][0], x, v, M)
            try:
                first = run()
                moved = sum(not torch.equal(run(), first) for _ in range(RUNS - 1))
                right = not moved and bool(first.isfinite().all())
                failed += not right
                keep(case=case, ok=right, moved=moved, runs=RUNS)
            except Exception as error:
                failed += 1
                keep(case=case, ok=False, why=first_line(error))
                if lost(error):
                    return failed
    return failed


def obstacle() -> str | None:
    """Why the kernels of the extension cannot be measured on this device, or None."""
    module = _extension.load()
    if module is None:
        return f"extension: {_extension.reason()}"
    if not ON_GPU:
        return None
    if "cuda" in tdas_ops.backend_info()["missing"]:
        return f"extension: {tdas_ops.backend_info()['missing']['cuda']}"
    major, minor = torch.cuda.get_device_capability()
    built = [tuple(map(int, name.split("."))) for name in module.build_info()["cuda_architectures"]]
    if not any(own[0] == major and own[1] <= minor for own in built):
        names = ", ".join(module.build_info()["cuda_architectures"])
        device = torch.cuda.get_device_name()
        return f"extension: got one built for {names}, expected one for {major}.{minor} of {device}"
    _, right = errors_of((3, 64, 64), "R", "pds", 2)
    return None if right else "extension: its step of 64 x 64 is wrong on this device"


def environment() -> int:
    keep(**gpu_device.device_circumstances())
    try:
        found = obstacle()
    except Exception as error:
        found = f"extension: {first_line(error)}"
    if found:
        keep(ok=False, why=found)
    return int(found is not None)


def main() -> int:
    torch.set_grad_enabled(False)
    what = sys.argv[1]
    if ON_GPU and not torch.cuda.is_available():
        keep(ok=False, why="DEVICE: got 'cuda', expected a device that torch finds")
        return 1
    return bool({"environment": environment, "repeat": repeat}.get(what, lambda: smoke(what))())


if __name__ == "__main__":
    sys.exit(main())
