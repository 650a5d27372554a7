"""Raw statistics of images, of which masks are made."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tdas_ops import _arguments, _images

_CLOSE = 1e-6


class ImageStatistics:
    """The raw statistics f(k) and a(p) of a stream of images, accumulated in float64 batch by batch.

    Attributes:
        count: images seen so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._power: Tensor | None = None
        self._square: Tensor | None = None

    def add(self, images: Tensor) -> None:
        """Adds a batch `[N, C, H, W]` in [0, 1].

        Raises:
            ValueError, TypeError: wrong rank, dtype, range, or another shape than before.
        """
        if not isinstance(images, Tensor) or not images.dtype.is_floating_point:
            got = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"images: got {got}, expected a floating-point tensor with values in [0, 1]")
        if images.dim() != 4 or 0 in images.shape[1:]:
            raise ValueError(f"images: got shape {tuple(images.shape)}, expected [N, C, H, W]")
        if len(images) == 0:
            return
        images = _images.in_unit_range(images)
        if self._power is None or self._square is None:
            shape, device = images.shape[1:], images.device
            self._power = torch.zeros(shape, dtype=torch.float64, device=device)
            self._square = torch.zeros(shape, dtype=torch.float64, device=device)
        elif images.shape[1:] != self._power.shape:
            raise ValueError(
                f"images: got {tuple(images.shape[1:])} after {tuple(self._power.shape)}, expected one size"
            )
        for part in images.double().split(max(1, (1 << 22) // images[0].numel())):
            self._power += torch.fft.fft2(part).abs().square().sum(dim=0)
            self._square += part.square().sum(dim=0)
        self.count += len(images)

    def result(self) -> tuple[Tensor, Tensor]:
        """`f(k) = log(1 + mean |F x|^2)` as a full spectrum and `a(p) = mean x^2`, both `[C, H, W]` float64."""
        if self._power is None or self._square is None:
            raise ValueError("images: got none, expected at least one image")
        return torch.log1p(self._power / self.count), self._square / self.count


def check_unshifted(raw: Tensor, of_images: bool) -> None:
    """Whether a raw statistic f(k) `[C, H, W]` has frequency zero at `[0, 0]`.

    Images in [0, 1] have nowhere more power than there; what else a statistic may come from, only a shift leaves the
    largest value of every channel in the middle.
    """
    if raw.dim() != 3 or raw.numel() == 0 or not bool(raw.isfinite().all()):
        return  # refused elsewhere
    height, width = raw.shape[1:]
    enough = raw.amax((-2, -1)) * (1 - _CLOSE)
    largest = lambda h, w: bool((raw[:, h, w] >= enough).all())  # noqa: E731
    if largest(0, 0) or not (of_images or largest(height // 2, width // 2)):
        return
    at = divmod(int(raw[0].argmax()), width)
    raise ValueError(
        f"freq: got a statistic whose largest value is at {at} of a channel, expected it at frequency zero, (0, 0) "
        "(numpy.fft.ifftshift(f, axes=(-2, -1)) undoes a shift)"
    )


def checked_alpha(alpha: float) -> float:
    alpha = _arguments.number("alpha", alpha)
    if not 1.0 < alpha < math.inf:
        raise ValueError(f"alpha: got {alpha}, expected a finite number greater than 1")
    return alpha


def normalised(raw: Tensor, alpha: float, method: str | None) -> Tensor:
    if not isinstance(method, str) or method not in ("pds", "tdas"):
        raise ValueError(
            f"method: got {_arguments.shown(method)}, expected 'pds' or 'tdas' for masks made from statistics"
        )
    if raw.numel() == 0:
        raise ValueError(f"statistics: got shape {tuple(raw.shape)}, expected [C, H, W]")
    highest = float(raw.max())
    if not bool(raw.isfinite().all()) or float(raw.min()) < 0 or highest <= 0:
        raise ValueError(f"statistics: got values from {float(raw.min()):.4g} to {highest:.4g}, expected some above 0")
    m = (raw / highest + alpha - 1) / alpha
    return 1 / m if method == "pds" else m
