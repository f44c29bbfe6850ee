"""Departures of OLR and precipitation in the archive of a run whose world has a learned observation operator."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from dacycle.cycler.archive.branches import Archive, open_experiment
from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.cycle.replay import open_run, run_due_cycles
from dacycle.cycler.experiment import ExperimentError, parse_experiment, write_experiment
from dacycle.obs_ingest.operators.learned import LearnedOperator
from tests.cycler import replays
from tests.learned import make_operator
from tests.worlds import make_model

MORE = [{"source": "olr", "cutoff": "none"}, {"source": "mask", "fraction": 0.3, "cutoff": "none"}]
DAILY = {"source": "olr", "name": "daily", "period": "24h", "cutoff": "none"}


@pytest.fixture(scope="module")
def content(world, tmp_path_factory) -> dict[str, Any]:
    """Stations, OLR and points of all channels in the tiny world, with the operator that knows it."""
    folder = tmp_path_factory.mktemp("learned")
    asked = replays.content(world.folder, world.model, folder, operator=str(make_operator(folder / "double.onnx")))
    return asked | {"observations": [*asked["observations"], *MORE]}


@pytest.fixture(scope="module")
def departures(content, tmp_path_factory):
    """Of all cycles."""
    archive = tmp_path_factory.mktemp("run") / "archive"
    run_due_cycles(replays.experiment(content), Archive(archive, create=True))
    return open_experiment(archive, "demo").departures()


@pytest.mark.parametrize("variable", ["olr", "tp"])
def test_six_hourly_values_have_departures_and_the_analysis_fits_them_better(departures, variable):
    """The assimilator moves humidity towards the truth, and OLR and precipitation, which it does not see, follow."""
    rows = departures[(departures.variable == variable) & (abs(departures.latitude) < 87)]
    assert len(rows) > 100
    assert np.isfinite(rows[["o_b", "o_a"]].to_numpy(float)).all()
    sound = rows[rows.reason == "no_operator"]
    assert sound.o_a.std() < 0.98 * sound.o_b.std()


def test_a_daily_mean_is_compared_with_the_mean_over_the_cycles_of_its_day(content, tmp_path):
    """Of the analyses before, and of the background (or analysis) of the cycle that holds its end."""
    asked = content | {"end": "2024-01-05T00", "observations": [*content["observations"], DAILY]}
    run_due_cycles(replays.experiment(asked), Archive(tmp_path / "archive", create=True))
    departures = open_experiment(tmp_path / "archive", "demo").departures()
    rows = departures.assign(source=departures.source.astype(str)).set_index(["source", "cycle", "site"]).sort_index()
    day = pd.date_range(end=rows.loc["daily"].index.get_level_values("cycle").max(), periods=4, freq="6h")
    daily = rows.loc[("daily", day[-1])]
    before = sum(rows.loc[("olr", time)].analysis for time in day[:-1])
    for state in ("background", "analysis"):
        mean = (before + rows.loc[("olr", day[-1])][state]) / 4
        difference = (daily[state] - mean).dropna()  # reports are missing at times
        assert len(difference) > 1000
        assert difference.abs().max() < 1e-3


def test_a_mean_centred_on_the_analysis_time_is_compared_with_nothing(content, tmp_path):
    """Half of its day is still to come; the states of the past half would be a comparison with another day."""
    days = pd.date_range("2024-01-03", "2024-01-04")
    field = xr.DataArray(np.full((2, 8, 16), 240.0), dims=("time", "lat", "lon"), attrs={"units": "W m-2"})
    place = {"time": days, "lat": np.linspace(70, -70, 8), "lon": np.arange(0, 360, 22.5)}
    xr.Dataset({"olr": field}, place).to_netcdf(tmp_path / "olr.nc", engine="h5netcdf")
    centred = {"source": "olr_netcdf", "path": str(tmp_path / "olr.nc"), "stamp": "start", "period": "24h"}
    centred |= {"centred": True, "cutoff": "none"}
    asked = content | {"end": "2024-01-04T12", "observations": [*content["observations"], centred]}
    run_due_cycles(replays.experiment(asked), Archive(tmp_path / "archive", create=True))
    departures = open_experiment(tmp_path / "archive", "demo").departures()
    of_noon = departures[departures["cycle"] == pd.Timestamp("2024-01-04T12")]
    daily, six_hourly = (of_noon[of_noon["source"] == name] for name in ("olr_netcdf", "olr"))
    assert len(daily) == 8 * 16
    assert daily["o_b"].isna().all()
    assert six_hourly["o_b"].notna().any()


@pytest.mark.parametrize(("more", "earlier"), [([], 0), ([DAILY], 3)])
def test_the_operator_runs_once_for_each_state_of_a_cycle(content, tmp_path, monkeypatch, more, earlier):
    """Once for the background, once for the analysis, and once for each earlier interval of a daily mean."""
    calls: list[tuple[bytes, bytes]] = []
    by_cycle: list[int] = []
    call = LearnedOperator.__call__

    def counted(operator, previous, current):
        calls.append((previous.tobytes(), current.tobytes()))
        return call(operator, previous, current)

    monkeypatch.setattr(LearnedOperator, "__call__", counted)
    asked = content | {"end": "2024-01-05T00", "observations": [*content["observations"], *more]}
    archive = Archive(tmp_path / "archive", create=True)
    live = {"now": pd.Timestamp("2024-01-06"), "progress": lambda cycle: by_cycle.append(len(calls))}
    *_, last = run_due_cycles(replays.experiment(asked), archive, **live)
    assert last.time == pd.Timestamp("2024-01-05T00")
    assert by_cycle[-1] - by_cycle[-2] == 2 + earlier
    assert len(set(calls[by_cycle[-2] :])) == 2 + earlier


def test_a_plane_that_the_assimilator_does_not_take_is_compared_not_assimilated(departures):
    rows = departures[departures.variable.isin(["olr", "tp"])]
    assert "assimilated" not in set(rows.use)
    assert (rows.reason == "no_operator").any()


def test_without_an_operator_there_are_no_such_departures(content, tmp_path):
    archive = tmp_path / "archive"
    run_due_cycles(replays.experiment(content | {"operator": "none"}), Archive(archive, create=True), limit=1)
    rows = open_experiment(archive, "demo").departures()
    assert rows[rows.variable == "olr"].o_b.isna().all()


def test_the_key_changes_an_experiment_only_where_it_is_given(content):
    without = {key: value for key, value in content.items() if key != "operator"}
    plain, none = (parse_experiment(write_experiment(c), "x.yaml") for c in (without, without | {"operator": "none"}))
    assert "operator" not in plain.as_dict()
    assert plain.digest != none.digest


def test_a_world_without_a_packaged_operator_runs_without_one(content):
    without = {key: value for key, value in content.items() if key != "operator"}
    inputs = load_inputs(replays.experiment(without))
    assert inputs.operator is None
    assert "operator" not in inputs.digests


def test_another_worlds_operator_is_refused(content, tmp_path):
    foreign = make_operator(tmp_path / "foreign.onnx", world="elsewhere")
    with pytest.raises(ExperimentError, match=r"experiment demo: operator double carries .*'elsewhere'.*not of 'tiny'"):
        load_inputs(replays.experiment(content | {"operator": str(foreign)}))


def test_an_operator_replaced_under_its_name_is_a_changed_experiment(content, tmp_path):
    own = make_operator(tmp_path / "own.onnx")
    asked, archive = replays.experiment(content | {"operator": str(own)}), Archive(tmp_path / "archive", create=True)
    run_due_cycles(asked, archive, limit=1)
    make_operator(own, olr=250.0)
    with pytest.raises(ExperimentError, match="operator double is another file"), open_run(asked, archive):
        pass


def test_a_branch_from_before_there_were_operators_goes_on(content, tmp_path, monkeypatch):
    """Its records name no operator; its experiment's digest has not changed."""
    asked, archive = replays.experiment(content | {"operator": None}), Archive(tmp_path / "archive", create=True)
    run_due_cycles(asked, archive, limit=1)
    own = make_operator(tmp_path / "weights" / "tiny.onnx")
    monkeypatch.setattr("dacycle.obs_ingest.operators.learned.WEIGHTS", Path(own).parent)
    (cycle,) = run_due_cycles(asked, archive, limit=1)
    assert cycle.record.digests["operator"]


def test_models_of_other_worlds_are_still_refused(content, tmp_path):
    model = make_model(tmp_path / "model.onnx", world="elsewhere")
    with pytest.raises(ExperimentError, match="model double was made for 'elsewhere', not for the world 'tiny'"):
        load_inputs(replays.experiment(content | {"model": str(model)}))
