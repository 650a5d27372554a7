"""langevin_step of planes on chip in one cooperative launch, on a CUDA device: the bits of norms, rule and update in
launches of their own.

Apart from the other GPU tests: blocks wait for each other here, and would do so for ever after a mistake.
`benchmarks/gpu.sh` runs these with a limit on their time.
"""

from __future__ import annotations

import math

import pytest
import torch
from conftest import relative_rms

import tdas_ops
from tdas_ops import NoiseStream, _backends
from tests.kernels.gpu.problems import DRAWN, needs_gpu, problem, single, stream

pytestmark = needs_gpu

SHAPES = [(3, 32, 32), (1, 32, 32), (3, 64, 64), (2, 64, 64), (3, 128, 128)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_method = pytest.mark.parametrize("method", ["pds", "tdas"])
each_rule = pytest.mark.parametrize("norm", ["batch", "sample"])


@pytest.fixture
def choose():
    yield _backends.choose_snr
    _backends.choose_snr("launches")


def is_cooperative(run) -> bool:
    """Whether the kernel that does all was launched."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    return any("snr_plane_kernel" in event.key for event in profile.key_averages())


def full(shape) -> int:
    """As many samples as the device holds at once: 64 elements a thread, 512 threads a multiprocessor."""
    elements = torch.cuda.get_device_properties(0).multi_processor_count * 512 * 64
    return elements // math.prod(shape)


@each_rule
@each_method
@each_shape
def test_a_cooperative_launch_agrees_with_float64(choose, shape, method, norm):
    p = problem(shape, method, "R", batch=5)
    choose("cooperative")
    expected = tdas_ops.langevin_step(p.x, p.v.float().double(), p.M, 0.16, noise=stream(), norm=norm)
    x, v, M = p.x.float().cuda(), p.v.float().cuda(), p.M.to("cuda")
    run = lambda: tdas_ops.langevin_step(x, v, M, 0.16, noise=stream(), norm=norm)
    assert is_cooperative(run)
    assert relative_rms(run().cpu(), expected) < DRAWN


@each_rule
@each_method
@each_shape
@pytest.mark.parametrize("batch", [1, 2, 7, 40, None])
def test_a_cooperative_launch_gives_the_bits_of_three_again_and_again(choose, shape, method, norm, batch):
    M, x, v = single(shape, "R", method=method, batch=batch or full(shape))
    run = lambda: tdas_ops.langevin_step(x, v.bfloat16(), M, 0.16, noise=stream(), norm=norm)
    expected = run()
    choose("cooperative")
    assert all(torch.equal(run(), expected) for _ in range(50))
    assert is_cooperative(run)


@each_rule
def test_more_planes_than_fit_at_once_take_three_launches(choose, norm):
    M, x, v = single((3, 64, 64), "R", batch=full((3, 64, 64)) + 1)
    run = lambda: tdas_ops.langevin_step(x, v, M, 0.16, noise=stream(), norm=norm)
    expected = run()
    choose("cooperative")
    assert torch.equal(run(), expected) and not is_cooperative(run)


@each_rule
@each_method
def test_what_is_not_finite_stays_in_its_sample(choose, method, norm):
    M, x, v = single((3, 64, 64), "R", method=method, batch=9)
    v[4, 1, 3, 5] = math.inf
    run = lambda: tdas_ops.langevin_step(x, v, M, 0.16, noise=stream(), norm=norm)
    expected = run()
    choose("cooperative")
    got, whole = run(), [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(got[whole], expected[whole]) and got[whole].isfinite().all()
    assert not got[4].isfinite().all()


@each_method
def test_streams_share_the_device(choose, method):
    """Several launches at once, none of which has the device to itself."""
    M, x, v = single((3, 64, 64), "R", method=method, batch=full((3, 64, 64)) * 3 // 4)
    expected = tdas_ops.langevin_step(x, v, M, 0.16, noise=stream())
    choose("cooperative")
    sides, outs = [torch.cuda.Stream() for _ in range(3)], [torch.empty_like(x) for _ in range(3)]
    torch.cuda.synchronize()
    for _ in range(10):
        for side, out in zip(sides, outs, strict=True):
            with torch.cuda.stream(side):
                tdas_ops.langevin_step(x, v, M, 0.16, noise=stream(), out=out)
    torch.cuda.synchronize()
    assert all(torch.equal(out, expected) for out in outs)


@each_rule
@each_method
def test_a_replayed_graph_counts_anew(choose, method, norm):
    M, x, v = single((3, 64, 64), "R", method=method, batch=8)
    step = lambda noise, **o: tdas_ops.langevin_step(x, v, M, 0.16, noise=noise, norm=norm, **o)
    expected = [step(NoiseStream(5, draw=draw, device="cuda")) for draw in range(1, 5)]
    choose("cooperative")
    out, noise = torch.empty_like(x), NoiseStream(5, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(noise, out=out)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(noise, out=out)
    for of_draw in expected:
        graph.replay()
        assert torch.equal(out, of_draw)


def test_what_runs_is_what_backend_info_says(choose):
    choose("cooperative")
    paths = tdas_ops.backend_info()["paths"]["cuda"]
    assert "cooperative" in paths["langevin_step"] and "cooperative" not in paths["step"]
