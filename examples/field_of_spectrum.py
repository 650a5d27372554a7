"""Gaussian fields of a given power spectrum, and what their estimated spectrum says: a number near 1.

    python examples/field_of_spectrum.py --out field.webp

P(k) is in units of `field^2 length^2`, k the angular wavenumber: here `exp(-(k l)^2 / 2) / (k + k0)^2`, l the spacing.
"""

import argparse

from PIL import Image

from tdas_ops import power_spectrum, random_field


def P(k):
    """Smooth large shapes: a power law from the wavenumber 0.05 on."""
    return (-0.5 * k**2).exp() / (k + 0.05) ** 2


def departure(x, spacing=1.0):
    """Mean square, in standard errors, of what the estimate departs by in shells that are narrow for P."""
    found = power_spectrum(x, spacing)
    errors = (found.power / P(found.k) - 1) * (found.modes / 2).sqrt()
    return float(errors[(found.k > 0.3) & (found.k < 2)].square().mean())


def picture(x, path, size=256):
    """The values of a plane from -2.5 to 2.5 standard deviations as grey."""
    grey = ((x - x.mean()) / x.std()).clamp(-2.5, 2.5).add(2.5).mul(51).byte().cpu().numpy()
    Image.fromarray(grey).resize((size, size * len(grey) // grey.shape[1])).save(path, quality=60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="field.webp")
    asked = parser.parse_args()
    fields = random_field(P, (256, 256), 1.0, noise=asked.seed, members=8)
    picture(fields[0], asked.out)
    print(f"departure of the spectrum: {departure(fields):.2f} (1 is sampling error)")
