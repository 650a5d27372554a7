"""An ensemble of smooth perturbations on 721 x 1440 points (a quarter of a degree) that live on from step to step.

    python examples/ensemble_perturbation.py --members 4 --steps 12 --out perturbation.webp

Each member has a seed of its own. They are periodic in longitude and not in latitude, of unit variance, with a Gaussian
correlation of 20 points (500 km at the equator) and a memory of 6 hours. Lengths are those of the grid: towards the
poles, where its points are near each other, the patterns are narrow. Such patterns multiply tendencies in
stochastically perturbed physics (Palmer et al., ECMWF Technical Memorandum 598, 2009).
"""

import argparse
import math

import torch
from field_of_spectrum import picture

from tdas_ops import GaussianField, NoiseStream

SHAPE, LENGTH = (721, 1440), 20.0


def P(k):
    """Its correlation at a distance r is `exp(-r^2 / (2 LENGTH^2))`."""
    return 2 * math.pi * LENGTH**2 * torch.exp(-0.5 * (k * LENGTH) ** 2)


def ensemble(seeds, steps, hours=1.0, memory=6.0):
    """The perturbations of every step, one after the other: `[len(seeds), 721, 1440]`."""
    field, noise = GaussianField(P, SHAPE, periodic=(False, True)), NoiseStream(seeds=seeds)
    x = field.sample(noise)
    yield x
    for _ in range(steps):
        x = field.evolve(x, math.exp(-hours / memory), noise)
        yield x


def correlation(x, y):
    return float((x * y).mean() / (x.square().mean() * y.square().mean()).sqrt())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", default="perturbation.webp")
    asked = parser.parse_args()
    first = last = None
    for last in ensemble(range(asked.members), asked.steps):
        first = last if first is None else first
    picture(last[0], asked.out, 384)
    print(f"standard deviation {float(last.std()):.3f}, expected 1")
    distance = int(LENGTH)
    east = correlation(last[..., :-distance], last[..., distance:])
    print(f"correlation {distance} points east {east:.3f}, expected {math.exp(-0.5):.3f}")
    later, expected = correlation(first, last), math.exp(-asked.steps / 6)
    print(f"correlation {asked.steps} hours later {later:.3f}, expected {expected:.3f}")
