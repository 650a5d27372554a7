"""`NoiseStream`: reproducible noise as a function of (seed, sample, draw, element)."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from tdas_ops import _arguments, _backends
from tdas_ops._brownian import Brownian, Transform, planes

_TAKING = threading.Lock()  # of threads that share a stream no two take the same path
_WORD = 1 << 64
_SAMPLES = 1 << 32


def _signed(word: int) -> int:
    return word - _WORD if word >= _WORD // 2 else word


def _seed(noise: Any) -> int:
    if isinstance(noise, torch.Generator):
        words = torch.randint(0, 1 << 32, (2,), generator=noise, device=noise.device).tolist()
        return words[0] | words[1] << 32
    if isinstance(noise, bool) or not hasattr(noise, "__index__"):
        expected = "a NoiseStream, a whole number as its seed, or a torch.Generator"
        raise TypeError(f"noise: got {type(noise).__name__}, expected {expected}")
    return _arguments.whole("noise", noise, 0, _WORD - 1)


def _check_white(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if not shape or 0 in shape or math.prod(shape[1:]) >= _arguments.ELEMENTS:
        raise ValueError(f"shape: got {shape}, expected (B, ...), all positive, of fewer than 2^33 elements a sample")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype: got {_arguments.shown(dtype)}, expected a floating-point one")


class NoiseStream:
    """The noise of a batch: every op that is given the stream takes one draw from it.

    A value depends on its seed, its sample, the draw and its place in the image, and on nothing else: not on the batch
    it is made in, the device, the backend or the number of threads. No sample shares anything with another.

    Threads may share a stream on the CPU: an op reads and advances the counter at once, so that no two calls take the
    same draw; which thread takes which is left to them. On a GPU a call is several launches on the current CUDA stream,
    which those of another thread may come between: there threads take turns, or have a stream each.

    A copy takes the draws of the original once more: in a worker of a DataLoader, in a child after fork, from a pickle.
    Every worker needs seeds or a `first_sample` of its own. A fork after torch has used its threads may hang the child
    at its first parallel op, here as in torch itself; spawned processes do not.

    Whole numbers are those of any library: of Python, numpy, or a tensor of one element.

    >>> whole = NoiseStream(seed=0).randn((3, 8, 8))
    >>> torch.equal(NoiseStream(seed=0, first_sample=2).randn((1, 8, 8))[0], whole[2])
    True

    Args:
        seed: one 64-bit seed for the whole batch; element b of a batch is sample `first_sample + b` of that seed, so
            shards of a batch made on different machines agree with the whole.
        seeds: instead of `seed`, one seed for each sample of the batch; each is sample 0 of its own seed, so that one
            picture can be made again alone.
        first_sample: index of the first sample of the batch, with `seed` only; by default 0.
        draw: index of the next draw.
        device: where the stream lives; by default that of the first tensor it is used with. On a GPU the draw counter
            stays on the device, is advanced by the op itself and so survives the replay of a CUDA graph. A capture of
            ops of your own begins after one call of each, with the same shapes and masks: the first call loads kernels,
            which a capture may not (`samplers` do so themselves).

    Attributes:
        named: whether seeds or a first sample, 0 included, say which samples these are. The snr rule of `samplers.pc`
            then takes the norms of each sample by itself, so that a picture is the same in any batch, alone and in a
            shard; with one plain seed it averages them over the batch, as the papers do, and a sample depends on its
            batch. Nothing else does. So a batch and its shards agree to the bit where all of them have a first sample,
            or `norm="sample"` is given.

    Raises:
        ValueError: seed and seeds both or neither given, no integer or one out of range, or `first_sample`
            with `seeds`.
        TypeError: seeds that are no sequence.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        seeds: Iterable[int] | None = None,
        first_sample: int | None = None,
        draw: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        if (seed is None) == (seeds is None):
            raise ValueError("NoiseStream: got both or neither of seed and seeds, expected exactly one")
        try:
            given = [seed] if seeds is None else list(seeds)
        except TypeError:
            raise TypeError(f"seeds: got {type(seeds).__name__}, expected a sequence of integers") from None
        words = [_arguments.whole("seed", s, 0, _WORD - 1) for s in given]
        self.named = seeds is not None or first_sample is not None
        first = 0 if first_sample is None else first_sample
        self.first_sample = _arguments.whole("first_sample", first, 0, _SAMPLES - 1)
        if seeds is not None and (not words or self.first_sample != 0):
            raise ValueError(
                f"NoiseStream: got {len(words)} seeds and first_sample={self.first_sample}, "
                "expected at least one seed and, with seeds, no first_sample"
            )
        self.per_sample = seeds is not None
        self._set(words, _arguments.whole("draw", draw, 0, _WORD - 1), torch.device("cpu"))
        self._bound = False
        if device is not None:
            self.to(device)

    seeds: Tensor
    """int64 `[1]` or `[B]`, the bits of the 64-bit seeds."""
    draw: Tensor
    """int64 `[1]`, index of the next draw."""

    def _set(self, words: list[int], draw: int, device: torch.device) -> None:
        # An op inside or outside inference mode must be able to advance the counter: make it a normal tensor.
        with torch.inference_mode(False):
            self.seeds = torch.tensor([_signed(w) for w in words], dtype=torch.int64, device=device)
            self.draw = torch.tensor([_signed(draw)], dtype=torch.int64, device=device)

    def to(self, device: torch.device | str) -> NoiseStream:
        """Moves the stream (in place) and returns it. Leaving a GPU waits for it."""
        device = _arguments.device(device)
        with torch.inference_mode(False):
            self.seeds, self.draw = self.seeds.to(device), self.draw.to(device)
        self._bound = True
        return self

    def arguments(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
        """What an op needs for one draw of `batch` samples: seeds, draw counter, first sample.

        Raises:
            ValueError: the batch is not the one the seeds are for or goes past sample 2^32, or the stream lives on
                another device.
        """
        elsewhere = self.seeds.device != device
        if elsewhere and self._bound:
            raise ValueError(
                f"noise: got a stream on {self.seeds.device}, expected one on {device} (stream.to(device) moves it)"
            )
        if self.per_sample and batch != self.seeds.shape[0]:
            raise ValueError(
                f"noise: got a stream of {self.seeds.shape[0]} seeds, expected one for each of {batch} samples"
            )
        if self.first_sample + batch > _SAMPLES:
            raise ValueError(
                f"noise: got first_sample={self.first_sample} for a batch of {batch}, expected samples below 2^32"
            )
        if elsewhere:
            self.to(device)
        elif not self._bound:
            self._bound = True
        return self.seeds, self.draw, self.first_sample

    @classmethod
    def of(cls, noise: Any) -> NoiseStream:
        """The stream that is meant where one is expected: itself, or one made of a seed.

        A whole number is the seed of a new stream. Of a `torch.Generator` one 64-bit seed is drawn when this is called
        (samplers: at the start of the run) and nothing after that, so that a generator in the same state makes the same
        picture. One of the CPU serves every device; the stream of one on a GPU, which is waited for, lives there. A
        sequence of whole numbers or generators, one for each sample, makes `seeds`.

        Raises:
            TypeError: it is none of these.
            ValueError: a whole number below 0 or beyond 64 bits.
        """
        if isinstance(noise, cls):
            return noise
        several = isinstance(noise, list | tuple)
        given = noise if several else [noise]
        words = [_seed(each) for each in given]
        places = {each.device for each in given if isinstance(each, torch.Generator)} - {torch.device("cpu")}
        if len(places) > 1:
            raise ValueError(f"noise: got generators on {sorted(map(str, places))}, expected one device")
        which: dict[str, Any] = {"seeds": words} if several else {"seed": words[0]}
        return cls(**which, device=places.pop() if places else None)

    def shard(self, rank: int, world_size: int, batch: int) -> NoiseStream:
        """The stream of a rank's share of a batch: samples `rank n` to `(rank + 1) n`, `n = batch / world_size`.

        It begins at the draw where this stream is and counts its own from there. Samples are those of the whole batch
        to the bit; `named` says where the snr rule needs `norm="sample"` for that.

        Args:
            rank: from 0 to world_size - 1.
            world_size: number of ranks.
            batch: samples of all ranks together, a multiple of world_size, so that every rank has as many.

        Raises:
            ValueError: a batch that does not divide, a rank out of range, or a batch that is not that of the seeds.
        """
        world_size = _arguments.whole("world_size", world_size, 1)
        rank, batch = _arguments.whole("rank", rank, 0, world_size - 1), _arguments.whole("batch", batch, 1)
        if batch % world_size:
            own = "seeds=seeds[i:j]" if self.per_sample else "seed, first_sample=i"
            raise ValueError(
                f"batch: got {batch} samples for a world size of {world_size}, expected a multiple of {world_size} "
                f"(NoiseStream({own}) makes the stream of any share)"
            )
        if self.per_sample and batch != len(self.seeds):
            raise ValueError(f"batch: got {batch} with a stream of {len(self.seeds)} seeds, expected {len(self.seeds)}")
        each = batch // world_size
        if self.first_sample + batch > _SAMPLES:
            raise ValueError(f"batch: got {batch} from sample {self.first_sample} on, expected samples below 2^32")
        made = copy.copy(self)
        with torch.inference_mode(False):
            made.seeds = (self.seeds[rank * each : (rank + 1) * each] if self.per_sample else self.seeds).clone()
        if not self.per_sample:
            made.first_sample = self.first_sample + rank * each
        made.named = True
        return made

    def __copy__(self) -> NoiseStream:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        with torch.inference_mode(False):
            made.draw = self.draw.clone()
        return made

    # White noise for code that is not of this package

    def randn(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """White noise of unit variance; one draw of the stream, the values of an op with an identity filter.

        Args:
            shape: the batch first, then any axes: `[B, C, H, W]`, `[B, C, T, H, W]`, `[B, N]`, `[B]`. All axes between
                the first and the last two count as channels.
            dtype: any floating-point one; values are made in float32 and then rounded, or widened.
            device: by default that of the stream.

        Raises:
            ValueError, TypeError: a shape or dtype that is none, a batch that is not that of the seeds, or a device
                that is not that of the stream.
        """
        place = self.seeds.device if device is None else _arguments.device(device)
        sizes = _arguments.sizes("shape", shape, "(B, ...), all positive")
        _check_white(sizes, dtype)
        out = torch.empty(planes(sizes), dtype=torch.float32, device=place)
        return self._white(out).reshape(sizes).to(dtype)

    def randn_like(self, x: Tensor) -> Tensor:
        """White noise in the shape, dtype, memory format and device of x, `[B, ...]`; as `randn`."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x: got {type(x).__name__}, expected a tensor [B, ...]")
        _check_white(tuple(x.shape), x.dtype)
        made = self._white(torch.empty(planes(tuple(x.shape)), dtype=torch.float32, device=x.device)).reshape(x.shape)
        return torch.empty_like(x, requires_grad=False).copy_(made)

    def _white(self, out: Tensor) -> Tensor:
        kernel = _backends.kernel("noise", out, None)
        kernel(out, None, None, 1.0, None, None, *self.arguments(len(out), out.device))
        return out

    def brownian(
        self,
        shape: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        transform: Transform | None = None,
    ) -> Brownian:
        """A Brownian path over noise levels for each element: a `noise_sampler` whose noise does not know the steps.

        `z.brownian(shape)(sigma, sigma_next)` is an increment of unit variance, `.increment(sigma, sigma_next)` the
        difference itself. One draw of the stream is taken now, which says which path; the increments take none. So two
        runs of one seed have the same path if they take as many draws before it.

        Args:
            shape, dtype, device: as in `randn`.
            transform: the time T of the path as a function of sigma that rises or falls throughout and is finite from
                2^-20 to 2^20, of a float64 tensor without dimensions; by default sigma itself, as in k-diffusion. With
                `lambda sigma: sigma**-2` what ancestral and SDE-DPM-Solver++ steps make of their noise does not depend
                on the steps at all while the denoised image stands still.
        """
        place = self.seeds.device if device is None else _arguments.device(device)
        sizes = _arguments.sizes("shape", shape, "(B, ...), all positive")
        _check_white(sizes, dtype)
        if transform is not None and not callable(transform):
            raise TypeError(f"transform: got {type(transform).__name__}, expected a function of sigma")
        seeds, draw, first_sample = self.arguments(sizes[0], place)
        with _TAKING:
            taken = draw.clone()
            draw.add_(1)
        return Brownian(sizes, (seeds, taken, first_sample), dtype, place, transform)

    def state_dict(self) -> dict[str, Any]:
        """Plain integers that restore the stream; reads the draw counter, so on a GPU it waits for the device."""
        words = [s % _WORD for s in self.seeds.tolist()]
        return {
            "seeds": words,
            "per_sample": self.per_sample,
            "first_sample": self.first_sample,
            "named": self.named,
            "draw": int(self.draw.item()) % _WORD,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the stream that `state_dict` described, on the device where this one lives."""
        made = NoiseStream.from_state_dict(state)
        self.per_sample, self.first_sample, self.named = made.per_sample, made.first_sample, made.named
        # In place, so that a captured CUDA graph follows.
        self.draw.copy_(made.draw)
        if self.seeds.shape == made.seeds.shape:
            self.seeds.copy_(made.seeds)
        else:
            self.seeds = made.seeds.to(self.seeds.device)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device | str | None = None) -> NoiseStream:
        """The stream that `state_dict` described.

        Raises:
            ValueError: it is no such description.
        """
        expected = {"seeds", "per_sample", "first_sample", "draw"}
        if not isinstance(state, dict) or set(state) - {"named"} != expected:  # which older states lack
            got = f"the keys {_arguments.shown(list(state))}" if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state: got {got}, expected a dict of {sorted(expected)}")
        seeds, per_sample = state["seeds"], state["per_sample"]
        if not isinstance(seeds, list) or not isinstance(per_sample, bool) or (len(seeds) != 1 and not per_sample):
            got = f"seeds={_arguments.shown(seeds)} with per_sample={_arguments.shown(per_sample)}"
            raise ValueError(f"state: got {got}, expected a list of seeds, of one unless per_sample is True")
        which: dict[str, Any] = {"seeds": seeds} if per_sample else {"seed": seeds[0]}
        first = _arguments.whole("first_sample", state["first_sample"], 0, _SAMPLES - 1)
        named = first != 0 or (state.get("named") is True and not per_sample)
        return cls(**which, first_sample=first if named else None, draw=state["draw"], device=device)

    def __repr__(self) -> str:
        what = f"{self.seeds.shape[0]} seeds" if self.per_sample else f"first_sample={self.first_sample}"
        return f"NoiseStream({what}, device={self.seeds.device})"


Stream = NoiseStream | int | torch.Generator | Sequence[int | torch.Generator]
"""What may be given where a stream is expected: `NoiseStream.of` makes one of it."""

torch.serialization.add_safe_globals([NoiseStream])
