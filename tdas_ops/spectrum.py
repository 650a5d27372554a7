"""`Spectrum`: mean colour and cross-spectrum of a kind of pictures, for a picture of any size."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tdas_ops import _arguments, _arrays, _channels, _images, _stored, ops
from tdas_ops._gaussian import Target
from tdas_ops.noise import Stream
from tdas_ops.preconditioner import Method, Preconditioner
from tdas_ops.reference import column_weights, full_spectrum, own_columns

_SLOPES = (1.0, 4.0)


class Spectrum:
    """The law of a stationary field of several channels: mean, and a covariance of the channels at every frequency.

    Made by `from_images` or `load`; it is immutable. What it holds are densities: white noise of standard deviation n
    has `n^2` times the unit matrix at every frequency, whatever the size. So a spectrum of patches serves pictures of
    another size, `resize`, at the same number of cycles per pixel.

    Attributes:
        shape: (C, H, W).
        mean: of every channel, `[C]`, float64 on the CPU.
        matrices: S(k), covariances of the coefficients of the orthonormal DFT in squared units of x, half spectrum
            `[H, W // 2 + 1, C, C]`, float64 or complex128 on the CPU.
        slope: of the power law `S ~ |k|^-slope` that goes on below the lowest ring where a larger picture needs it.
    """

    def __init__(self, shape: Sequence[int], mean: Tensor, matrices: Tensor, slope: float = 2.0) -> None:
        expected = "(C, H, W), all positive"
        sizes = _arguments.sizes("shape", shape, expected)
        if len(sizes) != 3:
            raise ValueError(f"shape: got {_arguments.shown(sizes)}, expected {expected}")
        self.shape = (sizes[0], sizes[1], sizes[2])
        self.mean = _arrays.own("mean", mean, "f")
        if tuple(self.mean.shape) != sizes[:1] or not bool(self.mean.isfinite().all()):
            raise ValueError(f"mean: got shape {tuple(self.mean.shape)}, expected {sizes[:1]} and finite values")
        self.slope = _arguments.number("slope", slope)
        if not 0 <= self.slope < math.inf:
            raise ValueError(f"slope: got {slope}, expected a finite number that is not negative")
        self.matrices = _channels.checked("matrices", matrices, self.shape)

    @classmethod
    def from_images(
        cls,
        images: Tensor | Iterable[Tensor] | str | os.PathLike[str],
        *,
        window: bool = True,
        phases: bool = False,
        slope: float | None = None,
        size: tuple[int, int] | None = None,
        progress: bool = False,
    ) -> Spectrum:
        """The spectrum of images in the units of x, any range; a few hundred are enough.

        Args:
            images: `[N, C, H, W]`, two or more; or an iterable of such batches; or a folder of pictures.
            window: multiply by a Hann window, since the edges of a patch do not fit together; False for periodic ones.
            phases: keep the imaginary parts. Without them an image and its point reflection are equally likely.
            slope: of the power law at low frequencies, by default fitted to the lower eighth of the frequencies.
            size, progress: for folders, as in `Preconditioner.from_images`.

        Raises:
            ValueError: fewer than two images, non-finite values, shapes that differ.
        """
        count, first, spectra, total, outer = 0, torch.Size(), torch.zeros(()), torch.zeros(()), torch.zeros(())
        if isinstance(images, str | os.PathLike):
            images = _images.Reader(size, progress=progress).read_and_report(images)
        for batch in _images.batches(images):
            count, first = count + len(batch), batch.shape[1:]
            for part in batch.cpu().split(max(1, (1 << 22) // max(1, first.numel()))):
                part = part.double()
                means = part.mean((2, 3))
                away = part - means[..., None, None]
                z = torch.fft.rfft2(away * _hann(first[1], first[2]) if window else away, norm="ortho")
                spectra = spectra + torch.einsum("nahw,nbhw->hwab", z, z.conj())
                total, outer = total + means.sum(0), outer + means.T @ means
        mean, matrices = total / count, spectra / count
        if not bool(mean.isfinite().all()):
            raise ValueError("images: got non-finite values, expected finite ones")
        variance = (outer - count * torch.outer(mean, mean)) / (count - 1)
        matrices[0, 0] = (variance * (first[1] * first[2])).to(matrices.dtype)
        matrices = matrices if phases else matrices.real
        shape = (first[0], first[1], first[2])
        return cls(shape, mean, matrices, _fitted_slope(matrices, shape) if slope is None else slope)

    def resize(self, height: int, width: int) -> Spectrum:
        """The spectrum of pictures of another size: the same at the same number of cycles per pixel.

        Between the frequencies of this spectrum it is interpolated, below the lowest ring it follows a power law. The
        mean colour of a part that fits into both sizes keeps its variance: what those low frequencies do not make of it
        is left to the mean colour of the picture, and where they would make more, they are lowered.
        """
        height, width = _arguments.whole("height", height, 1), _arguments.whole("width", width, 1)
        channels, own_height, own_width = self.shape
        if (height, width) == (own_height, own_width):
            return self
        rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None] * own_height
        columns = torch.fft.rfftfreq(width, dtype=torch.float64)[None] * own_width
        radii = torch.hypot(rows, columns)
        base = _lowest(self.matrices, self.shape, self.slope)
        source = self.matrices.clone()
        source[0, 0] = base
        made = _interpolated(source, rows[:, 0], columns[0])
        below = (radii < 1)[..., None, None]
        made = torch.where(below, base * radii.clamp_min(1e-9).pow(-self.slope)[..., None, None], made)
        made[0, 0] = 0
        box = (min(height, own_height), min(width, own_width))
        whole, rest = (
            _variance_of_mean(self.matrices, self.shape, box),
            _variance_of_mean(made, (1, height, width), box),
        )
        too_much = float(torch.trace(rest).real / torch.trace(whole).real.clamp_min(1e-300))
        if too_much > 1:
            made = torch.where(below, made / too_much, made)
        else:
            values, vectors = torch.linalg.eigh(whole - rest)
            made[0, 0] = height * width * _channels.compose(values.clamp_min(0), vectors)
        own_mirror = own_columns(width)  # of which an odd number of columns has one too few
        mirrored = made[-torch.arange(height) % height][:, own_mirror].conj()
        made[:, own_mirror] = 0.5 * (made[:, own_mirror] + mirrored)
        return Spectrum((channels, height, width), self.mean, made, self.slope)

    # What a sampler does with it

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        return _channels.eigen("matrices", self.matrices, self.shape)

    def filter(
        self,
        variance: Callable[[Tensor], Tensor],
        *,
        method: Method = "tdas",
        device: torch.device | str = "cpu",
        about: dict[str, Any] | None = None,
    ) -> Preconditioner:
        """The filter whose noise has a variance that is a function of the data's, direction by direction.

        Args:
            variance: maps the eigenvalues L of S(k), `[H, W // 2 + 1, C]` float64, to variances of `M z`.
            method, device: of the filter.
            about: its provenance.
        """
        values, vectors = self._eigen
        roots = variance(values).clamp_min(0).sqrt()
        about = {"source": "spectrum", **(about or {})}
        return Preconditioner(
            self.shape, _channels.compose(roots, vectors), method=method, provenance=about, device=device
        )

    def start(
        self,
        sigma: float,
        shape: Sequence[int],
        noise: Stream,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """A sample of the law at a noise level: `mean + M z` of variance L + sigma^2; one draw of the stream.

        For the argument `start` of a sampler whose ladder begins at sigma; it has the colours and the large shapes that
        a network that sees a few pixels around each one would never make.

        Args:
            sigma: noise level that the run begins at, in units of x.
            shape: (B, C, H, W); another H or W than that of the spectrum is what `resize` makes of it.
            noise: stream of the run, or its seed.
            dtype: float32, or float64 on the CPU.
            device: where the sample is.

        Source: Wang and Vastola, arXiv 2412.09726, for the start of a Gaussian law.
        """
        expected = "a finite number that is not negative"
        if not 0 <= _arguments.number("sigma", sigma, expected) < math.inf:
            raise ValueError(f"sigma: got {sigma}, expected {expected}")
        expected = f"(B, {self.shape[0]}, H, W), all positive"
        shape = _arguments.sizes("shape", shape, expected)
        if len(shape) != 4 or shape[1] != self.shape[0]:
            raise ValueError(f"shape: got {_arguments.shown(shape)}, expected {expected}")
        own = self.resize(shape[2], shape[3])
        M = own.filter(lambda L: L + sigma**2, method=None, device=device)
        return ops.noise(M, shape, noise, dtype=dtype).add_(self.mean.to(M.device, dtype)[:, None, None])

    def posterior(
        self,
        ladder: Sequence[float],
        *,
        eta: float = 1.0,
        share: float = 1.0,
        method: Method = "tdas",
        device: torch.device | str = "cpu",
    ) -> list[Preconditioner]:
        """Filters for the steps of a ladder, which give isotropic noise the covariance of the posterior.

        From s to t, with `S = L + s^2` and `S' = L + t^2`, the noise of a step gets the variance
        `S' (1 - (S' / S)^eta)`, at eta = 1 `(S - S') S' / S`, that of the next level given this one; its excess over
        isotropic noise `t^2 (1 - (t / s)^(2 eta))` is counted `share` times. They are the M of `samplers.ancestral`
        and, with its eta, of `samplers.dpmpp`: `M=spectrum.posterior(ladder)` beside `ladder=ladder`.

        Args:
            ladder: falling noise levels; 0 may be the last one, where no noise is added.
            eta: above 0, at most 1.
            share: from 0 (no filter) to 1.
            method, device: of the filters.

        Returns: a filter for each step.

        Source: DDPM, arXiv 2006.11239, equation 7, and Analytic-DPM, arXiv 2201.06503, equation 9, for a Gaussian law.
        """
        if not 0 < eta <= 1 or not 0 <= share <= 1:
            raise ValueError(
                f"eta, share: got {eta}, {share}, expected eta above 0, both at most 1, share not negative"
            )
        steps = list(pairwise(float(sigma) for sigma in ladder))
        if not steps or any(not s > t >= 0 for s, t in steps):
            raise ValueError(f"ladder: got {list(ladder)}, expected two or more falling noise levels")
        made: list[Preconditioner] = []
        for s, t in steps:
            if t == 0:
                made.append(made[-1] if made else self.filter(torch.ones_like, method=method, device=device))
                continue
            isotropic = t**2 * -math.expm1(2 * eta * math.log(t / s))

            def excess(L: Tensor, s: float = s, t: float = t, isotropic: float = isotropic) -> Tensor:
                after = L + t**2
                whole = -after * torch.expm1(eta * torch.log1p((t**2 - s**2) / (L + s**2)))
                return 1 + share * (whole / isotropic - 1)

            about = {"from": s, "to": t, "eta": eta, "share": share}
            made.append(self.filter(excess, method=method, device=device, about=about))
        return made

    def target(self) -> Target:
        """The channels by themselves, for `calibrate`."""
        width = self.shape[2]
        own = torch.diagonal(self.matrices, dim1=-2, dim2=-1).real.permute(2, 0, 1)
        mean = self.mean[:, None, None].expand(self.shape)
        return Target.from_spectrum(full_spectrum(own, width), mean)

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file in float64."""
        about = {"shape": self.shape, "slope": self.slope}
        _stored.save(path, "Spectrum", {"mean": self.mean, "matrices": self.matrices}, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Spectrum:
        """Reads a file that `save` wrote.

        Raises:
            ValueError: there is no such file, or it is not such a file, as in `Preconditioner.load`.
        """

        def make(tensors: dict[str, Any], about: dict[str, Any]) -> Spectrum:
            matrices = _stored.as_complex(tensors["matrices"], 4)
            return cls(about["shape"], tensors["mean"], matrices, about["slope"])

        return _stored.load(path, "Spectrum", make, needed=("mean", "matrices"), fields=("shape", "slope"))

    def __repr__(self) -> str:
        return f"Spectrum(shape={self.shape}, slope={self.slope:.2f}, real={not self.matrices.is_complex()})"


torch.serialization.add_safe_globals([Spectrum])


def _hann(height: int, width: int) -> Tensor:
    """`[H, W]`, of mean square 1."""
    rows, columns = (torch.hann_window(n, periodic=False, dtype=torch.float64) for n in (height, width))
    made = (rows if height > 2 else torch.ones(height))[:, None] * (columns if width > 2 else torch.ones(width))
    return made / made.square().mean().sqrt()


def _rings(shape: Sequence[int]) -> Tensor:
    """|k| of a half spectrum `[H, W // 2 + 1]`, in cycles a picture."""
    rows = torch.fft.fftfreq(shape[1], dtype=torch.float64) * shape[1]
    return torch.hypot(rows[:, None], torch.fft.rfftfreq(shape[2], dtype=torch.float64)[None] * shape[2])


def _lowest(matrices: Tensor, shape: Sequence[int], slope: float) -> Tensor:
    """S at one cycle a picture, `[C, C]`, of the power law through the lowest rings."""
    radii = _rings(shape)
    low = (radii >= 0.5) & (radii < 2.5)
    if not bool(low.any()):
        return matrices[0, 0]
    return (matrices[low].real * radii[low].pow(slope)[:, None, None]).mean(0).to(matrices.dtype)


def _variance_of_mean(matrices: Tensor, shape: Sequence[int], box: tuple[int, int]) -> Tensor:
    """Covariance `[C, C]` of the mean colour of a box (height, width) in pictures of a shape."""
    rows = torch.fft.fftfreq(shape[1], dtype=torch.float64) * box[0]
    columns = torch.fft.rfftfreq(shape[2], dtype=torch.float64) * box[1]
    weights = torch.sinc(rows).square()[:, None] * (column_weights(shape[2]) * torch.sinc(columns).square())
    total = (weights[..., None, None] * matrices).sum((0, 1)).real
    return (total / (shape[1] * shape[2])).to(matrices.dtype)


def _fitted_slope(matrices: Tensor, shape: Sequence[int]) -> float:
    """Of the total power against |k|, both as logarithms, ring by ring from 2 cycles to an eighth of the highest."""
    rings, power = _rings(shape).round(), torch.diagonal(matrices, dim1=-2, dim2=-1).real.sum(-1)
    numbers = torch.arange(2, max(2, min(shape[1:]) // 16) + 1, dtype=torch.float64)
    means = torch.stack([power[rings == number].mean() for number in numbers])
    fit = means.isfinite() & (means > 0)
    if int(fit.sum()) < 2:
        return 2.0
    x, y = numbers[fit].log(), means[fit].log()
    x = x - x.mean()
    return min(max(-float((x * y).sum() / x.square().sum()), _SLOPES[0]), _SLOPES[1])


def _interpolated(source: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """A half spectrum `[H, K, ...]` at fractional rows and columns: linear in both, periodic in rows."""
    below = rows.floor()
    weight = (rows - below).reshape(-1, 1, 1, 1)
    index = below.long()
    by_rows = (1 - weight) * source[index % len(source)] + weight * source[(index + 1) % len(source)]
    last = source.shape[1] - 1
    below = columns.floor().clamp_max(last)
    weight = (columns - below).clamp(0, 1).reshape(1, -1, 1, 1)
    index = below.long()
    return (1 - weight) * by_rows[:, index] + weight * by_rows[:, (index + 1).clamp_max(last)]
