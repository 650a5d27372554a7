"""What the masks of a `Preconditioner`, `freq`, `space` and `skew`, make of white noise; and masks of other sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from tdas_ops.reference import column_weights, full_spectrum

Shape = tuple[int, int, int]
Masks = tuple[Tensor | None, Tensor | None, Tensor | None]


def deviations(freq: Tensor | None, space: Tensor | None, shape: Shape) -> Tensor:
    """Standard deviation of the channels of M z over all pixels, `[C]` float64, for white z of variance 1.

    At pixel p the variance of `M z` is `sum_q h(p - q)^2 A(q)^2`, h the kernel of R; its mean over p is the product of
    the means of `|R|^2` over all frequencies and of `A^2`.
    """
    pixels = torch.ones(shape[0], dtype=torch.float64) if space is None else space.square().mean((1, 2))
    if freq is None:
        return pixels.sqrt()
    if freq.dim() == 4:
        return (_mean_power(freq.permute(2, 3, 0, 1), shape) @ pixels).sqrt()
    return (_mean_power(freq, shape) * pixels).sqrt()


def unit_variance(freq: Tensor | None, space: Tensor | None, skew: Tensor | None, shape: Shape) -> Masks:
    """The masks scaled channel by channel to deviations of 1.

    Raises:
        ValueError: nothing is left of a channel.
    """
    found = deviations(freq, space, shape)
    if not bool((found > 0).all()):
        raise ValueError(f"M: got a filter that leaves nothing of channel {int(found.argmin())}, expected some noise")
    if not bool(found.isfinite().all()):
        raise ValueError(f"M: got a filter whose noise in channel {int(found.argmax())} is infinite, expected finite")
    factor = found.reciprocal()[:, None, None]
    skew = None if skew is None else skew * factor.square()
    if freq is None:
        return None, None if space is None else space * factor, skew
    return freq * (factor[:, 0] if freq.dim() == 4 else factor), space, skew


def resized(
    freq: Tensor | None,
    space: Tensor | None,
    skew: Tensor | None,
    shape: Shape,
    size: tuple[int, int],
) -> Masks:
    """The masks for (height, width) `size` in place of that of `shape`."""
    width = shape[2]
    if freq is not None and freq.dim() == 4:
        freq = _at_size(full_spectrum(freq.permute(2, 3, 0, 1), width), size).permute(2, 3, 0, 1)
    elif freq is not None:
        freq = _at_size(full_spectrum(freq, width), size)
    if skew is not None:  # i w is Hermitian
        skew = _at_size(full_spectrum(torch.complex(torch.zeros_like(skew), skew), width), size).imag
    if space is not None:
        space = torch.nn.functional.interpolate(space[None], size, mode="bilinear", antialias=True)[0]
    return freq, space, skew


def _mean_power(half: Tensor, shape: Shape) -> Tensor:
    """Mean of |R|^2 over all frequencies, of a half spectrum `[..., H, W // 2 + 1]`."""
    return (half.abs().square() * column_weights(shape[2])).sum((-2, -1)) / (shape[1] * shape[2])


def _at_size(full: Tensor, size: tuple[int, int]) -> Tensor:
    """A full spectrum `[..., H, W]` at the frequencies of a half spectrum of another size, linear both ways."""
    height, width = full.shape[-2:]
    rows = torch.fft.fftfreq(size[0], dtype=torch.float64) * height
    columns = torch.fft.rfftfreq(size[1], dtype=torch.float64) * width
    below, right = rows.floor(), columns.floor()
    down, along = (rows - below)[:, None], columns - right
    h, w = below.long() % height, right.long() % width
    by_rows = (1 - down) * full[..., h, :] + down * full[..., (h + 1) % height, :]
    return (1 - along) * by_rows[..., w] + along * by_rows[..., (w + 1) % width]
