"""Score functions from networks of the `diffusers` package, and its VE scheduler and pipeline with a preconditioner.

`load_ve` and `load_vp` make a `Loaded` of a checkpoint: its score, SDE, shape and range, for any of `samplers`.
`docs/integrations/diffusers.md` shows them at work.

diffusers itself is needed by `load_ve`, `load_vp`, `PreconditionedScoreSdeVeScheduler` and
`PreconditionedScoreSdeVePipeline` (of the module `score_sde_ve`) alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

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


def vp_sde(scheduler: Any, kind: Literal["discrete", "continuous"] = "discrete") -> VP | Discrete:
    """The SDE of a scheduler of a DDPM network.

    Args:
        scheduler: one with `alphas_cumprod`, such as `DDPMScheduler`.
        kind: "discrete" is the chain of its noise levels, for the samplers on a ladder; "continuous" the VP SDE that
            linear betas tend to, for `pc`.

    Raises:
        ValueError: a scheduler without such a table, or betas that are not linear for "continuous".
    """
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        raise ValueError(f"scheduler: got {type(scheduler).__name__}, expected one with alphas_cumprod (DDPM, DDIM)")
    if kind == "discrete":
        return Discrete(table)
    c = scheduler.config
    if kind != "continuous" or c.beta_schedule != "linear" or c.trained_betas is not None:
        got = f"{kind!r} with beta_schedule {c.beta_schedule!r}"
        raise ValueError(f"kind: got {got}, expected 'discrete', or 'continuous' with 'linear'")
    count = c.num_train_timesteps
    return VP(c.beta_start * count, c.beta_end * count, native_iterations=count)


@dataclass(frozen=True)
class Loaded:
    """A checkpoint as the samplers take it.

    Attributes:
        score, sde: what it says and of which SDE.
        snr: of the corrector of `pc`.
        shape: (C, H, W) of a sample.
        low: the value of black; white is 1. A VE network has 0, a DDPM network -1.
    """

    score: ScoreFn
    sde: VE | VP | Discrete
    snr: float
    shape: tuple[int, int, int]
    low: float = 0.0

    def images(self, x: Tensor) -> Tensor:
        """Samples as images, clamped to [0, 1]."""
        return ((x - self.low) / (1 - self.low)).clamp(0, 1)


def from_pipeline(
    pipeline: Any,
    *,
    sde: Literal["discrete", "continuous"] = "discrete",
    autocast: torch.dtype | None = None,
) -> Loaded:
    """What the samplers need of a pipeline, where its network is.

    Args:
        pipeline: a `ScoreSdeVePipeline`, or one of a `UNet2DModel` with a scheduler that has `alphas_cumprod`, such as
            `DDPMPipeline` and `DDIMPipeline`.
        sde: for the latter which SDE, see `vp_sde`; `pc` takes the continuous one.
        autocast: torch.bfloat16 or torch.float16 for half precision.

    Raises:
        ValueError: another pipeline, or a network that predicts something unknown.
    """
    if not hasattr(pipeline, "unet") or not hasattr(pipeline, "scheduler") or hasattr(pipeline, "text_encoder"):
        got = type(pipeline).__name__
        raise ValueError(f"pipeline: got a {got}, expected a ScoreSdeVePipeline, DDPMPipeline or DDIMPipeline")
    unet, scheduler = pipeline.unet.eval().requires_grad_(False), pipeline.scheduler
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    shape = (unet.config.in_channels, height, width)
    if hasattr(scheduler.config, "sampling_eps"):
        return Loaded(ve_unet(unet, autocast=autocast), ve_sde(scheduler), scheduler.config.snr, shape)
    law = vp_sde(scheduler, sde)
    if isinstance(law, Discrete):
        kind = scheduler.config.prediction_type
        score = networks.prediction(_output(unet), law, kind, autocast=autocast)
    else:
        if scheduler.config.prediction_type != "epsilon":
            got = scheduler.config.prediction_type
            raise ValueError(f"sde: got 'continuous' with prediction_type {got!r}, expected 'epsilon'")
        score = vp_unet(unet, law, alphas_cumprod=scheduler.alphas_cumprod, autocast=autocast)
    return Loaded(score, law, 0.16, shape, low=-1.0)


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
    pipeline = _pipeline("load_ve", name, device, options)
    if not hasattr(pipeline, "unet") or not hasattr(pipeline.scheduler.config, "sampling_eps"):
        raise ValueError(f"name: got {name!r}, a {type(pipeline).__name__}, expected a ScoreSdeVePipeline")
    return from_pipeline(pipeline, autocast=autocast)


def load_vp(
    name: str,
    *,
    sde: Literal["discrete", "continuous"] = "discrete",
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    **options: Any,
) -> Loaded:
    """A `google/ddpm-*` checkpoint, from the hub or from a folder.

    Args:
        name: repository or folder of a `DDPMPipeline` or `DDIMPipeline`.
        sde: "discrete" for the samplers on a ladder, "continuous" for `pc`.
        device, autocast, options: as in `load_ve`.

    Raises:
        ImportError: `diffusers` is not installed.
        ValueError: a checkpoint of another kind.
    """
    pipeline = _pipeline("load_vp", name, device, options)
    if not hasattr(pipeline, "unet") or getattr(pipeline.scheduler, "alphas_cumprod", None) is None:
        raise ValueError(f"name: got {name!r}, a {type(pipeline).__name__}, expected a DDPMPipeline or DDIMPipeline")
    return from_pipeline(pipeline, sde=sde, autocast=autocast)


def _pipeline(caller: str, name: str, device: torch.device | str, options: dict[str, Any]) -> Any:
    try:
        from diffusers import DiffusionPipeline
    except ImportError:
        raise ImportError(f"{caller}: the package diffusers is missing; `pip install diffusers` provides it") from None
    pipeline = DiffusionPipeline.from_pretrained(name, **options)
    if hasattr(pipeline, "unet"):
        pipeline.unet.to(device)
    return pipeline


def __getattr__(name: str) -> Any:
    if name not in ("PreconditionedScoreSdeVePipeline", "PreconditionedScoreSdeVeScheduler"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from tdas_ops.integrations import score_sde_ve
    except ModuleNotFoundError as error:
        if error.name != "diffusers":
            raise
        raise ImportError(f"{name}: the package diffusers is missing; `pip install diffusers` provides it") from None
    return getattr(score_sde_ve, name)


def _output(unet: Unet) -> networks.Network:
    def network(x: Tensor, timestep: Tensor) -> Tensor:
        output: Tensor = unet(x, timestep, return_dict=False)[0]
        return output

    return network
