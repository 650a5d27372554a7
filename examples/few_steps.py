"""Eight evaluations of a network: the papers' sampler, a sampler of today, and the same from what is known of the data.

    pip install .
    python examples/few_steps.py

Prints Frechet distances on features of a digit classifier (not FID), 128 samples each; draws few_steps.webp, a row
each.
"""

import torch
from PIL import Image

from tdas_ops import NoiseStream, calibrate, models, samplers

EVALUATIONS = 8


def runs(model):
    """What to compare, as functions of a shape and a noise stream; pc takes two evaluations an iteration."""
    pc = lambda shape, noise, M=None: samplers.pc(
        model.score, shape, model.sde, M, noise=noise, snr=model.snr, iterations=EVALUATIONS // 2, progress=False
    )
    few = lambda **start: (
        lambda shape, noise: calibrate.FewStep(model.sde, EVALUATIONS, **start).sample(
            model.score, shape, noise, progress=False
        )
    )
    tdas = model.preconditioner("tdas", iterations=EVALUATIONS // 2)
    return {
        "pc plain": pc,
        "pc TDAS": lambda shape, noise: pc(shape, noise, tdas),
        "DPM-Solver++(2M)": few(),
        "from the mean image and white noise": few(start=model.prior("mean"), sigma=model.start_sigma),
        "from a Gaussian": few(start=model.prior("gaussian"), sigma=model.start_sigma),
    }


def compare(count=128, batch=64, seed=0):
    """Frechet distance and the first sixteen samples of each."""
    model, found = models.load("digits"), {}
    for name, sample in runs(model).items():
        streams = [NoiseStream(seed, first_sample=first) for first in range(0, count, batch)]
        x = torch.cat([sample((batch, *model.shape), stream) for stream in streams])
        found[name] = model.evaluator(x), model.pictures(x[:16])
    return found


if __name__ == "__main__":
    found = compare()
    for name, (quality, _) in found.items():
        print(f"{quality.distance:6.2f}  {name}")
    print(f"{quality.floor:6.2f}  real digits, as many")
    rows = [torch.nn.functional.pad(pictures, (1, 1, 1, 1), value=255) for _, pictures in found.values()]
    sheet = torch.cat([row[:, 0].permute(1, 0, 2).flatten(1) for row in rows])
    shown = Image.fromarray(sheet.numpy()).resize((2 * sheet.shape[1], 2 * sheet.shape[0]), 0)
    shown.quantize(8, dither=0).convert("L").save("few_steps.webp", lossless=True, method=6)
