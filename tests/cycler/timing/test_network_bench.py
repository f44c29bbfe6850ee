"""`dacycle bench network`: a recipe's network in ONNX Runtime and in torch, without its world."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dacycle.common.configuration import parse_value, write_yaml
from dacycle.common.errors import DacycleError

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("lightning", reason="the extra `train` is not installed: lightning is missing")

from dacycle.cycler.cli import app

RECIPE = Path(__file__).parents[3] / "deploy/recipes/era5/fnp-r64.yaml"


def test_both_give_the_same_analysis_and_the_file_needs_nothing_but_onnx(tmp_path: Path) -> None:
    content = parse_value(RECIPE.read_text(), "a file of the test", DacycleError)
    content["network"] = {"joint": 16, "group": 8, "fine": 8, "layers": 1, "merged": 1, "modes": 4, "block": 8}
    file = tmp_path / "small.yaml"
    file.write_text(write_yaml(content))
    ended = CliRunner().invoke(app, ["bench", "network", "--recipe", str(file), "--grid", "16x32", "--json"])
    assert ended.exit_code == 0, (ended.output, ended.exception)
    found = json.loads(ended.output.splitlines()[-1])
    assert 0 < found["apart"] < 1e-4
    assert found["foreign"] == []
    assert min(found["torch"], found["onnx"]) > 0


def test_a_recipe_of_another_kind_is_refused() -> None:
    mini = Path(__file__).parents[3] / "deploy/recipes/mini-cpu.yaml"
    ended = CliRunner().invoke(app, ["bench", "network", "--recipe", str(mini), "--grid", "16x32"])
    assert ended.exit_code == 2
    assert "of kind forecast, not of an assimilator" in ended.output.replace("\n", " ")
