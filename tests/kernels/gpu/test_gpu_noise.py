"""The noise kernel on a CUDA device: the contract, splits of the samples, graphs and streams."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.kernels.gpu.problems import counters, needs_gpu
from tests.noise_contract import SHAPES, contract, signed

pytestmark = needs_gpu


def normals(shape, seeds=7, draw=0, first_sample=0, spectral=False) -> Tensor:
    out = torch.full(shape, complex("nan+nanj"), dtype=torch.complex64, device="cuda")
    torch.ops.tdas_ops.normals.cuda(out, counters(seeds), counters(draw), first_sample, spectral)
    return out


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spectral", [False, True])
def test_noise_follows_the_contract(shape, spectral):
    seed, draw = 0x9E3779B97F4A7C15, 0x0000000300000002
    got = normals(shape, signed(seed), draw, 5, spectral).cpu()
    assert (got - contract(shape, seed, draw, 5, spectral)).abs().max() < 1e-5


def test_noise_agrees_with_the_cpu_on_millions_of_normals():
    shape = (4, 3, 512, 512)
    on_cpu = torch.empty(shape, dtype=torch.complex64)
    torch.ops.tdas_ops.normals.cpp(on_cpu, torch.tensor([1]), torch.tensor([2]), 0, False)
    assert (normals(shape, 1, draw=2).cpu() - on_cpu).abs().max() < 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spectral", [False, True])
def test_triton_noise_follows_the_contract(shape, spectral):
    seed, draw = 0x9E3779B97F4A7C15, 0x0000000300000002
    got = torch.full(shape, complex("nan+nanj"), dtype=torch.complex64, device="cuda")
    torch.ops.tdas_ops.normals.triton(got, counters(signed(seed)), counters(signed(draw)), 5, spectral)
    assert (got.cpu() - contract(shape, seed, draw, 5, spectral)).abs().max() < 1e-5


def test_one_seed_a_pair():
    seeds = [3, -1, 1 << 40]
    for plane, seed in zip(normals((3, 2, 4, 6), seeds, draw=9), seeds, strict=True):
        assert torch.equal(plane, normals((1, 2, 4, 6), seed, draw=9)[0])


@pytest.mark.parametrize("spectral", [False, True])
def test_splitting_the_samples_changes_no_bit(spectral):
    whole = normals((7, 3, 9, 33), 11, spectral=spectral)
    parts = [normals((n, 3, 9, 33), 11, 0, first, spectral) for first, n in ((0, 1), (1, 4), (5, 2))]
    assert torch.equal(whole, torch.cat(parts))


def test_more_samples_than_the_grid_has_rows():
    got = normals((70000, 1, 1, 2), 5).cpu()
    assert (got[69999] - contract((1, 1, 1, 2), 5, first_sample=69999)[0]).abs().max() < 1e-5
    assert not torch.view_as_real(got).isnan().any()


def test_a_replayed_graph_reads_the_draw_anew():
    shape, draw, seeds = (2, 1, 16, 16), counters(0), counters(7)
    out = torch.zeros(shape, dtype=torch.complex64, device="cuda")
    torch.ops.tdas_ops.normals.cuda(out, seeds, draw, 0, False)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.ops.tdas_ops.normals.cuda(out, seeds, draw, 0, False)
        draw.add_(1)
    for number in range(3):
        graph.replay()
        assert torch.equal(out, normals(shape, 7, draw=number))
    assert draw.item() == 3


def test_a_stream_of_its_own():
    """The kernel joins the current stream: behind a long queue there, it still sees the draw written before it."""
    stream, shape = torch.cuda.Stream(), (2, 3, 64, 64)
    draw, seeds = counters(0), counters(7)
    out = torch.empty(shape, dtype=torch.complex64, device="cuda")
    busy = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(20):
            busy = busy @ busy * 1e-3
        draw.fill_(4)
        torch.ops.tdas_ops.normals.cuda(out, seeds, draw, 0, False)
    stream.synchronize()
    assert torch.equal(out, normals(shape, 7, draw=4))
