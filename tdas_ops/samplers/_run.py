"""The shared run of all samplers: buffers, start and resume, hooks, casts, CUDA graph and loop.

An iteration is one function that updates the state in place and reads everything that differs between iterations
(coefficients, masks, the draw counter) from tensors, so that a CUDA graph of it is right for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tdas_ops import ops
from tdas_ops._graph import Captured, Iteration
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.sde import Level

ScoreFn = Callable[[Tensor, Tensor], Tensor]
Filters = Preconditioner | Sequence[Preconditioner]
Hook = Callable[[Tensor, Tensor, Level, NoiseStream], tuple[Tensor, Tensor]]


@dataclass
class State:
    """A run after `iteration` of `iterations` iterations.

    Attributes:
        x: the current state, noise included, `[B, C, H, W]`; the next iteration writes to this tensor.
        x_mean: the state before the last noise was added: the sample when the run is over; the next iteration may
            write to this tensor.
        noise: the stream the run draws from.
    """

    iteration: int
    iterations: int
    x: Tensor
    x_mean: Tensor
    noise: NoiseStream

    def state_dict(self) -> dict[str, Any]:
        """Copies of the tensors and plain values, for `resume` or `torch.save`; waits for the device."""
        return {
            "iteration": self.iteration,
            "iterations": self.iterations,
            "x": self.x.detach().clone(),
            "x_mean": self.x_mean.detach().clone(),
            "noise": self.noise.state_dict(),
        }


Callback = Callable[[State], None]


def filters(M: Filters, iterations: int) -> list[Preconditioner]:
    """The preconditioner of every iteration."""
    if isinstance(M, Preconditioner):
        return [M] * iterations
    strange = [M] if not isinstance(M, Sequence) else [each for each in M if not isinstance(each, Preconditioner)]
    if strange:
        raise TypeError(f"M: got {type(strange[0]).__name__}, expected a Preconditioner or a sequence of them")
    if len(M) != iterations:
        got = f"{len(M)} preconditioners"
        raise ValueError(f"M: got {got}, expected one, or one for each of {iterations} iterations")
    kinds = {f"{each.shape} of method {each.method!r} on {each.device}" for each in M}
    if len(kinds) > 1:
        got = " beside ".join(sorted(kinds))
        raise ValueError(f"M: got preconditioners {got}, expected one shape, method and device")
    return list(M)


class Run:
    """The buffers of a run, which every iteration updates in place, and its loop.

    Attributes:
        x: the state.
        seen: what the score function receives: x itself, or x in the network's dtype and memory format.
        rows: the coefficients of every iteration, a tensor for each.
    """

    def __init__(
        self,
        shape: Sequence[int],
        filters: list[Preconditioner],
        levels: list[Level],
        noise: NoiseStream,
        hook: Hook | None,
        cuda_graph: bool,
    ) -> None:
        if not isinstance(noise, NoiseStream):
            raise TypeError(f"noise: got {type(noise).__name__}, expected a NoiseStream")
        if cuda_graph:
            _check_capturable(filters)
        self.shape, self.filters, self.levels, self.noise = tuple(shape), filters, levels, noise
        self.hook, self.cuda_graph = hook, cuda_graph

    def begin(
        self,
        scale: float,
        start: Tensor | None,
        resume: dict[str, Any] | None,
        network_dtype: torch.dtype | None,
        channels_last: bool,
    ) -> None:
        """Sets the buffers to the start of the run, or to where it was interrupted."""
        if network_dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
            raise TypeError(f"network_dtype: got {network_dtype}, expected float32, bfloat16 or float16")
        device, iterations = self.filters[0].device, len(self.levels)
        if resume is not None:
            if resume["iterations"] != iterations or tuple(resume["x"].shape) != self.shape:
                raise ValueError(
                    f"resume: got a run of {resume['iterations']} iterations and shape {tuple(resume['x'].shape)}, "
                    f"expected {iterations} and {self.shape}"
                )
            self.noise.load_state_dict(resume["noise"])
        self.first_draw = self.noise.draw.clone()
        if resume is not None:
            self.iteration = int(resume["iteration"])
            self.x, self.x_mean = (buffer(resume[name].to(device)) for name in ("x", "x_mean"))
        else:
            self.iteration = 0
            self.x = self.x_mean = self._start(scale, start)
        self.noise.arguments(self.shape[0], device)  # moves the stream to the device
        table = torch.tensor([_row(level) for level in self.levels], dtype=self.x.dtype)
        self.rows = table.to(device).unbind()
        memory_format = torch.channels_last if channels_last else torch.preserve_format
        self.seen = self.x.to(network_dtype or self.x.dtype, memory_format=memory_format)

    def _start(self, scale: float, start: Tensor | None) -> Tensor:
        M = self.filters[0]
        if start is None:
            return ops.noise(M, self.shape, self.noise, scale)
        if tuple(start.shape) != self.shape or start.device != M.device:
            got = f"{tuple(start.shape)} on {start.device}"
            raise ValueError(f"start: got {got}, expected {self.shape} on {M.device}")
        return buffer(start)

    @property
    def cast(self) -> Tensor | None:
        """What an op writes beside x. Where a hook has the last word on x, it is cast after the hook."""
        return None if self.seen is self.x or self.hook is not None else self.seen

    def hooked(self, x_mean: Tensor, level: Level) -> Tensor:
        """Lets the hook have its say on x and returns x_mean."""
        if self.hook is None:
            return x_mean
        x, x_mean = self.hook(self.x, x_mean, level, self.noise)
        if x is not self.x:
            self.x.copy_(x)
        if self.seen is not self.x:
            self.seen.copy_(self.x)
        return x_mean

    def loop(self, iterate: Iteration, callback: Callback | None, check_finite: bool, progress: bool) -> None:
        """The iterations that are left."""
        first, total = self.iteration, len(self.levels)
        if self.cuda_graph and first < total:
            iterate = self._captured(iterate)
        for i in tqdm(range(first, total), initial=first, total=total, disable=not progress):
            self.x_mean = iterate(self.filters[i], self.rows[i], self.levels[i])
            if check_finite and not bool(torch.isfinite(self.x).all()):
                raise FloatingPointError(
                    f"iteration {i + 1} of {total}: got non-finite values in x, expected finite ones"
                )
            if callback is not None:
                callback(State(i + 1, total, self.x, self.x_mean, self.noise))
        if self.cuda_graph:
            self.x_mean = self.x_mean.clone()  # out of the memory of the graph

    def _captured(self, iterate: Iteration) -> Captured:
        changed = [self.x, self.noise.draw] if self.seen is self.x else [self.x, self.seen, self.noise.draw]
        try:
            return Captured(iterate, self.filters[self.iteration], self.rows[self.iteration], changed)
        except Exception:
            self.noise.draw.copy_(self.first_draw)
            raise


def _check_device(device: torch.device) -> None:
    if device.type != "cuda":
        raise ValueError(f"cuda_graph: got True with M on {device}, expected M on a CUDA device (or cuda_graph=False)")


def _check_capturable(filters: list[Preconditioner]) -> None:
    _check_device(filters[0].device)
    if len({tuple(mask is not None for mask in M.masks(torch.float32)) for M in filters}) > 1:
        raise ValueError("M: got preconditioners with different masks absent, expected the same ones with cuda_graph")


def _row(level: Level) -> list[float]:
    return [level.time, level.condition, level.mean_scale, level.std, level.alpha, *level.reverse, *level.euler]


def level_of(row: Tensor) -> Any:
    """A row of coefficients as a `Level` whose fields are views of it."""
    time, condition, mean_scale, std, alpha, *steps = row.unbind()
    return Level(time, condition, mean_scale, std, alpha, tuple(steps[:3]), tuple(steps[3:]))  # type: ignore[arg-type]


def buffer(t: Tensor) -> Tensor:
    """A copy that an op can update in place."""
    last = not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last)
    return t.detach().clone(memory_format=torch.channels_last if last else torch.contiguous_format)
