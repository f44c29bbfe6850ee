"""Bad input is refused by a sentence that names file, field and time, before the archive is touched."""

import shutil

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, ExperimentError
from dacycle.cycler.operations.plan import plan
from dacycle.forecast_adapter.state import to_dataset
from dacycle.forecast_adapter.worlds.reference import ReferenceDataError
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler import replays
from tests.worlds import make_model


@pytest.fixture(scope="module")
def content(world, tmp_path_factory):
    return replays.content(world.folder, world.model, tmp_path_factory.mktemp("experiment"))


def refused(content, archive) -> str:
    """Return the complaint about an experiment of which nothing is in the archive."""
    with pytest.raises(ExperimentError) as caught:
        run_due_cycles(replays.experiment(content), archive)
    assert archive.branches() == []
    return str(caught.value)


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path / "archive", create=True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"world": "atlantis"}, "no world 'atlantis'"),
        ({"model": "maxi"}, "no model 'maxi'"),
        ({"assimilator": "fnq"}, "no assimilator 'fnq'"),
        ({"grid": "1.5deg"}, "grid is 1.5deg, but the world's is 5.625deg"),
        ({"observations": [{"source": "radar", "cutoff": "3h"}]}, "unknown observation source 'radar'"),
        ({"observations": [{"source": "stations", "cutoff": "3h", "nwetork": "x"}]}, "unknown option 'nwetork'"),
        ({"observations": [{"source": "stations", "cutoff": "3h"}] * 2}, "two sources have one name"),
        ({"deny": ["orl"]}, "deny: 'orl' is no source"),
        ({"cold_start": {"lagged": "48h"}}, "cold_start needs the reference at 2023-12-31T18"),
        ({"cold_start": {"state": "nothing.nc"}}, "nothing.nc: no such file or folder"),
    ],
)
def test_what_does_not_exist_or_fit_is_refused(content, archive, changes, expected):
    changes = {"start": "2024-01-03T06"} | changes if "lagged" in str(changes) else changes
    assert expected in refused(content | changes, archive)


def test_a_model_of_another_world_is_refused(content, archive, tmp_path):
    other = make_model(tmp_path / "other.onnx", world="elsewhere")
    expected = "model double was made for 'elsewhere', not for the world 'tiny'"
    assert expected in refused(content | {"model": str(other)}, archive)


def test_a_damaged_model_is_refused(content, archive, tmp_path, world):
    damaged = tmp_path / "damaged.onnx"
    whole = bytearray(world.model.read_bytes())
    whole[len(whole) // 3] ^= 0x01
    damaged.write_bytes(whole)
    complaint = refused(content | {"model": str(damaged)}, archive)
    assert str(damaged) in complaint
    assert "damaged" in complaint


def test_a_model_replaced_under_its_name_is_refused(content, archive, tmp_path, world):
    model = tmp_path / "model.onnx"
    shutil.copy(world.model, model)
    experiment = replays.experiment(content | {"model": str(model)})
    run_due_cycles(experiment, archive, limit=1)
    make_model(model, scale=0.5)
    with pytest.raises(ExperimentError, match=r"model double is another file than at cycle 20240103T12"):
        run_due_cycles(experiment, archive)
    shutil.copy(world.model, model)
    assert len(run_due_cycles(experiment, archive, limit=1)) == 1


def test_a_replay_beyond_the_reference_stops_with_what_it_has(content, archive):
    experiment = replays.experiment(content | {"start": "2024-01-07T18", "end": "2024-01-08T12"})
    outlook = plan(experiment, archive)
    assert any("2024-01-08T12" in sentence for sentence in outlook.missing)
    with pytest.raises(ReferenceDataError, match="no state at 2024-01-08T06"):
        run_due_cycles(experiment, archive)
    assert archive.branch("demo").times[-1] == pd.Timestamp("2024-01-08T00")
    assert archive.branch("demo").damaged() == []


def good_state(world) -> xr.Dataset:
    reference = load_world(world.folder).reference
    times = [np.datetime64(replays.START - lag, "h") for lag in (2 * STEP, STEP)]
    return xr.concat([to_dataset(reference.state(time)) for time in times], "time", data_vars="minimal")


def write(dataset: xr.Dataset, path) -> dict[str, str]:
    dataset.to_netcdf(path, engine="h5netcdf")
    return {"state": str(path)}


def test_a_run_may_start_from_a_file_of_states(content, archive, tmp_path, world):
    dataset = good_state(world)
    start = write(
        dataset.transpose("longitude", "latitude", "level", "time").isel(latitude=slice(None, None, -1)),
        tmp_path / "s.nc",
    )
    run_due_cycles(replays.experiment(content | {"cold_start": start}), archive, limit=1)
    stored = archive.branch("demo").analysis.sel(time=dataset.time)
    xr.testing.assert_equal(stored["geopotential"].drop_attrs().load(), dataset["geopotential"].drop_attrs())


def _without_humidity(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.drop_vars("specific_humidity")


def _with_a_gap(dataset: xr.Dataset) -> xr.Dataset:
    dataset["temperature"][1, 7, 3, 4] = np.nan
    return dataset


def _in_metres(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign(geopotential=(dataset.geopotential / 9.80665).assign_attrs(units="m"))


def _in_unnamed_hectopascals(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign(mean_sea_level_pressure=dataset.mean_sea_level_pressure.drop_attrs() / 100)


def _coarser(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.isel(latitude=slice(None, None, 2), longitude=slice(None, None, 2))


def _one_frame(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.isel(time=[1])


def _fewer_levels(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.isel(level=slice(1, None))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_without_humidity, "missing q (specific_humidity) on all levels"),
        (_with_a_gap, "2024-01-03T06: t500 has values that are not finite"),
        (_in_metres, "geopotential is in 'm'"),
        (_in_unnamed_hectopascals, "if this is hPa, multiply by 100"),
        (_coarser, "a grid of 16 x 32 is coarser than 5.625deg"),
        (_one_frame, "no state at 2024-01-03T00"),
        (_fewer_levels, "on levels 50 hPa"),
    ],
)
def test_a_spoilt_file_of_states_is_refused(content, archive, tmp_path, world, spoil, expected):
    start = write(spoil(good_state(world)), tmp_path / "spoilt.nc")
    complaint = refused(content | {"cold_start": start}, archive)
    assert expected in complaint
    assert "spoilt.nc" in complaint
    assert "needs 20240103T00 and 20240103T06" in complaint


def test_a_file_that_is_no_netcdf_is_refused(content, archive, tmp_path):
    (tmp_path / "text.nc").write_text("not a netCDF file")
    assert "text.nc" in refused(content | {"cold_start": {"state": str(tmp_path / "text.nc")}}, archive)
