"""The noise contract (docs/design.md) in numpy, in float64 after the float32 uniforms: what kernels are held to."""

from __future__ import annotations

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


def contract(shape, seed=7, draw=0, first_pair=0, pair_indices=None) -> torch.Tensor:
    """g[P, C, H, W] in float64 from the float32 uniforms of the contract. Any seed and draw are uint64 here."""
    pairs, channels, height, width = shape
    half = (width + 1) // 2
    rows = channels * height
    planes = []
    for p in pair_indices or range(first_pair, first_pair + pairs):
        counter = np.zeros((rows * half, 4), dtype=np.uint64)
        counter[:, 0] = np.arange(rows * half)
        counter[:, 1:] = [p, draw & 0xFFFFFFFF, draw >> 32]
        r = philox(counter, (seed & 0xFFFFFFFF, seed >> 32)).reshape(rows, half, 4)
        g = np.concatenate([box_muller(r[..., 0], r[..., 1]), box_muller(r[..., 2], r[..., 3])], axis=1)
        planes.append(g[:, :width].reshape(channels, height, width))
    return torch.from_numpy(np.stack(planes))


def box_muller(ra: np.ndarray, rb: np.ndarray) -> np.ndarray:
    unit = lambda a: (a.astype(np.float32).astype(np.float64) * 2.0**-32 + 2.0**-33).astype(np.float32)
    u, v = unit(ra).astype(np.float64), unit(~ra).astype(np.float64)
    rho = np.sqrt(-2 * np.where(v < 1 / 32, np.log1p(-np.minimum(v, 0.5)), np.log(u)))
    theta = 2 * np.pi * rb.view(np.int32).astype(np.float32).astype(np.float64) * 2.0**-32
    return rho * np.exp(1j * theta)
