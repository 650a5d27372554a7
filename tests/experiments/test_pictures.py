"""Colour data sets: the same images for the same seed, photographs that are split as wholes, features that see."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.acceleration import data, features, ladders, pictures
from experiments.acceleration.families import FAMILIES
from tdas_ops import calibrate
from tdas_ops.models.frechet import frechet_distance, moments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven photographs, each of a grey level of its own with texture, so that a patch tells where it comes from."""
    root = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for index in range(11):
        levels = 20 * index + generator.integers(0, 10, (150 + index, 170, 3))
        Image.fromarray(levels.astype(np.uint8)).save(root / f"{index:02d}.png")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(root / "small.png")
    (root / "link.png").symlink_to(root / "03.png")
    return root


def origins(levels: torch.Tensor) -> set[int]:
    return set((levels.float().mean(dim=(1, 2, 3)) / 20 - 0.2).round().int().tolist())


def test_photographs_are_split_as_wholes(folder):
    files = pictures.photographs(folder, ["1*.png"], 64)
    assert [f.name for f in files] == [f"{i:02d}.png" for i in range(10)]
    seen, unseen = pictures.split(pictures.photographs(folder, least=64))
    assert [f.stem for f in unseen] == ["00", "05", "10"] and len(seen) == 8
    assert origins(pictures.patches(seen, 60, 16, 1)) == {1, 2, 3, 4, 6, 7, 8, 9}
    assert origins(pictures.patches(unseen, 60, 16, 1)) == {0, 5, 10}


def test_patches_are_a_function_of_their_seed(folder):
    files = pictures.photographs(folder, least=64)
    one, two = pictures.patches(files, 30, 32, 1), pictures.patches(files, 30, 32, 1)
    assert one.shape == (30, 3, 32, 32) and one.dtype is torch.uint8 and torch.equal(one, two)
    assert not torch.equal(one, pictures.patches(files, 30, 32, 2))
    assert len(torch.unique(one.flatten(1), dim=0)) == 30


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    """The face generator with random weights, written as the package has them."""
    generator = torch.Generator().manual_seed(0)
    state, layer = {}, 0
    for i, (wide, narrow) in enumerate(zip(pictures.FACE_WIDTHS, pictures.FACE_WIDTHS[1:], strict=False)):
        state[f"main.{layer}.weight"] = torch.randn(wide, narrow, 4, 4, generator=generator) / wide**0.5
        if i < 4:
            for part, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                state[f"main.{layer + 1}.{part}"] = torch.full((narrow,), value)
            state[f"main.{layer + 1}.num_batches_tracked"] = torch.tensor(1)
        layer += 3
    path = tmp_path_factory.mktemp("gan") / "weights.tar"
    torch.save({"netG_state_dict": state}, path)
    return pictures.face_generator(path)


def test_faces_are_a_function_of_their_seed(generator):
    faces = pictures.faces(4, 1, generator)
    assert faces.shape == (4, 3, 64, 64) and faces.dtype is torch.uint8 and int(faces.max()) > int(faces.min()) + 100
    assert torch.equal(pictures.faces(4, 1, generator), faces) and not torch.equal(
        pictures.faces(4, 2, generator), faces
    )


def test_a_prepared_set_comes_back(folder, tmp_path, monkeypatch, capsys):
    words = ["pictures", "photos64", "--photos", str(folder), "--train", "40", "--held-out", "24"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path)])
    pictures.main()
    said = capsys.readouterr().out
    assert "8 photographs, held out: 00, 05, 10" in said.replace("photographs for training", "photographs")
    loaded = data.DATASETS["photos64"](tmp_path)
    assert loaded.shape == (3, 64, 64) and len(loaded.train) == 40 and len(loaded.half_a) == len(loaded.half_b) == 12
    assert torch.equal((loaded.train * 255).round().byte(), pictures.patches(
        pictures.split(pictures.photographs(folder, least=64))[0], 40, 64, 1))  # fmt: skip
    torch.testing.assert_close(loaded.evaluator.features(loaded.half_b), loaded.evaluator.half_b, atol=1e-3, rtol=1e-3)
    monkeypatch.setattr(pictures, "CACHE", tmp_path)
    with pytest.raises(SystemExit, match="is there already and is kept"):
        pictures.main()


def test_larger_images_have_a_higher_ladder(folder, tmp_path):
    files = pictures.photographs(folder, least=64)
    pictures.prepare(
        "photos128", pictures.patches(files, 16, 128, 1), pictures.patches(files, 8, 128, 2), "random", tmp_path
    )
    loaded = data.DATASETS["photos128"](tmp_path)
    seen = {name: ladders.for_data(family, loaded) for name, family in FAMILIES.items()}
    assert seen["ncsnpp"].sde.sigma_max == seen["ncsnv2"].ladder(1000)[0] == loaded.sigma_max > 50
    assert isinstance(seen["ncsnpp"].run(10), calibrate.PC) and seen["ncsnpp"].run(10).sde.sigma_max == loaded.sigma_max
    assert seen["ddpmpp"] is FAMILIES["ddpmpp"] and FAMILIES["ncsnpp"].sde.sigma_max == 50
    assert float(seen["ncsnpp"].levels(torch.ones(1))[0]) == pytest.approx(loaded.sigma_max)


# Features


def images(seed: int, count: int = 120, smooth: bool = False) -> torch.Tensor:
    x = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(x, 3, 1, 1) if smooth else x


def test_random_convolutions_tell_blurred_images_from_sharp_ones():
    made = features.fitted("random", images(0, 200), images(1), images(2), components=8)
    same, blurred = (
        frechet_distance(*moments(made.features(x)), *moments(made.half_b)) for x in (images(3), images(3, smooth=True))
    )
    assert made.half_b.shape == (120, 8) and same < 3 and blurred > 10 * same
    assert abs(made.floor(120)[0] - same) < same


def test_components_are_few_where_images_are():
    batches = (images(0)[i : i + 8] for i in range(0, 40, 8))
    assert features.fitted("random", batches, images(1), images(2)).half_a.shape[1] == 10
    with pytest.raises(ValueError, match="got 4, 120 and 120 images"):
        features.fitted("random", images(0, 4), images(1), images(2))
