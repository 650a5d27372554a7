"""What all samplers on a ladder of noise levels share: evaluations, resume, hooks, batches, networks that break rules;
ladders and SDEs, those of one's own included; bad input."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import make_problem, relative_rms
from torch import Tensor

from tdas_ops import NoiseStream, Preconditioner, samplers
from tdas_ops.prior import Prior
from tdas_ops.sde import VE, VP, Discrete, Marginal
from tests.unit.few_step import SDES, SHAPE, TABLE, denoised, scales, score_of

FEW = {
    "ancestral": (samplers.ancestral, {}),
    "dpmpp": (samplers.dpmpp, {}),
    "dpmpp 3, SDE": (samplers.dpmpp, {"order": 3, "eta": 1.0}),
    "heun": (samplers.heun, {"s_churn": 3.0}),
    "flow": (samplers.probability_flow, {}),
}
few = pytest.mark.parametrize(("sampler", "options"), FEW.values(), ids=FEW.keys())


def soft(x: Tensor, level: Tensor) -> Tensor:
    s = level.reshape(-1, 1, 1, 1)
    return torch.tanh(x.roll(1, -1) - 1.3 * x) / (0.3 + s) - 0.1 * x


def run(sampler, network=soft, sde=SDES["VE"], shape=SHAPE, M=None, **options) -> Tensor:
    defaults = {"noise": NoiseStream(5), "evaluations": 7, "progress": False}
    if options.get("ladder") is not None and not isinstance(options["ladder"], str):
        defaults["evaluations"] = None
    return sampler(network, shape, sde, M, **(defaults | options))


@few
@pytest.mark.parametrize("evaluations", [5, 7, 9])
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
def test_evaluations_are_counted(sampler, options, evaluations, sde):
    told: list[float] = []

    def network(x, condition):
        told.append(float(condition[0]))
        return -x

    run(sampler, network, sde, evaluations=evaluations, **options)
    assert len(told) == evaluations
    assert "s_churn" in options or told == sorted(told, reverse=True)


def test_whole_numbers_of_other_libraries():
    for evaluations in (np.int64(7), torch.tensor(7)):
        assert torch.equal(run(samplers.dpmpp, evaluations=evaluations), run(samplers.dpmpp))
    assert VE().ladder(np.int32(4)) == VE().ladder(4)


def test_evaluations_of_a_ladder_of_ones_own():
    calls: list[int] = []
    count = lambda x, level: calls.append(1) or -x
    for sampler, ladder, expected in (
        (samplers.heun, [2.0, 1.0, 0.5, 0.0], 5),
        (samplers.heun, [2.0, 1.0, 0.5], 4),
        (samplers.dpmpp, [2.0, 1.0, 0.5, 0.0], 3),
        (samplers.ancestral, torch.tensor([2.0, 1.0]), 1),
        (samplers.probability_flow, lambda n: [2.0 / k for k in range(1, n + 1)], 4),
    ):
        calls.clear()
        run(sampler, count, ladder=ladder, evaluations=expected)
        assert len(calls) == expected
        if not callable(ladder):
            calls.clear()
            run(sampler, count, ladder=ladder, evaluations=None)
            assert len(calls) == expected


@few
def test_one_evaluation_is_the_denoised_start(sampler, options):
    start, options = make_problem(3, SHAPE[1:]).x, options | ({"order": 1} if sampler is samplers.dpmpp else {})
    for sde in SDES.values():
        x = run(sampler, score_of(sde), sde, evaluations=1, start=start, **options | {"s_noise": 0.0})
        assert relative_rms(x, denoised(start, sde.sigma_max)) < 1e-11


@few
@pytest.mark.parametrize("sde", [SDES["VE"], SDES["sub-VP"]], ids=["VE", "sub-VP"])
@pytest.mark.parametrize("stop", [1, 2, -1])
def test_resume_is_bit_identical(sampler, options, sde, stop, tmp_path):
    states: list[dict] = []
    expected = run(sampler, sde=sde, callback=lambda s: states.append(s.state_dict()), **options)
    torch.save(states[stop], tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    stream = NoiseStream(99)
    assert torch.equal(run(sampler, sde=sde, resume=state, noise=stream, **options), expected)
    assert stream.state_dict() == states[-1]["noise"]


def test_what_cannot_be_resumed_is_refused():
    states: list[dict] = []
    run(samplers.dpmpp, callback=lambda s: states.append(s.state_dict()))
    message = r"^resume: got a run of 7 iterations, shape \(3, 2, 4, 5\) and 1 earlier steps, expected 7, .* and"
    for sampler, options in ((samplers.dpmpp, {"order": 3}), (samplers.ancestral, {})):
        noise = NoiseStream(3)
        with pytest.raises(ValueError, match=message):
            run(sampler, resume=states[2], noise=noise, **options)
        assert noise.state_dict() == NoiseStream(3).state_dict()
    states.clear()
    run(samplers.ancestral, callback=lambda s: states.append(s.state_dict()))
    others = (
        (samplers.probability_flow, {}),
        (samplers.ancestral, {"eta": 0.5}),
        (samplers.ancestral, {"ladder": "snr"}),
    )
    for sampler, options in others:
        noise = NoiseStream(3)
        with pytest.raises(
            ValueError, match=r"^resume: got a state of another sampler, ladder or settings, expected one"
        ):
            run(sampler, resume=states[2], noise=noise, **options)
        assert noise.state_dict() == NoiseStream(3).state_dict()
    del states[2]["plan"]  # as states had none before
    run(samplers.ancestral, resume=states[2], noise=NoiseStream(3))


@few
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
def test_inpainting_holds_the_known_part(sampler, options, sde):
    """At the noise of the level on the way, exactly at the end."""
    known, mask = torch.linspace(0, 1, 40).reshape(2, 4, 5), torch.zeros(2, 4, 5)
    mask[..., :2] = 1
    seen: list[Tensor] = []
    ladder = [2.0, 1.0, 0.1, 0.0]
    hook, shape = samplers.inpaint(known, mask), (200, *SHAPE[1:])
    more = options | ({"s_churn": 0.0} if "s_churn" in options else {})
    x = run(
        sampler, sde=sde, ladder=ladder, hook=hook, shape=shape, callback=lambda s: seen.append(s.x.clone()), **more
    )
    assert torch.equal(x[..., :2], known[..., :2].expand(200, -1, -1, -1))
    for sigma, state in zip(ladder[1:3], seen, strict=False):
        assert abs(float((state - known)[..., :2].std()) / sigma - 1) < 0.05
    assert (x[..., 2:] - known[..., 2:]).abs().max() > 0.1


@few
def test_samples_do_not_depend_on_their_batch(sampler, options):
    """With seeds and in shards, to the bit: no norm is taken over the batch."""
    whole = run(sampler, noise=NoiseStream(seeds=[3, 7, 9]), **options)
    assert torch.equal(run(sampler, noise=NoiseStream(seeds=[7]), shape=(1, *SHAPE[1:]), **options), whole[1:2])
    whole = run(sampler, **options)
    for first in (0, 1):
        part = run(sampler, noise=NoiseStream(5, first_sample=first), shape=(2, *SHAPE[1:]), **options)
        assert torch.equal(part, whole[first : first + 2])


@few
def test_check_finite_names_the_iteration(sampler, options):
    broken = lambda x, level: soft(x, level) * torch.where(level > 1, 1.0, math.nan).reshape(-1, 1, 1, 1)
    with pytest.raises(FloatingPointError, match=r"^iteration [1-7] of [47]: got non-finite values in x"):
        run(sampler, broken, check_finite=True, **options)
    assert run(sampler, broken, **options).isnan().any()


@few
def test_no_filter_is_the_identity(sampler, options):
    identity = Preconditioner.identity(SHAPE[1:])
    assert torch.equal(run(sampler, **options), run(sampler, M=identity, **options))
    count = 4 if sampler is samplers.heun else 7
    assert torch.equal(run(sampler, **options), run(sampler, M=[identity] * count, **options))
    with pytest.raises(ValueError, match=f"^M: got 3 preconditioners, expected one, or one for each of {count} iterat"):
        run(sampler, M=[identity] * 3, **options)


@few
def test_inference_mode_and_channels_last(sampler, options):
    expected = run(sampler, **options)
    with torch.inference_mode():
        assert torch.equal(run(sampler, **options), expected)
    last = lambda x, level: soft(x.contiguous(), level)
    start = expected.contiguous(memory_format=torch.channels_last)
    assert torch.equal(
        run(sampler, last, start=start, channels_last=True, **options), run(sampler, start=expected, **options)
    )


# Networks that break the rules


def in_place(x, level):
    x *= 0.5
    return -x.clone()


def hidden(x, level):
    torch.relu_(x[:1])
    return -x


ALL = [
    *(partial(run, sampler, **options) for sampler, options in FEW.values()),
    partial(run, lambda n, shape, sde, M, evaluations, **o: samplers.pc(n, shape, sde, M, iterations=4, **o)),
    partial(
        run,
        lambda n, shape, sde, M, evaluations, **o: samplers.annealed_langevin(
            n, shape, [4.0, 2.0], M, step_size=1e-3, **o
        ),
    ),
]
NAMES = [*FEW, "pc", "annealed_langevin"]


@pytest.mark.parametrize("sampler", ALL, ids=NAMES)
@pytest.mark.parametrize("network", [in_place, hidden])
@pytest.mark.parametrize("options", [{}, {"network_dtype": torch.bfloat16}], ids=["x itself", "a copy"])
def test_a_network_that_changes_x_is_refused(sampler, network, options):
    for mode in (torch.no_grad(), torch.inference_mode()):
        with (
            mode,
            pytest.raises(ValueError, match=r"^score_fn: got one that changes x in place, expected one that lea"),
        ):
            sampler(network, **options)


WRONG = {
    "a tuple": (TypeError, "got tuple from it", lambda x, level: (x,)),
    "None": (TypeError, "got NoneType from it", lambda x, level: None),
    "another shape": (ValueError, r"got \(3, 2, 4, 4\) on cpu from it", lambda x, level: x[..., 1:].clone()),
    "one sample": (ValueError, r"got \(1, 2, 4, 5\) on cpu from it", lambda x, level: x[:1].clone()),
    "another device": (ValueError, r"got \(3, 2, 4, 5\) on meta from it", lambda x, level: x.to("meta")),
    "wider": (TypeError, "got torch.float64 from it", lambda x, level: x.double()),
    "whole numbers": (TypeError, "got torch.int64 from it", lambda x, level: x.long()),
}


@pytest.mark.parametrize("sampler", ALL, ids=NAMES)
@pytest.mark.parametrize("case", WRONG)
def test_a_network_that_returns_something_else_is_refused(sampler, case):
    kind, message, network = WRONG[case]
    with pytest.raises(
        kind, match=rf"^score_fn: {message}, expected a tensor of shape \(3, 2, 4, 5\) on cpu of floats"
    ):
        sampler(network)


@few
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_of_half_precision(sampler, options, dtype):
    """The score is rounded, and nothing else is."""
    half = lambda x, level: soft(x, level).to(dtype)
    rounded = lambda x, level: half(x, level).float()
    options = options | {"ladder": [2.0, 1.0, 0.5, 0.1, 0.0]}
    got, expected = run(sampler, half, **options), run(sampler, rounded, **options)
    assert got.dtype is torch.float32 and relative_rms(got, expected) < 1e-6
    start = expected.double()
    assert run(sampler, half, start=start, **options).dtype is torch.float64


# Ladders and bad input


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
@pytest.mark.parametrize("kind", ["geometric", "karras", "time", "snr"])
@pytest.mark.parametrize("count", [1, 2, 3, 20, 100])
def test_ladders(sde, kind, count):
    ladder = sde.ladder(count, kind)
    assert len(ladder) == count and ladder[0] == sde.sigma_max and (count == 1 or ladder[-1] == sde.sigma_min)
    assert all(a > b for a, b in pairwise(ladder))
    if count > 2:
        if kind == "time":
            told = [sde.marginal(sigma).condition for sigma in ladder]
            told = [math.log(t) for t in told] if isinstance(sde, VE) else told
        else:
            told = [sigma ** (1 / 7) if kind == "karras" else math.log(sigma) for sigma in ladder]
        gaps = [a - b for a, b in pairwise(told)]
        apart = 1.001 if kind == "time" and isinstance(sde, Discrete) else 1e-9 * max(map(abs, told))
        assert max(gaps) - min(gaps) < apart


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
def test_the_level_told_is_the_level_meant(sde):
    for sigma in sde.ladder(30, "karras"):
        level = sde.marginal(sigma)
        m, s = scales(sde, level.condition)
        assert math.isclose(m, level.mean_scale, rel_tol=1e-9) and math.isclose(s, level.std, rel_tol=1e-7)
        assert math.isclose(level.std / level.mean_scale, sigma, rel_tol=1e-12)


def test_respacing_tells_whole_labels():
    sde = SDES["discrete"]
    labels = [sde.marginal(sigma).condition for sigma in sde.ladder(11, "time")]
    assert labels == [999, 899, 799, 699, 599, 500, 400, 300, 200, 100, 0]
    for label, sigma in zip(labels, sde.ladder(11, "time"), strict=True):
        alpha = float(TABLE[int(label)])
        assert math.isclose(sigma, math.sqrt((1 - alpha) / alpha), rel_tol=1e-12)


def test_parts_of_a_ladder():
    sde = SDES["VE"]
    part = sde.ladder(5, "karras", sigma_max=2.0, sigma_min=0.1, rho=3.0)
    assert part[0] == 2.0 and part[-1] == 0.1
    assert math.isclose(part[2] ** (1 / 3), (2.0 ** (1 / 3) + 0.1 ** (1 / 3)) / 2)
    x = run(samplers.dpmpp, ladder=part, start=torch.ones(SHAPE))
    assert torch.equal(x, run(samplers.dpmpp, ladder=torch.tensor(part, dtype=torch.float64), start=torch.ones(SHAPE)))


class Own:
    """An SDE of one's own: what `sde.NoiseLevels` describes and no more."""

    sigma_min, sigma_max = 0.1, 4.0

    def marginal(self, sigma: float) -> Marginal:
        return Marginal(10 * sigma, 0.5, 0.5 * sigma)

    def ladder(self, count: int, kind: str) -> list[float]:
        return [4.0 / (1 + i) for i in range(count)]


@few
def test_an_sde_of_ones_own(sampler, options):
    ve, own = (lambda x, c: soft(x, c)), (lambda x, c: 2 * soft(2 * x, c / 10))
    options = options | {"s_tmax": 1.9} if "s_churn" in options else options
    ladder = [*Own().ladder(4, "any"), 0.0]
    expected = run(sampler, ve, ladder=ladder, **options)
    got = run(sampler, own, Own(), evaluations=7 if sampler is samplers.heun else 4, ladder="karras", **options)
    assert relative_rms(got, expected) < 1e-5


def test_churn_stays_within_the_levels_of_the_network():
    told: list[float] = []
    network = lambda x, level: told.append(float(level[0])) or -x / level.reshape(-1, 1, 1, 1) ** 2
    for sampler in (samplers.heun, samplers.probability_flow):
        run(sampler, network, s_churn=100.0)
        assert max(told) <= 50.0 * (1 + 1e-6) and not math.isclose(told[1], 50.0)
        told.clear()


BAD = {
    "rises": ("ladder: got 2 after 1, expected noise levels that fall", {"ladder": [1.0, 2.0]}),
    "repeats": ("ladder: got 1 after 1, expected noise levels that fall", {"ladder": [2.0, 1.0, 1.0, 0.0]}),
    "below 0": ("ladder: got noise levels from 2 to -1, expected levels from 50", {"ladder": [2.0, -1.0]}),
    "nan": ("ladder: got noise levels that are not finite", {"ladder": [2.0, math.nan, 0.0]}),
    "inf": ("ladder: got noise levels that are not finite", {"ladder": [math.inf, 1.0, 0.0]}),
    "empty": ("ladder: got 0 noise levels, expected at least two", {"ladder": []}),
    "one": ("ladder: got 1 noise levels, expected at least two", {"ladder": [1.0]}),
    "above": ("ladder: got noise levels from 51 to 1, expected levels from 50 to 0.01", {"ladder": [51.0, 1.0]}),
    "below": ("ladder: got noise levels from 1 to 0.001, expected levels", {"ladder": [1.0, 0.001, 0.0]}),
    "kind": ("ladder: got 'cosine', expected one of geometric, karras, time, snr", {"ladder": "cosine"}),
    "none": ("evaluations: got None, expected a positive integer", {"evaluations": None}),
    "no step": ("evaluations: got 0, expected a positive integer", {"evaluations": 0}),
    "half": ("evaluations: got 7.5, expected a positive integer", {"evaluations": 7.5}),
    "true": ("evaluations: got True, expected a positive integer", {"evaluations": True}),
    "what": ("ladder: got int, expected the name of a kind, a sequence of numbers or a function", {"ladder": 3}),
    "texts": ("ladder: got list, expected the name of a kind, a sequence", {"ladder": ["high", "low"]}),
    "square": ("ladder: got Tensor, expected the name of a kind", {"ladder": torch.ones(2, 2)}),
    "sde": ("sde: got str, expected VE, VP, SubVP, Discrete or what sde.NoiseLevels describes", {"sde": "VP"}),
    "class": (r"sde: got the class VP, expected an object of it, such as VP\(...\)", {"sde": VP}),
    "state": (r"resume: got \{\}, expected a State.state_dict\(\)", {"resume": {}}),
    "no state": (r"resume: got 3, expected a State.state_dict\(\)", {"resume": 3}),
    "array": ("start: got ndarray, expected float32", {"start": torch.zeros(SHAPE).numpy()}),
    "count": ("evaluations: got 9 beside a ladder of 2 steps", {"ladder": [2.0, 1.0, 0.0], "evaluations": 9}),
    "s_noise": ("s_noise: got -1.0, expected a number from 0 to 10", {"s_noise": -1.0}),
    "option": ("options: got evaluation, expected arguments of the sampler or start, hook", {"evaluation": 3}),
    "M": ("M: got int, expected a Preconditioner", {"M": 3}),
    "noise": ("noise: got str, expected a NoiseStream", {"noise": "seed"}),
    "bfloat16": ("start: got torch.bfloat16, expected float32", {"start": torch.zeros(SHAPE, dtype=torch.bfloat16)}),
    "start": (r"start: got \(1, 2, 4, 5\) on cpu, expected", {"start": torch.zeros(1, 2, 4, 5)}),
}
PRIOR = Prior(torch.zeros(SHAPE[1:]), basis="mean")
OWN = {
    "even": ("evaluations: got 8, expected an odd number: two a step", samplers.heun, {"evaluations": 8}),
    "churn": ("s_churn: got -1, expected a finite number that is not", samplers.heun, {"s_churn": -1}),
    "infinite churn": ("s_churn: got inf, expected a finite number", samplers.probability_flow, {"s_churn": math.inf}),
    "limits": (r"s_tmin, s_tmax: got \(2, 1\), expected 0 <= first", samplers.heun, {"s_tmin": 2, "s_tmax": 1}),
    "eta": ("eta: got 1.5, expected a number from 0 to 1", samplers.ancestral, {"eta": 1.5}),
    "eta below": ("eta: got -0.1, expected a number from 0 to 1", samplers.dpmpp, {"eta": -0.1}),
    "eta text": ("eta: got str, expected a number from 0 to 1", samplers.dpmpp, {"eta": "high"}),
    "churn text": ("s_churn: got str, expected a finite number", samplers.heun, {"s_churn": "high"}),
    "eta nan": ("eta: got nan, expected a number from 0 to 1", samplers.dpmpp, {"eta": math.nan}),
    "order": ("order: got 4, expected 1, 2 or 3 and at most the number of steps, 7", samplers.dpmpp, {"order": 4}),
    "order 2.0": (r"order: got 2\.0, expected 1, 2 or 3", samplers.dpmpp, {"order": 2.0}),
    "share text": ("share: got str, expected a number from 0 to 1", samplers.ancestral, {"share": "all"}),
    "share nan": ("share: got nan, expected a number from 0 to 1", samplers.dpmpp, {"share": math.nan}),
    "limit text": ("s_tmin: got str, expected a number", samplers.heun, {"s_tmin": "low"}),
    "filters": ("M: got int, expected a Preconditioner or", samplers.ancestral, {"M": 3, "covariance": PRIOR}),
    "filter": ("M: got int, expected a Preconditioner or", samplers.dpmpp, {"M": [3], "prior": PRIOR}),
    "order 0": ("order: got 0, expected 1, 2 or 3", samplers.dpmpp, {"order": 0}),
    "order 2": ("order: got 2, .* at most the number of steps, 1", samplers.dpmpp, {"evaluations": 1}),
    "order 3": ("order: got 3, .* number of steps, 2", samplers.dpmpp, {"ladder": [2.0, 1.0, 0.0], "order": 3}),
}


@few
@pytest.mark.parametrize("case", BAD)
def test_bad_input_of_all(sampler, options, case):
    refused(sampler, BAD[case][0], options | BAD[case][1])


@pytest.mark.parametrize("case", OWN)
def test_bad_input_of_one(case):
    message, sampler, options = OWN[case]
    refused(sampler, message, options)


def refused(sampler, message: str, options: dict) -> None:
    """Before the first evaluation, and without a draw."""
    calls: list[int] = []
    noise = options.pop("noise", None) or NoiseStream(5)
    with pytest.raises((ValueError, TypeError), match=f"^{message}") as error:
        run(sampler, lambda x, level: calls.append(1) or -x, noise=noise, **options)
    assert "\n" not in str(error.value) and not calls
    if isinstance(noise, NoiseStream):
        assert noise.state_dict() == NoiseStream(5).state_dict()


SDE_BAD = {
    r"VP: got beta_min, beta_max = \(2.0, 1.0\), expected 0 < first <= second": lambda: VP(2.0, 1.0),
    "VE: got sigma_min, sigma_max": lambda: VE(1.0, 1.0),
    "alphas_cumprod: got 1 numbers, expected two or more that fall": lambda: Discrete([0.5]),
    "alphas_cumprod: got 2 numbers, expected two or more that fall": lambda: Discrete([0.4, 0.5]),
    "alphas_cumprod: got 3 numbers": lambda: Discrete(torch.tensor([0.9, 0.5, math.nan])),
    "count: got 0, expected a positive integer": lambda: VE().ladder(0),
    r"ladder: got sigma_max, sigma_min = \(60, 0.01\), expected falling": lambda: VE().ladder(3, sigma_max=60.0),
    r"ladder: got sigma_max, sigma_min = \(1, 2\), expected": lambda: VP().ladder(3, sigma_max=1.0, sigma_min=2.0),
    r"ladder: got sigma_max, sigma_min = \(nan": lambda: VP().ladder(3, sigma_max=math.nan),
    "rho: got 0.5, expected a finite number of at least 1": lambda: VE().ladder(3, rho=0.5),
}


@pytest.mark.parametrize("message", SDE_BAD)
def test_bad_ladders_and_sdes(message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SDE_BAD[message]()
