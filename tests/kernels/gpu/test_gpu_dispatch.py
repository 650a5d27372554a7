"""The CUDA ops as torch sees them, and what they refuse."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream
from tests.kernels.gpu.problems import counters, needs_gpu, single, stream

pytestmark = needs_gpu


def arguments(op: str, M, x: Tensor, v: Tensor, own_noise: bool) -> dict[str, Any]:
    """The arguments of an overload, by the names of its schema."""
    freq, space, skew = M.masks(torch.float32)
    noise = NoiseStream(1, device="cuda")
    drawn = (
        {"z": v, "seeds": None, "draw": None} if own_noise else {"z": None, "seeds": noise.seeds, "draw": noise.draw}
    )
    drawn["first_sample"] = 0 if own_noise else 1
    each = torch.rand(len(x)).cuda()
    out = torch.zeros_like(x)
    mean = torch.zeros_like(x) if own_noise else None
    update = {"out": out, "mean": mean, "x": x}
    masks = {"freq": freq, "space": space, "skew": skew, "filter_drift": True}
    snr = {"snr": 0.16, "alpha": 1.0, "alpha_tensor": each, "per_sample": False}
    scales = {"d": 0.1, "d_tensor": each, "n": None, "n_tensor": None}
    return {
        "noise": {"out": out, "freq": freq, "space": space, "n": 0.5, "n_tensor": each, **drawn},
        "precondition": {"out": out, "v": v, "freq": freq, "space": space, "which": "MMt"},
        "step": {**update, "v": v, **masks, **scales, **drawn},
        "langevin_step": {**update, "score": v, **masks, **snr, **drawn},
    }[op]


@pytest.mark.parametrize("op", ["noise", "precondition", "step", "langevin_step"])
@pytest.mark.parametrize("own_noise", [False, True])
def test_opcheck(op, own_noise):
    M, x, v = single((2, 32, 32), "RA" if op == "langevin_step" else "RAw")
    overload = getattr(torch.ops.tdas_ops, op).cuda
    torch.library.opcheck(overload, tuple(arguments(op, M, x, v, own_noise).values()))


ELSEWHERE = [("noise", ("freq", "space", "n_tensor", "seeds", "draw")), ("precondition", ("v", "freq", "space"))]
ELSEWHERE += [("step", ("x", "v", "freq", "space", "skew", "d_tensor", "seeds", "draw"))]


@pytest.mark.parametrize(("op", "name"), [(op, name) for op, names in ELSEWHERE for name in names])
def test_an_op_refuses_tensors_of_another_device(op, name):
    """One sentence that names the argument, and nothing is written."""
    M, x, v = single((2, 32, 32), "RAw")
    given = arguments(op, M, x, v, own_noise=False)
    draw = given.get("draw")
    given[name] = given[name].cpu()
    with pytest.raises((ValueError, RuntimeError)) as caught:
        getattr(torch.ops.tdas_ops, op).cuda(**given)
    text = str(caught.value)
    assert f"`{name}`" in text and "cpu" in text and "expected" in text and "\n" not in text.strip()
    torch.cuda.synchronize()
    assert not given["out"].any()
    assert draw is None or draw.item() == 0


def test_the_public_functions_refuse_tensors_of_another_device():
    M, x, v = single((2, 32, 32))
    step = partial(tdas_ops.step, noise=stream("cuda"))
    mistakes = [
        (lambda: step(x, v.cpu(), M, 0.1), "v: got a tensor on cpu, expected cuda:0"),
        (lambda: step(x.cpu(), v, M, 0.1), "M: got a preconditioner on cuda:0, expected one on cpu"),
        (lambda: step(x, v, M, torch.ones(1)), "step_size: got a tensor on cpu, expected cuda:0"),
        (lambda: step(x, v, M, 0.1, out=torch.empty(x.shape)), "out: got a tensor on cpu, expected cuda:0"),
        (lambda: step(x, v, M, 0.1, noise=stream("cpu")), "noise: got a stream on cpu, expected one on cuda:0"),
        (lambda: step(x, v, M, 0.1, noise=torch.zeros(x.shape)), "noise: got a tensor on cpu, expected cuda:0"),
    ]
    for call, message in mistakes:
        with pytest.raises(ValueError, match=message):
            call()


def test_normals_refuse_tensors_of_another_device():
    out = torch.zeros(1, 1, 2, 2, dtype=torch.complex64, device="cuda")
    with pytest.raises(ValueError, match="`draw` is on cpu; expected the device of `out`, cuda:0"):
        torch.ops.tdas_ops.normals.cuda(out, counters(7), torch.tensor([0]), 0, False)
    assert not out.any()
