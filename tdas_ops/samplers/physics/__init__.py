"""Markov chains for a density `exp(-U(x))` that is known up to a factor: lattice fields, inverse problems.

    ula, mala, hmc              Langevin steps, with accept/reject, and Hamiltonian trajectories
    pcn                         preconditioned Crank-Nicolson, for a Gaussian prior and a potential
    mass_of_spectrum, mass_of_samples    what accelerates them: the filter M whose `M M^T` is the inverse mass
    gaussian, free_propagator   energies of Gaussian laws as Parseval sums; the propagator of the free lattice field
    autocorrelation_time        of an observable, with Sokal's window

A state is `[chains, ...]`, float32 or (on the CPU) float64; each chain has noise and decisions of its own. `energy(x)`
is U of each chain, `[chains]`; `grad(x)` its gradient, like x, by default that of autograd. The kinetic energy is
`p^T M M^T p / 2`, M a `Preconditioner` of method "pds" for states `[chains, C, H, W]` (`[chains, N]` in one dimension),
a `GaussianField` for states of its shape, of three dimensions too, or 1. Fourier acceleration (Batrouni et al.,
Phys. Rev. D 32, 2736, 1985) is an `M M^T` that is the covariance of the law or near it: all modes move at one pace.

Sums and decisions are float64 on the device, and no step waits for it. Chains are reproducible through their
`NoiseStream`, in any batch as far as `energy` and `grad` are, and a run goes on from `Chain.state_dict()` to the bit.
"""

from tdas_ops.samplers.physics.chain import Chain, Options, RejectionWarning
from tdas_ops.samplers.physics.diagnostics import Autocorrelation, autocorrelation_time
from tdas_ops.samplers.physics.hamiltonian import hmc, mala, ula
from tdas_ops.samplers.physics.laws import free_propagator, gaussian, mass_of_samples, mass_of_spectrum
from tdas_ops.samplers.physics.pcn import pcn

__all__ = [
    "Autocorrelation",
    "Chain",
    "Options",
    "RejectionWarning",
    "autocorrelation_time",
    "free_propagator",
    "gaussian",
    "hmc",
    "mala",
    "mass_of_samples",
    "mass_of_spectrum",
    "pcn",
    "ula",
]
