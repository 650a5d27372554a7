"""Chains for densities: laws they keep, the leapfrog, decisions, resume, diagnostics, what is refused."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import torch
from conftest import relative_rms
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tdas_ops import GaussianField, NoiseStream, Preconditioner
from tdas_ops.reference import philox4x32
from tdas_ops.samplers import physics
from tdas_ops.samplers.physics import RejectionWarning
from tdas_ops.samplers.physics.chain import Target, coloured, exponential
from tdas_ops.samplers.physics.hamiltonian import trajectory

SHAPE, MASS = (8, 6), 0.5
PROPAGATOR = physics.free_propagator(SHAPE, MASS)
M = physics.mass_of_spectrum(PROPAGATOR, SHAPE)
ENERGY, GRAD = physics.gaussian(M)
GUESS = physics.mass_of_spectrum(lambda k: 1 / (0.3 + k**2), SHAPE)  # a mass that is not that of the law


def action(phi: Tensor) -> Tensor:
    """Of the free field, point by point."""
    hops = sum((phi.roll(-1, axis) - phi).square() for axis in (-1, -2))
    return 0.5 * (hops + MASS * phi.square()).double().sum((1, 2, 3))


def spectrum(x: Tensor) -> Tensor:
    return torch.fft.rfft2(x.double(), norm="ortho").abs().square()[:, 0]


def exact(chains: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return GaussianField(PROPAGATOR, SHAPE).sample(101, chains, dtype=dtype)[:, None]


def departure(x: Tensor) -> float:
    """Mean square of what the variance of every mode departs by, in standard errors: 1 for the right law. Modes that are
    their own mirror images scatter twice as much."""
    each = spectrum(x) / PROPAGATOR
    return float(((each.mean(0) - 1) * math.sqrt(len(x)) / each.std(0)).square().mean())


KERNELS = [
    ("hmc", partial(physics.hmc, leapfrog=2, step_size=0.9)),
    ("mala", partial(physics.mala, step_size=0.25)),
]


@pytest.mark.parametrize(("name", "sampler"), KERNELS, ids=[k[0] for k in KERNELS])
@pytest.mark.parametrize("mass", [M, GUESS, None], ids=["law", "guess", "one"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_exact_sample_stays_one(name, sampler, mass, dtype):
    """Detailed balance: of 1500 exact chains the law of every mode stays, while a third or so of the steps is refused."""
    if mass is None:
        sampler = partial(sampler, step_size=sampler.keywords["step_size"] * (0.5 if name == "hmc" else 0.35))
    start = exact(1500, dtype)
    kept = start.clone()
    chain = sampler(ENERGY, start, 4, noise=7, grad=GRAD, M=mass)
    assert torch.equal(start, kept) and chain.x.dtype is dtype
    assert 0.3 < float(chain.acceptance.mean()) < 0.97
    assert relative_rms(chain.x, start) > 0.5
    assert departure(chain.x) < 2.2


def test_one_dimension_has_a_mass_too():
    P = physics.free_propagator((24,), MASS)
    x = GaussianField(P, (24,)).sample(8, 1500, dtype=torch.float64)
    energy = lambda x: 0.5 * ((x.roll(-1, -1) - x).square() + MASS * x.square()).sum(1)
    chain = physics.hmc(energy, x, 4, 0.6, leapfrog=3, noise=1, M=physics.mass_of_spectrum(P, (24,)))
    each = torch.fft.rfft(chain.x, norm="ortho").abs().square() / P
    assert float(((each.mean(0) - 1) * math.sqrt(1500) / each.std(0)).square().mean()) < 2.5
    assert 0.5 < float(chain.acceptance.mean()) < 0.99


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(6, 4, 6), (6, 8), (24,)])
def test_a_field_is_a_mass_too(shape, dtype):
    """The covariance of a field makes its law one of unit frequencies, in three dimensions as well."""
    P = physics.free_propagator(shape, MASS)
    mass = GaussianField(P, shape)
    x = mass.sample(3, 800, dtype=dtype)
    energy, grad = physics.gaussian(mass)
    by_hand = sum((x.roll(-1, -1 - axis) - x).square() for axis in range(len(shape))) + MASS * x.square()
    assert torch.allclose(energy(x), 0.5 * by_hand.double().flatten(1).sum(1), rtol=1e-5)
    leaf = x.clone().requires_grad_()
    assert relative_rms(grad(x), torch.autograd.grad(energy(leaf).sum(), leaf)[0]) < 1e-5
    assert relative_rms(mass.covariance(grad(x)), x) < 1e-5
    settings = {"grad": grad, "M": mass, "noise": 2}
    for chain in (physics.hmc(energy, x, 4, 0.8, leapfrog=2, **settings), physics.mala(energy, x, 6, 0.3, **settings)):
        each = torch.fft.rfftn(chain.x, dim=list(range(1, 1 + len(shape))), norm="ortho").abs().square() / P
        assert float(((each.mean(0) - 1) * math.sqrt(800) / each.std(0)).square().mean()) < 2.5
        assert 0.2 < float(chain.acceptance.mean()) < 0.99
    biased = physics.ula(energy, x, 12, 0.25, **settings).x
    each = torch.fft.rfftn(biased, dim=list(range(1, 1 + len(shape))), norm="ortho").abs().square() / P
    assert abs(float(each.mean()) - 1 / (1 - 0.25 / 2)) < 0.03


def test_the_test_finds_a_wrong_law():
    """Without the decision the steps depart by far, and so does a decision by a tenth less of the energy."""
    chain = physics.ula(ENERGY, exact(1500), 8, 0.25, noise=7, grad=GRAD, M=M)
    assert departure(chain.x) > 10 and float(chain.acceptance.min()) == 1
    moved = physics.hmc(lambda x: 0.9 * ENERGY(x), exact(1500), 4, 0.9, leapfrog=2, noise=7, grad=GRAD, M=M)
    assert departure(moved.x) > 5


def test_ula_has_the_bias_it_says():
    chain = physics.ula(ENERGY, exact(2000), 15, 0.25, noise=3, grad=GRAD, M=M)
    ratio = spectrum(chain.x) / PROPAGATOR
    assert abs(float(ratio.mean()) - 1 / (1 - 0.25 / 2)) < 0.016


@pytest.mark.parametrize("mass", [M, GUESS, None], ids=["law", "guess", "one"])
def test_the_leapfrog_is_reversible_and_of_second_order(mass):
    target = Target(lambda x: action(x) + 0.1 * x.pow(4).sum((1, 2, 3)))
    start, v = target.at(exact(5)), coloured(NoiseStream(1), exact(5), mass)
    end, after, change = trajectory(target, start, v, 0.1, 10, mass)
    back, begin, reverse = trajectory(target, end, -after, 0.1, 10, mass)
    assert relative_rms(back.x, start.x) < 1e-13 and relative_rms(-begin, v) < 1e-13
    assert torch.allclose(change, -reverse, atol=1e-10)
    half = trajectory(target, start, v, 0.05, 20, mass)[2]
    quarter = trajectory(target, start, v, 0.025, 40, mass)[2]
    assert float(change.abs().max()) > 1e-4
    assert abs(float(change.norm() / half.norm()) - 4) < 0.5 and abs(float(half.norm() / quarter.norm()) - 4) < 0.2
    kinetic = (lambda w: 0.5 * w.square().sum((1, 2, 3))) if mass is None else physics.gaussian(mass)[0]
    direct = end.energy - start.energy + kinetic(after) - kinetic(v)
    assert torch.allclose(change, direct, atol=1e-10)


def test_pcn_accepts_all_of_the_prior_and_keeps_it():
    nothing = lambda x: torch.zeros(len(x), dtype=torch.float64)
    chain = physics.pcn(nothing, exact(1500), 5, 0.6, M=M, noise=2)
    assert torch.equal(chain.accepted, torch.full((1500,), 5)) and departure(chain.x) < 2.2
    moved = physics.pcn(nothing, exact(1500), 25, 0.6, M=M, mean=torch.full((1, *SHAPE), 3.0).double(), noise=2)
    assert abs(float(moved.x.mean()) - 3) < 0.05


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pcn_has_the_posterior(dtype):
    """White noise of variance s^2 beside the prior: every mode has variance `1 / (1 / P + 1 / s^2)` about its mean."""
    posterior = 1 / (1 / PROPAGATOR + 1 / 4)
    potential = lambda x: x.double().square().sum((1, 2, 3)) / 8
    chain = physics.pcn(potential, exact(1500, dtype), 30, 0.4, M=M, noise=4)
    assert 0.2 < float(chain.acceptance.mean()) < 0.9
    each = spectrum(chain.x) / posterior
    assert float(((each.mean(0) - 1) * math.sqrt(1500) / each.std(0)).square().mean()) < 2.2


ONE = Preconditioner((1, 1, 1), torch.full((1, 1, 1), 0.8))
WELL = lambda x: (x.double().pow(4) / 4 - x.double().square() / 2 - 0.3 * x.double()).flatten(1).sum(1)
ROUTES = [
    lambda x, noise: physics.hmc(WELL, x, 60, 0.4, leapfrog=5, noise=noise),
    lambda x, noise: physics.mala(WELL, x, 120, 0.15, M=ONE, noise=noise),
    lambda x, noise: physics.pcn(lambda x: WELL(x) - x.double().square().sum(1) / 2, x, 200, 0.9, noise=noise),
]


@pytest.mark.parametrize("route", ROUTES, ids=["hmc", "mala", "pcn"])
def test_a_law_that_is_not_gaussian_is_that_of_quadrature(route):
    """A double well with a slope, in 2000 chains of one point: four moments within four standard errors."""
    chain = route(NoiseStream(0).randn((2000, 1), torch.float64), NoiseStream(5))
    grid = torch.linspace(-6, 6, 20001, dtype=torch.float64)[:, None]
    weights = torch.exp(-WELL(grid))
    weights /= weights.sum()
    for moment in (lambda x: x, torch.square, lambda x: x**4, lambda x: (x > 0).double()):
        values = moment(chain.x[:, 0])
        expected = float((weights * moment(grid[:, 0])).sum())
        assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / math.sqrt(len(values))
    assert 0.3 < float(chain.acceptance.mean()) < 0.99


def test_half_turns_forget_with_jitter_alone():
    """With the mass of the law and half a turn a trajectory only changes signs."""
    run = partial(physics.hmc, ENERGY, exact(20), 15, math.pi / 30, leapfrog=30, noise=1, grad=GRAD, M=M)
    still, moved = run(jitter=0), run(jitter=0.3)
    assert relative_rms(spectrum(still.x), spectrum(exact(20))) < 0.3
    assert relative_rms(spectrum(moved.x), spectrum(exact(20))) > 0.8


def test_autograd_and_a_gradient_make_one_chain():
    run = partial(physics.hmc, start=exact(3), steps=5, step_size=0.3, noise=1, M=GUESS)
    given, found = run(ENERGY, grad=GRAD), run(action)
    assert relative_rms(found.x, given.x) < 1e-10
    with torch.inference_mode():
        assert torch.equal(run(action).x, found.x)
    with torch.no_grad():
        assert torch.equal(run(action).x, found.x)


SAMPLERS = [
    partial(physics.hmc, ENERGY, step_size=0.8, leapfrog=3, grad=GRAD),
    partial(physics.mala, ENERGY, step_size=0.4),
    partial(physics.ula, ENERGY, step_size=0.2),
    partial(physics.pcn, lambda x: x.square().sum((1, 2, 3)) / 20, step_size=0.5),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["hmc", "mala", "ula", "pcn"])
def test_a_run_goes_on_to_the_bit_and_a_chain_is_its_own(sampler):
    run = partial(sampler, M=M, observe=spectrum)
    whole = run(start=exact(4), steps=9, noise=NoiseStream(3, first_sample=0))
    kept = {}
    first = run(
        start=exact(4), steps=5, noise=3, callback=lambda c: kept.update(c.state_dict()) if c.step == 4 else None
    )
    assert first.step == 5 and kept["step"] == 4
    again = run(start=exact(4), steps=9, noise=0, resume=kept)
    assert torch.equal(again.x, whole.x) and torch.equal(again.accepted, whole.accepted)
    assert torch.equal(again.trace, whole.trace) and whole.trace.shape == (9, 4, 8, 4)
    assert int(again.noise.draw) == int(whole.noise.draw)
    alone = run(start=exact(4)[2:3], steps=9, noise=NoiseStream(3, first_sample=2))
    assert relative_rms(alone.x, whole.x[2:3]) < 1e-12
    assert torch.equal(whole.trace[-1], spectrum(whole.x))
    with pytest.raises(ValueError, match=r"resume: got a run of .* with other settings"):
        sampler(start=exact(4), steps=9, noise=0, resume={**kept, "plan": "other"})


class NothingRead(TorchDispatchMode):
    """Refuses what would wait for a GPU: a value of a tensor as a number."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["hmc", "mala", "ula", "pcn"])
def test_no_step_reads_a_value(sampler):
    start = exact(3)
    with NothingRead():
        chain = sampler(start=start, steps=4, noise=1, M=M, observe=spectrum)
        with pytest.raises(AssertionError):
            float(chain.x.sum())


@pytest.mark.parametrize("sampler", [partial(physics.hmc, leapfrog=3), physics.mala, physics.ula, physics.pcn])
def test_a_state_may_be_one_number(sampler):
    states, columns = (
        sampler(lambda x: 0.5 * x.square().reshape(3), torch.ones(3, *axes), 4, 0.3, noise=0).x for axes in ((), (1,))
    )
    assert torch.equal(states, columns[:, 0])


def test_uniform_numbers_are_those_of_philox():
    """`-ln u` of the first word of the counter (quad 0, sample, draw), as the noise contract has it."""
    x, stream = torch.zeros(50_000, 1), NoiseStream(9, first_sample=5, draw=3)
    found = exponential(stream, x)
    zero, sample = torch.zeros(1, dtype=torch.int64), torch.arange(5, 50_005)
    word = philox4x32([zero, sample, zero + 3, zero], (zero + 9, zero))[0]
    assert torch.allclose(found, -torch.log((word.double() + 0.5) / 2**32), rtol=2e-6, atol=1e-7)
    assert int(stream.draw) == 4
    ranks = torch.exp(-found).sort().values - (torch.arange(50_000) + 0.5) / 50_000
    assert float(ranks.abs().max()) < 1.63 / math.sqrt(50_000)  # Kolmogorov and Smirnov at 1 %


STUCK = [
    (lambda size: physics.hmc(ENERGY, exact(6), 25, size, noise=0, grad=GRAD), 50.0),
    (lambda size: physics.mala(ENERGY, exact(6), 25, size, noise=0, M=GUESS), 100.0),
    (lambda size: physics.pcn(lambda x: 1e4 * x.square().sum((1, 2, 3)), 0.001 * exact(6), 25, size, noise=0), 1.0),
]


@pytest.mark.parametrize(("run", "size"), STUCK, ids=["hmc", "mala", "pcn"])
def test_chains_that_never_accept_are_told_what_would(run, size):
    with pytest.warns(RejectionWarning, match="got no accepted proposal in 25 steps of 6 of 6 chains") as caught:
        chain = run(size)
    assert int(chain.accepted.sum()) == 0 and caught[0].filename == __file__
    advice = float(str(caught[0].message).split("about ")[1].split()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(run(advice).acceptance.mean()) > 0.2


def test_an_energy_that_never_can_be_accepted_is_named():
    def energy(x: Tensor) -> Tensor:  # finite at the start alone
        return torch.where((x == 0).flatten(1).all(1), 0.0, torch.nan)

    with pytest.warns(RejectionWarning, match="no step size down to .* so look at energy and grad"):
        chain = physics.mala(energy, torch.zeros(2, 3), 20, 1.0, noise=0, grad=torch.zeros_like)
    assert torch.equal(chain.x, torch.zeros(2, 3))


def test_masses_of_samples_are_those_of_the_law():
    found = physics.mass_of_samples(exact(2000))
    assert float((found.freq[0].square() / PROPAGATOR - 1).square().mean().sqrt()) < 0.04
    assert found.method == "pds" and found.provenance["samples"] == 2000
    x = exact(3)
    assert torch.allclose(ENERGY(x), action(x)) and ENERGY(x.float()).dtype is torch.float64
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(action(leaf).sum(), leaf)
    assert relative_rms(GRAD(x), expected) < 1e-13


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_autocorrelation_of_a_known_process(rho):
    z = NoiseStream(2).randn((8, 20_000), torch.float64).T
    series = [z[0]]
    for step in z[1:]:
        series.append(rho * series[-1] + math.sqrt(1 - rho**2) * step)
    found = physics.autocorrelation_time(torch.stack(series))
    expected = 0.5 * (1 + rho) / (1 - rho)
    assert abs(found.time - expected) < 4 * found.error and found.error < 0.1 * expected
    alone = physics.autocorrelation_time(torch.stack(series)[:, 0].numpy())
    assert abs(alone.time - expected) < 4 * alone.error


def test_autocorrelation_of_what_stands_still_or_is_too_short():
    for still in (1.0, 0.1, 1e5 / 3, 0.0):  # the mean of 0.1 is not 0.1
        assert physics.autocorrelation_time(torch.full((997, 3), still).double()) == (math.inf, math.inf, 0)
    white = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = physics.autocorrelation_time(white)
    for scale in (1e-170, 1e160):
        assert physics.autocorrelation_time(white * scale) == pytest.approx(expected)
    with pytest.raises(ValueError, match="trace: got 40 values, expected more"):
        physics.autocorrelation_time(torch.arange(40.0))
    for bad, message in [
        (torch.ones(3), "shape"),
        (torch.ones(9, 2, 2), "shape"),
        (torch.full((9,), torch.inf), "finite"),
    ]:
        with pytest.raises(ValueError, match=f"trace: got .*{message}"):
            physics.autocorrelation_time(bad)
    with pytest.raises(ValueError, match="c: got 0"):
        physics.autocorrelation_time(torch.ones(9), c=0)


X = torch.zeros(2, 1, *SHAPE)
HMC = partial(physics.hmc, start=X, steps=2, step_size=0.1, noise=0)
PCN = partial(physics.pcn, ENERGY, X, 2, noise=0)
BAD = [
    (
        lambda: HMC(ENERGY, grad=lambda x: x[:1]),
        ValueError,
        r"grad: got \(1, 1, 8, 6\) torch.float32 on cpu from it, expected \(2, 1, 8, 6\)",
    ),
    (lambda: HMC(ENERGY, grad=lambda x: x.double()), ValueError, "grad: got .* torch.float64"),
    (lambda: HMC(ENERGY, grad=lambda x: 0.0), TypeError, "grad: got float"),
    (
        lambda: HMC(lambda x: x.sum()),
        ValueError,
        r"energy: got \(\) torch.float32 on cpu from it, expected floats of shape \(2,\)",
    ),
    (lambda: HMC(lambda x: 1.0), TypeError, "energy: got float"),
    (lambda: HMC(lambda x: torch.zeros(2)), ValueError, "energy: got a result without a derivative"),
    (lambda: HMC(3), TypeError, "energy: got int, expected a function of x"),
    (lambda: HMC(ENERGY, grad=3), TypeError, "grad: got int, expected a function of x"),
    (lambda: HMC(ENERGY, step_size=0), ValueError, "step_size: got 0, expected a finite positive number"),
    (lambda: HMC(ENERGY, step_size=math.nan), ValueError, "step_size: got nan"),
    (lambda: HMC(ENERGY, steps=0), ValueError, "steps: got 0"),
    (lambda: HMC(ENERGY, leapfrog=0), ValueError, "leapfrog: got 0"),
    (lambda: HMC(ENERGY, jitter=1), ValueError, "jitter: got 1"),
    (lambda: HMC(ENERGY, start=[1.0]), TypeError, "start: got list"),
    (lambda: HMC(ENERGY, start=torch.zeros(2, dtype=torch.float16)), TypeError, "start: got torch.float16"),
    (lambda: HMC(ENERGY, start=torch.zeros(0, 3)), ValueError, r"start: got shape \(0, 3\)"),
    (lambda: HMC(ENERGY, M=1), TypeError, "M: got int"),
    (
        lambda: HMC(ENERGY, M=Preconditioner.identity((1, 8, 8))),
        ValueError,
        r"M: got \(1, 8, 8\) on cpu, expected \(1, 8, 6\)",
    ),
    (lambda: HMC(ENERGY, M=GaussianField(PROPAGATOR, SHAPE).filter), ValueError, "M: got a filter of method None"),
    (lambda: HMC(ENERGY, M=Preconditioner((1, 8, 6), skew=torch.zeros(1, 8, 4))), ValueError, "with a skew part"),
    (lambda: HMC(ENERGY, noise=[1, 2, 3]), ValueError, "a stream of 3 seeds"),
    (lambda: HMC(ENERGY, steps=1, observe=lambda x: x.sum()), ValueError, r"observe: got \(\) torch.float32 from it"),
    (lambda: HMC(ENERGY, hook=1), TypeError, "options: got hook, expected arguments of the sampler or observe"),
    (lambda: HMC(ENERGY, observe=lambda x: torch.ones(2) * 1j), ValueError, r"observe: got \(2,\) torch.complex64"),
    (
        lambda: HMC(ENERGY, observe=lambda x, rows=[]: torch.ones(2, len(rows.append(0) or rows))),
        ValueError,
        r"observe: got \(2, 2\) from it, expected \(2, 1\) as before",
    ),
    (lambda: HMC(ENERGY, start=X.to_sparse()), ValueError, "start: got a tensor of layout torch.sparse_coo on cpu"),
    (lambda: HMC(ENERGY, start=X.to("meta")), ValueError, "start: got a tensor of layout torch.strided on meta"),
    (lambda: HMC(ENERGY, resume=1), TypeError, "resume: got 1"),
    *(
        (
            lambda broken=broken: HMC(ENERGY, resume=HMC(ENERGY).state_dict() | broken),
            ValueError,
            r"resume: got \{.*expected a Chain.state_dict\(\) as it was",
        )
        for broken in ({"x": 3}, {"accepted": torch.zeros(1)}, {"trace": torch.zeros(9, 2)})
    ),
    (lambda: GaussianField(PROPAGATOR, SHAPE).covariance(None), ValueError, r"v: got \(\) for"),
    (
        lambda: GaussianField(lambda k: k, (4, 4, 4)).covariance(torch.ones(1, 4, 4, 4).half()),
        TypeError,
        "v: got torch",
    ),
    (lambda: GaussianField(lambda k: k, (4, 4, 4)).covariance(torch.ones(0, 4, 4, 4)), ValueError, r"v: got \(0, 4,"),
    (lambda: physics.free_propagator((4, 4, 4, 4), 1.0), ValueError, r"shape: got \(4, 4, 4, 4\)"),
    (lambda: physics.free_propagator((), 1.0), ValueError, r"shape: got \(\)"),
    (lambda: PCN(1.5), ValueError, "step_size: got 1.5, expected a number above 0 and at most 1"),
    (lambda: PCN(0.5, mean=torch.zeros(3)), ValueError, r"mean: got \(3,\) torch.float32"),
    (lambda: physics.pcn(lambda x: x, X, 2, 0.5, noise=0), ValueError, r"potential: got \(2, 1, 8, 6\)"),
    (lambda: physics.mass_of_spectrum(lambda k: k, SHAPE), ValueError, "got values down to 0, expected positive ones"),
    (lambda: physics.mass_of_spectrum(lambda k: k, (4, 4, 4)), ValueError, "spectrum: got one with values of 0"),
    (
        lambda: HMC(ENERGY, M=GaussianField(PROPAGATOR, SHAPE)),
        ValueError,
        r"M: got GaussianField.* of shape \(1, 8, 6\)",
    ),
    (lambda: physics.gaussian(GaussianField(lambda k: k, SHAPE)), ValueError, "M: got GaussianField.* power at every"),
    (lambda: GaussianField(PROPAGATOR, SHAPE).covariance(X), ValueError, r"v: got \(2, 1, 8, 6\)"),
    (
        lambda: physics.mass_of_samples(torch.ones(3, 1, 4, 4)),
        ValueError,
        "samples: got a coefficient that is the same",
    ),
    (lambda: physics.mass_of_samples(torch.ones(1, 1, 4, 4)), ValueError, r"samples: got shape \(1, 1, 4, 4\)"),
    (
        lambda: physics.gaussian(Preconditioner.identity((1, 4, 4))),
        ValueError,
        "M: got Preconditioner.*positive frequency",
    ),
    (lambda: physics.gaussian(3), TypeError, "M: got int"),
    (lambda: physics.free_propagator((4, 4), 0.0), ValueError, "mass_squared: got 0.0"),
    (lambda: physics.free_propagator((4, 0), 1.0), ValueError, r"shape: got \(4, 0\)"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_one_sentence(call, kind, message):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)
