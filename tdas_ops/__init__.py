"""Fused kernels for score-based generative models: target-distribution-aware Langevin steps (TDAS, PDS).

The whole public surface:

```python
M = tdas_ops.Preconditioner.from_images(images)  # the filter M, from images of the target data
S = tdas_ops.Spectrum.from_images(images)        # colours and shapes of pictures of any size
z = tdas_ops.NoiseStream(seed=0)                 # reproducible noise
tdas_ops.noise, tdas_ops.step, tdas_ops.langevin_step, tdas_ops.precondition  # the ops
tdas_ops.ColouredNoise, tdas_ops.PreconditionedDenoiser  # what samplers of other code take in their place
tdas_ops.PreconditionerModule                    # a filter as part of a model and its checkpoints
tdas_ops.random_field, tdas_ops.GaussianField, tdas_ops.power_spectrum  # fields of a power spectrum, 1-D to 3-D
tdas_ops.samplers, tdas_ops.sde                  # samplers made of them; samplers.physics for densities
tdas_ops.calibrate                               # filters and settings for a number of network evaluations
tdas_ops.integrations                            # score functions from networks of other code bases
tdas_ops.models                                  # the embedded model
tdas_ops.backend_info, tdas_ops.use_backend, tdas_ops.machine_info  # what runs where, and on what
```

`docs/glossary.md` explains the words.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tdas_ops import sde
from tdas_ops._backends import SlowPathWarning, backend_info, use_backend
from tdas_ops._machine import machine_info
from tdas_ops._version import __version__
from tdas_ops.coloured import ColouredNoise, RadialTable
from tdas_ops.denoiser import PreconditionedDenoiser
from tdas_ops.fields import GaussianField, PowerSpectrum, power_spectrum, random_field
from tdas_ops.holder import PreconditionerModule
from tdas_ops.noise import NoiseStream
from tdas_ops.ops import langevin_step, noise, precondition, step
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.spectrum import Spectrum

if TYPE_CHECKING:
    from tdas_ops import calibrate, integrations, models, samplers

__all__ = [
    "ColouredNoise",
    "GaussianField",
    "NoiseStream",
    "PowerSpectrum",
    "PreconditionedDenoiser",
    "Preconditioner",
    "PreconditionerModule",
    "RadialTable",
    "SlowPathWarning",
    "Spectrum",
    "__version__",
    "backend_info",
    "calibrate",
    "integrations",
    "langevin_step",
    "machine_info",
    "models",
    "noise",
    "power_spectrum",
    "precondition",
    "random_field",
    "samplers",
    "sde",
    "step",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    """Modules of `__all__` that are imported on first use."""
    if name in __all__:
        return importlib.import_module(f"tdas_ops.{name}")
    raise AttributeError(f"module 'tdas_ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
