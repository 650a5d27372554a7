"""Free and phi^4 fields on a 64 x 64 lattice by Hamiltonian Monte Carlo, with and without Fourier acceleration.

    python examples/lattice_fields.py --out lattice.webp

Accelerated, all modes turn at one pace, so that trajectories of a quarter of a turn forget where they began, and the
step is not bound to the stiffest mode. The action is `sum [(phi(x + i) - phi(x))^2 + m^2 phi^2] / 2 + coupling phi^4`.
"""

import argparse
import math

import torch
from field_of_spectrum import picture

from tdas_ops import random_field
from tdas_ops.samplers import physics

SHAPE, TIME, PLAIN, FAST = (64, 64), 1.5, 16, 8  # of a trajectory, and its leapfrog steps
LAWS = {"free": (0.1, 0.0), "phi^4": (-0.4, 0.1)}  # m^2 and the coupling
FREE = physics.free_propagator(SHAPE, 0.1)
fourier = lambda x: torch.fft.rfft2(x[:, 0], norm="ortho")


def lowest(x):
    """Nine real numbers, with the variances of the nine slowest modes, `[chains, 9]`."""
    modes = fourier(x)[:, [0, 1, 0, 1, -1], [0, 0, 1, 1, 1]]
    return torch.cat([modes.real[:, :1], math.sqrt(2) * modes.real[:, 1:], math.sqrt(2) * modes.imag[:, 1:]], 1)


class Run:
    """Chains after equilibrium: the propagator of each, `[chains, 64, 33]`, and what the slowest modes say."""

    def __init__(self, law, M=None, chains=8, steps=300, seed=0):
        mass, coupling = LAWS[law]
        self.leapfrog, self.states, first = PLAIN if M is None else FAST, [], steps // 4
        around = lambda x: sum(x.roll(by, axis) for axis in (-1, -2) for by in (1, -1))
        grad = lambda x: (4 + mass + 4 * coupling * x**2) * x - around(x)
        # x grad / 2 is the action but for half of the quartic part
        energy = lambda x: (0.5 * x * grad(x) - coupling * x**4).sum((1, 2, 3), dtype=torch.float64)
        keep = lambda chain: self.states.append(chain.x.clone()) if chain.step > first and chain.step % 3 == 0 else None
        start = random_field(FREE, SHAPE, noise=seed + 1, members=chains)[:, None]
        options = {"leapfrog": self.leapfrog, "M": M, "grad": grad, "observe": lowest, "callback": keep}
        chain = physics.hmc(energy, start, steps, TIME / self.leapfrog, noise=seed, **options)
        self.propagator = torch.stack([fourier(x).abs() ** 2 for x in self.states]).mean(0)
        self.slow = physics.autocorrelation_time(chain.trace[first:].flatten(1))
        self.acceptance = float(chain.acceptance.mean())

    def expected_time(self, pace):
        """Of a mode that turns at `pace`: a leapfrog step turns it by `cos(angle) = 1 - (step pace)^2 / 2`."""
        steps = [TIME / self.leapfrog * (1 + 0.2 * (2 * i / 99 - 1)) for i in range(100)]  # the jitter of hmc
        turns = [math.cos(self.leapfrog * math.acos(1 - (step * pace) ** 2 / 2)) for step in steps]
        rho = 1 - self.acceptance * (1 - sum(turns) / 100)
        return 0.5 * (1 + rho) / (1 - rho)


def pair(law, **settings):
    """The chains of a law without and with acceleration; masses of the theory, or of samples of the first run, and the
    factor that a Gaussian law of that propagator has the autocorrelation time fall by."""
    plain = Run(law, **settings)
    M = physics.mass_of_spectrum(FREE, SHAPE) if law == "free" else physics.mass_of_samples(torch.cat(plain.states))
    fast = Run(law, M, seed=10, **settings)
    pace = float(lowest(torch.cat(fast.states)).square().mean()) ** -0.5
    return plain, fast, plain.expected_time(pace) / fast.expected_time(1.0)


def departure(a, b):
    """Mean square, in standard errors of the chains, of the difference of two propagators: near 1.2 for one law."""
    return float(((a.mean(0) - b.mean(0)).square() / (a.var(0) + b.var(0)) * len(a)).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="lattice.webp")
    for law in LAWS:
        plain, fast, factor = pair(law)
        print(f"{law}: acceptance {plain.acceptance:.2f} and {fast.acceptance:.2f}; the slowest modes forget in")
        print(f"  {plain.slow.time:.2f} and {fast.slow.time:.2f} steps, by theory {factor:.1f} to 1; propagators:")
        print(f"  {departure(plain.propagator, fast.propagator):.2f} (1.2 for one law)")
    picture(fast.states[-1][0, 0], parser.parse_args().out)
