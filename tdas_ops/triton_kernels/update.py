"""The ops `noise`, `precondition` and `step` in float32: torch.fft, and Triton for all that lies around it.

The functions take the arguments of their schema (`_schema.py`) and never wait for the device. The draw counter is read
by the kernels and advanced on the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tdas_ops.triton_kernels.pixels import pixels
from tdas_ops.triton_kernels.scales import ONE, Drawn, Scale
from tdas_ops.triton_kernels.spectral import filtered


def _real_transforms(t: Tensor) -> bool:
    """On a CPU (Triton's interpreter) the bits of torch's real FFTs, unlike the complex ones, depend on the batch."""
    return t.is_cuda


def _spectra(t: Tensor) -> Tensor:
    """F t, `[B, C, H, W // 2 + 1]`, contiguous, of t in any real dtype and any strides; t is left as it is."""
    t = t.to(torch.float32, memory_format=torch.contiguous_format).contiguous()
    if _real_transforms(t):
        return torch.fft.rfft2(t).contiguous()
    return torch.fft.fft2(t.to(torch.complex64))[..., : t.shape[-1] // 2 + 1].contiguous()


def _planes(spectra: Tensor, width: int) -> Tensor:
    """F^-1 of half spectra: float32 `[B, C, H, width]`, contiguous."""
    if _real_transforms(spectra):
        return torch.fft.irfft2(spectra, s=(spectra.shape[-2], width)).contiguous()
    mirrored = spectra[..., 1 : (width + 1) // 2].flip(-2, -1).roll(1, -2).conj()
    return torch.fft.ifft2(torch.cat([spectra, mirrored], dim=-1)).real.contiguous()


def _filter(
    shape: tuple[int, ...],
    v: Tensor | None = None,
    t: Tensor | None = None,
    freq: Tensor | None = None,
    skew: Tensor | None = None,
    power: int = 0,
    d: Scale = ONE,
    n: Scale = ONE,
    drawn: Drawn | None = None,
    in_place: bool = True,
) -> Tensor:
    """F^-1 of `d (R^power + i w) V + n R Z` as `filtered` has it, `[B, C, H, W]`; overwrites Z or V if `in_place`."""
    given = t if v is None else v
    if given is not None:
        out = given if in_place else torch.empty_like(given)
    else:
        assert drawn is not None
        half = (*shape[:-1], shape[-1] // 2 + 1)
        out = torch.empty(half, dtype=torch.complex64, device=drawn.draw.device)
    return _planes(filtered(shape, v, t, freq, skew, power, d, n, drawn, out), shape[-1])


def _coloured(
    like: Tensor, freq: Tensor, space: Tensor | None, z: Tensor | None, drawn: Drawn | None, d: Scale, n: Scale
) -> Tensor:
    """n M z, `[B, C, H, W]`; d counts where n is `sqrt(2 d)`."""
    shape = tuple(like.shape)
    if space is None:
        return _filter(shape, t=None if z is None else _spectra(z), freq=freq, d=d, n=n, drawn=drawn)
    masked = torch.empty(shape, device=like.device)
    return _filter(shape, t=_spectra(pixels(masked, z=z, space=space, d=d, n=n, drawn=drawn)), freq=freq)


def noise(
    out: Tensor,
    freq: Tensor | None,
    space: Tensor | None,
    n: float,
    n_tensor: Tensor | None,
    z: Tensor | None,
    seeds: Tensor | None,
    draw: Tensor | None,
    first_sample: int,
) -> None:
    """out = n M z, `[B, C, H, W]`, float32.

    Source: TDAS, arXiv 2206.04029 (filtered noise); the noise contract of docs/design.md for the draws.
    """
    scale = Scale(n, n_tensor)
    drawn = Drawn(seeds, draw, first_sample) if z is None and seeds is not None and draw is not None else None
    if freq is None:
        pixels(out, z=z, space=space, n=scale, drawn=drawn)
    else:
        out.copy_(_coloured(out, freq, space, z, drawn, ONE, scale))
    if drawn is not None:
        drawn.draw.add_(1)


def precondition(out: Tensor, v: Tensor, freq: Tensor | None, space: Tensor | None, which: str) -> None:
    """out = M v, M^T v or M M^T v, `[B, C, H, W]`, in float32 whatever the dtype of v and out.

    Source: PDS, arXiv 2207.02196, equation of the preconditioner M.
    """
    shape = tuple(v.shape)
    if freq is None:
        squared = which == "MMt"
        pixels(out, v=v if squared else None, z=None if squared else v, space=space)
    elif space is None:
        out.copy_(_filter(shape, v=_spectra(v), freq=freq, power=2 if which == "MMt" else 1))
    elif which == "M":
        out.copy_(_coloured(v, freq, space, v, None, ONE, ONE))
    else:
        half_way = _filter(shape, t=_spectra(v), freq=freq)
        if which == "Mt":
            pixels(out, z=half_way, space=space)
        else:
            out.copy_(_filter(shape, t=_spectra(pixels(half_way, v=half_way, space=space)), freq=freq))


def step(
    out: Tensor,
    mean: Tensor | None,
    x: Tensor,
    v: Tensor,
    freq: Tensor | None,
    space: Tensor | None,
    skew: Tensor | None,
    filter_drift: bool,
    d: float,
    d_tensor: Tensor | None,
    n: float | None,
    n_tensor: Tensor | None,
    z: Tensor | None,
    seeds: Tensor | None,
    draw: Tensor | None,
    first_sample: int,
) -> None:
    """mean = x + d D v;  out = mean + n M z; all `[B, C, H, W]`, x, mean and out in float32.

    Source: TDAS, arXiv 2206.04029; PDS, arXiv 2207.02196 and 2302.06504; identities 1 and 2 of docs/design.md.
    """
    shape = tuple(x.shape)
    drift = Scale(d, d_tensor)
    langevin = n is None and n_tensor is None
    root = math.sqrt(2 * d) if langevin and d_tensor is None else n or 0.0
    scale = Scale(root, n_tensor, root_of_two_d=langevin and d_tensor is not None)
    drawn = Drawn(seeds, draw, first_sample) if z is None and seeds is not None and draw is not None else None
    noisy = z is not None or drawn is not None
    skew = skew if filter_drift else None
    spectra = _spectra(v) if filter_drift and (freq is not None or skew is not None) else None
    y = more = None  # what reaches mean and out through transforms, and what reaches out alone
    if freq is None:
        if skew is not None:
            y = _filter(shape, v=spectra, skew=skew, d=drift)
        pixels(out, mean, x, v, z, y, None, space, filter_drift, drift, scale, drawn)
    else:
        joined = filter_drift and mean is None and noisy
        if filter_drift and space is None:
            t = _spectra(z) if joined and z is not None else None
            y = _filter(shape, spectra, t, freq, skew, 2, drift, scale, drawn if joined else None)
        elif filter_drift:
            u = _filter(shape, t=spectra, freq=freq, in_place=skew is None)  # d M^T v + n z = d A u + n z
            u = pixels(u, v=u, z=z if joined else None, space=space, d=drift, n=scale, drawn=drawn if joined else None)
            y = _filter(shape, spectra if skew is not None else None, _spectra(u), freq, skew, d=drift)
        if noisy and not joined:
            more = _coloured(x, freq, space, z, drawn, drift, scale)
        pixels(out, mean, x, None if filter_drift else v, y=y, more=more, d=drift)
    if drawn is not None:
        drawn.draw.add_(1)
