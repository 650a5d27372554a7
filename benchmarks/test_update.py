"""One update, ours against the two baselines, at the sizes of the literature; nanoseconds an element in `extra_info`.

Quote ratios between rows of one group: they were measured in one run.
"""

from __future__ import annotations

import pytest
import torch

import tdas_ops
from benchmarks import best_torch, published

SHAPES = [(64, 3, 32, 32), (16, 3, 64, 64), (4, 3, 256, 256), (1, 3, 1024, 1024)]


def masks(shape: tuple[int, int, int], space: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """R as a full spectrum and A, both positive."""
    height, width = shape[1:]
    radii = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    R = (1 + radii).expand(shape).contiguous()
    return R, (torch.rand(shape) + 0.5 if space else None)


@pytest.mark.parametrize("who", ["tdas_ops", "best torch", "published"])
@pytest.mark.parametrize("space", [False, True], ids=["frequency mask", "both masks"])
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_update(benchmark, shape, method, space, who):
    benchmark.group = f"update {method}, {'both masks' if space else 'frequency mask'}, {'x'.join(map(str, shape))}"
    x, v = torch.randn(shape), torch.randn(shape)
    R, A = masks(shape[1:], space)
    if who == "tdas_ops":
        M, stream = tdas_ops.Preconditioner.from_masks(R, A, method=method), tdas_ops.NoiseStream(0)
        run = lambda: tdas_ops.step(x, v, M, 0.1, noise=stream)
    elif who == "best torch":
        half, compose = R[..., : shape[-1] // 2 + 1].contiguous(), getattr(best_torch, method)
        run = lambda: compose(x, v, half, A, 0.1, 0.2**0.5)
    else:
        full = torch.ones(shape[1:]) if A is None else A
        run = lambda: published.update(x, v, R, full, 0.1, 0.2**0.5, torch.randn_like(x), method)
    benchmark.pedantic(run, rounds=7, warmup_rounds=1)
    benchmark.extra_info["ns_per_element"] = benchmark.stats.stats.median / x.numel() * 1e9


@pytest.mark.parametrize("who", ["tdas_ops", "torch.randn"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_noise(benchmark, shape, who):
    """White normals alone: one draw of the stream against torch.randn."""
    benchmark.group = f"white noise, {'x'.join(map(str, shape))}"
    if who == "torch.randn":
        run = lambda: torch.randn(shape)
    else:
        stream = tdas_ops.NoiseStream(0)
        g = torch.empty((shape[0] + 1) // 2, *shape[1:], dtype=torch.complex64)
        kernel = tdas_ops._backends.kernel("normal_pairs", g)
        run = lambda: kernel(g, stream.seeds, stream.draw, 0)
    benchmark.pedantic(run, rounds=7, warmup_rounds=1)
    benchmark.extra_info["ns_per_element"] = benchmark.stats.stats.median / torch.Size(shape).numel() * 1e9
