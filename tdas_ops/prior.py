"""`Prior`: the Gaussian law of the data, and what samplers do with it.

A mean image and variances L of the coefficients in an orthonormal basis. Noised with sigma, the law has the variances
`S = L + sigma^2`; its denoiser is `mean + L / S (x - mean)`, coefficient by coefficient, and its flow and its posterior
are known exactly. A denoiser of any other law is `D(x) = m + L / S (x - m)` with an image m of its own,
`m = D + L score`: what is left for a sampler to integrate changes slowly along the way where the prior is good, and not
at all where it is exact.

Levels are noise over data: for VP and sub-VP, `sigma = std / mean_scale` and x the state over its mean scale.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tdas_ops import _arguments, _images, _stored, ops
from tdas_ops._gaussian import Field, spectral_field
from tdas_ops.noise import Stream
from tdas_ops.preconditioner import Preconditioner

Basis = Literal["pca", "fourier", "pixel", "mean"]
Sigma = float | Tensor

_BASES: tuple[Basis, ...] = get_args(Basis)
_RANK = 512
_ORTHONORMAL = 1e-5


class Prior:
    """A Gaussian law of the data: its mean image, and variances in an orthonormal basis.

    Made by `from_images`, `from_spectrum` or `load`; it is immutable. float64 states use its float64 masters on the
    CPU, float32 ones copies on `device`.

    Attributes:
        shape: (C, H, W).
        basis: "pca" (principal components; directions outside of them have variance 0), "fourier" (the orthonormal DFT:
            a stationary field), "pixel" (pixels independent of each other) or "mean" (variance 0 everywhere).
        mean: `[C, H, W]`, float64 on the CPU.
        variance: L in squared units of x, float64 on the CPU: `[K]` for "pca", a half spectrum `[C, H, W // 2 + 1]`
            for "fourier", `[C, H, W]` for "pixel", `[0]` for "mean".
        vectors: `[K, C, H, W]`, the orthonormal components of "pca", or None.
        provenance: plain values that say where it came from.
        device: where its float32 copies live.

    Source: the flow of a Gaussian law, Wang and Vastola, arXiv 2412.09726; its posterior is the ancestral
    step of DDPM, arXiv 2006.11239, equation 7, with one variance a coefficient.
    """

    def __init__(
        self,
        mean: Tensor,
        variance: Tensor | None = None,
        vectors: Tensor | None = None,
        *,
        basis: Basis = "pca",
        provenance: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if basis not in _BASES:
            raise ValueError(f"basis: got {basis!r}, expected one of {', '.join(_BASES)}")
        self.mean = _master("mean", mean)
        if self.mean.dim() != 3 or 0 in self.mean.shape:
            raise ValueError(f"mean: got shape {tuple(mean.shape)}, expected [C, H, W]")
        channels, height, width = self.mean.shape
        self.shape: tuple[int, int, int] = (channels, height, width)
        self.basis: Basis = basis
        self.variance = _master("variance", self.mean.new_zeros(0) if variance is None else variance)
        self.vectors = None if vectors is None else _master("vectors", vectors)
        self._check()
        self.provenance = dict(provenance or {})
        self._place(_arguments.device(device))

    def _check(self) -> None:
        channels, height, width = self.shape
        if (self.vectors is not None) != (self.basis == "pca"):
            got = "none" if self.vectors is None else "some"
            raise ValueError(f"vectors: got {got} with basis {self.basis!r}, expected them with 'pca' alone")
        rank = 0 if self.vectors is None else len(self.vectors)
        expected = {
            "pca": (rank,),
            "fourier": (channels, height, width // 2 + 1),
            "pixel": self.shape,
            "mean": (0,),
        }[self.basis]
        if tuple(self.variance.shape) != expected:
            raise ValueError(f"variance: got shape {tuple(self.variance.shape)}, expected {expected}")
        if self.variance.numel() and float(self.variance.min()) < 0:
            raise ValueError(f"variance: got {float(self.variance.min()):.4g}, expected none below 0")
        if self.vectors is not None:
            if tuple(self.vectors.shape[1:]) != self.shape:
                raise ValueError(f"vectors: got shape {tuple(self.vectors.shape)}, expected (K, *{self.shape})")
            flat = self.vectors.flatten(1)
            off = float((flat @ flat.T - torch.eye(rank, dtype=torch.float64)).abs().max()) if rank else 0.0
            if off > _ORTHONORMAL:
                raise ValueError(f"vectors: got ones that are not orthonormal by {off:.3g}, expected orthonormal ones")

    def _place(self, device: torch.device) -> None:
        self.device = device
        flat = None if self.vectors is None else self.vectors.flatten(1)
        self._double = (self.mean, self.variance, flat)
        with torch.inference_mode(False):
            self._single = tuple(None if t is None else t.to(device, torch.float32) for t in self._double)

    def to(self, device: torch.device | str) -> Prior:
        """The same prior on another device (itself when it is there already)."""
        made = object.__new__(Prior)
        made.__dict__.update(self.__dict__)
        made._place(_arguments.device(device))
        return self if made.device == self.device else made

    # Sources

    @classmethod
    def from_images(
        cls,
        images: Any,
        basis: Basis = "pca",
        rank: int | None = None,
        *,
        size: tuple[int, int] | None = None,
        grey: bool = False,
        limits: tuple[float, float] = (0.0, 1.0),
        progress: bool = False,
    ) -> Prior:
        """The law of images in the units of x; a few hundred are enough. Samples of a network serve as well.

        Args:
            images: `[N, C, H, W]`, any range, or an iterable of such batches; or whatever `Preconditioner.from_images`
                reads, such as a folder of pictures, in [0, 1]. "pca" holds all of them in float64, the others a batch.
            basis: "pca" for aligned pictures, "fourier" for a stationary field, "pixel", or "mean".
            rank: principal components to keep, at most N - 1; by default 512, or as many as there are.
            size, grey, progress: of what is read, as in `Preconditioner.from_images`.
            limits: x of black and of white where images are read in [0, 1]: (-1, 1) for networks of that range.

        Raises:
            ValueError: fewer than two images, non-finite ones, shapes that differ, a rank that N images do not have;
                limits that are not finite, or the wrong way round.
        """
        if basis not in _BASES:
            raise ValueError(f"basis: got {basis!r}, expected one of {', '.join(_BASES)}")
        if rank is not None and basis != "pca":
            raise ValueError(f"rank: got {rank!r} with basis {basis!r}, expected a positive integer with 'pca'")
        rank = None if rank is None else _arguments.whole("rank", rank, 1)
        if not -math.inf < limits[0] < limits[1] < math.inf:
            raise ValueError(f"limits: got {limits}, expected finite x of black and of white, which is more")
        batches = _finite(_in_units_of_x(images, size, grey, limits, progress))
        about: dict[str, Any] = {"source": "images"}
        if isinstance(images, str | os.PathLike):
            about["folder"] = Path(images).name
        if basis == "pca":
            return cls._principal(torch.cat(list(batches)), rank, about)
        count, mean, variance = _moments(batches, basis)
        return cls(mean, variance, basis=basis, provenance={**about, "images": count})

    @classmethod
    def _principal(cls, images: Tensor, rank: int | None, about: dict[str, Any]) -> Prior:
        count = len(images)
        if rank is not None and rank > count - 1:
            raise ValueError(f"rank: got {rank} for {count} images, expected at most {count - 1}")
        mean = images.mean(0)
        _, singular, vectors = torch.linalg.svd((images - mean).flatten(1), full_matrices=False)
        present = int((singular > 1e-7 * singular[0].clamp_min(1e-300)).sum())
        kept = min(_RANK if rank is None else rank, count - 1, present)
        variance = singular[:kept].square() / (count - 1)
        shaped = vectors[:kept].reshape(kept, *images.shape[1:])
        return cls(mean, variance, shaped, basis="pca", provenance={**about, "images": count})

    @classmethod
    def from_spectrum(cls, variance: Tensor, mean: Tensor) -> Prior:
        """A stationary field, basis "fourier".

        Args:
            variance: of every coefficient of the orthonormal DFT, half spectrum `[C, H, W // 2 + 1]`, as in
                `calibrate.Target.variance`.
            mean: `[C, H, W]`.
        """
        return cls(mean, variance, basis="fourier", provenance={"source": "spectrum"})

    def scaled(self, factor: float) -> Prior:
        """The same prior with its variances times a factor: below 1 where the basis promises more than the data keep,
        such as "fourier" for pictures that are not stationary."""
        expected = "a finite number that is not negative"
        factor = _arguments.number("factor", factor, expected)
        if not 0 <= factor < math.inf:
            raise ValueError(f"factor: got {factor}, expected {expected}")
        about = {**self.provenance, "factor": factor * self.provenance.get("factor", 1.0)}
        return Prior(
            self.mean, factor * self.variance, self.vectors, basis=self.basis, provenance=about, device=self.device
        )

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file in float64, with basis and provenance as metadata.

        Raises:
            ValueError: the provenance has values that JSON does not know.
        """
        tensors = {"mean": self.mean, "variance": self.variance}
        if self.vectors is not None:
            tensors["vectors"] = self.vectors
        _stored.save(path, "Prior", tensors, {"basis": self.basis, "provenance": self.provenance})

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Prior:
        """Reads a file that `save` wrote.

        Raises:
            ValueError: there is no such file, or it is not such a file, as in `Preconditioner.load`.
        """
        device = _arguments.device(device)

        def make(tensors: dict[str, Any], about: dict[str, Any]) -> Prior:
            return cls(**tensors, **about, device=device)

        fields, needed, possible = ("basis", "provenance"), ("mean", "variance"), ("vectors",)
        return _stored.load(path, "Prior", make, needed=needed, possible=possible, fields=fields)

    # What samplers do with it

    def start(self, sigma: float, shape: Sequence[int], noise: Stream, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """A sample of the law at a level: mean + noise of variance L + sigma^2; one draw of the stream, which means the
        same white noise in every basis.

        "fourier", "pixel" and "mean" are one call of `noise`; "pca" adds its components to white noise, the same for a
        sample in any batch up to rounding.

        Args:
            sigma: noise level that the run begins at.
            shape: (B, C, H, W).
            noise: stream of the run, or its seed.
            dtype: float32, or float64 on the CPU.
        """
        expected = "a finite number greater than 0"
        if not 0 < _arguments.number("sigma", sigma, expected) < math.inf:
            raise ValueError(f"sigma: got {sigma}, expected {expected}")
        self.check(shape)
        mean, _, _ = self._tensors(dtype)
        if self.basis == "pca":
            return mean + self._filtered(lambda L: (L + sigma * sigma).sqrt(), self._white(shape, noise, dtype))
        root = (self.variance + sigma**2).sqrt()
        # Ones as a space mask: noise then enters in pixels, and one seed means the same noise in every basis.
        ones = torch.ones(self.shape, dtype=torch.float64)
        masks = {"fourier": (root, ones), "pixel": (None, root), "mean": (None, None)}[self.basis]
        M = Preconditioner(self.shape, *masks, method=None, device=self.device)
        return mean + ops.noise(M, shape, noise, sigma if self.basis == "mean" else 1.0, dtype=dtype)

    def denoise(self, x: Tensor, sigma: Sigma) -> Tensor:
        """The denoised image of the law itself, `mean + L / (L + sigma^2) (x - mean)`.

        Args:
            x: `[B, C, H, W]`, `x0 + sigma z`; float32 (float64 on the CPU).
            sigma: its level; a number or a tensor without dimensions.
        """
        mean, _, _ = self._tensors(x.dtype)
        return mean + self._filtered(lambda L: L / (L + sigma * sigma), x - mean)

    def implied_mean(self, x: Tensor, x0: Tensor, sigma: Sigma) -> Tensor:
        """The m for which `x0 = m + L / (L + sigma^2) (x - m)`: `m = x0 + L (x0 - x) / sigma^2`.

        It has no use of the prior's mean, and is the prior's mean where x0 is the prior's own denoiser.
        """
        return x0 + self._filtered(lambda L: L, (x0 - x) / (sigma * sigma))

    def flow(self, x: Tensor, x0: Tensor, score: Tensor, s: Sigma, t: Sigma, eta: float = 0.0) -> Tensor:
        """From level s to level t with the implied mean `m = x0 + L score` held: exact where it does not change.

        `x' = m + ((L + t^2) / (L + s^2))^((1 + eta) / 2) (x - m)`, the flow at eta = 0 and the mean of the posterior at
        eta = 1. m is never formed, since L / s^2 may be large: what x0 and score weigh is bounded. L = 0 is the step of
        DPM-Solver++ (DDIM), `t / s x + (1 - t / s) x0` at eta = 0.

        Args:
            x: `[B, C, H, W]`, float32 (float64 on the CPU).
            x0, score: the denoised image and `(x0 - x) / s^2`, or what a multistep solver extrapolates of both with the
                same weights.
            s, t: levels, s > t >= 0; numbers or tensors without dimensions.
            eta: 0 for the flow, 1 for the SDE, whose noise is `posterior_noise`.
        """
        _, L, _ = self._tensors(x.dtype)
        power = (1 + eta) / 2
        kept, all_kept = (power * _log_ratio(v, s, t) for v in (L.new_zeros(()), L))
        clean: Tensor = kept.exp() * x - kept.expm1() * x0
        if self.basis == "mean":
            return clean
        towards, along = self._coefficients(x0 - x), self._coefficients(score)
        inside = (kept.exp() - all_kept.exp()) * towards - all_kept.expm1() * L * along
        return clean + self._image(inside)

    def posterior_noise(
        self,
        s: Sigma,
        t: Sigma,
        shape: Sequence[int],
        noise: Stream,
        *,
        eta: float = 1.0,
        share: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Noise of a step from level s to level t; one draw of the stream, the same in any batch up to rounding.

        With `S = L + s^2` and `S' = L + t^2` its variance is `S' (1 - (S' / S)^eta)`, at eta = 1 that of the posterior
        of the next level given this one, `(S - S') S' / S`. With L = 0 it is the isotropic noise of ancestral sampling
        and of SDE solvers; what exceeds that is counted `share` times.

        Args:
            s, t, eta: as in `flow`, eta above 0.
            shape: (B, C, H, W).
            share: 0 for isotropic noise, 1 for all of the prior's covariance.
            dtype: float32, or float64 on the CPU.

        Source: at eta = 1 DDPM, arXiv 2006.11239, equation 7; that the covariance of x0 belongs into it, Analytic-DPM,
        arXiv 2201.06503, here that of a Gaussian law.
        """
        self.check(shape)

        def variance(L: Tensor) -> Tensor:
            made: Tensor = -(L + t * t) * (eta * _log_ratio(L, s, t)).expm1()
            return made

        def gain(L: Tensor) -> Tensor:
            isotropic = variance(torch.zeros_like(L))
            return (isotropic + share * (variance(L) - isotropic)).clamp_min(0).sqrt()

        return self._filtered(gain, self._white(shape, noise, dtype))

    @cached_property
    def field(self) -> Field:
        """All coefficients, flat, as the Gaussian model of a run takes them; "pca" and "mean" have one more for all
        directions outside of them."""
        pixels = math.prod(self.shape)
        if self.basis == "fourier":
            spectrum = torch.fft.rfft2(self.mean, norm="ortho")
            return spectral_field(self.variance, spectrum.abs().square(), self.shape[2])
        if self.basis == "pixel":
            return Field(self.variance.numpy().ravel(), np.ones(pixels), self.mean.square().numpy().ravel())
        inside = self._coefficients(self.mean[None])[0] if self.basis == "pca" else self.mean.new_zeros(0)
        outside = (self.mean.square().sum() - inside.square().sum()).clamp_min(0)
        power = torch.cat([inside.square(), outside[None]]).numpy()
        variance, rank = torch.cat([self.variance, torch.zeros(1)]).numpy(), len(self.variance)
        return Field(variance, np.append(np.ones(rank), pixels - rank), power)

    def check(self, shape: Sequence[int]) -> None:
        """Refuses a batch of another shape.

        Raises:
            ValueError: `shape` is not (B, C, H, W) with the C, H and W of the prior.
        """
        sizes = _arguments.sizes("shape", shape, "(B, C, H, W), all positive")
        if len(sizes) != 4 or sizes[1:] != self.shape:
            raise ValueError(f"prior: got shape {self.shape} for samples {sizes}, expected that of the samples")

    def _tensors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
        """(mean, L, vectors `[K, C H W]`) in float32 on `device`, or in float64 on the CPU."""
        return self._double if dtype is torch.float64 else self._single  # type: ignore[return-value]

    def _white(self, shape: Sequence[int], noise: Stream, dtype: torch.dtype) -> Tensor:
        return ops.noise(Preconditioner.identity(self.shape, None).to(self.device), shape, noise, dtype=dtype)

    def _filtered(self, gain: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        """g(L) v: `gain` at the variances, and at 0 outside of the basis."""
        _, L, _ = self._tensors(v.dtype)
        outside = gain(L.new_zeros(()))
        if self.basis == "mean":
            return outside * v
        return outside * v + self._image((gain(L) - outside) * self._coefficients(v))

    def _coefficients(self, v: Tensor) -> Tensor:
        if self.basis == "fourier":
            return torch.fft.rfft2(v, norm="ortho")
        _, _, vectors = self._tensors(v.dtype)
        return v if vectors is None else v.flatten(1) @ vectors.T

    def _image(self, coefficients: Tensor) -> Tensor:
        if self.basis == "fourier":
            return torch.fft.irfft2(coefficients, s=self.shape[1:], norm="ortho")
        _, _, vectors = self._tensors(coefficients.dtype)
        return coefficients if vectors is None else (coefficients @ vectors).reshape(-1, *self.shape)

    def __repr__(self) -> str:
        rank = f", rank={len(self.variance)}" if self.basis == "pca" else ""
        return f"Prior(shape={self.shape}, basis={self.basis!r}{rank}, device={self.device})"


torch.serialization.add_safe_globals([Prior])


def _log_ratio(L: Tensor, s: Sigma, t: Sigma) -> Tensor:
    """log((L + t^2) / (L + s^2)), accurate where the ratio is near 1 and where it is near 0."""
    total = L + s * s
    lost = (s - t) * (s + t) / total
    return torch.where(lost < 0.5, torch.log1p(-lost), torch.log((L + t * t) / total))


def _master(name: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name}: got {got}, expected a floating-point tensor")
    with torch.inference_mode(False):
        made = value.detach().to("cpu", torch.float64).clone(memory_format=torch.contiguous_format)
    if not bool(made.isfinite().all()):
        raise ValueError(f"{name}: got non-finite values, expected finite ones")
    return made


def _finite(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """In float64 on the CPU."""
    for batch in _images.batches(batches):
        made = batch.to("cpu", torch.float64)
        if not bool(made.isfinite().all()):
            raise ValueError("images: got non-finite values, expected finite ones")
        yield made


def read_images(images: Any, size: tuple[int, int] | None = None, grey: bool = False) -> Tensor:
    """All images `[N, C, H, W]`, float64 on the CPU, of what `Prior.from_images` reads."""
    return torch.cat(list(_finite(_in_units_of_x(images, size, grey, (0.0, 1.0), False))))


def _in_units_of_x(
    images: Any, size: tuple[int, int] | None, grey: bool, limits: tuple[float, float], progress: bool
) -> Iterator[Tensor]:
    """Floating-point tensors as they are, in any range; everything else as pictures in [0, 1], scaled to the limits."""
    if isinstance(images, Tensor):
        yield images
        return
    if isinstance(images, Iterable) and not isinstance(images, str | os.PathLike | np.ndarray | Mapping):
        items = iter(images)
        first = next(items, None)
        if first is None or isinstance(first, Tensor):
            yield from [] if first is None else [first]
            yield from items
            return
        images = itertools.chain([first], items)
    reader, (low, high) = _images.Reader(size, grey, progress=progress), limits
    for batch in reader.read_and_report(images):
        yield low + (high - low) * batch.double()


def _moments(batches: Iterable[Tensor], basis: Basis) -> tuple[int, Tensor, Tensor | None]:
    """Number of images, their mean, and the unbiased variance of the coefficients (None for "mean"), in one pass.

    Sums are of differences from the first image, so that a mean far from 0 costs no digits.
    """
    count, first = 0, torch.zeros(())
    total, power = torch.zeros(()), torch.zeros(())
    for batch in batches:
        first = first if count else batch[0]
        away = batch - first
        count, total = count + len(batch), total + away.sum(0)
        if basis != "mean":
            power = power + _power(away, basis).sum(0)
    mean = total / count
    if basis == "mean":
        return count, first + mean, None
    return count, first + mean, (power - count * _power(mean, basis)).clamp_min(0) / (count - 1)


def _power(images: Tensor, basis: Basis) -> Tensor:
    return (torch.fft.rfft2(images, norm="ortho") if basis == "fourier" else images).abs().square()


def start(prior: Prior, sigma: float, shape: Sequence[int], noise: Stream) -> Tensor:
    """Where a run begins that skips the levels above sigma, and whatever a network gets wrong there: `Prior.start`.

    For the argument `start` of a sampler, beside a ladder that begins at sigma: `sde.ladder(n, sigma_max=sigma)`. With
    the basis "mean" it is the mean image and white noise, the null hypothesis of the others.

    Returns: `[B, C, H, W]`, float32, in the state `x0 + sigma z` of samplers on a ladder.

    Source: Wang and Vastola, arXiv 2412.09726, who report 15 to 30 % fewer steps.
    """
    return prior.start(sigma, shape, noise)
