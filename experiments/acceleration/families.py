"""Three families of score networks in their published parametrisation, all on one small U-Net.

| name | SDE or levels | the network predicts | told | sampler |
|---|---|---|---|---|
| ncsnpp | VE, sigma 0.01 to 50 | sigma * score | log sigma | predictor-corrector, native 1000 iterations |
| ncsnv2 | 200 levels, sigma 50 to 0.01 | sigma * score | nothing | annealed Langevin, native 200 levels of 5 steps |
| ddpmpp | VP, beta 0.1 to 20 | the noise | t | Euler-Maruyama predictor alone, native 1000 iterations |

The U-Net is that of the embedded model without its denoiser scaling: its inputs have the scale of the noise, as in
NCSN++ (Song et al., arXiv 2011.13456), and nothing but training holds the network to the noise levels of its ladder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from experiments.acceleration.principal import PrincipalDenoiser
from tdas_ops import samplers
from tdas_ops.calibrate import PC, AnnealedLangevin, Run
from tdas_ops.integrations import networks
from tdas_ops.models.unet import ScoreUNet, UNet
from tdas_ops.noise import NoiseStream
from tdas_ops.samplers import ScoreFn
from tdas_ops.sde import VE, VP

LANGEVIN_STEPS = 5
WEIGHTS = Path("build/acceleration/weights")
Noised = tuple[Tensor, Tensor, Tensor]


class Denoiser(ScoreUNet):
    """A denoiser in the place of the U-Net of "ncsnpp": told log sigma, it puts out sigma * score as that does."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        sigma = label.exp()
        return sigma.reshape(-1, 1, 1, 1) * super().forward(x, sigma)


def network_of(config: dict[str, Any]) -> UNet | PrincipalDenoiser:
    """An untrained network from its arguments, by which it is known what kind it is."""
    if "components" in config:
        return PrincipalDenoiser(**config)
    return Denoiser(**config) if "sigma_data" in config else UNet(**config)


def weights_of(name: str, folder: Path) -> Path:
    """The weights of a network "DATA-FAMILY"."""
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        raise SystemExit(f"weights: {file} is missing; experiments/acceleration/README.md says how to have it")
    return file


def load_network(path: Path, device: torch.device | str = "cpu") -> tuple[UNet | PrincipalDenoiser, dict[str, str]]:
    """A network from the weights that `train` wrote, for sampling, and what they say about themselves."""
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    config = json.loads(about["config"])
    network = network_of(config)
    network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    network = network.eval().requires_grad_(False)
    return network.to(device, memory_format=torch.channels_last), about  # type: ignore[call-overload]


@dataclass(frozen=True)
class Family:
    """What differs between the families.

    Attributes:
        name: what the commands call it.
        native: iterations of plain sampling as published, what speed-ups refer to.
        centred: the network works on images in [-1, 1] rather than [0, 1].
        fewest: iterations that the sampler can do with.
    """

    name: str
    native: int
    centred: bool
    fewest: int = 2

    def encode(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the network's data."""
        return 2 * images - 1 if self.centred else images

    def decode(self, samples: Tensor) -> Tensor:
        """Samples as images, not clamped."""
        return (samples + 1) / 2 if self.centred else samples

    def levels(self, u: Tensor) -> Noised:
        """Noise levels for training at u `[B]`, uniform in [0, 1): what the score function is told, and the mean scale
        and standard deviation of `x = mean_scale x0 + std z`."""
        raise NotImplementedError

    def score(self, network: nn.Module, autocast: torch.dtype | None = None) -> ScoreFn:
        """The score function of a network."""
        raise NotImplementedError

    def run(self, iterations: int) -> Run:
        """The sampler as filters are calibrated for it."""
        raise NotImplementedError

    def sample(
        self, score: ScoreFn, shape: Sequence[int], M: Any, iterations: int, noise: NoiseStream, progress: bool = False
    ) -> Tensor:
        """Samples in the network's range; one evaluation an iteration, "ncsnpp" two."""
        raise NotImplementedError


class _Predicted(Family):
    """Families that sample with a predictor, and a corrector before it."""

    sde: VE | VP
    snr = 0.16
    predictor: Literal["reverse_diffusion", "euler_maruyama"] = "reverse_diffusion"
    corrector_steps = 1

    def run(self, iterations: int) -> Run:
        return PC(self.sde, iterations, self.snr, self.predictor, self.corrector_steps)

    def sample(
        self, score: ScoreFn, shape: Sequence[int], M: Any, iterations: int, noise: NoiseStream, progress: bool = False
    ) -> Tensor:
        steps = {"snr": self.snr, "predictor": self.predictor, "corrector_steps": self.corrector_steps}
        return samplers.pc(score, shape, self.sde, M, noise=noise, iterations=iterations, progress=progress, **steps)


class NCSNpp(_Predicted):
    sde = VE(sigma_min=0.01, sigma_max=50.0, native_iterations=1000)

    def levels(self, u: Tensor) -> Noised:
        sigma = torch.exp(math.log(self.sde.sigma_min) + u * math.log(self.sde.sigma_max / self.sde.sigma_min))
        return sigma, torch.ones_like(sigma), sigma

    def score(self, network: nn.Module, autocast: torch.dtype | None = None) -> ScoreFn:
        return networks.ncsnpp(network, log_sigma=True, divide=True, autocast=autocast)


class NCSNv2(Family):
    sigma_max, sigma_min = 50.0, 0.01

    def ladder(self, iterations: int) -> list[float]:
        """The noise levels of a run of that many Langevin steps, from large to small."""
        count = max(2, round(iterations / LANGEVIN_STEPS))
        ratio = (self.sigma_min / self.sigma_max) ** (1 / (count - 1))
        return [self.sigma_max * ratio**i for i in range(count)]

    def levels(self, u: Tensor) -> Noised:
        ladder = torch.tensor(self.ladder(self.native), device=u.device)
        sigma = ladder[(u * len(ladder)).long().clamp_max(len(ladder) - 1)]
        return sigma, torch.ones_like(sigma), sigma

    def score(self, network: nn.Module, autocast: torch.dtype | None = None) -> ScoreFn:
        return networks.ncsnv2(network, autocast=autocast)

    def run(self, iterations: int) -> Run:
        sigmas = self.ladder(iterations)
        return AnnealedLangevin(sigmas, samplers.ncsnv2_step_size(sigmas, LANGEVIN_STEPS), LANGEVIN_STEPS)

    def sample(
        self, score: ScoreFn, shape: Sequence[int], M: Any, iterations: int, noise: NoiseStream, progress: bool = False
    ) -> Tensor:
        sigmas = self.ladder(iterations)
        return samplers.annealed_langevin(score, shape, sigmas, M, noise=noise, steps=LANGEVIN_STEPS, progress=progress)


class DDPMpp(_Predicted):
    sde = VP(beta_min=0.1, beta_max=20.0, native_iterations=1000)
    first_time = 1e-5
    predictor = "euler_maruyama"
    corrector_steps = 0

    def levels(self, u: Tensor) -> Noised:
        t = self.first_time + u * (1 - self.first_time)
        log_mean: Tensor = self.sde.log_mean(t)  # type: ignore[arg-type, assignment]  # plain arithmetic
        return t, log_mean.exp(), (-torch.expm1(2 * log_mean)).sqrt()

    def score(self, network: nn.Module, autocast: torch.dtype | None = None) -> ScoreFn:
        # The label spans as much as log sigma does, for which the frequencies of the Fourier features were chosen.
        return networks.ddpmpp(network, self.sde, label_scale=8.0, autocast=autocast)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        NCSNpp("ncsnpp", native=1000, centred=False),
        NCSNv2("ncsnv2", native=1000, centred=False),
        DDPMpp("ddpmpp", native=1000, centred=True, fewest=21),
    )
}
