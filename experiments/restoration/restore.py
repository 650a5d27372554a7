"""Restores a photograph: draws samples of what it may have been before noise, blur or missing pixels.

    python -m experiments.restoration.restore --photo mine.jpg --photos FOLDER --task deblur --degrade

Annealed Langevin sampling of the posterior of `y = H x + sigma_y z`. The prior's score at noise level s comes from the
denoiser FFDNet, `(D(x, s) - x) / s^2`; the measurement adds `H^T (y - H x) / (sigma_y^2 + s^2 - s_last^2)`. FOLDER has
other photographs, for the filters; without `--degrade` the photograph is y. Writes sample.png, mean.png, spread.png and
strip.webp: the photograph, y, the mean.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import page
from experiments.acceleration.pictures import photographs
from experiments.restoration.ffdnet import FFDNet
from experiments.restoration.measurements import LAST, TASKS, Measurement, level, read_photo
from tdas_ops import NoiseStream, Preconditioner, calibrate, step
from tdas_ops._pictures import picture

REACH = 0.8  # of a step in the stiffest mode: 1 would replace x there


class Filters:
    """M and step size of a method at a noise level; masks come from photographs `[N, C, H, W]` in [0, 1].

    plain, tdas, pds: the published frequency mask, the step `REACH` over the largest eigenvalue of `D P`, with P the
    posterior's precision where the prior allows nothing. calibrated: `M M^T` is the covariance of the posterior where
    photographs are a Gaussian field, bounded so that no step goes beyond what the denoiser makes of x.
    """

    def __init__(self, photos: Tensor, method: str, alpha: float = 5.0) -> None:
        self.method, self.shape = method, tuple(photos.shape[1:])
        self.variance = calibrate.Target.from_images(photos).variance.mean(dim=0)
        self.fixed = Preconditioner.identity(self.shape)
        if method in ("tdas", "pds"):
            self.fixed = Preconditioner.from_images(photos, alpha, method, space=False)  # type: ignore[arg-type]

    def __call__(self, task: Measurement, s: float, data_variance: float) -> tuple[Preconditioner, float]:
        data = task.power / data_variance  # over frequencies, or over pixels
        if self.method != "calibrated":
            squared = self.fixed.freq**2 if self.method == "pds" else torch.ones(())  # type: ignore[operator]
            stiffest = squared * (1 / s**2 + data) if task.spectral else squared.max() * (1 / s**2 + data)
            return self.fixed, REACH / float(stiffest.max())
        prior = s**2 + self.variance.clamp_max(s**2 * (1 / REACH - 1))
        R2 = 1 / (1 / prior + data) if task.spectral else prior / s**2
        A = None if task.spectral else (1 / (1 / s**2 + data)).sqrt()
        return Preconditioner.from_masks(R2.sqrt(), A, shape=self.shape), REACH


@torch.no_grad()
def restore(
    denoise: FFDNet, y: Tensor, task: Measurement, filters: Filters, iterations: int, samples: int, seed: int = 0
) -> Tensor:
    """Samples `[samples, C, H, W]` of what is behind y `[1, C, H, W]`; an iteration is one level and one evaluation."""
    noise, x = NoiseStream(seed), task.start(y).repeat(samples, 1, 1, 1)
    M = filters.fixed if filters.method == "tdas" else Preconditioner.identity(filters.shape)
    x = step(x, torch.zeros_like(x), M, 0.0, noise_scale=task.sigma_max, noise=noise)
    ladder = [task.sigma_max * (LAST / task.sigma_max) ** (i / max(1, iterations - 1)) for i in range(iterations)]
    for s, following in zip(ladder, [*ladder[1:], LAST], strict=True):
        data = task.data_variance(s)
        score = (denoise(x, s) - x) / s**2 + task.adjoint(y - task.forward(x)) / data
        M, eta = filters(task, s, data)
        # The stiffest mode lands on its variance at the next level: noise above that, FFDNet would keep as detail.
        landing = (1 / s**2 + 1 / data) / (1 / following**2 + 1 / task.data_variance(following))
        n = math.sqrt(eta / REACH * max(0.0, landing - (1 - REACH) ** 2))
        x = step(x, score, M, eta, noise_scale=n, noise=noise, out=x)
    return denoise(x, LAST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="folder of other photographs")
    parser.add_argument("--task", choices=list(TASKS), default="denoise")
    parser.add_argument("--method", choices=["plain", "tdas", "pds", "calibrated"], default="calibrated")
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--size", type=int, help="side of a square to which photographs are cropped and scaled")
    parser.add_argument("--degrade", action="store_true", help="the photograph is the truth: measure it first")
    parser.add_argument("--out", type=Path, default=Path("build/restoration"))
    args = parser.parse_args()
    photo = read_photo(args.photo, (args.size, args.size) if args.size else None)
    size, files = tuple(photo.shape[2:]), [f for f in photographs(args.photos) if f.resolve() != args.photo.resolve()]
    others, task = torch.cat([read_photo(f, size) for f in files]), TASKS[args.task](size)
    y = task.measure(photo, seed=0) if args.degrade else photo
    made = restore(FFDNet(others[:1]), y, task, Filters(others, args.method), args.iterations, args.samples)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, image in (("sample", made[0]), ("mean", made.mean(0)), ("spread", 10 * made.std(0, correction=0))):
        picture(level(image)).save(args.out / f"{name}.png")
    strip = torch.cat([photo[0], y[0], made.mean(0)], dim=-1)
    page.save_picture(picture(level(strip)), args.out / "strip.webp")
    print(f"RMSE of the mean to the picture: {255 * float((made.mean(0) - photo[0]).square().mean().sqrt()):.2f}")


if __name__ == "__main__":
    main()
