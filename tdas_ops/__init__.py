"""Fused kernels for score-based generative models: target-distribution-aware Langevin steps (TDAS, PDS).

The whole public surface:

    M = tdas_ops.Preconditioner.from_images(images)     the filter M, from images of the target data
    S = tdas_ops.Spectrum.from_images(patches)          colours and shapes of pictures of any size
    z = tdas_ops.NoiseStream(seed=0)                    reproducible noise
    tdas_ops.noise, step, langevin_step, precondition   the ops
    tdas_ops.samplers, tdas_ops.sde                     samplers made of them
    tdas_ops.calibrate                                  filters made for an iteration count, and what to expect of them
"""

from tdas_ops import calibrate, samplers, sde
from tdas_ops._backends import SlowPathWarning, backend_info, use_backend
from tdas_ops._machine import machine_info
from tdas_ops._version import __version__
from tdas_ops.noise import NoiseStream
from tdas_ops.ops import langevin_step, noise, precondition, step
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.spectrum import Spectrum

__all__ = [
    "NoiseStream",
    "Preconditioner",
    "SlowPathWarning",
    "Spectrum",
    "__version__",
    "backend_info",
    "calibrate",
    "langevin_step",
    "machine_info",
    "noise",
    "precondition",
    "samplers",
    "sde",
    "step",
    "use_backend",
]
