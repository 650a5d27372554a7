"""Posterior sampling with a preconditioner in `deepinv`, which this module needs: Langevin iterations, an Euler solver.

iterator = PreconditionedULAIterator({"step_size": 1e-3, "alpha": 1.0, "sigma": 0.05}, M, NoiseStream(0))
mean, variance = BaseSampling(iterator, L2(sigma=0.1), prior, max_iter=500).sample(y, physics)

Both take any data fidelity, prior and physics of that library. M of method "pds" keeps the posterior, up to the
discretisation; "tdas" filters the noise alone and does not keep it. In the library's bound `step_size` counts times the
largest value of D.

Langevin steps need as many iterations as D times the curvature of the log posterior has ratio between its largest and
smallest value. M that takes what the data (of deviation s) determine leaves little of it:

- inpainting: `Preconditioner.from_masks(space=(mask / s**2 + 1 / v).rsqrt())`, v the variance of a pixel of the prior;
- deblurring: `Preconditioner.from_masks((abs(h)**2 / s**2 + 1 / L).rsqrt(), shape=shape)`, h the transfer function and
  L the power spectrum of the prior, both half spectra `[C, H, W // 2 + 1]`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tdas_ops import ops
from tdas_ops.integrations._filters import checked, fitting
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner

try:
    from deepinv.sampling import EulerSolver, ULAIterator
except ModuleNotFoundError as error:
    if error.name != "deepinv":
        raise
    raise ImportError(
        "tdas_ops.integrations.deepinv: the package deepinv is missing; `pip install deepinv` provides it"
    ) from None


class PreconditionedULAIterator(ULAIterator):
    """`ULAIterator` whose step is `x + eta D v + sqrt(2 eta) M z`, v the gradient of the log posterior.

    Args:
        algo_params: "step_size" eta, "alpha" and "sigma", as there.
        M: the preconditioner, `[C, H, W]`; it goes to the device of x.
        noise: a `NoiseStream`, or what `NoiseStream.of` takes; one draw an iteration. The seed of
            `BaseSampling.sample` has no part in it.
        clip: (low, high) of the projection, as there.

    Raises:
        TypeError: arguments of other types.

    Source: PDS, arXiv 2207.02196; Laumont et al., arXiv 2103.04715, algorithm 2.
    """

    def __init__(
        self, algo_params: dict[str, float], M: Preconditioner, noise: Any, clip: tuple[float, float] | None = None
    ) -> None:
        super().__init__(algo_params, clip=clip)
        self.filter, self.noise = checked("M", M), NoiseStream.of(noise)

    def forward(
        self,
        X: dict[str, Tensor],
        y: Tensor,
        physics: Any,
        cur_data_fidelity: Any,
        cur_prior: Any,
        iteration: int,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """The next state `{"x": x'}`; arguments as there.

        Raises:
            ValueError: a filter of another size.
        """
        x, p = X["x"], self.algo_params
        self.filter = fitting("M", self.filter, x.shape).to(x.device)
        v = -cur_data_fidelity.grad(x, y, physics) - p["alpha"] * cur_prior.grad(x, p["sigma"])
        x = ops.step(x, v, self.filter, p["step_size"], noise=self.noise)
        return {"x": x.clamp(*self.clip) if self.clip else x}


class PreconditionedEulerSolver(EulerSolver):
    """`EulerSolver` whose step is `x + dt D drift + sqrt(dt) g M z`, for `DiffusionSDE` and `PosteriorDiffusion`.

    Args:
        M: the preconditioner, `[C, H, W]`; it goes to the device of x.
        noise: a `NoiseStream`, or what `NoiseStream.of` takes; one draw a step. A coloured start is given as
            `x_init=tdas_ops.noise(M, shape, stream, scale)`, scale the `sigma_t` of the first time; a shape in its
            place makes a white one.
        timesteps, t_start, t_end, num_steps: as there.

    The state keeps its dtype; on a GPU a step of float64 is made in float32.

    Raises:
        TypeError: arguments of other types.
    """

    def __init__(
        self,
        M: Preconditioner,
        noise: Any,
        timesteps: Any = None,
        t_start: float | None = None,
        t_end: float | None = None,
        num_steps: int | None = None,
    ) -> None:
        super().__init__(timesteps, t_start, t_end, num_steps)
        self.filter, self.noise = checked("M", M), NoiseStream.of(noise)

    def step(self, sde: Any, t0: Any, t1: Any, x0: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, int]:
        """One step from time t0 to t1; arguments and result as there.

        Raises:
            ValueError: a filter of another size.
        """
        drift, diffusion = sde.discretize(x0, t0, *args, **kwargs)
        dt = float(abs(t1 - t0))
        single = x0.dtype is not torch.float64 or x0.device.type != "cpu"
        x = x0.float() if single else x0
        self.filter = fitting("M", self.filter, x.shape).to(x.device)
        n = float(diffusion) * dt**0.5
        made = ops.step(x, drift.to(x.dtype), self.filter, dt, noise_scale=n, noise=self.noise)
        return made.to(x0.dtype), 1
