"""Sampling on as many processes as there are, on torch.distributed: shares by absolute index, files by index.

`sample(draw, 50_000, "samples", noise=0, batch=64)` with `draw(stream, count)`, a function that makes samples,
under `torchrun --nproc-per-node 8 script.py`, or in a process alone. Samples are made in batches that do not depend on
how many processes there are, each by one of them. So on alike devices the files are the same to the byte for any number
of processes, with any rule of the step size. Between batches the processes exchange one number.

A batch that is spread over processes needs `norm=langevin_step` of this module for the rule of the papers, which takes
its norms over the whole batch.
"""

from __future__ import annotations

import json
import os
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from tdas_ops import _arguments, ops
from tdas_ops._files import write_whole
from tdas_ops._inputs import scale_of
from tdas_ops.noise import NoiseStream
from tdas_ops.ops import Scale
from tdas_ops.preconditioner import Preconditioner

T = TypeVar("T")
Draw = Callable[[NoiseStream, int], Tensor]

_RECORD = "samples.json"
_PATIENCE = timedelta(days=1)  # with the slowest of a round; a process that ends is noticed at once
_worlds: weakref.WeakKeyDictionary[Any, World] = weakref.WeakKeyDictionary()  # by the group of torch.distributed


class RankError(RuntimeError):
    """What another process failed with."""


@dataclass(eq=False)
class World:
    """The processes that sample together.

    Attributes:
        rank: of this one, from 0.
        size: how many there are.
        group: the process group of gloo on which they exchange messages, which nothing else may keep.
        failed: whether one of them has failed, after which they exchange no more.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    failed: bool = False

    @property
    def device(self) -> torch.device:
        """The GPU of this process on its machine, or the CPU where there is none."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = int(os.environ.get("LOCAL_RANK", self.rank))
        return torch.device("cuda", local % torch.cuda.device_count())

    @contextmanager
    def together(self) -> Iterator[None]:
        """A body that every process runs; where it fails in one, it fails in all.

        Raises:
            RankError: it failed in another process; the message is that of the error there.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        if self.size > 1 and not self.failed:
            failed = torch.tensor([error is not None], dtype=torch.int32)
            self._call(dist.all_reduce, failed, op=dist.ReduceOp.MAX)
            if failed.item():
                self.failed = True
                said = [None] * self.size
                self._call(dist.all_gather_object, said, error and f"{type(error).__name__}: {error}")
                if error is None:
                    rank, words = next((i, each) for i, each in enumerate(said) if each)
                    raise RankError(f"rank {rank} of {self.size}: {words}")
        if error is not None:
            raise error

    def of_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, in all processes; plain values and tensors of the CPU.

        Raises:
            RankError: it failed there.
        """
        made: list[Any] = [None]
        with self.together():
            if self.rank == 0:
                made[0] = make()
        if self.size > 1:
            self._call(dist.broadcast_object_list, made, group_src=0)
        return made[0]

    def told(self, word: Any) -> Any:
        """The word of rank 0, in all processes."""
        return self.of_first(lambda: word)

    @contextmanager
    def leading(self) -> Iterator[None]:
        """A body of rank 0, whose words (`told`) the others follow until it ends with None or fails."""
        try:
            yield
        except BaseException as error:
            with suppress(Exception), self.together():
                raise error if isinstance(error, Exception) else RuntimeError(type(error).__name__) from None
            raise
        self.told(None)

    def gathered(self, mine: T) -> list[T] | None:
        """What all processes have, in the order of their ranks, in rank 0; None elsewhere."""
        if self.size == 1:
            return [mine]
        parts: list[Any] | None = [None] * self.size if self.rank == 0 else None
        self._call(dist.gather_object, mine, parts, group_dst=0)
        return parts

    def _call(self, collective: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        try:
            collective(*arguments, group=self.group, **options)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold the group, which has to end before Python does
            if not isinstance(error, RuntimeError):
                raise
            self.failed = True
            if not any(word in str(error) for word in ("onnection", "peer", "pipe", "imed out")):
                raise
            raise RankError(f"another of {self.size} processes has ended without a word ({error})") from None


def world() -> World:
    """The processes of this run: those of torch.distributed where it is initialised, those that the environment of
    `torchrun` describes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), else this one alone.

    In the second case it initialises torch.distributed with gloo, for as long as the process runs. The first call is
    made by all processes.

    Raises:
        ValueError: an environment that describes half of it.
    """
    group = None
    if not (dist.is_available() and dist.is_initialized()):
        size = os.environ.get("WORLD_SIZE", "1")
        if size == "1":
            return World()
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        rank = os.environ.get("RANK", "")
        # Past the last rank the others would be waited for, for as long as they may take.
        if missing or not (size.isdecimal() and rank.isdecimal() and int(rank) < int(size)):
            got = f"WORLD_SIZE={size} " + (f"without {', '.join(missing)}" if missing else f"with RANK={rank}")
            raise ValueError(f"environment: got {got}, expected what torchrun sets")
        dist.init_process_group("gloo", timeout=_PATIENCE)
        group = dist.group.WORLD
    default = dist.group.WORLD
    if default not in _worlds:
        if group is None:
            # Of our own: messages are objects and numbers of the CPU, which NCCL does not carry, and its end is ours.
            group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        _worlds[default] = World(dist.get_rank(), dist.get_world_size(), group)
        weakref.finalize(default, _leave, _worlds[default])
    return _worlds[default]


def _leave(joined: World) -> None:
    """Ends the messages of processes, with torch.distributed or before Python ends, whichever is first.

    Threads of gloo let go of the tensors of a message some time after it has arrived, and need Python for that: where
    it is ending, they abort the process. They are joined with the last reference to their group.
    """
    group, joined.group = joined.group, None
    with suppress(ValueError):  # torch.distributed has ended before
        dist.destroy_process_group(group)


def sample(
    draw: Draw,
    count: int,
    folder: str | os.PathLike[str],
    *,
    noise: Any = 0,
    batch: int = 64,
    kind: Literal["safetensors", "png"] = "safetensors",
    progress: bool = True,
) -> list[Path]:
    """Makes samples into files of a folder; called by every process of a run with the same arguments.

    A run that was stopped goes on where it was: what is whole in the folder is kept, the rest is shared out anew, among
    any number of processes. Every file is written whole or not at all.

    Args:
        draw: `(stream, n) -> samples [n, C, H, W]`, called once a batch with the stream of its samples, which names
            them; a function of it alone, on the device of this process (`World.device`).
        count: samples in all.
        folder: one that all processes see; made where it is missing.
        noise: a seed, or a `NoiseStream`, whose first sample is sample 0; or seeds, one a sample; or a
            `torch.Generator`, of which rank 0 draws the seed of all.
        batch: samples drawn at once. Rounding of a network may depend on it, so it belongs to the run.
        kind: "safetensors", one file a batch with "samples" in float32, named by its first sample; or "png", one 8-bit
            picture a sample, of values from 0 to 1, named by its index.
        progress: rank 0 shows a progress bar of all samples.

    Returns: the files in the order of the samples.

    Raises:
        ValueError: bad arguments, or a folder with a run of other settings, before anything is sampled or written.
        RankError: another process failed; finished files stay.
    """
    count, batch = _arguments.whole("count", count, 1), _arguments.whole("batch", batch, 1)
    if kind not in ("safetensors", "png"):
        raise ValueError(f"kind: got {kind!r}, expected 'safetensors' or 'png'")
    path, processes = Path(folder), world()
    # Of a generator a seed is drawn; those of the others need not be in the same state.
    state = processes.of_first(lambda: NoiseStream.of(noise).state_dict())
    if state["per_sample"] and len(state["seeds"]) != count:
        raise ValueError(f"noise: got {len(state['seeds'])} seeds, expected one for each of {count} samples")
    shares = [(first, min(batch, count - first)) for first in range(0, count, batch)]
    settings = {"format": 1, "noise": state, "count": count, "batch": batch, "kind": kind}
    names = {first: _names(path, first, n, kind) for first, n in shares}
    missing = processes.of_first(lambda: _prepared(path, settings, shares, kind))
    done = count - sum(n for _, n in missing)
    with tqdm(total=count, initial=done, disable=None if progress and processes.rank == 0 else True) as bar:
        for i in range(0, len(missing), processes.size):
            turn = missing[i : i + processes.size]
            with processes.together():
                if processes.rank < len(turn):
                    first, n = turn[processes.rank]
                    _write(names[first], _drawn(draw, _stream_of(state, first, n), n), kind)
            bar.update(sum(n for _, n in turn))
    return [name for first, _ in shares for name in names[first]]


def broadcast(make: Callable[[], Preconditioner]) -> Preconditioner:
    """A filter that rank 0 makes, in all processes: images of the data are read once.

    Args:
        make: `lambda: Preconditioner.from_images("pictures")`; called in rank 0 alone.

    Raises:
        RankError: it failed there.
    """

    def plain() -> tuple[Any, ...]:
        M = make()
        return M.shape, M.freq, M.space, M.skew, M.method, M.provenance

    return Preconditioner(*world().of_first(plain))


def langevin_step(
    x: Tensor,
    score: Tensor,
    M: Preconditioner,
    snr: float,
    *,
    noise: NoiseStream,
    alpha: Scale = 1.0,
    out: Tensor | None = None,
    cast: Tensor | None = None,
    return_mean: bool = False,
) -> Any:
    """`tdas_ops.langevin_step` with the rule of the batch for a batch that is spread over the processes.

    The norms are averaged over the samples of all processes, by one all-reduce of two sums and their counts; norms that
    are not finite are left out, as there, and what the ranks hold may differ in number.
    `samplers.pc(..., norm=distributed.langevin_step)` takes it. torch.distributed has to be initialised; a CUDA graph
    cannot hold it. On one process it is the step of `norm="batch"`.

    Args:
        x, score, M, snr, alpha, out, cast, return_mean: as there.
        noise: the stream of this process's share, for example `stream.shard(rank, world_size, batch)`.

    Raises:
        TypeError, ValueError: noise is no stream, snr or alpha is none that the step takes; before anything is drawn.
        RankError: another process has ended.
    """
    if not isinstance(noise, NoiseStream):
        raise TypeError(f"noise: got {type(noise).__name__}, expected a NoiseStream")
    scale_of("snr", snr, x)
    alpha, each_alpha = scale_of("alpha", alpha, x)
    draw = noise.draw.clone()
    coloured = ops.noise(M, x.shape, noise, dtype=x.dtype)
    with torch.inference_mode(False):
        noise.draw.copy_(draw)  # the step below takes the same draw
    pushed = ops.step(torch.zeros_like(x), score, M, 1.0, noise_scale=0.0)
    norms = torch.stack([each.double().flatten(1).norm(dim=1) for each in (coloured, pushed)])
    known = norms.isfinite()
    sums = torch.stack([torch.where(known, norms, 0.0).sum(1), known.sum(1).double()])
    if dist.is_available() and dist.is_initialized() and world().size > 1:
        if sums.device.type == "cpu" or dist.get_backend() == "gloo":
            there = sums.cpu()
            world()._call(dist.all_reduce, there)
            sums = there.to(sums.device)
        else:
            dist.all_reduce(sums)
    coloured_norm, pushed_norm = sums[0] / sums[1]
    ratio = torch.where(pushed_norm == 0, 0.0, snr * coloured_norm / pushed_norm)
    eta = (2 * ratio**2 * (alpha if each_alpha is None else each_alpha.double())).to(x.dtype)
    return ops.step(x, score, M, eta, noise=noise, out=out, cast=cast, return_mean=return_mean)  # type: ignore[call-overload]


def _stream_of(state: dict[str, Any], first: int, n: int) -> NoiseStream:
    if state["per_sample"]:
        return NoiseStream(seeds=state["seeds"][first : first + n], draw=state["draw"])
    return NoiseStream(state["seeds"][0], first_sample=state["first_sample"] + first, draw=state["draw"])


def _drawn(draw: Draw, stream: NoiseStream, n: int) -> Tensor:
    x = draw(stream, n)
    if not isinstance(x, Tensor) or x.dim() != 4 or len(x) != n:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"draw: got {got} from it, expected samples [{n}, C, H, W]")
    return x.detach().float().cpu().contiguous()


def _names(folder: Path, first: int, n: int, kind: str) -> list[Path]:
    indices = range(first, first + n) if kind == "png" else [first]
    return [folder / f"{index:09d}.{kind}" for index in indices]


def _write(names: Sequence[Path], x: Tensor, kind: str) -> None:
    if kind == "safetensors":
        write_whole(names[0], lambda name: save_file({"samples": x}, name))
        return
    from PIL import Image

    levels = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for name, picture in zip(names, levels, strict=True):
        image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
        write_whole(name, lambda at, image=image: image.save(at, format="png"))  # type: ignore[misc]


def _prepared(
    folder: Path, settings: dict[str, Any], shares: Sequence[tuple[int, int]], kind: str
) -> list[tuple[int, int]]:
    """The batches that the folder lacks, after it was found to be this run's or made so."""
    record = folder / _RECORD
    if record.exists():
        try:
            earlier = json.loads(record.read_text())
        except ValueError:
            raise ValueError(f"folder: got {record}, which is no record of samples, expected another folder") from None
        different = [name for name in settings if not isinstance(earlier, dict) or earlier.get(name) != settings[name]]
        if different:
            got = f"{folder}, which holds samples of another {', '.join(different)}"
            raise ValueError(f"folder: got {got}, expected the same or another folder")
    else:
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"folder: got {folder}, which holds other files, expected a new or empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(record, lambda name: name.write_text(json.dumps(settings, indent=1) + "\n"))
    return [(first, n) for first, n in shares if not all(_whole(name, n) for name in _names(folder, first, n, kind))]


def _whole(file: Path, n: int) -> bool:
    """Whether a file is one that was written to its end."""
    if not file.is_file():
        return False
    if file.suffix == ".png":
        with open(file, "rb") as opened:
            opened.seek(-min(8, file.stat().st_size), os.SEEK_END)
            return opened.read(4) == b"IEND"
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.get_slice("samples").get_shape()[0] == n
    except (SafetensorError, OSError):
        return False
