"""One iteration of a sampler in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tdas_ops.preconditioner import Preconditioner
from tdas_ops.sde import Level

Iteration = Callable[[Preconditioner, Tensor, Level | None], Tensor]
"""`(M, coefficients, level) -> x_mean`: one iteration in place; level None stands for that of the coefficients."""

_WARM_UPS = 2


class Captured:
    """An iteration as a CUDA graph, replayed at every call: the bits of the eager iteration without Python's time.

    The graph reads masks and coefficients from memory of its own, to which every call copies those it is given.

    Args:
        iterate: the iteration; it allocates the x_mean that it returns.
        M, coefficients: those of the next iteration.
        changed: the tensors that it updates in place; making the graph leaves no trace in them.

    Raises:
        RuntimeError: it cannot be captured.
    """

    def __init__(self, iterate: Iteration, M: Preconditioner, coefficients: Tensor, changed: Sequence[Tensor]) -> None:
        self._iterate, self._changed = iterate, changed
        self._given, self._M, self._coefficients = M, M.clone(), coefficients.clone()
        with torch.cuda.device(coefficients.device):
            self._warm_up()
            self._capture()

    def __call__(self, M: Preconditioner, coefficients: Tensor, level: Level | None) -> Tensor:
        self._coefficients.copy_(coefficients)
        if M is not self._given:
            for own, mask in zip(self._M.masks(torch.float32), M.masks(torch.float32), strict=True):
                if own is not None and mask is not None:
                    own.copy_(mask)
            self._given = M
        self._graph.replay()
        return self._x_mean

    def _warm_up(self) -> None:
        """On a side stream: loads kernels, plans transforms, compiles, tunes, which a capture cannot."""
        before = [t.clone() for t in self._changed]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.random.fork_rng([self._coefficients.device]):
            for _ in range(_WARM_UPS):
                self._iterate(self._M, self._coefficients, None)
        torch.cuda.current_stream().wait_stream(side)
        for t, old in zip(self._changed, before, strict=True):
            t.copy_(old)

    def _capture(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        try:
            # A capture that cannot be ended leaves torch's own stream the current one: the caller's is set again.
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(self._graph):
                self._x_mean = self._iterate(self._M, self._coefficients, None)
        except Exception as error:
            # Where the capture is broken, ending it fails as well: the first error says why.
            cause = error.__context__ or error
            why = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
            raise RuntimeError(
                f"cuda_graph: got a score function or hook that cannot be captured ({why}), expected one that reads no "
                "value of a tensor and never waits for the device (or cuda_graph=False)"
            ) from cause
