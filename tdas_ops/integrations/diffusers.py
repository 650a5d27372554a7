"""Score functions from networks of the `diffusers` package, which is needed by `load_ve` alone.

loaded = load_ve("google/ncsnpp-church-256", device="cuda")
x = tdas_ops.samplers.pc(loaded.score, (4, *loaded.shape), loaded.sde, M, noise=stream, snr=loaded.snr, iterations=200)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tdas_ops.integrations import networks
from tdas_ops.samplers import ScoreFn
from tdas_ops.sde import VE, VP, Discrete

Unet = Callable[..., Any]
"""A `diffusers.UNet2DModel`, or anything called and configured like one."""


def ve_unet(unet: Unet, *, dtype: torch.dtype | None = None, autocast: torch.dtype | None = None) -> ScoreFn:
    """The score function of a VE network (NCSN++): a `UNet2DModel` with `time_embedding_type="fourier"`.

    Such a network takes sigma as its timestep, embeds log sigma and divides its output by sigma, so the output is the
    score. Use `autocast` for half precision: its Fourier frequencies are parameters and do not survive a cast to 8 bits
    of mantissa.

    Raises:
        ValueError: a network with another time embedding.
    """
    kind = unet.config.time_embedding_type  # type: ignore[attr-defined]
    if kind != "fourier":
        raise ValueError(f"unet: got time_embedding_type {kind!r}, expected 'fourier' (vp_unet takes noise predictors)")
    return networks.ncsnpp(_output(unet), dtype=dtype, autocast=autocast)


def vp_unet(
    unet: Unet,
    sde: VP | Discrete,
    *,
    alphas_cumprod: Tensor | None = None,
    dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
) -> ScoreFn:
    """The score function of a DDPM network that predicts noise.

    Args:
        unet: the network, with a positional or learned time embedding.
        sde: for the samplers on a ladder `Discrete(scheduler.alphas_cumprod)` of its checkpoint; for `pc` the VP SDE of
            its schedule, `VP(0.1, 20)` for 1,000 linear betas from 1e-4 to 0.02.
        alphas_cumprod: beside a VP SDE that table, which makes the noise levels exact.
        dtype, autocast: see `tdas_ops.integrations.networks`.

    Raises:
        ValueError: a network with Fourier time embedding, a wrong table, or one beside `Discrete`.
    """
    if unet.config.time_embedding_type == "fourier":  # type: ignore[attr-defined]
        raise ValueError(
            "unet: got time_embedding_type 'fourier', expected 'positional' or 'learned' (ve_unet takes it)"
        )
    if isinstance(sde, Discrete):
        if alphas_cumprod is not None:
            raise ValueError("alphas_cumprod: got a table beside Discrete, which has its own, expected None")
        return networks.prediction(_output(unet), sde, "epsilon", dtype=dtype, autocast=autocast)
    return networks.ddpmpp(_output(unet), sde, alphas_cumprod=alphas_cumprod, dtype=dtype, autocast=autocast)


def ve_sde(scheduler: Any) -> VE:
    """The SDE of a `ScoreSdeVeScheduler`."""
    c = scheduler.config
    return VE(c.sigma_min, c.sigma_max, native_iterations=c.num_train_timesteps, native_end_time=c.sampling_eps)


@dataclass(frozen=True)
class Loaded:
    """A VE checkpoint: score function, SDE, snr of its corrector, and (C, H, W) of a sample in [0, 1]."""

    score: ScoreFn
    sde: VE
    snr: float
    shape: tuple[int, int, int]


def load_ve(
    name: str, *, device: torch.device | str = "cpu", autocast: torch.dtype | None = None, **options: Any
) -> Loaded:
    """A `google/ncsnpp-*` checkpoint, from the hub or from a folder.

    Args:
        name: repository or folder of a `ScoreSdeVePipeline`.
        device: where its network goes.
        autocast: torch.bfloat16 or torch.float16 for half precision.
        options: go to `from_pretrained` (revision, cache_dir, ...).

    Raises:
        ImportError: `diffusers` is not installed.
        ValueError: a checkpoint of another kind.
    """
    try:
        from diffusers import DiffusionPipeline  # type: ignore[import-not-found]
    except ImportError:
        raise ImportError("load_ve: the package diffusers is missing; `pip install diffusers` provides it") from None
    pipeline = DiffusionPipeline.from_pretrained(name, **options)
    if not hasattr(pipeline, "unet") or not hasattr(pipeline.scheduler.config, "sampling_eps"):
        raise ValueError(f"name: got {name!r}, a {type(pipeline).__name__}, expected a ScoreSdeVePipeline")
    unet = pipeline.unet.eval().requires_grad_(False).to(device)
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    shape = (unet.config.in_channels, height, width)
    scheduler = pipeline.scheduler
    return Loaded(ve_unet(unet, autocast=autocast), ve_sde(scheduler), scheduler.config.snr, shape)


def _output(unet: Unet) -> networks.Network:
    def network(x: Tensor, timestep: Tensor) -> Tensor:
        output: Tensor = unet(x, timestep, return_dict=False)[0]
        return output

    return network
