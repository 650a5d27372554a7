"""Predictor-corrector sampling of score_sde_pytorch (commit cb1f359), filtered through its own registries.

git clone https://github.com/yang-song/score_sde_pytorch
PYTHONPATH=score_sde_pytorch python examples/with_score_sde.py
"""

import sampling
import sde_lib

from tdas_ops import NoiseStream, models
from tdas_ops.integrations import score_sde


def sample(model, M, noise, shape, steps=60):
    score_sde.register(sampling, M, noise)
    sde = score_sde.prior(sde_lib.VESDE(0.01, 16.0, steps), M, noise)
    parts = sampling.get_predictor("tdas_reverse_diffusion"), sampling.get_corrector("tdas_langevin"), lambda x: x
    return sampling.get_pc_sampler(sde, shape, *parts, 0.16, continuous=True, eps=1e-5, device="cpu")(model)[0]


if __name__ == "__main__":
    digits = models.load("digits")
    x = sample(digits.network, digits.preconditioner("pds"), NoiseStream(0, first_sample=0), (4, *digits.shape))
