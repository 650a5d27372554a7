"""The CUDA plane kernels, compiled as C++ and run on the CPU thread by thread (simt/), under several orders.

Against the reference in float64 and the noise of the C++ ops. What this cannot see: see test_simt.py.
"""

from __future__ import annotations

import itertools
import math
import random
from functools import partial

import pytest
import torch
from conftest import relative_rms
from torch import Tensor

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
    make_update,
    planted,
    results,
    writes_only_its_elements,
)
from tests.kernels.plane_kernels import ELEMENTS, NUMBERS, UPDATES, PlaneKernels, kind_bits
from tests.kernels.simt_library import ORDERS, SANITIZE_ADDRESSES, Build, Size, run_sanitized, with_mistakes

pytestmark = needs_compiler

BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 6e-4}


def plane_build(size: Size, kinds: int = UPDATES, **options) -> Build:
    return Build("plane_library.cpp", ((size, kinds),), **options)


sizes = partial(each_size, plane_build)
all_sizes = sizes(*itertools.product((32, 64, 128), repeat=2))


# Parity with float64


def some_scale(value: float, batch: int, rng: random.Random) -> float | Tensor:
    dtype = rng.choice(NUMBERS)
    return rng.choice([value, torch.tensor([value], dtype=dtype), value * torch.linspace(0.5, 1.5, batch).to(dtype)])


@pytest.mark.parametrize("masks", ["R", "Rw", "RA", "RAw"])
@all_sizes
def test_updates_agree_with_float64(build, masks, monkeypatch):
    """Every filter and every kind of noise; the other choices drawn at random."""
    kernels = PlaneKernels(build)
    rng = random.Random(f"{build.size} {masks}")
    cases = [("drift", noise) for noise in ("stream", "seeds", "z", None)]
    if "w" not in masks:
        cases += [("noise", noise) for noise in ("stream", "seeds", "z")]
        cases += [("alone", noise) for noise in ("stream", "seeds", "z")]
    for filter, noise in cases:
        batch, channels = rng.choice([(1, 1), (1, 3), (3, 1), (3, 3), (2, 5), (5, 1)])
        update = make_update(build.size, "noise" if filter == "alone" else filter, masks, noise, batch, channels)
        shape, layouts = update.v.shape, [rng.choice(LAYOUTS) for _ in range(4)]
        in_place = filter != "alone" and layouts[0] == layouts[3]
        dtype = rng.choice(ELEMENTS)
        update = update._replace(
            base=laid_out(update.base, layouts[0]),
            v=laid_out(update.v.to(dtype), layouts[1]),
            z=None if update.z is None else laid_out(update.z, layouts[2]),
            d=some_scale(0.3, batch, rng),
            n=None if filter != "alone" and rng.random() < 0.3 else some_scale(0.7, batch, rng),
        )
        if filter == "alone":
            update = update._replace(base=None, v=None, d=None)
        order = rng.choice(ORDERS)
        monkeypatch.setenv("SIMT_ORDER", order)
        expected = update.expected(shape)
        out = update.base if in_place else laid_out(torch.full(shape, math.nan), layouts[3])
        kernels(update, out)
        case = (filter, noise, tuple(shape), dtype, layouts, in_place, order, update.d, update.n)
        assert relative_rms(out, expected) < 1e-6, case
        assert writes_only_its_elements(out), case


@pytest.mark.parametrize("masks", ["R", "RA"])
@all_sizes
def test_filters_agree_with_float64(build, masks, monkeypatch):
    kernels = PlaneKernels(build)
    rng = random.Random(f"{build.size} {masks}")
    for filter, dtype in itertools.product(("M", "Mt", "MMt"), ELEMENTS):
        update = make_update(build.size, filter, masks, None, *rng.choice([(1, 1), (3, 1), (1, 5), (3, 3)]))
        layouts, order = [rng.choice(LAYOUTS) for _ in range(2)], rng.choice(ORDERS)
        monkeypatch.setenv("SIMT_ORDER", order)
        update = update._replace(v=laid_out(update.v.to(dtype), layouts[0]))
        out = kernels(update, laid_out(torch.full(update.v.shape, math.nan, dtype=dtype), layouts[1]))
        case = (filter, dtype, tuple(out.shape), layouts, order)
        assert relative_rms(out, update.expected(out.shape)) < BOUNDS[dtype], case
        assert writes_only_its_elements(out), case


@sizes((32, 32), (64, 128))
def test_expanded_inputs(build):
    """The same element read many times: one sample for the batch, one pixel for a row."""
    update = CASES["A, z"].update(build.size)
    shape = update.v.shape
    expanded = update._replace(v=update.v[:1].expand(shape), z=update.z[..., :1].expand(shape))
    copied = update._replace(v=expanded.v.clone(), z=expanded.z.clone())
    kernels = PlaneKernels(build)
    assert torch.equal(kernels(expanded, torch.empty(shape)), kernels(copied, torch.empty(shape)))


@sizes((32, 32))
def test_empty_batches_launch_nothing(build):
    update = CASES["drift"].update(build.size).part(0, 0)
    assert PlaneKernels(build)(update, torch.empty(0, 3, *build.size)).numel() == 0


# The noise


@pytest.mark.parametrize("masks", ["R", "RA"])
@all_sizes
def test_the_noise_is_that_of_the_cpu(build, masks):
    draws = [([7], 0, 0), ([7], 1, 2**32 - 3), ([(1 << 64) - 1], DRAW, 5), ([4, 9, 1 << 63], DRAW, 0)]
    check_noise(PlaneKernels(build), masks, (3, 2, *build.size), draws)


# The second output


@pytest.mark.parametrize("case", ["drift", "noise", "A", "A, skew"])
@sizes((32, 32), (64, 64))
def test_the_second_output_is_the_first(build, case):
    check_cast(PlaneKernels(build), case, build.size)


# Equal bits


@pytest.mark.parametrize("case", CASES)
@all_sizes
def test_orders_and_storage_change_no_bit(build, case, monkeypatch):
    update = CASES[case].update(build.size)
    outs = results(PlaneKernels(build), update, update.v.shape, monkeypatch)
    assert relative_rms(outs[0], update.expected(update.v.shape)) < 1e-6
    for out in outs[1:]:
        assert torch.equal(out, outs[0])


@pytest.mark.parametrize("case", CASES)
@sizes((32, 32), (64, 64), (128, 32), (32, 128))
def test_a_sample_never_depends_on_its_batch(build, case):
    update, kernels = CASES[case].update(build.size, batch=5, channels=2), PlaneKernels(build)
    shape = update.v.shape[1:]
    whole = kernels(update, torch.empty(5, *shape))
    parts = [kernels(update.part(a, b), torch.empty(b - a, *shape)) for a, b in ((0, 1), (1, 4), (4, 5))]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("case", CASES)
@sizes((32, 32), (64, 32), (128, 64))
def test_what_is_not_finite_stays_in_its_sample(build, case):
    update, kernels = CASES[case].update(build.size, batch=5, channels=1), PlaneKernels(build)
    expected = kernels(update, torch.empty_like(update.v))
    update.v[1, 0, 3, 5] = math.nan
    update.v[3, 0, -1, -1] = math.inf
    got = kernels(update, torch.empty_like(update.v))
    assert torch.equal(got[::2], expected[::2])
    assert not any(got[sample].isfinite().all() for sample in (1, 3))


@sizes((32, 32))
@pytest.mark.parametrize("far", ["samples", "rows"])
def test_elements_beyond_the_reach_of_32_bits(build, far):
    """Planes, or the rows of one, in an allocation of 8 GiB of which only the pages that are used exist."""
    update = make_update(build.size, "M", "R", None, batch=2, channels=1)
    strides = {"samples": (1 << 32, 1024, 32, 1), "rows": (64, 64, 1 << 27, 1)}[far]
    try:
        memory = torch.empty((1 << 32) + (1 << 12), dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip("no address space for 8 GiB")
    place = lambda first: memory.as_strided(update.v.shape, strides, first)
    near = update._replace(v=update.v.bfloat16())
    kernels = PlaneKernels(build)
    got = kernels(update._replace(v=place(0).copy_(near.v)), place(2048))
    assert torch.equal(got, kernels(near, torch.empty_like(near.v)))


# Planted mistakes

MISTAKES = {
    # Barriers, in the order in which a thread meets them
    "rows read before they are staged": (
        "is_pixels && work.space_first); «Shape::plane_barrier();» }",
        "",
        (32, 64),
        "drift",
    ),
    "a warp waits where the block must": ("} else { «__syncthreads();» } }", "__syncwarp();", (64, 64), "drift"),
    "spectrum over rows that are still read": (
        "numbers[4 * i + 3] = run.w; } «Shape::plane_barrier();»",
        "",
        (64, 64),
        "drift",
    ),
    "columns read before rows are done": (
        "rows().forward(); «__syncthreads();» }",
        "",
        (32, 32),
        "drift",
    ),
    "partners over columns that are still read": (
        "«__syncthreads();» } transform<32, false>(in, X);",
        "",
        (128, 32),
        "MMt",
    ),
    "partners read before they are left": (
        "«if constexpr (halves == 2) __syncthreads();» if (kw == 0) {",
        "",
        (128, 32),
        "MMt",
    ),
    "partners joined while others separate": (
        "«if constexpr (halves == 2) __syncthreads();» }",
        "",
        (128, 32),
        "MMt",
    ),
    "columns over partners that are still read": (
        "«__syncthreads();» } float4* pairs",
        "",
        (128, 32),
        "MMt",
    ),
    "rows read before columns are done": (
        "columns.inverse(X); «__syncthreads();»",
        "",
        (64, 32),
        "noise",
    ),
    "rows over a spectrum that is still read": (
        "X[k] = conjugate ? conj(value) : value; }); «Shape::plane_barrier();»",
        "",
        (64, 64),
        "noise",
    ),
    "pixels read before rows are done": (
        "if (!again) break; «Shape::plane_barrier();»",
        "",
        (32, 32),
        "A",
    ),
    "rows read before pixels are staged again": (
        "work.samples.seeds != nullptr); «Shape::plane_barrier();»",
        "",
        (32, 32),
        "A",
    ),
    "the result read before rows are done": ("«Shape::plane_barrier();» if (has_v)", "", (32, 128), "noise"),
    # Transforms
    "a wrong twiddle between rows": (
        "return «turns.at[row(0) * (128 / H)]»;",
        "row(0) == 63 ? twiddle(63, 129) : turns.at[row(0)]",
        (128, 32),
        "MMt",
    ),
    "a wrong twiddle in half a row": (
        "-numbers[n + 32]}, twiddle(n, «128»)",
        "129",
        (32, 128),
        "MMt",
    ),
    "a short series for the twiddles": ("i = 1; i < 16", "i = 1; i < 3", (32, 32), "MMt"),
    "the partner of another class": ("«rows - row_class - half»", "rows - half", (64, 32), "MMt"),
    "the partner of another half": ("«rows - row_class - half»", "rows - row_class", (128, 32), "MMt"),
    "column W / 2 filtered by column 0": ("«(column.kw == 0 ? column.columns.count : 0)»", "0", (32, 32), "MMt"),
    "the skew part of column W / 2 turned": ("«kw == 0 ? -data : data»", "data", (32, 32), "skew"),
    "R twice in what has both masks": ("turned.square = «false»", "true", (32, 32), "A, skew"),
    "M for its transpose": ("«work.space_last = space;»", "work.space_first = space;", (32, 32), "A, Mt"),
    # Noise
    "quads too close": (
        "«Columns::offset(k)» * columns.count)};",
        "k",
        (64, 32),
        "noise",
    ),
    "quads of another channel": (
        "(at.channel * «(H / 2)» + first) * columns.count + kw",
        "H",
        (32, 32),
        "noise",
    ),
    "quads of pixels too far": ("* «(W / 4)» + i)", "W / 2", (32, 32), "A"),
    "real frequencies like complex ones": ("«1.41421356f * n» : n", "n", (32, 32), "noise"),
    "the first sample ignored": ("«work.first_sample + b»)", "b", (32, 32), "noise"),
    "one seed for all": ("«work.seed_per_sample ? b : 0»]", "0", (32, 32), "seeds"),
    "noise of half its variance": ("? sqrtf(«2.0f» *", "1.0f", (32, 32), "langevin"),
    # Planes and pixels
    "the last plane unwritten": ("there(«plane < work.planes»)", "plane + 1 < work.planes", (32, 32), "MMt"),
    "the last plane written many times": (
        "«if (!at.there) return;» TDAS_OPS_UNROLL",
        "",
        (32, 32),
        "drift",
    ),
    "an item unwritten": (
        "«access.store_float32(work.out, at.plane(work.out), item, sum[item]);»",
        "if (item < 3) access.store_float32(work.out, at.plane(work.out), item, sum[item]);",
        (64, 32),
        "MMt",
    ),
    "a pixel in four unwritten": (
        "++i) «set_pixel(field, at + i * field.strides[3], pixels[i]);»",
        "if (i < run - 1) set_pixel(field, at + i * field.strides[3], pixels[i]);",
        (64, 32),
        "MMt",
    ),
    "sample and channel swapped": ("«column.at.channel» * H", "column.at.sample", (32, 32), "MMt"),
    "the scale of another sample": ("«scale.per_sample ? sample : 0»", "0", (32, 32), "drift"),
    "the base read after the output is written": (
        "Item sum[4] = {};«»",
        "if (at.there) access.store_float32(work.out, at.plane(work.out), 0, sum[0]);",
        (32, 32),
        "drift",
    ),
}


PLANTED = planted(MISTAKES.values(), with_mistakes(in_kernels_of_their_cases(MISTAKES.values(), plane_build)))


@pytest.mark.parametrize(("build", "number", "size", "case"), PLANTED, ids=MISTAKES)
def test_planted_mistakes_are_caught(build, number, size, case, monkeypatch):
    """What passes test_orders_and_storage_change_no_bit as it is, does not with the mistake."""
    update = CASES[case].update(size)
    expected = update.expected(update.v.shape)
    outs = results(PlaneKernels(build, number), update, update.v.shape, monkeypatch)
    assert not all(relative_rms(out, expected) < 1e-6 and torch.equal(out, outs[0]) for out in outs)


# The address sanitizer


sanitized = partial(plane_build, sanitize=SANITIZE_ADDRESSES)


@pytest.mark.parametrize("build", [sanitized((32, 32)), sanitized((128, 128), kind_bits(("drift", "pixels")))], ids=str)
def test_under_the_address_sanitizer(address_sanitizer, build):
    for batch, channels in ((1, 1), (3, 3)):
        done = run_sanitized(build.path(), batch, channels)
        assert done.returncode == 0, done.stderr


OUTSIDE = {
    "a plane too many is read": ("«there ? plane : work.planes - 1»", "plane"),
    "a plane too many is written": ("there(«plane < work.planes»)", "plane <= work.planes"),
    "too little shared memory": (
        "dim3(size.block); config.dynamicSmemBytes = «size.shared_bytes»; config.stream = stream; return",
        "size.shared_bytes - (64 + 2 * size.block) * 4",
    ),
}


@pytest.mark.parametrize(
    ("build", "number"),
    with_mistakes([(sanitized((32, 32), kind_bits(("noise",))), mistake) for mistake in OUTSIDE.values()]),
    ids=OUTSIDE,
)
def test_accesses_outside_are_reported(address_sanitizer, build, number, monkeypatch):
    monkeypatch.setenv("SIMT_MISTAKE", str(number))
    done = run_sanitized(build.path(), 3, 3)
    assert "AddressSanitizer" in done.stderr
