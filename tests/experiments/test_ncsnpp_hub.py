"""The path of the published checkpoints, on a small network of their class that was saved and is loaded from disk."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_ncsnpp
from PIL import Image

from benchmarks import rows
from experiments.acceleration import ncsnpp_hub
from tdas_ops.models.frechet import frechet_distance, moments

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ncsnpp(tmp_path_factory.mktemp("hub") / "tiny-16", steps=4, sigma_max=5.0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures larger than the network's, bright on one side."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for index in range(24):
        levels = generator.integers(0, 128, (20, 24, 3), dtype=np.uint8)
        levels[:, : int(generator.integers(8, 16))] += 100
        Image.fromarray(levels).save(folder / f"{index:02d}.png")
    return folder


def call(monkeypatch: pytest.MonkeyPatch, model: object, images: object, out: Path, *flags: str) -> list[rows.Row]:
    words = ["ncsnpp_hub", "--model", str(model), "--images", str(images), "--out", str(out), "--samples", "4"]
    monkeypatch.setattr(sys, "argv", [*words, "--batch", "3", *flags])
    ncsnpp_hub.main()
    return rows.read(out / f"{Path(str(model)).name}.jsonl")


@pytest.mark.filterwarnings("ignore:M. got a 'pds' filter:RuntimeWarning")  # two iterations are few
def test_the_queue_measures_what_is_missing(checkpoint, pictures, tmp_path, monkeypatch):
    run = lambda *flags: call(monkeypatch, checkpoint, pictures, tmp_path, *flags)
    first = run("--methods", "plain", "tdas", "schedule", "--iterations", "2")
    kinds = [(row["method"], row["alpha"], row["masks"]) for row in first]
    assert kinds == [("plain", 0, "-"), ("tdas", 5, "both"), ("schedule", 0, "-")]
    assert len({row["distance"] for row in first}) == 3 and all(row["seconds"] > 0 for row in first)
    again = run("--methods", "plain", "pds", "--iterations", "2", "--seeds", "1", "2", "--masks", "freq")
    assert again[:3] == first
    assert [(row["method"], row["seed"]) for row in again[3:]] == [("pds", 1), ("plain", 2), ("pds", 2)]
    assert len(list((tmp_path / "tiny-16").glob("*.png"))) == 6
    text = (tmp_path / "tiny-16.md").read_text()
    assert "| 2 | 2x | plain |" in text and "| 2 | 2x | pds, freq, alpha 5 |" in text
    other = run("--methods", "plain", "--iterations", "2", "--batch", "4", "--features", f"{__name__}:channel_means")
    assert len(other) == 7 and len(other[-1]["mean"]) <= 3
    # The snr rule takes its norms over the batch, so samples depend a little on who shares it, and on nothing else.
    spectrum = lambda row: torch.tensor(row["spectrum"])
    torch.testing.assert_close(spectrum(other[-1]), spectrum(first[0]), rtol=3e-3, atol=0)
    assert float((spectrum(again[4]) / spectrum(first[0]) - 1).abs().max()) > 0.03


def channel_means(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(2, 3))


def test_the_table_pools_seeds():
    generator = torch.Generator().manual_seed(0)
    half_b, rows, all_features = torch.randn(50, 2, generator=generator).double(), [], []
    for seed in (1, 2):
        found = torch.randn(20, 2, generator=generator).double() + seed
        mean, cov = moments(found)
        lower = torch.tril_indices(2, 2)
        figures = {"mean": mean.tolist(), "covariance": cov[lower[0], lower[1]].tolist(), "precision": 0.5}
        run = {"method": "plain", "alpha": 0.0, "masks": "-", "iterations": 10, "samples": 20, "seconds": 10.0}
        rows.append({**run, **figures, "recall": 0.25, "finite": 1.0})
        all_features.append(found)
    expected = frechet_distance(*moments(torch.cat(all_features)), *moments(half_b))
    assert f"| 10 | 200x | plain | {expected:.2f} | 0.50 | 0.25 | 40 | 0.50 |" in ncsnpp_hub.table(rows, half_b, 2000)
    rows[1]["finite"] = 0.75
    assert "| plain | diverged |" in ncsnpp_hub.table(rows, half_b, 2000)
