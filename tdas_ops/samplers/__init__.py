"""Samplers: loops of `step` and `langevin_step` around a score function.

A score function is any callable `(x, level) -> score`: x is `[B, C, H, W]`, `level` a tensor `[B]` in the dtype and on
the device of x with sigma (VE and annealed Langevin) or t (VP, sub-VP) of every sample. No loop waits for the device,
unless `check_finite` is set or a callback asks for values.

A run can be interrupted and continued: `callback` receives a `State` after every iteration; its `state_dict()` handed
to `resume` continues to bit-identical samples.
"""

from tdas_ops.samplers._run import Callback, Filters, Hook, ScoreFn, State
from tdas_ops.samplers.inpaint import inpaint
from tdas_ops.samplers.langevin import annealed_langevin, ncsnv2_step_size
from tdas_ops.samplers.pc import pc

__all__ = [
    "Callback",
    "Filters",
    "Hook",
    "ScoreFn",
    "State",
    "annealed_langevin",
    "inpaint",
    "ncsnv2_step_size",
    "pc",
]
