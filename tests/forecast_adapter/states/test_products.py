"""States from published products: every layout gives the same state, and errors name every defect."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

from dacycle.forecast_adapter.channels import LEVELS, NAMES
from dacycle.forecast_adapter.grid import Grid, regrid
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.reference import ProductReference, ReferenceDataError
from tests.forecast_adapter.made import GRID, START, chunks, made_dataset, made_state, write_grib

HOUR = np.timedelta64(1, "h")
COARSE = Grid("30deg", 75 - 30.0 * np.arange(6), 30.0 * np.arange(12))
SHORT = {
    "10m_u_component_of_wind": "u10", "10m_v_component_of_wind": "v10", "2m_temperature": "t2m",
    "mean_sea_level_pressure": "msl", "geopotential": "z", "specific_humidity": "q", "u_component_of_wind": "u",
    "v_component_of_wind": "v", "temperature": "t",
}  # fmt: skip
SURFACE, UPPER = ["u10", "v10", "t2m", "msl"], ["z", "q", "u", "v", "t"]

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")


def refused(place: object, *words: str, time: np.datetime64 = START) -> None:
    """Check that opening a place and reading a time raises an error with the place and all `words`."""
    with pytest.raises(StateError) as caught:
        open_states(str(place)).state(time)
    for word in (str(place), *words):
        assert word in str(caught.value)


def same(got: xr.DataArray, expected: xr.DataArray, within: float = 0.0) -> None:
    """Check that states are equal, or agree within a fraction of each channel's spread, the error of packing."""
    assert_array_equal(got.latitude, expected.latitude)
    assert_array_equal(got.longitude, expected.longitude)
    assert got.time.values == expected.time.values
    worst = abs(got - expected).max(("latitude", "longitude")) / expected.std(("latitude", "longitude"))
    assert worst.max() <= within, str(worst.channel[worst.argmax()].values)


def with_more_levels(dataset: xr.Dataset) -> xr.Dataset:
    """Add levels between the 13, as in a store of 37, which hold NaN so that taking one shows."""
    return dataset.reindex(level=sorted([*LEVELS, 10, 70, 350, 775, 975]))


def one_time_a_chunk(dataset: xr.Dataset, **settings: object) -> dict:
    """Return the encoding of a store with a chunk for each time."""
    return {name: {**each, **settings} for name, each in chunks(dataset, time=1).items()}


class TestWeatherBench2:
    @pytest.mark.parametrize("zarr_format", [2, 3])
    @pytest.mark.parametrize("consolidated", [True, False])
    @pytest.mark.parametrize(
        "layout",
        [
            lambda d: d,
            lambda d: d.transpose("time", "level", "longitude", "latitude").sortby("latitude"),
            lambda d: d.sortby("level", ascending=False).sortby("latitude").transpose("level", "latitude", ...),
            with_more_levels,
            lambda d: d.assign_coords(longitude=(d.longitude + 180) % 360 - 180).sortby("longitude"),
        ],
        ids=["0.25deg", "low-resolution", "levels-from-the-ground", "37-levels", "from-180W"],
    )
    def test_layouts(self, layout: Callable, consolidated: bool, zarr_format: int, tmp_path: Path) -> None:
        """Layouts differ in the order of dimensions, latitudes and levels, in their number, and in Zarr's format."""
        store = tmp_path / "era5.zarr"
        dataset = layout(made_dataset(0, 6, 12))
        parts = one_time_a_chunk(dataset)
        dataset.to_zarr(store, zarr_format=zarr_format, consolidated=consolidated, encoding=parts)
        source = open_states(store)
        assert_array_equal(source.times, START + np.array([0, 6, 12]))
        assert source.grid.matches(GRID)
        for hours in (0, 6, 12):
            same(source.state(START + hours), made_state(hours))

    def test_chunks_of_many_times_and_parts_of_the_globe(self, tmp_path: Path) -> None:
        dataset = made_dataset(0, 6, 12).drop_encoding()
        parts = chunks(dataset, time=2, level=5, latitude=7, longitude=10)
        dataset.to_zarr(tmp_path / "s.zarr", encoding=parts)
        same(open_states(tmp_path / "s.zarr").state(START + 12), made_state(12))

    def test_a_group_of_resolutions(self, tmp_path: Path) -> None:
        for group in ("24x13_with_poles", "other"):
            made_dataset(0).to_zarr(tmp_path / "era5.zarr", group=group)
        same(open_states(tmp_path / "era5.zarr/24x13_with_poles").state(START), made_state())
        refused(tmp_path / "era5.zarr", "24x13_with_poles, other", "name one")

    def test_a_folder_of_stores(self, tmp_path: Path) -> None:
        for name in ("1.zarr", "2.zarr"):
            made_dataset(0).to_zarr(tmp_path / name)
        refused(tmp_path, "1.zarr, 2.zarr", "name one")

    def test_in_a_bucket(self, tmp_path: Path) -> None:
        dataset = made_dataset(0, 6)
        dataset.to_zarr("memory://datasets/era5.zarr", encoding=one_time_a_chunk(dataset))
        same(open_states("memory://datasets/era5.zarr").state(START + 6), made_state(6))
        fsspec.filesystem("memory").rm("/datasets/era5.zarr/geopotential/c/1", recursive=True)
        refused("memory://datasets/era5.zarr", "z (geopotential) on all levels", "never written", time=START + 6)

    def test_a_state_on_a_wanted_grid(self, tmp_path: Path) -> None:
        made_dataset(0).to_zarr(tmp_path / "s.zarr")
        coarse = open_states(tmp_path / "s.zarr").state(START, COARSE)
        assert_array_equal(coarse.values, regrid(made_state().values, GRID, COARSE))
        assert coarse.attrs["regridding"] == "conservative"
        assert "13 x 24" in coarse.attrs["notes"]

    def test_single_fields(self, tmp_path: Path) -> None:
        made_dataset(0).drop_vars("specific_humidity").to_zarr(tmp_path / "s.zarr")
        source = open_states(tmp_path / "s.zarr")
        got = source.fields(START, ["t850", "msl", "z500"])
        assert list(got.channel.values) == ["t850", "msl", "z500"]
        assert_array_equal(got, made_state().sel(channel=["t850", "msl", "z500"]))
        with pytest.raises(StateError, match=r"missing q \(specific_humidity\) on levels 700 hPa"):
            source.fields(START, ["t850", "q700"])
        assert START not in source
        assert source.gaps(START) == [f"q{level}" for level in LEVELS]

    def test_surface_fields(self, tmp_path: Path) -> None:
        rain = xr.full_like(made_dataset(0)["2m_temperature"], 0.002).drop_attrs()
        dewpoint = xr.full_like(rain, np.nan)  # as WeatherBench2 has it
        made_dataset(0).assign({"total_precipitation_6hr": rain, "2m_dewpoint_temperature": dewpoint}).to_zarr(
            tmp_path / "s"
        )
        surface = open_states(tmp_path / "s").surface(START)
        assert set(surface) == {"tp6h"}
        assert_allclose(surface["tp6h"], 2.0, rtol=1e-6)
        assert surface["tp6h"].attrs["units"] == "kg m-2"

    def test_chunks_of_no_size_are_refused(self, tmp_path: Path) -> None:
        made_dataset(0).to_zarr(tmp_path / "s.zarr", zarr_format=3, consolidated=False)
        about = tmp_path / "s.zarr/temperature/zarr.json"
        content = json.loads(about.read_text())
        content["chunk_grid"]["configuration"]["chunk_shape"][-1] = 0
        about.write_text(json.dumps(content))
        with pytest.raises(StateError, match=r"s.zarr: .*temperature"):
            open_states(tmp_path / "s.zarr").gaps(START)

    def test_surface_fields_that_cannot_be_are_named(self, tmp_path: Path) -> None:
        pressure = xr.full_like(made_dataset(0)["2m_temperature"], 1000.0).drop_attrs()  # hPa
        made_dataset(0).assign(surface_pressure=pressure).to_zarr(tmp_path / "s.zarr")
        with pytest.raises(StateError, match=r"s.zarr, .*: ps spans 1000 to 1000 Pa, outside the plausible"):
            open_states(tmp_path / "s.zarr").surface(START)


class TestArcoEra5:
    """The time axis is longer than the data; attributes name the last valid time."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Path:
        dataset = made_dataset(0, 24, 48, 72)
        dataset = dataset.where(dataset.time < dataset.time[3])
        said = {
            "valid_time_start": "2024-03-01",
            "valid_time_stop": "2024-03-01",
            "valid_time_stop_era5t": "2024-03-03",
        }
        dataset.assign_attrs(said).to_zarr(tmp_path / "ar.zarr-v3")
        return tmp_path / "ar.zarr-v3"

    def test_times_end_where_the_data_do(self, store: Path) -> None:
        source = open_states(store)
        assert_array_equal(source.times, START + np.array([0, 24, 48]))
        refused(store, "2024-03-04T00", "valid from 2024-03-01T00 to 2024-03-03T23", time=START + 72)

    def test_era5t_is_said(self, store: Path) -> None:
        source = open_states(store)
        assert source.describe(START) == ""
        assert "preliminary" in source.state(START + 24).attrs["notes"]

    def test_hours_are_summed_up(self, tmp_path: Path) -> None:
        dataset = made_dataset(*range(7))
        hourly = (
            xr.full_like(dataset["2m_temperature"], 0.0).drop_attrs() + xr.DataArray(np.arange(7.0), dims="time") / 1e3
        )
        radiation = -hourly * 3.6e6 * 100
        dataset.assign(total_precipitation=hourly, top_net_thermal_radiation=radiation).to_zarr(tmp_path / "s")
        source = open_states(tmp_path / "s")
        surface = source.surface(START + 6)
        assert_allclose(surface["tp6h"], 1 + 2 + 3 + 4 + 5 + 6, rtol=1e-5)
        assert_allclose(surface["olr"], 100 * (1 + 2 + 3 + 4 + 5 + 6) / 6, rtol=1e-5)
        assert set(source.surface(START + 5)) == {"tp6h", "olr"}
        assert set(source.surface(START + 4)) == set()  # an hour is missing


def pack(dataset: xr.Dataset) -> dict:
    """Return the encoding of the Climate Data Store's old netCDF: int16, scale and offset per variable."""
    encoding = {}
    for name, variable in dataset.items():
        low, high = float(variable.min()), float(variable.max())
        scale = (high - low) / 65000
        encoding[name] = {"dtype": "int16", "scale_factor": scale, "add_offset": (high + low) / 2, "_FillValue": -32767}
    return encoding


class TestClimateDataStore:
    def test_old_netcdf(self, tmp_path: Path) -> None:
        """The file is netCDF-3, packed, with short names, longitudes from -180 or 0, and latitudes from the north."""
        dataset = made_dataset(0, 6).rename(SHORT)
        dataset.to_netcdf(tmp_path / "old.nc", engine="scipy", encoding=pack(dataset))
        got = open_states(tmp_path / "old.nc").state(START + 6)
        for name in UPPER:  # one scale for all levels of a variable
            held = [channel for channel in NAMES if channel.startswith(name) and channel[1:].isdigit()]
            step = pack(dataset)[name]["scale_factor"]
            assert abs(got - made_state(6)).sel(channel=held).max() <= step
        assert abs(got - made_state(6)).sel(channel="msl").max() <= 0.1

    def test_old_netcdf_of_both_versions(self, tmp_path: Path) -> None:
        """The dimension `expver` has 1 for final ERA5 and 5 for ERA5T; at each time one of the two is missing."""
        dataset = made_dataset(0, 6).rename(SHORT)
        final, late = dataset.where(dataset.time == dataset.time[0]), dataset.where(dataset.time == dataset.time[1])
        both = xr.concat([final, late], xr.Variable("expver", [1, 5]))
        both.to_netcdf(tmp_path / "both.nc", engine="h5netcdf")
        source = open_states(tmp_path / "both.nc")
        same(source.state(START), made_state())
        same(source.state(START + 6), made_state(6))
        assert [source.describe(time) for time in source.times] == ["", "preliminary (ERA5T, expver 5)"]

    def test_new_netcdf(self, tmp_path: Path) -> None:
        """There are a surface and a level file, with `valid_time`, `pressure_level`, and a version for each time."""
        dataset = made_dataset(0, 6).rename(SHORT).rename(time="valid_time", level="pressure_level")
        dataset = dataset.assign_coords(number=0, expver=("valid_time", np.array(["0001", "0005"])))
        dataset = dataset.sortby("pressure_level", ascending=False)
        dataset[SURFACE].to_netcdf(tmp_path / "data_stream-oper_stepType-instant.nc", engine="h5netcdf")
        dataset[UPPER].to_netcdf(tmp_path / "levels.nc", engine="h5netcdf")
        source = open_states(tmp_path)
        for hours in (0, 6):
            same(source.state(START + hours), made_state(hours))
        assert "preliminary" not in source.state(START).attrs["notes"]
        assert "preliminary (ERA5T, expver 5)" in source.state(START + 6).attrs["notes"]
        missing = open_states(tmp_path / "levels.nc").gaps(START)
        assert missing == SURFACE

    def test_grib_of_both_versions_and_step_types(self, tmp_path: Path) -> None:
        """Final fields are preferred to preliminary ones and never mixed with them; sums are not taken for instants."""
        path = tmp_path / "era5.grib"
        local = {"setLocalDefinition": 1, "localDefinitionNumber": 1}
        final, late = local | {"experimentVersionNumber": "0001"}, local | {"experimentVersionNumber": "0005"}
        write_grib(path, made_state(12), ["t2m"], 1, late | {"timeRangeIndicator": 3})  # a mean of the name 2t
        write_grib(path, made_state(12), edition=1, keys=late)
        write_grib(path, made_state(0), edition=1, keys=late)
        write_grib(path, made_state(0).copy(data=made_state(6).values), edition=1, keys=final)
        source = open_states(path)
        same(source.state(START + 12), made_state(12), 1e-5)
        assert source.describe(START + 12) == "preliminary (ERA5T, expver 5)"
        assert source.describe(START) == ""
        same(source.state(START), made_state(0).copy(data=made_state(6).values), 1e-5)

    def test_half_final_state_is_the_preliminary_one(self, tmp_path: Path) -> None:
        local = {"setLocalDefinition": 1, "localDefinitionNumber": 1}
        path = write_grib(
            tmp_path / "a.grib", made_state(), edition=1, keys=local | {"experimentVersionNumber": "0005"}
        )
        other = made_state().copy(data=made_state(6).values)
        write_grib(path, other, NAMES[:40], 1, local | {"experimentVersionNumber": "0001"})
        same(open_states(path).state(START), made_state(), 1e-5)


class TestOperational:
    def test_ecmwf_open_data(self, tmp_path: Path) -> None:
        """The file has heights for geopotential, columns from 180 E, CCSDS packing and specific humidity."""
        keys = {"centre": "ecmf", "packingType": "grid_ccsds"}
        path = write_grib(tmp_path / "20240301000000-0h-oper-fc.grib2", made_state(), None, 2, keys, True, 180.0)
        state = open_states(path).state(START)
        same(state, made_state(), 1e-3)
        assert "9.80665" in state.attrs["notes"]

    def test_gfs_of_edition_1(self, tmp_path: Path) -> None:
        path = write_grib(tmp_path / "gfs.grb", made_state(), edition=1, keys={"centre": "kwbc"}, heights=True)
        same(open_states(path).state(START), made_state(), 1e-3)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Write analyses at 00, 06, 12 UTC (the last incomplete), forecasts for 06 and 18 UTC, and a partial file."""
        keys = {"centre": "ecmf"}
        for hours in (0, 6):
            (tmp_path / f"{hours:02}").mkdir()
            write_grib(tmp_path / f"{hours:02}/pl.grib2", made_state(hours), NAMES[4:], keys=keys)
            write_grib(tmp_path / f"{hours:02}/sfc.grib2", made_state(hours), NAMES[:4], keys=keys)
        write_grib(tmp_path / "00/6h.grib2", made_state(6).copy(data=made_state(1).values), keys=keys, run=START)
        write_grib(tmp_path / "00/18h.grib2", made_state(18), keys=keys, run=START)
        half = [name for name in NAMES if name not in ("t2m", "z500", "z700", "q50")]
        write_grib(tmp_path / "12.grib2", made_state(12), half, keys=keys)
        (tmp_path / "12.cut.grib2").write_bytes((tmp_path / "00/sfc.grib2").read_bytes()[:-50])
        (tmp_path / "index.json").write_text("{}")
        return tmp_path

    def test_the_newest_whole_analysis(self, folder: Path) -> None:
        source = open_states(folder, analyses=True)
        assert_array_equal(source.times, START + np.array([0, 6, 12]))
        assert source.newest() == START + 6
        same(source.state(START + 6), made_state(6), 1e-3)
        assert [time in source for time in source.times] == [True, True, False]

    def test_what_is_missing_is_named(self, folder: Path) -> None:
        assert open_states(folder).gaps(START + 12) == ["t2m", "z500", "z700", "q50"]
        words = [
            "t2m (2m_temperature)",
            "z (geopotential) on levels 500, 700 hPa",
            "q (specific_humidity) on levels 50 hPa",
        ]
        refused(folder, "2024-03-01T12: missing", *words, "2t, z or gh", "12.cut.grib2 (truncated", time=START + 12)

    def test_an_analysis_comes_before_a_forecast(self, folder: Path) -> None:
        source = open_states(folder)
        assert source.newest() == START + 18
        same(source.state(START + 6), made_state(6), 1e-3)
        assert source.describe(START + 6) == ""
        assert source.state(START + 18).attrs["notes"] == "forecast of 18 h from 2024-03-01T00"

    def test_a_pattern(self, folder: Path) -> None:
        assert_array_equal(open_states(f"{folder}/0*/*.grib2", analyses=True).times, START + np.array([0, 6]))

    def test_a_bucket(
        self, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DACYCLE_CACHE", str(tmp_path_factory.mktemp("cache")))
        fsspec.filesystem("memory").put(f"{folder}/06", "/analyses", recursive=True)
        same(open_states("memory://analyses").state(START + 6), made_state(6), 1e-3)
        refused("memory://analyses", "no state at 2024-03-01T00", "2024-03-01T06")

    def test_only_forecasts(self, folder: Path) -> None:
        with pytest.raises(StateError, match="no analysis"):
            open_states(folder / "00/18h.grib2", analyses=True)

    def test_a_file_that_changes_under_the_reader(self, folder: Path) -> None:
        source = open_states(folder)
        path = folder / "06/sfc.grib2"
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(StateError, match=r"06/sfc\.grib2"):
            source.state(START + 6)


class TestHalfWrittenZarr:
    """Zarr fills chunks that were never written, for instance with 0: a calm, which looks like weather."""

    def store(self, tmp_path: Path) -> Path:
        dataset = made_dataset(0, 6)
        settings = one_time_a_chunk(dataset, fill_value=0.0)
        dataset.to_zarr(tmp_path / "s.zarr", zarr_format=3, encoding=settings, consolidated=False)
        return tmp_path / "s.zarr"

    @pytest.mark.parametrize(
        ("variable", "spelled"),
        [
            ("10m_u_component_of_wind", "u10 (10m_u_component_of_wind)"),
            ("v_component_of_wind", "v (v_component_of_wind) on all"),
        ],
    )
    def test_missing_chunk(self, tmp_path: Path, variable: str, spelled: str) -> None:
        store = self.store(tmp_path)
        shutil.rmtree(store / variable / "c/1")
        filled = xr.open_zarr(store, consolidated=False)[variable].isel(time=1)
        assert (filled == 0).all()  # what others read
        same(open_states(store).state(START), made_state())
        refused(store, "2024-03-01T06", spelled, "never written", "complete the store", time=START + 6)

    def test_a_time_whose_fields_are_still_to_come(self, tmp_path: Path) -> None:
        store = self.store(tmp_path)
        for name in made_dataset().data_vars:
            shutil.rmtree(store / str(name) / "c/1")
        source = open_states(store)
        assert source.newest() == START
        assert source.gaps(START + 6) == NAMES

    def test_missing_chunk_within_a_shard(self, tmp_path: Path) -> None:
        dataset = made_dataset(0, 6)
        settings = {"temperature": {"fill_value": 0.0, "chunks": (1, 1, 13, 24), "shards": (2, 13, 13, 24)}}
        dataset["temperature"][1] = 0  # what is all fill value is not written
        dataset["u_component_of_wind"][1, 3] = 0
        settings["u_component_of_wind"] = settings["temperature"]
        dataset.to_zarr(tmp_path / "s.zarr", zarr_format=3, encoding=settings)
        same(open_states(tmp_path / "s.zarr").state(START), made_state())
        refused(tmp_path / "s.zarr", "u_component_of_wind", "never written", time=START + 6)

    def test_missing_metadata(self, tmp_path: Path) -> None:
        (tmp_path / "s.zarr").mkdir()
        (tmp_path / "s.zarr/zarr.json").write_text("{")
        refused(tmp_path / "s.zarr", "as Zarr: cannot be read")


def _unstated(dataset: xr.Dataset, name: str, change: Callable) -> xr.Dataset:
    return dataset.assign({name: change(dataset[name]).drop_attrs()})


BAD: dict[str, tuple[Callable, list[str]]] = {
    "heights": (lambda d: _unstated(d, "geopotential", lambda x: x / 9.80665), ["z50", "metres", "9.80665"]),
    "stated heights": (
        lambda d: d.assign(geopotential=(d["geopotential"] / 9.80665).assign_attrs(units="m")),
        ["geopotential", "'m'", "m2 s-2"],
    ),
    "hectopascals": (
        lambda d: _unstated(d, "mean_sea_level_pressure", lambda x: x / 100),
        ["msl", "hPa", "multiply by 100"],
    ),
    "Celsius": (lambda d: _unstated(d, "2m_temperature", lambda x: x - 273.15), ["t2m", "Celsius", "273.15"]),
    "grams": (lambda d: _unstated(d, "specific_humidity", lambda x: x * 1000), ["g/kg", "divide by 1000"]),
    "twice": (lambda d: xr.concat([d, d], "time"), ["2 states at 2024-03-01T00", "drop the others"]),
    "not there": (lambda d: d.assign_coords(time=d.time + 6 * HOUR), ["no state at 2024-03-01T00", "2024-03-01T06"]),
    "half an hour": (lambda d: d.assign_coords(time=d.time + np.timedelta64(30, "m")), ["00:30", "not on the hour"]),
    "no time": (lambda d: d.isel(time=0).drop_vars("time"), ["`time`", "no valid time"]),
    "members": (lambda d: xr.concat([d, d], "number"), ["number", "select one"]),
    "region": (lambda d: d.isel(latitude=slice(3, 9)), ["part of the globe"]),
    "a column twice": (
        lambda d: d.pad(longitude=(0, 1), mode="wrap").assign_coords(longitude=15.0 * np.arange(25)),
        ["twice"],
    ),
    "a hole": (lambda d: d.assign(temperature=d["temperature"].where(d.latitude < 60)), ["t50", "not finite"]),
    "a level": (lambda d: d.drop_sel(level=[700]), ["z (geopotential), q", "levels 700 hPa"]),
    "no field": (lambda d: d[["2m_temperature"]].rename({"2m_temperature": "warmth"}), ["no field of a state"]),
    "integers": (lambda d: d.assign(temperature=d["temperature"].astype("int32")), ["temperature", "int32"]),
    "channels in one array": (
        lambda d: d.isel(level=[0] * 69).rename(level="channel")[["temperature"]].rename(temperature="state"),
        ["no field of a state", "10m_u_component_of_wind"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_datasets_are_refused(kind: str, tmp_path: Path) -> None:
    """The message names file, field and remedy."""
    spoil, words = BAD[kind]
    path = tmp_path / "bad.nc"
    spoil(made_dataset(0)).to_netcdf(path, engine="h5netcdf")
    refused(path, *words)


class TestBadFiles:
    def test_truncated_netcdf(self, tmp_path: Path) -> None:
        made_dataset(0).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        (tmp_path / "b.nc").write_bytes((tmp_path / "a.nc").read_bytes()[:3000])
        refused(tmp_path / "b.nc", "as HDF5: cannot be read")
        source = open_states(tmp_path)  # the whole file is still good
        same(source.state(START), made_state())
        assert "cannot be read" in source.left_out["b.nc"]

    def test_the_same_field_in_two_files(self, tmp_path: Path) -> None:
        made_dataset(0).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        made_dataset(0)[["temperature"]].to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
        refused(tmp_path, "a.nc", "b.nc", "t50", "leave one")

    def test_two_grids(self, tmp_path: Path) -> None:
        made_dataset(0)[["temperature"]].to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        made_dataset(6).isel(longitude=slice(None, None, 2)).to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
        with pytest.raises(StateError, match=r"b\.nc is on another grid than .*a\.nc"):
            open_states(tmp_path)

    def test_grib_beside_netcdf(self, tmp_path: Path) -> None:
        made_dataset(0).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        write_grib(tmp_path / "b.grib2", made_state(), ["t2m"])
        refused(tmp_path, "GRIB and netCDF", "a.nc", "b.grib2")

    def test_nothing(self, tmp_path: Path) -> None:
        refused(tmp_path / "nowhere", "no such file or folder")
        refused(tmp_path, "holds no GRIB or netCDF file")
        refused("memory://no/where.grib2", "where.grib2")

    def test_a_bucket_whose_package_is_not_there(self) -> None:
        refused("abfs://era5/a.zarr", "adlfs")


class TestReference:
    def test_states_are_on_the_worlds_grid(self, tmp_path: Path) -> None:
        made_dataset(0, 6).to_zarr(tmp_path / "s.zarr")
        reference = ProductReference(tmp_path / "s.zarr", COARSE)
        assert_array_equal(reference.array(START + 6), regrid(made_state(6).values, GRID, COARSE))
        assert reference.state(START).shape == (69, 6, 12)
        assert_array_equal(reference.times, START + np.array([0, 6]))
        assert reference.missing([START, START + 12]) == [START + 12]
        with pytest.raises(ReferenceDataError, match="no state at 2024-03-01T12"):
            reference.array(START + 12)

    def test_forecasts_are_no_reference(self, tmp_path: Path) -> None:
        write_grib(tmp_path / "a.grib2", made_state())
        write_grib(tmp_path / "b.grib2", made_state(6), run=START)
        reference = ProductReference(tmp_path, GRID)
        assert START in reference
        assert START + 6 not in reference

    def test_it_grows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The analysis arrives in two files while a service runs."""
        monkeypatch.setattr(ProductReference, "AGAIN", 0.0)
        write_grib(tmp_path / "00.grib2", made_state())
        reference = ProductReference(tmp_path, GRID)
        assert START + 6 not in reference
        write_grib(tmp_path / "06-pl.grib2", made_state(6), NAMES[4:])
        assert START + 6 not in reference
        assert "missing u10 (10m_u_component_of_wind); v10" in reference.absence(START + 6)
        write_grib(tmp_path / "06-sfc.grib2", made_state(6), NAMES[:4])
        assert START + 6 in reference
        assert reference.absence(START + 6) == ""

    def test_what_is_not_there_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(ReferenceDataError, match="no such file or folder"):
            ProductReference(tmp_path / "nowhere", GRID)
        made_dataset(0).to_zarr(tmp_path / "s.zarr")
        with pytest.raises(ReferenceDataError, match=r"2024-03-01T00: no outgoing_longwave_radiation here"):
            ProductReference(tmp_path / "s.zarr", GRID).surface(START, ["olr"])
