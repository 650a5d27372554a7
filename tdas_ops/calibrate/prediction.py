"""What a run does to the law of its samples, in a Gaussian model of the data with the exact score."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tdas_ops import _gaussian
from tdas_ops._gaussian import Run, Target
from tdas_ops.calibrate import few_step
from tdas_ops.calibrate.few_step import FewStep
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.prior import Prior


@dataclass(frozen=True)
class Prediction:
    """What a run is expected to end at, in float64: half spectra `[C, H, W // 2 + 1]`, or where the target is a `Prior`
    of another basis its coefficients, for "pca" and "mean" with one more for all directions outside of them.

    Attributes:
        target: the law it should end at.
        variance: of every frequency of the samples.
        mean_error: |F (mean of the samples - mean of the target)|^2 of every frequency.
        distance: Frechet distance to the target, over the target's total variance: 0 is perfect, 1 what the mean image
            alone has; inf where the run diverges.
        off_ladder: `[iterations]`, RMS over frequencies of log(variance / variance of the noised target) of what the
            network is fed at the begin of every iteration. A trained network has seen nothing but 0.
        reach: how far the furthest predictor step of pc goes, 1 being the denoised image. Above 1 networks fail, though
            the Gaussian model does not mind.
    """

    target: Target | Prior
    variance: Tensor
    mean_error: Tensor
    distance: float
    off_ladder: Tensor
    reach: float = 1.0

    @property
    def variance_error(self) -> Tensor:
        """variance / target - 1."""
        return self.variance / self._wanted - 1

    @property
    def _wanted(self) -> Tensor:
        return torch.from_numpy(self.target.field.variance.copy()).reshape(self.variance.shape)

    def radial_error(self, bins: int = 64) -> tuple[Tensor, Tensor]:
        """Radii `[bins]` in cycles per pixel, and variance over target there, summed over what lies in each bin.

        Raises:
            ValueError: the coefficients are not those of frequencies.
        """
        if isinstance(self.target, Prior) and self.target.basis != "fourier":
            raise ValueError(f"radial_error: got the basis {self.target.basis!r}, expected 'fourier'")
        _, height, width = self.target.shape
        ky, kx = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.rfftfreq(width, dtype=torch.float64)
        radius = torch.hypot(ky[:, None], kx[None, :])
        edge = float(radius.max()) * (1 + 1e-9) + 1e-9
        index = (radius / edge * bins).long().expand(self.variance.shape).flatten()
        weight = torch.from_numpy(self.target.field.weight.copy())
        reached, wanted = (
            torch.zeros(bins, dtype=torch.float64).index_add(0, index, weight * v.flatten())
            for v in (self.variance, self._wanted)
        )
        return (torch.arange(bins, dtype=torch.float64) + 0.5) * edge / bins, reached / wanted

    def picture(self, path: str | os.PathLike[str]) -> None:
        """Draws variance over target against |k|, between a quarter and four; the line in the middle is 1."""
        draw({"predicted": self}, path)


_WIDTH, _HEIGHT, _MARGIN, _OCTAVES = 560, 320, 48, 2.0
_COLOURS = ("#1f5fa8", "#c23b22", "#2d8a4e", "#8a5aa8", "#b8860b", "#444444")


def draw(predictions: Mapping[str, Prediction], path: str | os.PathLike[str]) -> None:
    """One picture of several predictions: variance over target against |k|, with the distance of each beside its name.

    Raises:
        ValueError: no prediction.
    """
    if not predictions:
        raise ValueError("predictions: got none, expected at least one")
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("RGB", (_WIDTH + 2 * _MARGIN, _HEIGHT + 2 * _MARGIN + 18 * len(predictions)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)

    def height(ratio: float) -> float:
        octaves = math.log2(min(max(ratio, 2**-_OCTAVES), 2**_OCTAVES))
        return _MARGIN + _HEIGHT * (0.5 - octaves / (2 * _OCTAVES))

    for ratio in (0.25, 0.5, 1.0, 2.0, 4.0):
        pen.line((_MARGIN, height(ratio), _MARGIN + _WIDTH, height(ratio)), "black" if ratio == 1 else "lightgrey")
        pen.text((8, height(ratio) - 8), f"{ratio:g}", fill="black", font=font)
    last = max(float(p.radial_error()[0][-1]) for p in predictions.values())
    pen.text((_MARGIN, 12), "variance over target", fill="black", font=font)
    pen.text((_MARGIN, _MARGIN + _HEIGHT + 6), f"|k| from 0 to {last:.2f} cycles per pixel", fill="black", font=font)
    for row, (name, prediction) in enumerate(predictions.items()):
        colour = _COLOURS[row % len(_COLOURS)]
        radii, ratios = (values.tolist() for values in prediction.radial_error())
        points = [
            (_MARGIN + _WIDTH * radius / last, height(ratio))
            for radius, ratio in zip(radii, ratios, strict=True)
            if math.isfinite(ratio)
        ]
        pen.line(points, colour, 2)
        label = f"{name}: distance {prediction.distance:.3g}"
        pen.text((_MARGIN, 1.6 * _MARGIN + _HEIGHT + 18 * row), label, fill=colour, font=font)
    sheet.save(path)


def predict(
    M: Preconditioner | Sequence[Preconditioner] | None, target: Target | Prior, run: Run | FewStep
) -> Prediction:
    """The law of the samples of a run in the Gaussian model, with the exact score.

    Args:
        M: the filter, or one an iteration; None for `FewStep`, which has priors instead.
        target: the data; for `FewStep` also a `Prior` in any basis. Its own priors are in that basis, or "mean".
        run: `PC(...)`, `AnnealedLangevin(...)` or `FewStep(...)`.

    Raises:
        ValueError: another shape than the target's, a filter without a method, a space mask that is not constant, or a
            number of filters that is not that of the iterations; a filter for `FewStep`, a prior in another basis.
    """
    if isinstance(run, FewStep):
        if M is not None:
            raise ValueError("M: got a filter for a FewStep run, expected None (its covariance colours the noise)")
        return _predicted(target, few_step.trace(target, run))
    if M is None or isinstance(target, Prior):
        raise ValueError(f"M, target: got None or a Prior for {type(run).__name__}, expected a filter and a Target")
    filters = [M] if isinstance(M, Preconditioner) else list(M)
    if not isinstance(M, Preconditioner) and len(filters) != run.count:
        raise ValueError(f"M: got {len(filters)} filters, expected one for each of {run.count} iterations")
    field = target.field
    gains = [_gaussian.Gains.of_filter(each, target) for each in filters]
    reach = max(float((np.abs(g.drift) / _gaussian.furthest_drift(field, run.updates)).max()) for g in gains)
    return _predicted(target, _gaussian.trace(field, gains, run), reach)


def _predicted(target: Target | Prior, traced: _gaussian.Trace, reach: float = 1.0) -> Prediction:
    field, shape = target.field, target.variance.shape
    if math.prod(shape) != len(field.variance):
        shape = torch.Size([len(field.variance)])
    return Prediction(
        target,
        torch.from_numpy(traced.law.variance).reshape(shape),
        torch.from_numpy(np.abs(traced.law.mean - 1) ** 2 * field.mean_power / field.weight).reshape(shape),
        _gaussian.distance(field, traced.law),
        torch.tensor(traced.off_ladder, dtype=torch.float64),
        reach,
    )
