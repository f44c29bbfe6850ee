"""Files and stores that cannot be read, or not as they are: one error that names what, where and the remedy."""

import gzip
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import eccodes
import h5netcdf
import numcodecs
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from typer.testing import CliRunner
from zarr.codecs import BloscCodec

from dacycle.common.pieces import in_processes
from dacycle.cycler.cli import app
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.points import read_points
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.dataset import build_dataset
from dacycle.forecast_adapter.worlds.manifest import DatasetError
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.static import write_static
from tests.forecast_adapter.made import GRID, START, chunks, made_dataset, made_state, write_grib


def refused(place: Path, *words: str, time: np.datetime64 = START) -> None:
    """Check that opening a place and reading a time raises an error with the place and all `words`."""
    with pytest.raises(StateError) as caught:
        open_states(place).state(time)
    for word in (str(place), *words):
        assert word in str(caught.value)


def listed(place: Path) -> str:
    """Return what `dacycle states` prints."""
    return CliRunner(env={"COLUMNS": "2000"}).invoke(app, ["states", str(place)]).output


def zarr_store(path: Path, version: int, blosc: bool = False) -> Path:
    dataset = made_dataset(0, 6, 12)
    encoding = chunks(dataset, time=1)
    if blosc:
        codec = numcodecs.Blosc() if version == 2 else BloscCodec()
        for name in dataset.data_vars:
            encoding[name]["compressors"] = (codec,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.to_zarr(path, encoding=encoding, zarr_format=version)
    return path


def chunk_of(store: Path, version: int, name: str, time: int) -> Path:
    return store / name / (f"c/{time}/0/0/0" if version == 3 else f"{time}.0.0.0")


class TestZarrChunks:
    @pytest.mark.parametrize(("version", "kept"), [(2, 0.5), (3, 0)])
    def test_the_time_is_named_and_the_others_are_read(self, version: int, kept: float, tmp_path: Path) -> None:
        store = zarr_store(tmp_path / "s.zarr", version)
        cut(chunk_of(store, version, "temperature", 1), kept)
        assert_allclose(open_states(store).state(START), made_state())
        refused(store, str(START + 6), "temperature", time=START + 6)
        output = listed(store)
        assert output.count("whole") == 3  # two times, and the heading's newest
        assert "temperature: cannot be read" in output

    @pytest.mark.parametrize("version", [2, 3])
    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
    def test_blosc_does_not_read_beyond_the_end_of_a_chunk(self, version: int, kept: float, tmp_path: Path) -> None:
        """What lies behind it in memory would sometimes be plausible: the same file is refused each time."""
        store = zarr_store(tmp_path / "s.zarr", version, blosc=True)
        assert np.isfinite(open_states(store).state(START + 6)).all()
        cut(chunk_of(store, version, "temperature", 1), kept)
        for _ in range(20):
            refused(store, str(START + 6), "temperature", "header states", time=START + 6)

    @pytest.mark.parametrize(("version", "kept", "workers"), [(2, 0, 1), (3, 0.5, 2)])
    def test_a_dataset_keeps_the_others(self, version: int, kept: float, workers: int, tmp_path: Path) -> None:
        store = zarr_store(tmp_path / "s.zarr", version)
        cut(chunk_of(store, version, "temperature", 1), kept)
        times = START + np.array([0, 6, 12])
        refusal = pytest.raises(DatasetError, match=r"(?s)1 of 3 times.*2024-03-01T06: .*temperature: cannot be read")
        with refusal, in_processes(workers) as each:
            build_dataset(str(store), tmp_path / "d", get_grid("5.625deg"), times, each=each)
        build_dataset(str(store), tmp_path / "d", get_grid("5.625deg"), times[[0, 2]])
        assert list(Reference(tmp_path / "d").times) == [times[0], times[2]]


def cut(path: Path, kept: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])


class TestNetcdf:
    def test_damage_in_the_middle(self, tmp_path: Path) -> None:
        dataset = made_dataset(0)
        packed = {name: {"zlib": True, "fletcher32": True} for name in dataset.data_vars}
        dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding=packed)
        content = bytearray((tmp_path / "a.nc").read_bytes())
        with h5netcdf.File(tmp_path / "a.nc") as file:
            begin = file["temperature"]._h5ds.id.get_chunk_info(0).byte_offset
        content[begin + 100 : begin + 200] = bytes(100)
        (tmp_path / "a.nc").write_bytes(content)
        refused(tmp_path / "a.nc", str(START), "temperature", "cannot be read")
        assert "temperature: cannot be read" in listed(tmp_path / "a.nc")
        assert "none of the last" in listed(tmp_path / "a.nc")

    def test_a_filter_that_is_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made_dataset(0).to_netcdf(
            tmp_path / "a.nc", engine="h5netcdf", encoding={"temperature": {"zlib": True}}
        )  # zlib stands for zstd, which cannot be written here
        monkeypatch.setattr("h5py.h5z.filter_avail", lambda _: False)
        refused(tmp_path / "a.nc", "temperature is packed by deflate (1)", "nccopy")

    def test_groups(self, tmp_path: Path) -> None:
        made_dataset(0).to_netcdf(tmp_path / "a.nc", engine="h5netcdf", group="analysis")
        refused(tmp_path / "a.nc", "in groups (analysis)", "ncks")

    def test_no_time_yet(self, tmp_path: Path) -> None:
        dataset = made_dataset(0).isel(time=slice(0, 0))
        dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", unlimited_dims=["time"])
        refused(tmp_path / "a.nc", "holds no time yet")

    @pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian"])
    def test_other_calendars(self, calendar: str, tmp_path: Path) -> None:
        dataset = made_dataset(0).assign_coords(time=("time", [10.0], {"units": "days since 2000-01-01"}))
        dataset["time"].attrs["calendar"] = calendar
        dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        refused(tmp_path / "a.nc", f"in the calendar '{calendar}'", "standard calendar")

    @pytest.mark.parametrize("unit", ["hours since 1-1-1 00:00:0.0", "days since 0001-01-01", "hours since 1500-01-01"])
    def test_years_before_1678(self, unit: str, tmp_path: Path) -> None:
        """They are read as they are meant, or refused with the way out; never with advice for programmers."""
        dataset = made_dataset(0).assign_coords(time=("time", [24.0], {"units": unit}))
        dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        with pytest.raises(StateError) as caught:
            open_states(tmp_path / "a.nc").state(START)
        assert "decode_times" not in str(caught.value)
        assert "setreftime" in str(caught.value)

    def test_a_lead_is_no_valid_time(self, tmp_path: Path) -> None:
        lead = np.timedelta64(24, "h").astype("timedelta64[ns]")
        made_dataset(0).expand_dims(prediction_timedelta=[lead]).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        refused(tmp_path / "a.nc", "starts of forecasts", "valid_time")


class TestLevels:
    @pytest.mark.parametrize(("name", "dtype"), [("plev", float), ("plev", np.float32), ("isobaric", float)])
    def test_pressure_in_pascal(self, name: str, dtype: type, tmp_path: Path) -> None:
        dataset = made_dataset(0).rename(level=name)
        dataset = dataset.assign_coords({name: (name, (100 * dataset[name].values).astype(dtype), {"units": "Pa"})})
        dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        assert_allclose(open_states(tmp_path / "a.nc").state(START), made_state())

    @pytest.mark.parametrize("unit", [None, "1", "K"])
    def test_what_is_no_pressure(self, unit: str | None, tmp_path: Path) -> None:
        dataset = made_dataset(0)
        attrs = {} if unit is None else {"units": unit}
        dataset = dataset.assign_coords(level=("level", 100.0 * dataset["level"].values, attrs))
        dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        stated = "without units" if unit is None else f" {unit},"
        refused(tmp_path / "a.nc", "its levels are 5000, 10000", stated, "state `units` hPa or Pa")

    def test_a_unit_that_is_no_text(self, tmp_path: Path) -> None:
        dataset = made_dataset(0)
        dataset["temperature"].attrs["units"] = np.array([1.0, 2.0])
        dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        refused(tmp_path / "a.nc", "temperature is in '[1. 2.]'; convert it to 'K' first")

    def test_other_levels_are_listed(self, tmp_path: Path) -> None:
        made_dataset(0).isel(level=[0, 7]).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        refused(tmp_path / "a.nc", "on levels", "its levels are 50, 500 hPa")


def _gzip(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content))


def _zip(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.grib", content)


def _zip_of_store(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("s.zarr/.zgroup", content)


PACKED: dict[str, tuple[Callable[[Path, bytes], None], str]] = {
    "gzip": (_gzip, "packed by gzip; unpack it with gunzip"),
    "ZIP": (_zip, "a ZIP archive; unpack it"),
    "ZIP of a store": (_zip_of_store, "a ZIP archive of a Zarr store; unpack it"),
    "CDF-5": (lambda path, _: path.write_bytes(b"CDF\x05" + bytes(100)) and None, "CDF-5; convert it"),
    "a page": (lambda path, _: path.write_text("<!DOCTYPE html>") and None, "a web page"),
}


@pytest.mark.parametrize("name", ["a.nc", "a.grib"])
@pytest.mark.parametrize("kind", PACKED)
def test_packed_files_say_what_they_are(kind: str, name: str, tmp_path: Path) -> None:
    """Alone they are refused; in a folder the others are used."""
    pack, remedy = PACKED[kind]
    state = write_grib(tmp_path / "state.grib", made_state())
    pack(tmp_path / name, state.read_bytes())
    refused(tmp_path / name, remedy)
    with pytest.raises(StateError, match=remedy):
        read_points(tmp_path / name)
    source = open_states(tmp_path)
    assert START in source
    assert remedy in source.left_out[name]
    assert f"left out: {name}" in listed(tmp_path).replace("\n", "")


class TestGrib:
    def test_a_column_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "twice.grib2"
        message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
        keys = {
            "Ni": 25, "Nj": 13,
            "latitudeOfFirstGridPointInDegrees": 90, "latitudeOfLastGridPointInDegrees": -90,
            "longitudeOfFirstGridPointInDegrees": 0, "longitudeOfLastGridPointInDegrees": 360,
            "iDirectionIncrementInDegrees": 15, "jDirectionIncrementInDegrees": 15, "shortName": "2t",
        }  # fmt: skip
        for key, value in keys.items():
            eccodes.codes_set(message, key, value)
        eccodes.codes_set_values(message, np.full(25 * 13, 280.0))
        with path.open("wb") as file:
            eccodes.codes_write(message, file)
        refused(path, "the column at 0 is there twice", "both 0 and 360 E")

    def test_one_point_is_no_globe(self, tmp_path: Path) -> None:
        dataset = made_dataset(0).isel(latitude=[6], longitude=[3])
        dataset.to_netcdf(tmp_path / "point.nc", engine="h5netcdf")
        refused(tmp_path / "point.nc", "covers only part of the globe")

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("spherical_harmonics.grib", ["is on a sh grid; interpolate it to latitude-longitude first"]),
            ("regular_ll_wrong_increment.grib", ["2t", "contradicts itself"]),
        ],
    )
    def test_genuine_grids(self, full_samples: Path, name: str, words: list[str]) -> None:
        refused(full_samples / "cases/grib" / name, *words)

    def test_a_damaged_field(self, tmp_path: Path) -> None:
        """The header is whole, so that only reading finds it; `states` reads."""
        path = write_grib(tmp_path / "a.grib2", made_state())
        content = path.read_bytes()
        with path.open("rb") as file:
            message = eccodes.codes_grib_new_from_file(file)
            bits_per_value = eccodes.codes_get(message, "offsetSection5") + 19
            eccodes.codes_release(message)
        path.write_bytes(content[:bits_per_value] + b"\xff" + content[bits_per_value + 1 :])
        with pytest.raises(StateError, match=r"10u"):
            open_states(path).state(START)
        assert "none of the last" in listed(path)

    def test_analysis_and_forecast_of_0_h(self, tmp_path: Path) -> None:
        """The analysis counts, as the documents say, and the forecast of 0 h where it lacks a field."""
        other = made_state() + 0.5
        forecast = {"typeOfProcessedData": 1, "typeOfGeneratingProcess": 2}
        analysis = {"typeOfProcessedData": 0, "typeOfGeneratingProcess": 0}
        write_grib(tmp_path / "gfs.f000", other, keys=forecast)
        write_grib(tmp_path / "gfs.anl", made_state(), keys=analysis)
        for analyses in (False, True):
            source = open_states(tmp_path, analyses)
            assert_allclose(source.state(START).sel(channel="t2m"), made_state().sel(channel="t2m"), rtol=1e-5)
        assert "whole" in listed(tmp_path)

    def test_ecmwf_analysis_and_step_0(self, tmp_path: Path) -> None:
        write_grib(tmp_path / "fc.grib", made_state() + 0.5, edition=1, keys={"marsType": "fc"})
        write_grib(tmp_path / "an.grib", made_state(), edition=1, keys={"marsType": "an"})
        state = open_states(tmp_path).state(START)
        assert_allclose(state.sel(channel="t2m"), made_state().sel(channel="t2m"), rtol=1e-5)

    def test_members_are_not_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "members.grib2"
        for number in (0, 1):
            keys = {"productDefinitionTemplateNumber": 1, "perturbationNumber": number}
            write_grib(path, made_state(), keys=keys)
        source = open_states(path)
        assert START not in source
        assert source.newest() is None
        refused(path, "is there twice (ensemble members, or two runs)")
        assert "is there twice" in listed(path)


def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error of one file costs that file."""
    write_grib(tmp_path / "a.grib", made_state())
    made = write_grib(tmp_path / "b.grib", made_state(6))
    real = Path.open

    def failing(self: Path, *args: object, **kwargs: object) -> object:
        if self == made:
            raise OSError(5, "Input/output error")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", failing)
    source = open_states(tmp_path)
    assert list(source.times) == [START]
    assert "Input/output error" in source.left_out["b.grib"]
    refused(made, "Input/output error")


def test_two_files_of_one_name_are_both_named(tmp_path: Path) -> None:
    write_grib(tmp_path / "a.grib", made_state())
    for folder in ("00", "06"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "f000.grib").write_bytes(b"GRIB" + bytes(50))
    assert len(open_states(tmp_path).left_out) == 2


def test_the_ground_is_not_geopotential_aloft(tmp_path: Path) -> None:
    shape = ("pressure_level", "latitude", "longitude")
    coordinates = {"pressure_level": [500.0], "latitude": GRID.latitude, "longitude": GRID.longitude}
    field = (shape, np.zeros((1, *GRID.shape), np.float32), {"units": "m**2 s**-2"})
    xr.Dataset({"z": field}, coordinates).to_netcdf(tmp_path / "z500.nc", engine="h5netcdf")
    with pytest.raises(StateError, match="holds no geopotential_at_surface"):
        write_static(str(tmp_path / "z500.nc"), tmp_path / "static.nc", get_grid("5.625deg"), START)
