"""Doors to libraries of others, each of which imports its library when it is used; docs/integrations.md has them all.

    networks       score functions `(x, sigma or t) -> score` of the families of Song et al.
    diffusers      its checkpoints and pipelines, and its VE scheduler and pipeline with a preconditioner
    score_sde      predictors and correctors for the registries of score_sde_pytorch
    deepinv        Langevin iterations and an Euler solver for posterior sampling
    azula          a sampler with a preconditioner
    distributed    many processes on torch.distributed

Noise and drift for k-diffusion, ComfyUI and EDM are `tdas_ops.ColouredNoise` and `tdas_ops.PreconditionedDenoiser`.
"""

from tdas_ops.integrations import diffusers, distributed, networks, score_sde

__all__ = ["diffusers", "distributed", "networks", "score_sde"]
