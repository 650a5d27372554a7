"""Paths over noise levels: their law, and that nothing but stream, sample and levels decides on an increment."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import relative_rms

from tdas_ops import NoiseStream, Preconditioner, samplers, sde
from tdas_ops.prior import Prior

SHAPE = (3, 2, 4, 5)
LEVELS = [0.002, 0.05, 0.7, 3.0, 14.6, 80.0]
TIMES = {
    "sigma": None,
    "variance": lambda sigma: sigma**2,
    "precision": lambda sigma: sigma**-2,
    "log-snr": lambda sigma: -sigma.log(),
}


def path(seed: int = 0, shape=SHAPE, **options):
    return NoiseStream(seed).brownian(shape, **options)


def time(name: str, sigma: float) -> float:
    transform = TIMES[name]
    return sigma if transform is None else float(transform(torch.tensor(sigma, dtype=torch.float64)))


@pytest.mark.parametrize("name", TIMES)
def test_the_law_is_brownian(name):
    """Increments over disjoint intervals are independent and normal, with the time between as their variance."""
    stats = pytest.importorskip("scipy.stats")
    w = path(1, (2000, 1, 1, 2), transform=TIMES[name])
    made = torch.stack([w(s, t).flatten() for s, t in itertools.pairwise(LEVELS)]).double()
    n = made.shape[1]
    covariance = made @ made.T / n
    assert (covariance - torch.eye(len(made))).abs().max() < 5 * math.sqrt(2 / n)
    assert all(stats.kstest(row.numpy(), "norm").pvalue > 1e-4 for row in made)
    raw = w.increment(0.05, 3.0).double()
    expected = abs(time(name, 3.0) - time(name, 0.05))
    assert abs(float(raw.square().mean()) / expected - 1) < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("name", TIMES)
def test_weights_have_the_variance_of_the_time_between(name):
    """Exactly, not by sampling: draws are independent, so that squares of their weights add up."""
    w = path(transform=TIMES[name])
    for s, t in itertools.combinations([1e-5, *LEVELS, 9e5], 2):
        a, b = (w._weights(round((math.log2(level) + 20) / 40 * (1 << 22))) for level in (s, t))
        total = sum((b.get(k, 0.0) - a.get(k, 0.0)) ** 2 for k in a.keys() | b.keys())
        assert len(a.keys() | b.keys()) <= 2 * 23
        assert total == pytest.approx(abs(time(name, t) - time(name, s)), rel=1e-4)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_increments_add_up(dtype, bound):
    w = path(dtype=dtype)
    whole = w.increment(LEVELS[0], LEVELS[-1])
    assert relative_rms(sum(w.increment(s, t) for s, t in itertools.pairwise(LEVELS)), whole) < bound
    assert torch.equal(w.increment(3.0, 0.7), -w.increment(0.7, 3.0))
    assert (
        torch.equal(w(3.0, 0.7) * math.sqrt(3.0 - 0.7), w.increment(3.0, 0.7))
        or relative_rms(w(3.0, 0.7) * math.sqrt(3.0 - 0.7), w.increment(3.0, 0.7)) < 1e-5
    )
    assert not bool(w.increment(3.0, 3.0).any())


def test_any_order_of_calls_gives_the_same():
    pairs = list(itertools.pairwise(LEVELS))
    forwards, w = [path()(s, t) for s, t in pairs], path()
    backwards = [w(s, t) for s, t in reversed(pairs)]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


def test_a_sample_is_the_same_alone_in_a_batch_and_in_a_shard():
    whole = NoiseStream(5).brownian((4, 2, 3))(3.0, 0.7)
    alone = [NoiseStream(5, first_sample=i).brownian((1, 2, 3))(3.0, 0.7) for i in range(4)]
    shards = [NoiseStream(5).shard(rank, 2, 4).brownian((2, 2, 3))(3.0, 0.7) for rank in range(2)]
    seeds = NoiseStream(seeds=[5, 6, 5, 5]).brownian((4, 2, 3))(3.0, 0.7)
    assert torch.equal(torch.cat(alone), whole)
    assert torch.equal(torch.cat(shards), whole)
    assert torch.equal(seeds[0], seeds[2]) and torch.equal(seeds[0], whole[0]) and not torch.equal(seeds[0], seeds[1])


def test_backends_agree(backend):
    from tdas_ops import use_backend

    got = path()(1024.0, 1.0)  # levels of few nodes: the interpreter takes its time
    with use_backend("reference"):
        assert (got - path()(1024.0, 1.0)).abs().max() < 1e-5


def test_paths_differ_and_share_nothing_with_draws():
    z = NoiseStream(0)
    first, second = z.brownian((500, 2)), z.brownian((500, 2))
    assert int(z.draw) == 2
    assert [int(w._path) % (1 << 64) for w in (first, second)] == [1 << 63, (1 << 63) + (1 << 24)]
    assert max(first._weights((1 << 22) - 1)) < 1 << 24
    drawn = [z.randn((500, 2)) for _ in range(3)]
    made = torch.stack([t.flatten() for t in (first(3.0, 0.7), second(3.0, 0.7), first(0.7, 0.1), *drawn)]).double()
    assert (made @ made.T / 1000 - torch.eye(6)).abs().max() < 5 * math.sqrt(2 / 1000)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    got = path(dtype=dtype)(3.0, 0.7)
    assert got.dtype is dtype
    assert relative_rms(got, path()(3.0, 0.7)) < (1e-6 if dtype is torch.float64 else 5e-3)


def test_levels_may_be_tensors():
    assert torch.equal(path()(torch.tensor(3.0), torch.tensor([0.7])), path()(3.0, float(torch.tensor(0.7))))
    assert torch.equal(path()(torch.full((3,), 3.0), 0.5), path()(3.0, 0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: w(3.0, 3.0), "sigma, sigma_next: got 3.0 and 3.0, expected levels that differ"),
        (lambda w: w(-1.0, 3.0), "sigma: got -1.0, expected a finite level that is not negative"),
        (lambda w: w(3.0, math.nan), "sigma_next: got nan, expected a finite level"),
        (lambda w: w("3", 1.0), "sigma: got str, expected a number, or a tensor of one"),
        (lambda w: w(2e6, 1.0), "sigma: got 2e+06, expected a level of at most 2^20"),
        (lambda w: w(torch.tensor([1.0, 2.0]), 0.5), "sigma: got several levels from 1, expected one for all samples"),
        (lambda w: path(transform=lambda s: (s - 1).square())(3.0, 0.1), "transform: got one that does not rise or fall"),
        (lambda w: path(transform=lambda s: 1 / (s - s))(3.0, 0.1), "transform: got inf for the level"),
    ],
)  # fmt: skip
def test_bad_levels_are_one_sentence(call, message):
    with pytest.raises((ValueError, TypeError)) as error:
        call(path())
    assert message in str(error.value)


def sde_dpmpp(x, steps: int, noise_sampler, variance=0.25, high=10.0, low=0.05):
    """First-order SDE-DPM-Solver++ on a geometric ladder, with the exact denoiser of a normal law."""
    ladder = [high * (low / high) ** (i / steps) for i in range(steps + 1)]
    for s, t in itertools.pairwise(ladder):
        denoised = x * variance / (variance + s**2)
        n = t * math.sqrt(1 - (t / s) ** 2)
        x = (t / s) ** 2 * x + (1 - (t / s) ** 2) * denoised + n * noise_sampler(s, t)
    return x


@pytest.mark.parametrize("name", ["sigma", "precision"])
def test_the_picture_stays_at_another_number_of_steps(name):
    """Strong convergence: the error against a fine run falls with the steps, where fresh noise gives another picture."""
    shape = (32, 1, 4, 4)
    x = 10 * NoiseStream(3).randn(shape)
    fine = sde_dpmpp(x, 256, path(4, shape, transform=TIMES[name]))
    errors = [relative_rms(sde_dpmpp(x, n, path(4, shape, transform=TIMES[name])), fine) for n in (8, 16, 32)]
    assert errors[0] < 0.4 and errors[1] < 0.7 * errors[0] and errors[2] < 0.7 * errors[1]
    z = NoiseStream(4)
    assert relative_rms(sde_dpmpp(x, 32, lambda s, t: z.randn(shape)), fine) > 1
    assert abs(float(fine.std()) / math.sqrt(0.25 + 0.05**2) - 1) < 0.1


@pytest.mark.parametrize("name", ["ancestral", "dpmpp"])
@pytest.mark.parametrize("kind", [sde.VE(0.05, 10.0), sde.VP()], ids=["VE", "VP"])
def test_our_samplers_keep_the_picture_too(name, kind):
    shape = (16, 1, 4, 4)

    def score(x, condition):
        told = float(condition[0])
        mean, std = (1.0, told) if isinstance(kind, sde.VE) else (math.exp(kind.log_mean(told)), kind.std(told))
        return -x / (0.25 * mean**2 + std**2)

    def run(evaluations: int, fresh: bool = False):
        z = NoiseStream(4)
        own = {"noise_sampler": None if fresh else NoiseStream(5).brownian(shape), "eta": 1.0, "progress": False}
        return getattr(samplers, name)(score, shape, kind, noise=z, evaluations=evaluations, **own)

    fine = run(192)
    errors = [relative_rms(run(n), fine) for n in (12, 24, 48)]
    assert errors[0] < 0.6 and errors[1] < 0.75 * errors[0] and errors[2] < 0.75 * errors[1]
    assert relative_rms(run(48, fresh=True), fine) > 1


def run_with(noise_sampler, **options):
    score = lambda x, sigma: -x
    own = {"noise": 0, "evaluations": 3, "progress": False, "noise_sampler": noise_sampler, **options}
    return samplers.ancestral(score, SHAPE, sde.VE(0.05, 10.0), **own)


def test_a_noise_sampler_gets_the_levels_and_leaves_the_stream():
    seen, z = [], NoiseStream(0)

    def noise_sampler(sigma, sigma_next):
        seen.append((sigma, sigma_next))
        return torch.zeros(SHAPE, dtype=torch.float64)

    M = Preconditioner.radial(lambda k: 1 + k, SHAPE[1:])
    run_with(noise_sampler, noise=z, ladder=[10.0, 3.0, 1.0, 0.5], M=M)
    assert seen == [(10.0, 3.0), (3.0, 1.0), (1.0, 0.5)] and int(z.draw) == 1


@pytest.mark.parametrize(
    ("bad", "options", "message"),
    [
        (3, {}, "noise_sampler: got int, expected a function of two noise levels"),
        (path(), {"cuda_graph": True}, "noise_sampler: got Brownian with cuda_graph"),
        (path(shape=(2, 3)), {}, r"noise_sampler: got (2, 3) on cpu from it, expected (3, 2, 4, 5) on cpu"),
        (lambda s, t: None, {}, "noise_sampler: got NoneType from it"),
        (path(), {"covariance": Prior(torch.zeros(SHAPE[1:]), basis="mean")}, "noise_sampler: got one beside covariance"),
    ],
)  # fmt: skip
def test_bad_noise_samplers_are_one_sentence(bad, options, message):
    with pytest.raises((ValueError, TypeError)) as error:
        run_with(bad, **options)
    assert message in str(error.value)


def test_steps_do_not_matter_while_the_denoised_image_stands_still():
    x = 10 * NoiseStream(3).randn(SHAPE)
    runs = [sde_dpmpp(x, n, path(4, transform=TIMES["precision"]), variance=0.0) for n in (1, 2, 17)]
    assert relative_rms(runs[1], runs[0]) < 1e-3 and relative_rms(runs[2], runs[0]) < 1e-3


def test_a_transform_that_stands_still_and_an_empty_level_are_refused() -> None:
    flat = NoiseStream(0).brownian((1, 2), transform=lambda sigma: 0 * sigma)
    with pytest.raises(ValueError, match="transform: got one that does not rise or fall"):
        flat(2.0, 1.0)
    with pytest.raises(ValueError, match=r"sigma: got shape \(0,\), expected a number"):
        NoiseStream(0).brownian((1, 2))(torch.empty(0), 1.0)
