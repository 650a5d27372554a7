"""The predictors and correctors for score_sde_pytorch, beside plain formulas with the same noise."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import score_sde_interface as repository
import torch
from conftest import relative_rms
from score_sde_interface import SDE, VESDE, VPSDE, column, subVPSDE
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner
from tdas_ops.integrations import score_sde

SHAPE, SNR = (3, 2, 8, 8), 0.16


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    yield
    for registry in (repository._PREDICTORS, repository._CORRECTORS):
        for name in [name for name in registry if name != "none"]:
            del registry[name]


def pds() -> Preconditioner:
    images = torch.rand(32, *SHAPE[1:], generator=torch.Generator().manual_seed(1))
    return Preconditioner.from_images(images, alpha=2.0)


def score(x: Tensor, t: Tensor) -> Tensor:
    return (0.1 * torch.tanh(x.roll(1, -1)) - x) / column(1 + (0.01 * 5000**t) ** 2)


X = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
T = torch.tensor([1.0, 0.5, 1e-3])
N, INDEX = 40, [39, 19, 0]


def parts(sde: Any) -> tuple[Any, Any]:
    """Mean and noise scale of one step of each predictor, written out."""
    f, g = sde.discretize(X, T)
    reverse = X - (f - column(g) ** 2 * score(X, T)), g
    drift, diffusion = sde.sde(X, T)
    euler = X - (drift - column(diffusion) ** 2 * score(X, T)) / sde.N, diffusion / sde.N**0.5
    return reverse, euler


def ancestral(sde: Any) -> tuple[Tensor, Tensor]:
    if isinstance(sde, VESDE):
        s = sde.discrete_sigmas[INDEX]
        t = torch.tensor([float(sde.discrete_sigmas[i - 1]) if i else 0.0 for i in INDEX])
        return X + column(s**2 - t**2) * score(X, T), (t**2 * (s**2 - t**2) / s**2).sqrt()
    beta = sde.discrete_betas[INDEX]
    return (X + column(beta) * score(X, T)) / column(1 - beta).sqrt(), beta.sqrt()


@pytest.mark.parametrize("kind", [VESDE, VPSDE, subVPSDE])
@pytest.mark.parametrize("name", score_sde.PREDICTORS)
def test_predictors(kind: type[SDE], name: str) -> None:
    sde, M = kind(N=N), pds()
    if name == "tdas_ancestral" and kind is subVPSDE:
        score_sde.register(repository, None, 5)
        with pytest.raises(ValueError, match="tdas_ancestral: got subVPSDE, expected a VE or VP SDE"):
            repository._PREDICTORS[name](sde, score)
        return
    mean, n = {
        "tdas_reverse_diffusion": lambda: parts(sde)[0],
        "tdas_euler_maruyama": lambda: parts(sde)[1],
        "tdas_ancestral": lambda: ancestral(sde),
    }[name]()
    for preconditioner in (None, M):
        score_sde.register(repository, preconditioner, 5)
        got = repository._PREDICTORS[name](sde, score).update_fn(X, T)
        if preconditioner is None:
            expected = mean + column(n) * NoiseStream(5).randn(SHAPE), mean
        else:
            expected = tdas_ops.step(X, mean - X, M, 1.0, noise_scale=n, noise=NoiseStream(5), return_mean=True)
        assert relative_rms(got[0], expected[0]) < 1e-6 and relative_rms(got[1], expected[1]) < 1e-6


@pytest.mark.parametrize("kind", [VESDE, VPSDE, subVPSDE])
@pytest.mark.parametrize("name", score_sde.CORRECTORS)
def test_correctors(kind: type[SDE], name: str) -> None:
    sde = kind(N=N)
    alpha = torch.ones(3) if kind is VESDE else 1 - torch.linspace(0.1 / N, 20 / N, N)[INDEX]
    score_sde.register(repository, None, 5)
    got = repository._CORRECTORS[name](sde, score, SNR, 2).update_fn(X, T)
    x, stream = X, NoiseStream(5)
    for _ in range(2):
        z, grad = stream.randn(SHAPE), score(x, T)
        norm = lambda y: y.flatten(1).norm(dim=1).mean()
        if name == "tdas_langevin":
            eta = 2 * alpha * (SNR * norm(z) / norm(grad)) ** 2
        else:
            eta = 2 * alpha * (SNR * sde.marginal_prob(x, T)[1]) ** 2  # type: ignore[attr-defined]
        mean = x + column(eta) * grad
        x = mean + column((2 * eta).sqrt()) * z
    assert relative_rms(got[0], x) < 1e-5 and relative_rms(got[1], mean) < 1e-5


CONFIGURATIONS = [  # what the 39 of the repository ask for
    (VESDE, "tdas_reverse_diffusion", "tdas_langevin"),
    (VESDE, "none", "tdas_ald"),
    (VPSDE, "tdas_ancestral", "none"),
    (VPSDE, "tdas_euler_maruyama", "none"),
    (VPSDE, "tdas_reverse_diffusion", "none"),
    (subVPSDE, "tdas_euler_maruyama", "none"),
]


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_configurations_run_and_a_shard_is_its_part(case: tuple[type[SDE], str, str]) -> None:
    kind, predictor, corrector = case
    M = pds()

    def sample(shape: Any, first: int) -> Tensor:
        stream = NoiseStream(5, first_sample=first)
        score_sde.register(repository, M, stream)
        sde = score_sde.prior(kind(N=N), M, stream)
        steps = repository.get_predictor(predictor), repository.get_corrector(corrector)
        return repository.get_pc_sampler(sde, shape, *steps, lambda x: x, SNR, n_steps=2, device="cpu")(score)[0]

    whole = sample((5, *SHAPE[1:]), 0)
    assert bool(whole.isfinite().all())
    assert torch.equal(whole[3:], sample((2, *SHAPE[1:]), 3)) and torch.equal(whole[4:], sample((1, *SHAPE[1:]), 4))


def test_the_start_is_filtered_and_the_sde_is_a_copy() -> None:
    M, sde = pds(), VESDE(N=N)
    made = score_sde.prior(sde, M, NoiseStream(5))
    assert isinstance(made, VESDE) and made is not sde and "prior_sampling" not in vars(sde)
    assert torch.equal(made.prior_sampling(SHAPE), tdas_ops.noise(M, SHAPE, NoiseStream(5), 50.0))
    white = score_sde.prior(VPSDE(N=N), None, 5).prior_sampling(SHAPE)
    assert torch.equal(white, NoiseStream(5).randn(SHAPE))


def test_probability_flow_draws_nothing() -> None:
    for name in ("tdas_reverse_diffusion", "tdas_euler_maruyama"):
        score_sde.register(repository, None, 5)
        x, mean = repository._PREDICTORS[name](VESDE(N=N), score, True).update_fn(X, T)
        assert torch.equal(x, mean)
    with pytest.raises(ValueError, match="tdas_ancestral: got probability_flow=True"):
        repository._PREDICTORS["tdas_ancestral"](VESDE(N=N), score, True)


def test_what_it_refuses() -> None:
    with pytest.raises(
        TypeError, match="sampling: got SimpleNamespace without register_predictor, expected the module"
    ):
        score_sde.register(SimpleNamespace(), None, 0)
    with pytest.raises(TypeError, match="M: got str, expected a Preconditioner or None"):
        score_sde.register(repository, "pds", 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="noise: got str"):
        score_sde.register(repository, None, "0")
    with pytest.raises(ValueError, match="norm: got 'both'"):
        score_sde.register(repository, None, 0, norm="both")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sde: got int, expected an SDE of score_sde_pytorch"):
        score_sde.prior(5, None, 0)
    assert list(repository._PREDICTORS) == list(repository._CORRECTORS) == ["none"]
    score_sde.register(repository, Preconditioner.identity((2, 4, 4)), 0)
    with pytest.raises(ValueError, match=r"M: got a filter of shape \(2, 4, 4\), expected \(2, 8, 8\) \(M\.resize"):
        repository._PREDICTORS["tdas_reverse_diffusion"](VESDE(N=N), score).update_fn(X, T)
