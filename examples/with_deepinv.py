"""Inpainting in deepinv (0.5.0): Langevin iterations with a filter that knows which pixels are known.

pip install . deepinv
python examples/with_deepinv.py
"""

from deepinv import optim, physics, sampling

from tdas_ops import NoiseStream, Preconditioner, models
from tdas_ops.integrations.deepinv import PreconditionedULAIterator

model = models.load("digits")
prior = optim.ScorePrior(lambda x, sigma: x + sigma**2 * model.score(x, x.new_full((len(x),), sigma)))


def restore(y, operator, M, noise, iterations=200):
    iterator = PreconditionedULAIterator({"step_size": 1e-2, "alpha": 1.0, "sigma": 0.2}, M, noise)
    return sampling.BaseSampling(iterator, optim.L2(sigma=0.1), prior, max_iter=iterations).sample(y, operator)


if __name__ == "__main__":
    operator = physics.Inpainting(model.shape, 0.5)  # half of the pixels
    M = Preconditioner.from_masks(space=(operator.mask[0] / 0.1**2 + 1 / 0.2**2).rsqrt() / 0.2)
    mean, variance = restore(operator(model.statistics.mean[None].float()), operator, M, NoiseStream(0))
