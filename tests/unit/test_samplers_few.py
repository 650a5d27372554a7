"""The samplers on a ladder of noise levels against straight transcriptions of the published formulas, in float64 with
shared noise; and where theory knows the answer: one step, the noise of a point, polynomials, orders of convergence."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from conftest import make_problem, relative_rms
from torch import Tensor

import tdas_ops
from benchmarks import published
from tdas_ops import NoiseStream, samplers
from tests.noise_contract import white_noise
from tests.unit.few_step import SDES, SHAPE, denoised, scales, score_of

LEVELS = [2.0, 1.1, 0.6, 0.3, 0.1, 0.05]


class SharedNoise:
    """Pixel noise z of one draw after the other, from the normals by an explicit DFT."""

    def __init__(self, seed: int = 5, space: bool = True) -> None:
        self.stream, self.spectral, self.draw = NoiseStream(seed), not space, 0

    def __call__(self) -> Tensor:
        g = torch.empty(*SHAPE[:-1], (SHAPE[-1] + 1) // 2, dtype=torch.complex64)
        torch.ops.tdas_ops.normals.reference(g, self.stream.seeds, torch.tensor([self.draw]), 0, self.spectral)
        self.draw += 1
        return white_noise(g.to(torch.complex128), SHAPE[-1], self.spectral)


# The published formulas; `move(x, v, d, n)` is x + d D v + n M z


def published_ancestral(x, sigmas, move, eta):
    """DDIM, arXiv 2010.02502, equation 12 with the sigma of equation 16; alpha = 1 / (1 + sigma^2)."""
    for s, t in pairwise(sigmas):
        alpha, after = 1 / (1 + s**2), 1 / (1 + t**2)
        noise = eta * math.sqrt((1 - after) / (1 - alpha)) * math.sqrt(1 - alpha / after)
        x0 = denoised(x, s)
        epsilon = (math.sqrt(alpha) * x - math.sqrt(alpha) * x0) / math.sqrt(1 - alpha)
        mean = (math.sqrt(after) * x0 + math.sqrt(1 - after - noise**2) * epsilon) / math.sqrt(after)
        x = move(x, mean - x, 1.0, noise / math.sqrt(after))
    return x


def published_ddpm(x, sigmas, move):
    """DDPM, arXiv 2006.11239, equation 7 with the posterior's variance."""
    for s, t in pairwise(sigmas):
        bar, after = 1 / (1 + s**2), 1 / (1 + t**2)
        alpha, beta = bar / after, 1 - bar / after
        state, x0 = math.sqrt(bar) * x, denoised(x, s)
        mean = (math.sqrt(after) * beta * x0 + math.sqrt(alpha) * (1 - after) * state) / (1 - bar)
        x = move(x, mean / math.sqrt(after) - x, 1.0, math.sqrt((1 - after) / (1 - bar) * beta / after))
    return x


def published_dpmpp(x, sigmas, move, order, sde):
    """DPM-Solver++, arXiv 2211.01095: of order 2 equation 9 and (SDE) section 6, of order 3 with the exponential
    integrals of a parabola through three images, by quadrature."""
    images: list[Tensor] = []
    logs = [-math.log(s) if s > 0 else math.inf for s in sigmas]
    for i, (s, t) in enumerate(pairwise(sigmas)):
        images.append(denoised(x, s))
        usable = min(order, i + 1)
        if t == 0:
            x = move(x, images[-1] - x, 1.0, 0.0)
            continue
        h, rate = logs[i + 1] - logs[i], 2 if sde else 1
        a = math.exp(-rate * h)
        if order == 2 and usable == 2:
            r = (logs[i] - logs[i - 1]) / h
            target = (1 + 1 / (2 * r)) * images[-1] - 1 / (2 * r) * images[-2]
        else:
            target = torch.zeros_like(x)
            u, w = gauss(60)
            at = logs[i] + h * u
            weight = rate * h * torch.exp(-rate * h * (1 - u)) * w / (1 - a)
            for j in range(usable):
                node = [logs[i - k] for k in range(usable)]
                basis = torch.ones_like(u)
                for k in range(usable):
                    if k != j:
                        basis = basis * (at - node[k]) / (node[j] - node[k])
                target = target + float((weight * basis).sum()) * images[-1 - j]
        x = move(x, target - x, 1 - a, t * math.sqrt(1 - math.exp(-2 * h)) if sde else 0.0)
    return x


def gauss(points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss and Legendre on [0, 1]."""
    k = torch.arange(1, points, dtype=torch.float64)
    off = k / torch.sqrt(4 * k**2 - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0] ** 2


def published_edm(x, sigmas, move, second, churn=0.0, noise=1.0, tmin=0.0, tmax=math.inf):
    """EDM, arXiv 2206.00364, algorithm 2; churn belongs to the end of the step before."""
    gamma = min(churn / (len(sigmas) - 1), math.sqrt(2) - 1)
    raised = [s * (1 + gamma) if tmin <= s <= tmax else s for s in sigmas[:-1]] + sigmas[-1:]
    kicks = [noise * math.sqrt(hat**2 - s**2) for s, hat in zip(sigmas, raised, strict=True)]
    if kicks[0] > 0:
        x = move(x, 0 * x, 0.0, kicks[0])
    for i, (hat, t) in enumerate(zip(raised, sigmas[1:], strict=False)):
        direction = (x - denoised(x, hat)) / hat
        if second and t > 0:
            tried = move(x, direction, t - hat, None)
            direction = (direction + (tried - denoised(tried, t)) / t) / 2
        x = move(x, direction, t - hat, kicks[i + 1])
    return x


CASES = {
    "ancestral": (samplers.ancestral, {}, partial(published_ancestral, eta=1.0)),
    "ancestral, DDPM": (samplers.ancestral, {}, published_ddpm),
    "ancestral, eta": (samplers.ancestral, {"eta": 0.3}, partial(published_ancestral, eta=0.3)),
    "DDIM": (samplers.ancestral, {"eta": 0.0}, partial(published_ancestral, eta=0.0)),
    "dpmpp 1": (samplers.dpmpp, {"order": 1}, partial(published_dpmpp, order=1, sde=False)),
    "dpmpp 2": (samplers.dpmpp, {}, partial(published_dpmpp, order=2, sde=False)),
    "dpmpp 3": (samplers.dpmpp, {"order": 3}, partial(published_dpmpp, order=3, sde=False)),
    "dpmpp 1, SDE": (samplers.dpmpp, {"order": 1, "eta": 1.0}, partial(published_dpmpp, order=1, sde=True)),
    "dpmpp 2, SDE": (samplers.dpmpp, {"eta": 1.0}, partial(published_dpmpp, order=2, sde=True)),
    "dpmpp 3, SDE": (samplers.dpmpp, {"order": 3, "eta": 1.0}, partial(published_dpmpp, order=3, sde=True)),
    "flow": (samplers.probability_flow, {}, partial(published_edm, second=False)),
    "heun": (samplers.heun, {}, partial(published_edm, second=True)),
    "heun, churn": (
        samplers.heun,
        {"s_churn": 1.0, "s_tmin": 0.2, "s_tmax": 1.5, "s_noise": 1.1},
        partial(published_edm, second=True, churn=1.0, noise=1.1, tmin=0.2, tmax=1.5),
    ),
    "flow, churn": (
        samplers.probability_flow,
        {"s_churn": 30.0},
        partial(published_edm, second=False, churn=30.0),
    ),
}


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", [None, "pds", "tdas"])
def test_samplers_equal_the_published_formulas(case, sde, method):
    """To 0 without a filter, to the last level with one."""
    sampler, options, transcribed = CASES[case]
    sigmas = [s for s in LEVELS if sde.sigma_min <= s <= sde.sigma_max] + ([0.0] if method is None else [])
    p = make_problem(3, SHAPE[1:], method=method or "pds", freq=method is not None, space=method is not None)
    z = SharedNoise()
    noisy = options.get("s_churn", 0) > 0 or options.get("eta", float(sampler is samplers.ancestral)) > 0

    def move(x, v, d, n):
        drawn = noisy and n is not None
        white = z() if drawn else torch.zeros_like(x)
        return published.update(x, v, p.R, p.A, d, n if drawn else 0.0, white, method or "pds")[0]

    expected = transcribed(p.x, sigmas, move)
    with tdas_ops.use_backend("reference"):
        got = sampler(
            score_of(sde),
            SHAPE,
            sde,
            None if method is None else p.M,
            noise=NoiseStream(5),
            ladder=sigmas,
            start=p.x,
            progress=False,
            **options,
        )
    assert relative_rms(got, expected) < 1e-12


# What theory knows


def field(sampler, network=None, sde=SDES["VE"], seed=1, **options):
    """A run in float64 from sigma of the ladder's first level; every state on the way."""
    start = options.pop("start", None)
    if start is None:
        start = options["ladder"][0] * make_problem(3, SHAPE[1:], seed=seed).x
    states: list[Tensor] = [start]
    sampler(
        network or score_of(sde),
        SHAPE,
        sde,
        noise=options.pop("noise", None) or NoiseStream(5),
        start=start,
        callback=lambda s: states.append(s.x.clone()),
        progress=False,
        **options,
    )
    return states


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        (samplers.ancestral, {"eta": 0.0}),
        (samplers.dpmpp, {"order": 1}),
        (samplers.dpmpp, {"order": 2}),
        (samplers.dpmpp, {"order": 3}),
        (samplers.probability_flow, {}),
        (samplers.heun, {}),
    ],
)
def test_one_image_is_reached_along_a_straight_line(sampler, options, sde):
    """The flow of a target that is a point is linear in sigma, and every method has it exactly, in any step."""
    image = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(2, 4, 5)

    def score(x, condition):
        m, s = scales(sde, float(condition[0]))
        return (m * image - x) / s**2

    ladder = [2.0, 1.0, 0.3, 0.0]
    start, *states = field(sampler, score, sde, ladder=ladder, **options)
    for sigma, x in zip(ladder[1:], states, strict=True):
        assert relative_rms(x, image + sigma / ladder[0] * (start - image)) < 1e-12


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_order_3_integrates_images_that_are_polynomials_of_log_sigma(degree, eta):
    """A parabola from the third step on, a straight line from the second."""
    parts = [make_problem(3, SHAPE[1:], seed=seed).x for seed in range(degree + 1)]
    image = lambda log: sum(part * log**k for k, part in enumerate(parts))
    score = lambda x, sigma: (image(-math.log(float(sigma[0]))) - x) / float(sigma[0]) ** 2
    ladder, (u, w) = [4.0, 2.0, 1.3, 0.5, 0.4], gauss(40)
    states = field(samplers.dpmpp, score, ladder=ladder, order=3, eta=eta, s_noise=0.0)
    for i in range(degree, 4):
        s, t = ladder[i : i + 2]
        h = math.log(s / t)
        rate = h * (1 + eta)
        mean = sum(
            rate * math.exp(-rate * (1 - at)) * weight * image(at * h - math.log(s))
            for at, weight in zip(u.tolist(), w.tolist(), strict=True)
        )
        assert relative_rms(states[i + 1], math.exp(-rate) * states[i] + mean) < 1e-12


@pytest.mark.parametrize("sampler", [samplers.ancestral, partial(samplers.dpmpp, order=1, eta=1.0)])
def test_the_noise_of_a_point_is_that_of_the_next_level(sampler):
    """Ancestral steps towards one image end at exactly sigma, whatever the steps are."""
    score = lambda x, sigma: -x / sigma.reshape(-1, 1, 1, 1) ** 2
    shape = (2000, *SHAPE[1:])
    noise = NoiseStream(3)
    for ladder in ([4.0, 1.0], [4.0, 3.0, 1.0], [4.0, 0.1]):
        x = sampler(score, shape, SDES["VE"], noise=noise, ladder=ladder, progress=False)
        assert abs(float(x.std()) / ladder[-1] - 1) < 0.02


def mixture_score(x: Tensor, sigma: Tensor) -> Tensor:
    """Of a mixture of three Gaussians in every pixel."""
    means = torch.tensor([-1.0, 0.3, 1.5], dtype=x.dtype).reshape(3, 1, 1, 1, 1)
    variances = torch.tensor([0.09, 0.04, 0.25], dtype=x.dtype).reshape(3, 1, 1, 1, 1) + sigma[0] ** 2
    away = means - x
    shares = torch.softmax(math.log(1 / 3) - away**2 / (2 * variances) - 0.5 * variances.log(), 0)
    return (shares * away / variances).sum(0)


ORDERS = {
    "flow": (samplers.probability_flow, {}, 1),
    "dpmpp 1": (samplers.dpmpp, {"order": 1}, 1),
    "dpmpp 2": (samplers.dpmpp, {"order": 2}, 2),
    "dpmpp 3": (samplers.dpmpp, {"order": 3}, 3),
    "heun": (samplers.heun, {}, 2),
}


@pytest.fixture(scope="module")
def converged() -> Tensor:
    return mixture_samples(samplers.dpmpp, 1500, order=3)


def mixture_samples(sampler, steps: int, **options) -> Tensor:
    start = 50.0 * make_problem(3, SHAPE[1:], seed=7).x
    ladder = [50.0 * (0.05 / 50.0) ** (i / steps) for i in range(steps + 1)]
    return field(sampler, mixture_score, ladder=ladder, start=start, **options)[-1]


@pytest.mark.parametrize("case", ORDERS)
def test_order_of_convergence(case, converged):
    sampler, options, order = ORDERS[case]
    coarse, fine = (relative_rms(mixture_samples(sampler, steps, **options), converged) for steps in (75, 150))
    assert abs(math.log2(coarse / fine) - order) < 0.25
