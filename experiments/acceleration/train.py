"""Trains one network: `python -m experiments.acceleration.train --family ncsnpp --data PACKAGE`.

Denoising score matching with the weight std^2, as published for all three families: `|std score(x) + z|^2`. The run
saves its state every few hundred steps and continues from it when started again. With `--bfloat16` the network runs in
bfloat16 (autocast), as it always does on a GPU.

With `--denoiser` the network of "ncsnpp" gets the denoiser scaling of Karras et al. (arXiv 2206.00364), and training
their weight of the noise levels: a small network then need not carry the pixels of larger images through.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from experiments.acceleration.data import DATASETS
from experiments.acceleration.families import FAMILIES, WEIGHTS, Family, network_of
from experiments.acceleration.ladders import for_data
from experiments.acceleration.principal import PrincipalDenoiser
from tdas_ops._files import write_whole
from tdas_ops.models.training import CHECKPOINT_STEPS, Loss, Training
from tdas_ops.samplers import ScoreFn


def loss_fn(
    family: Family,
    score_fn: ScoreFn,
    data: Tensor,
    generator: torch.Generator,
    error_scale: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean of `|std score + z|^2` over pixels; levels and noise come from the generator on the CPU.

    With the `error_scale` of a denoiser its errors count in that unit, which makes all levels equally hard (Karras et
    al., table 1), and levels in the middle, where images form, are drawn more often than the ends: u is the median of
    three.
    """
    u = torch.rand(len(data), generator=generator)
    if error_scale:
        u = torch.stack([u, *torch.rand(2, len(data), generator=generator)]).median(dim=0).values
    z = torch.randn(data.shape, generator=generator).to(data.device)
    told, mean_scale, std = (t.to(data.device) for t in family.levels(u))
    scale, deviation = mean_scale.reshape(-1, 1, 1, 1), std.reshape(-1, 1, 1, 1)
    error = deviation * score_fn(scale * data + deviation * z, told) + z
    if error_scale:
        error = error * (std / error_scale(std)).reshape(-1, 1, 1, 1)
    return error.square().mean()


def of_family(family: Family, score_fn: ScoreFn, network: nn.Module) -> Loss:
    """The loss of images in [0, 1]."""
    error_scale = getattr(network, "error_scale", None)
    return lambda images, generator: loss_fn(family, score_fn, family.encode(images), generator, error_scale)


def save_weights(run: Training, path: Path, about: dict[str, Any]) -> None:
    """The averaged weights in float16, with what made them as metadata."""
    about |= {"config": json.dumps(run.network.config), "steps": run.step, "batch": run.batch, "rate": run.rate}
    metadata, tensors = {name: str(value) for name, value in about.items()}, run.weights(torch.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda partial: save_file(tensors, partial, metadata=metadata))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", required=True, choices=list(FAMILIES))
    parser.add_argument("--dataset", default="digits", choices=list(DATASETS))
    parser.add_argument("--data", type=Path, required=True, help="where the data set lies; see README.md")
    parser.add_argument("--runs", type=Path, default=Path("build/acceleration"), help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the weights")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--fold", type=int, default=2, help="squares of this side become channels in the network")
    parser.add_argument("--skip", action="store_true", help="add the input to the output, scaled by the noise level")
    parser.add_argument("--denoiser", action="store_true", help="the denoiser scaling, for ncsnpp")
    parser.add_argument(
        "--components", type=int, help="principal components of a linear denoiser to start from; ncsnpp"
    )
    parser.add_argument("--steps", type=int, default=14_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile the network: faster after a minute")
    parser.add_argument("--bfloat16", action="store_true", help="on a CPU too: faster where it has AMX")
    parser.add_argument("--save-every", type=int, default=CHECKPOINT_STEPS)
    args = parser.parse_args()

    if (args.denoiser or args.components) and args.family != "ncsnpp":
        parser.error(f"--denoiser, --components: got the family {args.family}, expected ncsnpp")
    if args.denoiser and args.components:
        parser.error("--denoiser, --components: got both, expected one of them")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    data = DATASETS[args.dataset](args.data)
    family = for_data(FAMILIES[args.family], data)
    name = f"{data.name}-{family.name}"
    checkpoint = args.runs / f"{name}.pt"
    config = {"channels": data.shape[0], "widths": tuple(args.widths), "fold": args.fold, "skip": args.skip}
    if args.denoiser:
        config["sigma_data"] = round(float(family.encode(data.train).std()), 3)
    if args.components:
        config["components"], config["size"] = args.components, data.shape[1:]
    network = network_of(config)
    if isinstance(network, PrincipalDenoiser) and not checkpoint.exists():
        network.fit(family.encode(data.train))
    network = network.to(args.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    called = torch.compile(network) if args.compile else network
    score_fn = family.score(called, torch.bfloat16 if args.bfloat16 or args.device != "cpu" else None)
    run, images = Training(network, args.steps, args.batch, args.rate, args.seed), data.train.to(args.device)
    run.run(images, of_family(family, score_fn, network), checkpoint, name, args.save_every)
    about = {"family": family.name, "data": data.name, "images": len(images), "seed": args.seed}
    save_weights(run, args.out / f"{name}.safetensors", about)


if __name__ == "__main__":
    main()
