"""The README is short, its code runs as printed, its figures are those of the results, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import relative_rms
from torch import Tensor

import tdas_ops

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
(SETUP,) = re.findall(r"^<!-- setup\n(.*?)^-->", README, re.DOTALL | re.MULTILINE)
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def results(path: str) -> str:
    """A generated page; an archive without a repository has the pages and not the rows they are made of."""
    return (ROOT / path).read_text()


def test_it_is_read_in_a_minute():
    assert len(README.split()) <= 900  # as `wc -w` counts
    assert README.index("```python") < len(README) / 2 and len(re.findall(r"^!\[", README, re.MULTILINE)) == 3


def test_a_network_of_diffusers_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Word for word, with a small pipeline of the same kind where the hub's would be."""
    pytest.importorskip("diffusers", reason="diffusers is missing; `pip install diffusers` provides it")
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    exec(SETUP, {})
    code, names = CODE[0], dict[str, object]()
    assert len([line for line in code.splitlines() if line.strip()]) == 6
    exec(code, names)
    images = names["images"]
    assert isinstance(images, Tensor) and images.shape == (16, 3, 32, 32)
    assert images.isfinite().all() and 0 <= images.min() < images.max() <= 1
    (tmp_path / "pictures").mkdir()
    for i, picture in enumerate(torch.rand(20, 32, 32, 3, generator=torch.Generator().manual_seed(0))):
        Image.fromarray((255 * picture).byte().numpy()).save(tmp_path / f"pictures/{i}.png")
    (start,) = re.findall(r"`(calibrate\.FewStep\(.*?\))`", README)
    run = eval(start, names)
    assert run.levels[0] == 2.0 and run.start.shape == (3, 32, 32) and run.start.mean.abs().max() < 0.8
    run.sample(names["net"].score, (2, 3, 32, 32), 0, progress=False)  # type: ignore[attr-defined]


def test_a_step_is_what_it_says():
    code, names = CODE[1], dict[str, object]()
    assert len([line for line in code.splitlines() if line.strip()]) == 4
    torch.manual_seed(0)
    exec(code, names)
    torch.manual_seed(0)
    M = tdas_ops.Preconditioner.from_images(torch.rand(200, 3, 64, 64), method="pds")
    x, score = torch.randn(2, 8, 3, 64, 64)
    drift = tdas_ops.precondition(score, M, "MMt")
    expected = x + 0.1 * drift + tdas_ops.noise(M, x.shape, tdas_ops.NoiseStream(0), scale=0.2**0.5)
    assert relative_rms(names["x"], expected) < 1e-6  # type: ignore[arg-type]


def test_figures_of_speed_are_those_of_the_results():
    (row,) = re.findall(r"^\| avx512, frequency and space mask \|(.*)\|$", results("docs/performance.md"), re.MULTILINE)
    (head,) = re.findall(r"^\|  \|(.* FFHQ .*)\|$", results("docs/performance.md"), re.MULTILINE)
    sizes = [cell.split()[1] for cell in head.split("|")]
    published, best = zip(*(map(float, cell.split("/")) for cell in row.split("|")), strict=True)
    speed = " ".join(README.split("## Speed")[1].split("##")[0].split())
    found = re.findall(
        r"takes ([\d.]+), ([\d.]+) and ([\d.]+) times less .*? at (\S+), (\S+) and (\S+), ([\d.]+) to ([\d.]+)", speed
    )
    *times, a, b, c, low, high = found[0]
    at = [sizes.index(size) for size in (a, b, c)]
    assert [published[i] for i in at] == [float(time) for time in times]
    assert [round(f([best[i] for i in at]), 1) for f in (min, max)] == [float(low), float(high)]
    others = re.findall(r"\(([\d.]+), ([\d.]+) at 720x1440\)", speed)[0]
    weather = sizes.index("4x1x720x1440")
    assert [round(each[weather], 1) for each in (published, best)] == [float(other) for other in others]


def test_figures_of_quality_are_those_of_the_results():
    part = results("experiments/few_step/RESULTS.md").split("## digits-ncsnpp")[1].split("Mean Wasserstein")[0]
    counts = re.findall(r"\| method \|(.*)\|", part)[0].split("|")
    column = [count.strip() for count in counts].index("5")
    at_five = lambda name: (
        re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", part, re.MULTILINE)[0].split("|")[column].strip(" *")
    )
    native, of = re.findall(r"sampling, (\d+) evaluations: ([\d.]+)", part)[0]
    sentence = " ".join(README.split("On NCSN++ digits")[1].split(";")[0].split())
    mixture, plain = at_five("2M, mixture, level by rule"), at_five("DPM-Solver++ 2M")
    assert sentence == (
        f"5 evaluations from Gaussians fitted to 512 images have {mixture}, DPM-Solver++(2M) from white noise {plain}, "
        f"native sampling with {int(native):,} evaluations {of}"
    )


def test_named_things_exist():
    for name in re.findall(
        r"`(?:tdas_ops\.)?((?:calibrate|samplers|Preconditioner|NoiseStream|Spectrum)\.\w+)", README
    ):
        found = tdas_ops
        for part in name.split("."):
            found = getattr(found, part)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?m)(?:^|`)make ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"`((?:benchmarks|tests|tdas_ops|csrc|docs)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path
    row = next(line for line in README.splitlines() if line.startswith("| `samplers`:"))
    for name in re.findall(r"`(\w+)`", row)[1:]:
        assert hasattr(tdas_ops.samplers, name), name
    row = next(line for line in README.splitlines() if line.startswith("| `calibrate`:"))
    for name in re.findall(r"`(\w+)`", row)[1:]:
        assert hasattr(tdas_ops.calibrate, name), name
