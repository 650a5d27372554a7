"""The curves of quality against evaluations: every method takes as many evaluations as its row says."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from experiments.few_step import methods, networks, report
from tdas_ops import NoiseStream, Preconditioner, calibrate, samplers
from tdas_ops.sde import VE

pytestmark = pytest.mark.filterwarnings("ignore:M. got:RuntimeWarning")  # filters at counts where they reach too far
SDE, SHAPE = VE(0.05, 8.0), (1, 8, 8)


def score(x: Tensor, sigma: Tensor) -> Tensor:
    return -x / (0.1 + sigma.reshape(-1, 1, 1, 1) ** 2)


@pytest.fixture(scope="module")
def network() -> networks.Network:
    def pc(score_fn, M, shape, iterations, noise):
        return samplers.pc(score_fn, shape, SDE, M, noise=noise, iterations=iterations, progress=False)

    images = torch.rand(128, *SHAPE, generator=torch.Generator().manual_seed(0))
    return networks.Network(
        name="digits-embedded",
        data=SimpleNamespace(shape=SHAPE, train=images[:64], half_a=images[64:]),  # type: ignore[arg-type]
        score=score,
        sde=SDE,
        weights="",
        encode=lambda images: images,
        decode=lambda x: x,
        filters=lambda method, iterations: Preconditioner.identity(SHAPE),
        run=lambda iterations: calibrate.PC(SDE, iterations),
        pc=pc,
        evaluations_an_iteration=2,
        fewest=2,
        native=20,
    )


@pytest.mark.parametrize("evaluations", [5, 8])
@pytest.mark.parametrize("name", methods.METHODS)
def test_evaluations_are_what_the_row_says(network, name, evaluations):
    if not methods.possible(name, network, evaluations):
        assert (name in methods.FILTERS) == (evaluations == 5) or name.startswith("Heun")
        return
    counted = methods.Counted(network.score)
    x = methods.sample(name, network, counted, (2, *SHAPE), evaluations, NoiseStream(1))
    assert counted.calls == evaluations and x.shape == (2, *SHAPE) and x.isfinite().all()


def test_tables_show_the_best_and_what_is_not_finite(tmp_path):
    row = {"network": "n", "weights": "w", "evaluations": 8, "seed": 1, "samples": 4, "finite": 1.0, "likeness": 1.0}
    rows = [{**row, "method": "pc plain", "distance": 2.0, "spectrum": 1.0}]
    rows += [{**row, "method": "ancestral", "distance": d, "spectrum": 1.0, "seed": s} for s, d in ((1, 0.5), (2, 1.5))]
    rows += [{key: row[key] for key in ("network", "weights", "evaluations", "seed", "samples")} | {"method": "Heun"}]
    found = report.averaged(rows)
    assert found["ancestral", 8]["distance"] == 1.0 and math.isinf(found["Heun", 8]["distance"])
    table = report.table(found, "distance")
    assert "| ancestral | **1** |" in table and "| Heun | inf |" in table
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the curves, is missing")
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, rows)))
    real = {"network": "n", "weights": "w", "native": 8, "samples": 4, "distance": 0.1, "likeness": 0.1}
    (tmp_path / "n-real.json").write_text(json.dumps({**real, "spectrum": 0.1, "floor": [0.2, 0.1, 4]}))
    text = "\n".join(report.section("n", rows, {**real, "spectrum": 0.1, "floor": [0.2, 0.1, 4]}, tmp_path))
    assert "8 evaluations: 2, 1, 1" in text and (tmp_path / "n.svg").exists()
