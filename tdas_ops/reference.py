"""Every op in a few lines of torch: the oracle of the tests and the path for sizes and devices without a kernel.

The functions take the arguments of their schema (`_schema.py`). They compute in the dtype of x (float32, or float64 for
reference work) on any device, and never wait for the device.

What depends on the caller's tensors goes through real FFTs of each sample, so that a non-finite value stays in its
sample. Noise drawn here goes through one complex FFT a pair of samples, as `M (z_even + i z_odd)`.
That makes it bit-identical under any split of the batch and any number of threads, which real FFTs in torch are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF


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


def normal_pairs(out: Tensor, seeds: Tensor, draw: Tensor, first_pair: int) -> None:
    """g[pair, C, H, W] of the noise contract; `seeds` has 1 element, or one for each pair (then each is its pair 0)."""
    pairs, channels, height, width = out.shape
    half = (width + 1) // 2
    device = out.device
    quad = torch.arange(channels * height * half, device=device).reshape(1, channels, height, half)
    pair = torch.arange(first_pair, first_pair + pairs, device=device).reshape(-1, 1, 1, 1)
    if seeds.numel() > 1:
        pair = torch.zeros_like(pair)
    key = seeds.reshape(-1, 1, 1, 1)
    counter = torch.broadcast_tensors(quad, pair, draw & _MASK32, (draw >> 32) & _MASK32)
    r0, r1, r2, r3 = philox4x32(list(counter), (key & _MASK32, (key >> 32) & _MASK32))
    out[..., :half] = box_muller(r0, r1)
    out[..., half:] = box_muller(r2, r3)[..., : width - half]


def full_spectrum(half: Tensor, width: int) -> Tensor:
    """The even full spectrum `[..., H, W]` of a real half spectrum `[..., H, W // 2 + 1]`."""
    mirrored = half[..., 1 : (width + 1) // 2].flip(-1)
    mirrored = torch.cat([mirrored[..., :1, :], mirrored[..., 1:, :].flip(-2)], dim=-2)
    return torch.cat([half, mirrored], dim=-1)


def _filtered(v: Tensor, freq: Tensor | None) -> Tensor:
    """F^-1 R F v, for real or complex v."""
    if freq is None:
        return v
    if v.is_complex():
        return torch.fft.ifft2(full_spectrum(freq, v.shape[-1]) * torch.fft.fft2(v))
    return torch.fft.irfft2(freq * torch.fft.rfft2(v), s=v.shape[-2:])


def apply_m(v: Tensor, freq: Tensor | None, space: Tensor | None) -> Tensor:
    """M v = F^-1 R F A v."""
    return _filtered(v if space is None else space * v, freq)


def apply_mt(v: Tensor, freq: Tensor | None, space: Tensor | None) -> Tensor:
    """M^T v = A F^-1 R F v."""
    v = _filtered(v, freq)
    return v if space is None else space * v


def apply_mmt(v: Tensor, freq: Tensor | None, space: Tensor | None) -> Tensor:
    """M M^T v; without a space mask both halves share one pair of transforms: F^-1 R^2 F v."""
    if space is None:
        return _filtered(v, None if freq is None else freq.square())
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


def _draw_pairs(x: Tensor, seeds: Tensor, draw: Tensor, first_sample: int, normal: Callable[..., None]) -> Tensor:
    """One draw of the stream for the samples of x, as g of their pairs, complex; advances the stream."""
    alone = seeds.numel() > 1
    first_pair = 0 if alone else first_sample // 2
    pairs = len(x) if alone else (first_sample + len(x) + 1) // 2 - first_pair
    g = torch.empty(pairs, *x.shape[1:], dtype=torch.complex64, device=x.device)
    normal(g, seeds, draw, first_pair)
    draw.add_(1)
    return g.to(x.dtype.to_complex())


def _samples(pairs: Tensor, like: Tensor, seeds: Tensor, first_sample: int) -> Tensor:
    """The samples whose real and imaginary parts these pairs are; with one seed a sample, the real parts."""
    if seeds.numel() > 1:
        return pairs.real
    both = torch.stack((pairs.real, pairs.imag), dim=1).flatten(0, 1)
    return both[first_sample % 2 :][: len(like)]


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
    g = _draw_pairs(x, seeds, draw, first_sample, normal)
    if space is None:
        # spectral noise: F z = sqrt(HW) g
        spectrum = g if freq is None else full_spectrum(freq, g.shape[-1]) * g
        return _samples(torch.fft.ifft2(spectrum, norm="ortho"), x, seeds, first_sample)
    return _samples(apply_m(g, freq, space), x, seeds, first_sample)


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
    normal: Callable[..., None] = normal_pairs,
) -> None:
    """out = n M z."""
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
    *,
    normal: Callable[..., None] = normal_pairs,
) -> None:
    """mean = x + d D v;  out = mean + n M z."""
    d_each = _per_sample(d, d_tensor, x)
    if n is None and n_tensor is None:
        n_each = torch.sqrt(2 * d_each) if isinstance(d_each, Tensor) else math.sqrt(2 * d_each)
    else:
        n_each = _per_sample(n or 0.0, n_tensor, x)
    if filter_drift and space is not None and mean is None:
        # d M M^T v + n M z = M [d M^T v + n z]: four real transforms instead of six
        inner = d_each * apply_mt(v.to(x.dtype), freq, space)
        if z is None and seeds is not None and draw is not None:
            z = _samples(_draw_pairs(x, seeds, draw, first_sample, normal), x, seeds, first_sample)
        update = apply_m(inner if z is None else inner + n_each * z, freq, space)
        if skew is not None:
            update += d_each * apply_skew(v.to(x.dtype), skew)
        torch.add(x, update, out=out)
        return
    coloured = _coloured(x, freq, space, z, seeds, draw, first_sample, normal)
    clean = x + d_each * _drift(v.to(x.dtype), freq, space, skew, filter_drift)
    if mean is not None:
        mean.copy_(clean)
    out.copy_(clean if coloured is None else clean + n_each * coloured)


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
    *,
    normal: Callable[..., None] = normal_pairs,
) -> None:
    """The step with `eta = 2 alpha (snr |M z| / |D score|)^2`, norms per sample or averaged over the batch.

    The batch average leaves out samples whose norm is not finite, so that one broken sample does not move the others.
    """
    coloured = _coloured(x, freq, space, z, seeds, draw, first_sample, normal)
    assert coloured is not None
    drift = _drift(score.to(x.dtype), freq, space, skew, filter_drift)
    drift_norm, noise_norm = drift.flatten(1).norm(dim=1), coloured.flatten(1).norm(dim=1)
    if not per_sample:
        drift_norm, noise_norm = (
            torch.where(norm.isfinite(), norm, math.nan).nanmean() for norm in (drift_norm, noise_norm)
        )
    ratio = (snr * noise_norm / drift_norm).reshape(-1, 1, 1, 1)
    eta = 2 * _per_sample(alpha, alpha_tensor, x) * ratio.square()
    clean = x + eta * drift
    if mean is not None:
        mean.copy_(clean)
    torch.add(clean, torch.sqrt(2 * eta) * coloured, out=out)
