"""Quality against iterations: training that resumes, a queue that resumes, and measures that see what they should."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import rows
from experiments.acceleration import cost, data, evaluate, families, filters, measures, points, report, train
from tdas_ops import NoiseStream, Preconditioner
from tdas_ops.models.frechet import Evaluator, FeatureNetwork, moments
from tdas_ops.models.training import Training
from tdas_ops.models.unet import UNet

# A handful of iterations is less than the filter "pds" of these blobs can do with; pc says so.
BEYOND = pytest.mark.filterwarnings("ignore:M. got a 'pds' filter that takes a predictor step:RuntimeWarning")

SHAPE = (1, 16, 16)
TINY = {"widths": (4, 4), "embedding": 8}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def blobs() -> data.Dataset:
    """Bright squares at random places, in the role of a data set."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(96, *SHAPE)
    for image, (row, column) in zip(images, torch.randint(2, 9, (96, 2), generator=generator).tolist(), strict=True):
        image[0, row : row + 5, column : column + 5] = 1.0
    torch.manual_seed(0)
    network = FeatureNetwork(size=16, width=4, classes=2)
    halves = [network.features(part).detach() for part in (images[64:80], images[80:])]
    evaluator = Evaluator(network, torch.zeros(4), torch.eye(4), *halves)
    return data.Dataset("blobs", images[:64], images[64:80], images[80:], evaluator)


def trained(family: families.Family, blobs: data.Dataset, steps: int, run: Training | None = None) -> Training:
    if run is None:
        torch.manual_seed(0)
        run = Training(UNet(**TINY), steps=40, batch=8, rate=1e-2, seed=0)
    for _ in range(steps):
        run.advance(blobs.train, train.of_family(family, family.score(run.network), run.network))
    return run


# Families


@pytest.mark.parametrize("family", families.FAMILIES.values(), ids=lambda family: family.name)
def test_levels_are_those_that_sampling_visits(family):
    told, mean_scale, std = family.levels(torch.rand(2_000, generator=torch.Generator().manual_seed(0)))
    seen: list[float] = []

    def score(x: Tensor, level: Tensor) -> Tensor:
        seen.append(float(level[0]))
        return -x

    family.sample(score, (1, *SHAPE), Preconditioner.identity(SHAPE), 100, NoiseStream(0))
    assert len(seen) == {"ncsnpp": 200, "ncsnv2": 101, "ddpmpp": 100}[family.name]
    assert float(told.max()) <= max(seen) * (1 + 1e-6) and float(told.min()) < 3 * min(seen)
    assert bool((mean_scale <= 1).all()) and bool((std > 0).all())
    if family.name == "ddpmpp":
        torch.testing.assert_close(mean_scale**2 + std**2, torch.ones_like(std))


@pytest.mark.parametrize("family", families.FAMILIES.values(), ids=lambda family: family.name)
def test_the_exact_score_of_pure_noise_has_the_least_loss(family):
    zeros, generator = torch.zeros(512, *SHAPE), torch.Generator().manual_seed(0)

    def exact(x: Tensor, told: Tensor) -> Tensor:
        scale = told if family.name != "ddpmpp" else family.levels((told - 1e-5) / (1 - 1e-5))[2]
        return -x / scale.reshape(-1, 1, 1, 1) ** 2

    assert float(train.loss_fn(family, exact, zeros, generator)) < 1e-6
    assert float(train.loss_fn(family, lambda x, told: 0.5 * exact(x, told), zeros, generator)) > 0.2


def test_a_denoiser_is_trained_at_all_levels_alike_and_gives_the_same_score(blobs):
    family, sigma_data = families.FAMILIES["ncsnpp"], 0.3
    torch.manual_seed(0)
    network = families.Denoiser(**TINY, sigma_data=sigma_data)
    score = family.score(network)
    x, sigma = torch.rand(3, *SHAPE), torch.tensor([0.02, 1.0, 40.0])
    expected = (network.denoise(x, sigma) - x) / sigma.reshape(-1, 1, 1, 1) ** 2
    torch.testing.assert_close(score(x, sigma), expected)
    # The network puts out nothing at first: its denoiser shrinks x, and of normal data of that variance it is the best.
    data = sigma_data * torch.randn(512, *SHAPE, generator=torch.Generator().manual_seed(1))
    loss = lambda of: train.loss_fn(family, of, data, torch.Generator().manual_seed(2), network.error_scale)
    losses = [loss(score), loss(lambda x, told: 0 * x)]
    assert losses[0].item() == pytest.approx(1, abs=0.05) and losses[1].item() > 100


def low_rank(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Normal images `[count, 1, 16, 16]` around a mean, with three strong directions, and their covariance."""
    strong = 2 * torch.linalg.qr(normal(256, 3, seed=7)).Q
    covariance = strong @ strong.T + 0.01 * torch.eye(256)
    images = 0.5 + normal(count, 3, seed=seed) @ strong.T + 0.1 * normal(count, 256, seed=seed + 1)
    return images.float().reshape(-1, *SHAPE), covariance.double()


@torch.no_grad()
def test_a_denoiser_begins_with_the_best_linear_one():
    """The expectation of the image where x was seen; and its error, which training is measured by."""
    torch.manual_seed(0)
    network = families.PrincipalDenoiser(1, SHAPE[1:], components=3, **TINY)
    network.fit(low_rank(20_000)[0])
    images, covariance = low_rank(2_000, seed=2)
    family = families.FAMILIES["ncsnpp"]
    for sigma in (0.03, 1.0, 30.0):
        level = torch.full((len(images),), sigma)
        x = images + sigma * normal(len(images), *SHAPE, seed=5).float()
        filtered = torch.linalg.solve(covariance + sigma**2 * torch.eye(256).double(), covariance)
        best = 0.5 + ((x.double() - 0.5).flatten(1) @ filtered).reshape(x.shape)
        score = family.score(network)(x, level)
        torch.testing.assert_close(score, (network.denoise(x, level) - x) / sigma**2)
        error = float((best - images).square().mean().sqrt())
        assert float((network.denoise(x, level).double() - best).square().mean().sqrt()) < 0.1 * error
        assert network.error_scale(level)[0].item() == pytest.approx(error, rel=0.02)
    loss = train.loss_fn(family, family.score(network), images, torch.Generator().manual_seed(2), network.error_scale)
    assert loss.item() == pytest.approx(1, abs=0.05)


def test_images_survive_their_encoding():
    images = torch.rand(2, *SHAPE)
    for family in families.FAMILIES.values():
        torch.testing.assert_close(family.decode(family.encode(images)), images)


@pytest.mark.parametrize("family", families.FAMILIES.values(), ids=lambda family: family.name)
@pytest.mark.parametrize("method", points.METHODS)
def test_every_method_has_a_filter_for_every_family(blobs, family, method):
    M = filters.Filters(blobs, family)(method, 5.0, "both", 30)
    score = lambda x, level: -x / (1 + level.reshape(-1, 1, 1, 1) ** 2)
    samples = family.sample(score, (1, *SHAPE), M, 30, NoiseStream(0))
    plain = family.sample(score, (1, *SHAPE), Preconditioner.identity(SHAPE), 30, NoiseStream(0))
    assert samples.shape == (1, *SHAPE) and bool(plain.isfinite().all())
    assert torch.equal(samples, plain) == (method == "plain")


# Training


def test_a_resumed_run_ends_at_the_same_bits(blobs, tmp_path):
    family = families.FAMILIES["ncsnpp"]
    whole = trained(family, blobs, 6)
    trained(family, blobs, 3).save(tmp_path / "state.pt")
    rest = Training(UNet(**TINY), steps=40, batch=8, rate=1e-2, seed=1)
    rest.load(tmp_path / "state.pt")
    trained(family, blobs, 3, rest)
    assert rest.step == whole.step == 6
    for a, b in zip(whole.average.parameters(), rest.average.parameters(), strict=True):
        assert torch.equal(a, b)


# Measures


def test_precision_sees_noise_and_recall_sees_collapse():
    real, again = normal(300, 4), normal(300, 4, seed=1)
    precision, recall = measures.precision_recall(again, real)
    assert precision > 0.8 and recall > 0.8
    far_precision, far_recall = measures.precision_recall(real[:100] * 0.01 + 10, real)
    assert far_precision == far_recall == 0.0
    collapsed_precision, collapsed_recall = measures.precision_recall(0.05 * again, real)
    assert collapsed_precision > 0.8 and collapsed_recall < 0.2


def test_moments_of_parts_are_those_of_the_whole():
    whole = normal(90, 3)
    parts = [whole[:20], whole[20:50], whole[50:]]
    mean, cov = measures.pooled_moments([(len(part), *moments(part)) for part in parts])
    torch.testing.assert_close(mean, moments(whole)[0])
    torch.testing.assert_close(cov, moments(whole)[1])


# The queue


def evaluated(monkeypatch, tmp_path: Path, *flags: str) -> list[rows.Row]:
    monkeypatch.setattr(sys, "argv", ["evaluate", "--family", "ncsnpp", "--data", "-", "--samples", "6", *flags])
    folders = {"--weights": tmp_path, "--results": tmp_path / "results", "--pictures": tmp_path / "pictures"}
    sys.argv += [str(word) for pair in folders.items() for word in pair] + ["--batch", "4", "--dataset", "blobs"]
    evaluate.main()
    return rows.read(tmp_path / "results" / "blobs-ncsnpp.jsonl")


def test_the_queue_measures_what_is_missing(blobs, tmp_path, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "blobs", lambda folder: blobs)
    run = trained(families.FAMILIES["ncsnpp"], blobs, 1)
    train.save_weights(run, tmp_path / "blobs-ncsnpp.safetensors", {"data": "blobs"})
    flags = ["--methods", "plain", "tdas", "--masks", "freq", "both", "--iterations", "4"]
    first = evaluated(monkeypatch, tmp_path, *flags, "--seeds", "1")
    assert [(row["method"], row["masks"]) for row in first] == [("plain", "-"), ("tdas", "freq"), ("tdas", "both")]
    again = evaluated(monkeypatch, tmp_path, *flags, "--seeds", "1", "2")
    assert again[:3] == first and len(again) == 6
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 3
    assert {len(row["mean"]) for row in again if row["finite"] == 1} <= {4}


@BEYOND
def test_filters_from_few_images_are_rows_of_their_own(blobs, tmp_path, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "blobs", lambda folder: blobs)
    train.save_weights(trained(families.FAMILIES["ncsnpp"], blobs, 1), tmp_path / "blobs-ncsnpp.safetensors", {})
    flags = ["--methods", "pds", "--iterations", "4", "--seeds", "1"]
    evaluated(monkeypatch, tmp_path, *flags)
    rows = evaluated(monkeypatch, tmp_path, *flags, "--mask-images", "8")
    assert [row["images"] for row in rows] == [0, 8] and rows[0]["distance"] != rows[1]["distance"]
    with pytest.raises(SystemExit, match="got 65, expected at most the 64"):
        evaluated(monkeypatch, tmp_path, *flags, "--mask-images", "65")


@BEYOND
def test_the_cost_of_an_iteration_is_measured_for_every_method(blobs, tmp_path, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "blobs", lambda folder: blobs)
    train.save_weights(trained(families.FAMILIES["ncsnpp"], blobs, 1), tmp_path / "blobs-ncsnpp.safetensors", {})
    flags = ["--weights", str(tmp_path), "--results", str(tmp_path), "--dataset", "blobs", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", ["cost", "--family", "ncsnpp", "--data", "-", *flags])
    monkeypatch.setattr(cost, "ROUNDS", 1)
    cost.main()
    (timed,) = rows.read(tmp_path / "blobs-ncsnpp-cost.json")
    assert set(timed["seconds"]) == set(points.METHODS) and min(timed["seconds"].values()) > 0


def test_the_plan_has_every_point():
    assert set(points.short_plan()) >= set(points.queue())
    assert set(points.plan(50)) >= set(points.queue()) | set(points.queue(points.FIXED, [50], [1], points.ALPHAS))


def test_a_run_that_diverged_has_no_distance(blobs, tmp_path):
    samples = blobs.half_a.clone()
    fine = evaluate.measured(blobs.evaluator, samples)
    assert fine["finite"] == 1 and fine["distance"] >= 0 and fine["precision"] > 0.5
    samples[3, 0, 0, 0] = math.nan
    broken = evaluate.measured(blobs.evaluator, samples)
    assert broken == {"finite": 15 / 16}
    point = points.Point("blobs", "ncsnpp", "plain", 0.0, "-", 4, 1, 16)
    rows.append(tmp_path / "rows.jsonl", rows.rounded({**asdict(point), **broken, "distance": math.inf}))
    rows.pack(tmp_path / "rows.jsonl")
    rows.append(tmp_path / "rows.jsonl", {"more": 1})
    row, more = rows.read(tmp_path / "rows.jsonl")
    assert row["distance"] is None and rows.select([row, more], **asdict(point)) == [row] and more == {"more": 1}


def test_weights_carry_what_made_them(blobs, tmp_path):
    run = trained(families.FAMILIES["ncsnv2"], blobs, 2)
    train.save_weights(run, tmp_path / "w.safetensors", {"family": "ncsnv2"})
    network, about = families.load_network(tmp_path / "w.safetensors")
    assert about["steps"] == "2" and about["family"] == "ncsnv2" and json.loads(about["config"])["widths"] == [4, 4]
    x = torch.rand(2, *SHAPE)
    torch.testing.assert_close(network(x), run.average(x), atol=2e-3, rtol=2e-2)


def test_a_denoiser_comes_back_as_one(blobs, tmp_path):
    network = families.Denoiser(**TINY, fold=4, sigma_data=0.3)
    train.save_weights(Training(network, 4, 8, 1e-2, 0), tmp_path / "w.safetensors", {})
    loaded, _ = families.load_network(tmp_path / "w.safetensors")
    assert isinstance(loaded, families.Denoiser) and loaded.config == network.config


# The report


def row(distance: float, iterations: int, method: str = "plain", seed: int = 1, **more: object) -> rows.Row:
    chosen = {"alpha": 5.0, "masks": "both"} if method in points.FIXED else {"alpha": 0.0, "masks": "-"}
    run = {"data": "blobs", "family": "ncsnpp", "method": method, **chosen, "iterations": iterations, "seed": seed}
    figures = {"finite": 1.0, "distance": distance, "precision": 0.5, "recall": 0.25, "spectrum": [4.0, 2.0, 1.0, 1.0]}
    # One feature of variance 1 against a target of mean 0 and variance 1: the distance is the mean squared.
    return {**run, "samples": 100, "weights": "w", **figures, "mean": [distance**0.5], "covariance": [1.0], **more}


REAL = {"target": {"samples": 100, "mean": [0.0], "covariance": [1.0]}, "floors": [[0.5, 0.1, 100]]}


def test_report_pools_seeds_and_finds_the_speed_up():
    rows = [row(1.0, 1000, seed=1), row(1.21, 1000, seed=2), row(2.0, 100), row(3.0, 50)]
    rows += [row(1.0, 200, "tdas"), row(1.05, 100, "tdas"), row(4.0, 66, "tdas"), row(1.0, 50, "tdas")]
    rows += [row(0.0, 100, "pds", finite=0.5), row(4.0, 50, "tdas", images=8)]
    real = {**row(0.0, 0), "spectrum": [4.0, 2.0, 0.5, 0.5], **REAL}
    timed = {"device": "a CPU", "batch": 4, "seconds": dict.fromkeys(points.METHODS, 0.001) | {"tdas": 0.002}}
    text, found = report.render("blobs", {"ncsnpp": rows}, real, {"ncsnpp": timed})
    native = found["ncsnpp"][0].distances[1000]
    assert native[0] == pytest.approx(1.1, abs=0.02) and native[1] == pytest.approx(0.105) and native[2] == 200
    listed = "\n".join(text)
    assert "| ncsnpp | tdas | 1.10 ± 0.10 | 20x (50, not at 66) | 1.00 | 1.05 | 1.00 |" in listed
    assert "| ncsnpp | plain | 1.10 ± 0.10 | 1x (1000) | - | 2.00 | 3.00 |" in listed
    assert "| ncsnpp | pds | 1.10 ± 0.10 | none | - | diverged | - |" in listed
    assert "| 100 | tdas | 0.50 | 0.25 | 2.00 |" in listed
    assert "(their number): 0.500 ± 0.100 (100)" in listed
    assert "| plain, native | 1000 | 1.00 | 1 |" in listed and "| tdas | 50 | 2.00 | 0.1 |" in listed
    assert "| 50 | tdas | both | 4.00 | 1.00 |" in listed
    compared = report.resolutions({"large": found, "blobs": found}, {"blobs": 16, "large": 64})
    assert (
        compared[-2] == "| 64 | large | 1x (1000) | 20x (50, not at 66) | none |" and "| 16 | blobs |" in compared[-3]
    )
    assert report.resolutions({"blobs": found}, {"blobs": 16}) == []


def test_a_floor_is_that_of_as_many_images_as_its_points_have_samples(tmp_path):
    curve = lambda *counts: report.Curve("plain", 0.0, "-", {n: (2.0, 0.0, count) for n, count in enumerate(counts, 1)})
    floors = [[1.1, 0.1, 960], [4.5, 0.2, 320], [2.5, 0.1, 640]]
    assert report.floors_of([curve(320, 320)], floors) == {320: 4.5}
    assert report.floors_of([curve(320), curve(960)], floors) == {320: 4.5, 960: 1.1}
    assert report.floors_of([curve(2000)], floors) == {960: 1.1}
    pytest.importorskip("matplotlib")
    found = {"ncsnpp": [curve(320, 2000)]}
    report.plot_curves(found, floors, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert "real images, n = 320" in drawn and "n = 960" in drawn and "n = 640" not in drawn
