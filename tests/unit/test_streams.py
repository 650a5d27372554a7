"""What other code takes from a NoiseStream: white noise, shards, and seeds or generators as streams."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner, calibrate, samplers, sde
from tdas_ops.prior import Prior

SHAPE = (4, 3, 6, 5)


def test_randn_is_what_an_op_draws(backend):
    M, stream, ours = Preconditioner.identity(SHAPE[1:]), NoiseStream(3), NoiseStream(3)
    for _ in range(2):
        assert torch.equal(ours.randn(SHAPE), tdas_ops.noise(M, SHAPE, stream))
    assert torch.equal(ours.draw, stream.draw)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_randn_rounds_float32(dtype):
    got = NoiseStream(3).randn(SHAPE, dtype, "cpu")
    assert got.dtype is dtype
    assert torch.equal(got, NoiseStream(3).randn(SHAPE).to(dtype))
    assert abs(float(NoiseStream(1).randn((64, 4, 16, 16), dtype=dtype).double().std()) - 1) < 0.02


@pytest.mark.parametrize(
    ("shape", "planes"), [((4, 2, 3, 6, 5), (4, 6, 6, 5)), ((4, 7), (4, 1, 1, 7)), ((4,), (4, 1, 1, 1))]
)
def test_randn_of_any_rank(shape, planes):
    assert torch.equal(NoiseStream(3).randn(shape), NoiseStream(3).randn(planes).reshape(shape))


@pytest.mark.parametrize("shape", [SHAPE, (4, 2, 3, 6, 5), (4, 7)])
def test_a_sample_is_the_same_alone_in_a_batch_and_in_a_shard(shape):
    whole = NoiseStream(9).randn(shape)
    shards = [NoiseStream(9).shard(rank, 2, 4).randn((2, *shape[1:])) for rank in range(2)]
    alone = [NoiseStream(9, first_sample=i).randn((1, *shape[1:])) for i in range(4)]
    assert torch.equal(torch.cat(shards), whole)
    assert torch.equal(torch.cat(alone), whole)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_randn_like(memory_format, dtype):
    x = torch.zeros(SHAPE, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    got = NoiseStream(3).randn_like(x)
    assert got.dtype is dtype and got.stride() == x.stride() and not got.requires_grad
    assert torch.equal(got, NoiseStream(3).randn(SHAPE, dtype=dtype))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda z: z.randn((4, 0)), "shape: got (4, 0), expected (B, ...), all positive"),
        (lambda z: z.randn(()), "shape: got (), expected (B, ...)"),
        (lambda z: z.randn((4, 2.5)), "shape: got (4, 2.5), expected (B, ...)"),
        (lambda z: z.randn((1, 1 << 33)), "expected (B, ...), all positive, of fewer than 2^33 elements a sample"),
        (lambda z: z.randn(SHAPE, dtype=torch.int64), "dtype: got torch.int64, expected a floating-point one"),
        (lambda z: z.randn(SHAPE, dtype="half"), "dtype: got 'half', expected a floating-point one"),
        (lambda z: z.randn_like([1.0]), "x: got list, expected a tensor [B, ...]"),
        (lambda z: z.randn_like(torch.zeros(3, dtype=torch.int32)), "dtype: got torch.int32"),
        (lambda z: z.brownian(SHAPE, transform=3), "transform: got int, expected a function of sigma"),
        (lambda z: NoiseStream(seeds=[1, 2]).randn(SHAPE), "got a stream of 2 seeds, expected one for each of 4 samples"),
        (lambda z: z.shard(0, 3, 4), "batch: got 4 samples for a world size of 3, expected a multiple of 3 (NoiseStream(seed, f"),
        (lambda z: z.shard(2, 2, 4), "rank: got 2, expected an integer from 0 to 1"),
        (lambda z: z.shard(0, 0, 4), "world_size: got 0, expected a positive integer"),
        (lambda z: NoiseStream(seeds=[1, 2]).shard(0, 2, 4), "batch: got 4 with a stream of 2 seeds, expected 2"),
        (lambda z: NoiseStream(0, first_sample=(1 << 32) - 2).shard(0, 2, 4), "expected samples below 2^32"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_takes_no_draw(make, message):
    z = NoiseStream(0)
    with pytest.raises((ValueError, TypeError)) as error:
        make(z)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert int(z.draw) == 0


def test_shards_begin_where_the_stream_is_and_leave_it_alone():
    z = NoiseStream(4, first_sample=10)
    z.randn((1, 2))
    shard = z.shard(1, 2, 6)
    assert shard.named and int(shard.draw) == 1 and shard.first_sample == 13
    shard.randn((3, 2))
    assert (int(shard.draw), int(z.draw), z.first_sample) == (2, 1, 10)


def test_shards_name_their_samples():
    """So that the snr rule takes the norms of each by itself, in any number of shards."""
    assert NoiseStream(4).shard(0, 1, 2).named and not NoiseStream(4).named


def test_shards_of_seeds():
    seeds = [4, 9, 4, 1 << 63]
    whole = NoiseStream(seeds=seeds).randn(SHAPE)
    parts = [NoiseStream(seeds=seeds).shard(rank, 2, 4).randn((2, *SHAPE[1:])) for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)
    again = NoiseStream.from_state_dict(NoiseStream(seeds=seeds).shard(1, 2, 4).state_dict())
    assert torch.equal(again.randn((2, *SHAPE[1:])), whole[2:])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_generator_gives_a_seed_and_nothing_more():
    first, second = generator(1), generator(1)
    stream = NoiseStream.of(first)
    stream.randn((2, 2))
    low, high = torch.randint(0, 1 << 32, (2,), generator=second).tolist()
    assert int(stream.seeds) % (1 << 64) == low | high << 32
    assert torch.equal(first.get_state(), second.get_state())


def test_streams_of_what_is_given():
    z = NoiseStream(3)
    assert NoiseStream.of(z) is z
    for seed in (3, np.int64(3), torch.tensor(3)):
        assert NoiseStream.of(seed).state_dict() == NoiseStream(3).state_dict()
    assert NoiseStream.of([3, generator(0)]).state_dict()["per_sample"]
    several = NoiseStream.of([generator(5), generator(6)]).randn((2, 3))
    assert torch.equal(NoiseStream.of([generator(6)]).randn((1, 3))[0], several[1])


@pytest.mark.parametrize("bad", [None, "3", 3.0, True, -1, 1 << 64, [], [1, None], torch.zeros(3), object()])
def test_what_is_no_stream(bad):
    with pytest.raises((TypeError, ValueError), match=r"^(noise|NoiseStream): got .*, expected"):
        NoiseStream.of(bad)


def score(x, sigma):
    return -x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


RUNS = {
    "pc": lambda z: samplers.pc(score, SHAPE, sde.VE(0.1, 5.0), noise=z, iterations=3, progress=False),
    "ancestral": lambda z: samplers.ancestral(score, SHAPE, sde.VE(0.1, 5.0), noise=z, evaluations=3, progress=False),
    "dpmpp": lambda z: samplers.dpmpp(score, SHAPE, sde.VE(0.1, 5.0), noise=z, evaluations=3, eta=1.0, progress=False),
    "heun": lambda z: samplers.heun(score, SHAPE, sde.VE(0.1, 5.0), noise=z, evaluations=5, s_churn=1.0, progress=False),
    "langevin": lambda z: samplers.annealed_langevin(score, SHAPE, [5.0, 1.0], noise=z, step_size=0.01, steps=2, progress=False),
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_samplers_take_seeds_and_generators(run):
    assert torch.equal(run(7), run(NoiseStream(7)))
    assert torch.equal(run(generator(7)), run(NoiseStream.of(generator(7))))
    assert not torch.equal(run(generator(7)), run(generator(8)))


def test_a_start_from_a_prior_shares_nothing_with_the_steps():
    prior = Prior.from_images(torch.rand(16, *SHAPE[1:]), basis="mean")
    run = calibrate.FewStep(sde.VE(0.1, 5.0), 3, "ancestral", start=prior)
    sample = lambda z: run.sample(score, SHAPE, z, progress=False)
    assert torch.equal(sample(7), sample(NoiseStream(7)))
    assert torch.equal(sample(generator(7)), sample(NoiseStream.of(generator(7))))
    assert torch.equal(prior.start(2.0, SHAPE, 7), prior.start(2.0, SHAPE, NoiseStream(7)))


def test_streams_work_in_and_out_of_inference_mode():
    with torch.inference_mode():
        z = NoiseStream(3)
        w, shard = z.brownian((2, 3)), z.shard(1, 2, 4)
        inside = w(3.0, 1.0), shard.randn((2, 3)), z.randn((4, 3))
    z = NoiseStream(3)
    outside = z.brownian((2, 3))(3.0, 1.0), z.shard(1, 2, 4).randn((2, 3)), z.randn((4, 3))
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
    assert torch.equal(w(3.0, 1.0), outside[0]) and torch.equal(outside[2][2:], outside[1])


def test_starts_take_a_seed_and_steps_refuse_one():
    M = Preconditioner.radial(lambda k: 1 + k, SHAPE[1:])
    assert torch.equal(tdas_ops.noise(M, SHAPE, 7), tdas_ops.noise(M, SHAPE, NoiseStream(7)))
    x = torch.zeros(SHAPE)
    with pytest.raises(
        TypeError, match=r"noise: got int, expected .* \(one seed would give every step the same noise\)"
    ):
        tdas_ops.step(x, x.clone(), M, 0.1, noise=7)


def test_white_in_every_axis():
    z = NoiseStream(2).randn((400, 2, 3, 4, 5)).double().flatten(1)
    correlation = z.T @ z / 400 - torch.eye(z.shape[1])
    assert correlation.abs().max() < 6 / math.sqrt(400)
