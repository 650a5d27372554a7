"""Predictors and correctors with a preconditioner for score_sde_pytorch (Song et al., arXiv 2011.13456).

`register` adds them to its module `sampling`, under the names of `PREDICTORS` and `CORRECTORS`, which a configuration
then gives; `prior` filters the start of its SDE. `docs/integrations/score_sde.md` has a script.

With the identity they are its own ones. What differs in meaning:

- Every drift is preconditioned as a whole, with the linear part of VP and sub-VP, and so is Euler-Maruyama, which the
  published PDS code leaves unfiltered.
- Times and labels are those of the repository: it ends at its eps whatever the number of steps, and tells a network of
  N discrete labels those of the shorter chain. `samplers.pc` moves the end time and keeps the labels, so that runs of
  fewer steps than the native count differ.
- With `predictor = "none"` the repository returns the corrector's last x, noise included, also with noise_removal;
  `samplers.pc(predictor=None)` returns the mean.
- For sub-VP, whose correctors lack a table there, alpha is `1 - beta` of its betas, as in `samplers.pc`.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor

from tdas_ops import ops
from tdas_ops.integrations._filters import fitting
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner

PREDICTORS = ("tdas_reverse_diffusion", "tdas_euler_maruyama", "tdas_ancestral")
CORRECTORS = ("tdas_langevin", "tdas_ald")


def register(
    sampling: Any,
    M: Preconditioner | None,
    noise: Any,
    *,
    norm: Literal["batch", "sample"] | None = None,
) -> None:
    """Adds predictors and correctors to the registries of the module `sampling` of score_sde_pytorch.

    Their names are those of `PREDICTORS` and `CORRECTORS`. Called again, it replaces them.

    Args:
        sampling: the module, or what has its `register_predictor`, `register_corrector`, `Predictor` and `Corrector`.
        M: the preconditioner, or None for the identity; it goes to the device of the first x.
        noise: a `NoiseStream`, or what `NoiseStream.of` takes; every update takes one draw.
        norm: how the Langevin corrector takes its norms, see `tdas_ops.langevin_step`; by default "sample" for a stream
            that names its samples, else "batch", as there.

    Raises:
        TypeError: a module without these registries, or arguments of other types.
    """
    for name in ("register_predictor", "register_corrector", "Predictor", "Corrector", "_PREDICTORS", "_CORRECTORS"):
        if not hasattr(sampling, name):
            got = getattr(sampling, "__name__", type(sampling).__name__)
            raise TypeError(f"sampling: got {got} without {name}, expected the module sampling of score_sde_pytorch")
    if M is not None and not isinstance(M, Preconditioner):
        raise TypeError(f"M: got {type(M).__name__}, expected a Preconditioner or None")
    if norm not in (None, "batch", "sample"):
        raise ValueError(f"norm: got {norm!r}, expected 'batch', 'sample' or None")
    stream = NoiseStream.of(noise)
    step = _Step(M, stream, norm or ("sample" if stream.named else "batch"))
    for registry, names in ((sampling._PREDICTORS, PREDICTORS), (sampling._CORRECTORS, CORRECTORS)):
        for name in names:
            registry.pop(name, None)

    @sampling.register_predictor(name="tdas_reverse_diffusion")
    class ReverseDiffusion(sampling.Predictor):  # type: ignore[misc]
        def update_fn(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            f, G = self.rsde.discretize(x, t)
            return step(x, -f, 1.0, G)

    @sampling.register_predictor(name="tdas_euler_maruyama")
    class EulerMaruyama(sampling.Predictor):  # type: ignore[misc]
        def update_fn(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            drift, diffusion = self.rsde.sde(x, t)
            return step(x, -drift, 1 / self.rsde.N, diffusion * self.rsde.N**-0.5)

    @sampling.register_predictor(name="tdas_ancestral")
    class Ancestral(sampling.Predictor):  # type: ignore[misc]
        def __init__(self, sde: Any, score_fn: Any, probability_flow: bool = False) -> None:
            super().__init__(sde, score_fn, probability_flow)
            if probability_flow or not (hasattr(sde, "discrete_sigmas") or hasattr(sde, "discrete_betas")):
                got = "probability_flow=True" if probability_flow else type(sde).__name__
                raise ValueError(f"tdas_ancestral: got {got}, expected a VE or VP SDE without probability flow")

        def update_fn(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            sde, score, index = self.sde, self.score_fn(x, t), _index(self.sde, t)
            if hasattr(sde, "discrete_sigmas"):
                sigmas = sde.discrete_sigmas.to(t.device)
                sigma, below = sigmas[index], torch.where(index == 0, 0.0, sigmas[index - 1])
                d = sigma**2 - below**2
                return step(x, score, d, below / sigma * d.sqrt())
            beta = _column(sde.discrete_betas.to(t.device)[index])
            return step(x, (x + beta * score) / (1 - beta).sqrt() - x, 1.0, beta.sqrt().flatten())

    @sampling.register_corrector(name="tdas_langevin")
    class Langevin(sampling.Corrector):  # type: ignore[misc]
        def update_fn(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            mean = x
            for _ in range(self.n_steps):
                x, mean = step.langevin(x, self.score_fn(x, t), self.snr, _alpha(self.sde, t))
            return x, mean

    @sampling.register_corrector(name="tdas_ald")
    class AnnealedLangevin(sampling.Corrector):  # type: ignore[misc]
        def update_fn(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            mean, std = x, self.sde.marginal_prob(x, t)[1]
            eta = 2 * _alpha(self.sde, t) * (self.snr * std) ** 2
            for _ in range(self.n_steps):
                x, mean = step(x, self.score_fn(x, t), eta, (2 * eta).sqrt())
            return x, mean


def prior(sde: Any, M: Preconditioner | None, noise: Any) -> Any:
    """A copy of an SDE of score_sde_pytorch whose `prior_sampling` is filtered: `sigma_max M z` (VE), `M z` (others).

    Args:
        sde: a `VESDE`, `VPSDE` or `subVPSDE`.
        M: the preconditioner, on the device to sample on, or None for the identity where the stream is.
        noise: the stream of `register`, so that the start takes the first draw of a run.

    Raises:
        TypeError: no such SDE, or arguments of other types.
    """
    if not hasattr(sde, "prior_sampling") or not hasattr(sde, "discretize"):
        raise TypeError(f"sde: got {type(sde).__name__}, expected an SDE of score_sde_pytorch")
    step, scale = _Step(M, NoiseStream.of(noise), "batch"), float(getattr(sde, "sigma_max", 1.0))
    made = copy.copy(sde)
    made.prior_sampling = lambda shape: step.start(shape, scale)
    return made


class _Step:
    """The updates of one preconditioner and stream."""

    def __init__(self, M: Preconditioner | None, noise: NoiseStream, norm: Any) -> None:
        self.M, self.noise, self.norm = M, noise, norm

    def _filter(self, shape: Any, device: torch.device) -> Preconditioner:
        if self.M is None:
            return Preconditioner.identity(shape[1:]).to(device)
        self.M = fitting("M", self.M, shape).to(device)
        return self.M

    def start(self, shape: Any, scale: float) -> Tensor:
        device = self.noise.seeds.device if self.M is None else self.M.device
        return ops.noise(self._filter(shape, device), tuple(shape), self.noise, scale)

    def __call__(self, x: Tensor, v: Tensor, d: Any, n: Tensor) -> tuple[Tensor, Tensor]:
        M = self._filter(x.shape, x.device)
        return ops.step(x, v, M, d, noise_scale=n, noise=self.noise, return_mean=True)

    def langevin(self, x: Tensor, score: Tensor, snr: float, alpha: Tensor) -> tuple[Tensor, Tensor]:
        M = self._filter(x.shape, x.device)
        return ops.langevin_step(x, score, M, snr, noise=self.noise, alpha=alpha, norm=self.norm, return_mean=True)


def _index(sde: Any, t: Tensor) -> Tensor:
    return (t * (sde.N - 1) / sde.T).long()


def _alpha(sde: Any, t: Tensor) -> Tensor:
    if hasattr(sde, "alphas"):
        alphas: Tensor = sde.alphas.to(t.device)[_index(sde, t)]
        return alphas
    if hasattr(sde, "beta_0"):
        betas = torch.linspace(sde.beta_0 / sde.N, sde.beta_1 / sde.N, sde.N, device=t.device)
        return 1 - betas[_index(sde, t)]
    return torch.ones_like(t)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]
