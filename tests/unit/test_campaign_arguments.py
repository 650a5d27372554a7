"""A campaign of random bad arguments and files: each is taken, or refused in one sentence that changes nothing.

The cases are the same in every run. TDAS_OPS_CAMPAIGN=N takes N times as many.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import random
import re
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_problem

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner, sde

SENTENCE = re.compile(r"[A-Za-z_0-9]+: got .*, expected .+[^.]")
SHAPE, BATCH = (2, 5, 6), 2
TIMES = int(os.environ.get("TDAS_OPS_CAMPAIGN", "1"))


def seeds(count: int) -> pytest.MarkDecorator:
    """Runs of 50 cases each, so that a failure names its run and pytest has few tests to keep."""
    return pytest.mark.parametrize("run", range(count * TIMES // 50))


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or its error, which has to be a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return call()
    except (ValueError, TypeError) as error:
        text = str(error)
        assert SENTENCE.fullmatch(text) and text.isprintable() and len(text) < 700, text
        return error


def state(value: Any) -> Any:
    """What a value holds, to be compared; bits of tensors and arrays."""
    if isinstance(value, torch.Tensor):
        if value.is_meta or value.layout is not torch.strided:
            return None
        plain = value.detach().resolve_neg().resolve_conj().flatten().clone(memory_format=torch.contiguous_format)
        return plain.view(torch.uint8).tolist()
    if isinstance(value, np.ndarray):
        return None if value.dtype.hasobject else value.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    return value.state_dict() if isinstance(value, NoiseStream) else None


def numbers(r: random.Random) -> Any:
    return r.choice(
        [
            0, 1, -1, 3, 0.5, -0.5, math.nan, math.inf, -math.inf, 1e39, 1e-60, 1e300, 10**400, 10**5000, True, 1j,
            np.float32(0.5), np.float16(2), np.int64(2), np.uint8(3), np.True_, np.complex64(1j), np.float64("nan"),
            np.array(0.5), np.array([0.5]), np.ones(BATCH), np.longdouble(2), Fraction(1, 3), torch.tensor(0.5),
            torch.tensor(2), torch.tensor(True), torch.tensor(1j), torch.rand(BATCH), torch.rand(3),
            torch.rand(BATCH, 1, 1, 1), torch.rand(1, BATCH), torch.rand(BATCH).double(), torch.rand(BATCH).half(),
            torch.rand(BATCH, requires_grad=True), torch.rand(BATCH).to_sparse(), torch.rand(BATCH, device="meta"),
            torch._neg_view(torch.rand(BATCH)), torch.rand(BATCH).to(torch.complex64), torch.empty(0),
        ]
    )  # fmt: skip


def strangers(r: random.Random) -> Any:
    """What is no argument of anything, or of another one."""
    return r.choice(
        [
            None, "", "M", "0.5", "\x1b[2J\n", b"x", [], [1.0], (), {}, {"a": 1}, object(), len, range(3), slice(None),
            NoiseStream(1), NoiseStream(seeds=[1, 2, 3]), torch.Generator(), torch.float32, torch.strided, np.float32,
            torch.device("cpu"), make_problem().M, torch.nn.Linear(1, 1), sde.VE(), Ellipsis, float, memoryview(b"a"),
            np.datetime64("2020"), np.array(["a"]), np.array([{}]), np.zeros((3, 0)), (n for n in (1, 2)),
        ]
    )  # fmt: skip


def fields(r: random.Random) -> Any:
    """Tensors somewhat like a state."""
    shape = r.choice([(BATCH, *SHAPE)] * 8 + [SHAPE, (0, *SHAPE), (1, *SHAPE), (BATCH, 2, 5, 7), (6, 6), (1,) * 5])
    t = torch.rand(shape, dtype=r.choice([torch.float32] * 4 + [torch.float64, torch.float16, torch.bfloat16]))
    kinds: list[Callable[[torch.Tensor], Any]] = [
        lambda t: t, lambda t: t.contiguous(), lambda t: t.mT.contiguous().mT, lambda t: t.expand(t.shape),
        lambda t: t.long(), lambda t: t > 0.5, lambda t: t.to_sparse(), lambda t: t.to("meta"),
        lambda t: t.requires_grad_(), lambda t: torch.nn.Parameter(t), lambda t: torch.nn.Parameter(t, False),
        lambda t: torch._neg_view(t), lambda t: t.numpy() if t.dtype is not torch.bfloat16 else t, lambda t: t.tolist(),
        lambda t: (t.float() + 1j).imag, lambda t: t.float() + 1j, lambda t: torch.conj(t.float() + 1j),
        lambda t: torch.full_like(t, math.nan), lambda t: t[..., ::2], lambda t: t.flip(-1),
        lambda t: t[:1].expand_as(t),
    ]  # fmt: skip
    return r.choice(kinds)(t)


def shapes(r: random.Random) -> Any:
    given = [
        r.choice([*SHAPE, BATCH, 0, -1, 1 << 40, 2.0, True, "2", None, np.int64(2)]) for _ in range(r.randint(0, 5))
    ]
    near = r.choice([(BATCH, *SHAPE), SHAPE, [*SHAPE], np.array(SHAPE), torch.Size((BATCH, *SHAPE))])
    return r.choice([given, tuple(given), near, near, numbers(r), strangers(r)])


def anything(r: random.Random) -> Any:
    return r.choice([numbers, strangers, fields, shapes])(r)


PREFERRED = {
    "x": fields, "v": fields, "score": fields, "out": fields, "cast": fields, "noise": fields, "shape": shapes,
    "step_size": numbers, "noise_scale": numbers, "alpha": numbers, "snr": numbers, "scale": numbers,
}  # fmt: skip


def spoiled(arguments: dict[str, Any], r: random.Random) -> dict[str, Any]:
    """Arguments with one or two of them replaced; sometimes two are one."""
    arguments = dict(arguments)
    for name in r.sample(sorted(arguments.keys() - {"return_mean"}), r.choice([1, 1, 2])):
        arguments[name] = (PREFERRED.get(name, anything) if r.random() < 0.7 else anything)(r)
    if r.random() < 0.15:
        a, b = r.sample(sorted(arguments.keys() - {"return_mean"}), 2)
        arguments[a] = arguments[b]
    return arguments


def op_arguments(op: str, r: random.Random) -> dict[str, Any]:
    field = lambda: torch.rand(BATCH, *SHAPE)
    problem = make_problem(BATCH, SHAPE, r.choice(["pds", "pds", "tdas", None]), space=r.random() < 0.5)
    noise = r.choice([NoiseStream(1), NoiseStream(seeds=[3, 4]), torch.Generator().manual_seed(1), field()])
    out = r.choice([None, field()])
    sampled = {"x": field(), "M": problem.M, "noise": noise, "out": out, "cast": r.choice([None, field().half()])}
    sampled["return_mean"] = r.random() < 0.5
    return {
        "step": {**sampled, "v": field(), "step_size": 0.1, "noise_scale": r.choice([None, 0.2])},
        "langevin_step": {**sampled, "score": field(), "snr": 0.16, "alpha": 1.0, "norm": "batch"},
        "noise": {"M": problem.M, "shape": (BATCH, *SHAPE), "noise": noise, "scale": 2.0, "dtype": torch.float32,
                  "memory_format": torch.contiguous_format, "out": out},
        "precondition": {"v": field(), "M": problem.M, "which": "MMt", "out": out},
    }[op]  # fmt: skip


@pytest.mark.parametrize("op", ["step", "langevin_step", "noise", "precondition"])
@seeds(200)
def test_ops(op, run):
    r = random.Random(f"{op} {run}")
    torch.manual_seed(run)
    for _ in range(50):
        arguments = spoiled(op_arguments(op, r), r)
        before = {name: state(value) for name, value in arguments.items()}
        result = outcome(lambda arguments=arguments: getattr(tdas_ops, op)(**arguments))
        written = ("out", "cast", "noise") if not isinstance(result, Exception) else ()
        for name, value in arguments.items():
            shared = any(arguments[other] is value for other in written if other in arguments)
            assert shared or state(value) == before[name], (name, arguments)


def arrays(r: random.Random) -> Any:
    """Masks and statistics, most of them wrong in one way."""
    channels, height, width = SHAPE
    full, half = SHAPE, (channels, height, width // 2 + 1)
    shape = r.choice(
        [full] * 4 + [half] * 3 + [full[1:], (1, *full[1:]), (1, *full), (2, *full), (0, 5, 6), (3, 5, 6), ()]
    )
    values = np.ones(shape) if r.random() < 0.6 else np.random.default_rng(r.randint(0, 99)).uniform(0.5, 1.5, shape)
    if values.size and r.random() < 0.3:
        values.reshape(-1)[r.randrange(values.size)] = r.choice([0.0, -1.0, math.nan, math.inf, 1e39, 1e-60, 5e-324])
    dtype = r.choice(["f8"] * 4 + ["f4", "f2", ">f8", ">f4", "g", "i4", "u1", "?", "c16", "O", "U3", "M8[s]"])
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            values = np.asarray(values.astype(dtype))
        except (ValueError, TypeError):
            values = np.ones(shape, dtype="U1")
    layouts = [np.asarray, np.asfortranarray, lambda a: a[..., ::-1], lambda a: np.ma.masked_array(a, a == a),
               np.ndarray.tolist, torch.from_numpy, torch.from_numpy]  # fmt: skip
    try:
        return r.choice(layouts)(values)
    except (ValueError, TypeError, IndexError):
        return values


def use(M: Any) -> None:
    """What comes out of a constructor works, or says in one sentence that it is for float64."""
    if not isinstance(M, Preconditioner):
        return
    for dtype in (torch.float32, torch.float64):
        v = torch.ones(1, *M.shape, dtype=dtype)
        result = outcome(lambda v=v: tdas_ops.precondition(v, M))
        assert isinstance(result, torch.Tensor) or "for float32" in str(result)


@seeds(250)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning:numpy")  # of a masked array's filling
def test_masks(run):
    r = random.Random(f"masks {run}")
    for _ in range(50):
        values = lambda: r.choice([arrays(r), arrays(r), None]) if r.random() < 0.9 else anything(r)
        given = {"freq": values(), "space": values(), "alpha": r.choice([5.0, 1.5, numbers(r)])}
        given["method"] = r.choice(["pds", "tdas", None, strangers(r)])
        kind = r.choice(["from_masks", "from_statistics", "constructor", "radial"])
        before = {name: copy.deepcopy(state(value)) for name, value in given.items()}
        if kind == "from_masks":
            more = {"skew": r.choice([None, None, values()]), "shape": r.choice([None, SHAPE, SHAPE, shapes(r)])}
            made = outcome(lambda given=given, more=more: Preconditioner.from_masks(**given, **more))
        elif kind == "from_statistics":
            made = outcome(lambda given=given: Preconditioner.from_statistics(**given))
        elif kind == "radial":
            made = outcome(
                lambda given=given: Preconditioner.radial(lambda k: given["freq"], r.choice([SHAPE, shapes(r)]))
            )
        else:
            more = {name: given[name] for name in ("freq", "space", "method")}
            made = outcome(lambda more=more: Preconditioner(r.choice([SHAPE, SHAPE, shapes(r)]), **more))
        assert {name: state(value) for name, value in given.items()} == before
        use(made)


@seeds(100)
def test_streams_and_levels(run):
    r = random.Random(f"streams {run}")
    for _ in range(50):
        whole = lambda: r.choice([0, 7, 1 << 32, (1 << 64) - 1, 1 << 64, numbers(r), strangers(r)])
        seed = r.choice([{"seed": whole()}, {"seeds": [whole(), whole()]}, {"seeds": whole()}, {}])
        more = {name: whole() for name in r.sample(["first_sample", "draw"], r.randint(0, 2))}
        if r.random() < 0.2:
            more["device"] = strangers(r)
        stream = outcome(lambda seed=seed, more=more: NoiseStream(**seed, **more))
        if isinstance(stream, NoiseStream):
            json.dumps(stream.state_dict())
        description = NoiseStream(seeds=[1, 2]).state_dict() | {r.choice(["seeds", "per_sample", "draw", "x"]): whole()}
        kept = NoiseStream(5, draw=3)
        if isinstance(outcome(lambda d=description, kept=kept: kept.load_state_dict(d)), Exception):
            assert kept.state_dict() == NoiseStream(5, draw=3).state_dict()
        kind, low, high = r.choice([sde.VE, sde.VP, sde.SubVP]), whole(), whole()
        outcome(lambda kind=kind, low=low, high=high: kind(low, high).levels(20))
        few = r.choice([1, 5, 50, numbers(r) if r.random() < 0.9 else strangers(r)])
        if not isinstance(few, int) or few < 1000:
            outcome(lambda few=few: sde.VE().levels(few, r.choice([None, 0.1, numbers(r)])))


def damaged(content: bytes, r: random.Random) -> bytes:
    """A file cut, lengthened, or with some bytes of its first part changed."""
    how = r.choice(["cut", "longer", "bytes", "bytes", "text", "swap"])
    if how == "cut":
        return content[: r.randrange(len(content))]
    if how == "longer":
        return content + r.randbytes(r.randint(1, 50))
    changed = bytearray(content)
    for _ in range(r.choice([1, 1, 3, 20])):
        where = r.randrange(min(len(changed), 400))
        if how == "bytes":
            changed[where] = r.randrange(256)
        elif how == "text":  # of the same length: headers stay headers
            changed[where] = r.choice(b'0123456789{}[]",:<>fiuc()')
        else:
            other = r.randrange(len(changed))
            changed[where], changed[other] = changed[other], changed[where]
    return bytes(changed)


@seeds(300)
def test_files(run, tmp_path):
    r = random.Random(f"files {run}")
    M = make_problem(skew=True).M
    M.save(tmp_path / "whole")
    archive, array = io.BytesIO(), io.BytesIO()
    np.savez(archive, a=np.ones(SHAPE))
    np.save(array, np.ones(SHAPE))
    sources = [(tmp_path / "whole").read_bytes(), array.getvalue(), archive.getvalue()]
    path = tmp_path / "damaged"
    for _ in range(50):
        content = damaged(r.choice(sources[:2] if r.random() < 0.9 else sources), r)
        path.write_bytes(content)
        for result in (
            outcome(lambda: Preconditioner.load(path)),
            outcome(lambda: Preconditioner.from_masks(path)),
            outcome(lambda: Preconditioner.from_masks(space=path)),
        ):
            assert isinstance(result, ValueError | Preconditioner)
            use(result)
        assert path.read_bytes() == content
