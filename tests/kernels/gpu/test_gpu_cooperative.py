"""langevin_step of planes on chip in one launch, on a CUDA device: what takes it, and that its results are to the bit
those of `step`, which is another kernel, with the step size of the rule.

Blocks wait for each other here, and would do so for ever after a mistake: a test that does not end is ended
(benchmarks/gpu_tests.py).
"""

from __future__ import annotations

import math

import pytest
import torch
from conftest import relative_rms
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream
from tests.kernels.gpu.problems import DRAWN, needs_gpu, problem, single, stream

pytestmark = needs_gpu

SNR = 0.16
SHAPES = [(3, 32, 32), (1, 32, 32), (3, 64, 64), (2, 64, 64), (3, 128, 128)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_method = pytest.mark.parametrize("method", ["pds", "tdas"])
each_rule = pytest.mark.parametrize("norm", ["batch", "sample"])


def is_in_one_launch(run) -> bool:
    """Whether the kernel that does all was launched."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    return any("snr_plane_kernel" in event.key for event in profile.key_averages())


def full(shape) -> int:
    """As many samples as the device holds at once: 64 elements a thread, 512 threads a multiprocessor."""
    elements = torch.cuda.get_device_properties(0).multi_processor_count * 512 * 64
    return elements // math.prod(shape)


def is_the_step_of_the_rule(got: Tensor, x: Tensor, v: Tensor, M, norm: str) -> bool:
    """Whether every sample, but those with a score that is not finite, is that of `step` with a size near enough to the
    rule's: norms are sums in float32."""
    filtered = tdas_ops.precondition(v.float(), M, "MMt") if M.method == "pds" else v
    fields = tdas_ops.noise(M, x.shape, stream()), filtered
    norms = [field.double().square().sum((1, 2, 3)).sqrt() for field in fields]
    if norm == "batch":
        norms = [each[each.isfinite()].mean().expand(len(x)) for each in norms]
    eta = (2 * (SNR * norms[0] / norms[1]) ** 2).float()
    whole = eta.isfinite() & v.isfinite().flatten(1).all(1)
    found = ~whole
    for off in range(-24, 25):
        size = (eta.view(torch.int32) + off).view(torch.float32)
        same = (tdas_ops.step(x, v, M, size, noise=stream()) == got).flatten(1).all(1)
        found |= same
        if norm == "batch" and same[whole].all():
            return True
    return norm == "sample" and bool(found.all())


@each_rule
@each_method
def test_a_replayed_graph_counts_anew(method, norm):
    M, x, v = single((3, 64, 64), "R", method=method, batch=8)
    step = lambda noise, **o: tdas_ops.langevin_step(x, v, M, SNR, noise=noise, norm=norm, **o)
    expected = [step(NoiseStream(5, draw=draw, device="cuda")) for draw in range(1, 5)]
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


@each_method
def test_streams_share_the_device(method):
    """Several launches at once, none of which has the device to itself."""
    M, x, v = single((3, 64, 64), "R", method=method, batch=full((3, 64, 64)) * 3 // 4)
    expected = tdas_ops.langevin_step(x, v, M, SNR, noise=stream())
    sides, outs = [torch.cuda.Stream() for _ in range(3)], [torch.empty_like(x) for _ in range(3)]
    torch.cuda.synchronize()
    for _ in range(10):
        for side, out in zip(sides, outs, strict=True):
            with torch.cuda.stream(side):
                tdas_ops.langevin_step(x, v, M, SNR, noise=stream(), out=out)
    torch.cuda.synchronize()
    assert all(torch.equal(out, expected) for out in outs)


@each_rule
@each_method
def test_what_is_not_finite_stays_in_its_sample(method, norm):
    M, x, v = single((3, 64, 64), "R", method=method, batch=9)
    v[4, 1, 3, 5] = math.inf
    got, whole = tdas_ops.langevin_step(x, v, M, SNR, noise=stream(), norm=norm), [0, 1, 2, 3, 5, 6, 7, 8]
    assert got[whole].isfinite().all() and not got[4].isfinite().all()
    assert is_the_step_of_the_rule(got, x, v, M, norm)


@each_rule
@each_method
@each_shape
def test_one_launch_agrees_with_float64(shape, method, norm):
    p = problem(shape, method, "R", batch=5)
    expected = tdas_ops.langevin_step(p.x, p.v.float().double(), p.M, SNR, noise=stream(), norm=norm)
    x, v, M = p.x.float().cuda(), p.v.float().cuda(), p.M.to("cuda")
    run = lambda: tdas_ops.langevin_step(x, v, M, SNR, noise=stream(), norm=norm)
    assert is_in_one_launch(run)
    assert relative_rms(run().cpu(), expected) < DRAWN


@each_rule
@each_method
@each_shape
@pytest.mark.parametrize("batch", [1, 2, 7, 40, None])
def test_one_launch_gives_the_bits_of_a_step_again_and_again(shape, method, norm, batch):
    M, x, v = single(shape, "R", method=method, batch=batch or full(shape))
    narrow = v.bfloat16()
    run = lambda: tdas_ops.langevin_step(x, narrow, M, SNR, noise=stream(), norm=norm)
    first = run()
    assert all(torch.equal(run(), first) for _ in range(50))
    assert is_the_step_of_the_rule(first, x, narrow, M, norm)
    assert is_in_one_launch(run)


@each_rule
def test_more_planes_than_fit_at_once_take_three_launches(norm):
    """To the same bits, which of a sample do not depend on the batch."""
    samples = full((3, 64, 64))
    M, x, v = single((3, 64, 64), "R", batch=samples + 1)
    run = lambda count: tdas_ops.langevin_step(x[:count], v[:count], M, SNR, noise=stream(), norm=norm)
    assert is_in_one_launch(lambda: run(samples)) and not is_in_one_launch(lambda: run(samples + 1))
    assert is_the_step_of_the_rule(run(samples + 1), x, v, M, norm)
    if norm == "sample":
        assert torch.equal(run(samples + 1)[:-1], run(samples))


def test_what_runs_is_what_backend_info_says():
    paths = tdas_ops.backend_info()["paths"]["cuda"]
    assert "in one launch" in paths["langevin_step"] and "in one launch" not in paths["step"]
