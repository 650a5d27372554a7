"""langevin_step of planes on chip in one launch, as C++ on the CPU, its blocks at once on threads of their own.

Against the reference in float64, and against norms, rule and update in launches of their own, to the bit. A block that
begins late, when all others wait for it, stands for the slow ones of a GPU. What this cannot see: see test_simt.py.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import POINTER, c_double, c_int, c_void_p

import pytest
import torch
from conftest import relative_rms
from torch import Tensor

from tdas_ops import reference
from tests.kernels.compiled import needs_compiler
from tests.kernels.plane_cases import CASES, laid_out, writes_only_its_elements
from tests.kernels.plane_kernels import PlaneKernels, ScaleArgs, Update, UpdateArgs, kind_bits, scale
from tests.kernels.simt_library import SANITIZE_THREADS, Build, Size, run_sanitized, with_mistakes

pytestmark = needs_compiler

SNR = 0.16
SIZES = [(32, 32), (64, 64), (128, 128)]  # of which a block has 8, 2 or 1


def snr_build(size: Size, *kinds: str, **options) -> Build:
    return Build("snr_library.cpp", ((size, kind_bits(kinds or ("drift", "noise", "measure"))),), **options)


every_size = pytest.mark.parametrize("build", [snr_build(size) for size in SIZES], ids=map(str, SIZES))
smallest = pytest.mark.parametrize("build", [snr_build(SIZES[0])], ids=str)
each_case = pytest.mark.parametrize("case", ["drift", "noise"])
each_rule = pytest.mark.parametrize("per_sample", [False, True], ids=["batch", "sample"])


# The thread whose block comes late, of which additions each is followed by a hold, the order of blocks and threads.
DEVICES = [(0, 0, "fwd"), (1, 0, "rev"), (2, 0, "1"), (-1, 1, "fwd")]


def set_device(monkeypatch: pytest.MonkeyPatch, late: int, hold: int, order: str) -> None:
    for name, value in (("LATE", late), ("HOLD", hold), ("ORDER", order)):
        monkeypatch.setenv(f"SIMT_{name}", str(value))


class Langevin:
    """The steps of a compiled library, in one launch or in three. Memory is filled with NaN first."""

    def __init__(self, build: Build, mistake: int = 0):
        self.kernels = PlaneKernels(build, mistake)
        self.langevin = self.kernels.library.simt_langevin
        self.langevin.argtypes = [POINTER(UpdateArgs), c_double, POINTER(ScaleArgs), c_int, c_int, c_void_p, c_void_p]

    def __call__(
        self,
        update: Update,
        per_sample: bool,
        one_launch: bool,
        out: Tensor | None = None,
        alpha: float | Tensor = 0.9,
        cast: Tensor | None = None,
    ) -> Tensor:
        out = torch.full(update.v.shape, math.nan) if out is None else out
        squares, eta = torch.full((*out.shape[:2], 2), math.nan), torch.full(out.shape[:1], math.nan)
        places = (squares.data_ptr(), eta.data_ptr())
        self.kernels.update = lambda args: self.langevin(
            ctypes.byref(args), SNR, ctypes.byref(scale(alpha)), per_sample, one_launch, *places
        )
        result = self.kernels(update._replace(d=None, n=None), out, cast)
        assert squares.isnan().sum() <= 2 * sum(not v.isfinite().all() for v in update.v.flatten(0, 1))
        return result


def expected(update: Update, per_sample: bool, alpha: float | Tensor = 0.9) -> Tensor:
    out, (freq, *_) = torch.empty(update.v.shape, dtype=torch.float64), update.masks(torch.float64)
    alphas = (1.0, alpha.double()) if isinstance(alpha, Tensor) else (alpha, None)
    noise = (None, update.seeds, torch.tensor([update.draw]), update.first_sample)
    x, v, drift = update.base.double(), update.v.double(), update.filter == "drift"
    reference.langevin_step(out, None, x, v, freq, None, None, drift, SNR, *alphas, per_sample, *noise)
    return out


# Samples and channels: samples across blocks, blocks of many samples and the last one partly empty, one block alone.
BATCHES = [(3, 3), (5, 1), (2, 5), (1, 1), (4, 2), (1, 9)]


@each_rule
@each_case
@every_size
def test_one_launch_gives_the_bits_of_three(build, case, per_sample, monkeypatch):
    langevin = Langevin(build)
    for batch, channels in BATCHES[:2] if build.size == SIZES[2] else BATCHES:
        update = CASES[case].update(build.size, batch=batch, channels=channels)
        of_three = langevin(update, per_sample, one_launch=False)
        assert relative_rms(of_three, expected(update, per_sample)) < 2e-6
        for device in DEVICES:
            set_device(monkeypatch, *device)
            assert torch.equal(langevin(update, per_sample, one_launch=True), of_three), (batch, channels, device)


@each_case
@smallest
def test_more_samples_than_a_block_has_sums(build, case):
    update = CASES[case].update(build.size, batch=300, channels=1)
    langevin = Langevin(build)
    of_three = langevin(update, False, one_launch=False)
    assert torch.equal(langevin(update, False, one_launch=True), of_three)


@each_rule
@each_case
@every_size
def test_storage_and_formats_change_no_bit(build, case, per_sample):
    langevin = Langevin(build)
    update = CASES[case].update(build.size, batch=2, channels=3)
    alpha = torch.tensor([0.9, 0.7], dtype=torch.float64)
    for dtype, layout in ((torch.float32, "last"), (torch.bfloat16, "plain"), (torch.float16, "strided")):
        narrow = update._replace(v=update.v.to(dtype), seeds=torch.tensor([4, -9]), first_sample=0)
        of_three = langevin(narrow, per_sample, one_launch=False, alpha=alpha)
        assert relative_rms(of_three, expected(narrow, per_sample, alpha)) < 2e-6
        x = laid_out(narrow.base, layout)
        cast = laid_out(torch.full(x.shape, math.nan, dtype=dtype), layout)
        there = narrow._replace(base=x, v=laid_out(narrow.v, layout))
        assert torch.equal(langevin(there, per_sample, one_launch=True, out=x, alpha=alpha, cast=cast), of_three)
        assert torch.equal(cast, of_three.to(dtype)) and writes_only_its_elements(x) and writes_only_its_elements(cast)


@each_rule
@each_case
@smallest
def test_what_is_not_finite_stays_in_its_sample(build, case, per_sample):
    langevin = Langevin(build)
    update = CASES[case].update(build.size, batch=5, channels=3)
    expected = langevin(update, per_sample, one_launch=True)
    update.v[1, 0, 3, 5] = math.nan
    update.v[3, 2, -1, -1] = math.inf
    got = langevin(update, per_sample, one_launch=True)
    assert not any(got[sample].isfinite().all() for sample in (1, 3)) and got[::2].isfinite().all()
    if per_sample:
        assert torch.equal(got[::2], expected[::2])
    else:
        assert torch.equal(got[::2], langevin(update, per_sample, one_launch=False)[::2])


@each_rule
@each_case
@smallest
def test_a_score_of_zero_makes_no_step(build, case, per_sample):
    langevin = Langevin(build)
    update = CASES[case].update(build.size, batch=3, channels=3)
    update.v[1 if per_sample else slice(None)] = 0.0
    for one_launch in (True, False):
        got = langevin(update, per_sample, one_launch)
        assert torch.equal(got[1], update.base[1]) and got.isfinite().all()


@each_rule
@smallest
def test_an_empty_batch_launches_nothing(build, per_sample):
    update = CASES["drift"].update(build.size).part(0, 0)
    assert Langevin(build)(update, per_sample, one_launch=True).numel() == 0


@smallest
def test_planes_that_do_not_fit_at_once_have_no_such_launch(build, monkeypatch):
    """Unless no block waits for another."""
    monkeypatch.setenv("SIMT_MULTIPROCESSORS", "2")
    langevin = Langevin(build)
    for (batch, channels), per_sample, fits in [
        ((11, 3), False, False),
        ((10, 3), False, True),
        ((11, 3), True, False),
        ((33, 1), False, False),
        ((33, 1), True, True),
        ((9, 4), True, True),
    ]:
        update = CASES["drift"].update(build.size, batch=batch, channels=channels)
        if fits:
            of_three = langevin(update, per_sample, one_launch=False)
            assert torch.equal(langevin(update, per_sample, one_launch=True), of_three)
        else:
            with pytest.raises(RuntimeError):
                langevin(update, per_sample, one_launch=True)


@pytest.mark.parametrize("case", ["skew", "A", "z", "A, noise", "no noise", "MMt"])
@smallest
def test_updates_of_more_than_one_filter_have_no_such_launch(build, case):
    with pytest.raises(RuntimeError):
        Langevin(build)(CASES[case].update(build.size), per_sample=True, one_launch=True)


# With a mistake in the batch rule, or in that of samples.
MISTAKES = {
    "nobody waits": ("if («waits && blocks > 1») wait_until", "false", False),
    "no block of the sample is waited for": (
        "last / planes - «first / planes» + 1",
        "last / planes",
        True,
    ),
    "one block is not waited for": ("wait_until(counter, «blocks»)", "blocks - 1", False),
    "one block of the sample is not waited for": ("wait_until(counter, «blocks»)", "blocks - 1", True),
    "a block too many is waited for": (
        "last / planes - first / planes + «1»",
        "2",
        True,
    ),
    "squares are announced before they are there": (
        "«__syncthreads();» if (waits && blocks > 1 && (t",
        "",
        False,
    ),
    "squares are read before they are waited for": (
        "wait_until(counter, blocks); «__syncthreads();» }",
        "",
        False,
    ),
    "a sample is announced for each of its planes": ("&& «(t == 0 || at.channel == 0)»", "true", True),
    "counters that still have the last launch": (
        "cudaMemsetAsync(counters, «0»,",
        "1",
        False,
    ),
    "one counter is set for all samples": ("«rule.per_sample ? args.batch : 1»;", "1", True),
    "a launch that is not cooperative": ("config.attrs = &cooperative; «config.numAttrs = 1;»", "", False),
    "blocks that share a sample and do not know": ("«size.planes % args.channels == 0»", "true", True),
    "the step size of another plane": ("etas[«thread() % Shape::planes»]", "0", True),
    "noise over numbers that are still read": (
        "«if constexpr (halves == 2) __syncthreads();» // `inverse` begins",
        "",
        False,
    ),
    "noise kept in the place of another": ("own_numbers()[«k»] = make", "k ^ 1", False),
    "step sizes read before they are there": ("norms); } «__syncthreads();»", "", True),
}


def size_of(said: str) -> Size:
    return (128, 128) if "halves" in said else (32, 32)


planted = with_mistakes(
    [(snr_build(size_of(said), "drift", alone=True), (said, says)) for said, says, _ in MISTAKES.values()]
)


@pytest.mark.parametrize(
    ("build", "number", "size", "per_sample"),
    [(*found, size_of(said), rule) for found, (said, _, rule) in zip(planted, MISTAKES.values(), strict=True)],
    ids=MISTAKES,
)
def test_planted_mistakes_are_caught(build, number, size, per_sample, monkeypatch):
    """What passes the tests above as it is, does not with the mistake, whatever the machine does meanwhile."""
    channels = 3
    batch = 2 if size == SIZES[2] else 7
    update = CASES["drift"].update(size, batch=batch, channels=channels)
    correct = expected(update, per_sample)
    langevin = Langevin(build, number)
    try:
        for late, hold, order in DEVICES:
            set_device(monkeypatch, late, hold, order)
            if not relative_rms(langevin(update, per_sample, one_launch=True), correct) < 2e-6:
                return
    except (RuntimeError, AssertionError):  # the harness noticed
        return
    pytest.fail("not caught")


# The thread sanitizer: what one block leaves to others is released by it and acquired by them.


sanitized_build = snr_build(SIZES[0], "drift", alone=True, sanitize=SANITIZE_THREADS)


@pytest.mark.parametrize("build", [sanitized_build], ids=["one launch"])
def test_under_the_thread_sanitizer(thread_sanitizer, build, monkeypatch):
    for late, per_sample in ((0, 0), (1, 1), (-1, 0)):
        monkeypatch.setenv("SIMT_LATE", str(late))
        done = run_sanitized(build.path(), 7, 3, per_sample)
        assert done.returncode == 0, done.stderr


UNORDERED = {
    "a release that orders nothing": (
        "at.channel == 0)) «add_release(counter);»",
        "atomicAdd(counter, 1u);",
    ),
    "an acquisition that orders nothing": ("lacks(«load_acquire(counter)»)", "load_relaxed(counter)"),
}


@pytest.mark.parametrize(
    ("build", "number"), with_mistakes([(sanitized_build, mistake) for mistake in UNORDERED.values()]), ids=UNORDERED
)
def test_unordered_accesses_are_reported(thread_sanitizer, build, number, monkeypatch):
    monkeypatch.setenv("SIMT_MISTAKE", str(number))
    assert "ThreadSanitizer: data race" in run_sanitized(build.path(), 7, 3, 0).stderr
