"""A training run: averages as their formula says, and the same end however often it was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tdas_ops.models.training import DECAY, Training

IMAGES = torch.rand(16, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def training(steps: int = 40) -> Training:
    torch.manual_seed(0)
    return Training(nn.Conv2d(1, 1, 3, padding=1), steps, batch=4, rate=1e-2, seed=0)


def loss_of(run: Training):
    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        noisy = images + torch.randn(images.shape, generator=generator)
        return (run.network(noisy) - images).square().mean()

    return loss


def test_the_average_forgets_its_beginning_and_keeps_999_of_1000():
    run = training()
    wanted, seen = None, []
    for step in range(40):
        run.advance(IMAGES, loss_of(run))
        weight = run.network.weight.detach().double()
        keep = 0.0 if step == 0 else min(DECAY, (step + 1) / (step + 11))
        wanted = weight if wanted is None else keep * wanted + (1 - keep) * weight
        seen.append(weight.clone())
        torch.testing.assert_close(run.average.module.weight.double(), wanted, atol=1e-6, rtol=1e-5)
    assert not torch.equal(seen[0], seen[-1]) and float((wanted - seen[-1]).abs().max()) > 1e-4
    assert run.weights(torch.float16)["weight"].dtype is torch.float16


def test_a_run_that_was_stopped_ends_at_the_same_bits(tmp_path: Path):
    whole = training(steps=6)
    whole.run(IMAGES, loss_of(whole), tmp_path / "whole.pt", every=2)

    def stopping(run: Training, after: int):
        def loss(images: Tensor, generator: torch.Generator) -> Tensor:
            if run.step == after:
                raise KeyboardInterrupt
            return loss_of(run)(images, generator)

        return loss

    for after in (3, 5):  # what was done since the checkpoint is done again
        stopped = training(steps=6)
        with pytest.raises(KeyboardInterrupt):
            stopped.run(IMAGES, stopping(stopped, after), tmp_path / "part.pt", every=2)
    rest = training(steps=6)
    rest.run(IMAGES, loss_of(rest), tmp_path / "part.pt", every=2)
    assert rest.step == 6
    for name, value in whole.weights(torch.float32).items():
        assert torch.equal(value, rest.weights(torch.float32)[name])
    assert {file.name for file in tmp_path.iterdir()} == {"whole.pt", "part.pt"}
