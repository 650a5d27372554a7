"""The noise contract: known answers, distribution, and what a value may depend on."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import relative_rms, stream_noise

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner, reference
from tests import noise_contract

MASKS = list(itertools.product((True, False), repeat=2))


def ones(shape, freq: bool, space: bool) -> Preconditioner:
    """M = 1, with masks of ones that must be applied."""
    if not freq and not space:
        return Preconditioner.identity(shape)
    mask = torch.ones(shape, dtype=torch.float64)
    return Preconditioner.from_masks(mask if freq else None, mask if space else None)


@pytest.mark.parametrize(("counter", "key", "expected"), noise_contract.KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    words = lambda values: [torch.tensor([v]) for v in values]
    got = [int(r) for r in reference.philox4x32(words(counter), tuple(words(key)))]
    assert got == expected
    assert noise_contract.philox(np.array([counter]), tuple(key))[0].tolist() == expected


def draw_normals(shape, seed: int = 7, draw: int = 0, first: int = 0, spectral: bool = False, backend="reference"):
    out = torch.full(shape, complex(math.nan, math.nan), dtype=torch.complex64)
    stream = NoiseStream(seed, draw=draw)
    getattr(torch.ops.tdas_ops.normals, backend)(out, stream.seeds, stream.draw, first, spectral)
    return out


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 5), (3, 1, 1), (1, 3, 2)])
@pytest.mark.parametrize(("seed", "draw", "sample"), [(0, 0, 0), ((1 << 64) - 1, (5 << 32) + 3, 2), (1 << 63, 1, 9)])
@pytest.mark.parametrize("spectral", [False, True])
def test_normals_equal_the_contract(backend, shape, seed, draw, sample, spectral):
    """Every element against the contract worked out in numpy."""
    got = draw_normals((2, *shape), seed, draw, sample, spectral, backend)
    assert (got - noise_contract.contract((2, *shape), seed, draw, sample, spectral)).abs().max() < 1e-5


@pytest.mark.parametrize("ra", [0, 1, 2, 0xFFFFFFFF, 0xFFFFFFFE, 0xF8000000, 0xF7FFFFFF, 0x80000000])
@pytest.mark.parametrize("rb", [0, 1, 0x40000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_box_muller_at_its_edges(ra, rb):
    got = complex(reference.box_muller(torch.tensor(ra), torch.tensor(rb)))
    expected = noise_contract.box_muller(np.array([ra], dtype=np.uint32), np.array([rb], dtype=np.uint32))
    assert abs(got - complex(expected[0])) < 2e-6


def test_moments_and_distribution(backend):
    stats = pytest.importorskip("scipy.stats")
    g = draw_normals((8, 3, 64, 64), backend=backend)
    values = torch.view_as_real(g).double().flatten()
    n = values.numel()
    assert abs(values.mean()) < 5 / math.sqrt(n)
    assert abs(values.square().mean() - 1) < 5 * math.sqrt(2 / n)
    assert abs((values**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((values**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert stats.kstest(values.numpy(), "norm").pvalue > 1e-4
    re, im = g.real.double().flatten(), g.imag.double().flatten()
    assert abs((re * im).mean()) < 5 / math.sqrt(len(re))
    assert not stats.kstest(1.02 * values.numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize(("freq", "space"), MASKS)
def test_white_in_both_domains(freq, space):
    """No correlation between pixels, frequencies, channels or samples: the periodogram is flat, and so is its own."""
    shape, batch = (2, 16, 16), 400
    z = tdas_ops.noise(ones(shape, freq, space), (batch, *shape), NoiseStream(3)).double()
    power = torch.fft.fft2(z, norm="ortho").abs().square().mean(0)
    real = torch.zeros(16, 16, dtype=torch.bool)
    real[::8, ::8] = True  # the self-conjugate frequencies have one degree of freedom, the others two
    spread = torch.where(real, math.sqrt(2 / batch), math.sqrt(1 / batch))
    assert ((power - 1).abs() / spread).max() < 5
    assert abs(((power - 1) / spread).square().mean() - 1) < 0.25
    assert ((z.square().mean(0) - 1).abs() / math.sqrt(2 / batch)).max() < 5
    flat = z.reshape(batch, -1)
    correlation = (flat.T @ flat / batch - torch.eye(flat.shape[1])).abs()
    assert correlation.fill_diagonal_(0).max() < 6 / math.sqrt(batch)
    between = torch.corrcoef(flat)
    assert between.fill_diagonal_(0).abs().max() < 6 / math.sqrt(flat.shape[1])


@pytest.mark.parametrize(
    "shape", [(2, 4, 5), (1, 5, 4), (2, 3, 7), (1, 6, 8), (1, 1, 1), (2, 7, 1), (1, 1, 6), (1, 2, 2)]
)
@pytest.mark.parametrize(("freq", "space"), MASKS)
@pytest.mark.parametrize("first", [0, 5])
def test_noise_equals_the_contract(backend, shape, freq, space, first):
    M = ones(shape, freq, space)
    stream = NoiseStream(11, first_sample=first, draw=2)
    for draw in (2, 3):
        got = tdas_ops.noise(M, (3, *shape), stream, scale=2.0, dtype=torch.float64)
        expected = 2 * stream_noise(11, [first, first + 1, first + 2], draw, shape, freq and not space)
        assert relative_rms(got, expected) < 2e-6


@pytest.mark.parametrize("shape", [(1, 8, 9), (2, 7, 6)])
@pytest.mark.parametrize(("freq", "space"), MASKS)
def test_split_and_offset_change_nothing(backend, shape, freq, space):
    M = ones(shape, freq, space)
    whole = tdas_ops.noise(M, (7, *shape), NoiseStream(5))
    for cut in (1, 2, 5):
        left = tdas_ops.noise(M, (cut, *shape), NoiseStream(5))
        right = tdas_ops.noise(M, (7 - cut, *shape), NoiseStream(5, first_sample=cut))
        assert torch.equal(torch.cat([left, right]), whole)


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 5, 3)])  # sizes at which torch's real FFTs fail
@pytest.mark.parametrize(("freq", "space"), MASKS)
def test_thread_count_changes_nothing(backend, shape, freq, space):
    M = ones(shape, freq, space)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(tdas_ops.noise(M, (5, *shape), NoiseStream(5)))
    torch.set_num_threads(1)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize(("freq", "space"), MASKS)
def test_seed_per_sample_makes_a_picture_again_alone(backend, freq, space):
    shape = (1, 6, 6)
    M = ones(shape, freq, space)
    batch = tdas_ops.noise(M, (3, *shape), NoiseStream(seeds=[4, 9, 4]))
    assert torch.equal(batch[0], batch[2])
    for b, seed in enumerate((4, 9)):
        assert torch.equal(tdas_ops.noise(M, (1, *shape), NoiseStream(seeds=[seed]))[0], batch[b])
        assert torch.equal(tdas_ops.noise(M, (1, *shape), NoiseStream(seed))[0], batch[b])


def test_draws_never_overlap(backend):
    shape = (1, 8, 8)
    M = Preconditioner.identity(shape)
    stream = NoiseStream(1)
    x = tdas_ops.noise(M, (2, *shape), stream)
    seen = [x]
    for _ in range(3):
        seen.append(tdas_ops.step(torch.zeros_like(x), torch.zeros_like(x), M, 0.5, noise=stream))
        seen.append(tdas_ops.noise(M, (2, *shape), stream))
    values = torch.cat([s.flatten() for s in seen])
    assert stream.state_dict()["draw"] == len(seen)
    assert len(values.unique()) == len(values)


def test_draw_counter_crosses_32_bits(backend):
    out = draw_normals((1, 1, 4, 4), draw=(1 << 32) - 1, backend=backend)
    after = draw_normals((1, 1, 4, 4), draw=1 << 32, backend=backend)
    assert (after - noise_contract.contract((1, 1, 4, 4), 7, 1 << 32)).abs().max() < 1e-5
    assert not torch.equal(out, after)
    stream = NoiseStream(7, draw=(1 << 32) - 1)
    tdas_ops.noise(Preconditioner.identity((1, 4, 4)), (1, 1, 4, 4), stream)
    assert stream.state_dict()["draw"] == 1 << 32


@pytest.mark.parametrize("spectral", [False, True])
def test_backends_agree(backend, spectral):
    a, b = (draw_normals((3, 3, 33, 47), spectral=spectral, backend=name) for name in ("reference", backend))
    assert (a - b).abs().max() < 1e-5


def test_state_dict_continues():
    M = Preconditioner.identity((1, 4, 4))
    for stream in (NoiseStream((1 << 64) - 2, first_sample=3), NoiseStream(seeds=[1, 2])):
        tdas_ops.noise(M, (2, 1, 4, 4), stream)
        copy = NoiseStream.from_state_dict(stream.state_dict())
        other = NoiseStream(0)
        counter = other.draw
        other.load_state_dict(stream.state_dict())
        assert other.draw is counter
        expected = tdas_ops.noise(M, (2, 1, 4, 4), stream)
        assert torch.equal(tdas_ops.noise(M, (2, 1, 4, 4), copy), expected)
        assert torch.equal(tdas_ops.noise(M, (2, 1, 4, 4), other), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"seed": 1, "seeds": [1]}, "exactly one"),
        ({"seed": -1}, r"seed: got -1, expected an integer from 0"),
        ({"seed": 1 << 64}, "seed: got"),
        ({"seed": 1.5}, "seed: got 1.5"),
        ({"seed": True}, "seed: got True"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [1, 2], "first_sample": 1}, "no first_sample"),
        ({"seed": 0, "first_sample": -1}, "first_sample: got -1"),
        ({"seed": 0, "draw": -1}, "draw: got -1"),
    ],
)
def test_stream_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        NoiseStream(**arguments)


def test_stream_checks_its_batch():
    M = Preconditioner.identity((1, 4, 4))
    stream = NoiseStream(seeds=[1, 2])
    with pytest.raises(ValueError, match="2 seeds, expected one for each of 3 samples"):
        tdas_ops.noise(M, (3, 1, 4, 4), stream)
    assert stream.state_dict()["draw"] == 0


def test_stream_ends_at_the_last_sample():
    M, stream = Preconditioner.identity((1, 4, 4)), NoiseStream(1, first_sample=(1 << 32) - 2)
    tdas_ops.noise(M, (2, 1, 4, 4), stream)
    with pytest.raises(ValueError, match="first_sample=4294967294 for a batch of 3, expected samples below 2\\^32"):
        tdas_ops.noise(M, (3, 1, 4, 4), stream)
    assert stream.state_dict()["draw"] == 1


@pytest.mark.parametrize(("name", "calls"), [("cpp", 2000), ("reference", 100)])
def test_threads_that_share_a_stream_never_take_the_same_draw(name, calls):
    if name not in tdas_ops.backend_info()["available"]:
        pytest.skip(tdas_ops.backend_info()["missing"][name])
    threads, op, begin = 8, getattr(torch.ops.tdas_ops.noise, name), threading.Barrier(8)

    def draws(stream: NoiseStream, count: int) -> set[bytes]:
        out = torch.empty(1, 1, 4, 4)
        drawn = set()
        for _ in range(count):
            op(out, None, None, 1.0, None, None, stream.seeds, stream.draw, 0)
            drawn.add(out.numpy().tobytes())
        return drawn

    def shared(_: int) -> set[bytes]:
        begin.wait()
        return draws(stream, calls)

    stream, interval = NoiseStream(1), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(threads) as pool:
            drawn = set().union(*pool.map(shared, range(threads)))
    finally:
        sys.setswitchinterval(interval)
    assert stream.state_dict()["draw"] == threads * calls
    assert drawn == draws(NoiseStream(1), threads * calls)


def test_a_copy_takes_the_draws_of_the_original():
    """What the docstring says of workers and forks."""
    M, stream = Preconditioner.identity((1, 4, 4)), NoiseStream(1, draw=3)
    noise = lambda stream: tdas_ops.noise(M, (1, 1, 4, 4), stream)
    copies = [copy.copy(stream), copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))]
    assert all(torch.equal(noise(each), noise(NoiseStream(1, draw=3))) for each in copies)
    assert stream.state_dict()["draw"] == 3
