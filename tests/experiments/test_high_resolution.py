"""The example and the experiment on pictures of any size, with a small stand-in for the denoiser."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.rows import read
from experiments.high_resolution import data, measures, report
from experiments.high_resolution.methods import Painter
from tdas_ops import Spectrum

ROOT = Path(__file__).parents[2]


def denoise(x: torch.Tensor, s: float) -> torch.Tensor:
    """A local mean, the flatter the more noise there is."""
    return torch.lerp(x, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1), min(1.0, 4 * s))


def landscape(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    slow = rng.normal(size=(height // 8, width // 8, 1)).repeat(8, 0).repeat(8, 1) * [0.3, 0.2, 0.1]
    return (255 * np.clip(0.5 + slow + 0.02 * rng.normal(size=(height, width, 3)), 0, 1)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    for seed, size in enumerate([(80, 96), (96, 64), (64, 72)]):
        Image.fromarray(landscape(*size, seed)).save(tmp_path / f"{seed}.png")
    return tmp_path


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("paint", ROOT / "examples/paint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_paints(example, folder):
    patches = example.patches(folder, side=32, count=30, shorter=64)
    assert patches.shape == (30, 3, 32, 32) and patches.min() >= 0 and patches.max() <= 1
    spectrum = Spectrum.from_images(patches).resize(48, 70)
    x = example.paint(denoise, spectrum, evaluations=3)
    assert x.shape == (1, 3, 48, 70) and x.min() >= 0 and x.max() <= 1
    assert torch.equal(x, example.paint(denoise, spectrum, evaluations=3))
    assert not torch.equal(x, example.paint(denoise, spectrum, seed=1, evaluations=3))
    assert x.std() > 0.02
    assert len((ROOT / "examples/paint.py").read_text().splitlines()) <= 80


def test_methods_of_the_experiment(folder):
    photos = [torch.from_numpy(landscape(64, 64, seed)).permute(2, 0, 1) for seed in range(4)]
    patches = data.crops(photos, 32, 12, seed=1)
    painter = Painter(denoise, Spectrum.from_images(patches), lambda s: Spectrum.from_images(s * patches))
    found = measures.Data.of(data.crops(photos, 64, 4, seed=2), denoise)
    for method, start in (("none", "white"), ("dpmpp", "mean"), ("dpmpp eta=1 covariance=0.5", "channels")):
        x = painter.paint(method, start, 3, 64, 1, seed=1)
        row = measures.measure(x, found, denoise)
        assert x.shape == (1, 3, 64, 64) and len(row["rings"]) == len(measures.ring_numbers(64))
        assert all(np.isfinite(row["rings"] + row["kurtosis"]))
    isotropic = painter.paint("ancestral", "colour", 3, 64, 1, seed=1)
    for more in ("ancestral covariance=1", "ancestral covariance=error"):
        x = painter.paint(more, "colour", 3, 64, 1, seed=1)
        assert x.isfinite().all() and not torch.equal(x, isotropic)


def test_measures_know_gaussian_fields_and_edges():
    x = 0.5 + 0.1 * torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert (measures.kurtosis(x)[:3] - 3).abs().max() < 0.5
    power = measures.rings(x)
    assert ((power / 0.01).log2().abs()[3:] < 0.5).all()
    edges = torch.zeros(1, 3, 128, 128)
    edges[..., 37:] = 1
    assert measures.kurtosis(edges)[0] > 10
    assert measures.saturation(edges) == 0.0


def test_photographs_are_split_as_wholes(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SIDE", 64)
    for seed in range(5):
        Image.fromarray(landscape(64, 80, seed)).save(tmp_path / f"{seed:02}.png")
    train, test = data.split(tmp_path)
    assert len(train) == 3 and len(test) == 2 and not set(train) & set(test)
    assert data.read(train[0]).shape == (3, 64, 80)


def test_the_report_says_what_the_rows_say():
    rows = read(report.RESULTS / "rows.jsonl")
    assert (report.RESULTS / "tables.md").read_text() == report.tables(rows)
    pictures = [f for f in report.RESULTS.iterdir() if f.suffix in (".jpg", ".webp")]
    assert all(f.stat().st_size < 150_000 for f in pictures) and sum(f.stat().st_size for f in pictures) < 600_000
