"""A hook that holds known pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from tdas_ops import ops
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.samplers._run import Hook
from tdas_ops.sde import Marginal


def inpaint(known: Tensor, mask: Tensor) -> Hook:
    """A hook that holds part of the image: where `mask` is 1 the state follows `known`, noised to the current level,
    and the returned samples are `known`.

    Args:
        known: the image, `[C, H, W]` or `[B, C, H, W]`, on the device of the run.
        mask: 1 where the image is known, 0 where it is to be made; broadcasts to the state.

    Raises:
        TypeError: known or mask is no tensor.

    Source: Song et al., arXiv 2011.13456, appendix I.2.
    """

    def hook(x: Tensor, x_mean: Tensor, level: Marginal, noise: NoiseStream) -> tuple[Tensor, Tensor]:
        white = Preconditioner.identity(tuple(x.shape[1:]), method=None).to(x.device)
        noised = level.mean_scale * known + ops.noise(white, x.shape, noise, level.std)
        return torch.where(held, noised, x).to(x.dtype), torch.where(held, known, x_mean).to(x.dtype)

    for name, given in (("known", known), ("mask", mask)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name}: got {type(given).__name__}, expected a tensor")
    held = mask.bool()
    return hook
