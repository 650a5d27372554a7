"""What a call of `tdas_ops.step` costs above the kernel's own work: checks, dispatch and the output's allocation.

`dispatch` calls the public function with an overload of the same schema that does nothing, so its time is the overhead
itself (goal: at most 10 microseconds on 1x1x32x32), with caches warm. `step` and `kernel` are the whole call and the
dispatched overload: their difference is the public function alone, with the caches as the kernel leaves them.
"""

from __future__ import annotations

import pytest
import torch

import tdas_ops
from tdas_ops import _backends, _schema

SHAPE = (1, 1, 32, 32)


@pytest.fixture
def problem():
    torch.set_num_threads(1)
    M = tdas_ops.Preconditioner.from_masks(torch.ones(SHAPE[1:]))
    return torch.randn(SHAPE), torch.randn(SHAPE), M, tdas_ops.NoiseStream(0)


@pytest.fixture
def nothing():
    """Puts a kernel that does nothing in the place of the CPU's."""
    library = torch.library.Library("tdas_ops_nothing", "DEF")
    library.define("step" + _schema.SCHEMAS["step"])
    library.impl("step", lambda *arguments: None, "CPU")
    before = _backends._table["step"]["cpu"]
    _backends._table["step"]["cpu"] = torch.ops.tdas_ops_nothing.step.default
    yield
    _backends._table["step"]["cpu"] = before


@pytest.mark.benchmark(group="call overhead, 1x1x32x32")
def test_dispatch(benchmark, problem, nothing):
    x, v, M, stream = problem
    benchmark(tdas_ops.step, x, v, M, 0.1, noise=stream)


@pytest.mark.benchmark(group="call overhead, 1x1x32x32")
def test_step(benchmark, problem):
    x, v, M, stream = problem
    benchmark(tdas_ops.step, x, v, M, 0.1, noise=stream)


@pytest.mark.benchmark(group="call overhead, 1x1x32x32")
def test_kernel(benchmark, problem):
    x, v, M, stream = problem
    kernel, out = _backends._table["step"]["cpu"], torch.empty_like(x)
    drawn = (None, stream.seeds, stream.draw, 0)
    benchmark(kernel, out, None, x, v, *M.masks(x.dtype), True, 0.1, None, None, None, *drawn)
