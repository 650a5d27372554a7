"""CUDA graphs for tensors of the CPU: what a capture records is the same, and so is what a replay forgets.

A capture records the calls of ops with their arguments. It leaves memory as it was, except that what the ops made is
NaN; numbers that Python had read or worked out stay as they were. A read of a value fails, as it does on a GPU, and
breaks the capture: its end then raises, and leaves the capture's stream the current one, as torch does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2")


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def memory(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


class Graph:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for op, args, kwargs, made in self.calls:
            known = {memory(t) for t in tensors((args, kwargs))}
            for old, new in zip(tensors(made), tensors(op(*args, **kwargs)), strict=True):
                if memory(old) not in known:  # neither an argument nor a view of one
                    old.copy_(new)


class Stream:
    current: Stream

    def wait_stream(self, other: Stream) -> None:
        pass


Stream.current = Stream()


@contextmanager
def current(stream: Stream) -> Iterator[None]:
    """`torch.cuda.stream`."""
    before, Stream.current = Stream.current, stream
    try:
        yield
    finally:
        Stream.current = before


class Capture(TorchDispatchMode):
    """`torch.cuda.graph`."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph, self.before, self.made, self.broken = graph, {}, {}, False

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if op._schema.name.split("::")[1] in READS:
            self.broken = True
            raise RuntimeError("operation not permitted when stream is capturing\nhint: none")
        for t in tensors((args, kwargs)):
            if memory(t) not in self.made:
                self.before.setdefault(memory(t), (t.untyped_storage(), t.untyped_storage().clone()))
        result = op(*args, **kwargs)
        for t in tensors(result):
            if memory(t) not in self.before:
                self.made[memory(t)] = t
        self.graph.calls.append((op, args, kwargs, result))
        return result

    def __enter__(self):
        self.random, self.stream, Stream.current = torch.get_rng_state(), Stream.current, Stream()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        torch.set_rng_state(self.random)
        for storage, old in self.before.values():
            storage.copy_(old)
        for t in self.made.values():
            if t.is_floating_point():
                t.fill_(torch.nan)
        if self.broken:
            raise RuntimeError("operation failed due to a previous error during capture")
        Stream.current = self.stream


def install(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Puts these graphs in the place of torch's; returns those that are made."""
    graphs: list[Graph] = []
    fork = torch.random.fork_rng
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graphs.append(Graph()) or graphs[-1])
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream.current)
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: fork(devices=[]))
    return graphs
