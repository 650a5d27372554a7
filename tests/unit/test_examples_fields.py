"""The examples of fields and lattices: short, and their numbers are those of theory within sampling error."""

from __future__ import annotations

import math
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from test_examples import EXAMPLES, load

from tdas_ops import GaussianField, random_field

SCRIPTS = ["field_of_spectrum", "field_128_cubed", "ensemble_perturbation", "lattice_fields"]


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "field_of_spectrum", raising=False)
    return load(request.param)


def of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", [name], indirect=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 80


@of("field_of_spectrum")
def test_a_field_has_its_spectrum(example: ModuleType, tmp_path: Path) -> None:
    fields = random_field(example.P, (256, 256), 1.0, noise=0, members=8)
    assert 0.5 < example.departure(fields) < 1.6  # of some 70 shells
    assert example.departure(1.05 * fields) > 5
    example.picture(fields[0], tmp_path / "field.webp")
    assert Image.open(tmp_path / "field.webp").size == (256, 256)


@of("field_128_cubed")
def test_a_field_of_three_dimensions_has_its_sigma(example: ModuleType) -> None:
    """The mean over three seeds; one field scatters by 2 %."""
    field = GaussianField(example.P, (128,) * 3, example.SPACING)
    found = [example.sigma_8(field.sample(seed)[0]) for seed in range(3)]
    assert abs(sum(found) / 3 / example.expected() - 1) < 0.02


@of("ensemble_perturbation")
def test_an_ensemble_has_its_lengths_and_memory(example: ModuleType) -> None:
    first, *_, last = (x[:, ::2, ::2] for x in islice(example.ensemble([3, 4], 3), 4))
    assert last.shape == (2, 361, 720)
    assert abs(float(last.std()) - 1) < 0.03
    assert abs(example.correlation(last[..., :-10], last[..., 10:]) - math.exp(-0.5)) < 0.03
    assert abs(example.correlation(first, last) - math.exp(-0.5)) < 0.03
    assert abs(example.correlation(last[:, 0], last[:, -1])) < 0.3 < example.correlation(last[..., 0], last[..., -1])
    (alone,) = islice(example.ensemble([4], 0), 1)
    assert torch.equal(alone[:, ::2, ::2], first[1:])


@of("lattice_fields")
@pytest.mark.parametrize("law", ["free", "phi^4"])
def test_acceleration_is_that_of_theory(example: ModuleType, law: str) -> None:
    plain, fast, factor = example.pair(law)
    found = plain.slow.time / fast.slow.time
    assert factor > 7 and (0.7 if law == "free" else 0.5) < found / factor < 1.4
    assert 0.9 < example.departure(plain.propagator, fast.propagator) < 1.5
    assert example.departure(plain.propagator, 1.1 * fast.propagator) > 2
    if law == "free":
        assert abs(float((fast.propagator.mean(0) / example.FREE).mean()) - 1) < 0.01
        assert min(plain.acceptance, fast.acceptance) > 0.7
