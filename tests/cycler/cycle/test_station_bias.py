"""A station that is wrong by always the same, in replays: what the archive shows, and that it can be interrupted."""

import numpy as np
import pytest

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.obs_ingest.simulation.stations import Stations
from tests.cycler import replays

PLANTED, N0 = 3.0, 4.0
SETTINGS = {"variables": ["t2m"], "n0": N0, "radius_km": 4000.0}


@pytest.fixture
def content(world, tmp_path):
    return replays.content(world.folder, world.model, tmp_path, end="2024-01-07T18", bias=SETTINGS)


def t2m(archive, name):
    """Temperatures that were assimilated, indexed by site and cycle."""
    table = archive.branch(name).departures()
    kept = (table["variable"] == "t2m") & (table["use"] == "assimilated")
    return table[kept].astype({"site": str}).set_index(["site", "cycle"]).sort_index()


def test_a_planted_bias_is_removed_after_some_cycles_and_only_there(content, tmp_path, monkeypatch):
    archive = Archive(tmp_path / "a", create=True)
    run_due_cycles(replays.experiment(content | {"name": "honest"}), archive)
    honest = t2m(archive, "honest")
    site = honest.groupby("site").size().idxmax()
    draw = Stations._draw

    def wrong(self, *arguments):
        table = draw(self, *arguments)
        at = ((table["site"] == site) & (table["variable"] == "t2m")).to_numpy()
        return table.assign(value=table["value"] + PLANTED * at)

    monkeypatch.setattr(Stations, "_draw", wrong)
    run_due_cycles(replays.experiment(content), archive)
    planted = t2m(archive, "demo")

    there, before = planted.loc[site], honest.loc[site]
    observed = (there["value"] + there["bias"]).to_numpy()
    assert observed == pytest.approx((before["value"] + before["bias"] + PLANTED).to_numpy(), abs=1e-3)
    assert there["o_b"].to_numpy() == pytest.approx((there["value"] - there["background"]).to_numpy(), abs=1e-3)
    last = planted.index.get_level_values("cycle").max()
    found = (planted["bias"] - honest["bias"]).xs(last, level="cycle")
    assert found[site] == pytest.approx(PLANTED, abs=1.2)
    assert np.sqrt((found.drop(site) ** 2).mean()) < PLANTED / 10
    assert there["bias"].iloc[0] == 0

    everything = archive.branch("demo").departures()
    assert not everything.loc[everything["use"] == "withheld", "bias"].any()
    assert not everything.loc[everything["variable"] != "t2m", "bias"].any()


def test_a_run_that_is_taken_up_again_for_every_cycle_is_the_same_to_the_last_bit(content, tmp_path):
    experiment = replays.experiment(content | {"end": "2024-01-05T06", "bias": {**SETTINGS, "memory": "24h"}})
    run_due_cycles(experiment, Archive(tmp_path / "whole", create=True))
    archive = Archive(tmp_path / "parts", create=True)
    while run_due_cycles(experiment, archive, limit=1):
        pass
    whole, parts = replays.everything(tmp_path / "whole"), replays.everything(tmp_path / "parts")
    assert whole == parts


def test_a_fork_that_removes_biases_learns_from_the_past_it_shares(content, tmp_path):
    first = {key: value for key, value in content.items() if key != "bias"} | {"end": "2024-01-05T00"}
    archive = Archive(tmp_path / "a", create=True)
    run_due_cycles(replays.experiment(first), archive)
    changes = {
        "name": "fork",
        "start": "2024-01-05T06",
        "end": "2024-01-05T06",
        "cold_start": {"from": "demo@20240105T00"},
    }
    run_due_cycles(replays.experiment(content | changes), archive)
    table = archive.branch("fork").departures()
    by_cycle = table.groupby("cycle")["bias"].apply(lambda bias: abs(bias).max())
    assert by_cycle.iloc[-1] > 0
    assert not by_cycle.iloc[:-1].any()


def test_the_free_run_keeps_its_observations_as_they_are(content):
    assert replays.experiment(content).free_run().bias is None
