"""The stochastic sampler of EDM (NVlabs/edm, of which generate.py is imported) with a filter in noise and drift.

git clone https://github.com/NVlabs/edm
PYTHONPATH=edm python examples/with_edm.py
"""

import torch
from generate import edm_sampler

from tdas_ops import ColouredNoise, NoiseStream, PreconditionedDenoiser, models

model = models.load("digits")
denoise = lambda x, s, labels=None: x + s.reshape(-1, 1, 1, 1) ** 2 * model.score(x.float(), s.float().expand(len(x)))
denoise.sigma_min, denoise.sigma_max, denoise.round_sigma = model.sde.sigma_min, model.sde.sigma_max, torch.as_tensor


def sample(M, noise, count=4, **settings):
    coloured, net = ColouredNoise(M.unit_variance(), noise), PreconditionedDenoiser(denoise, M.unit_variance())
    latents = coloured.randn_like(torch.empty(count, *model.shape))
    return edm_sampler(net, latents, randn_like=coloured.randn_like, **settings)


if __name__ == "__main__":
    torch.save(sample(model.preconditioner("pds"), NoiseStream(0, first_sample=0), S_churn=10), "samples.pt")
