"""Filters for latents of four or five axes: which filter fits, and frames as samples of their own."""

from __future__ import annotations

import math

from torch import Tensor

from tdas_ops.preconditioner import Preconditioner, of_size


def check_size(shape: tuple[int, ...], M: Preconditioner) -> None:
    """Whether M fits samples `[C, H, W]`, or with frames, `[C, T, H, W]` or `[T, C, H, W]`.

    Raises:
        ValueError: it does not; the message has the command that makes one of their size.
    """
    channels, *size = M.shape
    if len(shape) not in (3, 4) or 0 in shape or channels not in shape[:-2]:
        expected = f"[{channels}, H, W] as M has it, or the same with frames before or behind the channels"
        raise ValueError(f"x: got samples of shape {shape}, expected {expected}")
    if list(shape[-2:]) != size:
        command = of_size(M, (1, channels, *shape[-2:]))
        raise ValueError(f"x: got latents of {shape[-2:]}, expected {tuple(size)} as M has it{command}")


def repeated(M: Preconditioner, shape: tuple[int, ...]) -> Preconditioner:
    """M for the planes of samples in their order, `[C T, H, W]`; not for matrices."""
    if len(shape) == 3:
        return M
    before, behind = (1, shape[1]) if shape[0] == M.shape[0] else (shape[0], 1)
    freq, space, skew = (
        None if mask is None else mask.repeat_interleave(behind, 0).repeat(before, 1, 1)
        for mask in (M.freq, M.space, M.skew)
    )
    planes = (math.prod(shape[:-2]), *M.shape[1:])
    return Preconditioner(planes, freq, space, skew, M.method, M.provenance, M.device)


def as_frames(x: Tensor, channels: int) -> Tensor:
    """`[B T, C, H, W]` of a latent with frames, x itself without."""
    if x.dim() == 4:
        return x
    return (x.transpose(1, 2) if x.shape[1] == channels else x).flatten(0, 1).contiguous()


def of_frames(frames: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What `as_frames` made frames of."""
    if len(shape) == 4:
        return frames
    if shape[1] == frames.shape[1]:
        return frames.unflatten(0, (shape[0], shape[2])).transpose(1, 2)
    return frames.reshape(shape)
