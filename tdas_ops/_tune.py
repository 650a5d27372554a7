"""What `tdas-ops tune` does: the best settings of an embedded model at a number of evaluations, as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tdas_ops import calibrate, models
from tdas_ops._record import device_named
from tdas_ops.noise import NoiseStream
from tdas_ops.prior import read_images

_IMAGES, _CONVERGED, _BATCH = 512, 40, 256


def tune_model(
    name: str,
    evaluations: int,
    *,
    images: Path | None = None,
    samples: int = 256,
    calls: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 0,
    progress: bool = True,
    say: Callable[[str], None],
    show: Callable[[Sequence[str], Sequence[Sequence[str]]], None],
) -> calibrate.Tuned:
    """Tunes an embedded model and says what was found.

    Args:
        name: of the model.
        evaluations, samples, calls, seed, progress: as in `calibrate.tune`.
        images: folder of pictures of the data; by default samples of a converged run of the model.
        device, threads: what to sample on; CPU threads, of which 0 is PyTorch's choice.
        say, show: receive the lines, and the table as names of the columns and rows.

    Raises:
        ValueError, OSError: bad settings or pictures; before anything is said or sampled.
    """
    if calls is not None and calls < evaluations:
        raise ValueError(f"--calls: got {calls}, expected at least {evaluations}, what one trial takes")
    NoiseStream(seed)
    model = models.load(name, device_named(device))
    if threads:
        torch.set_num_threads(threads)
    data = None if images is None else _pictures(images, model)
    if data is None or images is None:
        source = f"{_IMAGES} samples of a converged run, which takes {_CONVERGED} evaluations first"
    else:
        source = f"{len(data)} pictures of {images.name}"
    say(f"{name}: {evaluations} evaluations, judged by {source}, {samples} samples a trial, seed {seed}")
    data = _converged(model, seed) if data is None else data
    tuned = calibrate.tune(
        model.score, model.sde, data, evaluations, calls=calls, samples=samples, seed=seed, progress=progress
    )
    show(*tuned.cells())
    for kind, found in tuned.starts.items():
        gained, lost = f"{found.gain:.2g} nats an image gained", f"at least {found.bias:.2g} lost"
        say(f"start {kind}: from {found.sigma:.2g}, {gained}, {lost}")
    say(f"best of {len(tuned.trials)} in {tuned.calls} evaluations of a batch: {tuned.settings.name}")
    return tuned


def _converged(model: models.Model, seed: int) -> Tensor:
    run = calibrate.FewStep(model.sde, _CONVERGED)
    parts = []
    for first in range(0, _IMAGES, _BATCH):
        stream = NoiseStream(seed + 1_000_003, first_sample=first, device=model.device)
        parts.append(run.sample(model.score, (_BATCH, *model.shape), stream, progress=False))
    return torch.cat(parts)


def _pictures(folder: Path, model: models.Model) -> Tensor:
    channels, height, width = model.shape
    return read_images(folder, (height, width), channels == 1).float().to(model.device)
