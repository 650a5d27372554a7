"""Adapters: networks of public code bases as score functions `(x, sigma or t) -> score` of the samplers."""
