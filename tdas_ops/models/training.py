"""Training a score network: Adam with averaged weights, in runs that can be stopped at any time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from tdas_ops._files import write_whole

Tensors = tuple[Tensor, ...] | list[Tensor]
Loss = Callable[[Tensor, torch.Generator], Tensor]
"""The loss of a batch of images; levels and noise come from the generator, which is on the CPU."""

WARM_UP = 300
DECAY = 0.999  # of the average, less at first: it forgets where it began
CHECKPOINT_STEPS = 500


def _average(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
    step = float(count)
    get_ema_multi_avg_fn(min(DECAY, (step + 1) / (step + 11)))(averaged, current, count)


class Training:
    """A training run: everything that its checkpoint holds.

    The rate of Adam rises over 300 steps, or a tenth of a shorter run, and falls as half a cosine from three tenths of
    the run on. Gradients are clipped to norm 1. A run that was stopped ends at the same bits, given seed, thread count
    and machine.

    Args:
        network: what is trained, in place.
        steps, batch: of the run; images of a step.
        rate: the peak learning rate.
        seed: of batches, levels and noise.

    Attributes:
        average: the network with averaged weights.
        step: how many were taken.
    """

    def __init__(self, network: nn.Module, steps: int, batch: int, rate: float, seed: int) -> None:
        self.network, self.steps, self.batch, self.rate = network, steps, batch, rate
        self.average = AveragedModel(network, multi_avg_fn=_average).requires_grad_(False)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=rate)
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0

    def advance(self, images: Tensor, loss_of: Loss) -> Tensor:
        """One step on some of the images `[N, C, H, W]`; returns its loss, on their device."""
        decay = 0.5 * (1 + math.cos(math.pi * max(0.0, self.step / self.steps - 0.3) / 0.7))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, (self.step + 1) / min(WARM_UP, self.steps / 10)) * decay + 1e-6
        chosen = torch.randint(len(images), (self.batch,), generator=self.generator)
        loss = loss_of(images[chosen.to(images.device)], self.generator)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return loss.detach()

    def run(
        self, images: Tensor, loss_of: Loss, checkpoint: Path, name: str = "", every: int = CHECKPOINT_STEPS
    ) -> None:
        """To the end, from the checkpoint if there is one, which is written every so many steps."""
        if checkpoint.exists():
            self.load(checkpoint)
        losses = []
        with tqdm(total=self.steps, initial=self.step, desc=name, mininterval=5) as bar:
            while self.step < self.steps:
                losses.append(self.advance(images, loss_of))
                bar.update()
                if self.step % every == 0 or self.step == self.steps:
                    bar.set_postfix(loss=f"{float(torch.stack(losses).mean()):.4f}")
                    losses.clear()
                    self.save(checkpoint)

    def save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda partial: torch.save(state, partial))

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step = state["step"]

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The averaged weights, for a file."""
        return {name: value.to("cpu", dtype).contiguous() for name, value in self.average.module.state_dict().items()}
