"""The first commands of a new user, from nothing but the package."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dacycle.assimilators.classical.ensemble_recipe import read_ensemble_recipe
from dacycle.assimilators.training.recipe import load_recipe
from dacycle.cycler.archive.branches import open_experiment
from dacycle.cycler.cli import app
from dacycle.cycler.cli.cycles.start import SITUATIONS
from dacycle.cycler.experiment import load_experiment

COMMAND = [sys.executable, "-c", "from dacycle.cycler.cli import main; main()"]


@pytest.mark.slow
def test_the_demonstration_runs_in_any_folder(tmp_path: Path) -> None:
    def demo(*options: str) -> str:
        command = [*COMMAND, "demo", "mine", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    printed = demo("--days", "1")
    assert "demo: 5 of 5" in printed
    assert "demo-free, forecasts: 3 of 3" in printed
    assert f"Report: {tmp_path}/mine/report.html" in printed
    assert "below those of optimal interpolation" in printed
    assert (tmp_path / "mine/report.html").stat().st_size > 100_000
    branch = open_experiment(tmp_path / "mine/archive", "demo")
    assert len(branch.times) == 7
    assert {record.status for record in branch.records} <= {"cold_start", "ok"}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_an_experiment_is_written_and_its_needs_are_named(
    situation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["init", situation, "mine.yaml"])
    assert ended.exit_code == 0, ended.output
    assert "#" in (tmp_path / "mine.yaml").read_text()
    assert "dacycle " in ended.output.splitlines()[-1]
    remedies = [line for line in ended.output.splitlines() if line.startswith("  ")]
    assert all("`dacycle " in remedy for remedy in remedies)
    again = CliRunner().invoke(app, ["init", situation, "mine.yaml"])
    assert again.exit_code == 2
    assert "mine.yaml exists" in again.output


def test_recipes_of_an_experiment_are_written_beside_it_and_fit_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["init", "era5", "mine/year.yaml"]).exit_code == 0
    experiment = load_experiment(tmp_path / "mine/year.yaml")
    mini, oi = load_recipe(tmp_path / "mine/era5-mini.yaml"), read_ensemble_recipe(tmp_path / "mine/era5-oi.yaml")
    fnp = load_recipe(tmp_path / "mine/era5-fnp.yaml")
    assert experiment.world == mini.world == oi.world == fnp.world
    assert experiment.model == oi.model == fnp.model == f"runs/era5-mini/{mini.name}.onnx"
    assert experiment.assimilator == "runs/era5-oi/era5-oi.nc"
    years = {*mini.training_years, *mini.validation_years, *oi.years, *fnp.training_years, *fnp.validation_years}
    assert experiment.start.year not in years


def test_the_recipe_for_fengwu_fits_its_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["init", "fengwu-1.40625deg", "year.yaml"]).exit_code == 0
    experiment, oi = load_experiment(tmp_path / "year.yaml"), read_ensemble_recipe(tmp_path / "fengwu-oi.yaml")
    assert (experiment.world, experiment.model) == (oi.world, oi.model)
    assert experiment.assimilator == "runs/fengwu-oi/fengwu-oi.nc"
    assert experiment.observation_grid.name == oi.grid
    assert experiment.start.year not in oi.years


def test_an_unknown_situation_is_refused(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["init", "mars", str(tmp_path / "mine.yaml")])
    assert ended.exit_code == 2
    assert "there are demonstration" in ended.output
