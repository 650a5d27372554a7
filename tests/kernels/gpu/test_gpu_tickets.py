"""The kernel of large planes whose blocks take tickets, on a CUDA device: the bits of the launches of one pass each.

Apart from the other GPU tests: blocks wait for each other here, and would do so for ever after a mistake.
`benchmarks/gpu.sh` runs these with a limit on their time.
"""

from __future__ import annotations

import pytest
import torch
from conftest import relative_rms

import tdas_ops
from tdas_ops import NoiseStream, _backends
from tests.kernels.gpu.problems import CASES as EVERY_CASE
from tests.kernels.gpu.problems import DRAWN, crowd, each_update, needs_gpu, problem, single, stream

pytestmark = needs_gpu

SHAPE = (3, 1024, 1024)
CASES = [case for case in EVERY_CASE if case[1] in ("R", "Rw")]
each_case = pytest.mark.parametrize(("method", "masks"), CASES)


@pytest.fixture
def choose():
    yield _backends.choose_large
    _backends.choose_large("passes")


@each_case
@each_update
def test_tickets_agree_with_float64(choose, method, masks, update):
    p = problem(SHAPE, method, masks, batch=3)
    choose("ticket")
    expected = update(p.x, p.v.float().double(), p.M, stream(), return_mean=True)
    got = update(p.x.float().cuda(), p.v.float().cuda(), p.M.to("cuda"), stream(), return_mean=True)
    for a, b in zip(got, expected, strict=True):
        assert relative_rms(a.cpu(), b) < DRAWN


@each_case
@pytest.mark.parametrize("batch", [1, 2, 3, 8, None])
def test_tickets_give_the_bits_of_the_passes_again_and_again(choose, method, masks, batch):
    M, x, v = single(SHAPE, masks, method=method, batch=batch or crowd(SHAPE))
    run = lambda: tdas_ops.step(x, v, M, 0.1, noise=stream())
    expected = run()
    choose("ticket")
    assert all(torch.equal(run(), expected) for _ in range(50))


@each_case
def test_streams_share_the_device(choose, method, masks):
    """Two launches at once, whose blocks hold the places that each other's wait for."""
    M, x, v = single(SHAPE, masks, method=method, batch=8)
    expected = tdas_ops.step(x, v, M, 0.1, noise=stream())
    choose("ticket")
    sides, outs = [torch.cuda.Stream() for _ in range(3)], [torch.empty_like(x) for _ in range(3)]
    torch.cuda.synchronize()
    for _ in range(10):
        for side, out in zip(sides, outs, strict=True):
            with torch.cuda.stream(side):
                tdas_ops.step(x, v, M, 0.1, noise=stream(), out=out)
    torch.cuda.synchronize()
    assert all(torch.equal(out, expected) for out in outs)


@each_case
def test_a_replayed_graph_counts_anew(choose, method, masks):
    M, x, v = single(SHAPE, masks, method=method, batch=8)
    expected = [tdas_ops.step(x, v, M, 0.1, noise=NoiseStream(5, draw=draw, device="cuda")) for draw in range(1, 5)]
    choose("ticket")
    out, noise = torch.empty_like(x), NoiseStream(5, device="cuda")
    run = lambda: tdas_ops.step(x, v, M, 0.1, noise=noise, out=out)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for of_draw in expected:
        graph.replay()
        assert torch.equal(out, of_draw)


def test_what_has_no_tickets_is_refused(choose):
    choose("ticket")
    for shape, masks in (((1, 256, 256), "R"), (SHAPE, "RA")):
        M, x, v = single(shape, masks, batch=1)
        with pytest.raises(ValueError, match="cuda kernels: TDAS_OPS_LARGE is 'ticket' and `out` has planes of"):
            tdas_ops.step(x, v, M, 0.1, noise=stream())
