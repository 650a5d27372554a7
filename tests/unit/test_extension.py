"""The compiled noise kernel against known answers and the contract in float64, and what must not change a bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh import python

import tdas_ops
from tdas_ops import _extension
from tests.noise_contract import KNOWN_ANSWERS, SHAPES, contract, philox, signed

extension = _extension.load()
pytestmark = pytest.mark.skipif(extension is None, reason=str(_extension.reason()))


def normals(shape, seeds=7, draw=0, first_sample=0, spectral=False):
    """The op on a NaN-filled output."""
    out = torch.full(shape, complex("nan+nanj"), dtype=torch.complex64)
    seeds = torch.tensor(seeds if isinstance(seeds, list) else [seeds], dtype=torch.int64)
    torch.ops.tdas_ops.normals.cpp(out, seeds, torch.tensor([draw], dtype=torch.int64), first_sample, spectral)
    return out


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    assert extension.philox4x32(counter, key) == expected
    assert philox(np.array([counter]), tuple(key))[0].tolist() == expected


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spectral", [False, True])
def test_every_element_follows_the_contract(shape, spectral):
    seed, draw = 0x9E3779B97F4A7C15, 0x0000000300000002
    got = normals(shape, signed(seed), draw, 5, spectral)
    assert (got - contract(shape, seed, draw, 5, spectral)).abs().max() < 1e-5


def test_the_bound_can_fail():
    """Zeros, a wrong seed word, a wrong draw, a shifted sample and the other order are all far outside it."""
    shape = (2, 1, 8, 8)
    expected = contract(shape, seed=7 << 32)
    for wrong in (
        torch.zeros(shape, dtype=torch.complex64),
        normals(shape, 7),
        normals(shape, 7 << 32, draw=1),
        normals(shape, 7 << 32, first_sample=1),
        normals(shape, 7 << 32, spectral=True),
    ):
        assert (wrong - expected).abs().max() > 0.1
    assert (normals(shape, 7 << 32) - expected).abs().max() < 1e-5


def test_extreme_words_stay_accurate():
    """A million calls reach u within 1e-6 of both ends; the bound is absolute, so both ends of the radius count."""
    shape = (4, 1, 512, 512)
    assert (normals(shape, 1) - contract(shape, 1)).abs().max() < 1e-5


def test_one_seed_a_pair():
    seeds = [3, -1, 1 << 40]
    got = normals((3, 2, 4, 6), seeds, draw=9)
    for plane, seed in zip(got, seeds, strict=True):
        assert torch.equal(plane, normals((1, 2, 4, 6), seed, draw=9)[0])
        expected = contract((1, 2, 4, 6), seed % (1 << 64), 9)[0]
        assert (plane - expected).abs().max() < 1e-5


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("width", [1, 31, 32, 64, 257])
def test_splitting_the_samples_changes_no_bit(width, spectral):
    whole = normals((7, 3, 9, width), 11, 4, 0, spectral)
    parts = [normals((n, 3, 9, width), 11, 4, first, spectral) for first, n in ((0, 1), (1, 4), (5, 2))]
    assert torch.equal(torch.view_as_real(whole), torch.view_as_real(torch.cat(parts)))


def test_the_number_of_threads_changes_no_bit():
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(normals((3, 3, 128, 130), 5))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


THREADS = """
import os, torch, tdas_ops
torch.set_num_threads(1)
M = tdas_ops.Preconditioner.radial(lambda k: 1 / (1 + k), (3, 64, 64))
out = torch.zeros(8, 3, 64, 64)
threads = lambda: len(os.listdir("/proc/self/task"))
counts = [threads()]
for wanted in (1, 3):
    torch.set_num_threads(wanted)
    tdas_ops.precondition(out, M)
    counts.append(threads() - counts[0])
print(*counts[1:])
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc to count threads in")
def test_torchs_number_of_threads_rules():
    done = python(THREADS)
    assert done.stdout.split() == ["0", "2"], done.stderr


UPDATES = """
import sys, torch, tdas_ops
from tdas_ops import NoiseStream, Preconditioner
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
out = torch.empty(3, 2, 40, 41, dtype=torch.complex64)
torch.ops.tdas_ops.normals.cpp(out, torch.tensor([5]), torch.tensor([6]), 7, True)
results = {"normals": torch.view_as_real(out)}
for shape in ((2, 32, 64), (1, 9, 10), (1, 7, 9)):
    for space in (None, torch.rand(shape, generator=g) + 0.5):
        M = Preconditioner.radial(lambda k: (k + 0.5) ** -1, shape)
        M = Preconditioner(shape, M.freq, space)
        x, v = torch.randn(2, 2, *shape, generator=g)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            pair = lambda: tdas_ops.langevin_step(x, v.to(dtype), M, 0.1, noise=NoiseStream(1), return_mean=True)
            results[f"{shape} {space is not None} {dtype}"] = torch.stack(pair())
torch.save((tdas_ops.machine_info()["instruction_set"], results), sys.argv[1])
"""


def test_instruction_sets_agree(tmp_path):
    """Each in its own process; one that the machine lacks is refused in a sentence. AVX-512 and AVX2 draw noise of the
    same bits; without fused multiply-add it is rounded otherwise."""
    results = {}
    for isa in ("baseline", "avx2", "avx512", "none-such"):
        done = python(UPDATES, str(tmp_path / isa), TDAS_OPS_CPU_ISA=isa)
        if done.returncode == 0:
            name, results[isa] = torch.load(tmp_path / isa)
            assert name == isa
        else:
            assert f"TDAS_OPS_CPU_ISA is '{isa}'; expected avx512, avx2 or baseline" in done.stderr
    assert "baseline" in results and "none-such" not in results
    for key, expected in results["baseline"].items():
        for isa in results.keys() - {"baseline"}:
            bound = 1e-6 if key == "normals" else 1e-5
            assert (results[isa][key] - expected).abs().max() < bound, (isa, key)
    if {"avx2", "avx512"} <= results.keys():
        assert torch.equal(results["avx2"]["normals"], results["avx512"]["normals"])


def test_draws_and_seeds_are_not_written():
    seeds, draw = torch.tensor([7]), torch.tensor([3])
    out = torch.empty(1, 1, 2, 2, dtype=torch.complex64)
    torch.ops.tdas_ops.normals.cpp(out, seeds, draw, 0, False)
    assert seeds.tolist() == [7] and draw.tolist() == [3]


@pytest.mark.parametrize("shape", [(0, 1, 2, 2), (1, 0, 2, 2), (1, 1, 2, 0)], ids=str)
def test_empty_outputs(shape):
    assert normals(shape).shape == shape


def test_moments():
    """Unit variance, no correlation between the parts; bounds are five standard errors of a million normals."""
    g = torch.view_as_real(normals((4, 1, 512, 512), 2)).double().reshape(-1, 2)
    error = 5 / len(g) ** 0.5
    assert g.mean(0).abs().max() < error
    assert (g.square().mean(0) - 1).abs().max() < error * 2**0.5
    assert g.prod(1).mean().abs() < error
    assert (g.pow(4).mean(0) - 3).abs().max() < error * 96**0.5


ONE, COUNT = torch.tensor([1]), torch.tensor([0])
OUT = torch.zeros(3, 1, 2, 4, dtype=torch.complex64)
ERRORS = [
    ((OUT.real.contiguous(), ONE, COUNT, 0), ValueError, "`out` has dtype Float; expected complex64"),
    ((OUT[0], ONE, COUNT, 0), ValueError, r"`out` has shape \[1, 2, 4\]; expected \[B, C, H, ceil\(W / 2\)\]"),
    ((OUT.transpose(2, 3), ONE, COUNT, 0), ValueError, "`out` has strides .* expected a contiguous tensor"),
    ((OUT, ONE.int(), COUNT, 0), ValueError, "`seeds` has dtype Int; expected int64"),
    ((OUT, ONE, COUNT.float(), 0), ValueError, "`draw` has dtype Float; expected int64"),
    ((OUT, ONE.repeat(2), COUNT, 0), ValueError, "`seeds` has 2 elements; expected 1 or one a sample, 3"),
    ((OUT, ONE.repeat(6)[::2], COUNT, 0), ValueError, "`seeds` has strides .* expected a contiguous tensor"),
    ((OUT, ONE, COUNT.repeat(2), 0), ValueError, "`draw` has 2 elements; expected 1"),
    ((OUT, ONE.repeat(3), COUNT, 1), ValueError, "`first_sample` is 1 with one seed a sample; expected 0"),
    ((OUT, ONE, COUNT, -1), ValueError, "`first_sample` is -1 for 3 samples"),
    ((OUT, ONE, COUNT, 2**32 - 2), ValueError, "`first_sample` is 4294967294 for 3 samples"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), ERRORS)
def test_errors_come_before_anything_is_written(arguments, kind, message):
    with pytest.raises(kind, match=message):
        torch.ops.tdas_ops.normals.cpp(*arguments, False)
    assert not OUT.any()


@pytest.mark.parametrize("spectral", [False, True])
def test_samples_of_too_many_counters_are_refused(spectral):
    nothing = torch.empty(0, 2, 1 << 15, 1 << 17, dtype=torch.complex64)
    with pytest.raises(ValueError, match="need 4294967296 counters a sample; expected fewer than 2\\^32"):
        torch.ops.tdas_ops.normals.cpp(nothing, ONE, COUNT, 0, spectral)


def test_conjugate_views_are_refused():
    out = torch.zeros(1, 1, 3, 4, dtype=torch.complex64)
    with pytest.raises(ValueError, match="`out` is a conjugate view; expected a tensor of its own"):
        torch.ops.tdas_ops.normals.cpp(out.conj(), ONE, COUNT, 0, False)
    assert not out.any()


def test_opcheck():
    out = torch.zeros(2, 1, 3, 4, dtype=torch.complex64)
    torch.library.opcheck(torch.ops.tdas_ops.normals.cpp, (out, ONE, COUNT, 0, True))


def test_build_info():
    info = extension.build_info()
    assert info["cpu_instruction_set"] in ("avx512", "avx2", "baseline")
    assert (info["cuda"] is None) == (not info["cuda_architectures"])
    json.dumps(info)
    assert tdas_ops.backend_info()["missing"].get("cpp") is None
