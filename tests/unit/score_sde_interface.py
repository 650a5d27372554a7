"""A stand-in of the parts of score_sde_pytorch that a sampler touches, which has no package: registries, SDEs, a loop.

The formulas are those of Song et al., arXiv 2011.13456: algorithms 2 to 5, appendices B to D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_PREDICTORS: dict[str, type] = {}
_CORRECTORS: dict[str, type] = {}


def _registering(registry: dict[str, type]) -> Callable[..., Any]:
    def register(cls: type | None = None, *, name: str | None = None) -> Any:
        def add(made: type) -> type:
            key = name or made.__name__
            if key in registry:
                raise ValueError(f"{key} is registered already")
            registry[key] = made
            return made

        return add if cls is None else add(cls)

    return register


register_predictor, register_corrector = _registering(_PREDICTORS), _registering(_CORRECTORS)


class Predictor:
    def __init__(self, sde: Any, score_fn: Any, probability_flow: bool = False) -> None:
        self.sde, self.score_fn, self.rsde = sde, score_fn, Reverse(sde, score_fn, probability_flow)


class Corrector:
    def __init__(self, sde: Any, score_fn: Any, snr: float, n_steps: int) -> None:
        self.sde, self.score_fn, self.snr, self.n_steps = sde, score_fn, snr, n_steps


def column(values: Any) -> Any:
    return values[:, None, None, None]


class SDE:
    T = 1

    def __init__(self, N: int) -> None:
        self.N = N

    def at(self, t: Tensor) -> Tensor:
        return (t * (self.N - 1) / self.T).long()

    def discretize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        drift, diffusion = self.sde(x, t)  # type: ignore[attr-defined]
        return drift / self.N, diffusion * self.N**-0.5

    def prior_sampling(self, shape: Any) -> Tensor:
        return torch.randn(*shape) * getattr(self, "sigma_max", 1.0)


class VESDE(SDE):
    def __init__(self, N: int) -> None:
        super().__init__(N)
        self.sigma_min, self.sigma_max = 0.01, 50.0
        self.discrete_sigmas = torch.linspace(math.log(0.01), math.log(50.0), N).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return 0 * x, self.sigma(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def marginal_prob(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.sigma(t)

    def discretize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        index = self.at(t)
        below = torch.where(index == 0, 0.0, self.discrete_sigmas[index - 1])
        return 0 * x, (self.discrete_sigmas[index] ** 2 - below**2).sqrt()


class subVPSDE(SDE):
    beta_0, beta_1 = 0.1, 20.0

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_0 + t * (self.beta_1 - self.beta_0)

    def log_mean(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.beta_1 - self.beta_0) - 0.5 * t * self.beta_0

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return -0.5 * column(self.beta(t)) * x, (-self.beta(t) * torch.expm1(4 * self.log_mean(t))).sqrt()

    def marginal_prob(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return column(self.log_mean(t).exp()) * x, -torch.expm1(2 * self.log_mean(t))


class VPSDE(subVPSDE):
    def __init__(self, N: int) -> None:
        super().__init__(N)
        self.discrete_betas = torch.linspace(self.beta_0 / N, self.beta_1 / N, N)
        self.alphas = 1 - self.discrete_betas

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return super().sde(x, t)[0], self.beta(t).sqrt()

    def marginal_prob(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return super().marginal_prob(x, t)[0], (-torch.expm1(2 * self.log_mean(t))).sqrt()

    def discretize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.discrete_betas[self.at(t)]
        return (column((1 - beta).sqrt()) - 1) * x, beta.sqrt()


class Reverse:
    def __init__(self, forward: Any, score_fn: Any, flow: bool) -> None:
        self.forward, self.score_fn, self.flow, self.N = forward, score_fn, flow, forward.N

    def _reversed(self, parts: tuple[Tensor, Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        f, g = parts
        return f - column(g) ** 2 * self.score_fn(x, t) * (0.5 if self.flow else 1), 0 * g if self.flow else g

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        return self._reversed(self.forward.sde(x, t), x, t)

    def discretize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        return self._reversed(self.forward.discretize(x, t), x, t)


def run(
    sde: Any, score_fn: Any, predictor: str, corrector: str, shape: Any, n_steps: int = 1, flow: bool = False
) -> Tensor:
    """The loop of predictor-corrector sampling; the mean of the last update."""
    p = _PREDICTORS[predictor](sde, score_fn, flow) if predictor != "none" else None
    c = _CORRECTORS[corrector](sde, score_fn, 0.16, n_steps) if corrector != "none" else None
    x = mean = sde.prior_sampling(shape)
    for t in torch.linspace(sde.T, 1e-3, sde.N):
        for each in (c, p):
            if each is not None:
                x, mean = each.update_fn(x, torch.full((shape[0],), float(t)))
    return mean
