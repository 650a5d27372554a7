"""The public ops over shapes, strides, dtypes, masks, scales and noise, against the float64 reference.

HYPOTHESIS_PROFILE=long looks further and at other examples every time.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import pytest
import torch
from conftest import make_problem, relative_rms
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner

_common: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
settings.register_profile("bounded", derandomize=True, database=None, **_common)
settings.register_profile("long", **_common)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "bounded")
settings.load_profile(PROFILE)


def examples(count: int) -> settings:
    return settings(max_examples=count * (40 if PROFILE == "long" else 1))


SMALL = [1, 2, 3, 5, 6, 7, 12, 13, 15, 16, 31, 32, 33, 48, 64, 97, 128]
LAYOUTS = ["contiguous", "channels_last", "transposed", "sliced", "expanded"]
SCORES = [torch.float32, torch.bfloat16, torch.float16]


class Case(NamedTuple):
    op: str
    batch: int
    shape: tuple[int, int, int]
    freq: bool
    space: bool
    skew: bool
    method: str
    double: bool
    score: torch.dtype
    layouts: tuple[str, str, str]  # of x, score and noise
    scales: tuple[str, str]
    noise: str
    out: str
    mean: bool
    which: str
    per_sample: bool
    seed: int

    @property
    def drawn(self) -> bool:
        return self.noise in ("stream", "seeds")


@st.composite
def cases(draw: st.DrawFn, ops: tuple[str, ...] = ("step", "langevin_step", "noise", "precondition")) -> Case:
    pick = lambda *values: draw(st.sampled_from(values))
    sizes = st.one_of(st.sampled_from([32, 64, 128, 36, 45, 50, 74]), st.sampled_from(SMALL))  # from 32 on: kernels
    height, width = draw(sizes), draw(sizes)
    if draw(st.integers(0, 9)) == 0:
        long, short = pick(256, 512), min(height, 64)
        height, width = pick((long, short), (short, long))
    batch, channels = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    method = pick("pds", "tdas")
    op = pick(*ops)
    return Case(
        op,
        batch,
        (channels, height, width),
        freq=draw(st.booleans()) or draw(st.booleans()),
        space=draw(st.booleans()),
        skew=method == "pds" and draw(st.booleans()),
        method=method,
        double=draw(st.integers(0, 2)) == 0,
        score=pick(*SCORES),
        layouts=(pick(*LAYOUTS), pick(*LAYOUTS), pick(*LAYOUTS)),
        scales=(
            pick("zero", "number", "one", "each", "column"),
            pick("default", "zero", "number", "one", "each", "column"),
        ),
        noise=pick("stream", "stream", "seeds", "tensor", "generator"),
        out=pick("new", "own", "in place"),
        mean=draw(st.booleans()),
        which=pick("M", "Mt", "MMt"),
        per_sample=draw(st.booleans()),
        seed=draw(st.integers(0, 1 << 20)),
    )


def laid_out(t: Tensor, layout: str) -> Tensor:
    """The same values with other strides; "expanded" repeats the first sample."""
    if layout == "channels_last":
        return t.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return t.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "sliced":  # starts one element into its storage, and its rows lie apart
        wide = torch.full((*t.shape[:-1], t.shape[-1] + 3), math.nan, dtype=t.dtype)
        wide[..., 1:-2] = t
        return wide[..., 1:-2]
    return t[:1].expand(t.shape) if layout == "expanded" else t.contiguous()


def scale(kind: str, value: float, batch: int, dtype: torch.dtype) -> float | Tensor | None:
    if kind in ("default", "zero", "number"):
        return {"default": None, "zero": 0.0, "number": value}[kind]
    if kind == "one":
        return torch.tensor(value, dtype=dtype)
    each = torch.linspace(value, 2 * value, batch, dtype=dtype)
    return each if kind == "each" else each.reshape(batch, 1, 1, 1)


class Arguments(NamedTuple):
    """What a case is called with; every call gets the same noise."""

    case: Case
    M: Preconditioner
    x: Tensor
    v: Tensor
    z: Tensor
    d: Any
    n: Any

    def noise(self, double: bool) -> Any:
        case, dtype = self.case, torch.float64 if double else self.x.dtype
        if case.noise == "tensor":
            return self.z.to(dtype)
        if case.noise == "generator":  # the reference gets what the generator gives in the dtype of x
            made = torch.Generator().manual_seed(case.seed)
            shape = (case.batch, *case.shape)
            return torch.randn(shape, dtype=self.x.dtype, generator=made).double() if double else made
        if case.noise == "seeds":
            return NoiseStream(seeds=[(case.seed + 77 * b) * 0x9E3779B97F4A7C15 % (1 << 64) for b in range(case.batch)])
        return NoiseStream(case.seed, first_sample=case.seed * 1000, draw=case.seed << 20)

    def __call__(self, double: bool = False, out: Tensor | None = None, state: Tensor | None = None) -> list[Tensor]:
        """Results of the op, on float64 copies where `double`."""
        case, M = self.case, self.M
        x, v = (t.double() if double else t for t in (self.x if state is None else state, self.v))
        wide = lambda s: s.double() if double and isinstance(s, Tensor) else s
        noise, d, n = self.noise(double), wide(self.d), wide(self.n)
        if case.op == "noise":
            dtype = torch.float64 if double else self.x.dtype
            return [tdas_ops.noise(M, x.shape, noise, 0.7 if n is None else n, dtype=dtype, out=out)]
        if case.op == "precondition":
            return [tdas_ops.precondition(v, M, case.which, out=out)]
        if case.op == "step":
            got = tdas_ops.step(x, v, M, d, noise=noise, noise_scale=n, out=out, return_mean=case.mean)
        else:
            norm, alpha = ("sample" if case.per_sample else "batch"), (1.0 if n is None else n)
            got = tdas_ops.langevin_step(
                x, v, M, 0.16, noise=noise, alpha=alpha, norm=norm, out=out, return_mean=case.mean
            )
        return list(got) if isinstance(got, tuple) else [got]


def arguments(case: Case) -> Arguments:
    p = make_problem(
        case.batch, case.shape, method=case.method, freq=case.freq, space=case.space, skew=case.skew, seed=case.seed
    )
    state = torch.float64 if case.double else torch.float32
    x = laid_out(p.x.to(state), case.layouts[0])
    v = laid_out(p.v.to(state if case.double and case.seed % 2 else case.score), case.layouts[1])
    z = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(case.seed + 1)).to(state)
    d, n = (scale(kind, value, case.batch, state) for kind, value in zip(case.scales, (0.13, 0.4), strict=True))
    return Arguments(case, p.M, x, v, laid_out(z, case.layouts[2]), d, n)


def reference(call: Arguments) -> list[Tensor]:
    with tdas_ops.use_backend("reference"):
        return call(double=True)


def bits(*tensors: Tensor) -> list[bytes]:
    return [t.contiguous().view(torch.uint8).numpy().tobytes() for t in tensors]


def close(got: Tensor, expected: Tensor, drawn: bool) -> bool:
    """Within 2e-6 of the RMS; of 0.2 where that is more, since few normals may all be small (1e-5 is theirs).

    Float64 without normals that are `drawn`, in float32, is within 1e-13: few pixels may all be small.
    """
    double = got.dtype is torch.float64 and not drawn
    bound = 1e-13 if double else {torch.bfloat16: 4e-3, torch.float16: 5e-4}.get(got.dtype, 2e-6)
    size = expected.square().mean().sqrt().item()
    return (got.double() - expected).square().mean().sqrt().item() <= bound * (max(size, 0.2) if size else 0.0)


@examples(300)
@given(cases())
def test_every_call_agrees_with_the_reference(case):
    call = arguments(case)
    expected, before = reference(call), bits(call.x, call.v, call.z)
    like = call.v if case.op == "precondition" else call.x
    sampler = case.op in ("step", "langevin_step")
    dense = like.is_contiguous() or like.is_contiguous(memory_format=torch.channels_last)
    if case.out == "new" or not dense:
        got = call()
        assert got[0].dtype is like.dtype and got[0].shape == like.shape
    elif case.out == "own" or not sampler:
        out = torch.full_like(like, math.nan)
        got = call(out=out)
        assert got[0] is out
    else:
        out = call.x.clone()
        got = call(out=out, state=out)
        assert got[0] is out
    assert bits(call.x, call.v, call.z) == before
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        assert g.isfinite().all()
        assert close(g, e, case.drawn), relative_rms(g, e)


@examples(120)
@given(
    cases(ops=("step", "langevin_step", "precondition")),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e-40]),
    st.data(),
)
def test_a_broken_sample_breaks_no_other(case, value, data):
    """`1e-40` stands for denormals, which have to leave even their own sample finite."""
    assume(case.layouts[1] != "expanded" and case.batch > 1 and (case.score is not torch.float16 or value != 1e-40))
    case = case._replace(per_sample=True, out="new")
    call = arguments(case)
    clean = call()
    sample = data.draw(st.integers(0, case.batch - 1))
    channel, h, w = (data.draw(st.integers(0, size - 1)) for size in case.shape)
    call.v[sample, channel, h, w] = value
    got = call()
    others = [b for b in range(case.batch) if b != sample]
    for g, c in zip(got, clean, strict=True):
        assert bits(g[others]) == bits(c[others])
    for g, e in zip(got, reference(call), strict=True):
        broken, expected = (~t.isfinite().flatten(2).all(-1) for t in (g, e))
        if value == 1e-40:
            assert not broken.any() and close(g, e, case.drawn)
        elif case.op == "langevin_step" and math.isinf(value):  # its norm may be infinite or NaN, by the order of sums
            assert broken[sample, channel]
        else:
            assert torch.equal(broken, expected)


MISTAKES = [
    "another shape", "another device", "another dtype", "negative step", "infinite step", "scale of another batch",
    "out is the score", "out overlaps x", "out overlaps the score", "out overlaps the noise", "out of another dtype",
    "out of another shape", "no noise", "seeds of another batch", "a score that requires grad",
]  # fmt: skip


def spoiled(call: Arguments, mistake: str, out: Tensor) -> tuple[dict[str, Any], list[Any]]:
    """The keyword arguments of a step with one mistake, and x, v, d."""
    x, v, d, more = call.x, call.v, 0.1, {"noise": call.noise(False), "out": out}
    batch = len(x)
    storage = torch.ones(x.numel() + 1, dtype=x.dtype)
    early, late = storage[:-1].view(x.shape), storage[1:].view(x.shape)
    match mistake:
        case "another shape":
            v = v[..., :-1] if v.shape[-1] > 1 else v.repeat(1, 1, 1, 2)
        case "another device":
            v = v.to("meta")
        case "another dtype":
            v = v.long()
        case "negative step":
            d = -0.1
        case "infinite step":
            d = math.inf
        case "scale of another batch":
            d = torch.ones(batch + 1)
        case "out is the score":
            v = more["out"]
        case "out overlaps x":
            x, more["out"] = early, late
        case "out overlaps the score":
            v, more["out"] = early, late
        case "out overlaps the noise":
            more |= {"noise": early, "out": late}
        case "out of another dtype":
            more["out"] = out.to(torch.float16)
        case "out of another shape":
            more["out"] = torch.cat([out, out])
        case "no noise":
            more["noise"] = None
        case "seeds of another batch":
            more["noise"] = NoiseStream(seeds=range(batch + 1))
        case "a score that requires grad":
            v = v.detach().float().requires_grad_()
    return more, [x, v, d]


@pytest.mark.parametrize("mistake", MISTAKES)
@examples(8)
@given(case=cases(ops=("step", "langevin_step")))
def test_a_mistake_is_one_sentence_and_changes_nothing(mistake, case):
    call = arguments(case)
    out = torch.full(call.x.shape, 7.0, dtype=call.x.dtype)
    more, (x, v, d) = spoiled(call, mistake, out)
    stream = more["noise"] if isinstance(more["noise"], NoiseStream) else None
    seen = [t for t in (out, x, v, more["out"], more["noise"]) if isinstance(t, Tensor) and not t.is_meta]
    seen = [t.detach() for t in seen]
    before = bits(*seen, *([stream.draw] if stream else []))
    with pytest.raises((ValueError, TypeError)) as caught:
        if case.op == "step" or "step" in mistake:
            tdas_ops.step(x, v, call.M, d, return_mean=case.mean, **more)
        else:
            tdas_ops.langevin_step(x, v, call.M, 0.16, alpha=d, return_mean=case.mean, **more)
    text = str(caught.value)
    assert "\n" not in text and "expected" in text and not text.endswith(".")
    assert bits(*seen, *([stream.draw] if stream else [])) == before
