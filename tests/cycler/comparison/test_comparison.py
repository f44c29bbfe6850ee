"""Runs compared with a baseline: paired changes, marks among many cells, costs, page, Markdown, WeatherBench-X."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.cli.cycles.verify import app
from dacycle.cycler.comparison.page import write_markdown, write_page
from dacycle.cycler.comparison.pairing import change, discoveries
from dacycle.cycler.comparison.runs import HEADLINE_MEAN, compare
from dacycle.cycler.comparison.weatherbench import write_weatherbench
from dacycle.cycler.verification.at_observations import at_observations
from dacycle.cycler.verification.cycles import verify, verify_all
from dacycle.cycler.verification.drift import make_forecasts
from dacycle.forecast_adapter.channels import HEADLINE, WB2_NAMES
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.scores import REGIONS
from tests.cycler.pages import Page
from tests.cycler.runs import make_run

CYCLES = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory, world, tiny):
    """Make a run with its forecasts, and a better and a worse one beside it."""
    model = load_model(world.model)
    folder = tmp_path_factory.mktemp("compare") / "archive"
    for name, error in (("better", 0.15), ("worse", 0.6), ("run", 0.3)):
        branch = make_run(
            folder, tiny, cycles=CYCLES, error=error, name=name, model=str(world.model), model_digest=model.digest
        )
        list(make_forecasts(branch, tiny, model))
    return branch


@pytest.fixture(scope="module")
def three(run, tiny):
    at_observations(run.archive.branch("run"), tiny)
    at_observations(run.archive.branch("better"), tiny)
    at_observations(run.archive.branch("worse"), tiny)
    return compare([run, run.archive.branch("better"), run.archive.branch("worse")], tiny)


def rows(found, name, of, region="globe"):
    table = found.table
    return table[(table["run"] == name) & (table["of"] == of) & (table["region"] == region)]


def test_every_run_is_found_better_or_worse_by_how_much_it_is(three, tiny, run):
    for name, expected in (("better", -0.5), ("worse", 1.0)):
        analysis = rows(three, name, "analysis")
        assert set(HEADLINE) | {HEADLINE_MEAN, "u10", "z200"} <= set(analysis["channel"])
        assert analysis["n"].eq(CYCLES).all()
        np.testing.assert_allclose(analysis["change"], expected, atol=0.04)
        np.testing.assert_allclose(analysis["rmse_b"] / analysis["rmse_a"] - 1, analysis["change"])
        assert analysis["low"].isna().all(), "six cycles are too few for an interval"
        assert set(three.table[three.table["of"] == "day 1"]["region"]) == set(REGIONS)
        assert ((rows(three, name, "withheld O-A", "")["change"] < 0) == (expected < 0)).all()
        assert len(rows(three, name, "O-F day 1", "")), "forecasts are held against observations too"
    errors = verify(run, tiny).errors
    own = errors[(errors["channel"] == "t850") & (errors["region"] == "globe") & (errors["kind"] == "background")]
    background = rows(three, "better", "background").set_index("channel")
    assert background.loc["t850", "rmse_a"] == pytest.approx(np.sqrt(own["mse"].mean()))


def test_the_mean_of_six_weighs_channels_by_the_baselines_error(three, run, tiny):
    means = []
    for branch in (run.archive.branch("better"), run):
        errors = verify(branch, tiny).errors.query("kind == 'analysis' and region == 'tropics'")
        means.append(errors.groupby("channel")["mse"].mean()[list(HEADLINE)])
    expected = np.sqrt((means[0] / means[1]).mean()) - 1
    found = rows(three, "better", "analysis", "tropics").set_index("channel")
    assert found.loc[HEADLINE_MEAN, "change"] == pytest.approx(expected)


def test_all_runs_are_judged_by_the_cases_that_all_have(run, tiny, tmp_path):
    short = make_run(tmp_path / "other", tiny, cycles=CYCLES - 2, error=0.15, name="better")
    found = compare([run, run.archive.branch("worse"), short], tiny)
    assert found.table["n"].max() == len(found.times) == CYCLES - 2
    assert found.without_forecasts == ["better"]
    of_forecasts = found.table[found.table["of"].str.startswith("day")]
    assert set(of_forecasts["run"]) == {"worse"}, "a run without forecasts does not take them from the others"
    again = compare([run, run.archive.branch("better"), short], tiny, since=found.times[1], until=found.times[2])
    assert list(again.runs) == ["run", "archive/better", "other/better"], "two of one name are told apart"
    assert len(again.times) == 2
    with pytest.raises(ArchiveError, match="no cycle in common from 20300101T00"):
        compare([run, short], tiny, since=pd.Timestamp("2030-01-01"))


def test_a_run_compared_with_itself_does_not_differ(run, tiny):
    found = compare([run, run], tiny)
    assert found.table["change"].eq(0).all()
    assert not found.table["excludes_zero"].any()


def test_runs_that_are_verified_together_are_verified_as_alone(run, tiny, tmp_path):
    shutil.copytree(run.archive.folder, tmp_path / "archive")
    for folder in (tmp_path / "archive/branches").iterdir():
        shutil.rmtree(folder / "verification", ignore_errors=True)
    names = ["run", "better", "run"]
    together = verify_all([Archive(tmp_path / "archive").branch(name) for name in names], tiny)
    for name, found in zip(names, together, strict=True):
        alone = verify(run.archive.branch(name), tiny)
        for table in ("errors", "means", "fits"):
            pd.testing.assert_frame_equal(getattr(found, table), getattr(alone, table))


def test_a_fork_is_compared_with_its_donor_from_its_own_start_on(run, tiny, tmp_path):
    shutil.copytree(run.archive.folder, tmp_path / "archive")
    fork = make_run(
        tmp_path / "archive", tiny, cycles=CYCLES, error=0.15, model_digest="m", name="fork",
        start="2024-01-03T00", cold_start={"from": "run@20240102T18"},
    )  # fmt: skip
    found = compare([fork.archive.branch("run"), fork], tiny)
    assert found.times[0] == pd.Timestamp("2024-01-03T00")
    analysis = rows(found, "fork", "analysis")
    assert analysis["n"].eq(CYCLES - 4).all()
    np.testing.assert_allclose(analysis["change"], -0.5, atol=0.05)


def test_of_many_cells_without_a_difference_none_holds():
    """Five in a hundred exclude zero by chance; beside real differences they do not hold."""
    base = pd.Series(np.random.default_rng(1).gamma(4, size=400), pd.date_range("2024", periods=400, freq="6h"))
    half = change(0.25 * base, base)
    assert half.excludes_zero
    assert half.p_value < 1e-6
    generator = np.random.default_rng(2)
    p_values = [
        change(*(pd.Series(x, base.index) for x in generator.gamma(9, size=(2, 400)))).p_value for _ in range(300)
    ]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09, "five in a hundred by chance"
    assert not discoveries(np.array(p_values)).any()
    mixed = discoveries(np.array([*p_values, np.nan, *[1e-7] * 20]))
    assert mixed[-20:].all()
    assert mixed[:-20].sum() <= 3


def test_the_page_stands_alone_and_has_every_run(three, run, tiny, tmp_path):
    parsed = Page(write_page(three, tmp_path / "three.html").read_text())
    assert parsed.open == []
    assert all(r.startswith(("#", "data:")) for r in parsed.references)
    for word in ("2 runs against run", "better", "worse", "Each against each", "−50 %", "withheld O-A"):
        assert word in parsed.words
    changed = make_run(tmp_path / "archive", tiny, cycles=CYCLES, name="changed", withhold=0.2)
    pair = Page(write_page(compare([run, changed], tiny), tmp_path / "two.html").read_text())
    assert "changed against run" in pair.words
    assert "withhold" in pair.words
    assert "Each against each" not in pair.words


def test_markdown_has_the_same_tables(three, tmp_path):
    text = write_markdown(three, tmp_path / "three.md").read_text()
    assert text.startswith("# 2 runs against run\n")
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 1 + 2 * len(REGIONS) + 2  # summary, scorecards, observations, each against each
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "| mean of six | −50 %" in text


def test_costs_are_medians_of_the_clock_that_all_cycles_have(run, tiny, tmp_path):
    wall = {"seconds": {"analysis": 2.0, "background": 1.0}}
    both = wall | {"processor_seconds": {"analysis": 0.5, "background": 0.25}}
    runs = [make_run(tmp_path, tiny, cycles=CYCLES, name=f"r{i}", notes=notes) for i, notes in enumerate((wall, both))]
    costs = compare([run, *runs], tiny).costs.set_index("run")
    assert costs[["analysis", "cycle", "clock"]].loc["r0"].tolist() == [2.0, 3.0, "wall"]
    assert costs[["analysis", "cycle", "clock"]].loc["r1"].tolist() == [0.5, 0.75, "processor"]
    assert np.isnan(costs.loc["run", "cycle"]), "this one noted no times"
    assert costs.loc["run", "fallbacks"] == 1


def test_weatherbench_reads_the_files_as_they_are(three, run, tiny, tmp_path):
    """As its loaders do: ECMWF's dimensions become init_time, lead_time and valid_time, chunks are picked by value."""
    paths = write_weatherbench(three, tiny, tmp_path / "wbx")
    assert {path.name for path in paths} == {
        f"{name}{what}.zarr" for name in ("run", "better", "worse") for what in ("", "-analyses")
    } | {"reference.zarr"}  # fmt: skip
    targets = xr.open_dataset(tmp_path / "wbx/reference.zarr", engine="zarr", chunks=None).rename(time="valid_time")
    scores = {}
    for name in ("run", "better"):
        for stem in (name, f"{name}-analyses"):
            file = tmp_path / f"wbx/{stem}.zarr"
            predictions = xr.open_dataset(file, engine="zarr", chunks=None, decode_timedelta=True)
            predictions = predictions.rename(time="init_time", prediction_timedelta="lead_time")
            assert predictions["lead_time"].dtype.kind == "m"
            inits, leads = predictions["init_time"].values, predictions["lead_time"].values[:3]
            valid = xr.DataArray(inits, coords={"init_time": inits}) + xr.DataArray(leads, coords={"lead_time": leads})
            chunk, truth = predictions.sel(init_time=inits, lead_time=leads), targets.sel(valid_time=valid)
            assert set(chunk["geopotential"].dims) == {"init_time", "lead_time", "level", "latitude", "longitude"}
            assert set(chunk.data_vars) <= set(WB2_NAMES.values())
            error = (chunk["geopotential"] - truth["geopotential"]).sel(level=500)
            weights = np.cos(np.deg2rad(chunk["latitude"]))
            scores[stem] = float((error**2).weighted(weights).mean(["latitude", "longitude"]).isel(lead_time=0).mean())
    expected = rows(three, "better", "analysis").set_index("channel").loc["z500"]
    assert np.sqrt(scores["run-analyses"]) == pytest.approx(expected["rmse_a"], rel=0.02)
    assert np.sqrt(scores["better-analyses"]) == pytest.approx(expected["rmse_b"], rel=0.02)
    assert scores["better"] < scores["run"]


def test_the_command_names_what_it_lacks_and_takes_runs_of_other_archives(run, tiny, tmp_path):
    shell, archive = CliRunner(), ["--archive", str(run.archive.folder)]
    one = shell.invoke(app, ["compare", "run", *archive])
    assert one.exit_code == 2
    assert "two experiments at least" in one.output
    other = make_run(tmp_path / "other", tiny, cycles=CYCLES, error=0.15, name="elsewhere")
    files = ["--out", str(tmp_path / "c.html"), "--markdown", str(tmp_path / "c.md")]
    files += ["--weatherbench", str(tmp_path / "files")]
    name = f"{other.archive.folder}/elsewhere"
    said = shell.invoke(app, ["compare", "run", "better", name, *archive, *files], env={"COLUMNS": "80"})
    assert said.exit_code == 0, said.output
    assert max(map(len, said.output.splitlines()[:8])) <= 80
    assert "-50" in said.output
    assert (tmp_path / "c.html").is_file()
    assert (tmp_path / "files/elsewhere-analyses.zarr").is_dir()
    told = json.loads(shell.invoke(app, ["compare", "run", "better", name, *archive, "--json"]).stdout)
    assert told["baseline"] == "run"
    assert told["runs"] == ["run", "better", "elsewhere"]
    assert {"rows", "by_chance", "costs", "pairs", "settings"} <= told.keys()
    assert {row["run"] for row in told["rows"]} == {"better", "elsewhere"}
