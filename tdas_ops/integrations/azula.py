"""A sampler of `azula` with a preconditioner; this module needs `azula`.

sampler = PreconditionedSampler(denoiser, M, NoiseStream(0), eta=1.0, steps=64)
x = sampler(sampler.init((4, 3, 64, 64)))

Posterior sampling is azula's guidance: `PreconditionedSampler(MMPSDenoiser(denoiser, y, A, cov_y), M, ...)`, or any
other denoiser of `azula.guidance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tdas_ops import ops
from tdas_ops.integrations._filters import checked, fitting
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner

try:
    from azula.sample import DDIMSampler
except ModuleNotFoundError as error:
    if error.name != "azula":
        raise
    raise ImportError(
        "tdas_ops.integrations.azula: the package azula is missing; `pip install azula` provides it"
    ) from None


class PreconditionedSampler(DDIMSampler):
    """`DDIMSampler`, which is Euler's method at eta = 0 and DDPM at 1, with M in its start, drift and noise.

    From t to s the library makes `(a_s / a_t) x + c (x - a_t x0) + n z`, with a and sigma of its schedule; here it is
    `(a_s / a_t) x + D c (x - a_t x0) + n M z`.

    Args:
        denoiser: an `azula.denoise.Denoiser`.
        M: the preconditioner, `[C, H, W]`; it goes to the device of x.
        noise: a `NoiseStream`, or what `NoiseStream.of` takes; one draw for the start and one a step.
        eta: from 0 to 1.
        options: start, stop, steps and so on, as there.

    Raises:
        TypeError: arguments of other types.

    Source: PDS, arXiv 2302.06504; DDIM, arXiv 2010.02502, equation 12.
    """

    def __init__(self, denoiser: Any, M: Preconditioner, noise: Any, eta: float = 0.0, **options: Any) -> None:
        super().__init__(denoiser, eta=eta, **options)
        self.filter, self.noise = checked("M", M), NoiseStream.of(noise)

    @torch.no_grad()
    def init(self, shape: Sequence[int], mean: Any = 0.0, var: Any = 1.0, **options: Any) -> Tensor:
        """A start `[B, C, H, W]` whose noise is filtered, on the device of M unless `device` says which."""
        a, sigma = self.denoiser.schedule(self.timesteps[0])
        device = torch.device(options.pop("device", None) or self.filter.device)
        M = self._filter(shape, device)
        z = ops.noise(M, tuple(shape), self.noise)
        a, sigma = a.to(device, torch.float32), sigma.to(device, torch.float32)
        x: Tensor = a * torch.as_tensor(mean, device=device) + (a**2 * var + sigma**2) ** 0.5 * z
        return x.to(**options)

    @torch.no_grad()
    def step(self, x_t: Tensor, t: Tensor, s: Tensor, **options: Any) -> Tensor:
        """One step; arguments as there.

        Raises:
            ValueError: a filter of another size.
        """
        (a_s, sigma_s), (a_t, sigma_t) = self.denoiser.schedule(s), self.denoiser.schedule(t)
        tau = (self.eta * (1 - (a_t / a_s * sigma_s / sigma_t) ** 2)).clamp(0, 1)
        x0 = self.denoiser(x_t, t, **options).mean
        c = sigma_s * (1 - tau).sqrt() / sigma_t - a_s / a_t
        v = (c * (x_t - a_t * x0)).to(x_t.dtype)
        n = (sigma_s * tau.sqrt()).to(x_t.dtype)
        M = self._filter(x_t.shape, x_t.device)
        return ops.step((a_s / a_t * x_t).to(x_t.dtype), v.detach(), M, 1.0, noise_scale=n, noise=self.noise)

    def _filter(self, shape: Sequence[int], device: torch.device) -> Preconditioner:
        self.filter = fitting("M", self.filter, shape).to(device)
        return self.filter
