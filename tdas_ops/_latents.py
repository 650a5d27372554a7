"""Filters for latents of four or five axes: which filter fits, and frames as samples of their own."""

from __future__ import annotations

import math

from torch import Tensor

from tdas_ops.preconditioner import Preconditioner


def check_size(shape: tuple[int, ...], M: Preconditioner) -> None:
    """Whether M fits latents `[B, C, H, W]`, or with frames, `[B, C, T, H, W]` or `[B, T, C, H, W]`.

    Raises:
        ValueError: it does not; the message has the command that makes one of their size.
    """
    channels, *size = M.shape
    if len(shape) not in (4, 5) or 0 in shape or channels not in shape[1:-2]:
        expected = f"[B, {channels}, H, W], or five axes with T frames before or behind the channels, as M has them"
        raise ValueError(f"x: got shape {shape}, expected {expected}")
    if list(shape[-2:]) != size:
        command = f"M.resize({shape[-2]}, {shape[-1]})"
        raise ValueError(
            f"x: got latents of {shape[-2:]}, expected {tuple(size)} as M has it ({command} makes another)"
        )


def repeated(M: Preconditioner, shape: tuple[int, ...]) -> Preconditioner:
    """M for `[B, C T, H, W]`, the planes of latents in their order; not for matrices."""
    if len(shape) == 4:
        return M
    before, behind = (1, shape[2]) if shape[1] == M.shape[0] else (shape[1], 1)
    freq, space, skew = (
        None if mask is None else mask.repeat_interleave(behind, 0).repeat(before, 1, 1)
        for mask in (M.freq, M.space, M.skew)
    )
    planes = (math.prod(shape[1:-2]), *M.shape[1:])
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
