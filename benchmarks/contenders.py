"""Who takes part in the update benchmarks, on any device: the package and the two baselines, on the same masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import tdas_ops
from benchmarks import best_torch, published


def updates(
    shape: tuple[int, ...], method: str, space: bool, device: str = "cpu"
) -> dict[str, Callable[[Tensor, Tensor], object]]:
    """One Langevin update `(x, v) -> x'` of step size 0.1 by each contender; shape is `(B, C, H, W)`."""
    height, width = shape[-2:]
    radii = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    R = (1 + radii).expand(shape[1:]).contiguous()
    A = torch.rand(shape[1:]) + 0.5 if space else None
    M = tdas_ops.Preconditioner.from_masks(R, A, method=method).to(device)
    stream = tdas_ops.NoiseStream(seed=7, device=device)
    R, A = R.to(device), None if A is None else A.to(device)
    half = R[..., : width // 2 + 1].contiguous()
    full = torch.ones(shape[1:], device=device) if A is None else A
    compose = getattr(best_torch, method)
    n = 0.2**0.5
    return {
        "tdas_ops": lambda x, v: tdas_ops.step(x, v, M, 0.1, noise=stream),
        "best torch": lambda x, v: compose(x, v, half, A, 0.1, n),
        "published": lambda x, v: published.update(x, v, R, full, 0.1, n, torch.randn_like(x), method),
    }
