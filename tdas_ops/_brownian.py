"""`Brownian`: increments of one path over noise levels, drawn anew from the counters of the noise at every call.

A virtual Brownian tree (Gaines and Lyons 1997; Li et al., arXiv 2001.01328): the path is fixed at both ends, then in
the middle of what lies between, and so on. The value of a node is a draw of its own, so that nothing is kept. Nodes lie
evenly in log sigma, whatever the time of the path, so that every level is met to the same share of itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tdas_ops import _arguments, _backends

Transform = Callable[[Any], Any]

_DEPTH = 22  # halvings, each a draw: levels are told apart to 7e-6 of themselves
_CELLS = 1 << _DEPTH
_OCTAVES = 20  # levels from 2^-20 to 2^20
_NODES = 24  # bits of a draw's number that say which node; 39 more say which path, and the highest is set


class Brownian:
    """Increments of a Brownian path for each element of a batch, over noise levels: what `NoiseStream.brownian` makes.

    `W(sigma_next) - W(sigma)` is a function of the stream, the sample and the two levels alone, in any order of calls,
    so that the picture of a stochastic sampler stays the same, up to its discretisation, at another number of steps.
    Increments over neighbouring intervals add up to that over both. Levels are 0 to 2^20; those below 2^-20 count as
    2^-20. They are rounded to 7e-6 of themselves, and the law of the increments is exact for the rounded ones.

    Attributes:
        shape: of a result, the batch first.
        dtype, device: of a result; on the CPU float64 sums in float64, all else in float32.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        drawn: tuple[Tensor, Tensor, int],
        dtype: torch.dtype,
        device: torch.device,
        transform: Transform | None,
    ) -> None:
        seeds, draw, self._first_sample = drawn
        self.shape, self.dtype, self.device = shape, dtype, device
        self._planes = planes(shape)
        self._seeds = seeds.clone()
        # Above all draws that ops take, up to 2^63: no path shares a value with them.
        self._path = (draw.remainder(1 << (63 - _NODES)) << _NODES) | -(1 << 63)
        self._transform = transform
        self._times: dict[int, float] = {}

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        """The increment from sigma to sigma_next with unit variance: divided by the root of the time between.

        As k-diffusion calls its `noise_sampler`. Levels are numbers or tensors of one element, of which one on a GPU is
        waited for.

        Raises:
            ValueError, TypeError: levels that are none, or so near to each other that no time lies between.
        """
        return self.unrounded(sigma, sigma_next).to(self.dtype)

    def increment(self, sigma: Any, sigma_next: Any) -> Tensor:
        """`W(sigma_next) - W(sigma)`, of variance `|T(sigma_next) - T(sigma)|`; zero for one level twice."""
        return self.unrounded(sigma, sigma_next, unit=False).to(self.dtype)

    def unrounded(self, sigma: Any, sigma_next: Any, unit: bool = True) -> Tensor:
        """The increment before it is rounded to the dtype of a result."""
        here, there = _cell("sigma", sigma), _cell("sigma_next", sigma_next)
        scale = 1.0
        if unit:
            if here == there:
                got = f"{_arguments.shown(sigma)} and {_arguments.shown(sigma_next)}"
                raise ValueError(f"sigma, sigma_next: got {got}, expected levels that differ by more than 1e-5 of them")
            between = abs(self._time(there) - self._time(here))
            if not between > 0:
                raise ValueError("transform: got one that does not rise or fall throughout, expected one that does")
            scale = 1 / math.sqrt(between)
        start, end = self._weights(here), self._weights(there)
        double = self.dtype is torch.float64 and self.device.type == "cpu"
        dtype = torch.float64 if double else torch.float32
        total = torch.zeros(self._planes, dtype=dtype, device=self.device)
        white = torch.empty(self._planes, dtype=torch.float32, device=self.device)
        kernel = _backends.kernel("noise", white, None)
        for node in sorted(start.keys() | end.keys()):
            weight = scale * (end.get(node, 0.0) - start.get(node, 0.0))
            if weight != 0:
                factor = 1.0 if double else weight
                kernel(white, None, None, factor, None, None, self._seeds, self._path + node, self._first_sample)
                total.add_(white.double().mul_(weight) if double else white)
        return total.reshape(self.shape)

    def _time(self, cell: int) -> float:
        sigma = 2.0 ** (2 * _OCTAVES * cell / _CELLS - _OCTAVES)
        if self._transform is None:
            return sigma
        if cell not in self._times:
            time = float(self._transform(torch.tensor(sigma, dtype=torch.float64)))
            if not math.isfinite(time):
                raise ValueError(f"transform: got {time} for the level {sigma:.6g}, expected a finite time")
            self._times[cell] = time
        return self._times[cell]

    def _weights(self, cell: int) -> dict[int, float]:
        """What the draw of each node counts in W at the cell's lower end; node 0 is the far end of the path."""
        low, high, node = 0, _CELLS, 1
        at_low: dict[int, float] = {}
        at_high = {0: math.sqrt(abs(self._time(high) - self._time(low)))}
        while cell not in (low, high):
            middle = (low + high) // 2
            before, after = self._time(middle) - self._time(low), self._time(high) - self._time(middle)
            if not before * after > 0:
                raise ValueError("transform: got one that does not rise or fall throughout, expected one that does")
            share = before / (before + after)
            between = {k: (1 - share) * at_low.get(k, 0.0) + share * w for k, w in at_high.items()}
            between |= {k: (1 - share) * w for k, w in at_low.items() if k not in at_high}
            between[node] = math.sqrt(share * abs(after))
            if cell < middle:
                high, at_high, node = middle, between, 2 * node
            else:
                low, at_low, node = middle, between, 2 * node + 1
        return at_low if cell == low else at_high

    @property
    def seed(self) -> int:
        """The seed of the stream, of its first sample where each has one."""
        return int(self._seeds[0]) % (1 << 64)

    def __repr__(self) -> str:
        return f"Brownian(shape={self.shape}, dtype={self.dtype}, device={self.device})"


def planes(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """`[B, C, H, W]` with the elements of a shape in order: axes between the first and the last two are channels."""
    height, width = (1, 1, *shape[1:])[-2:]
    return shape[0], math.prod(shape[1:-2]), height, width


def level(name: str, sigma: Any) -> float:
    """A noise level, of a number or of a tensor whose elements are all the same.

    Raises:
        ValueError, TypeError: it is something else, or not finite, or below 0.
    """
    expected = "a number, or a tensor of one"
    if isinstance(sigma, Tensor) and sigma.numel() == 0:
        raise ValueError(f"{name}: got shape {tuple(sigma.shape)}, expected {expected}")
    if isinstance(sigma, Tensor) and sigma.numel() > 1:
        if not bool((sigma == sigma.flatten()[0]).all()):
            raise ValueError(f"{name}: got several levels from {float(sigma.min()):.4g}, expected one for all samples")
        sigma = sigma.flatten()[0]
    found = _arguments.number(name, sigma.reshape(()) if isinstance(sigma, Tensor) else sigma, expected)
    if not 0 <= found < math.inf:
        raise ValueError(f"{name}: got {found}, expected a finite level that is not negative")
    return found


def _cell(name: str, sigma: Any) -> int:
    found = level(name, sigma)
    if found > 2.0**_OCTAVES:
        raise ValueError(f"{name}: got {found:.4g}, expected a level of at most 2^{_OCTAVES}")
    if found <= 2.0**-_OCTAVES:
        return 0
    return round((math.log2(found) + _OCTAVES) / (2 * _OCTAVES) * _CELLS)
