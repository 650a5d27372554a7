"""Inpainting in deepinv (0.5.0): Langevin iterations with a filter that knows which pixels are known.

pip install tdas-ops deepinv
python examples/with_deepinv.py
"""

import deepinv
import torch

from tdas_ops import NoiseStream, Preconditioner, models
from tdas_ops.integrations.deepinv import PreconditionedULAIterator

model, SIGMA = models.load("digits"), 0.1
prior = deepinv.optim.Prior()
prior.grad = lambda x, sigma: -model.score(x, torch.full((len(x),), sigma))


def restore(y, mask, M, noise, step_size=1e-2, iterations=200):
    iterator = PreconditionedULAIterator({"step_size": step_size, "alpha": 1.0, "sigma": 0.2}, M, noise)
    chain = deepinv.sampling.BaseSampling(iterator, deepinv.optim.L2(sigma=SIGMA), prior, max_iter=iterations)
    return chain.sample(y, deepinv.physics.Inpainting(model.shape, mask))


if __name__ == "__main__":
    truth = model.few_step(8, start="gaussian").sample(model.score, (1, *model.shape), NoiseStream(1))
    mask = (torch.rand(model.shape) < 0.5).float()
    y = mask * (truth + SIGMA * torch.randn_like(truth))
    M = Preconditioner.from_masks(space=(mask / SIGMA**2 + 25).rsqrt() * 5)  # 25: curvature of the prior, 1 / 0.2^2
    torch.save(restore(y.expand(16, -1, -1, -1), mask, M, NoiseStream(0, first_sample=0)), "moments.pt")
