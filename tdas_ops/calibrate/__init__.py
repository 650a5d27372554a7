"""What is known of the data, for an iteration or evaluation count: what a run will do, and settings made for it.

```python
target = calibrate.Target.from_images(images)               # the data as a Gaussian field, images in the units of x
run = calibrate.PC(sde, iterations=66, snr=0.16)            # or AnnealedLangevin(...): what will be run
alpha = calibrate.choose_alpha(target, run, "tdas")         # the best strength of the papers' masks
M = calibrate.calibrated(target, run, "tdas")               # the mask that ends at the target's variance
calibrate.predict(M, target, run).distance                  # of any filter, in milliseconds
filters = calibrate.schedule(target, run)                   # one filter an iteration, for `samplers`' M
filters = calibrate.constant(target.shape, run)             # the same without data: the null hypothesis

prior = calibrate.Prior.from_images(images)                 # mean image and principal components, or Fourier
law = calibrate.Mixture.from_images(images)                 # several such laws, as a start
level = calibrate.start_level(score, sde, held_out, prior)  # the level at which a start pays, by denoising errors
x = calibrate.start(prior, level.sigma, shape, noise)       # where a run begins that skips the levels above it
run = calibrate.FewStep(sde, evaluations=8, eta=1.0, start=prior, sigma=level.sigma)
x = run.sample(score, shape, noise)                         # `samplers.dpmpp` with all of it
calibrate.predict(None, prior, run).distance                # what it will do to a Gaussian law
tuned = calibrate.tune(score, sde, images, evaluations=4, samples=16)  # which settings suit a network
```

All predictions hold in a Gaussian model of the data with its exact score: `docs/calibration.md` has the derivation, and
what a trained network does differently.
"""

from tdas_ops._gaussian import PC, AnnealedLangevin, Run, Target
from tdas_ops.calibrate.few_step import FewStep
from tdas_ops.calibrate.filters import calibrated, choose_alpha, constant, schedule
from tdas_ops.calibrate.likeness import Likeness
from tdas_ops.calibrate.mixture import Mixture
from tdas_ops.calibrate.prediction import Prediction, draw, predict
from tdas_ops.calibrate.starting import StartLevel, start_level
from tdas_ops.calibrate.tuning import Filtered, Trial, Tuned, tune
from tdas_ops.prior import Prior, start

__all__ = [
    "PC",
    "AnnealedLangevin",
    "FewStep",
    "Filtered",
    "Likeness",
    "Mixture",
    "Prediction",
    "Prior",
    "Run",
    "StartLevel",
    "Target",
    "Trial",
    "Tuned",
    "calibrated",
    "choose_alpha",
    "constant",
    "draw",
    "predict",
    "schedule",
    "start",
    "start_level",
    "tune",
]
