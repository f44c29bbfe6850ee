"""What is taken out of an archive for others: the values, and how public tools see them."""

from pathlib import Path

import eccodes
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import ArchiveError, Branch
from dacycle.cycler.cli import app
from dacycle.cycler.experiment import STEP
from dacycle.cycler.operations.output import Kind, times_of, write_output
from dacycle.cycler.verification.drift import forecasts, make_forecasts
from dacycle.forecast_adapter.channels import CHANNELS, HEADLINE, LEVELS, NAMES, WB2_NAMES
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.states.files import read_state
from dacycle.forecast_adapter.states.netcdf_zarr import from_dataset
from dacycle.forecast_adapter.worlds.world import load_world
from tests.conftest import TinyWorld
from tests.cycler.runs import START, make_run

TIMES = pd.date_range(START, periods=3, freq=STEP)


@pytest.fixture(scope="module")
def run(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Branch:
    """Return a run of three cycles with its forecasts, only to be read."""
    tiny, model = load_world(world.folder), load_model(world.model)
    branch = make_run(tmp_path_factory.mktemp("run") / "archive", tiny, cycles=3, model_digest=model.digest)
    list(make_forecasts(branch, tiny, model))
    return branch


def packing_error(path: Path) -> dict[str, float]:
    """Half the distance of two packed values, by name and level: the most that a value can be off, before rounding."""
    errors: dict[str, float] = {}
    with path.open("rb") as file:
        while (message := eccodes.codes_grib_new_from_file(file)) is not None:
            scale = 2.0 ** eccodes.codes_get(message, "binaryScaleFactor")
            step = scale / 10.0 ** eccodes.codes_get(message, "decimalScaleFactor")
            key = f"{eccodes.codes_get(message, 'shortName')}{eccodes.codes_get(message, 'level')}"
            errors[key] = max(errors.get(key, 0), step / 2)
            eccodes.codes_release(message)
    return errors


def by_name(path: Path) -> dict[str, xr.DataArray]:
    """Return the fields of a GRIB file as xarray shows them with its engine cfgrib."""
    fields: dict[str, xr.DataArray] = {}
    for level in ({"level": 2}, {"level": 10}, {"typeOfLevel": "meanSea"}, {"typeOfLevel": "isobaricInhPa"}):
        options = {"filter_by_keys": level, "indexpath": ""}
        with xr.open_dataset(path, engine="cfgrib", backend_kwargs=options, decode_timedelta=True) as dataset:
            fields |= {str(name): field.load() for name, field in dataset.data_vars.items()}
    return fields


@pytest.mark.parametrize("kind", [Kind.analysis, Kind.background])
def test_grib_is_read_by_cfgrib_within_its_packing(run: Branch, tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "states.grib2"
    write_output(run, kind, TIMES[:2], path)
    fields, allowed = by_name(path), packing_error(path)
    assert set(fields) == {"u10", "v10", "t2m", "msl", "z", "q", "u", "v", "t"}
    names = {"u10": "10u10", "v10": "10v10", "t2m": "2t2", "msl": "msl0"}
    for time in TIMES[:2]:
        state = run.state(kind, time)
        for channel in CHANNELS:
            field = fields[channel.variable]
            field = field if channel.level is None else field.sel(isobaricInhPa=channel.level)
            field = field.isel(time=int(np.flatnonzero(field.valid_time.values == time)[0]))
            step = allowed[names.get(channel.name, channel.name)]
            value = state.sel(channel=channel.name)
            rounding = 2 * np.spacing(np.float32(abs(value).max()))
            assert abs(field.values - value.values).max() <= step + rounding, channel.name
            assert 0 < step <= np.ptp(value.values) / 2**14
    upper = fields["t"]
    np.testing.assert_allclose(upper["latitude"], run.grid.latitude)
    np.testing.assert_allclose(upper["longitude"], run.grid.longitude)
    lead = STEP if kind is Kind.background else pd.Timedelta(0)
    assert (upper["valid_time"].values - upper["time"].values == lead).all()
    assert upper.attrs["GRIB_dataType"] == ("fc" if lead else "an")


def test_grib_keeps_more_with_more_bits(run: Branch, tmp_path: Path) -> None:
    for bits in (12, 24):
        write_output(run, Kind.analysis, TIMES[:1], tmp_path / f"{bits}.grib2", bits)
    few, many = (packing_error(tmp_path / f"{bits}.grib2") for bits in (12, 24))
    assert few["t500"] == 2**12 * many["t500"]


def test_grib_comes_back_as_a_state(run: Branch, tmp_path: Path) -> None:
    write_output(run, Kind.analysis, TIMES[:1], tmp_path / "a.grib2", 24)
    back, state = read_state(tmp_path / "a.grib2", run.grid), run.state("analysis", TIMES[0])
    assert back.time == state.time
    np.testing.assert_allclose(back.values, state.values, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_weatherbench2_files_hold_the_same_bits(run: Branch, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"analysis.{suffix}"
    write_output(run, Kind.analysis, TIMES, path)
    with xr.open_dataset(path, engine="zarr" if suffix == "zarr" else "h5netcdf", chunks=None) as dataset:
        assert set(dataset.data_vars) == set(WB2_NAMES.values())
        assert dataset["geopotential"].dims == ("time", "level", "latitude", "longitude")
        assert dataset["level"].values.tolist() == list(LEVELS)
        np.testing.assert_array_equal(dataset["time"].values, TIMES.values)
        assert dataset["geopotential"].encoding["chunks" if suffix == "zarr" else "chunksizes"] == (1, 13, 32, 64)
        assert dataset["time"].encoding["dtype"] == np.int64
        for time in TIMES:
            xr.testing.assert_equal(from_dataset(dataset, time), run.state("analysis", time))


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_forecasts_in_weatherbench2_schema(run: Branch, tmp_path: Path, suffix: str) -> None:
    path, stored = tmp_path / f"forecasts.{suffix}", forecasts(run)
    write_output(run, Kind.forecast, times_of(run, Kind.forecast), path)
    with xr.open_dataset(path, engine="zarr" if suffix == "zarr" else "h5netcdf", decode_timedelta=True) as dataset:
        leads = dataset["prediction_timedelta"].values / np.timedelta64(1, "h")
        assert leads.tolist() == stored["lead"].values.tolist()
        for name in HEADLINE:
            channel = CHANNELS[NAMES.index(name)]
            field = dataset[WB2_NAMES[channel.variable]]
            field = field if channel.level is None else field.sel(level=channel.level)
            np.testing.assert_array_equal(field.values, stored[name].values)
        assert dataset["geopotential"].sel(level=850).isnull().all()


def test_forecasts_in_grib(run: Branch, tmp_path: Path) -> None:
    path, stored = tmp_path / "forecasts.grib2", forecasts(run)
    write_output(run, Kind.forecast, times_of(run, Kind.forecast), path)
    fields, allowed = by_name(path), packing_error(path)
    z500 = fields["z"]
    assert z500.dims == ("time", "step", "latitude", "longitude")
    np.testing.assert_array_equal(z500["time"].values, stored["time"].values)
    assert (z500["step"].values / np.timedelta64(1, "h")).tolist() == stored["lead"].values.tolist()
    assert abs(z500.values - stored["z500"].values).max() <= allowed["z500"] + 0.02
    assert z500.attrs["GRIB_dataType"] == "fc"


class TestCommand:
    def call(self, run: Branch, *arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["write", *arguments, "--archive", str(run.archive.folder)])
        return result.exit_code, " ".join(result.output.split())

    def test_one_time(self, run: Branch, tmp_path: Path) -> None:
        code, said = self.call(run, "run@20240102T06", "--out", str(tmp_path / "a.nc"))
        assert code == 0, said
        assert "netCDF, analysis of run, 20240102T06" in said
        with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as dataset:
            assert pd.DatetimeIndex(dataset["time"].values).tolist() == [TIMES[1]]

    def test_the_originating_centre(self, run: Branch, tmp_path: Path) -> None:
        out = tmp_path / "a.grib2"
        code, said = self.call(run, "run@20240102T06", "--out", str(out), "--centre", "98")
        assert code == 0, said
        with out.open("rb") as file:
            message = eccodes.codes_grib_new_from_file(file)
            assert eccodes.codes_get(message, "centre") == "ecmf"
            eccodes.codes_release(message)
        code, said = self.call(run, "run@20240102T06", "--out", str(out), "--centre", "70000")
        assert code == 2
        assert "65535" in said

    def test_a_stretch_replaces_what_was_there(self, run: Branch, tmp_path: Path) -> None:
        out = str(tmp_path / "a.zarr")
        for since, count in (("20240102T00", 3), ("20240102T06", 2)):
            code, said = self.call(run, "run", "--what", "background", "--since", since, "--out", out)
            assert code == 0, said
            assert len(xr.open_zarr(out)["time"]) == count
        assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("run@20250102T06", "--out", "a.nc"), ("no analysis of this time", "20240101T12 to 20240102T12")),
            (("run", "--out", "a.txt"), ("a.txt", ".grib2", ".zarr")),
            (("run@noon", "--out", "a.nc"), ("noon", "2024-01-04T06")),
            (("other", "--out", "a.nc"), ("no experiment 'other'", "run")),
        ],
    )
    def test_refusals(self, run: Branch, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
        *first, last = arguments
        code, said = self.call(run, *first, str(tmp_path / last))
        assert code == 2
        assert all(word in said for word in words), said
        assert not list(tmp_path.iterdir())


def test_an_interrupted_file_leaves_the_old_one(run: Branch, tmp_path: Path) -> None:
    def cut_off():
        yield TIMES[0]
        raise KeyboardInterrupt

    for suffix in ("nc", "zarr", "grib2"):
        path = tmp_path / f"a.{suffix}"
        write_output(run, Kind.analysis, TIMES[1:2], path)
        with pytest.raises(KeyboardInterrupt):
            write_output(run, Kind.analysis, cut_off(), path)
        assert read_state(path, run.grid).time.values == TIMES[1].to_datetime64()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".grib2", ".nc", ".zarr"]


def test_damage_is_named_and_nothing_is_written(run: Branch, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="has no time"):
        write_output(run, Kind.background, [START - STEP], tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())
