"""No figure without parity: what is about to be timed is first compared, on that very input, with the reference in
float64.

Bounds as in CONTRIBUTING.md: relative RMS 1e-6 of the deterministic part in float32, 1e-5 on unit normals. A baseline
has 1e-5: its float32 norms of a million squares are what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import tdas_ops
from benchmarks import contenders

DETERMINISTIC, NORMALS, BASELINE = 1e-6, 1e-5, 1e-5


class ParityError(AssertionError):
    """A contender computes something else than the reference; nothing of it is measured."""


def _rms(t: Tensor) -> float:
    return float(t.square().mean().sqrt())


class Oracle:
    """The answers of the reference backend in float64 to one call of an op, with noise z given and drawn."""

    def __init__(self, op: str, M: tdas_ops.Preconditioner, x: Tensor, v: Tensor) -> None:
        self.op, self.call = op, contenders.package(op, M)
        self.x, self.v = x, v
        self.z = self._torch_noise()
        self.spectral = M.freq is not None and M.space is None  # where normals are drawn: frequencies or pixels
        with tdas_ops.use_backend("reference"):
            self.given = self.call(x.double(), v.double(), self.z.double())
            self.drawn = self.call(x.double(), v.double(), self._stream())
        # Both differ by n M (z - z'), two independent noises: how far unit normals are scaled on their way to x'.
        self.noise_scale = _rms(self.given - self.drawn) / math.sqrt(2)

    @staticmethod
    def _stream() -> tdas_ops.NoiseStream:
        return tdas_ops.NoiseStream(seed=11, draw=5)

    def _torch_noise(self) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return torch.randn_like(self.x)

    def check(self, call: contenders.Op | None = None) -> None:
        """The op on the backend that is chosen around this call; or `call`, which must do the same.

        Raises:
            ParityError: with noise given or with noise drawn.
        """
        call = call or self.call
        self._check_given(call(self.x, self.v, self.z))
        if not self.noise_scale:  # nothing to draw
            return
        wrong = (call(self.x, self.v, self._stream()).double() - self.drawn) / self.noise_scale
        # In pixels, what the last bits of a million spectral normals have in common would add up at pixel 0.
        error = float((torch.fft.rfft2(wrong, norm="ortho") if self.spectral else wrong).abs().max())
        if not error <= NORMALS:
            raise ParityError(f"drawn noise: error {error:.2g} of a unit normal, allowed {NORMALS:g}")

    def check_baseline(self, update: Callable[[Tensor, Tensor], Tensor]) -> None:
        """A baseline whose noise is the first draw of torch's generator: what it computes must be the same too.

        Raises:
            ParityError: it is not.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self._check_given(update(self.x, self.v), BASELINE)

    def _check_given(self, got: Tensor, allowed: float = DETERMINISTIC) -> None:
        error = _rms(got.double() - self.given) / _rms(self.given)
        if not error <= allowed:
            raise ParityError(f"deterministic part: relative RMS error {error:.2g}, allowed {allowed:g}")
