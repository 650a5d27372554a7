"""Every op in a few lines of torch: the oracle of the tests and the path for sizes and devices without a kernel.

The functions take the arguments of their schema (`_schema.py`). They compute in the dtype of x (float32, or float64 for
reference work) on any device, and never wait for the device.

The identity behind them: with `M = F^-1 R F A`, the update `d M M^T v + n M z` is `M [d M^T v + n z]`, so noise and drift
share the second half of the filter. The bracket lives in the domain between the two halves, called the core here: the
half spectrum when there is no space mask, the pixels when there is one.
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


class _Filter:
    """M of one call: masks in the dtype of the state, `core` = M^T into the core domain, `finish` = M out of it."""

    def __init__(self, like: Tensor, freq: Tensor | None, space: Tensor | None) -> None:
        self.size = like.shape[-2:]
        self.dtype = like.dtype
        self.freq, self.space = freq, space

    def forward(self, v: Tensor) -> Tensor:
        return torch.fft.rfft2(v.to(self.dtype))

    def inverse(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft2(spectrum, s=self.size)

    def scaled(self, spectrum: Tensor) -> Tensor:
        return spectrum if self.freq is None else spectrum * self.freq

    def core(self, v: Tensor) -> Tensor:
        """M^T v: half spectrum without a space mask, pixels with one."""
        if self.space is None:
            return self.scaled(self.forward(v))
        v = v.to(self.dtype)
        return self.space * (v if self.freq is None else self.inverse(self.scaled(self.forward(v))))

    def embed(self, z: Tensor) -> Tensor:
        """The caller's pixel noise, in the core domain."""
        return self.forward(z) if self.space is None else z

    def finish(self, u: Tensor) -> Tensor:
        """M of something in the core domain, as pixels."""
        if self.space is None:
            return self.inverse(self.scaled(u))
        u = self.space * u
        return u if self.freq is None else self.inverse(self.scaled(self.forward(u)))

    def turn(self, v: Tensor, skew: Tensor) -> Tensor:
        """S v = F^-1 i w F v."""
        return self.inverse(torch.complex(torch.zeros_like(skew), skew) * self.forward(v))

    def white(self, batch: int, channels: int, seeds: Tensor, draw: Tensor, first_sample: int, normal: Callable) -> Tensor:
        """One draw of unit white noise in the core domain (pixel or spectral noise of the contract); advances draw."""
        height, width = self.size
        alone = seeds.numel() > 1
        first_pair = 0 if alone else first_sample // 2
        pairs = batch if alone else (first_sample + batch + 1) // 2 - first_pair
        g = torch.empty(pairs, channels, height, width, dtype=torch.complex64, device=seeds.device)
        normal(g, seeds, draw, first_pair)
        draw.add_(1)
        if self.space is None:
            even, odd = half_spectra(g.to(self.dtype.to_complex()))
        else:
            even, odd = g.real.to(self.dtype), g.imag.to(self.dtype)
        if alone:
            return even
        both = torch.stack((even, odd), dim=1).flatten(0, 1)
        return both[first_sample % 2 :][:batch]


def half_spectra(g: Tensor) -> tuple[Tensor, Tensor]:
    """The half spectra of z_even and z_odd, where `F (z_even + i z_odd) = sqrt(HW) g` and g is `[..., H, W]`."""
    height, width = g.shape[-2:]
    ky = -torch.arange(height, device=g.device) % height
    kx = -torch.arange(width // 2 + 1, device=g.device) % width
    here, mirrored = g[..., : width // 2 + 1], g[..., ky[:, None], kx].conj()
    scale = 0.5 * math.sqrt(height * width)
    return (here + mirrored) * scale, (here - mirrored) * (-1j * scale)


def _per_sample(number: float, tensor: Tensor | None, like: Tensor) -> float | Tensor:
    return number if tensor is None else tensor.to(like.dtype).reshape(-1, 1, 1, 1)


def _draw(
    m: _Filter, x: Tensor, z: Tensor | None, seeds: Tensor | None, draw: Tensor | None, first: int, normal: Callable
) -> Tensor | None:
    if z is not None:
        return m.embed(z)
    if seeds is None or draw is None:
        return None
    return m.white(x.shape[0], x.shape[1], seeds, draw, first, normal)


def _drift(m: _Filter, v: Tensor, skew: Tensor | None, filter_drift: bool) -> Tensor:
    """D v, as pixels."""
    if not filter_drift:
        return v.to(m.dtype)
    drift = m.finish(m.core(v))
    return drift if skew is None else drift + m.turn(v, skew)


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
    normal: Callable = normal_pairs,
) -> None:
    """out = n M z."""
    m = _Filter(out, freq, space)
    white = _draw(m, out, z, seeds, draw, first_sample, normal)
    assert white is not None
    out.copy_(m.finish(white) * _per_sample(n, n_tensor, out))


def precondition(out: Tensor, v: Tensor, freq: Tensor | None, space: Tensor | None, which: str) -> None:
    """out = M v, M^T v or M M^T v, computed in float32 (float64 for float64 v)."""
    wide = v if v.dtype is torch.float64 else v.float()
    m = _Filter(wide, freq, space)
    if which == "M":
        out.copy_(m.finish(m.embed(wide)))
        return
    core = m.core(wide)
    out.copy_(m.finish(core) if which == "MMt" else m.inverse(core) if space is None else core)


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
    normal: Callable = normal_pairs,
) -> None:
    """mean = x + d D v;  out = mean + n M z."""
    m = _Filter(x, freq, space)
    d_each = _per_sample(d, d_tensor, x)
    if n is None and n_tensor is None:
        n_each = torch.sqrt(2 * d_each) if isinstance(d_each, Tensor) else math.sqrt(2 * d_each)
    else:
        n_each = _per_sample(n or 0.0, n_tensor, x)
    white = _draw(m, x, z, seeds, draw, first_sample, normal)
    if mean is None and filter_drift and white is not None:
        update = m.finish(d_each * m.core(v) + n_each * white)
        if skew is not None:
            update = update + d_each * m.turn(v, skew)
        torch.add(x, update, out=out)
        return
    clean = x + d_each * _drift(m, v, skew, filter_drift)
    if mean is not None:
        mean.copy_(clean)
    out.copy_(clean if white is None else clean + m.finish(n_each * white))


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
    normal: Callable = normal_pairs,
) -> None:
    """The step with `eta = 2 alpha (snr |M z| / |D score|)^2`, norms per sample or averaged over the batch.

    The batch average leaves out samples whose norm is not finite, so that one broken sample does not move the others.
    """
    m = _Filter(x, freq, space)
    white = _draw(m, x, z, seeds, draw, first_sample, normal)
    assert white is not None
    drift, coloured = _drift(m, score, skew, filter_drift), m.finish(white)
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
