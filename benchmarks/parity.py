"""No figure without parity: what is about to be timed is first compared, on that very input, with the reference in
float64.

Bounds as in CONTRIBUTING.md: relative RMS 1e-6 of the deterministic part in float32, 1e-5 on unit normals. On a GPU a
result with drawn noise has a relative RMS of 2e-6: the last bits of its special function unit are not those of float64.
A baseline has 1e-5: its float32 norms of a million squares are what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

import tdas_ops
from benchmarks import contenders

GIVEN, NORMALS, DRAWN, BASELINE = 1e-6, 1e-5, 2e-6, 1e-5


class ParityError(AssertionError):
    """A contender computes something else than the reference; nothing of it is measured."""


def _rms(t: Tensor) -> float:
    return float(t.square().mean().sqrt())


def relative(got: Tensor, wanted: Tensor) -> float:
    """RMS of the error over that of the float64 result; NaN, which passes no bound, where either is not finite."""
    return _rms(got.double() - wanted) / _rms(wanted)


class Oracle:
    """The float64 answers of the reference backend to one call of an op, with noise z given and drawn; on the CPU."""

    def __init__(self, op: str, M: tdas_ops.Preconditioner, x: Tensor, v: Tensor) -> None:
        self.op, self.call = op, contenders.package(op, M)
        self.x, self.v = x, v
        self.z = self._torch_noise()
        self.spectral = M.freq is not None and M.space is None  # where normals are drawn: frequencies or pixels
        wanted = contenders.package(op, M.to("cpu"))
        x, v, z = (t.cpu().double() for t in (x, v, self.z))
        with tdas_ops.use_backend("reference"):
            self.given, self.drawn = (
                wanted(x, v, noise).to(self.x.device) for noise in (z, tdas_ops.NoiseStream(11, draw=5))
            )
        # Both differ by n M (z - z'), two independent noises: how far unit normals are scaled on their way to x'.
        self.noise_scale = _rms(self.given - self.drawn) / math.sqrt(2)

    def _torch_noise(self) -> Tensor:
        with self._seeded():
            return torch.randn_like(self.x)

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[self.x.device] if self.x.is_cuda else []):
            torch.manual_seed(3)
            yield

    def check(self, call: contenders.Op | None = None) -> None:
        """The op on the backend that is chosen around this call; or `call`, which must do the same.

        Raises:
            ParityError: with noise given or with noise drawn.
        """
        call = call or self.call
        _hold("deterministic part", call(self.x, self.v, self.z), self.given, GIVEN)
        if not self.noise_scale:  # nothing to draw
            return
        drawn = call(self.x, self.v, tdas_ops.NoiseStream(11, draw=5, device=self.x.device))
        if self.x.is_cuda:
            return _hold("drawn noise", drawn, self.drawn, DRAWN)
        wrong = (drawn.double() - self.drawn) / self.noise_scale
        # In pixels, what the last bits of a million spectral normals have in common would add up at pixel 0.
        error = float((torch.fft.rfft2(wrong, norm="ortho") if self.spectral else wrong).abs().max())
        if not error <= NORMALS:
            raise ParityError(f"drawn noise: error {error:.2g} of a unit normal, allowed {NORMALS:g}")

    def check_baseline(self, update: Callable[[Tensor, Tensor], Tensor]) -> None:
        """A baseline whose noise is the first draw of torch's generator: what it computes must be the same too.

        Raises:
            ParityError: it is not.
        """
        with self._seeded():
            _hold("deterministic part", update(self.x, self.v), self.given, BASELINE)


def _hold(what: str, got: Tensor, wanted: Tensor, allowed: float) -> None:
    error = relative(got, wanted)
    if not error <= allowed:
        raise ParityError(f"{what}: relative RMS error {error:.2g}, allowed {allowed:g}")
