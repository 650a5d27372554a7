"""A random field with the colours of photographs: noise whose channels belong together at every frequency.

    pip install .
    python examples/colour_field.py FOLDER --size 512 1024

Prints how two channels of a pixel correlate in 64 fields and in the photographs; draws field.webp: above, channels with
their own spectra and nothing in common; below, with the spectra that they share.
"""

import argparse
from pathlib import Path

import torch
from paint import patches
from PIL import Image

from tdas_ops import NoiseStream, Spectrum


def apart(spectrum):
    """The same spectrum without what the channels have in common: the null hypothesis, what a mask a channel can do."""
    alone = torch.diag_embed(spectrum.matrices.diagonal(dim1=-2, dim2=-1))
    return Spectrum(spectrum.shape, spectrum.mean, alone, spectrum.slope)


def fields(spectrum, count=1, seed=0):
    """Gaussian fields `[count, C, H, W]`: the start of a run, at noise of a thousandth."""
    return spectrum.start(1e-3, (count, *spectrum.shape), NoiseStream(seed))


def correlation(x):
    """Mean correlation of two channels of a pixel, over all pixels, the mean of a picture taken off."""
    matrix = torch.corrcoef((x - x.mean((2, 3), keepdim=True)).transpose(0, 1).flatten(1).double())
    return float(matrix[~torch.eye(len(matrix), dtype=torch.bool)].mean())


def expected(spectrum):
    """The same of the spectrum: the sum of its matrices over all frequencies but 0."""
    width = spectrum.shape[-1]
    weights = torch.full(spectrum.matrices.shape[:2], 2.0, dtype=torch.float64)  # of a half spectrum
    weights[:, 0] = 1
    weights[:, -1] -= 1 - width % 2
    weights[0, 0] = 0
    whole = torch.einsum("hwab,hw->ab", spectrum.matrices.real, weights)
    matrix = whole / torch.outer(whole.diag(), whole.diag()).sqrt()
    return float(matrix[~torch.eye(len(matrix), dtype=torch.bool)].mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draws random fields in the colours of photographs.")
    parser.add_argument("photographs", type=Path, help="folder of pictures of at least 1024 pixels")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 768), metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    spectrum = Spectrum.from_images(patches(args.photographs))
    made = [correlation(fields(law, 64, args.seed)) for law in (spectrum, apart(spectrum))]
    print(f"two channels correlate by {made[0]:.3f}, in the photographs {expected(spectrum):.3f}, apart {made[1]:.3f}")
    spectrum = spectrum.resize(*args.size)
    x = torch.cat([fields(law, 1, args.seed) for law in (apart(spectrum), spectrum)], dim=2)
    levels = (255 * x[0].clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0)
    Image.fromarray(levels.numpy()).save("field.webp", quality=40)
