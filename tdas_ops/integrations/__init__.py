"""Doors to libraries of others, each of which imports its library when it is used; docs/integrations.md has them all.

    networks       score functions `(x, sigma or t) -> score` of the families of Song et al.
    diffusers      its checkpoints and pipelines, and its VE scheduler and pipeline with a preconditioner
    score_sde      predictors and correctors for the registries of score_sde_pytorch
    deepinv        Langevin iterations and an Euler solver for posterior sampling
    azula          a sampler with a preconditioner
    distributed    many processes on torch.distributed

Noise and drift for k-diffusion, ComfyUI and EDM are `tdas_ops.ColouredNoise` and `tdas_ops.PreconditionedDenoiser`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = ["azula", "deepinv", "diffusers", "distributed", "networks", "score_sde"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
