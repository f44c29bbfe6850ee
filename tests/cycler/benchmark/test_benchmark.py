"""The benchmark as a command: a small one from its file to the page, interrupted and continued."""

import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from dacycle.cycler.benchmark.page import summary
from dacycle.cycler.benchmark.run import BenchmarkError, load_benchmark
from dacycle.cycler.cli import app
from dacycle.cycler.comparison.pairing import change
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


def protocol_tables(page):
    """Return the tables of the protocol, one per lead."""
    sections = re.split(r"\n### ", page.split("## Single analyses")[1].split("### Root")[0])[1:]
    assert [section.split("\n")[0] for section in sections] == ["6 h", "12 h"]
    return sections


def test_a_benchmark_from_its_file_to_the_page(place, caplog):
    caplog.set_level(logging.INFO, logger="dacycle")
    demo = DEMO.read_text().replace("end: 2024-01-18T00", "end: 2024-01-05T00")
    drawn = "\n".join(f"  - {{source: {name}, cutoff: none}}" for name in ("stations", "olr"))
    observed = re.sub(r"observations:.*?deny:", f"observations:\n{drawn}\ndeny:", demo, flags=re.S)
    (place / "run.yaml").write_text(observed.replace("lead: 240h", "lead: 24h"))
    cycled = {"experiment": "run.yaml", "archive": "archive", "spin_up": "12h"}
    (place / "b.yaml").write_text(write_experiment(content(cycled=cycled)))
    dacycle("benchmark", "b.yaml", "--out", "page")
    assert "oi | protocol | 2" in caplog.messages
    assert "oi | 20 % | 2" not in caplog.messages  # only the protocol is run with every seed
    page = (place / "page/README.md").read_text()
    assert all("±" in table.split("\n| oi |")[1].split("\n")[0] for table in protocol_tables(page))
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
    # With two starts there is no interval; the change is that of the means, and the other way round its inverse.
    pairs = pd.read_csv(place / "page/pairs.csv").set_index(["method", "against"])
    errors = mse.xs(("protocol", "analysis"), level=("setting", "field")).drop("background", errors="ignore")
    by_start = errors.groupby("method").mean()
    assert pairs.loc[("oi", "none"), "change"] == pytest.approx(by_start["oi"] / by_start["none"] - 1, rel=0.05)
    assert np.isnan(pairs["low"]).all()
    cycled = pd.read_csv(place / "page/cycled.csv")
    assert set(cycled["method"]) == {"none", "oi"}
    assert set(cycled["cycles"]) == {3}, "of five cycles, two are within the spin-up"
    assert "3 cycles of `run.yaml`, without the first 0.5 days" in page
    ratio = cycled.pivot(index="channel", columns="method", values="rmse").eval("oi / none").mean()
    cells = [cell.strip() for cell in page.split("## Cycled")[1].split("\n| oi |")[1].split("\n")[0].split("|")]
    assert float(cells[-3]) == pytest.approx(ratio, rel=0.01)
    drifts = pd.read_csv(place / "page/drift.csv").set_index(["method", "kind", "channel", "lead"])["rmse"]
    by_lead = page.split("| z500 (m²/s²) | 0 d | 1 d |")[1]
    cells = [cell.strip() for cell in by_lead.split("\n| oi |")[1].split("\n")[0].split("|")]
    assert float(cells[1]) == pytest.approx(drifts["oi", "analysis", "z500", 24], rel=0.01)
    assert (place / "page/drift.svg").read_text().startswith("<svg")
    caplog.clear()
    dacycle("benchmark", "b.yaml", "--out", "page")
    assert not [message for message in caplog.messages if "|" in message]  # everything is kept
    (place / "b.yaml").write_text(write_experiment(content(seeds=[1])))
    dacycle("benchmark", "b.yaml", "--out", "first")
    settings, of_first = (
        (place / name / "README.md").read_text().split("## What is observed")[1].split("## Cycled")[0].strip()
        for name in ("page", "first")
    )
    assert settings == of_first  # settings are compared by the seed that all have


def test_a_changed_setting_is_run_again_and_nothing_else(place, caplog):
    (place / "b.yaml").write_text(write_experiment(content(methods=["none"])))
    dacycle("benchmark", "b.yaml", "--out", "page")
    changed = content(methods=["none"], settings=[{"name": "protocol"}, {"name": "20 %", "density": 0.3}])
    (place / "b.yaml").write_text(write_experiment(changed))
    caplog.clear()
    caplog.set_level(logging.INFO, logger="dacycle")
    caplog.clear()
    dacycle("benchmark", "b.yaml", "--out", "page")
    assert [message for message in caplog.messages if "|" in message] == ["none | 20 % | 1"]


def test_scores_are_means_and_a_time_is_the_fastest():
    row = {"method": "oi", "setting": "protocol", "lead": 6, "field": "analysis", "channel": "all", "seed": 1}
    table = pd.DataFrame(
        [row | {"score": score, "value": value} for score in ("mse", "seconds") for value in (1.0, 3.0)]
    )
    assert summary(table).set_index("score")["value"].to_dict() == {"mse": 2, "seconds": 1}


WRONG = [
    ({"colour": "blue"}, "colour: unknown key"),
    ({"settings": [{"name": "x", "densty": 1}]}, "settings.0.densty: unknown key; did you mean density?"),
    ({"settings": [{"name": "x", "pattern": "stripes"}]}, "settings.0.pattern: Input should be 'points'"),
    ({"settings": [{"name": "x", "density": 0}]}, "settings.0.density: Input should be greater than 0"),
    ({"settings": [{"density": 0.5}]}, "settings.0.name: this key is required"),
    (
        {"cycled": {"experiment": "run.yaml", "archiv": "archive"}},
        "cycled.archiv: unknown key; did you mean archive?",
    ),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_malformed_file_is_refused_with_its_line(changes, message, tmp_path):
    file = tmp_path / "b.yaml"
    file.write_text(write_experiment(content(**changes)))
    with pytest.raises(BenchmarkError) as refused:
        load_benchmark(file)
    lines = str(refused.value).splitlines()
    assert any(re.match(rf"{re.escape(str(file))}:\d+: ", line) and message in line for line in lines), lines


def test_a_problem_is_named_at_its_line(tmp_path):
    file = tmp_path / "b.yaml"
    file.write_text(write_experiment(content()) + "cycled:\n  experiment: run.yaml\n  archive: a\n  spinup: 96h\n")
    line = file.read_text().splitlines().index("  spinup: 96h") + 1
    with pytest.raises(BenchmarkError, match=f"b.yaml:{line}: cycled.spinup: unknown key; did you mean spin_up"):
        load_benchmark(file)


def test_the_command_refuses_a_malformed_file_and_one_that_is_not_there(place):
    (place / "b.yaml").write_text(write_experiment(content(colour="blue")))
    assert "colour: unknown key" in dacycle("benchmark", "b.yaml", "--out", "page", status=2)
    assert "there is no such file" in dacycle("benchmark", "c.yaml", "--out", "page", status=2)


def test_a_method_is_not_compared_by_a_year_of_its_training(place):
    shutil.copytree(place / "data/2024", place / "data/2020")
    (place / "b.yaml").write_text(write_experiment(content(methods=["fnp"], year=2020)))
    assert "fnp was trained on 2020" in dacycle("benchmark", "b.yaml", "--out", "page", status=2)


def test_methods_are_compared_pair_by_pair_over_the_same_cases():
    """What all methods find hard widens no interval; the interval is that of the differences, relative to the base."""
    generator = np.random.default_rng(4)
    cases = pd.date_range("2024-01-01", periods=40, freq="9D")
    hard, noise = generator.uniform(1, 9, 40), generator.normal(size=(2, 40))
    judged, base = (pd.Series(hard * share + 0.01 * part, cases) for share, part in zip((0.9, 1.0), noise, strict=True))
    found = change(judged, base)
    assert found.estimate == pytest.approx(judged.mean() / base.mean() - 1)
    difference = (judged - base) / base.mean()
    assert found.high - found.low == pytest.approx(2 * 1.96 * difference.std() / np.sqrt(40), rel=0.1)
    assert found.excludes_zero
    assert found.effective == pytest.approx(40)
    assert np.isnan(change(judged[:3], base[:3]).low)
