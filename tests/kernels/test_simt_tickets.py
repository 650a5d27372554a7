"""The kernel of large planes whose blocks take tickets, as C++ on the CPU, its blocks at once on threads of their own.

Against the reference in float64, and against the launches of one pass each, to the bit. A block that is held until all
others wait for it stands for the slow ones of a GPU. What this cannot see: see test_simt.py.
"""

from __future__ import annotations

import ctypes
import math
from functools import partial

import pytest
import torch
from conftest import relative_rms

from tests.kernels.compiled import needs_compiler
from tests.kernels.plane_cases import CASES, check_cast, laid_out, writes_only_its_elements
from tests.kernels.plane_kernels import PlaneKernels, kind_bits
from tests.kernels.simt_library import SANITIZE_THREADS, Build, run_sanitized, with_mistakes

pytestmark = needs_compiler

SIZE = (128, 256)  # two tiles a pass
ticket_build = partial(Build, "ticket_library.cpp")
beside_passes = ticket_build(((SIZE, kind_bits(("drift", "skewed drift", "noise"))),))
with_all_kinds = pytest.mark.parametrize("build", [beside_passes], ids=["tickets"])
# The passes of launches of their own are left out: a library of seconds takes half as long.
drift_alone = partial(ticket_build, ((SIZE, kind_bits(("drift",))),), alone=True)

# Multiprocessors of two blocks, blocks at once, and of which additions each is followed by a hold. With SLOW the second
# block comes to hold a tile of every pass, until the first one can do nothing without it.
ONE, TWO, SLOW, FIVE = (1, 1, 0), (1, 2, 1), (1, 2, -1), (3, 5, 2)
MANY = (80, 8, 3)  # 160 blocks for 90 tickets, passes 16 planes apart
DEVICES = [ONE, TWO, SLOW, (1, 2, 0), FIVE, (3, 6, 0), MANY]


def tickets(
    build: Build, device: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch, mistake: int = 0
) -> PlaneKernels:
    multiprocessors, resident, hold = device
    monkeypatch.setenv("SIMT_RESIDENT", str(resident))
    monkeypatch.setenv("SIMT_HOLD", str(hold))
    kernels = PlaneKernels(build, mistake)
    kernels.update = lambda args: kernels.library.simt_update_in_tickets(ctypes.byref(args), multiprocessors)
    return kernels


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("case", ["drift", "MMt", "skew", "noise"])
@with_all_kinds
def test_tickets_give_the_bits_of_the_passes(build, case, device, monkeypatch):
    """More than twice around a ring of 6 planes."""
    update = CASES[case].update(SIZE, batch=5, channels=3)
    shape = update.v.shape
    expected = PlaneKernels(build)(update, torch.empty(shape))
    assert relative_rms(expected, update.expected(shape)) < 1e-6
    kernels = tickets(build, device, monkeypatch)
    monkeypatch.setenv("SIMT_ORDER", {TWO: "rev", FIVE: "1"}.get(device, "fwd"))
    out = kernels(update, laid_out(torch.full(shape, math.nan), "strided" if device == FIVE else "plain"))
    assert torch.equal(out, expected)
    assert writes_only_its_elements(out)
    if update.base is not None and device == TWO:
        x = update.base.clone()
        assert torch.equal(kernels(update._replace(base=x), x), expected)


@pytest.mark.parametrize("planes", [1, 2, 5, 6, 7, 13])
@with_all_kinds
def test_batches_around_the_size_of_the_ring(build, planes, monkeypatch):
    for case in ("drift", "noise"):
        update = CASES[case].update(SIZE, batch=planes, channels=1)
        expected = PlaneKernels(build)(update, torch.empty(update.v.shape))
        for device in (ONE, TWO, FIVE, MANY):
            out = tickets(build, device, monkeypatch)(update, torch.full(update.v.shape, math.nan))
            assert torch.equal(out, expected), (case, device)


@with_all_kinds
def test_the_second_output_is_the_first(build, monkeypatch):
    check_cast(tickets(build, FIVE, monkeypatch), "drift", SIZE)


@pytest.mark.parametrize("case", ["A, noise", "A", "z", "A, MMt"])
@with_all_kinds
def test_updates_of_more_than_one_filter_have_no_tickets(build, case, monkeypatch):
    update = CASES[case].update(SIZE, channels=1)
    with pytest.raises(RuntimeError):
        tickets(build, ONE, monkeypatch)(update, torch.empty(update.v.shape))


MISTAKES = {
    "columns do not wait for their rows": ("(round * order.passes + «pass»)", "pass / 2 * 2"),
    "inverse rows wait for the rows alone": ("(round * order.passes + «pass»)", "pass > 0"),
    "one tile is not waited for": ("slot, «needed»);", "needed - 1"),
    "a plane of the ring is overwritten while it is read": ("(round * order.passes + «pass»)", "pass - (pass == 0)"),
    "a tile is announced before all threads are done": (
        "} «__syncthreads();» if (thread_index() == 0) add_release",
        "",
    ),
    "a ticket replaced while others read it": ("take(work, ticket); «__syncthreads();»", ""),
    "a ticket that nobody takes": ("ticket->next = «next»;", "next + 1"),
    "counters that still have the last launch": ("cudaMemsetAsync(work.counters, «0»,", "9"),
    "a ring that is shorter than the order needs": ("return «6» * planes_apart", "4"),
    "planes of the ring mixed up": ("«plane - round * order.ring»", "plane % 5"),
    "a plane too few": ("order.planes = «work.large.planes»", "work.large.planes - 1"),
}


@pytest.mark.parametrize(
    ("build", "number"),
    with_mistakes([(drift_alone(), mistake) for mistake in MISTAKES.values()]),
    ids=MISTAKES,
)
def test_planted_mistakes_are_caught(build, number, monkeypatch):
    """What passes the tests above as it is, does not with the mistake, whatever the machine does meanwhile."""
    update = CASES["drift"].update(SIZE, batch=13, channels=1)
    expected = update.expected(update.v.shape)
    try:
        for device, order in ((SLOW, "fwd"), (TWO, "fwd"), (FIVE, "rev")):
            monkeypatch.setenv("SIMT_ORDER", order)
            kernels = tickets(build, device, monkeypatch, number)
            out = kernels(update, torch.full(update.v.shape, math.nan))
            if not relative_rms(out, expected) < 1e-6:
                return
    except RuntimeError:  # the harness noticed
        return
    pytest.fail("not caught")


in_smaller_blocks = drift_alone(flags=("-DTDAS_OPS_LARGE_BLOCK=128",))


@pytest.mark.parametrize("device", [TWO, SLOW, FIVE, MANY], ids=str)
@pytest.mark.parametrize("build", [in_smaller_blocks], ids=["blocks of 128"])
def test_smaller_blocks_give_the_same_bits(build, device, monkeypatch):
    update = CASES["drift"].update(SIZE, batch=5, channels=3)
    expected = PlaneKernels(beside_passes)(update, torch.empty(update.v.shape))
    assert torch.equal(tickets(build, device, monkeypatch)(update, torch.empty(update.v.shape)), expected)


# The thread sanitizer: what one block leaves to others is released by it and acquired by them.


def run_in_threads(build: Build, device: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch):
    multiprocessors, resident, hold = device
    monkeypatch.setenv("SIMT_RESIDENT", str(resident))
    monkeypatch.setenv("SIMT_HOLD", str(hold))
    return run_sanitized(build.path(), 8, multiprocessors)


sanitized_build = drift_alone(sanitize=SANITIZE_THREADS)


@pytest.mark.parametrize("build", [sanitized_build], ids=["tickets"])
def test_under_the_thread_sanitizer(thread_sanitizer, build, monkeypatch):
    for device in (TWO, FIVE, (1, 2, 0)):
        done = run_in_threads(build, device, monkeypatch)
        assert done.returncode == 0, done.stderr


UNORDERED = {
    "a release that orders nothing": (
        "«add_release(work.counters + 1 + ticket->slot);»",
        "atomicAdd(work.counters + 1 + ticket->slot, 1u);",
    ),
    "an acquisition that orders nothing": ("lacks(«load_acquire(counter)»)", "load_relaxed(counter)"),
}


@pytest.mark.parametrize(
    ("build", "number"), with_mistakes([(sanitized_build, mistake) for mistake in UNORDERED.values()]), ids=UNORDERED
)
def test_unordered_accesses_are_reported(thread_sanitizer, build, number, monkeypatch):
    monkeypatch.setenv("SIMT_MISTAKE", str(number))
    assert "ThreadSanitizer: data race" in run_in_threads(build, TWO, monkeypatch).stderr
