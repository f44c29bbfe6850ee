"""The benchmark as a command: a small one from its file to the page, interrupted and gone on with."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from dacycle.cycler.benchmark.page import summary
from dacycle.cycler.cli import app
from dacycle.cycler.experiment import write_experiment
from dacycle.forecast_adapter.worlds.world import load_world

DEMO = Path(__file__).parents[3] / "deploy/experiments/demo.yaml"


def dacycle(*arguments, status=0):
    ended = CliRunner().invoke(app, [str(part) for part in arguments], env={"COLUMNS": "200"})
    assert ended.exit_code == status, (ended.output, ended.exception)
    assert "Traceback" not in ended.output
    return ended.output


def content(**changes):
    return {
        "world": "demonstration",
        "model": "mini",
        "data": "data",
        "year": 2024,
        "methods": ["none", "oi"],
        "observations": [{"source": "stations"}, {"source": "olr"}],
        "leads": [6, 12],
        "starts": 2,
        "seeds": [1, 2],
        "settings": [
            {"name": "protocol"},
            {"name": "20 %", "density": 0.2},
            {"name": "without either", "deny": ["olr", "tp"]},
        ],
    } | changes


@pytest.fixture
def place(tmp_path, monkeypatch):
    shutil.copytree(load_world("demonstration").folder / "reference", tmp_path / "data/2024")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_benchmark_from_its_file_to_the_page(place, monkeypatch):
    monkeypatch.setattr("dacycle.cycler.benchmark.run.SPIN_UP", pd.Timedelta(hours=12))
    demo = DEMO.read_text().replace("end: 2024-01-18T00", "end: 2024-01-05T00")
    drawn = "\n".join(f"  - {{source: {name}, cutoff: none}}" for name in ("stations", "olr"))
    observed = re.sub(r"observations:.*?deny:", f"observations:\n{drawn}\ndeny:", demo, flags=re.S)
    (place / "run.yaml").write_text(observed.replace("lead: 240h", "lead: 24h"))
    cycled = {"experiment": "run.yaml", "archive": "archive"}
    (place / "b.yaml").write_text(write_experiment(content(cycled=cycled)))
    said = dacycle("benchmark", "b.yaml", "--out", "page")
    assert "oi | protocol | 2" in said
    assert "oi | 20 % | 2" not in said  # what is varied is not repeated
    page = (place / "page/README.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    assert "±" in rows["oi"] or "±" in page
    assert "| 20 % | 1.00 |" in page  # without assimilation the analysis is the background
    single = pd.read_csv(place / "page/single.csv").set_index(
        ["method", "setting", "lead", "field", "channel", "score"]
    )
    mse = single["value"].xs(("all", "weighted_mse"), level=("channel", "score"))
    assert mse["oi", "20 %", 6, "analysis"] < mse["oi", "protocol", 6, "analysis"]
    assert mse["oi", "protocol", 6, "analysis"] < mse["none", "protocol", 6, "analysis"]
    assert (mse.xs("background", level="field")["none"] == mse.xs("background", level="field")["oi"]).all()
    megabytes = single["value"].xs("megabytes", level="score")
    assert 5 < megabytes["oi", "protocol", 6, "analysis", "all"] < 2000  # its ensemble alone has 18
    gained = pd.read_csv(place / "page/gains.csv").set_index(["method", "setting"])
    assert gained.loc[("none", "without either"), "change"] == 0
    assert gained.loc[("oi", "without either"), "change"] < 0
    cycled = pd.read_csv(place / "page/cycled.csv")
    assert set(cycled["method"]) == {"none", "oi"}
    ratio = cycled.pivot(index="channel", columns="method", values="rmse").eval("oi / none").mean()
    cells = [cell.strip() for cell in page.split("## Cycled")[1].split("\n| oi |")[1].split("\n")[0].split("|")]
    assert float(cells[-3]) == pytest.approx(ratio, rel=0.01)
    drifts = pd.read_csv(place / "page/drift.csv").set_index(["method", "kind", "channel", "lead"])["rmse"]
    by_lead = page.split("| z500 (m²/s²) | 0 d | 1 d |")[1]
    cells = [cell.strip() for cell in by_lead.split("\n| oi |")[1].split("\n")[0].split("|")]
    assert float(cells[1]) == pytest.approx(drifts["oi", "analysis", "z500", 24], rel=0.01)
    assert (place / "page/drift.svg").read_text().startswith("<svg")
    again = dacycle("benchmark", "b.yaml", "--out", "page")
    assert "protocol" not in again.replace("b.yaml", "")  # everything is kept
    (place / "b.yaml").write_text(write_experiment(content(seeds=[1])))
    dacycle("benchmark", "b.yaml", "--out", "first")
    settings, of_first = (
        (place / name / "README.md").read_text().split("## What is observed")[1].split("## Cycled")[0].strip()
        for name in ("page", "first")
    )
    assert settings == of_first  # settings are compared by the seed that all have


def test_a_changed_setting_is_run_again_and_nothing_else(place):
    (place / "b.yaml").write_text(write_experiment(content(methods=["none"])))
    dacycle("benchmark", "b.yaml", "--out", "page")
    changed = content(methods=["none"], settings=[{"name": "protocol"}, {"name": "20 %", "density": 0.3}])
    (place / "b.yaml").write_text(write_experiment(changed))
    said = dacycle("benchmark", "b.yaml", "--out", "page")
    assert "none | 20 % | 1" in said
    assert "none | protocol" not in said


def test_scores_are_means_and_a_time_is_the_fastest():
    row = {"method": "oi", "setting": "protocol", "lead": 6, "field": "analysis", "channel": "all", "seed": 1}
    table = pd.DataFrame(
        [row | {"score": score, "value": value} for score in ("mse", "seconds") for value in (1.0, 3.0)]
    )
    assert summary(table).set_index("score")["value"].to_dict() == {"mse": 2, "seconds": 1}


def test_a_malformed_file_is_refused_with_its_line(place):
    (place / "b.yaml").write_text(write_experiment(content(colour="blue")))
    ended = CliRunner().invoke(app, ["benchmark", "b.yaml", "--out", "page"])
    assert ended.exit_code == 2
    assert "colour: unknown key" in ended.output
    (place / "b.yaml").write_text(write_experiment(content(settings=[{"name": "x", "densty": 1}])))
    ended = CliRunner().invoke(app, ["benchmark", "b.yaml", "--out", "page"])
    assert ended.exit_code == 2
    assert "densty" in ended.output
    (place / "b.yaml").write_text(write_experiment(content(settings=[{"name": "x", "pattern": "stripes"}])))
    assert "pattern is 'stripes'" in dacycle("benchmark", "b.yaml", "--out", "page", status=2)
    assert "c.yaml: there is no such file" in dacycle("benchmark", "c.yaml", "--out", "page", status=2)


def test_a_method_is_not_compared_by_a_year_of_its_training(place):
    shutil.copytree(place / "data/2024", place / "data/2020")
    (place / "b.yaml").write_text(write_experiment(content(methods=["fnp"], year=2020)))
    assert "fnp was trained on 2020" in dacycle("benchmark", "b.yaml", "--out", "page", status=2)
