"""Restoration: digits of which half of the pixels are lost and the rest is noisy, by Langevin steps on the posterior.

    pip install .
    python examples/restore.py

Where a pixel is known the posterior is stiff, and the stiffest pixel bounds the step of all. A space mask of the
posterior's own deviations gives each pixel the step that it can bear. Prints the error of the lost pixels after 50
evaluations of the embedded network, without and with it; draws restore.webp: digits, what is left of them, restored
without and with the mask.
"""

import torch
from PIL import Image

from tdas_ops import NoiseStream, Preconditioner, models, step

NOISE, LEVEL = 0.1, 0.2  # of the measurement; at which the network is asked for its score


def digits(count=16, seed=0):
    """Samples of the embedded network, since no digits are part of the package."""
    model = models.load("digits")
    run = model.few_step(12, eta=1.0, start="gaussian")
    return model, run.sample(model.score, (count, *model.shape), NoiseStream(seed), progress=False).clamp(0, 1)


def masks(known):
    """No filter, and the posterior's deviations over those of an unknown pixel; each with a step that is stable."""
    deviation = (known / NOISE**2 + 1 / LEVEL**2).rsqrt()
    space = Preconditioner.from_masks(space=deviation / LEVEL)
    return {"plain": (Preconditioner.identity(known.shape), 1 / 125), "space mask": (space, 1 / 25)}


def restore(model, y, known, M, eta, iterations, seed=1):
    """Mean of the second half of a chain on the posterior of `y = known * x + noise`."""
    x, noise, total = y.clone(), NoiseStream(seed), torch.zeros_like(y)
    level = y.new_full((len(y),), LEVEL)
    for i in range(iterations):
        score = model.score(x, level) + known * (y - x) / NOISE**2
        x = step(x, score, M, eta, noise=noise, out=x)
        total += x if 2 * i >= iterations else 0
    return total / (iterations - iterations // 2)


def compare(count=16, iterations=50):
    """RMS error of the lost pixels by method, and the rows of the picture."""
    model, x = digits(count)
    generator = torch.Generator().manual_seed(2)
    known = (torch.rand(model.shape, generator=generator) < 0.5).float()
    y = known * (x + NOISE * torch.randn(x.shape, generator=generator))
    errors, rows = {}, [x, y]
    for name, (M, eta) in masks(known).items():
        rows.append(restore(model, y, known, M, eta, iterations))
        errors[name] = float(((rows[-1] - x).square() * (1 - known)).sum().div((1 - known).sum() * count).sqrt())
    return errors, rows


if __name__ == "__main__":
    errors, rows = compare()
    for name, error in errors.items():
        print(f"{error:.3f}  {name}")
    rows = [torch.nn.functional.pad(row.clamp(0, 1), (1, 1, 1, 1), value=1.0) for row in rows]
    sheet = (255 * torch.cat([row[:, 0].permute(1, 0, 2).flatten(1) for row in rows])).round().to(torch.uint8)
    shown = Image.fromarray(sheet.numpy()).resize((2 * sheet.shape[1], 2 * sheet.shape[0]), 0)
    shown.quantize(8, dither=0).convert("L").save("restore.webp", lossless=True, method=6)
