"""Restoration: the posterior of a Gaussian field in closed form, stable steps, and a queue that resumes."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import rows
from experiments.restoration import curves, ffdnet, measurements, report
from experiments.restoration.measurements import LAST, TASKS, gaussian
from experiments.restoration.restore import REACH, Filters, restore

SIZE = (16, 12)
SHAPE = (3, *SIZE)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spectrum() -> Tensor:
    """Variances of a Gaussian field, half spectrum; falling like those of photographs."""
    ky, kx = torch.fft.fftfreq(SIZE[0]).double(), torch.fft.rfftfreq(SIZE[1]).double()
    return 2e-3 / (torch.hypot(ky[:, None], kx[None, :]) + 0.05) ** 2


def filtered(x: Tensor, gain: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x) * gain.to(x.dtype), s=SIZE)


def field(count: int, seed: int) -> Tensor:
    return filtered(normal(count, *SHAPE, seed=seed), spectrum().sqrt())


def wiener(x: Tensor, s: float) -> Tensor:
    """The exact denoiser of the field."""
    return filtered(x, spectrum() / (spectrum() + s**2))


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return (field(40, 1) + 0.5).clamp(0, 1)


@pytest.mark.parametrize(
    ("name", "method"), [("denoise", "plain"), ("denoise", "pds"), ("denoise", "calibrated"), ("deblur", "calibrated")]
)
def test_the_mean_of_a_gaussian_field_is_that_of_its_posterior(photos, name, method):
    task, truth = TASKS[name](SIZE), field(1, 2)
    y = task.measure(truth, seed=3)
    made = restore(wiener, y, task, Filters(photos, method), 150, 32)
    # Of the smoothed prior at the last level, and then denoised.
    prior = spectrum() + LAST**2
    gain = task.power.sqrt() * prior / (task.power * prior + task.sigma**2) * spectrum() / prior
    expected = filtered(y, gain)
    error = float((made.mean(dim=0) - expected[0]).square().mean().sqrt())
    spread = float(made.std(dim=0).square().mean().sqrt())
    assert 0.002 < spread < 0.2 and error < 2 * spread / math.sqrt(32)
    assert float((y - expected).square().mean().sqrt()) > 2 * error


def test_fewer_iterations_are_enough_with_a_calibrated_filter(photos):
    task, truth = TASKS["deblur"](SIZE), field(1, 2)
    y = task.measure(truth, seed=3)
    errors = {
        (method, count): curves.rms(restore(wiener, y, task, Filters(photos, method), count, 16) - truth)
        for method, count in (("plain", 12), ("calibrated", 12), ("plain", 100))
    }
    assert errors["calibrated", 12] < errors["plain", 12]
    assert errors["plain", 100] < errors["plain", 12]


def test_missing_pixels_come_back(photos):
    task, truth = TASKS["inpaint"](SIZE), field(1, 2)
    y = task.measure(truth, seed=3)
    error = lambda x: curves.rms((x - truth) * (1 - task.power.float()))
    for method in ("plain", "tdas", "pds", "calibrated"):
        made = restore(wiener, y, task, Filters(photos, method), 50, 4).mean(dim=0, keepdim=True)
        assert error(made) < 0.8 * error(y), method
        assert curves.rms((made - y) * task.power.float()) < 3 * task.sigma


@pytest.mark.parametrize("method", ["plain", "tdas", "pds", "calibrated"])
@pytest.mark.parametrize("name", list(TASKS))
def test_no_step_goes_too_far(photos, name, method):
    """The largest eigenvalue of `eta D P`, P the precision where the prior allows nothing; and in the model's P."""
    task, filters = TASKS[name](SIZE), Filters(photos, method)
    for s in (LAST, 0.04, task.sigma_max):
        data = task.data_variance(s)
        M, eta = filters(task, s, data)
        precision = 1 / s**2 + task.power / data
        R2 = torch.ones(()) if M.freq is None or method == "tdas" else M.freq**2
        A2 = torch.ones(()) if M.space is None else M.space[0] ** 2
        if task.spectral:
            reach = float((eta * R2 * precision).max())
        else:
            reach = eta * float(R2.max()) * float((A2 * precision).max())
        if method == "calibrated":
            assert 0.9 * REACH < reach <= 1 + 1e-9  # at most the whole way to what the denoiser makes of x
        else:
            assert reach == pytest.approx(REACH)


def test_seeds_and_samples_are_reproducible(photos):
    task = TASKS["denoise"](SIZE)
    y, filters = task.measure(field(1, 2), seed=3), Filters(photos, "pds")
    both = restore(wiener, y, task, filters, 5, 2)
    torch.testing.assert_close(restore(wiener, y, task, filters, 5, 1), both[:1], atol=1e-5, rtol=0)
    assert float((restore(wiener, y, task, filters, 5, 1, seed=1) - both[:1]).abs().max()) > 0.01


# Measurements


@pytest.mark.parametrize("name", list(TASKS))
def test_a_measurement_is_symmetric_and_has_the_noise_it_says(name):
    task = TASKS[name]((32, 32))
    x, z = normal(1, 3, 32, 32, seed=4), normal(1, 3, 32, 32, seed=5)
    torch.testing.assert_close((task.forward(x) * z).sum(), (x * task.adjoint(z)).sum(), rtol=1e-4, atol=1e-4)
    residual = task.measure(x, seed=6) - task.forward(x)
    seen = residual if task.spectral else residual[:, :, task.power > 0]
    assert float(seen.std()) == pytest.approx(task.sigma, rel=0.1)
    assert task.data_variance(LAST) == pytest.approx(task.sigma**2) and task.data_variance(0.1) > 0.009


def test_a_wave_is_blurred_by_the_gain():
    wave = torch.cos(2 * math.pi * 3 * torch.arange(32) / 32).expand(1, 1, 32, 32)
    blurred = TASKS["deblur"]((32, 32)).forward(wave)
    torch.testing.assert_close(blurred, wave * float(gaussian((32, 32), measurements.BLUR)[0, 3]), atol=1e-5, rtol=0)


def test_missing_pixels_start_from_their_neighbours():
    task = TASKS["inpaint"]((32, 32))
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    y = task.forward(ramp)
    start = task.start(y)
    assert torch.equal(start[:, :, task.power > 0], ramp[:, :, task.power > 0])
    assert float((start - ramp)[..., 4:-4].abs().max()) < 0.15 < float((y - ramp).abs().max())


# The denoiser


def weights() -> dict[str, Tensor]:
    """Three layers that halve x and, channel by channel, add a tenth of the noise level."""
    state = {}
    for key, (wide, narrow) in zip((0, 2, 4), ((13, 26), (26, 26), (26, 12)), strict=True):
        weight = torch.zeros(narrow, wide, 3, 3)
        weight[range(min(wide, narrow)), range(min(wide, narrow)), 1, 1] = 0.7937 if key else 0.7
        state |= {f"model.{key}.weight": weight, f"model.{key}.bias": torch.full((narrow,), 0.01)}
    state["model.4.weight"][:, 12, 1, 1] = 0.1
    return state


def exact(x: Tensor, s: float) -> Tensor:
    x = 0.7937 * (0.7937 * (0.7 * x + 0.01).clamp_min(0) + 0.01) + 0.01
    return x + 0.1 * (0.7937 * (0.7 * s + 0.01) + 0.01)


def test_the_denoiser_folds_and_is_told_the_noise_level():
    x = torch.rand(2, 3, 8, 6)
    net = ffdnet.FFDNet(torch.rand(1, 3, 8, 8), weights())
    for s in (0.05, 0.5):
        torch.testing.assert_close(net(x, s), exact(x, s), atol=0.01, rtol=0)


def test_the_shift_of_rounded_weights_is_taken_off():
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    net = ffdnet.FFDNet(photo, weights())
    x = photo.flip(-1)
    bias = float((net(x, 0.1) - exact(x, 0.1)).mean().abs())
    assert float(net.shift.abs().max()) > 5e-4 and bias < 0.2 * float(
        (net(x, 0.1) - net.shift - exact(x, 0.1)).mean().abs()
    )


# Figures and the queue


def test_samples_of_the_right_law_are_calibrated():
    truth, samples = normal(1, 3, 64, 64), normal(6, 3, 64, 64, seed=1)
    row = curves.judged(samples, truth)
    assert row["error_over_spread"] == pytest.approx(1, abs=0.02) and row["sharpness"] == pytest.approx(1, abs=0.05)
    assert row["single"] == pytest.approx(2**0.5, abs=0.02) and row["sharpness_of_mean"] == pytest.approx(
        1 / 6, abs=0.01
    )
    sure = curves.judged(0.5 * samples, truth)
    assert sure["error_over_spread"] > 1.5 and sure["sharpness"] == pytest.approx(0.25, abs=0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    for index in range(6):
        coarse = generator.integers(0, 255, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC).save(
            tmp_path / "photos" / f"photo{index}.png"
        )
    return tmp_path


def queue(monkeypatch, folder: Path, *flags: str) -> list[rows.Row]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(ffdnet, "installed_weights", weights)
    words = [
        "curves",
        "--photos",
        str(folder / "photos"),
        "--size",
        "32",
        "--samples",
        "2",
        "--results",
        "results",
    ]
    monkeypatch.setattr(sys, "argv", [*words, *flags])
    curves.main()
    return rows.read(folder / "results" / "rows.jsonl")


def test_the_queue_measures_what_is_missing_and_the_report_shows_it(folder, monkeypatch):
    flags = ["--tested", "photo1*", "--tasks", "deblur", "--iterations"]
    first = queue(monkeypatch, folder, *flags, "3", "--methods", "plain")
    again = queue(monkeypatch, folder, *flags, "3", "2", "--methods", "plain", "calibrated")
    assert again[0] == first[0] and len(again) == 4 and again[0]["filters_from"] == 5
    assert [(row["method"], row["iterations"]) for row in again[1:]] == [
        ("calibrated", 3),
        ("plain", 2),
        ("calibrated", 2),
    ]
    pictures = {file.name for file in (folder / curves.PICTURES).glob("*.png")}
    assert {"photo1-32-truth.png", "photo1-32-deblur-start.png", "photo1-32-deblur-plain-3-sample.png"} <= pictures
    text = "\n".join(report.tables(again))
    assert f"| 3 | {255 * first[0]['mean']:.1f} | - | - | {255 * again[1]['mean']:.1f} |" in text and "photo1" in text
    sheet = report.strip(again, "photo1", 32, "deblur", folder / curves.PICTURES)
    assert sheet is not None and sheet.width > 4 * 32
