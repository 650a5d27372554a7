"""The preconditioner `M = F^-1 diag(R) F diag(A)` and where its masks come from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tdas_ops import _gaussian, _images
from tdas_ops.reference import full_spectrum

Method = Literal["pds", "tdas"] | None
Shape = tuple[int, int, int]
Mask = Tensor | np.ndarray | str | os.PathLike[str]

_METHODS = ("pds", "tdas", None)
_EVEN = 1e-6


class Preconditioner:
    """A target-distribution-aware filter: space mask A, frequency mask R, optional skew w, and the method they serve.

    Make one with `from_images`, `from_statistics`, `from_masks`, `radial` or `identity`; it is immutable.

    Attributes:
        shape: (C, H, W).
        method: "pds" (the drift is preconditioned by `M M^T + S`: keeps the target distribution), "tdas" (only noise
            and start are filtered: does not keep it), or None (a filter for `noise` and `precondition` only).
        device: where its masks live.
        freq: R as a half spectrum `[C, H, W // 2 + 1]`, float64 on the CPU, or None for R = 1.
        space: A `[C, H, W]`, float64 on the CPU, or None for A = 1.
        skew: w as a half spectrum, float64 on the CPU, or None.
        provenance: plain values that say where the masks came from.

    Source: TDAS, arXiv 2206.04029; PDS, arXiv 2207.02196 and 2302.06504.
    """

    def __init__(
        self,
        shape: Sequence[int],
        freq: Tensor | None = None,
        space: Tensor | None = None,
        skew: Tensor | None = None,
        method: Method = "pds",
        provenance: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        channels, height, width = _check_shape(shape)
        if method not in _METHODS:
            raise ValueError(f"method: got {method!r}, expected 'pds', 'tdas' or None")
        half = (channels, height, width // 2 + 1)
        self.shape: Shape = (channels, height, width)
        self.method: Method = method
        self.freq = _checked("freq", freq, half, width, odd=False, positive=method is not None)
        self.space = _checked("space", space, self.shape, None, odd=False, positive=method is not None)
        self.skew = _checked("skew", skew, half, width, odd=True, positive=False)
        if self.skew is not None and method != "pds":
            raise ValueError(f"skew: got a skew part with method {method!r}, expected method 'pds'")
        self.provenance = dict(provenance or {})
        self._place(torch.device(device))

    def _place(self, device: torch.device) -> None:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self.device = device
        masters = (self.freq, self.space, self.skew)
        with torch.inference_mode(False):
            self._single = tuple(None if m is None else m.to(device, torch.float32) for m in masters)
        self._double = masters

    def masks(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(R, A, w) in float32 on `device`, or in float64 on the CPU."""
        return self._double if dtype is torch.float64 else self._single  # type: ignore[return-value]

    def to(self, device: torch.device | str) -> Preconditioner:
        """The same filter on another device (itself when it is there already)."""
        moved = self.clone(torch.device(device))
        return self if moved.device == self.device else moved

    def clone(self, device: torch.device | None = None) -> Preconditioner:
        """The same filter with masks of its own on a device, by default where it is."""
        made = object.__new__(Preconditioner)
        made.__dict__.update(self.__dict__)
        made._place(self.device if device is None else device)
        return made

    # Sources of masks

    @classmethod
    def identity(cls, shape: Sequence[int], method: Method = "pds") -> Preconditioner:
        """M = 1: plain sampling. `shape` is (C, H, W)."""
        return cls(shape, method=method, provenance={"source": "identity"})

    @classmethod
    def radial(
        cls, profile: Callable[[Tensor], Tensor], shape: Sequence[int], method: Method = "pds"
    ) -> Preconditioner:
        """A frequency mask that depends on |k| alone.

        Args:
            profile: maps radii `[H, W // 2 + 1]` (float64, cycles per pixel, from 0 to 0.71) to R, for example
                `lambda k: (k + 0.01) ** -1`.
            shape: (C, H, W).
            method: as in the class; None admits zeros and negative values.
        """
        channels, height, width = _check_shape(shape)
        ky = torch.fft.fftfreq(height, dtype=torch.float64)
        kx = torch.fft.rfftfreq(width, dtype=torch.float64)
        radii = torch.hypot(ky[:, None], kx[None, :])
        freq = torch.as_tensor(profile(radii), dtype=torch.float64)
        if freq.shape != radii.shape:
            raise ValueError(f"profile: got a result of shape {tuple(freq.shape)}, expected {tuple(radii.shape)}")
        return cls(
            (channels, height, width), freq.expand(channels, -1, -1), method=method, provenance={"source": "radial"}
        )

    @classmethod
    def from_masks(
        cls,
        freq: Mask | None = None,
        space: Mask | None = None,
        skew: Mask | None = None,
        *,
        shape: Sequence[int] | None = None,
        method: Method = "pds",
        alpha: float = 5.0,
    ) -> Preconditioner:
        """Masks from the caller, or from files in the PDS `.npy` convention.

        Args:
            freq: R, as full spectrum `[C, H, W]` (even: `R(k) = R(-k)`) or half spectrum `[C, H, W // 2 + 1]`; or the
                path of a `.npy` file with a raw statistic `[C, H, W]`, which is normalised on load with `alpha`.
            space: A, `[C, H, W]`, or the path of a `.npy` file with a raw statistic.
            skew: w, odd (`w(k) = -w(-k)`), full or half spectrum; method "pds" only.
            shape: (C, H, W); needed when only a half spectrum is given, since its width does not say whether W is even.
                With it, masks `[H, W]` or `[1, H, W]` serve every channel.
            method: "pds", "tdas", or None for a filter whose masks may be zero or negative.
            alpha: strength of the normalisation of `.npy` files, greater than 1.

        Raises:
            ValueError: no mask at all, a wrong shape, a non-finite, non-positive or asymmetric mask.
        """
        if freq is None and space is None and skew is None:
            raise ValueError(
                "from_masks: got no mask, expected freq, space or skew (identity makes a filter without masks)"
            )
        sources = {n: os.fspath(m) for n, m in (("freq", freq), ("space", space)) if isinstance(m, str | os.PathLike)}
        loaded = [_load_mask(n, m, alpha, method) for n, m in (("freq", freq), ("space", space), ("skew", skew))]
        if shape is None:
            first = loaded[1] if loaded[1] is not None else next(m for m in loaded if m is not None)
            if first.dim() != 3:
                raise ValueError(
                    f"from_masks: got a mask of shape {tuple(first.shape)} and no shape, expected [C, H, W]"
                )
            shape = tuple(first.shape)
        full = _check_shape(shape)
        masks = [
            None if m is None else _fit(name, m, full, half_spectrum)
            for name, m, half_spectrum in zip(("freq", "space", "skew"), loaded, (True, False, True), strict=True)
        ]
        about: dict[str, Any] = {"source": "masks"}
        if sources:
            about |= {"files": {n: Path(p).name for n, p in sources.items()}, "alpha": alpha}
        return cls(full, masks[0], masks[1], masks[2], method=method, provenance=about)

    @classmethod
    def from_statistics(
        cls,
        freq: Tensor | None,
        space: Tensor | None,
        alpha: float = 5.0,
        method: Literal["pds", "tdas"] = "pds",
        provenance: dict[str, Any] | None = None,
    ) -> Preconditioner:
        """Masks from raw statistics of the target data: `m <- m / max m; m <- (m + alpha - 1) / alpha`.

        "pds" takes R = 1 / m_f and A = 1 / m_a; "tdas" takes R = m_f and A = m_a. The first TDAS paper prints no
        numbers for its masks; the "tdas" line is this package's reading of its figure.

        Args:
            freq: raw power statistic f(k), full spectrum `[C, H, W]`, or None.
            space: raw second moment a(p), `[C, H, W]`, or None.
            alpha: greater than 1; near 1 is strong, large tends to the identity.
            method: "pds" or "tdas".
        """
        given = freq if freq is not None else space
        if given is None:
            raise ValueError("from_statistics: got neither freq nor space, expected at least one")
        shape = _check_shape(given.shape)
        masks = [None if m is None else _normalised(m.double().cpu(), alpha, method) for m in (freq, space)]
        half = None if masks[0] is None else _fit("freq", masks[0], shape, True)
        about = {**(provenance or {}), "alpha": alpha}
        return cls(shape, half, masks[1], method=method, provenance=about, device=given.device)

    @classmethod
    def from_images(
        cls,
        images: Any,
        alpha: float = 5.0,
        method: Literal["pds", "tdas"] = "pds",
        *,
        freq: bool = True,
        space: bool = True,
        size: tuple[int, int] | None = None,
        grey: bool = False,
        strict: bool = False,
        progress: bool = True,
    ) -> Preconditioner:
        """Masks from images of the target distribution, in one pass and bounded memory; a few hundred are enough.

        `f(k) = log(1 + mean_i |F x_i(k)|^2)` and `a(p) = mean_i x_i(p)^2`, then `from_statistics`.

        Args:
            images: a tensor `[N, C, H, W]`, floating-point in [0, 1] (1e-6 beyond is clamped), uint8 or uint16; an
                array of these or `[N, H, W, C]`, which is told by a last axis of 1 or 3; a folder of pictures, read in
                order of their names, sub-folders and links to folders included, hidden ones left out; or an iterable,
                such as a dataset or a DataLoader, of batches or single images: tensors, arrays, PIL images, paths, or
                `(image, label)` and `{"image": ...}` with one of these.
            alpha, method: as in `from_statistics`.
            freq, space: which masks to make.
            size: (H, W) to which pictures are cropped (centre, aspect kept) and scaled.
            grey: read pictures as one channel instead of three.
            strict: refuse a picture of a folder that cannot be read; by default it is left out and a warning says so.
            progress: show a progress bar for a folder or an iterable.

        Pictures are read in every mode of Pillow whose white is known: 16 bits are divided by 65,535, floating-point
        values must be in [0, 1]. A warning says where transparency or further pages are left out.

        Raises:
            ValueError, TypeError: no images, values outside [0, 1], or shapes that differ.
        """
        if not freq and not space:
            raise ValueError("from_images: got freq=False and space=False, expected at least one mask")
        _check_alpha(alpha)
        statistics = ImageStatistics()
        reader = _images.Reader(size, grey, strict, progress)
        for batch in reader.read(images):
            statistics.add(batch)
        raw_freq, raw_space = statistics.result()
        reader.report()
        about: dict[str, Any] = {"source": "images", "images": statistics.count}
        if reader.skipped:
            about["skipped"] = len(reader.skipped)
        if isinstance(images, str | os.PathLike):
            about["folder"] = Path(images).name
        return cls.from_statistics(raw_freq if freq else None, raw_space if space else None, alpha, method, about)

    @classmethod
    def calibrated(
        cls,
        target: _gaussian.Target,
        run: _gaussian.Run,
        method: Literal["pds", "tdas"] = "pds",
        bounds: tuple[float, float] | None = None,
    ) -> Preconditioner:
        """The frequency mask for which a run ends at the variance of the target, in the Gaussian model of it.

        Args:
            target: the data, a `calibrate.Target`.
            run: the sampler with its settings: `calibrate.PC(...)` or `calibrate.AnnealedLangevin(...)`.
            method: "pds" or "tdas".
            bounds: of R, by default (0.8, 1.6) for "pds" and (0.01, 1.6) for "tdas". For "pds" a further one keeps
                every predictor step from going beyond the denoised image: `R^2 (b / variance - a) <= 1`.

        Returns: a filter whose provenance has the predicted distance, and `settled`: whether mask and step sizes of the
            snr rule came to agree.

        Source: `docs/calibration.md`.
        """
        R, about = _gaussian.calibrated_mask(target, run, method, bounds)
        return cls(target.shape, R, method=method, provenance={"source": "calibrated", **about})

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file: masks in float64, and shape, method and provenance as metadata."""
        tensors = {n: t for n, t in (("freq", self.freq), ("space", self.space), ("skew", self.skew)) if t is not None}
        about = {
            "format": "tdas_ops.Preconditioner/1",
            "shape": json.dumps(self.shape),
            "method": json.dumps(self.method),
        }
        save_file(tensors, path, metadata=about | {"provenance": json.dumps(self.provenance)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Preconditioner:
        """Reads a file that `save` wrote.

        Raises:
            ValueError: the file is not such a file.
        """
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if about.get("format") != "tdas_ops.Preconditioner/1":
            raise ValueError(
                f"path: got {os.fspath(path)} of format {about.get('format')!r}, expected a saved Preconditioner"
            )
        return cls(
            json.loads(about["shape"]),
            **tensors,
            method=json.loads(about["method"]),
            provenance=json.loads(about["provenance"]),
            device=device,
        )

    def picture(self, path: str | os.PathLike[str]) -> None:
        """Draws both masks, one row a channel: R with frequency zero in the middle, then A; bright is high."""
        from PIL import Image, ImageDraw

        channels, height, width = self.shape
        panel, margin, text = 192, 12, 30
        sheet = Image.new("L", (2 * panel + 3 * margin, channels * (panel + text) + margin), 255)
        pen = ImageDraw.Draw(sheet)
        full = None if self.freq is None else torch.fft.fftshift(full_spectrum(self.freq, width), dim=(-2, -1))
        for channel in range(channels):
            top = channel * (panel + text) + text
            for column, (name, mask) in enumerate((("R", full), ("A", self.space))):
                values = torch.ones(height, width) if mask is None else mask[channel]
                low, high = float(values.min()), float(values.max())
                grey = ((values - low) / max(high - low, 1e-12) * 255).round().to(torch.uint8).numpy()
                left = margin + column * (panel + margin)
                sheet.paste(Image.fromarray(grey).resize((panel, panel), Image.Resampling.NEAREST), (left, top))
                label = f"{name}, channel {channel}: " + (
                    "absent (= 1)" if mask is None else f"{low:.3g} to {high:.3g}"
                )
                pen.text((left, top - 16), label, fill=0)
        sheet.save(path)

    def __repr__(self) -> str:
        masks = [n for n, m in (("freq", self.freq), ("space", self.space), ("skew", self.skew)) if m is not None]
        what = f"shape={self.shape}, method={self.method!r}, masks={masks or 'identity'}, device={self.device}"
        return f"Preconditioner({what})"


class ImageStatistics:
    """The raw statistics f(k) and a(p) of a stream of images, accumulated in float64 batch by batch.

    Attributes:
        count: images seen so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._power: Tensor | None = None
        self._square: Tensor | None = None

    def add(self, images: Tensor) -> None:
        """Adds a batch `[N, C, H, W]` in [0, 1].

        Raises:
            ValueError, TypeError: wrong rank, dtype, range, or another shape than before.
        """
        if not isinstance(images, Tensor) or not images.dtype.is_floating_point:
            got = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"images: got {got}, expected a floating-point tensor with values in [0, 1]")
        if images.dim() != 4 or 0 in images.shape[1:]:
            raise ValueError(f"images: got shape {tuple(images.shape)}, expected [N, C, H, W]")
        if len(images) == 0:
            return
        images = _images.in_unit_range(images)
        if self._power is None or self._square is None:
            shape, device = images.shape[1:], images.device
            self._power = torch.zeros(shape, dtype=torch.float64, device=device)
            self._square = torch.zeros(shape, dtype=torch.float64, device=device)
        elif images.shape[1:] != self._power.shape:
            raise ValueError(
                f"images: got {tuple(images.shape[1:])} after {tuple(self._power.shape)}, expected one size"
            )
        for part in images.double().split(max(1, (1 << 22) // images[0].numel())):
            self._power += torch.fft.fft2(part).abs().square().sum(dim=0)
            self._square += part.square().sum(dim=0)
        self.count += len(images)

    def result(self) -> tuple[Tensor, Tensor]:
        """`f(k) = log(1 + mean |F x|^2)` as a full spectrum and `a(p) = mean x^2`, both `[C, H, W]` float64."""
        if self._power is None or self._square is None:
            raise ValueError("images: got none, expected at least one image")
        return torch.log1p(self._power / self.count), self._square / self.count


def _check_shape(shape: Sequence[int]) -> Shape:
    if len(shape) != 3 or any(not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(f"shape: got {tuple(shape)}, expected (C, H, W), all positive")
    return tuple(shape)  # type: ignore[return-value]


def _check_alpha(alpha: float) -> None:
    if not 1.0 < alpha < float("inf"):
        raise ValueError(f"alpha: got {alpha}, expected a finite number greater than 1")


def _checked(
    name: str, mask: Tensor | None, shape: Shape, width: int | None, *, odd: bool, positive: bool
) -> Tensor | None:
    """The mask as a float64 CPU tensor of its own, after the checks made once; `width` marks a half spectrum."""
    if mask is None:
        return None
    with torch.inference_mode(False):
        mask = mask.detach().to("cpu", torch.float64).clone()
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"{name}: got shape {tuple(mask.shape)}, expected {tuple(shape)}")
    if not bool(mask.isfinite().all()):
        raise ValueError(f"{name}: got non-finite values, expected finite ones")
    if positive and not bool((mask > 0).all()):
        raise ValueError(
            f"{name}: got values down to {float(mask.min()):.4g}, expected positive ones (method=None admits any)"
        )
    if width is not None:
        # Columns kx = 0 and, for even W, kx = W/2 hold their own mirror images; the others have them in the other half.
        columns = mask[..., [0, width // 2] if width % 2 == 0 else [0]]
        mirrored = columns[..., -torch.arange(shape[1]) % shape[1], :]
        _check_parity(name, columns, mirrored, float(mask.abs().max()), odd)
    return mask


def _check_parity(name: str, part: Tensor, mirrored: Tensor, largest: float, odd: bool) -> None:
    """Part of a mask against its mirror image; `largest` is the largest magnitude in the whole mask."""
    wrong = float((part + mirrored if odd else part - mirrored).abs().max())
    if wrong > _EVEN * max(1e-300, largest):
        rule = "w(-k) = -w(k)" if odd else "R(-k) = R(k)"
        raise ValueError(f"{name}: got a mask that misses {rule} by {wrong:.3g}, expected one that keeps it")


def _load_mask(name: str, mask: Mask | None, alpha: float, method: Method) -> Tensor | None:
    if mask is None:
        return None
    if isinstance(mask, str | os.PathLike):
        if name == "skew":
            raise TypeError("skew: got a path, expected a tensor")
        raw = torch.from_numpy(np.load(mask, allow_pickle=False).astype(np.float64))
        return _normalised(raw, alpha, method)
    if isinstance(mask, np.ndarray):
        mask = torch.from_numpy(mask)
    if not isinstance(mask, Tensor) or not mask.dtype.is_floating_point:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name}: got {got}, expected a floating-point tensor, array or the path of a .npy file")
    return mask


def _fit(name: str, mask: Tensor, shape: Shape, half_spectrum: bool) -> Tensor:
    """A mask as `[C, H, W]`, or as a half spectrum after a full one was found even (odd for the skew part)."""
    channels, height, width = shape
    if mask.dim() == 2:
        mask = mask[None]
    half = width // 2 + 1
    if half_spectrum and mask.shape[-1] == width and width != half:
        ky, kx = -torch.arange(height) % height, -torch.arange(width) % width
        if mask.shape[-2] == height:
            _check_parity(name, mask, mask[..., ky[:, None], kx], float(mask.abs().max()), odd=name == "skew")
        mask = mask[..., :half]
    expected = (half,) if half_spectrum else (width,)
    if mask.dim() != 3 or mask.shape[-2:] != (height, *expected) or mask.shape[0] not in (1, channels):
        raise ValueError(f"{name}: got shape {tuple(mask.shape)}, expected {(channels, height, *expected)}")
    return mask.expand(channels, -1, -1)


def _normalised(raw: Tensor, alpha: float, method: Method) -> Tensor:
    _check_alpha(alpha)
    if method not in ("pds", "tdas"):
        raise ValueError(f"method: got {method!r}, expected 'pds' or 'tdas' for masks made from statistics")
    highest = float(raw.max())
    if not bool(raw.isfinite().all()) or float(raw.min()) < 0 or highest <= 0:
        raise ValueError(f"statistics: got values from {float(raw.min()):.4g} to {highest:.4g}, expected some above 0")
    m = (raw / highest + alpha - 1) / alpha
    return 1 / m if method == "pds" else m
