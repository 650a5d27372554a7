"""Sampling and inpainting in azula (0.11.1) with a filter in start, noise and drift.

pip install tdas-ops azula
python examples/with_azula.py
"""

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import VESchedule

from tdas_ops import NoiseStream, models
from tdas_ops.integrations.azula import PreconditionedSampler

model = models.load("digits")


class Digits(Denoiser):
    schedule = VESchedule(model.sde.sigma_min, model.sde.sigma_max)

    def forward(self, x, t):
        sigma = self.schedule(t)[1]
        return DiracPosterior(x + sigma**2 * model.score(x, sigma.expand(len(x))))


if __name__ == "__main__":
    sampler = PreconditionedSampler(Digits(), model.preconditioner("pds"), NoiseStream(0, first_sample=0), eta=1.0)
    torch.save(sampler(sampler.init((4, *model.shape))), "samples.pt")
