"""The ops of an update in float32: torch.fft, and Triton for all that lies around it.

The functions take the arguments of their schema (`_schema.py`) and never wait for the device. The draw counter is read
by the kernels and advanced on the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tdas_ops._schema import check_source
from tdas_ops.triton_kernels.pixels import pixel_squares, pixels
from tdas_ops.triton_kernels.scales import ONE, Drawn, Scale
from tdas_ops.triton_kernels.snr import step_size
from tdas_ops.triton_kernels.spectral import Spectrum, filtered, spectral_squares


def _real_transforms(t: Tensor) -> bool:
    """On a CPU (Triton's interpreter) the bits of torch's real FFTs, unlike the complex ones, depend on the batch."""
    return t.is_cuda


def _spectra(t: Tensor) -> Tensor:
    """F t, `[B, C, H, W // 2 + 1]`, contiguous, of t in any real dtype and any strides; t is left as it is."""
    t = t.to(torch.float32, memory_format=torch.contiguous_format).contiguous()
    if _real_transforms(t):
        return torch.fft.rfft2(t).contiguous()
    return torch.fft.fft2(t.to(torch.complex64))[..., : t.shape[-1] // 2 + 1].contiguous()


def _planes(spectrum: Spectrum, d: Scale = ONE, n: Scale = ONE, keep: bool = False) -> Tensor:
    """F^-1 of `d (R^power + i w) V + n R Z`, float32 `[B, C, H, W]`, contiguous; overwrites V or Z unless `keep`."""
    height, width = spectrum.shape[-2:]
    y = spectrum.t if spectrum.v is None else spectrum.v
    if y is None:
        assert spectrum.drawn is not None
        half = (*spectrum.shape[:-1], width // 2 + 1)
        y = torch.empty(half, dtype=torch.complex64, device=spectrum.drawn.draw.device)
    elif keep:
        y = torch.empty_like(y)
    # The gain is the normalisation of F^-1, for which torch would pass over the planes once more.
    filtered(spectrum, y, d, n, gain=1 / spectrum.size)
    if _real_transforms(y):
        return torch.fft.irfft2(y, s=(height, width), norm="forward").contiguous()
    mirrored = y[..., 1 : (width + 1) // 2].flip(-2, -1).roll(1, -2).conj()
    return torch.fft.ifft2(torch.cat([y, mirrored], dim=-1), norm="forward").real.contiguous()


def _half_way(v: Tensor, freq: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """F v, overwritten unless `keep`, and F^-1 R F v."""
    spectra = _spectra(v)
    return spectra, _planes(Spectrum(tuple(v.shape), freq, t=spectra), keep=keep)


def _drift(v: Tensor, freq: Tensor, space: Tensor | None, skew: Tensor | None) -> Spectrum:
    """F D v of method "pds"."""
    shape = tuple(v.shape)
    if space is None:
        return Spectrum(shape, freq, skew, _spectra(v), power=2)
    spectra, u = _half_way(v, freq, keep=skew is not None)
    pixels(u, v=u, space=space)
    if skew is None:
        return Spectrum(shape, freq, v=_spectra(u), power=1)
    filtered(Spectrum(shape, freq, skew, spectra, t=_spectra(u)), spectra)
    return Spectrum(shape, freq, v=spectra, power=0)


def _with_noise(drift: Spectrum, like: Tensor, space: Tensor | None, z: Tensor | None, drawn: Drawn | None) -> Spectrum:
    """The spectrum with F A z in it, to be drawn later where it can be; `like`: `[B, C, H, W]`."""
    if space is not None and (z is not None or drawn is not None):
        masked = torch.empty(like.shape, device=like.device)
        pixels(masked, z=z, space=space, drawn=drawn)
        z, drawn = masked, None
    return drift._replace(t=None if z is None else _spectra(z), drawn=drawn)


def _finish(
    out: Tensor,
    mean: Tensor | None,
    cast: Tensor | None,
    x: Tensor,
    v: Tensor | None,
    spectrum: Spectrum,
    d: Scale,
    n: Scale,
) -> None:
    """`mean = x + d v` and F^-1 of the drift, `out = cast = mean` and F^-1 of the noise; overwrites the spectrum."""
    y = more = None
    if mean is not None and spectrum.noisy:
        more = _planes(Spectrum(spectrum.shape, spectrum.freq, t=spectrum.t, drawn=spectrum.drawn), d, n)
        spectrum = spectrum._replace(t=None, drawn=None)
    if spectrum.v is not None or spectrum.noisy:
        y = _planes(spectrum, d, n)
    pixels(out, mean, x, v, y=y, more=more, d=d, cast=cast)


def _stream(
    z: Tensor | None, seeds: Tensor | None, draw: Tensor | None, first_sample: int, needed: bool = False
) -> Drawn | None:
    """The draw that an op takes: none where its caller gives z or, unless it is `needed`, wants no noise."""
    check_source(z, seeds, draw, needed)
    return Drawn(seeds, draw, first_sample) if z is None and seeds is not None and draw is not None else None


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
    scale, drawn = Scale(n, n_tensor), _stream(z, seeds, draw, first_sample, needed=True)
    if freq is None:
        pixels(out, z=z, space=space, n=scale, drawn=drawn)
    else:
        out.copy_(_planes(_with_noise(Spectrum(tuple(out.shape), freq), out, space, z, drawn), n=scale))
    if drawn is not None:
        drawn.draw.add_(1)


def precondition(out: Tensor, v: Tensor, freq: Tensor | None, space: Tensor | None, which: str) -> None:
    """out = M v, M^T v or M M^T v, `[B, C, H, W]`, in float32 whatever the dtype of v and out.

    Source: PDS, arXiv 2207.02196, equation of the preconditioner M.
    """
    if freq is None:
        squared = which == "MMt"
        pixels(out, v=v if squared else None, z=None if squared else v, space=space)
    elif which == "MMt":
        out.copy_(_planes(_drift(v, freq, space, None)))
    elif which == "M" or space is None:
        out.copy_(_planes(_with_noise(Spectrum(tuple(v.shape), freq), v, space, v, None)))
    else:
        pixels(out, z=_half_way(v, freq, keep=False)[1], space=space)


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
    cast: Tensor | None = None,
) -> None:
    """mean = x + d D v;  out = mean + n M z;  cast = out; all `[B, C, H, W]`, x, mean and out in float32.

    Source: TDAS, arXiv 2206.04029; PDS, arXiv 2207.02196 and 2302.06504; identities 1 and 2 of docs/design.md.
    """
    shape, size = tuple(x.shape), Scale(d, d_tensor)
    langevin = n is None and n_tensor is None
    root = math.sqrt(2 * d) if langevin and d_tensor is None else n or 0.0
    scale = Scale(root, n_tensor, root_of_two_d=langevin and d_tensor is not None)
    drawn = _stream(z, seeds, draw, first_sample)
    skew = skew if filter_drift else None
    if freq is None:
        y = None if skew is None else _planes(Spectrum(shape, None, skew, _spectra(v)), size)
        pixels(out, mean, x, v, z, y, None, space, filter_drift, size, scale, drawn, cast)
    elif filter_drift and space is not None and mean is None:
        spectra, u = _half_way(v, freq, keep=skew is not None)
        pixels(u, v=u, z=z, space=space, d=size, n=scale, drawn=drawn)  # d M^T v + n z = d A u + n z
        whole = Spectrum(shape, freq, skew, None if skew is None else spectra, t=_spectra(u))
        pixels(out, x=x, y=_planes(whole, size), cast=cast)
    else:
        drift = _drift(v, freq, space, skew) if filter_drift else Spectrum(shape, freq)
        spectrum = _with_noise(drift, x, space, z, drawn)
        _finish(out, mean, cast, x, None if filter_drift else v, spectrum, size, scale)
    if drawn is not None:
        drawn.draw.add_(1)


def langevin_step(
    out: Tensor,
    mean: Tensor | None,
    x: Tensor,
    score: Tensor,
    freq: Tensor | None,
    space: Tensor | None,
    skew: Tensor | None,
    filter_drift: bool,
    snr: float,
    alpha: float,
    alpha_tensor: Tensor | None,
    per_sample: bool,
    z: Tensor | None,
    seeds: Tensor | None,
    draw: Tensor | None,
    first_sample: int,
    cast: Tensor | None = None,
) -> None:
    """The step with `eta = 2 alpha (snr |M z| / |D score|)^2`, norms of a sample or averaged over the batch.

    Norms come from the spectra, by Parseval, or from pixels where nothing is transformed; both wait there for the step
    size, so that no transform is made twice.

    Source: Song et al., arXiv 2011.13456, algorithms 4 and 5; PDS, arXiv 2207.02196, for the preconditioned norms.
    """
    shape, drawn = tuple(x.shape), _stream(z, seeds, draw, first_sample, needed=True)
    rule = Scale(alpha, alpha_tensor)
    skew = skew if filter_drift else None
    scale = Scale(0.0, root_of_two_d=True)
    if freq is None:
        if skew is not None:
            y = _planes(Spectrum(shape, None, skew, _spectra(score)))
            pixels(y, v=score, y=y, space=space)
            score, filter_drift = y, False  # D score
        squares = pixel_squares(score, space, filter_drift, z, drawn)
        d = Scale(0.0, step_size(*squares, snr, rule, per_sample))
        pixels(out, mean, x, score, z, None, None, space, filter_drift, d, scale, drawn, cast)
    else:
        drift = _drift(score, freq, space, skew) if filter_drift else Spectrum(shape, freq)
        spectrum = _with_noise(drift, x, space, z, drawn)
        of_drift, of_noise = spectral_squares(spectrum, x.device)
        if not filter_drift:
            of_drift, _ = pixel_squares(score)
        d = Scale(0.0, step_size(of_drift, of_noise, snr, rule, per_sample))
        _finish(out, mean, cast, x, None if filter_drift else score, spectrum, d, scale)
    if drawn is not None:
        drawn.draw.add_(1)
