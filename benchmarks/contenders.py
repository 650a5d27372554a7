"""Who takes part in the benchmarks of the ops, on any device: the package and the two baselines, on the same masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import tdas_ops
from benchmarks import best_torch, published

STEP_SIZE, SNR = 0.1, 0.16

Update = Callable[[Tensor, Tensor], object]
Op = Callable[[Tensor, Tensor, "tdas_ops.NoiseStream | Tensor"], Tensor]


class Masks(NamedTuple):
    """One preconditioner as each contender wants it: R as full spectrum and as half spectrum."""

    M: tdas_ops.Preconditioner
    R: Tensor
    half: Tensor
    A: Tensor | None


def masks(shape: tuple[int, ...], method: str, space: bool, device: str = "cpu") -> Masks:
    """A rising frequency mask and, if asked for, a space mask; shape is `(B, C, H, W)`."""
    height, width = shape[-2:]
    radii = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    R = (1 + radii).expand(shape[1:]).contiguous()
    A = torch.rand(shape[1:], generator=torch.Generator().manual_seed(1)) + 0.5 if space else None
    M = tdas_ops.Preconditioner.from_masks(R, A, method=method).to(device)
    R, A = R.to(device), None if A is None else A.to(device)
    return Masks(M, R, R[..., : width // 2 + 1].contiguous(), A)


def package(op: str, M: tdas_ops.Preconditioner) -> Op:
    """An op of the package as a function of (x, v, noise); it leaves out what it has no use for."""
    calls: dict[str, Op] = {
        "step": lambda x, v, noise: tdas_ops.step(x, v, M, STEP_SIZE, noise=noise),
        "langevin_step": lambda x, v, noise: tdas_ops.langevin_step(x, v, M, SNR, noise=noise),
        "noise": lambda x, v, noise: tdas_ops.noise(M, x.shape, noise, dtype=x.dtype),
        "precondition": lambda x, v, noise: tdas_ops.precondition(v, M, "MMt"),
    }
    return calls[op]


def baselines(op: str, m: Masks) -> dict[str, Update]:
    """The same op by the baselines; their noise is the first draw of torch's generator."""
    M, R, half, A = m
    n = (2 * STEP_SIZE) ** 0.5
    compose = getattr(best_torch, M.method or "pds")
    z = torch.randn_like
    # In the dtype of x, as a user of a network under autocast must have them: torch's CPU FFTs take no half precision.
    like = lambda v: v if v.dtype is torch.float32 else v.float()
    calls: dict[str, dict[str, Update]] = {
        "step": {
            "best torch": lambda x, v: compose(x, like(v), half, A, STEP_SIZE, n),
            "published": lambda x, v: published.update(x, like(v), R, A, STEP_SIZE, n, z(x), M.method)[0],
        },
        "langevin_step": {
            "best torch": lambda x, v: best_torch.langevin(x, like(v), half, A, SNR, M.method),
            "published": lambda x, v: published.langevin(x, like(v), R, A, SNR, 1.0, z(x), M.method)[0],
        },
        "noise": {
            "best torch": lambda x, v: best_torch.noise(x, half, A),
            "published": lambda x, v: published.apply_m(z(x), R, A),
        },
        "precondition": {
            "best torch": lambda x, v: best_torch.mmt(v, half, A),
            "published": lambda x, v: published.apply_mmt(v, R, A),
        },
    }
    return calls[op]


def compiled(m: Masks, op: str = "step") -> Update:
    """The best torch composition of a step or langevin_step through torch.compile, on planes of one shape."""
    torch.compiler.reset()  # or the limit on recompilations would quietly leave later shapes uncompiled
    if op == "langevin_step":
        langevin = torch.compile(best_torch.langevin, dynamic=False)
        return lambda x, v: langevin(x, v, m.half, m.A, SNR, m.M.method or "pds")
    n = (2 * STEP_SIZE) ** 0.5
    compose = torch.compile(getattr(best_torch, m.M.method or "pds"), dynamic=False)
    return lambda x, v: compose(x, v, m.half, m.A, STEP_SIZE, n)


def transforms(v: Tensor) -> Tensor:
    """Two real transforms and nothing else: the least that a composition from torch.fft does with v."""
    return torch.fft.irfft2(torch.fft.rfft2(v), s=v.shape[-2:])
