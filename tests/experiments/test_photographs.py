"""The denoiser of photographs at any size, the methods that sample with it, and the report."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.few_step.methods import Counted
from experiments.photographs import evaluate, measures, methods, network, plan, predicted, report, train
from tdas_ops import NoiseStream, Spectrum

pytestmark = pytest.mark.filterwarnings("ignore:M. got:RuntimeWarning")  # filters at counts where they reach too far


def leaves(count: int, size: int, seed: int = 0) -> Tensor:
    """Pictures of discs that cover each other, each of one colour: edges, and areas between them."""
    generator, made = torch.Generator().manual_seed(seed), torch.zeros(count, 3, size, size)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for picture in made:
        for _ in range(60):
            x, y, r, *colour = torch.rand(6, generator=generator).tolist()
            inside = (rows - size * y) ** 2 + (columns - size * x) ** 2 < (2 + 0.2 * size * r**3) ** 2
            picture[:, inside] = torch.tensor(colour)[:, None]
    return made


@pytest.fixture(scope="module")
def spectrum() -> Spectrum:
    return Spectrum.from_images(F.avg_pool2d(leaves(12, 64), 2))


@pytest.fixture
def untrained(spectrum) -> network.Denoiser:
    made = network.Denoiser(spectrum.shape, spectrum.slope, widths=(8, 8), embedding=8)
    made.fit(spectrum)
    return made.requires_grad_(False)


@pytest.fixture
def denoiser(untrained) -> network.Denoiser:
    """As if it had been trained: no weight is zero."""
    generator = torch.Generator().manual_seed(0)
    for weight in untrained.unet.parameters():
        weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return untrained


def test_the_linear_part_is_that_of_its_law(spectrum):
    """`mean + K (K + s^2)^-1 (x - mean)` with the covariance K of all pixels and channels, from a picture a place."""
    wiener, (height, width), sigma = network.Wiener(spectrum, 4, 6), (4, 6), 0.3
    unit = torch.eye(3 * height * width).reshape(-1, 3, height, width)
    z = torch.einsum("kh,lw,nchw->nckl", network._cosines(height), network._cosines(width), unit)
    z = torch.einsum("cdkl,nckl->ndkl", wiener.vectors, z).flatten(1).double()
    K = z @ torch.diag(wiener.values.flatten().double()) @ z.T
    x = torch.rand(1, 3, height, width)
    away = (x - wiener.mean).flatten().double()
    expected = wiener.mean.expand(3, height, width).flatten() + K @ torch.linalg.solve(
        K + sigma**2 * torch.eye(len(K)), away
    )
    got = wiener(x, torch.tensor([sigma])).flatten().double()
    assert (got - expected).norm() < 1e-5 * expected.norm()
    assert (K - K.diag().diag()).norm() > 0.1 * K.norm()


def test_untrained_it_is_the_linear_part_and_any_size_will_do(untrained, denoiser):
    for height, width in ((64, 64), (64, 96), (128, 160)):
        x, sigma = torch.randn(2, 3, height, width), torch.tensor([0.1, 3.0])
        assert denoiser(x, sigma.log()).shape == x.shape
    fresh = network.Denoiser(untrained.spectrum.shape, widths=(8, 8), embedding=8)
    fresh.fit(untrained.spectrum)
    assert torch.equal(fresh.denoise(x, sigma), fresh.linear(x, sigma))
    assert not torch.allclose(denoiser.denoise(x, sigma), denoiser.linear(x, sigma))


def test_tiles_of_a_flat_law_are_the_whole(spectrum):
    """White noise has no distances: how far the linear part sees makes no difference."""
    white = Spectrum((3, 32, 32), spectrum.mean, torch.eye(3).double().expand(32, 17, 3, 3), slope=0.0)
    made = network.Denoiser(white.shape, 0.0, widths=(8, 8), embedding=8)
    made.fit(white)
    x, sigma = torch.randn(1, 3, 96, 160), torch.tensor([0.7])
    local = made.linear(x, sigma)
    expected = spectrum.mean.float()[:, None, None] + (x - spectrum.mean.float()[:, None, None]) / (1 + 0.49)
    assert (local - expected).abs().max() < 0.01  # the mean colour of a tile is known a little worse


@pytest.mark.parametrize("sight", ["local", "whole"])
def test_how_far_it_sees(denoiser, sight):
    """A "local" denoiser does the same at every place, knows nothing of what is 64 pixels and the reach of the
    convolutions away, and a "whole" one does."""
    denoiser.sight = sight
    sigma = torch.tensor([0.5])
    x = torch.rand(1, 3, 128, 320, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[..., :16] += 1
    before, after = denoiser.denoise(x, sigma), denoiser.denoise(changed, sigma)
    far = (after - before)[..., 200:].abs().max()
    assert (far == 0) == (sight == "local")
    moved = denoiser.denoise(x[..., 32:], sigma)
    gap = (moved - before[..., 32:])[..., 128:].abs().max()
    assert (gap < 1e-5) == (sight == "local")


@pytest.mark.parametrize("evaluations", [5, 8])
@pytest.mark.parametrize("name", methods.METHODS)
def test_evaluations_are_what_the_row_says(spectrum, name, evaluations):
    if not methods.possible(name, evaluations):
        assert name.startswith("pc") == (evaluations == 5)
        return
    bench = methods.Bench(16, spectrum, lambda: leaves(4, 16), top=20.0)
    counted = Counted(lambda x, sigma: (0.4 - x) / (0.05 + sigma.reshape(-1, 1, 1, 1) ** 2))
    x = bench.sample(name, counted, 2, evaluations, NoiseStream(1))
    assert counted.calls == evaluations and x.shape == (2, 3, 16, 16) and x.isfinite().all()


def test_the_constant_is_that_of_any_size():
    run = methods.calibrate.PC(methods.VE(0.01, 20.0), 4)
    for own, other in zip(methods.constant((3, 6, 8), run), methods.calibrate.constant((3, 6, 8), run), strict=True):
        assert own.shape == other.shape == (3, 6, 8)
        assert torch.allclose(own.masks(torch.float64)[1], other.masks(torch.float64)[1], rtol=1e-9)


def test_predictions_are_those_of_the_law(spectrum):
    law = predicted.law(spectrum, 16)
    made = predicted.methods(law, methods.VE(0.01, 20.0))
    assert predicted.error(made["pc schedule"](40)) < 0.1 < predicted.error(made["pc plain"](8))
    assert predicted.error(made["2M from the colour spectrum"](8)) < predicted.error(made["DPM-Solver++ 2M"](8))


def test_a_start_has_the_colours_that_it_knows(spectrum):
    bench, shape = methods.Bench(32, spectrum, lambda: leaves(4, 32), top=20.0), (600, 3, 32, 32)
    own = spectrum.mean.float()
    covariance = {}
    for kind in ("white", "mean", "channels", "colour"):
        means = bench.start(kind, shape, NoiseStream(1)).mean((2, 3))
        assert (means.mean(0) - (0 if kind == "white" else own)).abs().max() < 0.05
        covariance[kind] = torch.cov(means.T) - torch.eye(3) * methods.START**2 / 32**2
    real = torch.as_tensor(spectrum.matrices[0, 0].real / 32**2).float()
    assert (covariance["colour"] - real).norm() < 0.2 * real.norm()
    assert (covariance["channels"] - real.diag().diag()).norm() < 0.2 * real.norm() < (real - real.diag().diag()).norm()
    assert covariance["mean"].norm() < 0.2 * real.norm()


def test_measures_are_nothing_for_the_reference_itself():
    pictures = leaves(24, 64)
    seen = {1: measures.Likeness(pictures)}
    judge = measures.Judge(64, lambda size, count: pictures, lambda size, count: 0.5 * pictures, seen)
    same, other = judge(pictures), judge(torch.rand(24, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert (
        same["spectrum"] < 1e-5
        and abs(same["held_out"] - 2) < 1e-5
        and same["patches"] < 0.01
        and max(map(abs, same["kurtosis"])) < 1e-5
    )
    assert other["spectrum"] > 1 and other["patches"] > 0.5 and other["kurtosis"][0] < -1
    broken = pictures.clone()
    broken[3] = math.nan
    assert judge(broken)["patches"] is None


def test_patches_are_of_one_scale():
    x = torch.arange(256.0).expand(2, 3, 256, 256)
    assert [len(measures.patches(x, scale)) for scale in (1, 2, 4)] == [32, 8, 2]
    assert torch.equal(measures.patches(x, 2)[1, 0, 0], torch.arange(64) * 2 + 128.5)


def test_the_plan_has_every_point_once():
    points = list(plan.plan())
    assert len(points) == len(set(points)) and {size for size, *_ in points} == set(plan.SAMPLES)
    assert all(name in plan.REAL or methods.possible(name, count) for _, _, name, count, _ in points)
    assert not any(sight == "whole" for size, sight, *_ in points if size == network.PATCH)


def test_the_published_weights_denoise_better_than_their_linear_part():
    """Of pictures that have edges, and that nobody trained it on."""
    if not train.WEIGHTS.exists():
        pytest.skip(f"{train.WEIGHTS} is not there; the README of the photographs says how to have it")
    denoiser = network.load(train.WEIGHTS)
    for sigma, (linear, whole) in train.errors(denoiser, F.avg_pool2d(leaves(4, 128, seed=1), 2), (0.1, 0.3)).items():
        assert whole < 0.92 * linear, sigma


def test_the_report_says_what_the_rows_say():
    rows = report.results()
    if not rows:
        pytest.skip("the rows are not part of the source package")
    assert report.PAGE.read_text() == report.page(rows)
    for size, own in rows.items():
        for row in own:
            assert row["size"] == size and (row["method"] in plan.REAL or row["method"] in methods.METHODS)
    pictures = [f for f in report.RESULTS.iterdir() if f.suffix == ".webp"]
    assert len(pictures) <= 3 and all(f.stat().st_size < 120_000 for f in pictures)


def test_tables_show_the_best_and_what_is_not_finite(tmp_path):
    shared = {"size": 64, "sight": "local", "seed": 1, "samples": 4, "finite": True, "rings": [0.1], "kurtosis": [1.0]}
    real = {**shared, "sight": "-", "evaluations": 0, "spectrum": 1.0}
    rows = [{**real, "method": name, "patches": p} for name in plan.REAL for p in (1, 2)]
    for method, patches in (("pc plain", None), ("pc constant", 2.0), ("pc tdas", 1.0)):
        rows.append({**shared, "method": method, "evaluations": 8, "patches": patches, "spectrum": 1.0})
    rows = [report.with_far(row) for row in rows]
    assert report.with_far({**rows[0], "size": 256, "rings": [1.0, 2.0, 2.0, 9.0]})["far"] == math.sqrt(3)
    text = report.page({64: rows, 256: rows})
    assert "| pc tdas | **1** |" in text and "| pc plain | inf |" in text and "1.5 ± 0.71" in text
    assert "| pc tdas / pc constant | 8 | 2.00 | 2.00 |" in text and "| local | pc tdas | 0.1 | 1.0 |" in text
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the curves, is missing")
    report.plot({64: rows}, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").exists()


def test_a_row_is_sampled_in_batches_that_do_not_matter(spectrum, monkeypatch):
    bench = methods.Bench(16, spectrum, lambda: leaves(4, 16), top=20.0)
    score = lambda x, sigma: (0.4 - x) / (0.05 + sigma.reshape(-1, 1, 1, 1) ** 2)
    whole, calls = evaluate.sample(bench, "2M SDE from the colour spectrum", score, 5, 4, 1)
    monkeypatch.setattr(evaluate, "BATCH", 2)
    parts, same = evaluate.sample(bench, "2M SDE from the colour spectrum", score, 5, 4, 1)
    assert calls == same == 4 and torch.allclose(whole, parts, atol=1e-5)
