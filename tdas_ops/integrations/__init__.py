"""Adapters: networks of public code bases as score functions `(x, sigma or t) -> score` of the samplers."""

from tdas_ops.integrations import diffusers, networks

__all__ = ["diffusers", "networks"]
