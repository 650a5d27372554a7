"""The predictor-corrector pipeline of diffusers (0.42.1) with a filter made of a folder of pictures.

pip install . diffusers
python examples/with_diffusers.py google/ncsnpp-church-256 churches/
"""

import sys

from tdas_ops import NoiseStream, Preconditioner
from tdas_ops.integrations.diffusers import PreconditionedScoreSdeVePipeline


def sample(pipe, M, noise, count=4, steps=100):
    ours = PreconditionedScoreSdeVePipeline.from_pipe(pipe, preconditioner=M)
    return ours(count, steps, noise, output_type="pil").images


if __name__ == "__main__":
    len(sys.argv) == 3 or sys.exit(__doc__)
    pipe = PreconditionedScoreSdeVePipeline.from_pretrained(sys.argv[1])
    M = Preconditioner.from_images(sys.argv[2], size=(pipe.unet.config.sample_size,) * 2)
    for i, image in enumerate(sample(pipe, M, NoiseStream(0, first_sample=0))):
        image.save(f"{i:06d}.png")
