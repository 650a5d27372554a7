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
    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0, N: int = 1000) -> None:
        super().__init__(N)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.discrete_sigmas = torch.linspace(math.log(sigma_min), math.log(sigma_max), N).exp()

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
    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, N: int = 1000) -> None:
        super().__init__(N)
        self.beta_0, self.beta_1 = beta_min, beta_max

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_0 + t * (self.beta_1 - self.beta_0)

    def log_mean(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.beta_1 - self.beta_0) - 0.5 * t * self.beta_0

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return -0.5 * column(self.beta(t)) * x, (-self.beta(t) * torch.expm1(4 * self.log_mean(t))).sqrt()

    def marginal_prob(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return column(self.log_mean(t).exp()) * x, -torch.expm1(2 * self.log_mean(t))


class VPSDE(subVPSDE):
    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, N: int = 1000) -> None:
        super().__init__(beta_min, beta_max, N)
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


def get_predictor(name: str) -> type:
    return _PREDICTORS[name]


def get_corrector(name: str) -> type:
    return _CORRECTORS[name]


@register_predictor(name="none")
class NoPredictor(Predictor):
    def update_fn(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@register_corrector(name="none")
class NoCorrector(Corrector):
    def update_fn(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class PlainReverseDiffusion(Predictor):
    def update_fn(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        f, G = self.rsde.discretize(x, t)
        return x - f + column(G) * torch.randn_like(x), x - f


class PlainLangevin(Corrector):
    def update_fn(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        mean = x
        for _ in range(self.n_steps):
            score, z = self.score_fn(x, t), torch.randn_like(x)
            ratio = self.snr * z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()
            mean = x + 2 * ratio**2 * score
            x = mean + 2 * ratio * z
        return x, mean


def get_pc_sampler(
    sde: Any,
    shape: Any,
    predictor: Any,
    corrector: Any,
    inverse_scaler: Any,
    snr: float,
    n_steps: int = 1,
    probability_flow: bool = False,
    continuous: bool = False,
    denoise: bool = True,
    eps: float = 1e-3,
    device: Any = "cuda",
) -> Callable[[Any], tuple[Tensor, int]]:
    """The loop, for networks that give the score of sigma (continuous VE) or of t."""

    def sample(model: Any) -> tuple[Tensor, int]:
        def score_fn(x: Tensor, t: Tensor) -> Tensor:
            score: Tensor = model(x, sde.sigma(t) if continuous else t)
            return score

        p, c = predictor(sde, score_fn, probability_flow), corrector(sde, score_fn, snr, n_steps)
        with torch.no_grad():
            x = x_mean = sde.prior_sampling(shape).to(device)
            for t in torch.linspace(sde.T, eps, sde.N):
                times = torch.full((shape[0],), float(t))
                x, x_mean = c.update_fn(x, times)
                x, x_mean = p.update_fn(x, times)
        return inverse_scaler(x_mean if denoise else x), sde.N * (n_steps + 1)

    return sample
