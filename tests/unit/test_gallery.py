"""docs/examples.md: its scripts are short, all there, and print the figures that the page says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tdas_ops import Spectrum

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/examples.md").read_text()
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figures(script: str) -> list[float]:
    """Those in the last column of the page's row of a script."""
    (row,) = re.findall(rf"^\| \[`{re.escape(script)}`\].*\|([^|]*)\|$", PAGE, re.MULTILINE)
    return [float(found) for found in re.findall(r"\d+\.\d+", row)]


def fields() -> Tensor:
    """Images `[40, 3, 32, 32]` whose channels have part of their waves in common, more of the long ones."""
    z = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    radius = torch.hypot(torch.fft.fftfreq(32)[:, None], torch.fft.rfftfreq(32)[None]) + 0.05
    return 0.4 + 0.02 * torch.fft.irfft2(torch.fft.rfft2(z + 1.5 * z.mean(1, keepdim=True)) / radius, s=(32, 32))


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_scripts_are_short_and_on_the_page(script: Path) -> None:
    assert len(script.read_text().splitlines()) < 80
    assert f"examples/{script.name}" in PAGE or script.name.startswith("with_")


def test_coloured_noise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    example = load("coloured_noise", monkeypatch)
    M, _ = example.filters()
    assert 100 * example.error(M) == pytest.approx(figures("coloured_noise.py")[0], rel=0.01)
    monkeypatch.setattr(example, "expected", lambda M: torch.ones(32, 17, dtype=torch.float64))
    assert example.error(M, 64) > 0.5
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the picture, is missing")
    monkeypatch.undo()  # of what was expected
    example.draw(tmp_path / "noise.webp")
    assert (tmp_path / "noise.webp").stat().st_size > 10_000


def test_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    found = load("few_steps", monkeypatch).compare()
    *distances, floor = figures("few_steps.py")
    assert [quality.distance for quality, _ in found.values()] == pytest.approx(distances, rel=0.02)
    assert next(iter(found.values()))[0].floor == pytest.approx(floor, abs=0.005)
    assert sorted(distances, reverse=True) == distances and distances[-1] < floor + 0.1


def test_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, rows = load("restore", monkeypatch).compare()
    assert list(errors.values()) == pytest.approx(figures("restore.py"), abs=0.002)
    assert [row.shape for row in rows] == [(16, 1, 32, 32)] * 4


def test_colour_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of the page are of photographs; the statement is that of any spectrum."""
    example, spectrum = load("colour_field", monkeypatch), Spectrum.from_images(fields(), window=False)
    expected = example.expected(spectrum)
    assert 0.5 < expected < 0.9 and expected == pytest.approx(example.correlation(fields()), abs=0.01)
    assert example.correlation(example.fields(spectrum, 64)) == pytest.approx(expected, abs=0.02)
    assert abs(example.correlation(example.fields(example.apart(spectrum), 64))) < 0.03


def test_paint_keeps_the_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exact denoiser of a Gaussian field and its posterior covariance; one that knows nothing does not."""
    example, spectrum = load("paint", monkeypatch), Spectrum.from_images(fields(), window=False)
    mean = spectrum.mean.float()[:, None, None]

    def denoise(x: Tensor, sigma: float) -> Tensor:
        gain = spectrum.matrices @ torch.linalg.inv(spectrum.matrices + sigma**2 * torch.eye(3).double())
        z = torch.fft.rfft2(x - mean, norm="ortho")
        return mean + torch.fft.irfft2(torch.einsum("hwab,nbhw->nahw", gain.cfloat(), z), s=x.shape[-2:], norm="ortho")

    power = lambda x: float((x - x.mean((2, 3), keepdim=True)).square().mean())
    painted = torch.cat([example.paint(denoise, spectrum, seed, share=1.0) for seed in range(6)])
    assert painted.shape == (6, 3, 32, 32) and 0.75 < power(painted) / power(fields()) < 1.1
    assert power(example.paint(lambda x, s: mean.expand_as(x), spectrum)) < 0.3 * power(fields())
