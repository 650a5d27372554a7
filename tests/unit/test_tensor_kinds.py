"""Rules that no kind of tensor escapes: subclasses, traced ones, derivatives, transforms; numbers of compiled calls."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import relative_rms
from test_ops import SHAPE, run_step, single

import tdas_ops
from tdas_ops import NoiseStream


class Tagged(torch.Tensor):
    """A subclass with a storage of its own."""


def as_parameter(t):
    return torch.nn.Parameter(t, requires_grad=False)


@pytest.mark.parametrize("kind", [as_parameter, torch.nn.Buffer, lambda t: t.as_subclass(Tagged)])
def test_a_subclass_shares_memory_as_a_tensor_does(kind):
    M, x, v, _ = single()
    wide = torch.zeros(4, *SHAPE)
    z = NoiseStream(1)
    calls = {
        "out: got memory of v": lambda: tdas_ops.step(x, wide[1:], M, 0.1, noise=z, out=kind(wide[:3])),
        "out: got memory of score": lambda: tdas_ops.langevin_step(x, kind(v), M, 0.1, noise=z, out=v.view(v.shape)),
        "out: got memory of x": lambda: tdas_ops.step(wide[1:], v, M, 0.1, noise=z, out=kind(wide[:3])),
        "out: got memory of noise": lambda: tdas_ops.noise(M, x.shape, wide[1:], out=kind(wide[:3])),
        "cast: got memory of v": lambda: tdas_ops.step(x, wide[1:], M, 0.1, noise=z, cast=kind(wide[:3])),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="out: got memory of v, expected a tensor apart"):
        tdas_ops.precondition(v, M, out=kind(v))
    assert (wide == 0).all() and z.state_dict()["draw"] == 0
    state = x.clone()
    assert torch.equal(run_step(M, state, v, out=kind(state)), run_step(M, x, v))


def test_scales_share_no_memory_with_outputs():
    M, x, v, _ = single(batch=1)
    z, scale = NoiseStream(1), lambda: x.view(-1)[5:6]
    with pytest.raises(ValueError, match="out: got memory of step_size"):
        tdas_ops.step(x, v, M, scale(), noise=z, out=x)
    with pytest.raises(ValueError, match="out: got memory of noise_scale"):
        tdas_ops.step(x, v, M, 0.1, noise_scale=scale(), noise=z, out=x)
    with pytest.raises(ValueError, match="cast: got memory of alpha"):
        tdas_ops.langevin_step(x.clone(), v, M, 0.1, alpha=scale(), noise=z, cast=x)
    with pytest.raises(ValueError, match="out: got memory of scale"):
        tdas_ops.noise(M, x.shape, z, scale(), out=x)


def test_what_is_traced_has_no_memory_to_share():
    """Fake tensors, functional ones and those on the device meta are told by what they are, not by their type."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from tdas_ops import _inputs

    with FakeTensorMode():
        fake = torch.empty(3, *SHAPE)
        assert type(torch.nn.Parameter(fake)) is not torch.nn.Parameter
        for t in (fake, torch.nn.Parameter(fake), fake.as_subclass(torch.Tensor)):
            assert _inputs.address(t) == 0
    assert _inputs.address(torch.empty(3, device="meta")) == 0
    assert _inputs.address(torch._to_functional_tensor(torch.ones(3))) == 0
    assert _inputs.address(torch.ones(3).to_sparse()) == 0
    for t in (torch.ones(3), as_parameter(torch.ones(3)), torch.ones(3).as_subclass(Tagged)):
        assert _inputs.address(t) == t.data_ptr() != 0


def derived(call):
    """A call inside a level of forward-mode differentiation, with tensors that carry a tangent."""
    from torch.autograd import forward_ad

    with forward_ad.dual_level():
        return call(lambda t: forward_ad.make_dual(t, torch.ones_like(t)))


def test_derivatives_and_transforms_are_refused():
    M, x, v, _ = single()
    z, scale, many = NoiseStream(1), torch.rand(3), torch.rand(2, 3, *SHAPE)
    generator = torch.Generator().manual_seed(1)
    forward = {
        "x": lambda dual: tdas_ops.step(dual(x), v, M, 0.1, noise=z),
        "v": lambda dual: tdas_ops.step(x, dual(v), M, 0.1, noise=z),
        "score": lambda dual: tdas_ops.langevin_step(x, dual(v), M, 0.1, noise=z),
        "noise": lambda dual: tdas_ops.noise(M, x.shape, dual(v)),
        "step_size": lambda dual: tdas_ops.step(x, v, M, dual(scale), noise=z),
        "alpha": lambda dual: tdas_ops.langevin_step(x, v, M, 0.1, alpha=dual(scale), noise=z),
        "cast": lambda dual: tdas_ops.step(x, v, M, 0.1, noise=z, cast=dual(v)),
        "out": lambda dual: tdas_ops.precondition(v, M, out=dual(x)),
    }
    for name, call in forward.items():
        with pytest.raises(
            ValueError, match=f"{name}: got a tensor with a forward-mode derivative, expected one without"
        ):
            derived(call)
    expected = tdas_ops.precondition(v, M)
    assert torch.equal(derived(lambda dual: tdas_ops.precondition(dual(v).detach(), M)), expected)
    transforms = {
        "vmap": lambda: torch.vmap(lambda v: tdas_ops.precondition(v, M))(many),
        "vmap of the score": lambda: torch.vmap(lambda v: tdas_ops.step(x, v, M, 0.1, noise=generator))(many),
        "vmap of the noise": lambda: torch.vmap(lambda z: tdas_ops.noise(M, x.shape, z))(many),
        "vmap into": lambda: torch.vmap(lambda v: tdas_ops.precondition(v, M, out=torch.empty_like(v)))(many),
        "grad": lambda: torch.func.grad(lambda v: tdas_ops.precondition(v, M).sum())(v),
        "jvp": lambda: torch.func.jvp(lambda v: tdas_ops.precondition(v, M), (v,), (v,)),
        "functionalize": lambda: torch.func.functionalize(lambda v: tdas_ops.precondition(v, M))(v),
    }
    for call in transforms.values():
        with pytest.raises(ValueError, match=r"got a call under a transform of torch\.func such as vmap, expected"):
            call()
    assert z.state_dict()["draw"] == 0
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())


# Numbers of compiled functions


def test_two_graphs_serve_all_values_of_numbers():
    """Each of them alone, made static, would take a graph a value, of which torch.compile allows eight."""
    M, x, v, _ = single()
    graphs = []

    def counted(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def run(stream, step_size, noise_scale, alpha, snr, scale):
        y = tdas_ops.step(x, v, M, step_size, noise_scale=noise_scale, noise=stream)
        y = tdas_ops.langevin_step(y, v, M, snr, alpha=alpha, noise=stream)
        return y + tdas_ops.noise(M, x.shape, stream, scale) + tdas_ops.step(x, v, M, step_size, noise=stream)

    compiled = torch.compile(run, fullgraph=True, backend=counted)
    for i in range(20):
        numbers = [0.1 + 0.02 * i, 0.5 - 0.02 * i, 0.3 + 0.01 * i, 0.1 + 0.005 * i, 1 + 0.5 * i]
        streams = [NoiseStream(3, first_sample=7 * i) for _ in range(2)]
        assert relative_rms(compiled(streams[0], *numbers), run(streams[1], *numbers)) < 1e-6
        assert streams[0].state_dict() == streams[1].state_dict()
    assert len(graphs) <= 2


def test_numbers_are_checked_in_compiled_functions():
    M, x, v, _ = single()
    run = torch.compile(lambda d: tdas_ops.step(x, v, M, d, noise=NoiseStream(1)), backend="eager")
    for d in (0.1, 0.2, 0.3):
        run(d)
    for d in (-0.1, math.nan, 1e39):
        with pytest.raises(ValueError, match="step_size: got"):
            run(d)
    expected = tdas_ops.step(x, v, M, 0.0, noise_scale=0.0)
    assert torch.equal(
        torch.compile(lambda d: tdas_ops.step(x, v, M, d, noise_scale=d), backend="eager")(0.0), expected
    )
