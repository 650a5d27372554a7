"""A field of 128^3 points in a box of 256 Mpc/h, with a spectrum like that of matter in the universe, and its sigma_8.

    python examples/field_128_cubed.py --out slice.webp

P(k) is A k T(k)^2 in (Mpc/h)^3, k in h/Mpc, T of Bardeen et al., ApJ 304, 15 (1986), equation G3, with Gamma = 0.2;
sigma_8 is the standard deviation of the mean in spheres of 8 Mpc/h.
"""

import argparse
import math

import torch
from field_of_spectrum import picture

from tdas_ops import GaussianField

SIDE, SPACING, RADIUS = 128, 2.0, 8.0


def P(k):
    """A is such that sigma_8 is near 0.8."""
    q = (k / 0.2).clamp_min(1e-9)
    polynomial = 1 + 3.89 * q + (16.1 * q) ** 2 + (5.46 * q) ** 3 + (6.71 * q) ** 4
    return 1.8e6 * k * (torch.log1p(2.34 * q) / (2.34 * q)) ** 2 * polynomial**-0.5


def window(k):
    """The mean over a sphere, of a wave."""
    y = (k * RADIUS).clamp_min(1e-6)
    return 3 * (y.sin() - y * y.cos()) / y**3


def sigma_8(field):
    """Measured: the spectrum of a cube times that of the sphere."""
    k = 2 * math.pi * torch.fft.fftfreq(SIDE, SPACING)
    radius = (k[:, None, None] ** 2 + k[:, None] ** 2 + k[: SIDE // 2 + 1].abs() ** 2).sqrt()
    smooth = torch.fft.irfftn(torch.fft.rfftn(field) * window(radius), s=field.shape)
    return float(smooth.std())


def expected():
    """The integral over the wavenumbers of a ball; P and window fall so fast that the corners of the cube are small."""
    k = torch.linspace(2 * math.pi / (SIDE * SPACING), math.pi / SPACING, 100_000, dtype=torch.float64)
    return math.sqrt(float(torch.trapezoid(k**2 * P(k) * window(k) ** 2, k)) / (2 * math.pi**2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="slice.webp")
    asked = parser.parse_args()
    (field,) = GaussianField(P, (SIDE,) * 3, SPACING).sample(asked.seed)
    picture(field[0], asked.out)
    print(f"sigma_8: {sigma_8(field):.3f}, expected {expected():.3f}")
