"""The CUDA plane kernels in ctypes (csrc/cuda/update.h), and the reference of the same in float64."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable
from ctypes import POINTER, Structure, c_bool, c_float, c_int, c_int64, c_uint64, c_void_p
from typing import NamedTuple

import torch
from torch import Tensor

from tdas_ops import Preconditioner, reference
from tests.kernels.simt_library import Build, load

FILTERS = ("drift", "noise", "M", "Mt", "MMt")
KINDS = {"drift": 1, "skewed drift": 2, "noise": 4, "pixels": 8, "measure": 16}  # bits of SIMT_KINDS
UPDATES = sum(KINDS[kind] for kind in KINDS if kind != "measure")
ELEMENTS = (torch.float32, torch.bfloat16, torch.float16)
NUMBERS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class FieldArgs(Structure):
    _fields_ = (("data", c_void_p), ("element", c_int), ("strides", c_int64 * 4))


class MaskArgs(Structure):
    _fields_ = (("freq", c_void_p), ("space", c_void_p), ("skew", c_void_p))


class ScaleArgs(Structure):
    _fields_ = (("values", c_void_p), ("type", c_int), ("per_sample", c_bool), ("number", c_float))


class UpdateArgs(Structure):
    _fields_ = (
        ("filter", c_int),
        *((name, c_int64) for name in ("batch", "channels", "height", "width")),
        *((name, FieldArgs) for name in ("out", "cast", "base", "v", "z")),
        ("masks", MaskArgs),
        ("d", ScaleArgs),
        ("n", ScaleArgs),
        ("langevin_noise", c_bool),
        ("seeds", c_void_p),
        ("draw", c_void_p),
        ("first_sample", c_int64),
        ("seed_per_sample", c_bool),
    )


def kind_bits(kinds: Iterable[str]) -> int:
    return sum(KINDS[kind] for kind in kinds)


def pointer(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def field(t: Tensor | None) -> FieldArgs:
    return FieldArgs() if t is None else FieldArgs(t.data_ptr(), ELEMENTS.index(t.dtype), (c_int64 * 4)(*t.stride()))


def scale(value: float | Tensor | None) -> ScaleArgs:
    if isinstance(value, Tensor):
        return ScaleArgs(value.data_ptr(), NUMBERS.index(value.dtype), value.numel() > 1, math.nan)
    return ScaleArgs(None, 0, False, value or 0.0)


class Update(NamedTuple):
    """One call: the filter "drift", "noise", "M", "Mt" or "MMt" with its inputs. n = None is sqrt(2 d)."""

    filter: str
    M: Preconditioner
    base: Tensor | None = None
    v: Tensor | None = None
    z: Tensor | None = None
    d: float | Tensor | None = None
    n: float | Tensor | None = None
    seeds: Tensor | None = None
    draw: int = 0
    first_sample: int = 0

    def part(self, first: int, last: int) -> Update:
        """The same for some samples of the batch."""
        cut = {}
        for name in ("base", "v", "z", "d", "n", "seeds"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and len(value) > 1:
                cut[name] = value[first:last]
        return self._replace(**cut, first_sample=self.first_sample + (0 if "seeds" in cut else first))

    def masks(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        freq, space, skew = self.M.masks(dtype)
        return freq, space, skew if self.filter == "drift" else None

    def expected(self, shape: tuple[int, ...]) -> Tensor:
        """By the reference in float64."""
        double = lambda t: t.double() if isinstance(t, Tensor) else t
        both = lambda a: (1.0, a.double()) if isinstance(a, Tensor) else (a, None)
        out, (freq, space, skew) = torch.empty(shape, dtype=torch.float64), self.masks(torch.float64)
        draw = None if self.seeds is None else torch.tensor([self.draw])
        noise = (double(self.z), self.seeds, draw, self.first_sample)
        if self.filter in ("M", "Mt", "MMt"):
            reference.precondition(out, self.v.double(), freq, space, self.filter)
        elif self.v is None:
            reference.noise(out, freq, space, *both(self.n), *noise)
        else:
            reference.step(
                out,
                None,
                self.base.double(),
                self.v.double(),
                freq,
                space,
                skew,
                self.filter == "drift",
                *both(self.d),
                *((None, None) if self.n is None else both(self.n)),
                *noise,
            )
        return out


class PlaneKernels:
    """The updates of a compiled library."""

    def __init__(self, build: Build, mistake: int = 0):
        """With one of the mistakes that are planted in it, by its number."""
        self.library = load(build.path())
        self.library.simt_plant(mistake)
        self.library.simt_args_bytes.restype = c_uint64
        self.library.simt_update.argtypes = [POINTER(UpdateArgs)]
        self.library.simt_has_kernel.argtypes = [c_int64, c_int64]
        assert self.library.simt_args_bytes() == ctypes.sizeof(UpdateArgs)
        self.update = self.library.simt_update

    def __call__(self, update: Update, out: Tensor, cast: Tensor | None = None) -> Tensor:
        assert self.library.simt_has_kernel(*out.shape[2:])
        masks, draw = update.masks(torch.float32), torch.tensor([update.draw])
        args = UpdateArgs(
            FILTERS.index(update.filter),
            *out.shape,
            *map(field, (out, cast, update.base, update.v, update.z)),
            MaskArgs(*map(pointer, masks)),
            scale(update.d),
            scale(update.n),
            update.n is None,
            pointer(update.seeds),
            pointer(draw),
            update.first_sample,
            update.seeds is not None and len(update.seeds) > 1,
        )
        if self.update(args) != 0:
            raise RuntimeError(self.library.simt_error().decode())
        return out
