"""The preconditioner `M = F^-1 diag(R) F diag(A)` and where its masks come from."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tdas_ops import _arguments, _arrays, _channels, _images, _stored, _variance
from tdas_ops._statistics import ImageStatistics, check_unshifted, checked_alpha, normalised
from tdas_ops.reference import full_spectrum, own_columns

Method = Literal["pds", "tdas", "noise"] | None
Shape = tuple[int, int, int]
Values = Any  # a tensor, or an array of any library that numpy reads
Mask = Values | str | os.PathLike[str]

_METHODS = ("pds", "tdas", "noise", None)
_REGULAR = ("pds", "tdas")  # the methods whose masks are positive
_EVEN = 1e-6
_MASKS = ("freq", "space", "skew")


class Preconditioner:
    """A target-distribution-aware filter: space mask A, frequency mask R, optional skew w, and the method they serve.

    Make one with `from_images`, `from_statistics`, `from_masks`, `from_cross_spectrum`, `radial` or `identity`; it is
    immutable, and its masks are copies. They are checked in float64, and once more for float32, in which all but
    float64 states use them: masks that float32 turns into infinity, or into 0 where they have to be positive, are
    refused by the first op that would.

    Attributes:
        shape: (C, H, W).
        method: "pds" (the drift is preconditioned by `M M^T + S`: keeps the target distribution), "tdas" (only noise
            and start are filtered: does not keep it), "noise" (only the noise of the steps is filtered, and the masks
            may be zero or negative: does not keep it), or None (a filter for `noise` and `precondition` only).
        device: where its masks live.
        freq: R as a half spectrum `[C, H, W // 2 + 1]`, float64 on the CPU, or None for R = 1. Or a matrix at every
            frequency, which mixes the channels: `[H, W // 2 + 1, C, C]`, float64 or complex128, `R(-k) = conj R(k)`.
        space: A `[C, H, W]`, float64 on the CPU, or None for A = 1.
        skew: w as a half spectrum, float64 on the CPU, or None.
        provenance: plain values that say where the masks came from.

    Source: TDAS, arXiv 2206.04029; PDS, arXiv 2207.02196 and 2302.06504.
    """

    def __init__(
        self,
        shape: Sequence[int],
        freq: Values | None = None,
        space: Values | None = None,
        skew: Values | None = None,
        method: Method = "pds",
        provenance: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        channels, height, width = _check_shape(shape)
        if not isinstance(method, str | None) or method not in _METHODS:
            raise ValueError(f"method: got {_arguments.shown(method)}, expected 'pds', 'tdas', 'noise' or None")
        half, positive = (channels, height, width // 2 + 1), method in _REGULAR
        self.shape: Shape = (channels, height, width)
        self.method: Method = method
        if getattr(freq, "ndim", 0) == 4:
            if skew is not None:
                raise ValueError("skew: got a skew part beside matrices, expected none")
            self.freq: Tensor | None = _channels.checked("freq", freq, self.shape, regular=positive)
        else:
            self.freq = _checked("freq", freq, half, width, odd=False, positive=positive)
        self.space = _checked("space", space, self.shape, None, odd=False, positive=positive)
        self.skew = _checked("skew", skew, half, width, odd=True, positive=False)
        if self.skew is not None and method != "pds":
            raise ValueError(f"skew: got a skew part with method {method!r}, expected method 'pds'")
        self.provenance = dict(provenance or {})
        self._beyond_float32 = next(
            (why for name in _MASKS if (why := _beyond_float32(name, getattr(self, name), method))), None
        )
        self._place(_arguments.device(device))

    def _place(self, device: torch.device) -> None:
        self.device = device
        masters = (_channels.for_ops(self.freq) if self.mixing else self.freq, self.space, self.skew)  # type: ignore[arg-type]
        with torch.inference_mode(False):
            self._single = tuple(None if m is None else _single(m).to(device) for m in masters)
        self._double = masters

    @property
    def mixing(self) -> bool:
        """Whether R is a matrix at every frequency."""
        return self.freq is not None and self.freq.dim() == 4

    def masks(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(R, A, w) in float32 on `device`, or in float64 on the CPU; matrices as `[C, C, H, W // 2 + 1]`.

        Raises:
            ValueError: float32 does not hold them.
        """
        if dtype is torch.float64:
            return self._double
        if self._beyond_float32 is not None:
            raise ValueError(self._beyond_float32)
        return self._single  # type: ignore[return-value]

    def to(self, device: torch.device | str) -> Preconditioner:
        """The same filter on another device (itself when it is there already)."""
        place = _arguments.device(device)
        return self if place == self.device else self.clone(place)

    def clone(self, device: torch.device | None = None) -> Preconditioner:
        """The same filter with masks of its own on a device, by default where it is."""
        made = object.__new__(Preconditioner)
        made.__dict__.update(self.__dict__)
        made._place(self.device if device is None else device)
        return made

    def unit_variance(self) -> Preconditioner:
        """The same filter scaled so that every channel of M z has variance 1, over all pixels, for white z.

        Samplers of other code expect that of their noise; masks of images make a standard deviation near 1.2 ("pds",
        alpha 5) or 0.8 ("tdas") of it. R is scaled where there is one, else A; w with the square, as M M^T is.

        Raises:
            ValueError: a filter that leaves nothing of a channel.
        """
        masks = _variance.unit_variance(self.freq, self.space, self.skew, self.shape)
        return self._with(self.shape, masks, {"unit_variance": True})

    def deviations(self) -> Tensor:
        """Standard deviation of every channel of M z over all pixels, for white z of variance 1: `[C]`, float64."""
        return _variance.deviations(self.freq, self.space, self.shape)

    def resize(self, height: int, width: int) -> Preconditioner:
        """The filter for pictures of another size: R and w the same at the same cycles per pixel, A scaled.

        Linear between frequencies. A statistic of images of that size, `from_images(..., size=(height, width))`, says
        more, above all of the lowest frequencies.
        """
        size = (_arguments.whole("height", height, 1), _arguments.whole("width", width, 1))
        if size == self.shape[1:]:
            return self
        masks = _variance.resized(self.freq, self.space, self.skew, self.shape, size)
        return self._with((self.shape[0], *size), masks, {"resized_from": list(self.shape[1:])})

    def _with(self, shape: Shape, masks: Sequence[Tensor | None], about: dict[str, Any]) -> Preconditioner:
        freq, space, skew = masks
        return Preconditioner(shape, freq, space, skew, self.method, {**self.provenance, **about}, self.device)

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
            method: as in the class; "noise" and None admit zeros and negative values.
        """
        channels, height, width = _check_shape(shape)
        if not callable(profile):
            raise TypeError(f"profile: got {type(profile).__name__}, expected a function of radii")
        ky = torch.fft.fftfreq(height, dtype=torch.float64)
        kx = torch.fft.rfftfreq(width, dtype=torch.float64)
        radii = torch.hypot(ky[:, None], kx[None, :])
        freq = _arrays.own("profile", profile(radii), "fiu")
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
                path of a `.npy` file with a raw statistic `[C, H, W]`, which is normalised on load with `alpha`. Its
                largest value must be at frequency zero, `[0, 0]` of a channel, where that of images in [0, 1] is: a
                shifted one is refused, not shifted back. Or matrices `[H, W // 2 + 1, C, C]`, real or complex, with
                `R(-k) = conj R(k)`, beside `shape` or a space mask.
            space: A, `[C, H, W]`, or the path of a `.npy` file with a raw statistic.
            skew: w, odd (`w(k) = -w(-k)`), full or half spectrum; method "pds" only.
            shape: (C, H, W); needed when only a half spectrum is given, since its width does not say whether W is even.
                With it, masks `[H, W]` or `[1, H, W]` serve every channel. All of them may have a first axis of one,
                `[1, C, H, W]`, as the files of PDS have.
            method: "pds", "tdas", or "noise" or None for a filter whose masks may be zero or negative.
            alpha: strength of the normalisation of `.npy` files, greater than 1.

        Tensors and arrays are floating-point, of any strides, byte order and device; files hold real numbers.

        Raises:
            ValueError: no mask at all, a wrong shape, a non-finite, non-positive or asymmetric mask; a file that is
                missing, no `.npy` file, or without such numbers; matrices beside a skew part, or singular ones with a
                method.
            TypeError: a mask that is no tensor or array, or of complex or whole numbers.
        """
        if freq is None and space is None and skew is None:
            raise ValueError(
                "from_masks: got no mask, expected freq, space or skew (identity makes a filter without masks)"
            )
        alpha = checked_alpha(alpha)
        sources = {n: os.fspath(m) for n, m in (("freq", freq), ("space", space)) if isinstance(m, str | os.PathLike)}
        loaded = [_load_mask(n, m, alpha, method) for n, m in (("freq", freq), ("space", space), ("skew", skew))]
        if shape is None:
            first = loaded[1] if loaded[1] is not None else _plain(next(m for m in loaded if m is not None))
            if first.dim() != 3:
                raise ValueError(
                    f"from_masks: got a mask of shape {tuple(first.shape)} and no shape, expected [C, H, W]"
                )
            shape = tuple(first.shape)
        full = _check_shape(shape)
        masks = [
            m if m is None or (name == "freq" and _matrices(m, full)) else _fit(name, _plain(m), full, half_spectrum)
            for name, m, half_spectrum in zip(("freq", "space", "skew"), loaded, (True, False, True), strict=True)
        ]
        about: dict[str, Any] = {"source": "masks"}
        if sources:
            about |= {"files": {n: Path(p).name for n, p in sources.items()}, "alpha": alpha}
        return cls(full, masks[0], masks[1], masks[2], method=method, provenance=about)

    @classmethod
    def from_statistics(
        cls,
        freq: Values | None,
        space: Values | None,
        alpha: float = 5.0,
        method: Literal["pds", "tdas"] = "pds",
        provenance: dict[str, Any] | None = None,
    ) -> Preconditioner:
        """Masks from raw statistics of the target data: `m <- m / max m; m <- (m + alpha - 1) / alpha`.

        "pds" takes R = 1 / m_f and A = 1 / m_a; "tdas" takes R = m_f and A = m_a. The first TDAS paper prints no
        numbers for its masks; the "tdas" line is this package's reading of its figure.

        Args:
            freq: raw power statistic f(k), full spectrum `[C, H, W]` or `[1, C, H, W]`, or None. Refused where the
                largest value of every channel is at `[H // 2, W // 2]`, in the middle, where a shift leaves it.
            space: raw second moment a(p), `[C, H, W]` or `[1, C, H, W]`, or None.
            alpha: greater than 1; near 1 is strong, large tends to the identity.
            method: "pds" or "tdas".

        The statistics are tensors or arrays of real numbers, of any dtype, strides and device.

        Raises:
            ValueError: wrong shapes, values that are negative or not finite, no value above 0, or shifted frequencies.
            TypeError: a statistic that is no tensor or array of real numbers.
        """
        given = freq if freq is not None else space
        if given is None:
            raise ValueError("from_statistics: got neither freq nor space, expected at least one")
        alpha = checked_alpha(alpha)
        raw = [None if m is None else _plain(_arrays.own(n, m, "fiu")) for n, m in (("freq", freq), ("space", space))]
        shape = _check_shape(next(m.shape for m in raw if m is not None))
        if raw[0] is not None:
            check_unshifted(raw[0], False)
        masks = [None if m is None else normalised(m, alpha, method) for m in raw]
        half = None if masks[0] is None else _fit("freq", masks[0], shape, True)
        about = {**(provenance or {}), "alpha": alpha}
        device = given.device if isinstance(given, Tensor) else "cpu"
        return cls(shape, half, masks[1], method=method, provenance=about, device=device)

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
        normalised(torch.ones(1, 1, 1), checked_alpha(alpha), method)  # bad ones are refused before anything is read
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
    def from_cross_spectrum(
        cls, spectrum: Tensor, sigma: float = 0.0, *, shape: Sequence[int], method: Method = "tdas"
    ) -> Preconditioner:
        """The filter whose noise has a cross-spectrum of the channels: `R = (S + sigma^2)^(1/2)`, the Hermitian root.

        With the spectrum of a kind of pictures, `noise` starts a sampler at level sigma with their colours.
        `Spectrum.from_images` makes such a spectrum, and carries it to another size.

        Args:
            spectrum: S, half spectrum `[H, W // 2 + 1, C, C]`, real or complex: covariances of the channels of every
                coefficient of the orthonormal DFT, Hermitian, `S(-k) = conj S(k)`.
            sigma: noise level that is added, in units of x.
            shape: (C, H, W).
            method: as in the class; "noise" and None admit singular matrices.

        Raises:
            ValueError: another shape, or matrices that are no covariances.
        """
        sigma = _arguments.number("sigma", sigma)
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma: got {sigma}, expected a finite number that is not negative")
        values, vectors = _channels.eigen("spectrum", spectrum, _check_shape(shape))
        about = {"source": "cross-spectrum", "sigma": sigma}
        return cls(shape, _channels.compose((values + sigma**2).sqrt(), vectors), method=method, provenance=about)

    # Files

    def state_dict(self) -> dict[str, Any]:
        """Shape, method, provenance, and the masks as float64 tensors on the CPU or None: what `torch.save` takes and
        `torch.load(..., weights_only=True)` gives back, as it does for the filter itself."""
        masks = {name: getattr(self, name) for name in _MASKS}
        return {"shape": list(self.shape), "method": self.method, "provenance": dict(self.provenance), **masks}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device | str = "cpu") -> Preconditioner:
        """The filter that `state_dict` described.

        Raises:
            ValueError: it is no such description, or its masks make no preconditioner.
        """
        expected = ("shape", "method", "provenance", *_MASKS)
        if not isinstance(state, dict) or set(state) != set(expected):
            got = f"the keys {_arguments.shown(list(state))}" if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state: got {got}, expected a dict of {list(expected)}")
        return cls(**state, device=device)

    def __getstate__(self) -> dict[str, Any]:
        # A tensor says where it lives, so that the map_location of torch.load does too.
        return {**self.state_dict(), "place": torch.empty(0, device=self.device)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        place = state.pop("place")
        self.__init__(**state, device=place.device)  # type: ignore[misc]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file: masks in float64, and shape, method and provenance as metadata.

        Raises:
            ValueError: the provenance has values that JSON does not know.
        """
        tensors = {name: mask for name in _MASKS if (mask := getattr(self, name)) is not None}
        about = {"shape": self.shape, "method": self.method, "provenance": self.provenance}
        _stored.save(path, "Preconditioner", tensors, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Preconditioner:
        """Reads a file that `save` wrote.

        Raises:
            ValueError: there is no such file, or it is not such a file: broken, of another kind, or with masks or
                metadata that make no preconditioner.
        """
        device = _arguments.device(device)

        def make(tensors: dict[str, Any], about: dict[str, Any]) -> Preconditioner:
            if "freq" in tensors:
                tensors["freq"] = _stored.as_complex(tensors["freq"], 4)
            return cls(**tensors, **about, device=device)

        fields = ("shape", "method", "provenance")
        return _stored.load(path, "Preconditioner", make, possible=_MASKS, fields=fields)

    def picture(self, path: str | os.PathLike[str]) -> None:
        """Draws both masks, one row a channel: R with frequency zero in the middle, then A; bright is high.

        Of matrices, what they make of the standard deviation of white noise is drawn.
        """
        from PIL import Image, ImageDraw

        channels, height, width = self.shape
        panel, margin, text = 192, 12, 30
        sheet = Image.new("L", (2 * panel + 3 * margin, channels * (panel + text) + margin), 255)
        pen = ImageDraw.Draw(sheet)
        half = _channels.gains(self.freq) if self.mixing else self.freq  # type: ignore[arg-type]
        full = None if half is None else torch.fft.fftshift(full_spectrum(half, width), dim=(-2, -1))
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
        names = ("matrices" if self.mixing else "freq", "space", "skew")
        masks = [n for n, m in zip(names, (self.freq, self.space, self.skew), strict=True) if m is not None]
        what = f"shape={self.shape}, method={self.method!r}, masks={masks or 'identity'}, device={self.device}"
        return f"Preconditioner({what})"


torch.serialization.add_safe_globals([Preconditioner])


def of_size(M: Preconditioner, shape: Sequence[int]) -> str:
    """For a message about samples of another size than M: the command that makes a filter of theirs."""
    fits = len(shape) == 4 and shape[1] == M.shape[0] and 0 not in shape
    return f" (M.resize({shape[2]}, {shape[3]}) makes a filter of that size)" if fits else ""


def _check_shape(shape: Sequence[int]) -> Shape:
    expected = "(C, H, W), all positive, of fewer than 2^33 elements"
    found = _arguments.sizes("shape", shape, expected)
    if len(found) != 3 or math.prod(found) >= _arguments.ELEMENTS:
        raise ValueError(f"shape: got {_arguments.shown(found)}, expected {expected}")
    return found


def _single(mask: Tensor) -> Tensor:
    return mask.to(torch.complex64 if mask.is_complex() else torch.float32)


def _checked(
    name: str, mask: Any, shape: tuple[int, int, int], width: int | None, *, odd: bool, positive: bool
) -> Tensor | None:
    """The mask as a float64 CPU tensor of its own, after the checks made once; `width` marks a half spectrum."""
    if mask is None:
        return None
    mask = _arrays.own(name, mask, "f")
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"{name}: got shape {tuple(mask.shape)}, expected {tuple(shape)}")
    low, high = _ends(mask)
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"{name}: got non-finite values, expected finite ones")
    if positive and not low > 0:
        raise ValueError(f"{name}: got values down to {low:.4g}, expected positive ones (method='noise' admits any)")
    if width is not None:
        columns = mask[..., own_columns(width)]
        mirrored = columns[..., -torch.arange(shape[1]) % shape[1], :]
        _check_parity(name, columns, mirrored, max(-low, high), odd)
    return mask


def _ends(values: Tensor) -> tuple[float, float]:
    """The least and the largest value, both NaN where any is: one pass, and nothing as large as the values."""
    low, high = values.aminmax()
    return float(low), float(high)


def _beyond_float32(name: str, mask: Tensor | None, method: Method) -> str | None:
    """Why a mask cannot be used in float32, or None."""
    if mask is None:
        return None
    if mask.dim() == 4:  # matrices, of which any value may be there
        mask, method = torch.view_as_real(mask) if mask.is_complex() else mask, None
    low, high = _ends(mask)
    single, limits = torch.tensor([low, high], dtype=torch.float32), torch.finfo(torch.float32)
    if bool(single.isfinite().all()) and (method not in _REGULAR or name == "skew" or bool(single[0] > 0)):
        return None
    rule = (
        f"up to {limits.max:.3g}"
        if method not in _REGULAR or name == "skew"
        else f"{limits.tiny:.3g} to {limits.max:.3g}"
    )
    return f"M: got {name} with values from {low:.3g} to {high:.3g}, expected {rule} for float32 (float64 holds more)"


def _check_parity(name: str, part: Tensor, mirrored: Tensor, largest: float, odd: bool) -> None:
    """Part of a mask against its mirror image; `largest` is the largest magnitude in the whole mask."""
    wrong = float((part + mirrored if odd else part - mirrored).abs().max())
    if wrong > _EVEN * max(1e-300, largest):
        rule = "w(-k) = -w(k)" if odd else "R(-k) = R(k)"
        raise ValueError(f"{name}: got a mask that misses {rule} by {wrong:.3g}, expected one that keeps it")


def _load_mask(name: str, mask: Mask | None, alpha: float, method: Method) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, str | os.PathLike):
        if name == "freq" and getattr(mask, "ndim", 0) == 4:  # matrices, or a mask [1, C, H, W]
            return _arrays.own(name, mask, "fc")
        return _plain(_arrays.own(name, mask, "f"))
    if name == "skew":
        raise TypeError("skew: got a path, expected a tensor")
    raw = _plain(_arrays.of_npy(name, Path(mask)))
    if name == "freq":
        check_unshifted(raw, True)
    return normalised(raw, alpha, method)


def _plain(values: Tensor) -> Tensor:
    """Without the first axis of `[1, C, H, W]`."""
    return values[0] if values.dim() == 4 and len(values) == 1 else values


def _matrices(freq: Tensor, shape: Shape) -> bool:
    """Whether R is a matrix at every frequency; for pictures of one row `[1, W // 2 + 1, C, C]` tells."""
    return freq.dim() == 4 and (len(freq) > 1 or tuple(freq.shape) == (1, shape[2] // 2 + 1, shape[0], shape[0]))


def _fit(name: str, mask: Tensor, shape: Shape, half_spectrum: bool) -> Tensor:
    """A mask as `[C, H, W]`, or as a half spectrum after a full one was found even (odd for the skew part)."""
    channels, height, width = shape
    if mask.dim() == 2:
        mask = mask[None]
    half = width // 2 + 1
    last = half if half_spectrum else width
    full = half_spectrum and mask.shape[-1:] == (width,) and width != half
    if tuple(mask.shape) not in [(n, height, width if full else last) for n in (1, channels)]:
        raise ValueError(f"{name}: got shape {tuple(mask.shape)}, expected {(channels, height, last)}")
    if full:
        ky, kx = -torch.arange(height) % height, -torch.arange(width) % width
        _check_parity(name, mask, mask[..., ky[:, None], kx], float(mask.abs().max()), odd=name == "skew")
        mask = mask[..., :half]
    return mask.expand(channels, -1, -1)
