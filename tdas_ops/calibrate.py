"""Calibrated filters: what a filter will do at an iteration count, and filters made for one.

    target = calibrate.Target.from_images(images)                the data as a Gaussian field, images in the units of x
    run = calibrate.PC(sde, iterations=66, snr=0.16)             or AnnealedLangevin(...): what will be run
    calibrate.predict(M, target, run).distance                   of any filter, in milliseconds
    alpha = calibrate.choose_alpha(target, run, "tdas")          the best strength of the papers' masks
    M = Preconditioner.calibrated(target, run)                   the mask that ends at the target's variance
    filters = calibrate.schedule(target, run)                    one filter an iteration, for `samplers`' M

All of it holds in a Gaussian model of the data with its exact score: `docs/calibration.md` has the derivation, and
what a trained network does differently.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tdas_ops import _gaussian
from tdas_ops._gaussian import PC, AnnealedLangevin, Run, Target
from tdas_ops.preconditioner import Preconditioner

_WEAK, _STRONG, _ALPHAS = 1e3, 0.05, 33


@dataclass(frozen=True)
class Prediction:
    """What a run is expected to end at; half spectra `[C, H, W // 2 + 1]` in float64.

    Attributes:
        target: the law it should end at.
        variance: of every frequency of the samples.
        mean_error: |F (mean of the samples - mean of the target)|^2 of every frequency.
        distance: Frechet distance to the target, over the target's total variance: 0 is perfect, 1 what the mean image
            alone has; inf where the run diverges.
        off_ladder: `[iterations]`, RMS over frequencies of log(variance / variance of the noised target) of what the
            network is fed at the begin of every iteration. A trained network has seen nothing but 0.
    """

    target: Target
    variance: Tensor
    mean_error: Tensor
    distance: float
    off_ladder: Tensor

    @property
    def variance_error(self) -> Tensor:
        """variance / target - 1."""
        return self.variance / self.target.variance - 1

    def radial_error(self, bins: int = 64) -> tuple[Tensor, Tensor]:
        """Radii `[bins]` in cycles per pixel, and variance over target there, summed over what lies in each bin."""
        _, height, width = self.target.shape
        ky, kx = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.rfftfreq(width, dtype=torch.float64)
        radius = torch.hypot(ky[:, None], kx[None, :])
        edge = float(radius.max()) * (1 + 1e-9) + 1e-9
        index = (radius / edge * bins).long().expand(self.variance.shape).flatten()
        weight = torch.from_numpy(self.target.field.weight.copy())
        reached, wanted = (
            torch.zeros(bins, dtype=torch.float64).index_add(0, index, weight * v.flatten())
            for v in (self.variance, self.target.variance)
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


def predict(M: Preconditioner | Sequence[Preconditioner], target: Target, run: Run) -> Prediction:
    """The law of the samples of a run in the Gaussian model, with the exact score.

    Args:
        M: the filter, or one an iteration.
        target: the data.
        run: `PC(...)` or `AnnealedLangevin(...)`.

    Raises:
        ValueError: another shape than the target's, a filter without a method, a space mask that is not constant, or a
            number of filters that is not that of the iterations.
    """
    filters = [M] if isinstance(M, Preconditioner) else list(M)
    if not isinstance(M, Preconditioner) and len(filters) != run.count:
        raise ValueError(f"M: got {len(filters)} filters, expected one for each of {run.count} iterations")
    field = target.field
    traced = _gaussian.trace(field, [_gaussian.Gains.of_filter(each, target) for each in filters], run)
    relative = torch.from_numpy(traced.law.mean - 1).reshape(target.mean_power.shape)
    return Prediction(
        target,
        torch.from_numpy(traced.law.variance).reshape(target.variance.shape),
        relative.abs().square() * target.mean_power,
        _gaussian.distance(field, traced.law),
        torch.tensor(traced.off_ladder, dtype=torch.float64),
    )


def choose_alpha(
    target: Target, run: Run, method: Literal["pds", "tdas"] = "pds", statistic: Tensor | None = None
) -> float:
    """The strength alpha of the papers' frequency mask with the least predicted distance.

    For "pds" it is sought among the masks with which no predictor step goes beyond the denoised image, as in
    `Preconditioner.calibrated`: stronger ones can look good in the Gaussian model and fail on a trained network.

    Args:
        target: the data.
        run: `PC(...)` or `AnnealedLangevin(...)`.
        method: "pds" or "tdas".
        statistic: raw f(k), full spectrum `[C, H, W]`, that the mask is made from; by default that of the target,
            which is right where x is the image in [0, 1].

    Returns: alpha from 1.05 to 1,001, to about 1 % of alpha - 1; 1,001 says that no filter is best.
    """
    statistic = target.statistic if statistic is None else statistic
    furthest = _gaussian.furthest_drift(target.field, run.updates)

    def cost(log_strength: float) -> float:
        M = Preconditioner.from_statistics(statistic, None, 1 + math.exp(log_strength), method)
        too_far = float((_gaussian.Gains.of_filter(M, target).drift / furthest).max())
        # Beyond the bound by more than any distance, and falling towards it.
        return predict(M, target, run).distance if too_far <= 1 else 1e30 * too_far

    low, high, width = math.log(_STRONG), math.log(_WEAK), math.log(_WEAK / _STRONG) / (_ALPHAS - 1)
    best = min((low + i * width for i in range(_ALPHAS)), key=cost)
    while width > 0.01:
        width /= 2
        best = min((min(max(best + step, low), high) for step in (0.0, -width, width)), key=cost)
    return 1 + math.exp(best)


def schedule(
    target: Target,
    run: Run,
    method: Literal["pds", "tdas"] = "tdas",
    bounds: tuple[float, float] | None = None,
) -> list[Preconditioner]:
    """One filter an iteration that keep the variance on the ladder: at every noise level that of the noised target.

    "tdas" can do so at any iteration count; its masks are then the variance of the posterior of the next level. "pds"
    ties drift to noise and cannot where a predictor takes off more than a quarter of the variance.

    Args:
        target: the data.
        run: `PC(...)` or `AnnealedLangevin(...)`.
        method: "tdas" or "pds".
        bounds: of R, by default (0.01, 1.6) for "tdas", (0.8, 1.6) for "pds"; "pds" has a further one, as
            `Preconditioner.calibrated`.

    Returns: filters for the argument M of a sampler. `provenance["off_ladder"]` of each is the RMS over frequencies of
        log(variance / wanted variance) after its iteration: 0 where the bounds let it reach what is wanted.
    """
    masks, about = _gaussian.scheduled_masks(target, run, method, bounds)
    made = zip(masks, about, strict=True)
    return [
        Preconditioner(target.shape, R, method=method, provenance={"source": "schedule", **facts}) for R, facts in made
    ]


__all__ = ["PC", "AnnealedLangevin", "Prediction", "Run", "Target", "choose_alpha", "draw", "predict", "schedule"]
