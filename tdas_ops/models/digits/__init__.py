"""The embedded model of handwritten digits, 32x32, grey levels in [0, 1]; see README.md beside this file."""

from __future__ import annotations

from tdas_ops.sde import VE

SHAPE = (1, 32, 32)
SDE = VE(sigma_min=0.01, sigma_max=16.0, native_iterations=60)
SNR = 0.16
START_SIGMA = 5.0
