"""`ColouredNoise`: noise of unit variance and a spectrum of its own, as samplers of other code ask for noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tdas_ops import _arguments, _arrays, _latents, ops
from tdas_ops._brownian import Brownian, level, planes
from tdas_ops.noise import NoiseStream, Stream
from tdas_ops.preconditioner import Preconditioner

Profile = Callable[[Tensor], Tensor]
Filters = tuple[Preconditioner, Preconditioner | None]
Colour = Preconditioner | Callable[[float], Preconditioner | Profile]

_UNIT = 1e-3
_STARTS = 1 << 62  # draws from here on are starts, which no op takes
_KEPT = 64


class RadialTable:
    """R over noise level and radius, for latents of any number of channels and any size.

    Called with a noise level it gives the profile there, `R(|k|)`; linear in log sigma and in the radius, and constant
    beyond the ends.

    Args:
        sigmas: noise levels, above 0, rising or falling, `[S]`.
        radii: rising, cycles per pixel from 0 to at most 0.71, `[K]`.
        values: R, `[S, K]`, finite; any scale, since noise made of it has unit variance.

    Raises:
        ValueError, TypeError: other shapes, values or orders.

    Source: Davidson, Issachar and Benaim, arXiv 2605.30332, for noise that depends on time and frequency.
    """

    def __init__(self, sigmas: Any, radii: Any, values: Any) -> None:
        levels, radii, table = (
            _arrays.own(name, torch.tensor(v, dtype=torch.float64) if isinstance(v, list | tuple) else v, "fiu")
            for name, v in (("sigmas", sigmas), ("radii", radii), ("values", values))
        )
        if levels.dim() != 1 or not len(levels) or not bool((levels > 0).all()) or not bool(levels.isfinite().all()):
            raise ValueError(f"sigmas: got {_arguments.shown(levels.tolist())}, expected levels above 0, [S]")
        order = levels.argsort()
        if not torch.equal(order, order.sort(descending=bool(levels[0] > levels[-1])).values):
            raise ValueError("sigmas: got levels out of order, expected rising or falling ones")
        if radii.dim() != 1 or not len(radii) or not bool((radii.diff() > 0).all()) or not bool((radii >= 0).all()):
            raise ValueError(f"radii: got {_arguments.shown(radii.tolist())}, expected rising ones from 0 on, [K]")
        if table.shape != (len(levels), len(radii)) or not bool(table.isfinite().all()):
            got = f"shape {tuple(table.shape)}" if table.shape != (len(levels), len(radii)) else "non-finite values"
            raise ValueError(f"values: got {got}, expected finite ones of shape {(len(levels), len(radii))}")
        self._logs, self._radii, self._values = levels[order].log(), radii, table[order]
        self.highest = float(levels.max())

    def __call__(self, sigma: float) -> Profile:
        at = torch.tensor([math.log(sigma) if sigma > 0 else -math.inf], dtype=torch.float64)
        row = _interpolated(at, self._logs, self._values)[0]
        return lambda radii: _interpolated(radii, self._radii, row)


class ColouredNoise:
    """Noise `M z` for samplers of other code: z from a stream, so that a sample's noise is the same in any batch.

    - k-diffusion and ComfyUI, `noise_sampler`: `noise(sigma, sigma_next)`, in the shape of `like`.
    - EDM, `randn_like`: `noise.randn_like`; diffusers, `variance_noise`: `noise.variance_noise(sample)`.
    - ComfyUI, a NOISE: `noise.generate_noise(latent)` and `noise.seed`.

    Latents are `[B, C, H, W]`, or `[B, C, T, H, W]` or `[B, T, C, H, W]`, of which every frame is filtered by itself,
    in any floating-point dtype and on any device; noise is made in float32.

    Args:
        M: a filter of any method, of which R and A are used; or a function of the noise level that gives a filter or a
            radial profile, which maps radii in cycles per pixel to R, such as a `RadialTable`. What a function gives is
            scaled to unit variance, a filter is taken as it is. Profiles serve latents of any size.
        noise: a `NoiseStream`, a seed or a generator (`NoiseStream.of`), of which every call takes a draw; or a path,
            `NoiseStream.brownian`, of which `noise(sigma, sigma_next)` has the increments.
        like: a tensor in whose shape, dtype and device `noise(sigma, sigma_next)` is; not beside a path, which has its
            own.

    Attributes:
        seed: the seed of the stream, of its first sample where each has one.

    Warns:
        UserWarning: a filter whose noise does not have unit variance, which other samplers expect.

    Source: TDAS, arXiv 2206.04029, for filtered noise; Davidson, Issachar and Benaim, arXiv 2605.30332, for a spectrum
        that depends on the noise level at unit variance.
    """

    def __init__(self, M: Colour, noise: Stream | Brownian, like: Tensor | None = None) -> None:
        if not isinstance(M, Preconditioner) and not callable(M):
            expected = "a Preconditioner or a function of the noise level"
            raise TypeError(f"M: got {type(M).__name__}, expected {expected}")
        if isinstance(noise, Brownian):
            if like is not None:
                raise ValueError("like: got a tensor beside a Brownian path, expected none: the path has a shape")
        elif like is not None and not isinstance(like, Tensor):
            raise TypeError(f"like: got {type(like).__name__}, expected a tensor in whose shape noise is made")
        self.M = M
        self.noise = noise if isinstance(noise, Brownian) else NoiseStream.of(noise)
        self._like = like
        self._first = None if isinstance(self.noise, Brownian) else self.noise.state_dict()
        self._kept: dict[Any, Filters] = {}
        if isinstance(M, Preconditioner):
            found = M.deviations()
            if bool(((found - 1).abs() > _UNIT).any()):
                got = ", ".join(f"{deviation:.3g}" for deviation in found.tolist())
                warnings.warn(
                    f"M: got a filter whose noise has a standard deviation of {got} (one a channel), expected 1 as "
                    "other samplers do (M.unit_variance() scales it)",
                    stacklevel=2,
                )

    @property
    def seed(self) -> int:
        if self._first is None:
            assert isinstance(self.noise, Brownian)
            return self.noise.seed
        return self._first["seeds"][0]

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        """Noise for a step from one noise level to another, coloured as at `sigma`; one draw, or an increment.

        Raises:
            ValueError, TypeError: no `like`, a filter of another size, or levels that are none.
        """
        at = self._level(sigma)
        if isinstance(self.noise, Brownian):
            return self._applied(self.noise.unrounded(sigma, sigma_next), at).to(self.noise.dtype)
        if self._like is None:
            raise ValueError("like: got None, expected a tensor in whose shape noise is made: ColouredNoise(M, z, x)")
        return self._made(self._like, self.noise, at)

    def randn_like(self, x: Tensor, sigma: Any = None) -> Tensor:
        """Noise in the shape, dtype, memory format and device of x; one draw.

        Args:
            x: latents.
            sigma: the noise level, where M is a function of it.

        Raises:
            ValueError, TypeError: a filter of another size, no latents, or a path, which has increments alone.
        """
        return self._made(x, self._stream(), self._level(sigma))

    def variance_noise(self, sample: Tensor, sigma: Any = None) -> Tensor:
        """The same, for `scheduler.step(..., variance_noise=noise.variance_noise(sample))` of diffusers."""
        return self.randn_like(sample, sigma)

    def generate_noise(self, latent: Tensor | Mapping[str, Any], sigma: Any = None) -> Tensor:
        """Noise to start from, like the latents: the same whenever it is asked for, and shared with no other call.

        Args:
            latent: tensor, or mapping with one as "samples" and, where they are not samples 0, 1, ... of the seed,
                their indices as "batch_index".
            sigma: the noise level, where M is a function of it; that of a `RadialTable` is by default its highest.

        Raises:
            ValueError, TypeError: as `randn_like`, or indices that are not one for each sample.
        """
        if isinstance(latent, Mapping) and "samples" not in latent:
            raise ValueError(f"latent: got a mapping with {sorted(map(str, latent))}, expected one with 'samples'")
        x = latent["samples"] if isinstance(latent, Mapping) else latent
        at = self._level(getattr(self.M, "highest", None) if sigma is None else sigma)
        stream, first = self._stream(), self._first
        _check_latents(x)
        indices = latent.get("batch_index") if isinstance(latent, Mapping) else None
        if indices is None:
            indices = range(len(x))
        if len(indices) != len(x):
            raise ValueError(f"batch_index: got {len(indices)} indices, expected one for each of {len(x)} samples")
        assert first is not None
        made = torch.empty_like(x, requires_grad=False)
        for i, index in enumerate(indices):
            index = _arguments.whole("batch_index", index, 0)
            if stream.per_sample and index >= len(first["seeds"]):
                raise ValueError(
                    f"batch_index: got {index}, expected one below {len(first['seeds'])}, as many as seeds"
                )
            own = NoiseStream(
                first["seeds"][index if stream.per_sample else 0],
                first_sample=0 if stream.per_sample else first["first_sample"] + index,
                draw=_STARTS + first["draw"] % _STARTS,
            )
            made[i : i + 1] = self._made(x[i : i + 1], own, at)
        return made

    def _stream(self) -> NoiseStream:
        if isinstance(self.noise, Brownian):
            raise TypeError("noise: got a Brownian path, expected a stream, a seed or a generator for noise of no step")
        return self.noise

    def _level(self, sigma: Any) -> float | None:
        """The level that M is a function of, or None: a level on a GPU is not waited for in vain."""
        if isinstance(self.M, Preconditioner):
            return None
        if sigma is None:
            raise ValueError("sigma: got None, expected the noise level that M is a function of")
        return level("sigma", sigma)

    def _filters(self, at: float | None, shape: tuple[int, ...], device: torch.device) -> Filters:
        """For latents of a shape, without its first axis: the filter of a frame, and that of all planes in one draw."""
        key = (at, shape, device)
        found = self._kept.get(key)  # which another thread may clear in between
        if found is None:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            found = self._kept[key] = self._made_filters(*key)
        return found

    def _made_filters(self, at: float | None, shape: tuple[int, ...], device: torch.device) -> Filters:
        M: Any = self.M if at is None else self.M(at)  # type: ignore[operator]
        if not isinstance(M, Preconditioner):
            if not callable(M):
                got = type(M).__name__
                raise TypeError(f"M: got {got} for the level {at}, expected a Preconditioner or a profile of radii")
            M = Preconditioner.radial(M, (math.prod(shape[:-2]), *shape[-2:]), "noise").unit_variance().to(device)
            return M, M
        _latents.check_size(shape, M)
        M = (M if at is None else M.unit_variance()).to(device)
        return M, None if M.mixing and len(shape) == 4 else _latents.repeated(M, shape)

    def _made(self, x: Tensor, stream: NoiseStream, at: float | None) -> Tensor:
        """M z like x, z a draw of the stream."""
        _check_latents(x)
        sizes = tuple(x.shape)
        _, whole = self._filters(at, sizes[1:], x.device)
        if whole is None:
            made = self._applied(stream.randn(sizes, device=x.device), at)
        else:
            made = ops.noise(whole, planes(sizes), stream).reshape(sizes)
        return torch.empty_like(x, requires_grad=False).copy_(made)

    def _applied(self, white: Tensor, at: float | None) -> Tensor:
        """M z of white noise, float32 or, on the CPU, float64."""
        sizes = tuple(white.shape)
        M, _ = self._filters(at, sizes[1:], white.device)
        if M.shape[0] == math.prod(sizes[1:-2]):
            return ops.precondition(white.reshape(planes(sizes)), M).reshape(sizes)
        frames = ops.precondition(_latents.as_frames(white, M.shape[0]), M)
        return _latents.of_frames(frames, sizes)


def _check_latents(x: Any) -> None:
    expected = "a floating-point tensor [B, C, H, W] or with frames [B, C, T, H, W]"
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        raise TypeError(f"x: got {x.dtype if isinstance(x, Tensor) else type(x).__name__}, expected {expected}")
    if x.dim() not in (4, 5) or 0 in x.shape:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected {expected}")


def _interpolated(at: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Values `[K, ...]` at rising places `[K]`, linear between them and constant beyond."""
    right = torch.searchsorted(places, at.contiguous()).clamp(0, len(places) - 1)
    left = (right - 1).clamp_min(0)
    span = places[right] - places[left]
    share = torch.where(span > 0, (at - places[left]) / span, 0.0).clamp(0, 1)
    share = share.reshape(*share.shape, *(1,) * (values.dim() - 1))
    return values[left] + share * (values[right] - values[left])
