"""`PreconditionedDenoiser`: the preconditioned drift for samplers that offer no hook for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tdas_ops import _latents, ops
from tdas_ops.preconditioner import Preconditioner


class PreconditionedDenoiser:
    """A denoiser that returns `x + D (denoised - x)` in the place of `denoised`.

    A sampler whose drift is a multiple of `denoised - x`, as those of k-diffusion, EDM and ComfyUI are, then takes that
    of method "pds". With a filter of another method, whose D is the identity, it is the model itself. Noise is left to
    `ColouredNoise`. Attributes are those of the model.

    Args:
        model: `(x, sigma, ...) -> denoised`, x and denoised latents of one shape, `[B, C, H, W]` or with frames
            `[B, C, T, H, W]` or `[B, T, C, H, W]`, which are filtered one by one.
        M: the filter, of a method.

    Source: PDS, arXiv 2207.02196, with the denoised image for the score: `denoised - x = sigma^2 score`.
    """

    def __init__(self, model: Callable[..., Tensor], M: Preconditioner) -> None:
        if not callable(model):
            raise TypeError(f"model: got {type(model).__name__}, expected a function of x and sigma")
        if not isinstance(M, Preconditioner):
            raise TypeError(f"M: got {type(M).__name__}, expected a Preconditioner")
        if M.method is None:
            raise ValueError(
                "M: got a filter without a method, expected method 'pds' (others leave the drift as it is)"
            )
        self.model, self.M = model, M

    def __call__(self, x: Tensor, sigma: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The model's image with the drift preconditioned, in its dtype; further arguments go to the model.

        Raises:
            ValueError: latents of another size than M, an image of another shape, or one that requires grad.
        """
        if self.M.method != "pds" or all(mask is None for mask in (self.M.freq, self.M.space, self.M.skew)):
            return self.model(x, sigma, *args, **kwargs)
        _latents.check_size(tuple(x.shape[1:]), self.M)
        denoised = self.model(x, sigma, *args, **kwargs)
        if denoised.shape != x.shape:
            raise ValueError(f"model: got an image {tuple(denoised.shape)}, expected {tuple(x.shape)}, the shape of x")
        # A large sigma makes a difference of large numbers: float32 at least.
        wide = torch.float64 if x.dtype is torch.float64 and x.device.type == "cpu" else torch.float32
        state, away = (_latents.as_frames(t.to(wide), self.M.shape[0]) for t in (x, denoised.to(wide) - x.to(wide)))
        self.M = self.M.to(x.device)
        made = ops.step(state.contiguous(), away.contiguous(), self.M, 1.0, noise_scale=0.0)
        return _latents.of_frames(made, tuple(x.shape)).to(denoised.dtype)

    def __getattr__(self, name: str) -> Any:
        if name in ("model", "M") or name.startswith("__"):  # while it is copied there is no model yet
            raise AttributeError(name)
        return getattr(self.model, name)

    def __repr__(self) -> str:
        return f"PreconditionedDenoiser({type(self.model).__name__}, {self.M})"
