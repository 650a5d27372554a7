"""What the kernels of an update share: scales d and n of each sample, a draw of a noise stream, the size they allow."""

from __future__ import annotations

import math
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from tdas_ops.triton_kernels import LIMIT


@triton.jit
def of_sample(d, d_each, d_stride, n, n_each, n_stride, sample, ROOT_OF_TWO_D: tl.constexpr):
    """(d, n) of a sample, float32: the numbers, or elements of tensors where there are any; or n = sqrt(2 d)."""
    if d_each is not None:
        d = tl.load(d_each + sample * d_stride).to(tl.float32)
    if ROOT_OF_TWO_D:
        n = tl.sqrt(2.0 * d)
    elif n_each is not None:
        n = tl.load(n_each + sample * n_stride).to(tl.float32)
    return d, n


def check_size(shape: tuple[int, ...]) -> None:
    """Raises ValueError for samples of `(B, C, H, W)` within which a kernel cannot count in 32 bits."""
    if math.prod(shape[1:]) >= LIMIT:
        raise ValueError(f"x: got shape {shape}, expected fewer than 2^31 elements a sample for the Triton kernels")


class Scale(NamedTuple):
    """A number, or a tensor with 1 or B elements; `root_of_two_d` marks an n that is `sqrt(2 d)`."""

    number: float
    tensor: Tensor | None = None
    root_of_two_d: bool = False

    def arguments(self) -> tuple[float, Tensor | None, int]:
        """The number, the tensor as a vector, and the stride from one sample to the next."""
        if self.tensor is None:
            return self.number, None, 0
        each = self.tensor.reshape(-1)
        return self.number, each, each.stride(0) if len(each) > 1 else 0


ONE = Scale(1.0)


class Drawn(NamedTuple):
    """A draw of a noise stream: int64 `seeds` of 1 or B elements, int64 `draw` of one, the number of sample 0."""

    seeds: Tensor
    draw: Tensor
    first_sample: int
