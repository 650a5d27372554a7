"""The shared run of all samplers: buffers, start and resume, hooks, casts, CUDA graph and loop.

An iteration is one function that updates the state in place and reads everything that differs between iterations
(coefficients, masks, the draw counter) from tensors, so that a CUDA graph of it is right for all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor
from tqdm import tqdm

from tdas_ops import _arguments, ops
from tdas_ops._graph import Captured, Iteration
from tdas_ops.noise import NoiseStream, Stream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.sde import Marginal

if TYPE_CHECKING:
    from typing_extensions import Unpack

ScoreFn = Callable[[Tensor, Tensor], Tensor]
Filters = Preconditioner | Sequence[Preconditioner]
NoiseSampler = Callable[[float, float], Tensor]
Hook = Callable[[Tensor, Tensor, Any, NoiseStream], tuple[Tensor, Tensor]]


_DTYPES = {
    torch.float32: (torch.float32, torch.bfloat16, torch.float16),
    torch.float64: (torch.float64, torch.float32, torch.bfloat16, torch.float16),
}
"""Of a state, and what a score beside it may have."""
_STATE = {"iteration", "iterations", "x", "x_mean", "noise"}


@dataclass
class State:
    """A run after `iteration` of `iterations` iterations.

    Attributes:
        x: the current state, noise included, `[B, C, H, W]`; the next iteration writes to this tensor.
        x_mean: the state before the last noise was added, in samplers that keep it, else x: the sample when the run is
            over; the next iteration may write to this tensor.
        noise: the stream the run draws from.
        history: what a multistep sampler keeps of the steps before; the next iteration writes to these tensors.
        plan: a digest of the coefficients of all iterations, by which sampler, levels and settings are known again.
    """

    iteration: int
    iterations: int
    x: Tensor
    x_mean: Tensor
    noise: NoiseStream
    history: Sequence[Tensor] = ()
    plan: str = ""

    def state_dict(self) -> dict[str, Any]:
        """Copies of the tensors and plain values, for `resume` or `torch.save`; waits for the device."""
        return {
            "iteration": self.iteration,
            "iterations": self.iterations,
            "x": self.x.detach().clone(),
            "x_mean": self.x_mean.detach().clone(),
            "noise": self.noise.state_dict(),
            "history": [t.detach().clone() for t in self.history],
            "plan": self.plan,
        }


Callback = Callable[[State], None]


class Options(TypedDict, total=False):
    """What every sampler takes besides arguments of its own.

    Attributes:
        start: the start point `[B, C, H, W]`, by default noise of the first level; a run keeps its dtype (float32, or
            float64 on the CPU).
        hook: called after each step as `hook(x, x_mean, level, noise) -> (x, x_mean)`, for example `inpaint(...)`;
            `level` has the fields of `sde.Marginal`. With `cuda_graph` they are tensors without dimensions. x_mean is x
            where a sampler keeps none.
        callback: called with the `State` after each iteration.
        resume: a `State.state_dict()` to continue from; `noise` is set to the place where that run was.
        check_finite: stop with an error when x is no longer finite; waits for the device once an iteration.
        cuda_graph: capture the first iteration, score function and hook included, and replay it for all of them: the
            bits of the eager run without Python's time. On a CUDA device, for a score function that never waits for
            it, with the same masks present in all of M. Callback and `check_finite` run between the replays.
        network_dtype: dtype of the x that the score function receives, float32, bfloat16 or float16, by default that
            of the state; the update writes it beside the state.
        channels_last: the score function receives x in the memory format channels_last.
        progress: show a progress bar (the default).
    """

    start: Tensor | None
    hook: Hook | None
    callback: Callback | None
    resume: dict[str, Any] | None
    check_finite: bool
    cuda_graph: bool
    network_dtype: torch.dtype | None
    channels_last: bool
    progress: bool


class Run:
    """The buffers of a run, which every iteration updates in place, and its loop.

    Args:
        score_fn, shape, M, noise: as the sampler has them; M None is the identity, on the device of start or noise.
        levels: the marginal that a hook is told after each iteration.
        rows: the coefficients of every iteration.
        scale: noise scale of the start point.
        scaled: whether the score function receives x times a mean scale.
        history: how many tensors like x an iteration leaves to the next one.
        noise_sampler: what makes the noise of a step from its two levels, `between`, in the place of the stream.
        options: `Options`.

    Attributes:
        x: the state.
        seen: what the score function receives: x itself, or x in the network's dtype and memory format or scaled.
        rows: the coefficients of every iteration, a tensor for each.
        history: tensors like x, zero at first.
    """

    def __init__(
        self,
        score_fn: ScoreFn,
        shape: Sequence[int],
        M: Filters | None,
        noise: Stream,
        levels: Sequence[Marginal],
        rows: Sequence[Sequence[float]],
        scale: float,
        *,
        scaled: bool = False,
        history: int = 0,
        noise_sampler: NoiseSampler | None = None,
        between: Sequence[tuple[float, float]] = (),
        **options: Unpack[Options],
    ) -> None:
        unknown = set(options) - set(Options.__annotations__)
        if unknown:
            expected = ", ".join(Options.__annotations__)
            raise TypeError(
                f"options: got {', '.join(sorted(unknown))}, expected arguments of the sampler or {expected}"
            )
        self.options, start, network_dtype = options, options.get("start"), options.get("network_dtype")
        noise = NoiseStream.of(noise)
        self.cuda_graph, self.hook = options.get("cuda_graph", False), options.get("hook")
        if not callable(score_fn):
            raise TypeError(f"score_fn: got {type(score_fn).__name__}, expected a function of x and the level")
        self.score_fn, self.noise, self.levels = score_fn, noise, levels
        self.noise_sampler, self.between, self.at = noise_sampler, between, 0
        if noise_sampler is not None and (self.cuda_graph or not callable(noise_sampler)):
            got = type(noise_sampler).__name__ + (" with cuda_graph" if self.cuda_graph else "")
            raise TypeError(f"noise_sampler: got {got}, expected a function of two noise levels, without cuda_graph")
        self.shape = _arguments.sizes("shape", shape, "(B, C, H, W), all positive")
        if len(self.shape) != 4:
            raise ValueError(f"shape: got {_arguments.shown(self.shape)}, expected (B, C, H, W)")
        if M is None:
            device = start.device if isinstance(start, Tensor) else noise.seeds.device
            M = Preconditioner.identity(self.shape[1:]).to(device)
        self.filters = filters(M, len(rows))
        self.device = self.filters[0].device
        if self.cuda_graph:
            _check_capturable(self.filters)
        if network_dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
            raise TypeError(f"network_dtype: got {network_dtype}, expected float32, bfloat16 or float16")
        # Normal tensors in inference mode too: they alone have a version, which shows a network that writes to x.
        with torch.inference_mode(False), torch.no_grad():
            self.plan = _plan(rows)
            self._begin(scale, history)
            table = torch.tensor([list(row) for row in rows], dtype=self.x.dtype)
            self.rows = table.to(self.device).unbind()
            memory_format = torch.channels_last if options.get("channels_last") else torch.preserve_format
            self.scaled = scaled
            self.seen = self.x.to(network_dtype or self.x.dtype, memory_format=memory_format, copy=scaled)

    def _begin(self, scale: float, history: int) -> None:
        """Sets the buffers to the start of the run, or to where it was interrupted."""
        resume, iterations = self.options.get("resume"), len(self.levels)
        if resume is not None:
            if not isinstance(resume, Mapping) or not resume.keys() >= _STATE:
                raise TypeError(f"resume: got {_arguments.shown(resume)}, expected a State.state_dict()")
            kept = resume.get("history", [])
            if resume["iterations"] != iterations or tuple(resume["x"].shape) != self.shape or len(kept) != history:
                raise ValueError(
                    f"resume: got a run of {resume['iterations']} iterations, shape {tuple(resume['x'].shape)} and "
                    f"{len(kept)} earlier steps, expected {iterations}, {self.shape} and {history}"
                )
            if resume.get("plan", self.plan) != self.plan:
                raise ValueError("resume: got a state of another sampler, ladder or settings, expected one of this run")
            self.iteration = _arguments.whole("resume: iteration", resume["iteration"], 0, iterations)
            self.noise.load_state_dict(resume["noise"])
            self.first_draw = self.noise.draw.clone()
            self.x, self.x_mean = (buffer(resume[name].to(self.device)) for name in ("x", "x_mean"))
            self.history = [buffer(t.to(self.device)) for t in kept]
        else:
            self.first_draw = self.noise.draw.clone()
            self.iteration = 0
            self.x = self.x_mean = self._start(scale, self.options.get("start"))
            self.history = [torch.zeros_like(self.x) for _ in range(history)]
        self.noise.arguments(self.shape[0], self.device)  # moves the stream to the device

    def _start(self, scale: float, start: Tensor | None) -> Tensor:
        M = self.filters[0]
        if M.method == "noise":  # of the steps alone
            M = Preconditioner.identity(M.shape).to(M.device)
        if start is None:
            return ops.noise(M, self.shape, self.noise, scale)
        if not isinstance(start, Tensor) or start.dtype not in _DTYPES:
            given = str(start.dtype) if isinstance(start, Tensor) else type(start).__name__
            raise TypeError(f"start: got {given}, expected float32 (or float64 on the CPU)")
        if tuple(start.shape) != self.shape or start.device != M.device:
            got = f"{tuple(start.shape)} on {start.device}"
            raise ValueError(f"start: got {got}, expected {self.shape} on {M.device}")
        return buffer(start)

    @property
    def norm(self) -> Literal["batch", "sample"]:
        """How the snr rule takes its norms where the caller does not say."""
        return "sample" if self.noise.named else "batch"

    @property
    def written(self) -> Tensor | None:
        """What an op writes beside x for the score function."""
        return None if self.seen is self.x or self.scaled else self.seen

    @property
    def cast(self) -> Tensor | None:
        """The same; where a hook has the last word on x, it is cast after the hook."""
        return None if self.hook is not None else self.written

    def score(self, condition: Tensor, mean_scale: Tensor | None = None) -> Tensor:
        """The score at x, told one level or that of every sample, after checks that read no value.

        Raises:
            TypeError, ValueError: the score function returned something else than a tensor like x, or changed x.
        """
        if self.scaled and mean_scale is not None:
            torch.mul(self.x, mean_scale, out=self.seen)
        x, seen = self.x, self.seen
        version = seen._version
        score = self.score_fn(seen, condition if condition.dim() else condition.expand(self.shape[0]))
        if seen._version != version:
            raise ValueError("score_fn: got one that changes x in place, expected one that leaves its input as it is")
        like = isinstance(score, Tensor) and score.shape == x.shape and score.device == x.device
        if not like or score.dtype not in _DTYPES[x.dtype]:
            raise _unlike(score, x)
        return score

    def kick(self, n: float) -> None:
        """Adds `n M z` to the start of a run."""
        if n > 0 and self.iteration == 0 and self.options.get("resume") is None:
            self.x.add_(ops.noise(self.filters[0], self.shape, self.noise, n, dtype=self.x.dtype))
            if self.written is not None:
                self.written.copy_(self.x)

    def step(self, v: Tensor, M: Preconditioner, d: Tensor | float, n: Tensor | None, level: Any) -> Tensor:
        """`x + d D v + n M z` in place, then the hook; n None draws nothing."""
        noise = {"noise_scale": 0.0} if n is None else {"noise_scale": n, "noise": self._noise()}
        ops.step(self.x, v, M, d, out=self.x, cast=self.cast, **noise)  # type: ignore[call-overload]
        self.hooked(self.x, level)
        return self.x

    def _noise(self) -> NoiseStream | Tensor:
        """What a step takes its noise from."""
        if self.noise_sampler is None:
            return self.noise
        z = self.noise_sampler(*self.between[self.at])
        if not isinstance(z, Tensor) or z.shape != self.x.shape or z.device != self.x.device:
            got = f"{tuple(z.shape)} on {z.device}" if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"noise_sampler: got {got} from it, expected {self.shape} on {self.x.device}")
        return z.to(self.x.dtype)

    def hooked(self, x_mean: Tensor, level: Any) -> Tensor:
        """Lets the hook have its say on x and returns x_mean."""
        if self.hook is None:
            return x_mean
        x, x_mean = self.hook(self.x, x_mean, level, self.noise)
        if x is not self.x:
            self.x.copy_(x)
        if self.written is not None:
            self.written.copy_(self.x)
        return x_mean

    def loop(self, iterate: Iteration, last: Iteration | None = None) -> None:
        """The iterations that are left; `last`, never in a graph, is the last one where that is another."""
        first, total = self.iteration, len(self.levels)
        captured, alike = self.cuda_graph, total - (last is not None)
        if captured and first < alike:
            iterate = self._captured(iterate)
        callback, check_finite = self.options.get("callback"), self.options.get("check_finite", False)
        quiet = not self.options.get("progress", True)
        for i in tqdm(range(first, total), initial=first, total=total, disable=quiet):
            act, self.at = iterate if last is None or i < alike else last, i
            self.x_mean = act(self.filters[i], self.rows[i], self.levels[i])
            if check_finite and not bool(torch.isfinite(self.x).all()):
                raise FloatingPointError(
                    f"iteration {i + 1} of {total}: got non-finite values in x, expected finite ones"
                )
            if callback is not None:
                callback(State(i + 1, total, self.x, self.x_mean, self.noise, self.history, self.plan))
        if captured:
            self.x_mean = self.x_mean.clone()  # out of the memory of the graph

    def _captured(self, iterate: Iteration) -> Captured:
        changed = [self.x, self.noise.draw, *self.history]
        if self.seen is not self.x:
            changed.append(self.seen)
        try:
            return Captured(iterate, self.filters[self.iteration], self.rows[self.iteration], changed)
        except Exception:
            self.noise.draw.copy_(self.first_draw)
            raise


def filters(M: Filters, iterations: int | None = None) -> list[Preconditioner]:
    """The preconditioner of every iteration; without a number as many as there are."""
    if isinstance(M, Preconditioner):
        return [M] * (iterations or 1)
    strange = [M] if not isinstance(M, Sequence) else [each for each in M if not isinstance(each, Preconditioner)]
    if strange:
        raise TypeError(f"M: got {type(strange[0]).__name__}, expected a Preconditioner or a sequence of them")
    if iterations is not None and len(M) != iterations:
        got = f"{len(M)} preconditioners"
        raise ValueError(f"M: got {got}, expected one, or one for each of {iterations} iterations")
    kinds = {f"{each.shape} of method {each.method!r} on {each.device}" for each in M}
    if len(kinds) > 1:
        got = " beside ".join(sorted(kinds))
        raise ValueError(f"M: got preconditioners {got}, expected one shape, method and device")
    return list(M)


def check_sde(sde: Any, described: type, known: str) -> None:
    """Refuses what is not as the protocol `described` has it."""
    if isinstance(sde, type):  # a class has the methods of its objects
        raise TypeError(f"sde: got the class {sde.__name__}, expected an object of it, such as {sde.__name__}(...)")
    if not isinstance(sde, described):
        raise TypeError(f"sde: got {type(sde).__name__}, expected {known} or what sde.{described.__name__} describes")


def _unlike(score: Any, x: Tensor) -> Exception:
    """What is wrong with a score."""
    kind: type[Exception] = TypeError
    if not isinstance(score, Tensor):
        got = type(score).__name__
    elif score.shape != x.shape or score.device != x.device:
        kind, got = ValueError, f"{tuple(score.shape)} on {score.device}"
    else:
        got = str(score.dtype)
    expected = f"a tensor of shape {tuple(x.shape)} on {x.device} of floats no wider than {x.dtype}"
    return kind(f"score_fn: got {got} from it, expected {expected}")


def _plan(rows: Sequence[Sequence[float]]) -> str:
    """Six digits of every coefficient, so that another machine's rounding makes no other run."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(" ".join(f"{value:.6g}" for value in row).encode() + b"\n")
    return digest.hexdigest()[:16]


def _check_device(device: torch.device) -> None:
    if device.type != "cuda":
        raise ValueError(f"cuda_graph: got True with M on {device}, expected M on a CUDA device (or cuda_graph=False)")


def _check_capturable(filters: list[Preconditioner]) -> None:
    _check_device(filters[0].device)
    kinds = {tuple(None if m is None else (m.dim(), m.dtype) for m in M.masks(torch.float32)) for M in filters}
    if len(kinds) > 1:
        raise ValueError("M: got preconditioners with masks of different kinds, expected the same ones with cuda_graph")


def buffer(t: Tensor) -> Tensor:
    """A copy that an op can update in place."""
    last = not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last)
    return t.detach().clone(memory_format=torch.channels_last if last else torch.contiguous_format)
