"""The samplers on a ladder against those of k-diffusion and the schedulers of diffusers, with the same noise."""

from __future__ import annotations

import math
import sys
from typing import Any

import libraries
import pytest
import torch
from conftest import relative_rms
from torch import Tensor

from tdas_ops import NoiseStream, samplers
from tdas_ops.integrations import networks
from tdas_ops.sde import VE, Discrete
from tests.noise_contract import white_noise

SHAPE = (3, 2, 4, 6)
DISCRETE = Discrete(torch.cumprod(1 - torch.linspace(0.0001, 0.02, 1000), 0).double())


class Shared:
    """The noise that the package draws, one draw after the other."""

    def __init__(self, draw: int = 0) -> None:
        self.stream, self.draw = NoiseStream(5), draw

    def __call__(self, *_: Any, **__: Any) -> Tensor:
        g = torch.empty(*SHAPE[:-1], SHAPE[-1] // 2, dtype=torch.complex64)
        torch.ops.tdas_ops.normals.reference(g, self.stream.seeds, torch.tensor([self.draw]), 0, False)
        self.draw += 1
        return white_noise(g.to(torch.complex128), SHAPE[-1], False).float()


def start() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


# k-diffusion


@pytest.fixture
def k_diffusion():
    return libraries.k_diffusion()


def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.tanh(x.roll(1, -1) - 0.3 * x) * (1 + 0.2 * sigma.log().reshape(-1, 1, 1, 1))


def line(x: Tensor, sigma: Tensor) -> Tensor:
    """An image that is linear in log sigma: its second difference is 0, of which k-diffusion takes half."""
    return 0 * x + 0.5 - 0.3 * sigma.log().reshape(-1, 1, 1, 1)


K_DIFFUSION = {
    "euler": (samplers.probability_flow, {}, "sample_euler", {}),
    "euler, churn": (samplers.probability_flow, {"s_churn": 2.0, "s_tmax": 5.0}, "sample_euler", {}),
    "euler_ancestral": (samplers.ancestral, {}, "sample_euler_ancestral", {}),
    "euler_ancestral, eta": (samplers.ancestral, {"eta": 0.4, "s_noise": 1.1}, "sample_euler_ancestral", {}),
    "heun": (samplers.heun, {}, "sample_heun", {}),
    "heun, churn": (
        samplers.heun,
        {"s_churn": 2.0, "s_tmin": 0.2, "s_tmax": 5.0, "s_noise": 1.01},
        "sample_heun",
        {},
    ),
    "dpmpp_2m": (samplers.dpmpp, {}, "sample_dpmpp_2m", {}),
    "dpmpp_2m_sde": (samplers.dpmpp, {"eta": 1.0}, "sample_dpmpp_2m_sde", {}),
    "dpmpp_2m_sde, eta": (samplers.dpmpp, {"eta": 0.4, "s_noise": 0.9}, "sample_dpmpp_2m_sde", {}),
    "dpmpp_3m_sde": (samplers.dpmpp, {"eta": 1.0}, "sample_dpmpp_3m_sde", {"order": 3}),
    "dpmpp_3m": (samplers.dpmpp, {"eta": 0.0}, "sample_dpmpp_3m_sde", {"order": 3}),
}


@pytest.mark.parametrize("case", K_DIFFUSION)
def test_k_diffusion(case, k_diffusion, monkeypatch):
    sampler, options, name, own = K_DIFFUSION[case]
    network = line if own else denoiser
    sigmas = k_diffusion.get_sigmas_karras(8, 0.05, 10.0)
    torch.testing.assert_close(sigmas, torch.tensor([*VE(0.05, 10.0).ladder(8, "karras"), 0.0]))
    z, takes_noise = Shared(), not name.endswith(("euler", "heun", "2m"))
    # Churn is drawn with the step before, so that the first step's is at a level without any.
    noises = [torch.zeros(SHAPE), *(z() for _ in range(8))]
    monkeypatch.setattr(torch, "randn_like", lambda x: noises.pop(0))
    more = {"noise_sampler": z} if takes_noise else {}
    z.draw = 0
    x = sigmas[0] * start()
    expected = getattr(k_diffusion, name)(network, x, sigmas, disable=True, **options, **more)
    score = networks.prediction(network, VE(0.05, 10.0), "sample")
    got = sampler(
        score,
        SHAPE,
        VE(0.01, 20.0),
        noise=NoiseStream(5),
        start=x,
        ladder=sigmas,
        progress=False,
        **options,
        **own,
    )
    assert relative_rms(got, expected) < 1e-5


# diffusers


def epsilon(x: Tensor, label: Tensor) -> Tensor:
    """Noise of a network that knows its label."""
    return 0.8 * x - 0.3 * torch.tanh(x.roll(1, -1)) * (1 + label.reshape(-1, 1, 1, 1) / 1000)


def scheduled(
    name: str, steps: Any, step: dict[str, Any], config: dict[str, Any]
) -> tuple[Tensor, Tensor, list[float]]:
    """Start, sample and noise levels of a scheduler with the network `epsilon`."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, name)(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", **config)
    scheduler.set_timesteps(**steps) if isinstance(steps, dict) else scheduler.set_timesteps(steps)
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None:
        sigmas = [*(DISCRETE.sigma(int(t)) for t in scheduler.timesteps), 0.0]
    sigmas = list(dict.fromkeys(float(s) for s in sigmas))
    y = sigmas[0] * start()
    x = y if name.startswith(("Euler", "Heun")) else y / math.hypot(1.0, sigmas[0])
    for t in scheduler.timesteps:
        output = epsilon(scheduler.scale_model_input(x, t), torch.full((3,), float(t)))
        x = scheduler.step(output, t, x, **step).prev_sample
    return y, x, sigmas


DIFFUSERS = {
    "Euler": (samplers.probability_flow, {}, "EulerDiscreteScheduler", 10, {}, {}),
    "Euler, ancestral": (samplers.ancestral, {}, "EulerAncestralDiscreteScheduler", 10, {}, {}),
    "Heun": (samplers.heun, {}, "HeunDiscreteScheduler", 10, {}, {}),
    "DDPM": (
        samplers.ancestral,
        {},
        "DDPMScheduler",
        {"timesteps": [999, 700, 500, 300, 100, 20]},
        {},
        {"variance_type": "fixed_small", "clip_sample": False},
    ),
    "DDIM": (
        samplers.ancestral,
        {"eta": 0.0},
        "DDIMScheduler",
        10,
        {},
        {"clip_sample": False, "timestep_spacing": "leading"},
    ),
    "DDIM, eta": (
        samplers.ancestral,
        {"eta": 0.6},
        "DDIMScheduler",
        10,
        {"eta": 0.6},
        {"clip_sample": False, "timestep_spacing": "leading"},
    ),
    "DPM-Solver++ 1": (samplers.dpmpp, {"order": 1}, "DPMSolverMultistepScheduler", 9, {}, {"solver_order": 1}),
    "DPM-Solver++ 2": (samplers.dpmpp, {}, "DPMSolverMultistepScheduler", 9, {}, {}),
    "DPM-Solver++ 1, SDE": (
        samplers.dpmpp,
        {"order": 1, "eta": 1.0},
        "DPMSolverMultistepScheduler",
        9,
        {},
        {"solver_order": 1, "algorithm_type": "sde-dpmsolver++"},
    ),
    "DPM-Solver++ 2, SDE": (
        samplers.dpmpp,
        {"eta": 1.0},
        "DPMSolverMultistepScheduler",
        9,
        {},
        {"algorithm_type": "sde-dpmsolver++"},
    ),
}


@pytest.mark.parametrize("case", DIFFUSERS)
def test_diffusers(case, monkeypatch):
    sampler, options, name, steps, step, config = DIFFUSERS[case]
    diffusers = pytest.importorskip("diffusers")
    module = sys.modules[getattr(diffusers, name).__module__]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", Shared())
    y, expected, sigmas = scheduled(name, steps, step, config)
    score = networks.prediction(epsilon, DISCRETE, "epsilon")
    got = sampler(score, SHAPE, DISCRETE, noise=NoiseStream(5), start=y, ladder=sigmas, progress=False, **options)
    assert relative_rms(got, expected) < 1e-5
