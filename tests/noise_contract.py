"""The noise contract (docs/design.md) in numpy, in float64 after the float32 uniforms: what kernels are held to."""

from __future__ import annotations

import math

import numpy as np
import torch

# Counter, key, result: the known-answer vectors published with Random123.
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]
# Shapes of g, [B, C, H, ceil(W / 2)].
SHAPES = [(3, 2, 5, 8), (2, 1, 28, 28), (1, 3, 7, 33), (2, 2, 4, 1), (1, 1, 1, 2), (2, 1, 3, 129)]


def signed(bits: int) -> int:
    """The int64 whose bits are those of this uint64."""
    return bits - (1 << 64) if bits >= 1 << 63 else bits


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox4x32-10 of counters `[N, 4]` in numpy."""
    c = counter.astype(np.uint64)
    k0, k1 = key
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p2 = c[:, 0] * np.uint64(0xD2511F53), c[:, 2] * np.uint64(0xCD9E8D57)
        c = np.stack(
            [
                (p2 >> np.uint64(32)) ^ c[:, 1] ^ np.uint64(k0),
                p2 & low,
                (p0 >> np.uint64(32)) ^ c[:, 3] ^ np.uint64(k1),
                p0 & low,
            ],
            axis=1,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c.astype(np.uint32)


def contract(shape, seed=7, draw=0, first_sample=0, spectral=False) -> torch.Tensor:
    """g[B, C, H, ceil(W / 2)] in float64 from the float32 uniforms of the contract. Any seed and draw are uint64."""
    samples, channels, height, width = shape
    c, h, w = np.indices((channels, height, width), dtype=np.uint64).reshape(3, -1)
    half = np.uint64(((height if spectral else width) + 1) // 2)
    quad = (c * half + h % half) * np.uint64(width) + w if spectral else (c * np.uint64(height) + h) * half + w % half
    second = (h if spectral else w) >= half
    planes = []
    for sample in range(first_sample, first_sample + samples):
        counter = np.zeros((len(quad), 4), dtype=np.uint64)
        counter[:, 0] = quad
        counter[:, 1:] = [sample, draw & 0xFFFFFFFF, draw >> 32]
        r = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))
        r[second] = r[second][:, [2, 3, 0, 1]]
        planes.append(box_muller(r[:, 0], r[:, 1]).reshape(channels, height, width))
    return torch.from_numpy(np.stack(planes))


def white_noise(g: torch.Tensor, width: int, spectral: bool) -> torch.Tensor:
    """z[..., H, W] of g[..., H, ceil(W / 2)], complex128: entry by entry, by an explicit inverse DFT where spectral."""
    height = g.shape[-2]
    z = torch.full((*g.shape[:-1], width), math.nan, dtype=torch.float64)
    if not spectral:
        z[..., 0::2], z[..., 1::2] = g.real, g.imag[..., : width // 2]
        return z
    spectrum = torch.full(z.shape, complex(math.nan, math.nan), dtype=torch.complex128)

    def put(h: int, w: int, value: torch.Tensor) -> None:
        spectrum[..., h, w] = value
        spectrum[..., -h % height, -w % width] = value.conj()

    n = height * width
    for h in range(height):
        for w in range(1, (width + 1) // 2):
            put(h, w, math.sqrt(n / 2) * g[..., h, w])
        first = g[..., h, 0]
        if 2 * h % height == 0:
            put(h, 0, math.sqrt(n) * first.real)
            if width % 2 == 0:
                put(h, width // 2, math.sqrt(n) * first.imag)
        elif 2 * h < height:
            put(h, 0, math.sqrt(n / 2) * first)
        elif width % 2 == 0:
            put(height - h, width // 2, math.sqrt(n / 2) * first)
    down, across = (torch.arange(size, dtype=torch.float64) for size in (height, width))
    left, right = (torch.exp(2j * math.pi * torch.outer(k, k) / len(k)) for k in (down, across))
    z = left @ spectrum @ right / n
    assert z.imag.abs().max() < 1e-12 * math.sqrt(n)
    return z.real


def box_muller(ra: np.ndarray, rb: np.ndarray) -> np.ndarray:
    unit = lambda a: (a.astype(np.float32).astype(np.float64) * 2.0**-32 + 2.0**-33).astype(np.float32)
    u, v = unit(ra).astype(np.float64), unit(~ra).astype(np.float64)
    rho = np.sqrt(-2 * np.where(v < 1 / 32, np.log1p(-np.minimum(v, 0.5)), np.log(u)))
    theta = 2 * np.pi * rb.view(np.int32).astype(np.float32).astype(np.float64) * 2.0**-32
    return rho * np.exp(1j * theta)
