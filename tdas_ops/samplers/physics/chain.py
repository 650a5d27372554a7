"""The run of all chains: state, resume, acceptance, the trace of an observable, and what is said of a stuck chain."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import torch
from torch import Tensor
from tqdm import tqdm

from tdas_ops import _arguments, ops
from tdas_ops._brownian import planes
from tdas_ops.fields import GaussianField
from tdas_ops.noise import NoiseStream, Stream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.samplers._run import buffer

if TYPE_CHECKING:
    from typing_extensions import Unpack

Mass = Preconditioner | GaussianField
"""What makes noise `M z` and has `M M^T` as the inverse mass; a field for states of three dimensions."""
Energy = Callable[[Tensor], Tensor]
Observable = Callable[[Tensor], Tensor]
_FEW = 20  # steps without an accepted one that say nothing
_HALVINGS = 40
_GOLDEN = 0.5 * (math.sqrt(5) - 1)  # multiples of it, modulo 1, are even over [0, 1)


class RejectionWarning(UserWarning):
    """Chains that accepted nothing."""


@dataclass
class Chain:
    """A run after `step` of `steps` steps.

    Attributes:
        x: the states, `[chains, ...]`; the next step writes to this tensor.
        accepted: accepted proposals of each chain, int64 `[chains]`.
        trace: what `observe` returned, `[steps, chains, ...]` float64, rows up to `step` filled; or None.
        noise: the stream the run draws from.
        plan: a digest of the sampler and its settings, by which a run is known again.
    """

    step: int
    steps: int
    x: Tensor
    accepted: Tensor
    trace: Tensor | None
    noise: NoiseStream
    plan: str = ""

    @property
    def acceptance(self) -> Tensor:
        """Accepted share of the proposals of each chain, `[chains]` float64 on the device."""
        return self.accepted.double() / max(1, self.step)

    def state_dict(self) -> dict[str, Any]:
        """Copies of the tensors and plain values, for `resume` or `torch.save`; waits for the device."""
        return {
            "step": self.step,
            "steps": self.steps,
            "x": self.x.detach().clone(),
            "accepted": self.accepted.clone(),
            "trace": None if self.trace is None else self.trace[: self.step].clone(),
            "noise": self.noise.state_dict(),
            "plan": self.plan,
        }


class Options(TypedDict, total=False):
    """What every sampler takes besides arguments of its own.

    Attributes:
        observe: `x -> [chains, ...]`, kept after each step in `Chain.trace`; it leaves x as it is.
        callback: called with the `Chain` after each step.
        resume: a `Chain.state_dict()` to continue from, also to more steps; `start` gives the shape, `noise` is set to
            the place where that run was.
        progress: show a progress bar (off by default).
    """

    observe: Observable | None
    callback: Callable[[Chain], None] | None
    resume: dict[str, Any] | None
    progress: bool


class Point(NamedTuple):
    """Where chains are: x, U and, where it is known, the gradient of U."""

    x: Tensor
    energy: Tensor
    grad: Tensor | None = None


Propose = Callable[[Point, float, NoiseStream], tuple[Point, Tensor]]
"""From a point, a step size and a stream to a proposal and minus the logarithm of its acceptance ratio, `[chains]`."""


class Target:
    """U and its gradient, whose results are looked at without reading a value.

    Raises:
        TypeError, ValueError: what they return is no energy of each chain, or no gradient like x.
    """

    def __init__(self, energy: Energy, grad: Observable | None = None, name: str = "energy") -> None:
        for said, function in ((name, energy), ("grad", grad)):
            if not callable(function) and not (said == "grad" and function is None):
                raise TypeError(f"{said}: got {type(function).__name__}, expected a function of x")
        self.energy_fn, self.grad_fn, self.name = energy, grad, name

    def energy(self, x: Tensor) -> Tensor:
        return self._energy(x).detach().double()

    def _energy(self, x: Tensor) -> Tensor:
        found = self.energy_fn(x)
        if not isinstance(found, Tensor):
            raise TypeError(f"{self.name}: got {type(found).__name__} from it, expected a tensor [{len(x)}]")
        if found.shape != x.shape[:1] or found.device != x.device or not found.dtype.is_floating_point:
            got = f"{tuple(found.shape)} {found.dtype} on {found.device}"
            raise ValueError(f"{self.name}: got {got} from it, expected floats of shape ({len(x)},) on {x.device}")
        return found

    def grad(self, x: Tensor) -> Tensor:
        return self.at(x).grad if self.grad_fn is None else self._given(x)  # type: ignore[return-value]

    def at(self, x: Tensor) -> Point:
        if self.grad_fn is not None:
            return Point(x, self.energy(x), self._given(x))
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            energy = self._energy(leaf)
            if not energy.requires_grad:
                raise ValueError(f"{self.name}: got a result without a derivative, expected one, or `grad` beside it")
            (grad,) = torch.autograd.grad(energy.sum(), leaf)
        return Point(x, energy.detach().double(), grad)

    def _given(self, x: Tensor) -> Tensor:
        assert self.grad_fn is not None
        grad = self.grad_fn(x)
        if not isinstance(grad, Tensor):
            raise TypeError(f"grad: got {type(grad).__name__} from it, expected a tensor like x")
        if grad.shape != x.shape or grad.device != x.device or grad.dtype is not x.dtype:
            got = f"{tuple(grad.shape)} {grad.dtype} on {grad.device}"
            raise ValueError(f"grad: got {got} from it, expected {tuple(x.shape)} {x.dtype} on {x.device}, like x")
        return grad.detach()


def checked_state(start: Any, M: Mass | None) -> None:
    if not isinstance(start, Tensor) or start.dtype not in (torch.float32, torch.float64):
        got = str(start.dtype) if isinstance(start, Tensor) else type(start).__name__
        raise TypeError(f"start: got {got}, expected a float32 or float64 tensor [chains, ...]")
    if start.dim() == 0 or start.numel() == 0:
        raise ValueError(f"start: got shape {tuple(start.shape)}, expected [chains, ...] with at least one chain")
    if start.layout is not torch.strided or start.is_meta:
        raise ValueError(f"start: got a tensor of layout {start.layout} on {start.device}, expected dense values")
    if start.dtype is torch.float64 and start.device.type != "cpu":
        raise TypeError(f"start: got torch.float64 on {start.device}, expected float32 (or float64 on the CPU)")
    if M is None:
        return
    if isinstance(M, GaussianField):
        if tuple(start.shape[1:]) != M.shape or M.grid != M.shape or not M.regular or M.device != start.device:
            rule = f"a periodic scalar one with power at all k, of shape {tuple(start.shape[1:])} on {start.device}"
            raise ValueError(f"M: got {M!r}, expected {rule}")
        return
    if not isinstance(M, Preconditioner):
        raise TypeError(f"M: got {type(M).__name__}, expected a Preconditioner, a GaussianField or None")
    if M.method != "pds" or M.skew is not None:
        what = "with a skew part" if M.skew is not None else f"of method {M.method!r}"
        raise ValueError(f"M: got a filter {what}, expected method 'pds' without one: M M^T is the inverse mass")
    if planes(tuple(start.shape))[1:] != M.shape or M.device != start.device:
        got = f"{M.shape} on {M.device}"
        raise ValueError(f"M: got {got}, expected {planes(tuple(start.shape))[1:]} on {start.device} for start")


def positive(name: str, value: Any) -> float:
    number = _arguments.number(name, value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name}: got {value}, expected a finite positive number")
    return number


def coloured(noise: NoiseStream, x: Tensor, M: Mass | None) -> Tensor:
    """`M z` like x; one draw."""
    if M is None:
        return noise.randn(x.shape, x.dtype, x.device)
    if isinstance(M, GaussianField):
        return M.sample(noise, len(x), dtype=x.dtype)
    return ops.noise(M, planes(tuple(x.shape)), noise, dtype=x.dtype).reshape(x.shape)


def inverse_mass(v: Tensor, M: Mass | None) -> Tensor:
    """`M M^T v`."""
    if isinstance(M, GaussianField):
        return M.covariance(v)
    return v if M is None else ops.precondition(v.reshape(planes(tuple(v.shape))), M, "MMt").reshape(v.shape)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each chain, float64."""
    return (a * b).reshape(len(a), -1).sum(1, dtype=torch.float64)


def exponential(noise: NoiseStream, x: Tensor) -> Tensor:
    """`-ln u` of each chain, u uniform, `[chains]` float64; one draw.

    It is `|g|^2 / 2` of the first normal g of the draw as pixel noise, which Box and Muller's `|g|^2 = -2 ln u` made.
    """
    return noise.randn((len(x), 2), torch.float64, x.device).square().sum(1).mul_(0.5)


def run(
    name: str,
    start: Tensor,
    steps: int,
    step_size: float,
    noise: Stream,
    begin: Callable[[Tensor], Point],
    propose: Propose,
    settings: tuple[Any, ...],
    always: bool = False,
    jitter: float = 0.0,
    **options: Unpack[Options],
) -> Chain:
    """Proposals and decisions; `always` accepts without asking, and steps are up to `jitter` of themselves off.

    Raises:
        TypeError, ValueError: unknown options, a `resume` of another run.
    """
    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        expected = ", ".join(Options.__annotations__)
        raise TypeError(f"options: got {', '.join(sorted(unknown))}, expected arguments of the sampler or {expected}")
    steps = _arguments.whole("steps", steps, 1)
    stream, observe = NoiseStream.of(noise), options.get("observe")
    callback = options.get("callback")
    plan = hashlib.sha256(repr((name, f"{step_size:.6g}", jitter, *settings)).encode()).hexdigest()[:16]
    with torch.inference_mode(False), torch.no_grad():
        chain = _begin(start, steps, stream, plan, options.get("resume"))
        stream.arguments(len(start), start.device)
        point = begin(chain.x)
        for at in tqdm(range(chain.step, steps), initial=chain.step, total=steps, disable=not options.get("progress")):
            proposal, cost = propose(point, step_size * (1 + jitter * (2 * (at * _GOLDEN % 1) - 1)), stream)
            if always:
                chain.accepted += 1
                chain.x.copy_(proposal.x)
                point = proposal._replace(x=chain.x)
            else:
                taken = exponential(stream, chain.x) >= cost  # false where the cost is not a number
                chain.accepted += taken
                point = _decided(taken, proposal, point, chain.x)
            chain.step = at + 1
            if observe is not None:
                _keep(chain, observe(chain.x), at)
            if callback is not None:
                callback(chain)
        if not always and chain.step >= _FEW:
            _warn_stuck(name, chain, point, step_size, stream, propose)
    return chain


def _decided(taken: Tensor, proposal: Point, point: Point, x: Tensor) -> Point:
    """The proposal where it is taken, else the point; its x is written to x."""
    each = taken.reshape(-1, *[1] * (x.dim() - 1))
    grad = None if proposal.grad is None or point.grad is None else torch.where(each, proposal.grad, point.grad)
    x.copy_(torch.where(each, proposal.x, point.x))
    return Point(x, torch.where(taken, proposal.energy, point.energy), grad)


def _begin(start: Tensor, steps: int, noise: NoiseStream, plan: str, resume: Any) -> Chain:
    if resume is None:
        accepted = torch.zeros(len(start), dtype=torch.int64, device=start.device)
        return Chain(0, steps, buffer(start), accepted, None, noise, plan)
    needed = {"step", "x", "accepted", "trace", "noise", "plan"}
    if not isinstance(resume, Mapping) or not resume.keys() >= needed:
        raise TypeError(f"resume: got {_arguments.shown(resume)}, expected a Chain.state_dict()")
    x, accepted, trace = resume["x"], resume["accepted"], resume["trace"]
    step = _arguments.whole("resume: step", resume["step"], 0, steps)
    whole = isinstance(x, Tensor) and isinstance(accepted, Tensor) and accepted.shape == x.shape[:1]
    if not whole or not (trace is None or (isinstance(trace, Tensor) and len(trace) == step)):
        raise ValueError(f"resume: got {_arguments.shown(resume)}, expected a Chain.state_dict() as it was")
    if x.shape != start.shape or x.dtype is not start.dtype or resume["plan"] != plan:
        got = f"a run of {tuple(x.shape)} {x.dtype}" + ("" if resume["plan"] == plan else " with other settings")
        raise ValueError(f"resume: got {got}, expected {tuple(start.shape)} {start.dtype} of this sampler")
    noise.load_state_dict(resume["noise"])
    accepted = accepted.to(start.device).clone()
    if trace is not None:
        trace = torch.cat([trace, trace.new_zeros(steps - len(trace), *trace.shape[1:])]).to(start.device)
    return Chain(step, steps, buffer(x.to(start.device)), accepted, trace, noise, plan)


def _keep(chain: Chain, value: Any, at: int) -> None:
    kept = () if chain.trace is None else tuple(chain.trace.shape[1:])
    if not isinstance(value, Tensor) or value.shape[:1] != chain.x.shape[:1] or value.is_complex():
        got = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"observe: got {got} from it, expected a tensor [{len(chain.x)}, ...] of real numbers")
    if kept and tuple(value.shape) != kept:
        raise ValueError(f"observe: got {tuple(value.shape)} from it, expected {kept} as before")
    if chain.trace is None:
        chain.trace = torch.zeros(chain.steps, *value.shape, dtype=torch.float64, device=value.device)
    chain.trace[at] = value


def _warn_stuck(name: str, chain: Chain, point: Point, step_size: float, noise: NoiseStream, propose: Propose) -> None:
    """Says which step size would be accepted where chains accepted nothing at all: halved until half of them would."""
    stuck = chain.accepted == 0
    count = int(stuck.sum())
    if not count:
        return
    begin = f"{name}: got no accepted proposal in {chain.step} steps of {count} of {len(stuck)} chains"
    for halving in range(1, _HALVINGS + 1):
        size = step_size / 2**halving
        _, cost = propose(point, size, copy(noise))
        chance = torch.exp(-cost[stuck].clamp_min(0)).nan_to_num(0)
        if float(chance.mean()) >= 0.5:
            text = f"{begin} with step size {step_size:.3g}, expected some: about {size:.2g} would be accepted"
            break
    else:
        text = f"{begin}, expected some: no step size down to {size:.2g} would be accepted, so look at energy and grad"
    warnings.warn(text, RejectionWarning, stacklevel=4 if name == "pcn" else 5)  # the line that called the sampler
