"""Sampling on a CUDA device: captured runs have the bits of eager ones, and no loop waits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import make_problem
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream
from tests.kernels.gpu.problems import BATCH, SOME, needs_gpu, problem

pytestmark = needs_gpu


def score(x: Tensor, level: Tensor) -> Tensor:
    return torch.tanh(x.float().roll(1, -1) - 1.3 * x) / (0.3 + level.reshape(-1, 1, 1, 1))


def sampled(shape: tuple[int, int, int], sampler: str = "pc", network: Any = score, **options) -> Tensor:
    M = options.pop("M", None) or problem(shape, masks="RA").M.to("cuda")
    options = {"noise": NoiseStream(5), "progress": False, **options}
    if sampler == "pc":
        return tdas_ops.samplers.pc(network, (BATCH, *shape), tdas_ops.sde.VE(0.01, 8.0), M, iterations=6, **options)
    sigmas = [4.0, 2.0, 1.0, 0.7, 0.6, 0.5]
    return tdas_ops.samplers.annealed_langevin(
        network, (BATCH, *shape), sigmas, M, step_size=1e-3, steps=2, hook=options.pop("hook", None), **options
    )


def held(shape: tuple[int, int, int]) -> tdas_ops.samplers.Hook:
    known = torch.linspace(0, 1, math.prod(shape)).reshape(shape).cuda()
    return tdas_ops.samplers.inpaint(known, known > 0.5)


def several(shape: tuple[int, int, int]) -> list[tdas_ops.Preconditioner]:
    return [make_problem(1, shape, seed=i).M.to("cuda") for i in range(6)]


VARIANTS: dict[str, Callable[[tuple[int, int, int]], dict[str, Any]]] = {
    "plain": lambda shape: {},
    "filters": lambda shape: {"M": several(shape)},
    "hook": lambda shape: {"hook": held(shape)},
    "bfloat16": lambda shape: {"network_dtype": torch.bfloat16, "channels_last": True},
    "seeds": lambda shape: {"noise": NoiseStream(seeds=[4, 5, 6])},
}


@pytest.mark.parametrize("sampler", ["pc", "annealed_langevin"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SOME, ids=str)
def test_a_captured_run_has_the_bits_of_the_eager_run(shape, variant, sampler):
    kept: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    samples = {}
    for graph in (False, True):
        options = VARIANTS[variant](shape)
        note = lambda state, graph=graph: kept[graph].append(state.state_dict())
        samples[graph] = sampled(shape, sampler, cuda_graph=graph, callback=note, **options)
    assert torch.equal(samples[True], samples[False]) and samples[True].isfinite().all()
    for captured, eager in zip(kept[True], kept[False], strict=True):
        assert torch.equal(captured["x"], eager["x"]) and torch.equal(captured["x_mean"], eager["x_mean"])
        assert captured["noise"] == eager["noise"]
    options = {**VARIANTS[variant](shape), "noise": NoiseStream(99)}
    assert torch.equal(sampled(shape, sampler, cuda_graph=True, resume=kept[False][2], **options), samples[False])


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "captured"])
@pytest.mark.parametrize("sampler", ["pc", "annealed_langevin"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_sampling_loop_waits_for_the_device(variant, sampler, graph):
    """From the first iteration, which loads kernels or captures, to the last."""
    calls: list[int] = []

    def watch(state: tdas_ops.samplers.State) -> None:
        calls.append(state.iteration)
        torch.cuda.set_sync_debug_mode("default" if state.iteration == state.iterations else "error")

    try:
        sampled((3, 32, 32), sampler, cuda_graph=graph, callback=watch, **VARIANTS[variant]((3, 32, 32)))
        assert len(calls) == 6
        with pytest.raises(RuntimeError, match="synchron"):
            sampled((3, 32, 32), sampler, lambda x, level: score(x, level) * x.sum().sign().item(), callback=watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_network_that_cannot_be_captured_is_one_sentence():
    network = lambda x, level: score(x, level) * x.sum().sign().item()
    noise, stream = NoiseStream(5), torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match=r"^cuda_graph: got a score function or hook that cannot be captured") as e:
        sampled((3, 32, 32), network=network, noise=noise, cuda_graph=True)
    assert "\n" not in str(e.value) and e.value.__cause__ is not None
    assert torch.cuda.current_stream() == stream
    assert noise.state_dict() == NoiseStream(5).state_dict()
    assert torch.equal(sampled((3, 32, 32), noise=noise, cuda_graph=True), sampled((3, 32, 32)))
