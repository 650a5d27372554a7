"""Trains one network: `python -m experiments.acceleration.train --family ncsnpp --data PACKAGE`.

Denoising score matching with the weight std^2, as published for all three families: `|std score(x) + z|^2`. The run
saves its state every few hundred steps and continues from it when started again. It is deterministic for a given seed,
thread count and machine. With `--bfloat16` the network runs in bfloat16 (autocast), as it always does on a GPU.

With `--denoiser` the network of "ncsnpp" gets the denoiser scaling of Karras et al. (arXiv 2206.00364), and training
their weight of the noise levels: a small network then need not carry the pixels of larger images through.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from experiments.acceleration.data import DATASETS
from experiments.acceleration.families import FAMILIES, WEIGHTS, Family, network_of
from experiments.acceleration.ladders import for_data
from experiments.acceleration.principal import PrincipalDenoiser
from tdas_ops.models.unet import UNet
from tdas_ops.samplers import ScoreFn

WARM_UP = 300


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


class Run:
    """A training run: everything that its checkpoint holds."""

    def __init__(self, network: UNet | PrincipalDenoiser, steps: int, batch: int, rate: float, seed: int) -> None:
        self.network, self.steps, self.batch, self.rate = network, steps, batch, rate
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=rate)
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0

    def advance(self, family: Family, score_fn: ScoreFn, images: Tensor) -> Tensor:
        """One step; returns the loss on the device."""
        progress = self.step / self.steps
        decay = 0.5 * (1 + math.cos(math.pi * max(0.0, progress - 0.3) / 0.7))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, (self.step + 1) / min(WARM_UP, self.steps / 10)) * decay + 1e-6
        chosen = torch.randint(len(images), (self.batch,), generator=self.generator)
        data = family.encode(images[chosen.to(images.device)])
        loss = loss_fn(family, score_fn, data, self.generator, getattr(self.network, "error_scale", None))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        keep = min(0.999, (self.step + 1) / (self.step + 11))
        with torch.no_grad():
            for a, p in zip(self.average.parameters(), self.network.parameters(), strict=True):
                a.lerp_(p, 1 - keep)
        self.step += 1
        return loss.detach()

    def save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step = state["step"]


def save_weights(run: Run, path: Path, about: dict[str, Any]) -> None:
    """The averaged weights in float16, with what made them as metadata."""
    tensors = {name: value.half().contiguous().cpu() for name, value in run.average.state_dict().items()}
    about |= {"config": json.dumps(run.network.config), "steps": run.step, "batch": run.batch, "rate": run.rate}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={name: str(value) for name, value in about.items()})


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
    parser.add_argument("--save-every", type=int, default=500)
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
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
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
    run = Run(network, args.steps, args.batch, args.rate, args.seed)
    if checkpoint.exists():
        run.load(checkpoint)
    images = data.train.to(args.device)
    losses = []
    with tqdm(total=args.steps, initial=run.step, desc=name, mininterval=5) as bar:
        while run.step < args.steps:
            losses.append(run.advance(family, score_fn, images))
            bar.update()
            if run.step % args.save_every == 0 or run.step == args.steps:
                bar.set_postfix(loss=f"{float(torch.stack(losses).mean()):.4f}")
                losses.clear()
                run.save(checkpoint)
    about = {"family": family.name, "data": data.name, "images": len(images), "seed": args.seed}
    save_weights(run, args.out / f"{name}.safetensors", about)


if __name__ == "__main__":
    main()
