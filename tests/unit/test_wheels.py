"""What `make wheels` decides; that it builds and installs is proved by running it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.noise_contract import contract
from tools import wheels
from tools.wheels import FIRST, NEWEST, Cell

HERE = {"python3.11": "3.11.7", "/opt/python": "3.12.1", "other": "3.11.7"}


def test_pythons_are_those_that_run_one_a_version():
    assert wheels.interpreters((), HERE.get) == {"3.11.7": "python3.11"}
    assert wheels.interpreters(["other", "/opt/python", "python3.11"], HERE.get) == {
        "3.11.7": "other",
        "3.12.1": "/opt/python",
    }
    with pytest.raises(SystemExit, match=r"PYTHONS: got python3\.9, expected a Python that runs"):
        wheels.interpreters(["python3.9"], HERE.get)
    with pytest.raises(SystemExit, match="expected one at least"):
        wheels.interpreters((), lambda name: None)


def test_a_name_that_does_not_run_is_no_python(tmp_path: Path):
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert wheels.version_of(str(shim)) is None and wheels.version_of(str(tmp_path / "none")) is None


def test_each_torch_is_an_upgrade_of_the_one_before():
    assert wheels.ascending([NEWEST, "2.13.0", "2.9.1", "2.13.0"]) == ["2.9.1", "2.13.0", NEWEST]
    assert wheels.ascending(["2.11.0"]) == ["2.11.0"]
    assert [wheels.requirement(torch) for torch in ("2.11.0", NEWEST)] == ["torch==2.11.0", "torch"]


@pytest.mark.parametrize(
    ("name", "compiled", "pythons"),
    [
        ("tdas_ops-0.1.0-cp312-cp312-manylinux_2_34_x86_64.whl", True, {"3.12.1"}),
        ("tdas_ops-0.1.0+cpu-cp311-cp311-linux_x86_64.whl", True, {"3.11.7"}),
        ("tdas_ops-0.1.0-py3-none-any.whl", False, {"3.11.7", "3.12.1"}),
    ],
)
def test_a_wheel_is_for_its_python(name: str, compiled: bool, pythons: set[str]):
    assert {version for version in ("3.11.7", "3.12.1") if wheels.fits(Path(name), version)} == pythons
    assert wheels.is_compiled(Path(name)) == compiled


@pytest.mark.parametrize(
    ("path", "first", "error", "compiled", "problem"),
    [
        ("fused (avx2) for H", FIRST, 1e-7, True, None),
        ("reference", FIRST, 0.0, False, None),
        ("reference", FIRST, 0.0, True, "the step runs on reference, expected compiled kernels"),
        ("fused (avx2)", FIRST, 0.0, False, "the step runs on fused (avx2), expected the reference"),
        ("fused (avx2)", FIRST, 0.1, True, "numbers are wrong by 0.1, expected 1e-05 at most"),
        ("fused (avx2)", FIRST, float("nan"), True, "numbers are wrong by nan, expected 1e-05 at most"),
        ("fused (avx2)", (*FIRST[:7], 0.0), 0.0, True, "numbers are wrong by 0.2, expected 1e-05 at most"),
    ],
)
def test_an_environment_is_judged(path, first, error, compiled, problem):
    said = "a warning\n" + json.dumps({"path": path, "first": first, "error": error}) + "\n"
    assert wheels.judge(said, compiled)[::2] == (path, problem)


def test_the_first_numbers_are_those_of_the_contract():
    g = contract((1, 1, 2, 2), seed=0)
    for pair, value in zip(zip(FIRST[::2], FIRST[1::2], strict=True), g.flatten().tolist(), strict=True):
        assert abs(complex(*pair) - value) < 1e-6


class Environment:
    """An environment in which nothing is installed, and every torch but one can be had."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def has_torch(self, torch: str) -> bool:
        if torch == "2.11.0":
            return False
        self.done.append(torch)
        return True

    def install(self, *what: object) -> None:
        self.done.append(str(what[-1]))

    def torch(self) -> str:
        return [each for each in self.done if not each.endswith(".whl")][-1]

    def smoke(self, compiled: bool) -> tuple[str, str, str | None]:
        return ("fused", "0", None) if compiled else ("reference", "0", "no")


def test_torch_is_upgraded_under_the_installed_wheel():
    own, other, pure = (Path(f"tdas_ops-1-{tag}.whl") for tag in ("cp311-cp311-any", "cp312-cp312-any", "py3-none-any"))
    environment = Environment()
    cells = wheels.prove(environment, "3.11.7", [other, own, pure], ["2.11.0", "2.12.0", "2.13.0"])
    assert environment.done == ["2.12.0", own.name, "2.13.0", pure.name]
    assert cells == [
        Cell(own.name, "3.11.7", "2.11.0", "no such torch"),
        Cell(own.name, "3.11.7", "2.12.0", "installed", "fused", "0", None),
        Cell(own.name, "3.11.7", "2.13.0", "torch upgraded", "fused", "0", None),
        Cell(pure.name, "3.11.7", "2.13.0", "installed", "reference", "0", "no"),
    ]
    printed = wheels.table(cells).splitlines()
    assert printed[0].split()[:3] == ["wheel", "Python", "torch"] and printed[-1].endswith("no")
    assert cells[0].row()[-1] == "-" and cells[1].row()[-1] == "ok"


def test_a_wheel_that_no_torch_could_prove_has_failed():
    wheels_of_it = [Path("tdas_ops-1-cp311-cp311-any.whl"), Path("tdas_ops-1-py3-none-any.whl")]
    (cell,) = wheels.prove(Environment(), "3.11.7", wheels_of_it, ["2.11.0"])
    assert cell.problem == "there is none of these for this Python"
