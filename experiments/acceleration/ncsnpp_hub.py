"""The published NCSN++ checkpoints with fewer and fewer iterations, for whoever can reach them.

    python -m experiments.acceleration.ncsnpp_hub --model google/ncsnpp-church-256 --images FOLDER --device cuda

`--model` is a repository of the hub (google/ncsnpp-celebahq-256, -ffhq-256, -ffhq-1024, -church-256, -bedroom-256) or a
folder that `diffusers` saved; `--images` holds pictures of its data. Every second picture makes the filters and the
components of the features, the others are what samples are compared with. A speed-up of r means native / r iterations:
as many levels, geometrically, an end time of 1e-5 r, the same snr. A run that is stopped continues where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from benchmarks import page
from benchmarks.rows import Row, append, read, rounded, select
from experiments.acceleration import features, points
from experiments.acceleration.evaluate import measured
from experiments.acceleration.families import NCSNpp
from experiments.acceleration.filters import Filters
from experiments.acceleration.ladders import changed
from experiments.acceleration.measures import NEIGHBOUR, moments_of
from experiments.acceleration.points import MASKS, METHODS
from experiments.sampling import in_batches, save_strip
from tdas_ops import calibrate
from tdas_ops._images import picture_files
from tdas_ops.integrations.diffusers import Loaded, load_ve
from tdas_ops.models.frechet import frechet_distance, moments
from tdas_ops.preconditioner import ImageStatistics

COUNTS = (142, 125, 111, 100, 90, 66)
FEWEST_PICTURES = 16


@dataclass(frozen=True)
class Place:
    """One run of the sampler; `model` and `features` are names, `pictures` says which of them were compared with."""

    model: str
    weights: str
    features: str
    pictures: str
    method: str
    alpha: float
    masks: str
    iterations: int
    seed: int
    samples: int

    @property
    def name(self) -> str:
        chosen = f"-{self.alpha:g}-{self.masks}" if self.alpha else ""
        return f"{self.method}{chosen}-{self.iterations}-{self.seed}"


def batches(files: Sequence[Path], shape: tuple[int, int, int], size: int = 16) -> Iterator[Tensor]:
    """Pictures `[N, C, H, W]` in [0, 1], cropped to the middle and scaled."""
    for first in range(0, len(files), size):
        parts = []
        for file in files[first : first + size]:
            with Image.open(file) as opened:
                picture = ImageOps.fit(ImageOps.exif_transpose(opened).convert("RGB"), (shape[2], shape[1]))
            parts.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
        yield torch.stack(parts).float() / 255


class FolderFilters(Filters):
    """Filters from a folder of pictures, never held in memory together."""

    def __init__(
        self, files: Sequence[Path], shape: tuple[int, int, int], family: NCSNpp, device: torch.device
    ) -> None:
        self.shape, self.family, self.device = shape, family, device
        self.target = calibrate.Target.from_images(batches(files, shape))
        statistics = ImageStatistics()
        for part in batches(files, shape):
            statistics.add(part)
        self.statistics = statistics.result()


def load(name: str, device: torch.device, half: bool) -> tuple[Loaded, str]:
    """A checkpoint, and the digest of its files that rows are kept by."""
    try:
        loaded = load_ve(name, device=device, autocast=torch.bfloat16 if half else None)
    except (ImportError, ValueError) as error:
        raise SystemExit(f"ncsnpp_hub: {error}") from None
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SystemExit(f"ncsnpp_hub: the model {name!r} cannot be loaded here ({reason})") from None
    if loaded.shape[0] != 3:
        raise SystemExit(f"ncsnpp_hub: got a model of {loaded.shape[0]} channels, expected 3, for colour pictures")
    # What the network answers identifies it wherever it was loaded from.
    x = torch.linspace(-1, 1, math.prod(loaded.shape), device=device).reshape(1, *loaded.shape)
    with torch.no_grad():
        answer = loaded.score(x, torch.ones(1, device=device)).double().cpu()
    text = json.dumps([f"{value:.3g}" for value in (answer.mean(), answer.std(), answer.abs().max())])
    return loaded, hashlib.sha256(f"{text}{loaded.sde}{loaded.snr}".encode()).hexdigest()[:12]


def table(rows: Sequence[Row], half_b: Tensor, native: int) -> str:
    """Markdown: distances of all seeds together, and what they cost, by iterations and method."""
    target = moments(half_b)
    kinds = sorted({(METHODS.index(r["method"]), r["alpha"], r["masks"]) for r in rows})
    lines = []
    for count in sorted({r["iterations"] for r in rows}, reverse=True):
        for index, alpha, masks in kinds:
            own = select(rows, method=METHODS[index], alpha=alpha, masks=masks, iterations=count)
            if own:
                chosen = f", {masks}, alpha {alpha:g}" if alpha else ""
                lines.append([str(count), f"{native / count:.3g}x", METHODS[index] + chosen, *_figures(own, target)])
    header = ["iterations", "speed-up", "method", "distance", "precision", "recall", "samples", "s a sample"]
    return "\n".join(page.table(header, lines, 3))


def _figures(rows: Sequence[Row], target: tuple[Tensor, Tensor]) -> list[str]:
    count = sum(row["samples"] for row in rows)
    seconds = page.number(sum(row["seconds"] for row in rows) / count)
    if any(row["finite"] < 1 for row in rows):
        return ["diverged", "-", "-", str(count), seconds]
    distance = page.number(frechet_distance(*moments_of(rows), *target))
    shares = [f"{sum(row[name] for row in rows) / len(rows):.2f}" for name in ("precision", "recall")]
    return [distance, *shares, str(count), seconds]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="repository of the hub, or a folder")
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures of its data, a few hundred")
    parser.add_argument("--methods", nargs="+", default=["plain", "tdas", "pds", "calibrated", "schedule"])
    parser.add_argument("--iterations", nargs="+", type=int, help=f"by default the native count and {COUNTS}")
    parser.add_argument("--alphas", nargs="+", type=float, default=[5.0])
    parser.add_argument("--masks", nargs="+", default=["both"], choices=list(MASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--samples", type=int, default=64, help="of a seed")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--features", default="random", help="'random', 'opennsfw' or MODULE:FUNCTION; see features.py")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", action="store_true", help="the network in bfloat16 (autocast)")
    parser.add_argument("--threads", type=int, help="on a CPU")
    parser.add_argument("--out", type=Path, default=Path("build/acceleration/hub"))
    args = parser.parse_args()
    wrong = [method for method in args.methods if method not in METHODS]
    if wrong:
        raise SystemExit(f"ncsnpp_hub: --methods: got {wrong[0]!r}, expected some of {', '.join(METHODS)}")
    for name, least in (("samples", NEIGHBOUR + 1), ("batch", 1)):
        if getattr(args, name) < least:
            raise SystemExit(f"ncsnpp_hub: --{name}: got {getattr(args, name)}, expected {least} or more")
    if any(count < 2 for count in args.iterations or ()):
        raise SystemExit(f"ncsnpp_hub: --iterations: got {min(args.iterations)}, expected 2 or more")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit(f"ncsnpp_hub: --device: got {args.device!r}, and torch sees no CUDA device")
    return args


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        files = picture_files(args.images)
    except ValueError as error:
        raise SystemExit(f"ncsnpp_hub: {error}") from None
    if len(files) < FEWEST_PICTURES:
        raise SystemExit(f"ncsnpp_hub: {args.images} has {len(files)} pictures, expected {FEWEST_PICTURES} or more")
    device = torch.device(args.device)
    loaded, weights = load(args.model, device, args.half)
    native = loaded.sde.native_iterations
    family = changed(NCSNpp("ncsnpp", native=native, centred=False), sde=loaded.sde, snr=loaded.snr)
    seen, compared = files[1::2], files[0::2]
    filters = FolderFilters(seen, loaded.shape, family, device)  # type: ignore[arg-type]
    parts = (batches(part, loaded.shape) for part in (seen, compared[0::2], compared[1::2]))
    evaluator = features.fitted(args.features, *parts)
    pictures = hashlib.sha256("\n".join(f.name for f in files).encode()).hexdigest()[:12]
    name = Path(args.model).name
    file = args.out / f"{name}.jsonl"
    own = {"model": name, "weights": weights, "features": args.features, "pictures": pictures}
    counts, count = args.iterations or (native, *COUNTS), args.samples
    for method, alpha, masks, iterations, seed in points.queue(
        args.methods, counts, args.seeds, args.alphas, args.masks
    ):
        place = Place(**own, method=method, alpha=alpha, masks=masks, iterations=iterations, seed=seed, samples=count)
        if select(read(file), **asdict(place)):
            continue
        M = filters(method, alpha, masks, iterations)
        some = lambda n, noise, M=M, iterations=iterations: family.sample(
            loaded.score, (n, *loaded.shape), M, iterations, noise, progress=True
        )
        started = time.perf_counter()
        samples = in_batches(some, count, args.batch, seed, device)
        seconds = time.perf_counter() - started
        row = asdict(place) | measured(evaluator, samples) | {"seconds": seconds, "device": str(device)}
        append(file, rounded(row))
        save_strip(samples, args.out / name / f"{place.name}.png")
    rows = select(read(file), **own)
    floor, scatter, used = evaluator.floor(args.samples)
    text = (
        f"Frechet distance on the features {args.features!r} (not FID); {used} real pictures have "
        f"{floor:.3g} ± {scatter:.2g}.\n\n{table(rows, evaluator.half_b, native)}"
    )
    (args.out / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
