"""Every op in a few lines of torch: the oracle of the tests and the path for sizes and devices without a kernel.

The functions take the arguments of their schema (`_schema.py`). They compute in the dtype of x (float32 or float64) on
any device, and never wait for it.

What depends on the caller's tensors goes through real FFTs. Noise drawn here goes through complex FFTs, which in torch,
unlike the real ones, give the same bits under any split of the batch and any number of threads; but for a row that is
alone, which several threads share.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from tdas_ops._schema import check_source

_MASK32 = 0xFFFFFFFF
_TAKING = threading.Lock()  # of threads that share a stream no two take the same draw


def philox4x32(counter: list[Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al., 2011) on int64 tensors that hold 32-bit words; broadcasts counter and key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0 = c0 * 0xD2511F53  # wraps in int64; the 64 bits are those of the unsigned product
        p1 = c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK32) ^ c1 ^ k0,
            p1 & _MASK32,
            ((p0 >> 32) & _MASK32) ^ c3 ^ k1,
            p0 & _MASK32,
        )
        k0 = (k0 + 0x9E3779B9) & _MASK32
        k1 = (k1 + 0xBB67AE85) & _MASK32
    return [c0, c1, c2, c3]


def box_muller(ra: Tensor, rb: Tensor) -> Tensor:
    """Two 32-bit words (as int64) to one complex normal: u, v and theta are rounded to float32 as the contract says."""
    scale, half = 2.0**-32, 2.0**-33
    u = (ra.float().double() * scale + half).float().double()
    v = ((_MASK32 - ra).float().double() * scale + half).float().double()
    signed = rb - ((rb & 0x80000000) << 1)
    theta = (signed.float() * torch.tensor(2 * math.pi * scale, dtype=torch.float32)).double()
    minus_log = torch.where(v < 1 / 32, -torch.log1p(-v), -torch.log(u))
    return torch.polar(torch.sqrt(2 * minus_log), theta).to(torch.complex64)


def normals(out: Tensor, seeds: Tensor, draw: Tensor, first_sample: int, spectral: bool) -> None:
    """g[B, C, H, ceil(W / 2)] of the noise contract; `seeds` has 1 element or B (each sample is then sample 0)."""
    device = out.device
    left, right = out.tensor_split(2, dim=-2 if spectral else -1)  # one Philox call makes an element of each
    quad = torch.arange(math.prod(left.shape[1:]), device=device).reshape(1, *left.shape[1:])
    sample = torch.arange(first_sample, first_sample + len(out), device=device).reshape(-1, 1, 1, 1)
    if seeds.numel() > 1:
        sample = torch.zeros_like(sample)
    key = seeds.reshape(-1, 1, 1, 1)
    counter = torch.broadcast_tensors(quad, sample, draw & _MASK32, (draw >> 32) & _MASK32)
    r0, r1, r2, r3 = philox4x32(list(counter), (key & _MASK32, (key >> 32) & _MASK32))
    left.copy_(box_muller(r0, r1))
    right.copy_(box_muller(r2, r3)[..., : right.shape[-2], : right.shape[-1]])


def pixel_noise(g: Tensor, width: int) -> Tensor:
    """z[..., H, W] with `z(h, 2w) + i z(h, 2w + 1) = g(h, w)`."""
    return torch.view_as_real(g).flatten(-2)[..., :width]


def spectral_noise(g: Tensor, width: int) -> Tensor:
    """The half spectrum F z, `[..., H, W // 2 + 1]`, of white noise z with the normals g; F is unnormalised."""
    height, column = g.shape[-2], g[..., 0]
    middle = (height + 1) // 2
    ends = math.sqrt(2) * (column[..., :: height // 2] if height % 2 == 0 else column[..., :1])
    columns = [_hermitian(ends.real, column[..., 1:middle]), g[..., 1:]]
    if width % 2 == 0:
        columns.append(_hermitian(ends.imag, column[..., height - middle + 1 :].flip(-1)))
    return math.sqrt(height * width / 2) * torch.cat(columns, dim=-1)


def _hermitian(ends: Tensor, inner: Tensor) -> Tensor:
    """`[..., H, 1]`, a column with `f(-h) = conj f(h)`: real at h = 0 and, for even H, H / 2; `inner` lies between."""
    return torch.cat([ends[..., :1], inner, ends[..., 1:], inner.flip(-1).conj()], dim=-1).unsqueeze(-1)


def full_spectrum(half: Tensor, width: int) -> Tensor:
    """The Hermitian full spectrum `[..., H, W]` of a half spectrum `[..., H, W // 2 + 1]`; even where that is real."""
    mirrored = half[..., 1 : (width + 1) // 2].flip(-1).conj()
    mirrored = torch.cat([mirrored[..., :1, :], mirrored[..., 1:, :].flip(-2)], dim=-2)
    return torch.cat([half, mirrored], dim=-1)


def own_columns(width: int) -> list[int]:
    """Columns of a half spectrum that hold their own mirror images, kx = 0 and, for even W, W / 2; those of the others
    are in the half that is left out."""
    return [0, width // 2] if width % 2 == 0 else [0]


def column_weights(width: int) -> Tensor:
    """How many columns of the full spectrum each of a half spectrum stands for, `[W // 2 + 1]` float64: 2, or 1."""
    weights = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    weights[own_columns(width)] = 1.0
    return weights


def is_mixing(freq: Tensor | None) -> bool:
    """Whether R is a matrix at every frequency, `[C, C, H, W // 2 + 1]`, which mixes the channels."""
    return freq is not None and freq.dim() == 4


def times(freq: Tensor, spectrum: Tensor, adjoint: bool = False) -> Tensor:
    """R, or R^H, times half spectra `[B, C, H, W // 2 + 1]`."""
    if not is_mixing(freq):
        return freq * spectrum
    if adjoint:
        freq = freq.transpose(0, 1).conj()
    # A sum in fixed order, one channel after the other: bits of a matrix product would depend on the batch.
    mixed = freq[:, 0] * spectrum[:, None, 0]
    for channel in range(1, freq.shape[1]):
        mixed = mixed + freq[:, channel] * spectrum[:, None, channel]
    return mixed


def _filtered(v: Tensor, freq: Tensor | None, *adjoint: bool) -> Tensor:
    """F^-1 R F v, or with R^H, or one after the other."""
    if freq is None:
        return v
    spectrum = torch.fft.rfft2(v)
    for each in adjoint or (False,):
        spectrum = times(freq, spectrum, each)
    return torch.fft.irfft2(spectrum, s=v.shape[-2:])


def apply_m(v: Tensor, freq: Tensor | None, space: Tensor | None) -> Tensor:
    """M v = F^-1 R F A v."""
    return _filtered(v if space is None else space * v, freq)


def apply_mt(v: Tensor, freq: Tensor | None, space: Tensor | None) -> Tensor:
    """M^T v = A F^-1 R^H F v."""
    v = _filtered(v, freq, True)
    return v if space is None else space * v


def apply_mmt(v: Tensor, freq: Tensor | None, space: Tensor | None) -> Tensor:
    """M M^T v; without a space mask both halves share one pair of transforms: F^-1 R R^H F v."""
    if space is None:
        return _filtered(v, freq, True, False)
    return apply_m(apply_mt(v, freq, space), freq, space)


def apply_skew(v: Tensor, skew: Tensor) -> Tensor:
    """S v = F^-1 i w F v."""
    return torch.fft.irfft2(torch.complex(torch.zeros_like(skew), skew) * torch.fft.rfft2(v), s=v.shape[-2:])


def _drift(v: Tensor, freq: Tensor | None, space: Tensor | None, skew: Tensor | None, filter_drift: bool) -> Tensor:
    """D v."""
    if not filter_drift:
        return v
    drift = apply_mmt(v, freq, space)
    return drift if skew is None else drift + apply_skew(v, skew)


def _drawn(
    x: Tensor, seeds: Tensor, draw: Tensor, first_sample: int, spectral: bool, normal: Callable[..., None]
) -> Tensor:
    """g of one draw of the stream for the samples of x, complex; advances the stream."""
    g = torch.empty(*x.shape[:-1], (x.shape[-1] + 1) // 2, dtype=torch.complex64, device=x.device)
    with _TAKING:
        taken = draw.clone()
        draw.add_(1)
    normal(g, seeds, taken, first_sample, spectral)
    return g.to(x.dtype.to_complex())


def _coloured(
    x: Tensor,
    freq: Tensor | None,
    space: Tensor | None,
    z: Tensor | None,
    seeds: Tensor | None,
    draw: Tensor | None,
    first_sample: int,
    normal: Callable[..., None],
) -> Tensor | None:
    """M z of the caller's z, or of one draw of the stream; None where there is neither."""
    if z is not None:
        return apply_m(z, freq, space)
    if seeds is None or draw is None:
        return None
    width, spectral = x.shape[-1], freq is not None and space is None
    g = _drawn(x, seeds, draw, first_sample, spectral, normal)
    if freq is None:
        return apply_m(pixel_noise(g, width), None, space)
    if space is None:
        white = spectral_noise(g, width)
    else:
        white = torch.fft.fft2((space * pixel_noise(g, width)).to(g.dtype))[..., : width // 2 + 1]
    return torch.fft.ifft2(full_spectrum(times(freq, white), width)).real


def _per_sample(number: float, tensor: Tensor | None, like: Tensor) -> float | Tensor:
    return number if tensor is None else tensor.to(like.dtype).reshape(-1, 1, 1, 1)


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
    *,
    normal: Callable[..., None] = normals,
) -> None:
    """out = n M z."""
    check_source(z, seeds, draw, needed=True)
    coloured = _coloured(out, freq, space, z, seeds, draw, first_sample, normal)
    assert coloured is not None
    torch.mul(coloured, _per_sample(n, n_tensor, out), out=out)


def precondition(out: Tensor, v: Tensor, freq: Tensor | None, space: Tensor | None, which: str) -> None:
    """out = M v, M^T v or M M^T v, computed in float32 (float64 for float64 v)."""
    apply = {"M": apply_m, "Mt": apply_mt, "MMt": apply_mmt}[which]
    out.copy_(apply(v if v.dtype is torch.float64 else v.float(), freq, space))


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
    *,
    normal: Callable[..., None] = normals,
) -> None:
    """mean = x + d D v;  out = mean + n M z;  cast = out."""
    check_source(z, seeds, draw)
    d_each = _per_sample(d, d_tensor, x)
    if n is None and n_tensor is None:
        n_each = torch.sqrt(2 * d_each) if isinstance(d_each, Tensor) else math.sqrt(2 * d_each)
    else:
        n_each = _per_sample(n or 0.0, n_tensor, x)
    if filter_drift and space is not None and mean is None:
        # d M M^T v + n M z = M [d M^T v + n z]: four real transforms instead of six
        inner = d_each * apply_mt(v.to(x.dtype), freq, space)
        if z is None and seeds is not None and draw is not None:
            z = pixel_noise(_drawn(x, seeds, draw, first_sample, False, normal), x.shape[-1])
        update = apply_m(inner if z is None else inner + n_each * z, freq, space)
        if skew is not None:
            update += d_each * apply_skew(v.to(x.dtype), skew)
        torch.add(x, update, out=out)
    else:
        coloured = _coloured(x, freq, space, z, seeds, draw, first_sample, normal)
        clean = x + d_each * _drift(v.to(x.dtype), freq, space, skew, filter_drift)
        if mean is not None:
            mean.copy_(clean)
        out.copy_(clean if coloured is None else clean + n_each * coloured)
    if cast is not None:
        cast.copy_(out)


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
    *,
    normal: Callable[..., None] = normals,
) -> None:
    """The step with `eta = 2 alpha (snr |M z| / |D score|)^2`, norms per sample or averaged over the batch.

    The batch average leaves out samples whose norm is not finite, so that one broken sample does not move the others.
    A score of zero makes no step.
    """
    check_source(z, seeds, draw, needed=True)
    coloured = _coloured(x, freq, space, z, seeds, draw, first_sample, normal)
    assert coloured is not None
    drift = _drift(score.to(x.dtype), freq, space, skew, filter_drift)
    # Summed in float64: a million squares in float32 would cost a digit.
    drift_norm, noise_norm = (t.flatten(1).norm(dim=1, dtype=torch.float64) for t in (drift, coloured))
    if not per_sample:
        drift_norm, noise_norm = (
            torch.where(norm.isfinite(), norm, math.nan).nanmean() for norm in (drift_norm, noise_norm)
        )
    ratio = torch.where(drift_norm == 0, 0.0, snr * noise_norm / drift_norm).to(x.dtype).reshape(-1, 1, 1, 1)
    eta = 2 * _per_sample(alpha, alpha_tensor, x) * ratio.square()
    clean = x + eta * drift
    if mean is not None:
        mean.copy_(clean)
    torch.add(clean, torch.sqrt(2 * eta) * coloured, out=out)
    if cast is not None:
        cast.copy_(out)
