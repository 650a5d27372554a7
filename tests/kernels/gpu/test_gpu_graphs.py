"""Graphs, streams, devices and memory: the ops do not wait, do not allocate, and follow the current stream."""

from __future__ import annotations

import pytest
import torch
from conftest import relative_rms

import tdas_ops
from tdas_ops import NoiseStream
from tests.kernels.gpu.problems import (
    BATCH,
    CASES,
    DEVICES,
    DRAWN,
    FUSED,
    SOME,
    needs_gpu,
    only_where,
    problem,
    single,
    stream,
)

pytestmark = needs_gpu


@pytest.mark.parametrize("op", ["step", "langevin_step", "noise"])
@pytest.mark.parametrize("masks", ["R", "RA", "A"])
@pytest.mark.parametrize("shape", SOME, ids=str)
def test_a_replayed_graph_draws_fresh_noise(shape, masks, op):
    """Every replay equals the eager call with the same draw, and the counter is where it would be."""
    M, x, v = single(shape, masks)
    out, noise = torch.empty_like(x), NoiseStream(5, device="cuda")
    calls = {
        "step": lambda noise, out: tdas_ops.step(x, v, M, 0.1, noise=noise, out=out),
        "langevin_step": lambda noise, out: tdas_ops.langevin_step(x, v, M, 0.16, noise=noise, out=out),
        "noise": lambda noise, out: tdas_ops.noise(M, x.shape, noise, out=out),
    }
    run = calls[op]
    side = torch.cuda.Stream()  # a first call may load kernels and plan transforms, which a capture must not
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(noise, out)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(noise, out)
    assert noise.state_dict()["draw"] == 1
    for number in range(1, 4):
        graph.replay()
        expected = run(NoiseStream(5, draw=number, device="cuda"), torch.empty_like(x))
        assert torch.equal(out, expected), number
        assert noise.state_dict()["draw"] == number + 1
    noise.load_state_dict(NoiseStream(6, draw=9).state_dict())  # a captured graph follows
    graph.replay()
    assert torch.equal(out, run(NoiseStream(6, draw=9, device="cuda"), torch.empty_like(x)))


@pytest.mark.parametrize("masks", ["R", "RA", "A"])
@pytest.mark.parametrize("shape", SOME, ids=str)
def test_a_step_joins_the_current_stream(shape, masks):
    """Behind a long queue there, it still sees what was written before it."""
    M, x, v = single(shape, masks)
    expected = tdas_ops.step(x, v, M, 0.1, noise=NoiseStream(5, draw=4))
    noise, late, out = NoiseStream(5, device="cuda"), torch.zeros_like(x), torch.empty_like(x)
    busy = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    own = torch.cuda.Stream()
    with torch.cuda.stream(own):
        for _ in range(20):
            busy = busy @ busy * 1e-3
        late.copy_(x)
        noise.draw.fill_(4)
        tdas_ops.step(late, v, M, 0.1, noise=noise, out=out)
    own.synchronize()
    assert torch.equal(out, expected)
    assert noise.state_dict()["draw"] == 5


@pytest.mark.parametrize("shape", SOME, ids=str)
@pytest.mark.parametrize("backend", ["cuda", "triton", "reference"])
def test_nothing_waits_for_the_device(backend, shape):
    M, x, score = single(shape)
    scales, noise = torch.rand(BATCH).cuda(), NoiseStream(seed=3, device="cuda")

    def every_op():
        y, _ = tdas_ops.step(x, score, M, scales, noise=noise, return_mean=True)
        y = tdas_ops.langevin_step(y, score.bfloat16(), M, 0.16, noise=noise, alpha=scales)
        return tdas_ops.precondition(y, M, "MMt") + tdas_ops.noise(M, x.shape, noise, 2.0)

    with tdas_ops.use_backend(backend):
        every_op()  # the first call may load kernels and plan transforms
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            every_op()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert noise.state_dict()["draw"] == 6


@pytest.mark.parametrize(("method", "masks"), [case for case in CASES if "R" in case[1] or "w" not in case[1]])
@pytest.mark.parametrize("shape", FUSED, ids=str)
def test_an_op_with_an_output_allocates_nothing(shape, method, masks):
    M, x, v = single(shape, masks, method=method)
    out, z, each = torch.empty_like(x), torch.randn_like(x), torch.rand(BATCH, device="cuda")
    last, narrow = x.contiguous(memory_format=torch.channels_last), v.bfloat16()
    noise, seeds = NoiseStream(7, device="cuda"), NoiseStream(seeds=[1, 2, 3], device="cuda")

    def every_call():
        tdas_ops.step(x, v, M, 0.1, noise=noise, out=out)
        tdas_ops.step(last, narrow, M, each, noise=seeds, noise_scale=each, out=last)
        tdas_ops.step(x, v, M, each, noise=z, out=out)
        tdas_ops.step(x, v, M, 0.1, noise_scale=0.0, out=out)
        if "w" not in masks:
            tdas_ops.noise(M, x.shape, noise, each, out=out)
            for which in ("M", "Mt", "MMt"):
                tdas_ops.precondition(v, M, which, out=out)

    every_call()
    counted = lambda: torch.cuda.memory_stats()["allocation.all.allocated"]
    before = counted()
    every_call()
    assert counted() == before


@only_where(DEVICES > 1)
@pytest.mark.parametrize("masks", ["R", "RA", "A"])
@pytest.mark.parametrize("shape", SOME, ids=str)
def test_a_device_that_is_not_the_current_one(shape, masks):
    p = problem(shape, masks=masks)
    expected = tdas_ops.step(p.x, p.v, p.M, 0.1, noise=stream())
    assert torch.cuda.current_device() == 0
    x, v = (t.float().to("cuda:1") for t in (p.x, p.v))
    got = tdas_ops.step(x, v, p.M.to("cuda:1"), 0.1, noise=stream())
    assert got.device == torch.device("cuda:1") and torch.cuda.current_device() == 0
    assert relative_rms(got.cpu(), expected) < DRAWN
    with pytest.raises(ValueError, match=r"cuda:0.*expected.*cuda:1"):
        tdas_ops.step(x, v, p.M.to("cuda:1"), 0.1, noise=stream("cuda:0"))
