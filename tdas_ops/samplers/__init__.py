"""Samplers: loops of `step` and `langevin_step` around a score function.

    pc                                                  predictor and corrector on a discretised SDE
    annealed_langevin                                   NCSN, NCSNv2
    ancestral, dpmpp, heun, probability_flow            few steps on a ladder of noise levels
    physics                                             chains for a density that is known up to a factor

A score function is any callable `(x, level) -> score`: x is `[B, C, H, W]`, `level` a tensor `[B]` in the dtype and on
the device of x with sigma (VE and annealed Langevin), t (VP, sub-VP) or the label (`sde.Discrete`) of every sample. It
leaves x as it is. `tdas_ops.integrations.networks` makes one of networks that predict noise, the denoised image or a
velocity. No loop waits for the device, unless `check_finite` is set or a callback asks for values.

A run can be interrupted and continued: `callback` receives a `State` after every iteration; its `state_dict()` handed
to `resume` continues to bit-identical samples.
"""

from tdas_ops.samplers import physics
from tdas_ops.samplers._ladder import Levels
from tdas_ops.samplers._run import Callback, Filters, Hook, Options, ScoreFn, State
from tdas_ops.samplers.ancestral import ancestral
from tdas_ops.samplers.dpmpp import dpmpp
from tdas_ops.samplers.heun import heun, probability_flow
from tdas_ops.samplers.inpaint import inpaint
from tdas_ops.samplers.langevin import annealed_langevin, ncsnv2_step_size
from tdas_ops.samplers.pc import pc

__all__ = [
    "Callback",
    "Filters",
    "Hook",
    "Levels",
    "Options",
    "ScoreFn",
    "State",
    "ancestral",
    "annealed_langevin",
    "dpmpp",
    "heun",
    "inpaint",
    "ncsnv2_step_size",
    "pc",
    "physics",
    "probability_flow",
]
