"""Few-step sampling of any UNet2DModel of diffusers (0.42.1): ten evaluations of a DDPM network.

pip install . diffusers
python examples/with_diffusers_few_steps.py google/ddpm-cifar10-32
"""

import sys

import torch

from tdas_ops import NoiseStream, calibrate
from tdas_ops.integrations.diffusers import load_vp


def sample(loaded, noise, count=4, evaluations=10):
    x = calibrate.FewStep(loaded.sde, evaluations).sample(loaded.score, (count, *loaded.shape), noise, progress=False)
    return loaded.images(x)


if __name__ == "__main__":
    len(sys.argv) == 2 or sys.exit(__doc__)
    images = sample(load_vp(sys.argv[1]), NoiseStream(0, first_sample=0))
    torch.save(images, "images.pt")
