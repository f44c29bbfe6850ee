"""Backgrounds drawn towards the climate of their date: how far, for members too, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.archive.branches import Archive, open_experiment
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, ExperimentError
from dacycle.forecast_adapter.channels import GROUPS
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.relaxation import Relaxation, RelaxationSettings
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler import replays


@pytest.fixture
def content(world, tmp_path):
    return replays.content(world.folder, world.model, tmp_path, relaxation={"tropics": "2d", "elsewhere": "10d"})


def test_the_background_is_drawn_towards_the_climate_of_its_time(content, world, tmp_path):
    run_due_cycles(replays.experiment(content), Archive(tmp_path / "archive", create=True))
    branch, forecaster = open_experiment(tmp_path / "archive", "demo"), load_model(world.model)
    home = load_world(world.folder)
    latitude = np.abs(home.grid.latitude)[:, None]
    rate = np.interp(latitude, [20, 30], [1 / 8, 1 / 40])
    for time in branch.times[2:]:
        frames = [branch.state("analysis", time - lag).values[None] for lag in (2 * STEP, STEP)]
        forecast = next(iter(forecaster.forecast(*frames, 1)))[0]
        climate = home.climatology.at(np.datetime64(time, "h"))
        expected = (1 - rate) * forecast + rate * climate
        expected[GROUPS["q"]] = np.maximum(expected[GROUPS["q"]], 0)
        found = branch.state("background", time).values
        scale = home.statistics.std[:, None, None]
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)


def test_members_are_drawn_as_the_chain_is(content, world, tmp_path):
    home = load_world(world.folder)
    members, spread = replays.with_members(tmp_path, home, additive=0.0), {}
    without = {key: value for key, value in content.items() if key != "relaxation"}
    for name, changed in (("with", content), ("without", without)):
        run_due_cycles(replays.experiment(changed | members), Archive(tmp_path / name, create=True), limit=1)
        spread[name] = open_experiment(tmp_path / name, "demo").records[-1].background_spread
    ratio = {name: spread["with"][name] / spread["without"][name] for name in ("z500", "t850", "msl")}
    assert all(1 - 1 / 8 < value < 1 - 1 / 40 for value in ratio.values()), ratio


@pytest.mark.parametrize("elsewhere", [None, pd.Timedelta(days=20)])
def test_the_rate_changes_between_20_and_30_degrees(elsewhere, world):
    home = load_world("demonstration")
    settings = RelaxationSettings(tropics=pd.Timedelta(days=5), elsewhere=elsewhere)
    rate = Relaxation.of(home, settings).rate[:, 0]
    outside = 0.0 if elsewhere is None else 1 / 80
    latitude = np.abs(home.grid.latitude)
    np.testing.assert_allclose(rate[latitude <= 20], 1 / 20)
    np.testing.assert_allclose(rate[latitude >= 30], outside)
    between = rate[(latitude > 20) & (latitude < 30)]
    assert between.size
    assert ((between > outside) & (between < 1 / 20)).all()


def test_without_the_key_an_experiment_and_its_digest_are_as_before(content):
    without = replays.experiment({key: value for key, value in content.items() if key != "relaxation"})
    assert "relaxation" not in without.as_dict()
    assert without.digest != replays.experiment(content).digest
    assert replays.experiment(content).as_dict()["relaxation"] == {"tropics": "48h", "elsewhere": "240h"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relaxation": {"tropics": "3h"}}, "give at least 6h"),
        ({"relaxation": {"elsewhere": "5d"}}, "tropics"),
        ({"assimilator": "4dvar"}, "4dvar forecasts its window without it"),
    ],
)
def test_what_cannot_be_is_refused(changes, message, content):
    with pytest.raises(ExperimentError, match=message):
        replays.experiment(content | changes)
