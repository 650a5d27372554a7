"""The VE scheduler and pipeline of `diffusers` with a preconditioner; this module needs `diffusers`.

pipe = PreconditionedScoreSdeVePipeline.from_pipe(pipe, preconditioner=M)
images = pipe(batch_size=4, num_inference_steps=100, generator=NoiseStream(0, first_sample=0)).images

With the identity, or without a filter, both give what their originals give for the same generator. What differs from
`samplers.pc` is theirs: the end time is `sampling_eps` at every number of steps, where `pc` moves it with the speed-up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ScoreSdeVeScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_sde_ve import SdeVeOutput
from diffusers.schedulers.scheduling_utils import (
    SchedulerMixin as SchedulerMixin,
)  # diffusers' loader looks for it here
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from tdas_ops import ops
from tdas_ops.integrations._filters import checked, fitting
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.sde import VE

__all__ = [
    "PreconditionedScoreSdeVePipeline",
    "PreconditionedScoreSdeVeScheduler",
    "SchedulerMixin",  # diffusers looks for it beside a scheduler that it loads
]

Generators = torch.Generator | Sequence[torch.Generator] | NoiseStream | None
"""Where noise comes from: what diffusers takes, or a stream, with which no sample depends on its batch."""

_FILE = "preconditioner.safetensors"


class PreconditionedScoreSdeVeScheduler(ScoreSdeVeScheduler):
    """`ScoreSdeVeScheduler` whose steps are `x + d D score + n M z`.

    Args:
        num_train_timesteps, snr, sigma_min, sigma_max, sampling_eps, correct_steps: as there.
        norm: how the corrector takes its norms, see `tdas_ops.langevin_step`; None is "sample" for a stream that names
            its samples, else "batch", as there. "sample" makes pictures of a list of generators independent of their
            batch too.
        preconditioner: M, by default the identity. It is saved beside the configuration, and not a part of it.
        preconditioner_file: name of the file that it was saved to; set by `save_pretrained`.

    Raises:
        ValueError: a configuration that is not one of such a scheduler.
    """

    ignore_for_config = ["preconditioner"]  # noqa: RUF012 (as the base class has it)

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 2000,
        snr: float = 0.15,
        sigma_min: float = 0.01,
        sigma_max: float = 1348.0,
        sampling_eps: float = 1e-5,
        correct_steps: int = 1,
        norm: Literal["batch", "sample"] | None = None,
        preconditioner_file: str | None = None,
        preconditioner: Preconditioner | None = None,
    ) -> None:
        VE(sigma_min, sigma_max, num_train_timesteps, sampling_eps)
        if not 0 < sampling_eps < 1:
            raise ValueError(f"sampling_eps: got {sampling_eps}, expected a number between 0 and 1")
        if norm not in (None, "batch", "sample"):
            raise ValueError(f"norm: got {norm!r}, expected 'batch', 'sample' or None")
        self.preconditioner = None if preconditioner is None else checked("preconditioner", preconditioner)
        # By name: diffusers takes what comes by place for defaults, which from_config leaves out.
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            snr=snr,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            sampling_eps=sampling_eps,
            correct_steps=correct_steps,
        )

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler with the configuration of this one or of a `ScoreSdeVeScheduler`.

        Args:
            config: `scheduler.config`.
            return_unused_kwargs: as in diffusers.
            kwargs: arguments of the class that replace those of the configuration; `preconditioner` among them.

        Raises:
            ValueError: the configuration of another scheduler.
        """
        if isinstance(config, dict):
            foreign = sorted(key for key in config if key[0] != "_" and key not in cls._get_init_keys(cls))
            if foreign:
                got = f"one with {', '.join(foreign[:3])}"
                raise ValueError(f"config: got {got}, expected that of a ScoreSdeVeScheduler")
        preconditioner = kwargs.pop("preconditioner", None)
        made = super().from_config(config, return_unused_kwargs, **kwargs)
        (made[0] if return_unused_kwargs else made).preconditioner = (
            None if preconditioner is None else checked("preconditioner", preconditioner)
        )
        return made

    @classmethod
    def from_pretrained(cls, name: Any = None, subfolder: str | None = None, **kwargs: Any) -> Any:
        """A scheduler from a folder or repository that `save_pretrained` wrote, filter included.

        Raises:
            ValueError: the filter is missing or broken.
        """
        if "preconditioner" not in kwargs:
            where: dict[str, Any] = {key: kwargs[key] for key in ("revision", "cache_dir", "token") if key in kwargs}
            config = cls.load_config(name, subfolder=subfolder, **where)
            if config.get("preconditioner_file"):
                kwargs["preconditioner"] = _loaded(name, subfolder, config["preconditioner_file"], where)
        return super().from_pretrained(name, subfolder=subfolder, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes the configuration, and the filter beside it, which comes first."""
        self.register_to_config(preconditioner_file=None if self.preconditioner is None else _FILE)
        if self.preconditioner is not None:
            folder = Path(save_directory)
            folder.mkdir(parents=True, exist_ok=True)
            self.preconditioner.save(folder / _FILE)
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    def filter(self, shape: Sequence[int], device: torch.device) -> Preconditioner:
        """M for samples `[B, C, H, W]` on a device; kept there.

        Raises:
            ValueError: it is one of another size.
        """
        M = Preconditioner.identity(shape[1:]) if self.preconditioner is None else self.preconditioner
        M = fitting("preconditioner", M, shape).to(device)
        if self.preconditioner is not None:
            self.preconditioner = M
        return M

    def step_pred(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> Any:
        """The reverse diffusion predictor, `x + (s^2 - t^2) D score + sqrt(s^2 - t^2) M z`.

        Args:
            model_output: the score, `[B, C, H, W]`.
            timestep: time in [0, 1], one or one for each sample.
            sample: x, `[B, C, H, W]`; the step is made in float32 (float64 for such x on the CPU).
            generator: as in the class.
            return_dict: return an `SdeVeOutput` instead of a tuple.

        Returns: x' and x_mean, in the dtype of the sample.

        Raises:
            ValueError: a timestep out of range, a filter of another size, generators that do not fit.
        """
        M, x = self._ready(sample)
        # On the CPU, as the table of the noise levels; as float32, in which the original looks its levels up.
        times = torch.as_tensor(timestep, device="cpu") * torch.ones(len(x))
        if not bool(((times >= 0) & (times <= 1)).all()):
            raise ValueError(f"timestep: got {times.tolist()}, expected times from 0 to 1 (scheduler.timesteps)")
        index = (times * (len(self.timesteps) - 1)).long()
        if int(index.max()) >= len(self.discrete_sigmas):
            got = f"{len(self.timesteps)} timesteps beside {len(self.discrete_sigmas)} sigmas"
            raise ValueError(f"timestep: got {got}, expected as many (scheduler.set_sigmas(num_inference_steps))")
        sigmas = self.discrete_sigmas.cpu()
        below = torch.where(index == 0, 0.0, sigmas[index - 1])
        d = (sigmas[index] ** 2 - below**2).to(x.device)
        z = drawn(sample, generator, sample.dtype)
        after, mean = ops.step(x, _like(model_output, x), M, d, noise_scale=d.sqrt(), noise=z, return_mean=True)
        outputs = after.to(sample.dtype), mean.to(sample.dtype)
        return SdeVeOutput(*outputs) if return_dict else outputs

    def step_correct(
        self, model_output: Tensor, sample: Tensor, generator: Generators = None, return_dict: bool = True
    ) -> Any:
        """The Langevin corrector, `langevin_step(x, score, M, snr)`; arguments and errors as in `step_pred`."""
        M, x = self._ready(sample)
        norm: Any = self.config.norm or (
            "sample" if isinstance(generator, NoiseStream) and generator.named else "batch"
        )
        z = drawn(sample, generator, x.dtype)
        after = ops.langevin_step(x, _like(model_output, x), M, self.config.snr, noise=z, norm=norm)
        after = after.to(sample.dtype)
        return SchedulerOutput(prev_sample=after) if return_dict else (after,)

    def _ready(self, sample: Tensor) -> tuple[Preconditioner, Tensor]:
        if self.timesteps is None:
            raise ValueError("timesteps: got none, expected some (scheduler.set_timesteps(num_inference_steps))")
        if not isinstance(sample, Tensor) or sample.dim() != 4:
            got = tuple(sample.shape) if isinstance(sample, Tensor) else type(sample).__name__
            raise ValueError(f"sample: got {got}, expected a tensor [B, C, H, W]")
        x = sample.detach()
        return self.filter(sample.shape, sample.device), x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class PreconditionedScoreSdeVePipeline(DiffusionPipeline):
    """`ScoreSdeVePipeline` with a preconditioner, which also colours the start point.

    It is no subclass of the original, which diffusers counts among its deprecated pipelines.

    Args:
        unet: a `UNet2DModel` of a VE network.
        scheduler: a `PreconditionedScoreSdeVeScheduler`, which holds the filter.
    """

    unet: Any
    scheduler: Any

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        if not isinstance(scheduler, PreconditionedScoreSdeVeScheduler):
            got = type(scheduler).__name__
            raise TypeError(f"scheduler: got {got}, expected a PreconditionedScoreSdeVeScheduler (from_pipe makes one)")
        self.register_modules(unet=unet, scheduler=scheduler)

    @classmethod
    def from_pipe(
        cls, pipeline: Any, *, preconditioner: Preconditioner | None = None, **options: Any
    ) -> PreconditionedScoreSdeVePipeline:
        """A pipeline with the network and the configuration of a `ScoreSdeVePipeline`, or of one of these.

        Args:
            pipeline: the other pipeline, which shares its network.
            preconditioner: M, `[C, H, W]` as the network has it; by default that of the other pipeline, or none.
            options: arguments of the scheduler that replace those of its configuration, such as `norm="sample"`.

        Raises:
            ValueError: a pipeline of another kind, or a filter of another size.
        """
        if not hasattr(pipeline, "unet") or not hasattr(pipeline, "scheduler"):
            raise ValueError(f"pipeline: got {type(pipeline).__name__}, expected a ScoreSdeVePipeline")
        if preconditioner is None:
            preconditioner = getattr(pipeline.scheduler, "preconditioner", None)
        else:
            fitting("preconditioner", preconditioner, (1, *shape_of(pipeline.unet)))
        scheduler = PreconditionedScoreSdeVeScheduler.from_config(
            pipeline.scheduler.config, preconditioner=preconditioner, **options
        )
        return cls(pipeline.unet, scheduler)

    @classmethod
    def from_pretrained(cls, name: Any, *, preconditioner: Preconditioner | None = None, **options: Any) -> Any:
        """A pipeline from a folder or repository that it, or the original, was saved to.

        Args:
            name: of the folder or repository.
            preconditioner: M, by default the filter that was saved with it, if any.
            options: as in diffusers.

        Raises:
            ValueError: the checkpoint of another pipeline, a filter that is missing, broken or of another size.
        """
        if "scheduler" not in options:
            where = {key: options[key] for key in ("revision", "cache_dir", "token") if key in options}
            own = {} if preconditioner is None else {"preconditioner": preconditioner}
            make = PreconditionedScoreSdeVeScheduler.from_pretrained
            options["scheduler"] = make(name, subfolder="scheduler", **where, **own)
        made = super().from_pretrained(name, **options)
        if made.scheduler.preconditioner is not None:
            fitting("preconditioner", made.scheduler.preconditioner, (1, *shape_of(made.unet)))
        return made

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 2000,
        generator: Generators | int | Sequence[int] = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None] | None = None,
    ) -> Any:
        """Samples images.

        Args:
            batch_size: how many.
            num_inference_steps: iterations, of `correct_steps` + 1 evaluations each.
            generator: as in `Generators`, or a seed, or one a sample; a stream with `first_sample`, or seeds, give a
                sample the same picture in any batch.
            output_type: "pil" images, "np" array `[B, H, W, C]` or "pt" tensor `[B, C, H, W]`, values in [0, 1].
            return_dict: return an `ImagePipelineOutput` instead of a tuple.
            callback_on_step_end: called after each iteration with the pipeline, the iteration, the timestep and
                `{"sample": x, "sample_mean": x_mean}`; tensors that it returns under these names go on.

        Raises:
            ValueError: a bad argument, before the first evaluation.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type: got {output_type!r}, expected 'pil', 'np' or 'pt'")
        if not (generator is None or _are_generators(generator)):
            generator = NoiseStream.of(generator)
        scheduler, shape = self.scheduler, (batch_size, *shape_of(self.unet))
        M = scheduler.filter(shape, self.device)
        like = torch.empty(shape, device=self.device)
        # The original draws its start on the CPU unless the generator lives elsewhere.
        start_like = like if _on_device(generator) else like.cpu()
        z = drawn(start_like, generator, like.dtype)
        z = z if isinstance(z, NoiseStream) else z.to(self.device)
        x = x_mean = ops.noise(M, shape, z, scheduler.init_noise_sigma)
        scheduler.set_timesteps(num_inference_steps)
        scheduler.set_sigmas(num_inference_steps)
        for i, t in enumerate(self.progress_bar(scheduler.timesteps)):
            sigma = scheduler.sigmas[i] * torch.ones(batch_size, device=self.device)
            for _ in range(scheduler.config.correct_steps):
                x = scheduler.step_correct(self._score(x, sigma), x, generator).prev_sample
            x, x_mean = scheduler.step_pred(self._score(x, sigma), t, x, generator, return_dict=False)
            if callback_on_step_end is not None:
                given = {"sample": x, "sample_mean": x_mean}
                given |= callback_on_step_end(self, i, t, dict(given)) or {}
                x, x_mean = given["sample"], given["sample_mean"]
        images: Any = x_mean.clamp(0, 1).cpu()
        if output_type != "pt":
            images = images.permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _score(self, x: Tensor, sigma: Tensor) -> Tensor:
        score: Tensor = self.unet(x.to(self.unet.dtype), sigma, return_dict=False)[0]
        return score


def shape_of(unet: Any) -> tuple[int, int, int]:
    """(C, H, W) of the samples of a `UNet2DModel`."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return unet.config.in_channels, height, width


def drawn(like: Tensor, generator: Any, dtype: torch.dtype) -> NoiseStream | Tensor:
    """A stream as it is, else the noise that diffusers would draw of generators for a tensor.

    Raises:
        ValueError: more or fewer generators than samples, or some on another device.
        TypeError: something else.
    """
    if isinstance(generator, NoiseStream):
        return generator
    if not (generator is None or _are_generators(generator)):
        raise TypeError(f"generator: got {type(generator).__name__}, expected generators, a NoiseStream or None")
    if isinstance(generator, Sequence) and len(generator) != len(like):
        raise ValueError(f"generator: got {len(generator)} generators, expected one for each of {len(like)} samples")
    for each in generator if isinstance(generator, Sequence) else [generator] if generator is not None else []:
        if each.device.type not in ("cpu", like.device.type):
            raise ValueError(f"generator: got one on {each.device}, expected one on {like.device} or the CPU")
    z = randn_tensor(like.shape, generator=generator, device=like.device, dtype=dtype)
    return z.float() if dtype in (torch.bfloat16, torch.float16) else z


def _are_generators(generator: Any) -> bool:
    listed = generator if isinstance(generator, Sequence) else [generator]
    return all(isinstance(each, torch.Generator) for each in listed)


def _on_device(generator: Any) -> bool:
    first = generator[0] if isinstance(generator, Sequence) and generator else generator
    return isinstance(first, torch.Generator) and first.device.type != "cpu"


def _like(score: Tensor, x: Tensor) -> Tensor:
    """A score that a step takes: diffusers' networks may be wider than the state."""
    return score.detach().to(x.dtype) if score.dtype is torch.float64 else score.detach()


def _loaded(name: Any, subfolder: str | None, file: str, where: dict[str, Any]) -> Preconditioner:
    folder = Path(name) / (subfolder or "")
    if not folder.is_dir():
        from huggingface_hub import hf_hub_download

        return Preconditioner.load(hf_hub_download(str(name), file, subfolder=subfolder, **where))
    if not (folder / file).is_file():
        raise ValueError(f"name: got {folder} without {file}, which its configuration names, expected a whole folder")
    return Preconditioner.load(folder / file)
