"""One update, ours against the two baselines, at the sizes of the literature; nanoseconds an element in `extra_info`.

Quote ratios between rows of one group: they were measured in one run.
"""

from __future__ import annotations

import pytest
import torch

import tdas_ops
from benchmarks import contenders

SHAPES = [(64, 3, 32, 32), (16, 3, 64, 64), (4, 3, 256, 256), (1, 3, 1024, 1024)]


@pytest.mark.parametrize("who", ["tdas_ops", "best torch", "published"])
@pytest.mark.parametrize("space", [False, True], ids=["frequency mask", "both masks"])
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_update(benchmark, shape, method, space, who):
    benchmark.group = f"update {method}, {'both masks' if space else 'frequency mask'}, {'x'.join(map(str, shape))}"
    x, v = torch.randn(shape), torch.randn(shape)
    update = contenders.updates(shape, method, space)[who]
    run = lambda: update(x, v)
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
        g = torch.empty(*shape[:-1], (shape[-1] + 1) // 2, dtype=torch.complex64)
        kernel = tdas_ops._backends.kernel("normals", g)
        run = lambda: kernel(g, stream.seeds, stream.draw, 0, False)
    benchmark.pedantic(run, rounds=7, warmup_rounds=1)
    benchmark.extra_info["ns_per_element"] = benchmark.stats.stats.median / torch.Size(shape).numel() * 1e9
