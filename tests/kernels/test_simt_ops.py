"""The CUDA ops as the extension has them, tensors to launches, on CPU tensors: the kernels run thread by thread.

What stands between them and a GPU, the current stream and the launch errors of csrc/cuda_stream.h, is left out.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import relative_rms

import tdas_ops
from tdas_ops import NoiseStream, _backends, _extension
from tests.kernels.compiled import CSRC, compiled, digest_of, needs_compiler, run_compiler
from tests.kernels.simt_library import ORDERS, SHARED, SIMT
from tests.unit import test_cpu

pytestmark = [needs_compiler, pytest.mark.skipif(_extension.load() is None, reason=str(_extension.reason()))]

# Every way to split a plane: rows in one class or two, columns in one part or two, rows of a thread 2, 1 or 1/2.
PLANES = [(2, 64, 32), (1, 128, 128), (3, 32, 128)]
# Passes over memory, of rows and columns of which a block has many, or a few.
LARGE = [(2, 256, 64), (1, 64, 256)]
PLANE = PLANES[0]
# langevin_step in one launch, samples across blocks: eight planes a block, or one.
COOPERATIVE = [(3, 32, 32), (2, 128, 128)]
SIZES = [(2, 6, 8), (1, 9, 10), (2, 7, 5), (1, 1, 1), (1, 6, 1), (1, 3, 3)]
OPS = ("normals", "noise", "precondition", "step", "langevin_step")


def compile_ops() -> Path:
    torch_folder = Path(torch.__file__).parent
    sizes = " || ".join(f"(height == {height} && width == {width})" for _, height, width in [*PLANES, *COOPERATIVE])
    flags = ["-std=c++20", "-O1", "-fno-inline", *SHARED, f"-DSIMT_SIZE(height, width)=({sizes})"]
    for i, name in ((1, "HEIGHT"), (2, "WIDTH")):
        has = " || ".join(f"n == {n}" for n in sorted({shape[i] for shape in LARGE}))
        flags += [f"-DSIMT_HAS_{name}(n)=({has})"]
    libraries = (f"-L{torch_folder / 'lib'}", "-ltorch_cpu")

    def build(target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            csrc = Path(folder, "csrc")
            shutil.copytree(CSRC, csrc)
            shutil.copy(SIMT / "cuda_stream.h", csrc / "cuda_stream.h")
            run_compiler(*flags, f"-I{SIMT}", f"-I{csrc}", SIMT / "ops_library.cpp", "-o", target, *libraries)

    return compiled("ops", (flags, libraries, digest_of(CSRC, CSRC / "cuda", SIMT)), build)


@pytest.fixture(scope="module")
def library() -> Path:
    path = compile_ops()
    torch.ops.load_library(path)
    return path


@pytest.fixture(scope="module")
def ops(library):
    return torch.ops.tdas_ops


@pytest.fixture
def chosen(ops, monkeypatch):
    """The CUDA ops serve the public functions."""
    for op in OPS:
        monkeypatch.setitem(_backends._table[op], "cpu", getattr(ops, op).cuda)


@pytest.mark.parametrize("mask", [m for m in test_cpu.MASKS if m[0]], ids=test_cpu.name)
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("shape", [*PLANES, *LARGE], ids=str)
def test_updates_of_planes_agree_with_float64(chosen, shape, method, mask, poisoned):
    if mask[2] and method == "tdas":
        pytest.skip("no such skew part")
    ops = ("step",) if method == "pds" and mask == (True, True, True) else ("step", "langevin_step")
    p = test_cpu.problem(shape, method, mask)
    test_cpu.check_updates(p, shape, f"{shape} {method} {mask}", torch.float32, ops)


@pytest.fixture
def limit_scratch(library):
    limit = ctypes.CDLL(str(library)).simt_limit_scratch
    limit.argtypes = [ctypes.c_int64]
    yield limit
    limit(0)


@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_the_scratch_of_a_langevin_step_changes_no_bit(chosen, limit_scratch, shape, method, poisoned):
    """Spectra stay of all planes, of those of two samples of three, or of none."""
    p = test_cpu.problem(shape, method, (True, True, False))
    x, v, alpha = p.x.float(), p.v.bfloat16(), torch.tensor([0.5, 0.8, 1.1], dtype=torch.float64)
    channels, height, width = shape
    plane = 4 * ((2 if method == "pds" else 1) * height + 1) * width  # bytes
    results = []
    for most in (0, 2 * channels * plane, 1):
        limit_scratch(most)
        outs = []
        for norm, noise in (("batch", "seeds"), ("sample", "stream"), ("sample", "seeds"), ("sample", "tensor")):
            run = partial(tdas_ops.langevin_step, score=v, M=p.M, snr=0.16, alpha=alpha, norm=norm)
            drawn = [test_cpu.noise_of(noise, x, layout) for layout in ("last", "plain")]
            cast, in_place = torch.empty_like(v), test_cpu.laid_out(x, "last").clone()
            outs += [*run(x, noise=drawn[0], return_mean=True, cast=cast), cast]
            outs.append(run(in_place, noise=drawn[1], out=in_place))
        results.append(outs)
    assert all(torch.equal(a, b) for others in results[1:] for a, b in zip(others, results[0], strict=True))
    limit_scratch(0)
    last = NoiseStream(5, first_sample=9, draw=2)
    alone = tdas_ops.langevin_step(x[2:], v[2:], p.M, 0.16, alpha=alpha[2:], noise=last, norm="sample")
    assert torch.equal(alone, results[0][7][2:])


@pytest.fixture
def launches(library, monkeypatch):
    """launches(run, SIMT_NAME=...): the result of `run` on such a device, and how many launches there were."""
    harness = ctypes.CDLL(str(library))

    def of(run, **device):
        with monkeypatch.context() as patch:
            for name, value in device.items():
                patch.setenv(name, value)
            before = harness.simt_launches()
            return run(), harness.simt_launches() - before

    return of


NO_COOPERATION = {"SIMT_MULTIPROCESSORS": "0"}
# What the device is asked beforehand, and what its driver says of a launch.
TOO_SMALL = {"cannot": NO_COOPERATION, "too small": {"SIMT_MULTIPROCESSORS": "1"}, "refuses": {"SIMT_HELD": "1"}}


@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("shape", COOPERATIVE, ids=str)
def test_cooperative_launches_agree_with_float64(chosen, shape, method, poisoned):
    p = test_cpu.problem(shape, method, (True, False, False))
    test_cpu.check_updates(p, shape, f"{shape} {method}", torch.float32, ("langevin_step",))


@pytest.mark.parametrize("broken", [False, True], ids=["finite", "broken"])
@pytest.mark.parametrize("norm", ["batch", "sample"])
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("shape", COOPERATIVE, ids=str)
def test_a_cooperative_launch_gives_the_bits_of_three(chosen, launches, shape, method, norm, broken, poisoned):
    p = test_cpu.problem(shape, method, (True, False, False), batch=3)
    x, v = p.x.float(), p.v.bfloat16()
    if broken:
        v[1, 0, 5, 7] = torch.inf
    cast = torch.empty_like(v)

    def run():
        out = tdas_ops.langevin_step(x, v, p.M, 0.16, noise=test_cpu.stream(), norm=norm, cast=cast)
        return out, cast.clone()

    (of_three, three), (of_one, one) = launches(run, **NO_COOPERATION), launches(run)
    assert (three, one) == (4, 2)  # with that which advances the draw
    for a, b in zip(of_three, of_one, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())
        assert b[::2].isfinite().all() and b[1].isfinite().all() != broken


@pytest.mark.parametrize("norm", ["batch", "sample"])
@pytest.mark.parametrize("device", TOO_SMALL.values(), ids=TOO_SMALL)
def test_a_device_that_does_not_hold_all_blocks_takes_three_launches(chosen, launches, device, norm, poisoned):
    """Whatever it says, and when: with the same bits, and the draw is advanced once."""
    p = test_cpu.problem(COOPERATIVE[0], "pds", (True, False, False), batch=9)

    def run():
        noise = test_cpu.stream()
        return tdas_ops.langevin_step(p.x.float(), p.v.float(), p.M, 0.16, noise=noise, norm=norm), noise.state_dict()

    ((of_one, after_one), one), ((of_three, after_three), three) = launches(run), launches(run, **device)
    assert (one, three) == (2, 4)
    assert torch.equal(of_one, of_three) and after_one == after_three


@pytest.mark.parametrize(
    ("shape", "mask", "options"),
    [
        (PLANE, (True, False, False), {}),
        (COOPERATIVE[0], (True, True, False), {}),
        (COOPERATIVE[0], (True, False, True), {}),
        (COOPERATIVE[0], (False, False, False), {}),
        (COOPERATIVE[0], (True, False, False), {"return_mean": True}),
        (COOPERATIVE[0], (True, False, False), {"noise": None}),
    ],
    ids=["not square", "space mask", "skew part", "no mask", "mean", "noise of the caller's"],
)
def test_what_has_no_cooperative_launch_stays_as_it_is(chosen, launches, shape, mask, options):
    p = test_cpu.problem(shape, "pds", mask, batch=9)
    options = {"noise": test_cpu.stream(), **options}
    if options["noise"] is None:
        options["noise"] = p.v.float()
    state = options["noise"].state_dict() if isinstance(options["noise"], NoiseStream) else None

    def run():
        if state is not None:
            options["noise"].load_state_dict(state)
        return tdas_ops.langevin_step(p.x.float(), p.v.float(), p.M, 0.16, **options)

    (of_small, count), (of_large, same) = launches(run, **NO_COOPERATION), launches(run)
    assert same == count > 2
    pairs = zip(of_small, of_large, strict=True) if "return_mean" in options else ((of_small, of_large),)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("mask", [(False, True, False), (False, False, False)], ids=test_cpu.name)
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_steps_without_a_transform_agree_with_float64(chosen, shape, method, mask, poisoned):
    p = test_cpu.problem(shape, method, mask)
    test_cpu.check_updates(p, shape, f"{shape} {method} {mask}", torch.float32)


@pytest.mark.parametrize("mask", [m for m in test_cpu.MASKS if not m[2]], ids=test_cpu.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("which", ["M", "Mt", "MMt"])
def test_filters_agree_with_float64(chosen, which, dtype, mask, poisoned):
    shape = PLANE if mask[0] else (2, 7, 5)
    p = test_cpu.problem(shape, None, mask)
    v = p.v.to(dtype)
    got, expected = tdas_ops.precondition(v, p.M, which), test_cpu.oracle(tdas_ops.precondition, v.double(), p.M, which)
    assert got.dtype is dtype
    assert relative_rms(got, expected) < {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 6e-4}[dtype]


@pytest.mark.parametrize("mask", [m for m in test_cpu.MASKS if not m[2]], ids=test_cpu.name)
def test_noise_is_that_of_the_cpu(ops, mask, poisoned, monkeypatch):
    shape = PLANE if mask[0] else (2, 7, 5)
    M = test_cpu.problem(shape, None, mask).M
    streams = [lambda: NoiseStream(5, first_sample=7, draw=(1 << 32) + 3), lambda: NoiseStream(seeds=[3, 4, 5])]
    for stream in streams:
        of_cpu, of_cuda = stream(), stream()
        expected = tdas_ops.noise(M, (3, *shape), of_cpu, 2.0)
        with monkeypatch.context() as patch:
            patch.setitem(_backends._table["noise"], "cpu", ops.noise.cuda)
            got = tdas_ops.noise(M, (3, *shape), of_cuda, 2.0)
        assert (got - expected).abs().max() < 1e-5 * 2.0 * expected.abs().max()
        assert of_cuda.state_dict() == of_cpu.state_dict()


@pytest.mark.parametrize("norm", ["batch", "sample"])
@pytest.mark.parametrize("masks", [(True, False), (True, True)])
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("shape", [PLANE, LARGE[1]], ids=str)
def test_a_broken_sample_leaves_the_norms_of_the_others(chosen, shape, method, masks, norm):
    p = test_cpu.problem(shape, method, (*masks, False), batch=5)
    x, v = p.x.float(), p.v.float()
    whole = [0, 1, 3, 4]
    v[2, 0, 5, 7] = torch.inf
    got = tdas_ops.langevin_step(x, v, p.M, 0.16, noise=NoiseStream(seeds=[1, 2, 3, 4, 5]), norm=norm)
    v[2] = p.v.float()[2] if norm == "sample" else torch.nan
    again = tdas_ops.langevin_step(x, v, p.M, 0.16, noise=NoiseStream(seeds=[1, 2, 3, 4, 5]), norm=norm)
    assert got[whole].isfinite().all() and not got[2].isfinite().all()
    if norm == "sample":
        assert torch.equal(got[whole], again[whole])
    else:
        run = partial(tdas_ops.langevin_step, M=p.M, snr=0.16, noise=NoiseStream(seeds=[1, 2, 3, 4, 5]))
        few = test_cpu.oracle(run, x.double(), v.double())
        assert relative_rms(got[whole], few[whole]) < 2e-6


@pytest.mark.parametrize("masks", [(True, False), (True, True)])
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("shape", [*PLANES, LARGE[0]], ids=str)
def test_no_order_of_threads_changes_a_bit(chosen, shape, method, masks, monkeypatch):
    p = test_cpu.problem(shape, method, (*masks, False))
    run = lambda: tdas_ops.langevin_step(p.x.float(), p.v.float(), p.M, 0.16, noise=test_cpu.stream())
    results = []
    for order in ORDERS:
        monkeypatch.setenv("SIMT_ORDER", order)
        results.append(run())
    assert all(torch.equal(results[0], result) for result in results[1:])


def arguments(**changed):
    """Those of `step.cuda`, right but for what is changed."""
    M = test_cpu.problem(PLANE, "pds", (True, True, False)).M
    freq, space, _ = M.masks(torch.float32)
    x = torch.zeros(3, *PLANE)
    right = {"out": torch.full_like(x, 7.0), "mean": None, "x": x, "v": x, "freq": freq, "space": space, "skew": None}
    right |= {"filter_drift": True, "d": 0.1, "d_tensor": None, "n": None, "n_tensor": None, "z": None}
    right |= {"seeds": torch.tensor([1]), "draw": torch.tensor([2]), "first_sample": 0}
    return right | changed


X = torch.zeros(3, *PLANE)
WRONG = {
    "x of another dtype": ({"x": X.bfloat16()}, ValueError, "`x` has dtype BFloat16; expected float32."),
    "mean of another dtype": ({"mean": X.half()}, ValueError, "`mean` has dtype Half; expected float32."),
    "v of another dtype": ({"v": X.double()}, ValueError, "`v` has dtype Double; expected float32"),
    "v of another shape": ({"v": X[:1]}, ValueError, "`v` has shape [1, 2, 64, 32]; expected [3, 2, 64, 32]."),
    "a mask of another shape": ({"freq": X[0]}, ValueError, "`freq` has shape [2, 64, 32]; expected [2, 64, 17]."),
    "a strided mask": ({"space": torch.ones(2, 64, 64)[..., ::2]}, ValueError, "expected a contiguous tensor."),
    "two scales": ({"d_tensor": torch.ones(2)}, ValueError, "`d_tensor` has 2 elements on cpu; expected 1 or one"),
    "whole scales": ({"d_tensor": torch.ones(1).int()}, ValueError, "`d_tensor` has dtype Int; expected float32"),
    "short seeds": ({"seeds": torch.tensor([1, 2])}, ValueError, "expected int64 on cpu, 1 or one a sample, 3"),
    "a draw counter alone": ({"seeds": None}, ValueError, "`draw` is there without `seeds`; expected both or neither."),
    "a sample below 0": ({"first_sample": -1}, ValueError, "samples in [0, 2^32)"),
    "samples past 2^32": ({"first_sample": (1 << 32) - 2}, ValueError, "samples in [0, 2^32)"),
    "skew alone": ({"freq": None, "skew": torch.zeros(2, 64, 17)}, ValueError, "without a frequency mask; expected a"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_arguments_get_one_sentence_and_change_nothing(ops, mistake):
    changed, error, sentence = WRONG[mistake]
    given = arguments(**changed)
    with pytest.raises(error, match=re.escape(sentence)) as raised:
        ops.step.cuda(**given)
    assert str(raised.value).startswith("cuda kernels: ")
    assert (given["out"] == 7.0).all() and given["draw"].item() == 2


def test_planes_without_a_kernel_are_refused(ops):
    M = test_cpu.problem((1, 48, 32), "pds", (True, False, False)).M
    x = torch.zeros(1, 1, 48, 32)
    with pytest.raises(
        ValueError, match=r"has planes of 48 x 32; expected a frequency mask, and H and W powers of two from 32 to 2048"
    ):
        ops.precondition.cuda(torch.empty_like(x), x, M.masks(torch.float32)[0], None, "M")


def test_more_planes_than_a_grid_holds_are_refused(ops):
    wide = torch.zeros(1).expand(1 << 27, 16, 32, 32)
    with pytest.raises(ValueError, match=r"has 2147483648 planes .* expected at most 2147483647 planes"):
        ops.precondition.cuda(wide, wide, torch.ones(16, 32, 17), None, "M")


def test_no_grid_has_a_block_for_each_of_many_planes(chosen, monkeypatch):
    """Norms of planes that have no transform are measured whatever their number: here more than a grid has blocks."""
    monkeypatch.setenv("SIMT_MOST_BLOCKS", str(1 << 13))
    shape, batch = (6, 2, 1), 1500
    p = test_cpu.problem(shape, "pds", (False, True, False), batch=batch)
    seeds = list(range(batch))
    run = lambda x, v: tdas_ops.langevin_step(x, v, p.M, 0.16, noise=NoiseStream(seeds=seeds), norm="sample")
    assert relative_rms(run(p.x.float(), p.v.float()), test_cpu.oracle(run, p.x, p.v)) < 2e-6


def test_noise_without_a_source_is_refused(ops):
    with pytest.raises(ValueError, match="there is no noise; expected `z`, or `seeds` and `draw`"):
        ops.noise.cuda(torch.empty(1, 1, 3, 3), None, None, 1.0, None, None, None, None, 0)
