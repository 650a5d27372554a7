"""An ancestral sampler of k-diffusion (0.1.1) with a filter in noise and drift; ComfyUI's samplers are called alike.

pip install . k-diffusion
python examples/with_k_diffusion.py
"""

import torch
from k_diffusion import sampling

from tdas_ops import ColouredNoise, NoiseStream, PreconditionedDenoiser, models

model = models.load("digits")
denoise = lambda x, sigma: x + sigma.reshape(-1, 1, 1, 1) ** 2 * model.score(x, sigma)


def sample(M, noise, count=4, steps=20):
    sigmas = sampling.get_sigmas_karras(steps, model.sde.sigma_min, model.sde.sigma_max)
    coloured = ColouredNoise(M.unit_variance(), noise, like=torch.empty(count, *model.shape))
    x, net = sigmas[0] * coloured(*sigmas[:2]), PreconditionedDenoiser(denoise, M.unit_variance())
    return sampling.sample_euler_ancestral(net, x, sigmas, noise_sampler=coloured, disable=True)


if __name__ == "__main__":
    torch.save(sample(model.preconditioner("pds"), NoiseStream(0, first_sample=0)), "samples.pt")
