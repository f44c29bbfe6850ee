"""Forecasts of members: their scores by hand, which starts have them, and what is shown of them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.cli import app
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, ExperimentError
from dacycle.cycler.report.page import page
from dacycle.cycler.report.tables import sample_fields
from dacycle.cycler.verification.cycles import verify
from dacycle.cycler.verification.drift import due, make_forecasts, member_scores, read_scores
from dacycle.cycler.verification.members import score_members, summary
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import GROUPS, HEADLINE, index
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler import replays
from tests.worlds import make_world

WHEN = np.datetime64("2024-01-02T00", "h")


@pytest.fixture(scope="module")
def content(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    members = replays.with_members(folder, load_world(str(world.folder)), "nudge")
    wanted = {"starts": [0, 6, 12, 18], "lead": "24h", "members": 5, "free_run": False}
    return replays.content(world.folder, world.model, folder, drift=wanted, **members)


@pytest.fixture(scope="module")
def done(content, world, tmp_path_factory):
    """Return the branch of a run of four cycles with all its forecasts."""
    archive = Archive(tmp_path_factory.mktemp("run") / "archive", create=True)
    run_due_cycles(replays.experiment(content), archive)
    branch = archive.branch("demo")
    list(make_forecasts(branch, load_world(str(world.folder)), load_model(world.model)))
    return branch


def test_scores_of_members_by_hand(tiny):
    truth, offsets = tiny.reference.array(WHEN + 12), np.array([-1, 1, 3], np.float32)
    members = truth + offsets[:, None, None, None]
    table = score_members(tiny, WHEN, [(12, members)]).set_index(["channel", "region"]).loc["t2m"]
    assert table["mse"].to_numpy() == pytest.approx(1, rel=1e-3)
    assert table["variance"].to_numpy() == pytest.approx(4, rel=1e-3)
    assert table["crps"].to_numpy() == pytest.approx(5 / 3 - 16 / 12, rel=1e-3)
    np.testing.assert_allclose(np.stack(table["ranks"]), [[0, 1, 0, 0]] * 4)


def test_members_start_from_their_two_frames_and_end_where_the_model_takes_them(done, world):
    tiny, model = load_world(str(world.folder)), load_model(world.model)
    table, start = member_scores(done), done.times[-2]
    assert set(table["start"]) == set(done.times[3:]), "the members of the cold start are not kept"
    frames = [done.frame(time) + done.members(time)[:5] for time in (start - STEP, start)]
    for frame in frames:
        frame[:, GROUPS["q"]] = np.maximum(frame[:, GROUPS["q"]], 0)
    *_, last = model.forecast(*frames, 4)
    z500 = index("z500")
    expected = scores.mse(
        last[:, z500].mean(axis=0), tiny.reference.array(np.datetime64(start, "h") + 24)[z500], tiny.grid
    )
    found = table[(table["start"] == start) & (table["lead"] == 24) & (table["channel"] == "z500")]
    np.testing.assert_allclose(found["mse"], expected, rtol=1e-3)
    assert due(done, tiny) == []


def test_scores_are_made_again_where_they_are_missing_and_nothing_else(done, world):
    path = done.folder / "drift" / f"{done.times[-1]:%Y%m%dT%H}-members.parquet"
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    path.unlink()
    tiny = load_world(str(world.folder))
    assert due(done, tiny) == [done.times[-1]]
    list(make_forecasts(done, tiny, load_model(world.model)))
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
    path.write_bytes(before[path.name][:-40])
    with pytest.raises(ArchiveError, match=path.name):
        due(done, tiny)
    path.write_bytes(before[path.name])


def test_scores_against_another_reference_are_made_again(done, world, tmp_path):
    shutil.copytree(done.archive.folder, tmp_path / "archive")
    run, model = Archive(tmp_path / "archive").branch(done.name), load_model(world.model)
    make_world(tmp_path / "other", days=5, seed=7)
    other = replace(load_world(str(world.folder)), reference=Reference(tmp_path / "other/reference"))
    before = member_scores(run)
    assert due(run, other) == list(done.times[2:])
    list(make_forecasts(run, other, model))
    assert due(run, other) == []
    assert (member_scores(run)["mse"] != before["mse"]).all()


def test_what_is_shown_of_them(done):
    shown = CliRunner().invoke(app, ["drift", "demo", "--archive", str(done.archive.folder), "--json"])
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.stdout)["members"]
    assert {row["channel"] for row in rows} == set(HEADLINE)
    row = next(row for row in rows if row["channel"] == "msl" and row["lead_hours"] == 24)
    assert row["members"] == 5
    assert sum(row["ranks"]) == pytest.approx(1)
    assert row["unit"] == "hPa"
    printed = CliRunner().invoke(app, ["drift", "demo", "--archive", str(done.archive.folder)])
    assert "5 members: RMSE of the mean (control)" in " ".join(printed.output.split())


def test_the_spread_of_cycles_is_shown_over_their_error(done, world):
    shown = CliRunner().invoke(app, ["scores", "demo", "--archive", str(done.archive.folder), "--json"])
    assert shown.exit_code == 0, shown.output
    errors, found = verify(done, load_world(str(world.folder))).errors, json.loads(shown.stdout)["spread_over_error"]
    assert list(found) == list(HEADLINE)
    of_z = errors[(errors["channel"] == "z500") & (errors["kind"] == "analysis") & (errors["region"] == "globe")]
    variance = np.mean([r.analysis_spread["z500"] ** 2 for r in done.records if r.time in set(of_z["time"])])
    assert found["z500"]["analysis"] == pytest.approx(np.sqrt(variance / of_z["mse"].mean()), rel=1e-5)
    printed = CliRunner().invoke(app, ["scores", "demo", "--archive", str(done.archive.folder)])
    assert "spread of the members / error" in " ".join(printed.output.split())


def test_the_report_has_the_ranks_of_the_reference_among_the_members_of_analyses(done, world):
    tiny = load_world(str(world.folder))
    records = [record for record in done.records if record.status != "cold_start"]
    ranks = sample_fields(done, tiny, records).ranks
    assert ranks.shape == (len(HEADLINE), 9)
    counted, channel = np.zeros(9), index("msl")
    for time in done.times[2:]:
        members = np.sort(done.frame(time)[channel].astype(float) + done.members(time)[:, channel], axis=0)
        truth = tiny.reference.array(np.datetime64(time, "h"))[channel]
        for row, column in np.ndindex(truth.shape):
            rank = np.searchsorted(members[:, row, column], truth[row, column])
            counted[rank] += np.broadcast_to(tiny.grid.weights, truth.shape)[row, column]
    np.testing.assert_allclose(ranks[HEADLINE.index("msl")], counted / counted.sum(), rtol=1e-6)
    assert "Rank of the reference among the members of the analyses" in page(done, tiny)


def test_of_a_right_spread_the_ratio_is_one(tiny):
    generator, noise = np.random.default_rng(0), []
    tables = []
    for number in range(4):
        start, lead = WHEN + 6 * number, 6
        truth = tiny.reference.array(start + lead)
        members = truth + generator.standard_normal((1, *truth.shape)) + generator.standard_normal((10, *truth.shape))
        tables.append(score_members(tiny, start, [(lead, members)]).assign(start=pd.Timestamp(start)))
        noise.append({"start": pd.Timestamp(start), "kind": "analysis", "region": "globe", "mse": 2.0, "mae": 1.1})
    control = pd.DataFrame([row | {"channel": "t2m", "lead": 6} for row in noise])
    (row,) = summary(pd.concat(tables), control)
    assert row["spread_over_error"] == pytest.approx(1, abs=0.05)
    assert row["rmse_control"] == pytest.approx(np.sqrt(2))
    np.testing.assert_allclose(row["ranks"], 1 / 11, atol=0.03)


def test_members_that_a_run_has_not_are_refused(content):
    few = {**content, "drift": {**content["drift"], "members": 9}}
    with pytest.raises(ExperimentError, match=r"drift\.members is 9, but the run has 8"):
        replays.experiment(few)
    without = {key: value for key, value in content.items() if key != "ensemble"}
    with pytest.raises(ExperimentError, match=r"drift\.members is 5, but the run has none; the key ensemble"):
        replays.experiment(without)


def test_a_run_without_them_has_no_rows(done):
    assert summary(pd.DataFrame(), read_scores(done)) == []
