"""Sampling and inpainting in azula (0.11.1) with a filter in start, noise and drift.

pip install . azula
python examples/with_azula.py
"""

import torch
from azula import denoise, noise

from tdas_ops import NoiseStream, models
from tdas_ops.integrations.azula import PreconditionedSampler

model = models.load("digits")


class Digits(denoise.Denoiser):
    schedule = noise.VESchedule(model.sde.sigma_min, model.sde.sigma_max)

    def forward(self, x, t):
        return denoise.DiracPosterior(x + self.schedule(t)[1] ** 2 * model.score(x, self.schedule(t)[1].expand(len(x))))


if __name__ == "__main__":
    sampler = PreconditionedSampler(Digits(), model.preconditioner("pds"), NoiseStream(0, first_sample=0), eta=1.0)
    torch.save(sampler(sampler.init((4, *model.shape))), "samples.pt")
