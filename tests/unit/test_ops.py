"""The contract of the public ops: dtypes, layouts, outputs, isolation, compilation, errors."""

from __future__ import annotations

import math
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_problem, relative_rms

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner, _backends, _schema

SHAPE = (3, 8, 9)


def single(batch: int = 3, **options):
    """A float32 problem: preconditioner, state, score, and the float64 originals."""
    p = make_problem(batch, SHAPE, **options)
    return p.M, p.x.float(), p.v.float(), p


def run_step(M, x, v, **options):
    return tdas_ops.step(x, v, M, 0.1, noise=NoiseStream(3, first_sample=1), **options)


def run_langevin(M, x, v, **options):
    return tdas_ops.langevin_step(x, v, M, 0.16, noise=NoiseStream(3, first_sample=1), **options)


RUNS = pytest.mark.parametrize("run", [run_step, run_langevin])


@RUNS
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("space", [True, False])
def test_float32_agrees_with_float64(backend, run, method, space):
    M, x, v, _ = single(method=method, space=space)
    with tdas_ops.use_backend("reference"):
        expected = run(M, x.double(), v.double())
    assert relative_rms(run(M, x, v), expected) < 1e-6


@RUNS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_scores_are_widened_first(backend, run, dtype):
    M, x, v, _ = single()
    got = run(M, x, v.to(dtype))
    assert got.dtype is torch.float32
    assert torch.equal(got, run(M, x, v.to(dtype).float()))


@RUNS
@pytest.mark.parametrize("return_mean", [False, True])
def test_memory_format_is_kept(run, return_mean):
    M, x, v, _ = single()
    expected = run(M, x, v)
    last = run(M, x.contiguous(memory_format=torch.channels_last), v, return_mean=return_mean)
    for y in last if return_mean else (last,):
        assert y.is_contiguous(memory_format=torch.channels_last)
    assert relative_rms(last[0] if return_mean else last, expected) < 1e-6
    sliced = torch.empty(3, 3, 8, 20)[..., ::2][..., :9].copy_(x)
    got = run(M, sliced, v)
    assert got.is_contiguous()
    assert relative_rms(got, expected) < 1e-6


@RUNS
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_out_and_in_place(backend, run, memory_format):
    M, x, v, _ = single()
    x = x.contiguous(memory_format=memory_format)
    expected, expected_mean = run(M, x, v, return_mean=True)
    own = torch.full_like(x, math.nan)
    assert run(M, x, v, out=own) is own
    assert torch.equal(own, run(M, x, v))
    state = x.clone()
    got, mean = run(M, state, v, out=state, return_mean=True)
    assert got is state
    assert torch.equal(state, expected)
    assert torch.equal(mean, expected_mean)
    assert mean.data_ptr() != state.data_ptr()


@RUNS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("options", [{}, {"return_mean": True}, {"in place": True}], ids=str)
def test_a_second_output_is_the_first_one_rounded(backend, run, dtype, memory_format, options):
    M, x, v, _ = single(space=not options)
    options = {"out": x.clone()} if "in place" in options else options
    expected = run(M, x, v, **options)
    expected = (expected[0] if isinstance(expected, tuple) else expected).clone()
    cast = torch.full(x.shape, math.nan, dtype=dtype).contiguous(memory_format=memory_format)
    if "out" in options:
        options["out"].copy_(x)
        x = options["out"]
    got = run(M, x, v, cast=cast, **options)
    assert torch.equal(got[0] if isinstance(got, tuple) else got, expected)
    assert torch.equal(cast, expected.to(dtype))
    assert cast.is_contiguous(memory_format=memory_format)


def test_a_second_output_beside_a_float64_state():
    p = make_problem(3, SHAPE)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        cast = torch.full(p.x.shape, math.nan, dtype=dtype)
        assert torch.equal(run_step(p.M, p.x, p.v, cast=cast).to(dtype), cast)


@RUNS
def test_outputs_are_fully_written(backend, run, poisoned):
    M, x, v, _ = single()
    got, mean = run(M, x, v, return_mean=True)
    assert got.isfinite().all() and mean.isfinite().all()
    assert tdas_ops.noise(M, (3, *SHAPE), NoiseStream(1)).isfinite().all()
    for which in ("M", "Mt", "MMt"):
        assert tdas_ops.precondition(v, M, which).isfinite().all()


@RUNS
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("space", [True, False])
def test_non_finite_scores_stay_in_their_sample(backend, run, bad, space):
    M, x, v, _ = single(batch=4, space=space)
    expected = run_step(M, x, v) if run is run_step else None
    v[1, 0, 2, 3] = bad
    got = run(M, x, v)
    assert not got[1].isfinite().all()
    for b in (0, 2, 3):
        assert got[b].isfinite().all()
        if expected is not None:
            assert torch.equal(got[b], expected[b])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("space", [True, False])
def test_a_score_of_zero_makes_no_step(backend, space, dtype):
    M, x, v, _ = single(space=space)
    x, v = x.to(dtype), v.to(dtype)
    expected = run_langevin(M, x, v, norm="sample")
    v[1] = 0.0
    got = run_langevin(M, x, v, norm="sample")
    assert torch.equal(got[1], x[1]) and torch.equal(got[::2], expected[::2])
    assert torch.equal(run_langevin(M, x, torch.zeros_like(v), norm="batch"), x)


def test_sample_norm_never_sees_its_neighbours():
    M, x, v, _ = single()
    z = torch.randn_like(x)
    whole = tdas_ops.langevin_step(x, v, M, 0.16, noise=z, norm="sample")
    v2 = v.clone()
    v2[0] *= 100
    moved = tdas_ops.langevin_step(x, v2, M, 0.16, noise=z, norm="sample")
    assert torch.equal(moved[1:], whole[1:])
    assert not torch.equal(moved[0], whole[0])
    batch = tdas_ops.langevin_step(x, v2, M, 0.16, noise=z, norm="batch")
    assert not torch.allclose(batch[1:], whole[1:])


def test_three_kinds_of_noise():
    M, x, v, _ = single()
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    from_tensor = tdas_ops.step(x, v, M, 0.1, noise=z)
    assert torch.equal(tdas_ops.step(x, v, M, 0.1, noise=torch.Generator().manual_seed(5)), from_tensor)
    stream = NoiseStream(5)
    assert not torch.equal(tdas_ops.step(x, v, M, 0.1, noise=stream), from_tensor)
    assert stream.state_dict()["draw"] == 1


def test_noise_draws_even_at_zero_scale():
    """The draw counter depends on the calls alone, never on their values."""
    M, x, v, _ = single()
    stream = NoiseStream(5)
    tdas_ops.step(x, v, M, 0.1, noise_scale=0.0, noise=stream)
    assert stream.state_dict()["draw"] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_precondition_keeps_dtype(backend, dtype):
    M, _, v, _ = single()
    got = tdas_ops.precondition(v.to(dtype), M, "MMt")
    assert got.dtype is dtype
    with tdas_ops.use_backend("reference"):
        expected = tdas_ops.precondition(v.to(dtype).double(), M, "MMt")
    assert relative_rms(got, expected) < {
        torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 4e-3, torch.float16: 5e-4
    }[dtype]  # fmt: skip
    out = torch.full_like(got, math.nan)
    assert tdas_ops.precondition(v.to(dtype), M, "MMt", out=out) is out
    assert torch.equal(out, got)


def test_noise_out_dtype_and_format():
    M = Preconditioner.identity(SHAPE)
    a = tdas_ops.noise(M, (2, *SHAPE), NoiseStream(1), scale=torch.tensor([1.0, 3.0]))
    b = torch.full((2, *SHAPE), math.nan).contiguous(memory_format=torch.channels_last)
    assert tdas_ops.noise(M, (2, *SHAPE), NoiseStream(1), scale=torch.tensor([1.0, 3.0]), out=b) is b
    assert torch.equal(a, b)
    assert (
        relative_rms(a, tdas_ops.noise(M, (2, *SHAPE), NoiseStream(1), torch.tensor([1.0, 3.0]), dtype=torch.float64))
        < 1e-6
    )
    last = tdas_ops.noise(M, (2, *SHAPE), NoiseStream(1), memory_format=torch.channels_last)
    assert last.is_contiguous(memory_format=torch.channels_last)


# Compilation, dispatch


def arguments(
    op: str, M: Preconditioner, x: torch.Tensor, v: torch.Tensor, stream: NoiseStream | None, z=None, mean=False
):
    """The arguments of an overload, in the order of its schema."""
    freq, space, skew = M.masks(x.dtype)
    drawn = (None, stream.seeds, stream.draw, 1) if stream is not None else (z, None, None, 0)
    out = torch.empty_like(x)
    other = torch.empty_like(x) if mean else None
    cast = torch.zeros_like(x, dtype=torch.bfloat16) if mean else None
    return {
        "noise": (out, freq, space, 0.5, None, *drawn),
        "precondition": (out, v, freq, space, "MMt"),
        "step": (out, other, x, v, freq, space, skew, True, 0.1, None, None, torch.rand(3), *drawn, cast),
        "langevin_step": (out, other, x, v, freq, space, skew, True, 0.16, 1.0, None, False, *drawn, cast),
    }[op]


@pytest.mark.parametrize("op", ["noise", "precondition", "step", "langevin_step"])
@pytest.mark.parametrize("own_noise", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(backend, op, own_noise, dtype):
    M, x, v, _ = single(skew=True)
    x, v = x.to(dtype), v.to(dtype)
    stream = None if own_noise else NoiseStream(1)
    overload = getattr(getattr(torch.ops.tdas_ops, op), backend)
    torch.library.opcheck(overload, arguments(op, M, x, v, stream, z=v if own_noise else None, mean=own_noise))


@pytest.mark.parametrize("op", ["noise", "step", "langevin_step"])
@pytest.mark.parametrize("space", [True, False], ids=["space", "plain"])
def test_a_part_of_a_stream_is_no_noise(backend, op, space):
    M, x, v, _ = single(space=space)
    stream = NoiseStream(1)
    at = 5 if op == "noise" else 12  # of z, seeds and draw
    needed = [] if op == "step" else [(None, None, None)]
    for noise in [(None, stream.seeds, None), (None, None, stream.draw), (v, stream.seeds, None), *needed]:
        given = list(arguments(op, M, x, v, stream))
        given[0].fill_(7.0)
        given[at : at + 3] = noise
        with pytest.raises(ValueError, match=r"without|no noise|got none"):
            getattr(getattr(torch.ops.tdas_ops, op), backend)(*given)
        assert (given[0] == 7.0).all() and stream.state_dict()["draw"] == 0


def test_an_op_of_two_devices_is_refused(backend):
    """The dispatcher takes one tensor on the device meta for a trace, in which nothing is computed."""
    M, x, v, _ = single()
    for op in ("noise", "precondition", "step", "langevin_step"):
        given = arguments(op, M, x, v, NoiseStream(1))
        moved = [a.to("meta") if isinstance(a, torch.Tensor) and a.dim() == 3 else a for a in given]
        with pytest.raises(ValueError, match="devices: got tensors on cpu and meta, expected one device"):
            getattr(getattr(torch.ops.tdas_ops, op), backend)(*moved)


@pytest.mark.parametrize("spectral", [False, True])
def test_opcheck_normals(backend, spectral):
    stream = NoiseStream(1)
    out = torch.empty(2, 1, 4, 5, dtype=torch.complex64)
    torch.library.opcheck(getattr(torch.ops.tdas_ops.normals, backend), (out, stream.seeds, stream.draw, 0, spectral))


def sampling(M, stream):
    def run(x, v, d):
        x, mean = tdas_ops.step(x, v, M, d, noise=stream, return_mean=True)
        cast = torch.empty_like(x, dtype=torch.bfloat16)
        x = tdas_ops.langevin_step(x, v, M, 0.16, noise=stream, norm="sample", cast=cast)
        x = tdas_ops.step(x, v, M, 0.1, noise_scale=d, noise=stream, out=x)
        return x + cast + tdas_ops.precondition(v, M, "Mt") + tdas_ops.noise(M, x.shape, stream), mean

    return run


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(compiler):
    M, x, v, _ = single()
    eager, compiled = NoiseStream(2), NoiseStream(2)
    function = torch.compile(sampling(M, compiled), fullgraph=True, backend=compiler)
    for d in (torch.rand(3), torch.rand(3)):
        for got, expected in zip(function(x, v, d), sampling(M, eager)(x, v, d), strict=True):
            assert relative_rms(got, expected) < 1e-6
        assert compiled.state_dict() == eager.state_dict()


def test_inference_mode():
    M, x, v, _ = single()
    stream = NoiseStream(2)
    expected = [run_step(M, x, v), tdas_ops.step(x, v, M, 0.1, noise=NoiseStream(2))]
    with torch.inference_mode():
        made_inside = NoiseStream(2)
        assert torch.equal(run_step(M, x, v), expected[0])
        assert torch.equal(tdas_ops.step(x, v, M, 0.1, noise=stream), expected[1])
    assert torch.equal(tdas_ops.step(x, v, M, 0.1, noise=made_inside), expected[1])
    tdas_ops.step(x, v, M, 0.1, noise=stream)
    assert stream.state_dict()["draw"] == 2


def test_no_op_waits_for_the_device():
    """On fake tensors every read of a value raises, so a run that completes has read none."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    from tdas_ops import reference

    M, x, v, _ = single(skew=True)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fake = lambda t: mode.from_tensor(t)
        fx, fv, d = fake(x), fake(v), fake(torch.rand(3))
        masks = [fake(m) for m in M.masks(torch.float32)]
        drawn = (None, fake(torch.zeros(1, dtype=torch.int64)), fake(torch.zeros(1, dtype=torch.int64)), 1)
        out, mean = torch.empty_like(fx), torch.empty_like(fx)
        reference.noise(out, *masks[:2], 0.0, d, *drawn)
        reference.step(out, mean, fx, fv, *masks, True, 0.0, d, None, None, *drawn)
        for per_sample in (False, True):
            reference.langevin_step(out, mean, fx, fv, *masks, True, 0.16, 0.0, d, per_sample, *drawn)
        with pytest.raises(DataDependentOutputException):
            d[0].item()


def test_call_chain_is_short():
    """From `tdas_ops.step` to the kernel: at most four frames of the package."""

    M, x, v, _ = single()
    deepest: list[str] = []

    def spy(*args, **kwargs):
        frame, names = sys._getframe(1), []
        while frame is not None:
            if "tdas_ops" in Path(frame.f_code.co_filename).parts:
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        deepest[:] = names

    library = torch.library.Library("tdas_ops_probe", "DEF")
    library.define("step" + _schema.SCHEMAS["step"])
    library.impl("step", spy, "CPU")

    before = _backends._table["step"]["cpu"]
    _backends._table["step"]["cpu"] = torch.ops.tdas_ops_probe.step.default
    try:
        tdas_ops.step(x, v, M, 0.1, noise=NoiseStream(1))
    finally:
        _backends._table["step"]["cpu"] = before
    assert len(deepest) <= 4
    assert deepest[-1] == "step"


# Errors: one sentence that names the argument, and nothing is written


def bad_calls():
    M, x, v, _ = single()
    z = NoiseStream(1)
    step, langevin, noise, pre = tdas_ops.step, tdas_ops.langevin_step, tdas_ops.noise, tdas_ops.precondition
    leaf = x.clone().requires_grad_()
    strided = torch.empty(3, 3, 8, 18)[..., ::2]
    wide, x2, last = torch.zeros(4, *SHAPE), torch.zeros(3, *SHAPE), x.contiguous(memory_format=torch.channels_last)
    filter_only = make_problem(3, SHAPE, method=None).M
    return {
        "x not a tensor": (TypeError, "x: got list", lambda o: step([1], v, M, 0.1, noise=z, out=o)),
        "x of rank 3": (ValueError, r"x: got shape \(3, 8, 9\)", lambda o: step(x[0], v[0], M, 0.1, noise=z, out=o)),
        "x of another size": (ValueError, r"expected \[B >= 1, 3, 8, 9\]", lambda o: step(x[..., :8], v, M, 0.1, noise=z, out=o)),
        "empty batch": (ValueError, "x: got shape", lambda o: step(x[:0], v[:0], M, 0.1, noise=z, out=o)),
        "x in half": (TypeError, "x: got torch.float16", lambda o: step(x.half(), v, M, 0.1, noise=z, out=o)),
        "x on another device": (ValueError, "M: got a preconditioner on cpu, expected one on meta", lambda o: step(x.to("meta"), v, M, 0.1, noise=z, out=o)),
        "x needs grad": (ValueError, "x: got a tensor that requires grad", lambda o: step(leaf, v, M, 0.1, noise=z, out=o)),
        "M not one": (TypeError, "M: got Tensor", lambda o: step(x, v, x, 0.1, noise=z, out=o)),
        "M without method": (ValueError, "M: got a filter without a method", lambda o: step(x, v, filter_only, 0.1, noise=z, out=o)),
        "out a negated view": (ValueError, "out: got a negated view", lambda o: step(x, v, M, 0.1, noise=z, out=torch._neg_view(x.clone()))),
        "v of another shape": (ValueError, r"v: got shape \(2, 3, 8, 9\), expected \(3, 3, 8, 9\)", lambda o: step(x, v[:2], M, 0.1, noise=z, out=o)),
        "v in int": (TypeError, "v: got torch.int64", lambda o: step(x, v.long(), M, 0.1, noise=z, out=o)),
        "v in double": (TypeError, "v: got torch.float64", lambda o: step(x, v.double(), M, 0.1, noise=z, out=o)),
        "v on another device": (ValueError, "v: got a tensor on meta", lambda o: step(x, v.to("meta"), M, 0.1, noise=z, out=o)),
        "v needs grad": (ValueError, "v: got a tensor that requires grad", lambda o: step(x, leaf, M, 0.1, noise=z, out=o)),
        "negative step": (ValueError, "step_size: got -0.1", lambda o: step(x, v, M, -0.1, noise=z, out=o)),
        "NaN step": (ValueError, "step_size: got nan", lambda o: step(x, v, M, math.nan, noise=z, out=o)),
        "infinite step": (ValueError, "step_size: got inf", lambda o: step(x, v, M, math.inf, noise=z, out=o)),
        "step beyond float32": (ValueError, r"step_size: got 1e\+39, expected 0 or from 1.18e-38 to 1.7e\+38, as torch.float32", lambda o: step(x, v, M, 1e39, noise=z, out=o)),
        "step of an infinite noise": (ValueError, r"step_size: got 2e\+38", lambda o: step(x, v, M, 2e38, noise=z, out=o)),
        "step below float32": (ValueError, "step_size: got 1e-60", lambda o: step(x, v, M, 1e-60, noise=z, out=o)),
        "step beyond float64": (ValueError, "step_size: got inf", lambda o: step(x, v, M, 10**400, noise=z, out=o)),
        "step a text of digits": (TypeError, "step_size: got str", lambda o: step(x, v, M, "0.1", noise=z, out=o)),
        "step complex": (TypeError, "step_size: got complex64", lambda o: step(x, v, M, np.complex64(1), noise=z, out=o)),
        "step true": (TypeError, "step_size: got bool", lambda o: step(x, v, M, True, noise=z, out=o)),
        "step an array": (TypeError, "step_size: got ndarray", lambda o: step(x, v, M, np.ones(3), noise=z, out=o)),
        "alpha below float32": (ValueError, "alpha: got 1e-60", lambda o: langevin(x, v, M, 0.1, alpha=1e-60, noise=z, out=o)),
        "step a string": (TypeError, "step_size: got str", lambda o: step(x, v, M, "big", noise=z, out=o)),
        "step of 2 samples": (ValueError, r"step_size: got shape \(2,\)", lambda o: step(x, v, M, torch.rand(2), noise=z, out=o)),
        "step in a column": (ValueError, r"step_size: got shape \(1, 3\)", lambda o: step(x, v, M, torch.rand(1, 3), noise=z, out=o)),
        "step in int": (TypeError, "step_size: got torch.int64", lambda o: step(x, v, M, torch.ones(3).long(), noise=z, out=o)),
        "step elsewhere": (ValueError, "step_size: got a tensor on meta", lambda o: step(x, v, M, torch.rand(3, device="meta"), noise=z, out=o)),
        "negative noise scale": (ValueError, "noise_scale: got -1.0", lambda o: step(x, v, M, 0.1, noise_scale=-1.0, noise=z, out=o)),
        "no noise": (ValueError, "noise: got None", lambda o: step(x, v, M, 0.1, out=o)),
        "noise an int": (TypeError, "noise: got int", lambda o: step(x, v, M, 0.1, noise=0, out=o)),
        "noise of another shape": (ValueError, "noise: got shape", lambda o: step(x, v, M, 0.1, noise=x[:2], out=o)),
        "noise in double": (TypeError, "noise: got torch.float64", lambda o: step(x, v, M, 0.1, noise=x.double(), out=o)),
        "seeds of another batch": (ValueError, "noise: got a stream of 2 seeds", lambda o: step(x, v, M, 0.1, noise=NoiseStream(seeds=[1, 2]), out=o)),
        "out of another shape": (ValueError, "out: got shape", lambda o: step(x, v, M, 0.1, noise=z, out=o[:2])),
        "out in double": (TypeError, "out: got torch.float64", lambda o: step(x, v, M, 0.1, noise=z, out=o.double())),
        "out is the score": (ValueError, "out: got memory of v, expected x itself or a tensor apart", lambda o: step(x, v, M, 0.1, noise=z, out=v)),
        "out in the score": (ValueError, "out: got memory of v", lambda o: step(x, wide[1:], M, 0.1, noise=z, out=wide[:3])),
        "out around the score": (ValueError, "out: got memory of score", lambda o: langevin(x, wide[2:3].expand(3, -1, -1, -1), M, 0.1, noise=z, out=wide[:3])),
        "out is the noise": (ValueError, "out: got memory of noise", lambda o: step(x, v, M, 0.1, noise=x2, out=x2.view(x.shape))),
        "out part of x": (ValueError, "out: got memory of x", lambda o: step(wide[1:], v, M, 0.1, noise=z, out=wide[:3])),
        "out is x in another order": (ValueError, "out: got memory of x", lambda o: step(last, v, M, 0.1, noise=z, out=last.as_strided(x.shape, x.stride()))),
        "out expanded": (ValueError, "out: got strides", lambda o: step(x, v, M, 0.1, noise=z, out=x2[:1].expand(3, -1, -1, -1))),
        "noise into its own z": (ValueError, "out: got memory of noise", lambda o: noise(M, x.shape, x2, out=x2[:])),
        "out strided": (ValueError, "out: got strides", lambda o: step(x, v, M, 0.1, noise=z, out=strided)),
        "cast a list": (TypeError, "cast: got list", lambda o: step(x, v, M, 0.1, noise=z, out=o, cast=[1])),
        "cast of another shape": (ValueError, "cast: got shape", lambda o: step(x, v, M, 0.1, noise=z, out=o, cast=x2[:2])),
        "cast in double": (TypeError, "cast: got torch.float64", lambda o: langevin(x, v, M, 0.1, noise=z, out=o, cast=x.double())),
        "cast in int": (TypeError, "cast: got torch.int32", lambda o: step(x, v, M, 0.1, noise=z, out=o, cast=x.int())),
        "cast elsewhere": (ValueError, "cast: got a tensor on meta", lambda o: step(x, v, M, 0.1, noise=z, out=o, cast=x.to("meta"))),
        "cast strided": (ValueError, "cast: got strides", lambda o: langevin(x, v, M, 0.1, noise=z, out=o, cast=strided)),
        "cast needs grad": (ValueError, "cast: got a tensor that requires grad", lambda o: step(x, v, M, 0.1, noise=z, out=o, cast=leaf)),
        "cast a negated view": (ValueError, "cast: got a negated view", lambda o: step(x, v, M, 0.1, noise=z, out=o, cast=torch._neg_view(x.clone()))),
        "cast is x": (ValueError, "cast: got memory of x, expected a tensor apart", lambda o: step(x, v, M, 0.1, noise=z, out=o, cast=x)),
        "cast is out": (ValueError, "cast: got memory of out", lambda o: step(x, v, M, 0.1, noise=z, out=o, cast=o)),
        "cast in the score": (ValueError, "cast: got memory of score", lambda o: langevin(x, wide[1:], M, 0.1, noise=z, out=o, cast=wide[:3])),
        "cast is the noise": (ValueError, "cast: got memory of noise", lambda o: step(x, v, M, 0.1, noise=x2, out=o, cast=x2.view(x.shape))),
        "negative snr": (ValueError, "snr: got -1.0", lambda o: langevin(x, v, M, -1, noise=z, out=o)),
        "snr a tensor": (TypeError, "snr: got a tensor", lambda o: langevin(x, v, M, torch.tensor(0.1), noise=z, out=o)),
        "norm unknown": (ValueError, "norm: got 'max'", lambda o: langevin(x, v, M, 0.1, noise=z, norm="max", out=o)),
        "langevin without noise": (ValueError, "noise: got None", lambda o: langevin(x, v, M, 0.1, noise=None, out=o)),
        "noise shape": (ValueError, r"shape: got \(3, 3, 8, 8\)", lambda o: noise(M, (3, 3, 8, 8), z)),
        "noise dtype": (TypeError, "dtype: got torch.float16", lambda o: noise(M, x.shape, z, dtype=torch.float16)),
        "noise without M": (TypeError, "M: got NoneType", lambda o: noise(None, x.shape, z)),
        "x sparse": (ValueError, "x: got a tensor of layout torch.sparse_coo", lambda o: step(x.to_sparse(), v, M, 0.1, noise=z, out=o)),
        "v sparse": (ValueError, "v: got a tensor of layout torch.sparse_coo", lambda o: step(x, v.to_sparse(), M, 0.1, noise=z, out=o)),
        "out sparse": (ValueError, "out: got a tensor of layout torch.sparse_coo", lambda o: pre(v, M, out=o.to_sparse())),
        "noise sparse": (ValueError, "noise: got a tensor of layout torch.sparse_coo", lambda o: step(x, v, M, 0.1, noise=x.to_sparse(), out=o)),
        "step sparse": (ValueError, "step_size: got a tensor of layout torch.sparse_coo", lambda o: step(x, v, M, torch.rand(3).to_sparse(), noise=z, out=o)),
        "noise in another order": (ValueError, "memory_format: got torch.preserve_format", lambda o: noise(M, x.shape, z, memory_format=torch.preserve_format)),
        "which unknown": (ValueError, "which: got 'MM'", lambda o: pre(v, M, "MM", out=o)),
        "precondition of ints": (TypeError, "v: got torch.int64", lambda o: pre(v.long(), M, out=o)),
        "precondition of a list": (ValueError, "v: got list", lambda o: pre([v], M, out=o)),
        "precondition needs grad": (ValueError, "v: got a tensor that requires grad", lambda o: pre(leaf, M, out=o)),
        "precondition in place": (ValueError, "out: got memory of v, expected a tensor apart", lambda o: pre(v, M, out=v)),
    }  # fmt: skip


def test_numbers_of_any_library_in_the_range_of_x():
    M, x, v, p = single()
    expected = run_step(M, x, v)
    for d in (np.float64(0.1), Fraction(1, 10), Decimal("0.1"), np.array(0.1)):
        assert torch.equal(tdas_ops.step(x, v, M, d, noise=NoiseStream(3, first_sample=1)), expected)
    for d in (1e-60, 1e-200, 1e60):
        got = tdas_ops.step(p.x, d * p.v, M, 1 / d, noise_scale=0, noise=None)  # a float64 state takes them
        assert relative_rms(got, tdas_ops.step(p.x, p.v, M, 1.0, noise_scale=0, noise=None)) < 1e-12


@pytest.mark.parametrize("case", bad_calls())
def test_bad_input_is_one_sentence_and_changes_nothing(case):
    error, message, call = bad_calls()[case]
    out = torch.full((3, *SHAPE), 7.0)
    with pytest.raises(error, match=message) as caught:
        call(out)
    text = str(caught.value)
    assert "\n" not in text and "expected" in text
    assert (out == 7.0).all()
