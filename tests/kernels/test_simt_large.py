"""The CUDA kernels of large planes, compiled as C++ and run on the CPU thread by thread (simt/).

Rows and columns have kernels of their own for each length: sizes here are thin, and have every width and height once.
Against the reference in float64 and the noise of the C++ ops. What this cannot see: see test_simt.py.
"""

from __future__ import annotations

import ctypes
import math
import random
from functools import partial

import pytest
import torch
from conftest import relative_rms

from tests.kernels.compiled import needs_compiler
from tests.kernels.plane_cases import (
    CASES,
    DRAW,
    LAYOUTS,
    check_cast,
    check_noise,
    each_size,
    in_kernels_of_their_cases,
    laid_out,
    planted,
    results,
    writes_only_its_elements,
)
from tests.kernels.plane_kernels import ELEMENTS, KINDS, PlaneKernels, Update, kind_bits, pointer
from tests.kernels.simt_library import ORDERS, Build, Size, with_mistakes

pytestmark = needs_compiler

SIZES = [(32, 2048), (64, 1024), (128, 512), (256, 256), (512, 128), (1024, 64), (2048, 32)]


def large_build(size: Size, kinds: int = kind_bits(KINDS), **options) -> Build:
    return Build("large_library.cpp", ((size, kinds),), **options)


sizes = partial(each_size, large_build)


def check_update(kernels: PlaneKernels, case: str, size: Size, monkeypatch: pytest.MonkeyPatch) -> Update:
    """Against float64, the storage, the order of threads, and how many planes the scratch holds drawn at random."""
    rng = random.Random(f"{size} {case}")
    update = CASES[case].update(size, batch=rng.choice([1, 2, 3]), channels=rng.choice([1, 2]))
    shape, layouts = update.v.shape, [rng.choice(LAYOUTS) for _ in range(4)]
    whole, dtype = update.filter in ("M", "Mt", "MMt"), rng.choice(ELEMENTS)
    update = update._replace(
        base=None if update.base is None else laid_out(update.base, layouts[0]),
        v=laid_out(update.v if whole else update.v.to(dtype), layouts[1]),
        z=None if update.z is None else laid_out(update.z, layouts[2]),
    )
    order, planes = rng.choice(ORDERS), rng.choice([1, 2, shape[0] * shape[1]])
    monkeypatch.setenv("SIMT_ORDER", order)
    monkeypatch.setenv("SIMT_PLANES", str(planes))
    expected = update.expected(shape)
    in_place = update.base is not None and layouts[0] == layouts[3]
    out = update.base if in_place else laid_out(torch.full(shape, math.nan), layouts[3])
    kernels(update, out)
    drawn = (tuple(shape), dtype, layouts, order, planes)
    assert relative_rms(out, expected) < 1e-6, drawn
    assert writes_only_its_elements(out), drawn
    return update


@pytest.mark.parametrize("case", CASES)
@sizes(*SIZES)
def test_updates_agree_with_float64(build, case, monkeypatch):
    check_update(PlaneKernels(build), case, build.size, monkeypatch)


@pytest.mark.parametrize("case", ["drift", "skew", "noise", "A", "A, noise"])
@sizes((128, 512), (256, 256), (2048, 32))
def test_orders_storage_and_scratch_change_no_bit(build, case, monkeypatch):
    update, kernels = CASES[case].update(build.size, channels=1), PlaneKernels(build)
    outs = results(kernels, update, update.v.shape, monkeypatch)
    monkeypatch.setenv("SIMT_PLANES", "1")
    outs.append(kernels(update, torch.full(update.v.shape, math.nan)))
    for out in outs[1:]:
        assert torch.equal(out, outs[0])


@pytest.mark.parametrize("masks", ["R", "RA"])
@sizes(*SIZES)
def test_the_noise_is_that_of_the_cpu(build, masks):
    draws = [([7], 0, 0), ([7], 1, 2**32 - 2), ([4, 1 << 63], DRAW, 0)]
    check_noise(PlaneKernels(build), masks, (2, 2, *build.size), draws)


@pytest.mark.parametrize("case", ["drift", "skew", "A, noise", "A"])
@sizes((256, 256), (32, 2048))
def test_what_is_not_finite_stays_in_its_sample(build, case):
    update, kernels = CASES[case].update(build.size, batch=3, channels=1), PlaneKernels(build)
    expected = kernels(update, torch.empty_like(update.v))
    update.v[1, 0, 3, 5] = math.nan
    got = kernels(update, torch.empty_like(update.v))
    assert torch.equal(got[::2], expected[::2])
    assert not got[1].isfinite().all()


@pytest.mark.parametrize("case", ["drift", "A"])
@sizes((256, 256), (32, 2048))
def test_the_second_output_is_the_first(build, case):
    check_cast(PlaneKernels(build), case, build.size)


# Updates after their norms


class MeasuredKernels(PlaneKernels):
    """Those of updates with a space mask; `squares` are of the planes of the last one."""

    def __call__(self, update: Update, out: torch.Tensor, cast: torch.Tensor | None = None) -> torch.Tensor:
        self.squares = torch.full((*out.shape[:2], 2), math.nan)
        squares = ctypes.c_void_p(pointer(self.squares))
        self.update = lambda args: self.library.simt_update_measured(ctypes.byref(args), squares)
        return super().__call__(update, out, cast)


def squared_norms(update: Update) -> torch.Tensor:
    """|D v|^2 and |M z|^2 of every plane by the reference in float64."""
    nothing = torch.zeros(update.v.shape)
    drift = Update("MMt", update.M, v=update.v)
    noise = update._replace(filter="noise", base=nothing, v=nothing, d=0.0, n=1.0)
    return torch.stack([each.expected(update.v.shape).square().sum((2, 3)) for each in (drift, noise)], -1)


MEASURED = ["A", "A, z", "A, noise"]


@pytest.mark.parametrize("case", MEASURED)
@sizes(*SIZES)
def test_measured_updates_and_their_norms_agree_with_float64(build, case, monkeypatch):
    kernels = MeasuredKernels(build)
    update = check_update(kernels, case, build.size, monkeypatch)
    measured = 0 if update.filter == "drift" else 1  # |v|^2 is of another kernel
    assert (kernels.squares / squared_norms(update) - 1)[..., measured:].abs().max() < 2e-6
    assert update.filter == "drift" or kernels.squares[..., 0].isnan().all()


@pytest.mark.parametrize("case", MEASURED)
@sizes((256, 256), (2048, 32))
def test_nothing_is_transformed_twice_where_the_scratch_has_all_planes(build, case, monkeypatch):
    """To the same bits as where it has not: eight passes, four of TDAS, and a sum a chunk, with a z of the caller's."""
    update = CASES[case].update(build.size, batch=3, channels=2)
    kernels, outs = MeasuredKernels(build), []
    before_last_filter, whole = (4, 8) if update.filter == "drift" else (1, 4)
    for planes, chunk in ((6, 6), (6, 4), (6, 1), (2, 2), (1, 1)):
        monkeypatch.setenv("SIMT_PLANES", str(planes))
        monkeypatch.setenv("SIMT_CHUNK", str(chunk))
        launches = kernels.library.simt_launches()
        outs.append(kernels(update, torch.full(update.v.shape, math.nan)))
        again = 0 if planes == 6 else before_last_filter
        assert kernels.library.simt_launches() - launches == -(-6 // chunk) * (whole + 1 + again)
    assert all(torch.equal(out, outs[0]) for out in outs[1:])
    x = update.base.clone()
    assert torch.equal(kernels(update._replace(base=x), x), outs[0])


# Planted mistakes

MISTAKES = {
    # Barriers
    "columns: short lines before long ones are done": (
        "make_float2(number.re, number.im); } «__syncthreads();» short_forward(X);",
        "",
        (256, 32),
        "MMt",
    ),
    "columns: long lines before short ones are done": (
        "short_inverse(X); «__syncthreads();»",
        "",
        (256, 32),
        "noise",
    ),
    "columns: short lines over partners that are still read": (
        "«if (has_pair || Shape::halves == 2) __syncthreads();»",
        "",
        (256, 32),
        "MMt",
    ),
    "columns: a half over the other that is still read": (
        "«if (has_pair || Shape::halves == 2) __syncthreads();»",
        "if (has_pair) __syncthreads();",
        (2048, 32),
        "MMt",
    ),
    "columns: partners over lines that are still read": (
        "float2* const all = reinterpret_cast<float2*>(numbers); «__syncthreads();»",
        "",
        (256, 32),
        "MMt",
    ),
    "columns: partners read before they are left": (
        "make_float2(X[k].re, X[k].im); } «__syncthreads();» if (kw == 0)",
        "",
        (256, 32),
        "MMt",
    ),
    "rows: long lines before short ones are done": (
        "to_lines(numbers); «__syncthreads();»",
        "",
        (32, 256),
        "MMt",
    ),
    "rows: pixels before long lines are done": (
        "line().inverse(); «__syncthreads();»",
        "",
        (32, 256),
        "noise",
    ),
    # Transforms
    "a wrong twiddle": (
        "turned<false>(long_line[a], «line_twiddles<H>.at[a][part]»)",
        "line_twiddles<H>.at[a - a / 31][part]",
        (256, 32),
        "MMt",
    ),
    "a wrong twiddle on the way back": (
        "turned<true>(read_long(a), «line_twiddles<H>.at[a][part]»)",
        "line_twiddles<H>.at[a - a / 31][part]",
        (256, 32),
        "MMt",
    ),
    "frequencies of the upper half of a short line in place of the lower": (
        "«(k < points / 2 ? 0 : 16)»",
        "k < points / 2 ? 16 : 0",
        (256, 32),
        "MMt",
    ),
    "the partner of another frequency": ("all[«H - frequency(k)»]", "H - 1 - frequency(k)", (256, 32), "MMt"),
    "half of the row of frequency 0 lost": ("0.5f * («c.re - c.im»)", "c.re + c.im", (32, 256), "MMt"),
    "a conjugate for a frequency": ("«k < 16 ? X[k].im : -X[k].im»", "X[k].im", (32, 256), "MMt"),
    # Places
    "a chunk takes planes of the one before": ("«work.first_plane» + (plane", "0", (32, 256), "MMt"),
    "pixels of the right half take the noise of the left": ("far[e] = «h.real»", "g.real", (32, 256), "A"),
    "the same noise in every row": ("+ «row») * (W / 4) + left / 2", "0", (32, 256), "A"),
    "neighbours with the same noise": ("near[0] = «left % 2 == 0» ? g.real", "true", (32, 2048), "A"),
    "quads of the columns too close": (
        "k / half * parts + k % half * «32»",
        "1",
        (256, 32),
        "noise",
    ),
    "a plane too many is written": ("there = «plane < work.planes»;", "true", (32, 128), "drift"),
}


MEASURED_MISTAKES = {  # with the planes of the scratch and of a launch
    "the drift comes without its step size": ("{d * numbers[i].re, «d» *", "1.0f", 2, 2),
    "a chunk takes the place of the one before": ("drift.spectra += «first» *", "0", 2, 1),
    "the noise lies over the drift": ("«(scratch.spectra - 1)» * scratch.planes", "0", 2, 2),
    "sums lie over the noise": ("«scratch.spectra» * scratch.planes * args.height", "1", 2, 2),
    "what is gone is not made again": ("if («!has_all_planes(scratch, args)») {", "false", 1, 1),
}

measured_build = large_build((256, 32), kind_bits(("pixels", "measure")))
BUILT = with_mistakes(
    [
        *in_kernels_of_their_cases(MISTAKES.values(), large_build),
        *((measured_build, (said, says)) for said, says, *_ in MEASURED_MISTAKES.values()),
    ]
)
PLANTED = planted(MISTAKES.values(), BUILT[: len(MISTAKES)])
MEASURED_PLANTED = planted(MEASURED_MISTAKES.values(), BUILT[len(MISTAKES) :])


@pytest.mark.parametrize(("build", "number", "size", "case"), PLANTED, ids=MISTAKES)
def test_planted_mistakes_are_caught(build, number, size, case, monkeypatch):
    """What passes the tests above as it is, does not with the mistake."""
    monkeypatch.setenv("SIMT_PLANES", "2")
    update = CASES[case].update(size, channels=1)
    expected = update.expected(update.v.shape)
    try:
        outs = results(PlaneKernels(build, number), update, update.v.shape, monkeypatch)
    except RuntimeError:  # the harness noticed
        return
    assert not all(relative_rms(out, expected) < 1e-6 and torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize(("build", "number", "planes", "chunk"), MEASURED_PLANTED, ids=MEASURED_MISTAKES)
def test_planted_mistakes_of_measured_updates_are_caught(build, number, planes, chunk, monkeypatch):
    monkeypatch.setenv("SIMT_PLANES", str(planes))
    monkeypatch.setenv("SIMT_CHUNK", str(chunk))
    update = CASES["A"].update(measured_build.size, batch=2, channels=1)
    try:
        out = MeasuredKernels(build, number)(update, torch.empty(update.v.shape))
    except RuntimeError:  # the harness noticed
        return
    assert not relative_rms(out, update.expected(update.v.shape)) < 1e-6
