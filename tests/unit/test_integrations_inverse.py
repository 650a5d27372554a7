"""Posterior sampling in deepinv and azula with a preconditioner: inpainting and deblurring of Gaussian fields.

With a Gaussian prior the posterior is Gaussian, and both of its moments are known from a dense linear system.
"""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any

import libraries
import pytest
import torch
from conftest import relative_rms
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner

SHAPE, SIGMA = (1, 8, 8), 0.1
KY, KX = torch.meshgrid(torch.fft.fftfreq(8), torch.fft.fftfreq(8), indexing="ij")
SPECTRUM = (1 / (0.02 + KY**2 + KX**2)).double()  # variance of each frequency of the prior, over 64
SPECTRUM = SPECTRUM / SPECTRUM.mean()


def filtered(x: Tensor, response: Tensor) -> Tensor:
    return torch.fft.ifft2(torch.fft.fft2(x) * response.to(x.dtype)).real


def problem(kind: str, deepinv: Any) -> tuple[Any, Tensor, Tensor]:
    """Physics, the share that is observed of each pixel or frequency, and the operator as a matrix."""
    if kind == "inpainting":
        mask = (torch.rand(SHAPE, generator=torch.Generator().manual_seed(4)) < 0.6).float()
        physics = deepinv.physics.Inpainting(SHAPE, mask)
        seen = mask[0].double()
    else:
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None] / 16
        physics = deepinv.physics.Blur(kernel, padding="circular")
        delta = torch.zeros(1, *SHAPE)
        delta[..., 0, 0] = 1
        seen = torch.fft.fft2(physics.A(delta))[0, 0].abs().double() ** 2
    A = physics.A(torch.eye(64).reshape(64, *SHAPE)).reshape(64, -1).T.double()
    return physics, seen, A


def posterior(A: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance given y."""
    prior = filtered(torch.eye(64, dtype=torch.float64).reshape(64, *SHAPE), 1 / SPECTRUM).reshape(64, 64)
    covariance = torch.linalg.inv(A.T @ A / SIGMA**2 + prior)
    return (covariance @ A.T @ y.double().flatten() / SIGMA**2).reshape(SHAPE), covariance


def gaussian(deepinv: Any) -> Any:
    class Gaussian(deepinv.optim.Prior):  # type: ignore[misc]
        def grad(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
            return filtered(x, 1 / SPECTRUM)

    return Gaussian()


def half(R: Tensor) -> Tensor:
    return R[None, :, : 8 // 2 + 1]


def fitted(kind: str, seen: Tensor) -> Preconditioner:
    """What the data and the prior leave open: of pixels in inpainting, of frequencies in deblurring; at most 1."""
    if kind == "inpainting":
        A = (seen / SIGMA**2 + 1).rsqrt()
        return Preconditioner.from_masks(space=(A / A.max())[None])
    R = (seen / SIGMA**2 + 1 / SPECTRUM).rsqrt()
    return Preconditioner.from_masks(half(R / R.max()), shape=SHAPE)


M = Preconditioner.from_masks(half((SPECTRUM / SPECTRUM.max()) ** 0.2), shape=SHAPE)


def observed(physics: Any) -> Tensor:
    x = filtered(torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(6)), SPECTRUM.sqrt())
    y: Tensor = physics.A(x)
    return y + SIGMA * torch.randn(y.shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("kind", ["inpainting", "deblurring"])
def test_ula_with_a_filter_finds_the_posterior_sooner(kind: str) -> None:
    deepinv = libraries.deepinv()
    from tdas_ops.integrations.deepinv import PreconditionedULAIterator

    physics, seen, A = problem(kind, deepinv)
    y = observed(physics)
    mean, covariance = posterior(A, y)
    curvature = torch.linalg.inv(covariance)
    chains = 64

    def error(M: Preconditioner) -> tuple[float, float]:
        """Of mean and standard deviations of 64 chains after 100 iterations of the largest safe step."""
        D = tdas_ops.precondition(torch.eye(64, dtype=torch.float64).reshape(64, *SHAPE), M, "MMt").reshape(64, 64)
        step = 0.5 / float(torch.linalg.eigvals(D @ curvature).real.max())
        iterator = PreconditionedULAIterator({"step_size": step, "alpha": 1.0, "sigma": 0.0}, M, NoiseStream(1))
        sampler = deepinv.sampling.BaseSampling(
            iterator, deepinv.optim.L2(sigma=SIGMA), gaussian(deepinv), max_iter=100, burnin_ratio=0.5, thinning=1
        )
        many = y.expand(chains, *y.shape[1:])
        deep = sampler.sample(many, physics, x_init=torch.zeros(chains, *SHAPE), g_statistics=lambda d: d["x"])
        deviation = (deep[1].mean(0).double() + deep[0].var(0).double()).sqrt().flatten()
        return (
            relative_rms(deep[0].mean(0), mean),
            relative_rms(deviation, covariance.diagonal().sqrt()),
        )

    plain, ours = error(Preconditioner.identity(SHAPE)), error(fitted(kind, seen))
    assert ours[0] < 0.1 and ours[1] < 0.2
    assert plain[0] > 2 * ours[0] or plain[1] > 2 * ours[1]


def test_ula_with_the_identity_is_that_of_deepinv(monkeypatch: pytest.MonkeyPatch) -> None:
    deepinv = libraries.deepinv()
    from tdas_ops.integrations.deepinv import PreconditionedULAIterator

    physics, _, _ = problem("deblurring", deepinv)
    y, params = observed(physics), {"step_size": 1e-3, "alpha": 0.7, "sigma": 0.1}
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    own = PreconditionedULAIterator(params, Preconditioner.identity(SHAPE), 5, clip=(-1.0, 2.0))
    original = deepinv.sampling.ULAIterator(params, clip=(-1.0, 2.0))
    stream = NoiseStream(5)
    monkeypatch.setattr(torch, "randn_like", stream.randn_like)
    arguments = (y.expand(3, -1, -1, -1), physics, deepinv.optim.L2(sigma=SIGMA), gaussian(deepinv))
    got, expected = {"x": x}, {"x": x}
    for i in range(4):
        got, expected = own(got, *arguments, i), original(expected, *arguments, i)
    assert relative_rms(got["x"], expected["x"]) < 1e-5
    # Alone, with the first sample of its place.
    alone = PreconditionedULAIterator(params, M, NoiseStream(5, first_sample=2))
    whole = PreconditionedULAIterator(params, M, NoiseStream(5, first_sample=0))
    part = (y, *arguments[1:])
    assert torch.equal(whole({"x": x}, *arguments, 0)["x"][2:], alone({"x": x[2:]}, *part, 0)["x"])
    with pytest.raises(ValueError, match=r"M: got a filter of shape \(1, 8, 8\), expected \(1, 4, 4\)"):
        own({"x": x[..., :4, :4]}, *arguments, 0)
    with pytest.raises(TypeError, match="M: got str, expected a Preconditioner"):
        PreconditionedULAIterator(params, "pds", 0)  # type: ignore[arg-type]


def test_euler_solver_with_the_identity_is_that_of_deepinv(monkeypatch: pytest.MonkeyPatch) -> None:
    deepinv = libraries.deepinv()
    from tdas_ops.integrations.deepinv import PreconditionedEulerSolver

    class Denoiser(deepinv.models.Denoiser):  # type: ignore[misc]
        def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
            level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
            return x / (1 + level**2)

    def sample(solver: Any, x: Tensor, **options: Any) -> Tensor:
        sde = deepinv.sampling.VarianceExplodingDiffusion(
            denoiser=Denoiser(), solver=solver, sigma_max=5.0, sigma_min=0.02, dtype=x.dtype, minus_one_one=False
        )
        made: Tensor = sde.sample(x_init=x)
        return made

    times = torch.linspace(1, 1e-3, 6)
    x = 5 * torch.randn(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    original = deepinv.sampling.EulerSolver(times)
    stream = NoiseStream(5)
    monkeypatch.setattr(original, "randn_like", lambda like, seed=None: stream.randn_like(like))
    expected = sample(original, x)
    own = PreconditionedEulerSolver(Preconditioner.identity(SHAPE), 5, times)
    got = sample(own, x)
    assert got.dtype is torch.float64 and relative_rms(got, expected) < 1e-5
    run = lambda first: sample(
        PreconditionedEulerSolver(M, NoiseStream(5, first_sample=first), times), x[first:].float()
    )
    assert torch.equal(run(0)[1:], run(1)) and relative_rms(run(0), expected) > 0.01


def azula_problem() -> tuple[Any, Any, Any]:
    pytest.importorskip("azula", reason="azula is missing; `pip install --no-deps azula einops` provides it")
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Gaussian(Denoiser):  # type: ignore[misc]
        schedule = VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            a, s = (float(part) for part in self.schedule(t))
            return DiracPosterior(mean=filtered(x_t, a * SPECTRUM / (a**2 * SPECTRUM + s**2)))

    from tdas_ops.integrations.azula import PreconditionedSampler

    return Gaussian(), PreconditionedSampler, libraries.azula()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_azula_with_the_identity_is_its_own_sampler(eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, sampler, azula = azula_problem()
    own = sampler(denoiser, Preconditioner.identity(SHAPE), 5, eta=eta, steps=12, silent=True)
    start = own.init((3, *SHAPE))
    got = own(start)
    stream = NoiseStream(5)
    monkeypatch.setattr(torch, "randn_like", stream.randn_like)
    original = azula.DDIMSampler(denoiser, eta=eta, steps=12, silent=True)
    x = original.init((3, *SHAPE))
    assert relative_rms(start, x) < 1e-6
    if eta == 0:
        assert relative_rms(azula.EulerSampler(denoiser, steps=12, silent=True)(x), got) < 1e-5
    assert relative_rms(got, original(x)) < 1e-5


def test_azula_gives_a_picture_again_in_a_shard() -> None:
    denoiser, sampler, _ = azula_problem()

    def run(count: int, first: int) -> Tensor:
        made = sampler(denoiser, M, NoiseStream(5, first_sample=first), eta=1.0, steps=8, silent=True)
        drawn: Tensor = made(made.init((count, *SHAPE), mean=0.1))
        return drawn

    assert torch.equal(run(3, 0)[1:], run(2, 1))
    with pytest.raises(ValueError, match=r"M: got a filter of shape \(1, 8, 8\), expected \(1, 4, 4\)"):
        sampler(denoiser, M, 0).init((1, 1, 4, 4))


@pytest.mark.parametrize("kind", ["inpainting", "deblurring"])
def test_azula_samples_a_posterior(kind: str) -> None:
    """MMPS, exact for Gaussians, brings the mean of many samples to that of the posterior, with a filter too."""
    denoiser, sampler, _ = azula_problem()
    from azula.guidance import MMPSDenoiser
    from azula.linalg.covariance import IsotropicCovariance

    deepinv = libraries.deepinv()
    physics, _, A = problem(kind, deepinv)
    y = observed(physics)
    mean, _ = posterior(A, y)
    many = y.expand(32, *y.shape[1:])
    guided = MMPSDenoiser(denoiser, many, physics.A, IsotropicCovariance(torch.tensor(SIGMA**2)), iterations=8)
    for M in (Preconditioner.identity(SHAPE), Preconditioner.from_masks(half(SPECTRUM**0.05), shape=SHAPE)):
        run = sampler(guided, M, NoiseStream(1), eta=1.0, steps=32, silent=True)
        assert relative_rms(run(run.init((32, *SHAPE))).mean(0), mean) < 0.2


@pytest.mark.parametrize("name", ["deepinv", "azula"])
def test_what_is_missing_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(importlib.abc.MetaPathFinder):
        def find_spec(self, module: str, path: object = None, target: object = None) -> None:
            if module.split(".")[0] == name:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for module in [each for each in sys.modules if each.split(".")[0] == name or each.endswith(f"integrations.{name}")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(ImportError, match=f"integrations.{name}: the package {name} is missing; `pip install {name}`"):
        importlib.import_module(f"tdas_ops.integrations.{name}")
