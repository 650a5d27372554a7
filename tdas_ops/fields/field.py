"""`random_field` and `GaussianField`: fields of a given power spectrum, out of a noise stream."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tdas_ops import _arguments, ops
from tdas_ops.fields import grid
from tdas_ops.fields.grid import Spacing
from tdas_ops.fields.spectra import Power, amplitudes
from tdas_ops.noise import NoiseStream, Stream
from tdas_ops.preconditioner import Preconditioner

_TILE = 1 << 15  # complex numbers that a transform along the first of three axes has in the cache
_WHOLE = 1 << 16  # points of a grid, below which all members are made at once and cropped together
_LONG = 1 << 14  # even numbers of points, from which on a row is made by itself, through half as long an FFT


def random_field(
    spectrum: Power,
    shape: Sequence[int],
    spacing: Spacing = 1.0,
    *,
    noise: Stream,
    members: int | None = None,
    periodic: bool | Sequence[bool] = True,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Gaussian random fields of a given power spectrum: `GaussianField(...).sample(...)`, with the arguments of both.

    P(k) is in units of `field^2 length^d`, k the angular wavenumber in inverse units of the spacing
    (`tdas_ops.fields` has the formulas).

        x = random_field(lambda k: k**-3, (256, 256), 0.5, noise=0, members=8)      # [8, 256, 256]

    Returns: `[members, *shape]`, or `[members, C, *shape]` for a spectrum of C x C matrices.
    """
    return GaussianField(spectrum, shape, spacing, periodic=periodic, device=device).sample(noise, members, dtype=dtype)


class GaussianField:
    """A stationary Gaussian random field on a grid: zero mean, given power spectrum.

    A member depends on its seed, its sample, the draw and the law alone, to the bit: not on the members beside it. It
    is made of normals in float32, in float64 as well, which reach 6.7 standard deviations.

    One and two dimensions are the op `noise`, as are three, one plane a wavenumber of the first axis, with a Hartley
    transform along that axis, where the spectrum is even along it (each function of |k| is) and the last two axes have
    an even number of points together. These do not depend on the number of threads. In three dimensions other spectra
    and C x C matrices go through real FFTs of white noise; they, and rows of 2^14 points and more, may depend on it by
    rounding.

    Args:
        spectrum: P(k), in units of `field^2 length^d`, k the angular wavenumber. One of
            - a function of |k|: it receives a float64 tensor on the CPU and returns a tensor or array of that shape, or
              of that shape and `(C, C)`. Where it is not finite at k = 0, the field has no power there: its mean over
              the grid is 0;
            - a table `(k, P)` of `[n]` and `[n]` (or `[n, C, C]`), k positive and rising, with all wavenumbers of the
              grid in its range: log P is linear in log k between its rows (matrices: P itself), and P(0) = 0;
            - a `PowerSpectrum` that was measured: such a table whose ends hold beyond its range;
            - a tensor or array with P at every frequency of the grid, the half spectrum `[..., n // 2 + 1]` in the
              order of `torch.fft.rfftn`, or `[..., n // 2 + 1, C, C]`, real or complex; for spectra that depend on the
              direction of k. `P(-k) = conj P(k)`. The grid is that of the attribute `grid`.
            The C x C matrices are cross-spectra, Hermitian with no eigenvalue below 0:
            `<x_i(k) conj x_j(k)> = V P_ij(k)`.
        shape: points of one, two or three axes.
        spacing: distance of neighbouring points in units of length, one number or one for each axis.
        periodic: whether the field continues at the opposite side; one value, or one for each axis. Otherwise it is cut
            out of a periodic field of twice the size (circulant embedding, Dietrich and Newsam, SIAM J. Sci. Comput.
            18, 1088, 1997): along an axis of n points of the next even number from `2 (n - 1)` on without a prime
            factor above 5. Its covariance at a lag r is the sum of that of the spectrum over all `r + L`, L whole
            periods of that grid: exact where the correlation ends before `n - 1` spacings.
        device: where the field is made; float64 only on the CPU.

    Attributes:
        shape, spacing (one number for each axis), device: as given.
        grid: shape of the periodic grid that the field is cut out of; `shape` if it is periodic along each axis.
        channels: C, or None for a scalar field.

    Raises:
        ValueError, TypeError: a spectrum that is negative, not finite, no covariance or of another shape, a spacing
            that is not positive, another number of axes.
        MemoryError: a grid that is larger than the memory that is free, before it is allocated.
    """

    def __init__(
        self,
        spectrum: Power,
        shape: Sequence[int],
        spacing: Spacing = 1.0,
        *,
        periodic: bool | Sequence[bool] = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = grid.checked_shape(shape)
        self.spacing = grid.checked_spacing(spacing, len(self.shape))
        self.device = _arguments.device(device)
        if self.device.type == "meta":
            raise ValueError(f"device: got {self.device}, expected one that has values")
        self.grid = grid.embedding(self.shape, periodic)
        points = math.prod(self.grid)
        grid.check_memory("shape", f"a grid of {self.grid} for the masks", 18 * points, torch.device("cpu"))
        made = amplitudes(spectrum, self.grid, self.spacing, math.prod(self.spacing))
        self._largest = float(made.values.abs().max())
        if not math.isfinite(self._largest):
            raise ValueError("spectrum: got P beyond float64 over the product of the spacings, expected other units")
        axes = len(self.shape)
        self.channels = made.channels(axes)
        self._filter: Preconditioner | None = None
        self._roots: Tensor | None = None
        self._kept: Tensor | None = None
        planes = axes == 3 and self.channels is None and made.even and self.grid[1] * self.grid[2] % 2 == 0
        if axes < 3 or planes:
            sizes = (*(1,) * (2 - axes), *self.grid) if axes < 3 else self.grid[1:]
            leading = self.grid[0] if planes else self.channels or 1
            values = made.values if axes == 2 or planes else made.values[None]
            values = values[None] if axes < 3 and self.channels is None else values
            about = {"source": "random field"}
            self._filter = Preconditioner((leading, *sizes), values, method=None, provenance=about, device=self.device)
        else:
            self._roots = made.values.to(self.device)

    @property
    def filter(self) -> Preconditioner:
        """The filter M whose noise the field is, in one and two dimensions: `M M^T` is its covariance. Shape
        (C, *grid), in one dimension with H = 1.

        Raises:
            ValueError: in three dimensions.
        """
        if len(self.shape) == 3 or self._filter is None:
            raise ValueError(f"filter: got a field of {len(self.shape)} dimensions, expected one or two")
        return self._filter

    def sample(self, noise: Stream, members: int | None = None, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Independent members of the field; one draw of the stream.

        Args:
            noise: a `NoiseStream`, a seed for all members or a sequence of one for each, or a `torch.Generator`.
            members: how many; by default one for each seed, else 1.
            dtype: float32, or float64 on the CPU.

        Returns: `[members, *shape]`, or `[members, C, *shape]` for a spectrum of matrices.

        Raises:
            ValueError, TypeError: members that are not those of the seeds, another dtype.
            MemoryError: more than the memory that is free, before it is allocated.
        """
        return self._sample(noise, members, dtype, 1.0)

    def evolve(self, x: Tensor, correlation: float, noise: NoiseStream) -> Tensor:
        """The next step of a stationary AR(1) process: `x' = a x + sqrt(1 - a^2) xi`, xi new members; one draw.

        Begin with `x = sample(noise, members)`. A run goes on from x and the stream (`NoiseStream.state_dict`), to the
        bit.

        Args:
            x: the fields of this step, `[members, *shape]` or `[members, C, *shape]`; not changed.
            correlation: a, of a point with itself a step later, from 0 to 1: `exp(-dt / tau)` for a memory of tau.
            noise: the stream of the run, a `NoiseStream`: a seed would give each step the same noise.

        Raises:
            ValueError, TypeError: x of another shape, a correlation out of range, no stream.
        """
        expected = ("members", *self._member_shape)
        if not isinstance(x, Tensor) or tuple(x.shape[1:]) != self._member_shape or len(x) == 0:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x: got {got}, expected ({', '.join(map(str, expected))})")
        if x.device != self.device or x.layout is not torch.strided:
            raise ValueError(
                f"x: got a tensor of layout {x.layout} on {x.device}, expected a dense one on {self.device}"
            )
        a = _arguments.number("correlation", correlation)
        if not 0 <= a <= 1:
            raise ValueError(f"correlation: got {correlation}, expected a number from 0 to 1")
        if not isinstance(noise, NoiseStream):
            why = "a NoiseStream (one seed would give each step the same noise)"
            raise TypeError(f"noise: got {type(noise).__name__}, expected {why}")
        return self._sample(noise, len(x), x.dtype, math.sqrt((1 - a) * (1 + a))).add_(x, alpha=a)

    def covariance(self, v: Tensor) -> Tensor:
        """The covariance of a periodic scalar field times v: `F^-1 P F v`, P in units of the spacings.

        Args:
            v: `[B, *shape]`, float32, or float64 on the CPU.

        Raises:
            ValueError: a field that is not periodic or has channels, v of another shape.
        """
        got = tuple(v.shape) if isinstance(v, Tensor) else ()
        if self.channels is not None or self.grid != self.shape or got[1:] != self.shape or not got[0]:
            raise ValueError(f"v: got {got} for {self!r}, expected (B, *shape) for a periodic scalar field")
        if v.dtype not in (torch.float32, torch.float64) or v.device != self.device:
            raise TypeError(f"v: got {v.dtype} on {v.device}, expected float32 or float64 on {self.device}")
        if len(self.shape) < 3:
            M = self.filter
            return ops.precondition(v.reshape(len(v), *M.shape), M, "MMt").reshape(v.shape)
        root, axes = self._root(v.dtype), (-3, -2, -1)
        return torch.fft.irfftn(torch.fft.rfftn(v, dim=axes).mul_(root).mul_(root), s=self.shape, dim=axes)

    @property
    def regular(self) -> bool:
        """Whether a scalar field has power at every frequency."""
        return self.channels is None and bool(self._root(torch.float64).min() > 0)

    def _root(self, dtype: torch.dtype) -> Tensor:
        """The amplitudes of a scalar field as a half spectrum of the grid, `[..., n // 2 + 1]`."""
        root = self._roots if self._filter is None else self._filter.masks(dtype)[0]
        assert root is not None
        return root.to(dtype).reshape(grid.half_shape(self.grid))

    @property
    def _member_shape(self) -> tuple[int, ...]:
        return self.shape if self.channels is None else (self.channels, *self.shape)

    def _sample(self, noise: Stream, members: int | None, dtype: torch.dtype, scale: float) -> Tensor:
        stream = NoiseStream.of(noise)
        if members is None:
            members = len(stream.seeds)
        members = _arguments.whole("members", members, 1)
        if dtype is not torch.float32 and (dtype is not torch.float64 or self.device.type != "cpu"):
            got = f"{_arguments.shown(dtype)} on {self.device}"
            raise TypeError(f"dtype: got {got}, expected float32 (or float64 on the CPU)")
        if not self._largest <= torch.finfo(dtype).max:
            got = f"{str(dtype).removeprefix('torch.')} for amplitudes sqrt(P / spacings) of up to {self._largest:.3g}"
            raise ValueError(f"dtype: got {got}, expected one that holds them, or a spectrum in other units")
        stream.arguments(members, self.device)
        size, channels = 4 if dtype is torch.float32 else 8, self.channels or 1
        work = 0 if self._filter is not None and self.grid == self.shape else 3 * math.prod(self.grid)
        needed = size * channels * (members * math.prod(self.shape) + work)
        what = f"{members} fields of {(*self._member_shape,)} in {str(dtype).removeprefix('torch.')}"
        grid.check_memory("shape", what, needed, self.device)
        long = len(self.grid) == 1 and self.channels is None and self.grid[0] >= _LONG and self.grid[0] % 2 == 0
        if self._filter is not None and not long and (self.grid == self.shape or math.prod(self.grid) < _WHOLE):
            return self._cropped(self._filtered(stream, members, dtype, scale))
        out = torch.empty(members, *self._member_shape, dtype=dtype, device=self.device)
        for member, own in enumerate(_each(stream, members)):
            made = self._long if long else self._filtered if self._filter is not None else self._transformed
            out[member] = self._cropped(made(own, 1, dtype, scale))[0]
        return out

    def _cropped(self, x: Tensor) -> Tensor:
        if self.grid == self.shape:
            return x
        for axis, n in enumerate(self.shape, x.dim() - len(self.shape)):
            x = x.narrow(axis, 0, n)
        return x.contiguous()

    def _filtered(self, noise: NoiseStream, members: int, dtype: torch.dtype, scale: float) -> Tensor:
        M = self._filter
        assert M is not None
        shape = (members, *self.grid) if self.channels is None else (members, self.channels, *self.grid)
        three = len(self.grid) == 3
        x = ops.noise(
            M, (members, *M.shape), noise, scale / math.sqrt(self.grid[0]) if three else scale, dtype=dtype
        ).reshape(shape)
        if three:
            _hartley(x)
        return x

    def _long(self, noise: NoiseStream, members: int, dtype: torch.dtype, scale: float) -> Tensor:
        """One row, of pixel noise as the normals of its half spectrum X; the first makes both ends, which are real.

        Points 2n and 2n + 1 are the parts of a complex row of half the length, whose transform is
        `(X(k) + conj X(n / 2 - k)) / 2 + i exp(2 pi i k / n) (X(k) - conj X(n / 2 - k)) / 2`.
        """
        assert self._filter is not None
        (n,), (freq, *_) = self.grid, self._filter.masks(dtype)
        assert freq is not None
        g = torch.view_as_complex(noise.randn((members, n), dtype, self.device).view(members, n // 2, 2))
        half = g.new_empty(members, n // 2 + 1)
        half[:, 1:-1] = g[:, 1:]
        half[:, 0], half[:, -1] = math.sqrt(2) * g[:, 0].real, math.sqrt(2) * g[:, 0].imag
        half.mul_(freq[0, 0]).mul_(scale * math.sqrt(n / 2) / 2)
        mirror = half[:, 1:].flip(1).conj()
        row = torch.sub(half[:, :-1], mirror, out=g).mul_(self._turns(g)).add_(half[:, :-1]).add_(mirror)
        return torch.view_as_real(torch.fft.ifft(row)).view(members, n)

    def _turns(self, like: Tensor) -> Tensor:
        """`i exp(2 pi i k / n)`, of which the last kind is kept."""
        if self._kept is None or self._kept.dtype is not like.dtype:
            angles = torch.arange(like.shape[-1], dtype=torch.float64).div_(like.shape[-1]).add_(0.5).mul_(math.pi)
            self._kept = like.new_empty(like.shape[-1])
            for part, function in zip(torch.view_as_real(self._kept).unbind(1), (torch.cos, torch.sin), strict=True):
                part.copy_(function(angles))
        return self._kept

    def _transformed(self, noise: NoiseStream, members: int, dtype: torch.dtype, scale: float) -> Tensor:
        roots, axes = self._roots, (-3, -2, -1)
        assert roots is not None
        z = noise.randn((members, self.channels or 1, *self.grid), dtype, self.device)
        white = torch.fft.rfftn(z.mul_(scale), dim=axes)
        roots = roots.to(white.dtype if roots.is_complex() else dtype)
        if self.channels is None:
            return torch.fft.irfftn(white.mul_(roots), s=self.grid, dim=axes)[:, 0]
        out = z
        for i in range(self.channels):
            total = roots[..., i, 0] * white[:, 0]
            for j in range(1, self.channels):
                total += roots[..., i, j] * white[:, j]
            out[:, i] = torch.fft.irfftn(total, s=self.grid, dim=axes)
        return out

    def __repr__(self) -> str:
        what = f"shape={self.shape}, spacing={self.spacing}, channels={self.channels}, grid={self.grid}"
        return f"GaussianField({what}, device={self.device})"


def _each(noise: NoiseStream, members: int) -> Iterator[NoiseStream]:
    """The stream of every member of a draw, which is taken."""
    streams = [noise.shard(member, members, members) for member in range(members)]
    with torch.inference_mode(False):
        noise.draw.add_(1)
    return iter(streams)


def _hartley(x: Tensor) -> None:
    """`x(n) <- sum_c x(c) cas(2 pi c n / N)` along the second axis, in place, `cas = cos + sin`; members are the first
    one, and the others have an even number of columns. Orthogonal up to `1 / sqrt(N)`: planes c and N - c of one
    spectrum make what cosines and sines would.

    With f the complex DFT of two columns as one (a real transform does to both parts the same), it is
    `(1 + i) / 2 f(n) + (1 - i) / 2 f(-n)`. Source: Bracewell, J. Opt. Soc. Am. 73, 1832 (1983).
    """
    members, n = x.shape[:2]
    pairs = torch.view_as_complex(x.view(members, n, -1, 2))
    tile = _TILE if x.device.type == "cpu" else pairs.numel()
    for member in pairs:  # several at once would be laid out another way, which changes bits in float64
        for columns in member.split(max(1, tile // n), dim=1):
            f = torch.fft.fft(columns, dim=0)
            torch.mul(f, 0.5 + 0.5j, out=columns)
            f.mul_(0.5 - 0.5j)
            columns[0] += f[0]
            columns[1:] += f[1:].flip(0)
