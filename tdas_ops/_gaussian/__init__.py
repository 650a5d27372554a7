"""The Gaussian model of a run: what a sampler does to mean and variance of every frequency, as a scalar recursion.

The target is a stationary Gaussian field with the data's power spectrum and mean image. Its exact score is linear, and
a filter without a space mask is diagonal in frequency, so that the law of a run stays Gaussian and diagonal; only the
step sizes of the snr rule tie the frequencies together. `docs/calibration.md` derives every formula.

Variances are those of coefficients of the orthonormal DFT, in squared units of x: white noise of scale n has n^2 at
every frequency. Half spectra are `[C, H, W // 2 + 1]`, float64 on the CPU.
"""

from tdas_ops._gaussian.check import unsuited
from tdas_ops._gaussian.masks import calibrated_mask, scheduled_masks
from tdas_ops._gaussian.recursion import Gains, Law, Trace, distance, furthest_drift, mean_norm, off_ladder, trace
from tdas_ops._gaussian.runs import PC, PREDICTORS, AnnealedLangevin, Run, Update
from tdas_ops._gaussian.target import Array, Field, Target, spectral_field

__all__ = [
    "PC",
    "PREDICTORS",
    "AnnealedLangevin",
    "Array",
    "Field",
    "Gains",
    "Law",
    "Run",
    "Target",
    "Trace",
    "Update",
    "calibrated_mask",
    "distance",
    "furthest_drift",
    "mean_norm",
    "off_ladder",
    "scheduled_masks",
    "spectral_field",
    "trace",
    "unsuited",
]
