"""References in files: read by time, with errors for another layout and for times that are wrong."""

from collections.abc import Callable
from pathlib import Path

import h5netcdf
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

from dacycle.forecast_adapter.channels import index
from dacycle.forecast_adapter.state import StateError, validate
from dacycle.forecast_adapter.states.netcdf_zarr import from_dataset
from dacycle.forecast_adapter.worlds.reference import Reference, ReferenceDataError, write_times
from tests.conftest import TinyWorld

FIRST = np.datetime64("2024-01-01T00", "h")


@pytest.fixture(scope="module")
def days(world: TinyWorld) -> xr.Dataset:
    """Return two days of the tiny world as a dataset."""
    return xr.load_dataset(world.folder / "reference/2024-01-01.nc", engine="h5netcdf").isel(time=slice(0, 8))


@pytest.fixture
def folder(days: xr.Dataset, tmp_path: Path) -> Path:
    """Write the two days to two files, each in a folder, like a reference of several years."""
    write_times(days.isel(time=slice(0, 4)), tmp_path / "2024/2024-01-01.nc")
    write_times(days.isel(time=slice(4, 8)), tmp_path / "2024/2024-01-02.nc")
    return tmp_path


def test_times_of_all_files_in_order(folder: Path) -> None:
    reference = Reference(folder)
    assert_array_equal(reference.times, FIRST + np.arange(0, 48, 6))
    assert reference.times.dtype == np.dtype("datetime64[h]")
    assert reference.grid.shape == (32, 64)


def test_states_are_those_of_the_files(folder: Path, days: xr.Dataset) -> None:
    reference = Reference(folder)
    for time in reference.times:
        state = validate(reference.state(time), str(folder))
        xr.testing.assert_equal(state, from_dataset(days, time))
        assert_array_equal(reference.array(time), state.values)
        assert reference.array(time).dtype == np.float32
    # Different times, different fields.
    assert not np.array_equal(reference.array(FIRST), reference.array(FIRST + 6))


def test_a_mark_tells_states_apart_by_every_field(folder: Path, days: xr.Dataset, tmp_path: Path) -> None:
    reference, changed = Reference(folder), FIRST + 12
    marks = [reference.mark(time) for time in reference.times]
    assert len(set(marks)) == len(marks)
    assert reference.mark(FIRST + 48) == ""
    fields = [name for name, field in days.items() if "time" in field.dims]
    assert len(fields) >= 9
    for name in fields:
        other = days.copy(deep=True)
        other[name].loc[{"time": changed}] *= np.float32(1.0001)
        write_times(other, tmp_path / f"other/{name}/2024.nc")
        there = Reference(tmp_path / f"other/{name}")
        differ = [time for time, mark in zip(reference.times, marks, strict=True) if there.mark(time) != mark]
        assert differ == [changed], name


def test_a_mark_follows_the_files(folder: Path, days: xr.Dataset) -> None:
    reference = Reference(folder)
    before = [reference.mark(FIRST), reference.mark(FIRST + 24)]
    write_times(
        days.isel(time=slice(4, 8)).assign(geopotential=days["geopotential"] + 1), folder / "2024/2024-01-02.nc"
    )
    reference.refresh()
    assert reference.mark(FIRST) == before[0]
    assert reference.mark(FIRST + 24) != before[1]


def test_a_mark_is_of_files_of_any_layout(days: xr.Dataset, tmp_path: Path) -> None:
    """Of files that are stored whole, in no chunks."""
    for folder, factor in (("one", 1), ("other", np.float32(1.0001))):
        states = days.copy(deep=True)
        states["temperature"].loc[{"time": FIRST + 6}] *= factor
        (tmp_path / folder).mkdir()
        encoding = {name: {"chunksizes": None, "contiguous": True} for name in states.data_vars}
        states.to_netcdf(tmp_path / folder / "2024.nc", engine="h5netcdf", encoding=encoding)
    one, other = Reference(tmp_path / "one"), Reference(tmp_path / "other")
    assert [one.mark(time) == other.mark(time) for time in one.times] == [True, False, *[True] * 6]


def test_a_time_may_be_given_in_any_resolution(folder: Path) -> None:
    reference = Reference(folder)
    assert_array_equal(reference.array(pd.Timestamp("2024-01-01T06").to_datetime64()), reference.array(FIRST + 6))


def test_a_caller_cannot_spoil_the_next_reading(folder: Path) -> None:
    reference = Reference(folder)
    with pytest.raises(ValueError, match="read-only"):
        reference.array(FIRST)[index("t2m")] = 0


def test_surface_fields_are_si(folder: Path, days: xr.Dataset) -> None:
    surface = Reference(folder).surface(FIRST + 6)
    stored = days.isel(time=1)
    assert_allclose(surface["tp6h"], 1000 * stored["total_precipitation_6hr"], rtol=1e-6)  # metres to kg m-2
    assert_allclose(surface["olr"], stored["outgoing_longwave_radiation"])
    assert_allclose(surface["ps"], stored["surface_pressure"])
    assert surface["tp6h"].dims == ("latitude", "longitude")
    assert {name: surface[name].attrs["units"] for name in surface} == {
        "tp6h": "kg m-2",
        "olr": "W m-2",
        "td2m": "K",
        "ps": "Pa",
    }


def test_missing_time_names_the_folder_and_the_time(folder: Path) -> None:
    reference = Reference(folder)
    late = np.datetime64("2025-07-01T00", "h")
    for read in (reference.state, reference.array, reference.surface):
        with pytest.raises(ReferenceDataError) as caught:
            read(late)
        assert str(folder) in str(caught.value)
        assert "2025-07-01T00" in str(caught.value)
        assert "2024-01-01T00 to 2024-01-02T18" in str(caught.value)
    assert late not in reference
    assert FIRST in reference
    assert reference.missing([FIRST, late]) == [late]


def test_a_time_between_two_states_is_missing(folder: Path) -> None:
    """A time is never replaced by the nearest one: half past twelve is not noon."""
    reference = Reference(folder)
    with pytest.raises(ReferenceDataError):
        reference.state(np.datetime64("2024-01-01T05", "h"))
    with pytest.raises(StateError, match="12:30"):
        reference.state(np.datetime64("2024-01-01T12:30", "m"))


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReferenceDataError, match=str(tmp_path)):
        Reference(tmp_path)


def test_a_time_in_two_files_is_refused(folder: Path, days: xr.Dataset) -> None:
    write_times(days.isel(time=[4]), folder / "2024/2024-01-03.nc")
    with pytest.raises(ReferenceDataError, match="2024-01-02"):
        Reference(folder)


def test_an_interrupted_write_leaves_no_file_to_read(folder: Path, days: xr.Dataset, monkeypatch) -> None:
    """A file whose writing was interrupted has a temporary name, which a reference ignores."""

    def cut_off(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(h5netcdf.File, "resize_dimension", cut_off)
    with pytest.raises(OSError, match="disk full"):
        write_times(days, folder / "2024/2024-01-03.nc")
    assert not (folder / "2024/2024-01-03.nc").exists()
    assert len(Reference(folder).times) == 8


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda d: d.drop_vars("specific_humidity"), "specific_humidity"),
        (lambda d: d.sel(level=d.level[::-1]), "levels"),
        (lambda d: d.transpose("time", "level", "longitude", "latitude"), "longitude"),
        (lambda d: d.assign(_longitude_first(d, "2m_temperature")), "2m_temperature"),
        (lambda d: d.sortby("latitude"), "latitude"),
        (lambda d: d.drop_vars("latitude"), "latitude"),
        (lambda d: d.assign_coords(longitude=d.longitude + 1.0), "grid"),
    ],
)
def test_another_layout_is_refused_by_file(
    folder: Path, days: xr.Dataset, spoil: Callable[[xr.Dataset], xr.Dataset], word: str
) -> None:
    """The error comes also for a second file, after a correct first one."""
    path = folder / "2024/2024-01-03.nc"
    later = days.isel(time=[0]).assign_coords(time=days.time[:1] + np.timedelta64(48, "h"))
    write_times(spoil(later), path)
    with pytest.raises(ReferenceDataError) as caught:
        Reference(folder)
    assert str(path) in str(caught.value)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("geopotential", 1e30, "z50 spans .* m2 s-2, outside the plausible"),
        ("2m_temperature", np.nan, "t2m has values that are not finite"),
        ("surface_pressure", 1e3, "ps spans 1000 to .* Pa, outside the plausible"),
        ("total_precipitation_6hr", np.inf, "tp6h has values that are not finite"),
    ],
)
def test_values_that_cannot_be_are_named(folder: Path, name: str, value: float, complaint: str) -> None:
    path = folder / "2024/2024-01-02.nc"
    with h5netcdf.File(path, "r+") as file:
        file[name][(1, *(0,) * (file[name].ndim - 1))] = value
    reference, time = Reference(folder), FIRST + 30
    with pytest.raises(ReferenceDataError, match=rf"{path}, 2024-01-02T06: {complaint}"):
        reference.array(time), reference.surface(time)
    assert reference.array(time + 6).shape == (69, 32, 64)


def test_packed_values_are_refused(folder: Path, days: xr.Dataset) -> None:
    """Integers with a scale and an offset would be read without applying them."""
    path = folder / "2024/2024-01-03.nc"
    later = days.isel(time=[0]).assign_coords(time=days.time[:1] + np.timedelta64(48, "h"))
    packing = {"dtype": "int16", "_FillValue": -1, "scale_factor": 0.01, "add_offset": 250.0}
    later.to_netcdf(path, engine="h5netcdf", encoding={"2m_temperature": packing, "time": _hours()})
    with pytest.raises(ReferenceDataError, match=r"2m_temperature"):
        Reference(folder)


def test_times_counted_from_another_hour_are_refused(folder: Path, days: xr.Dataset) -> None:
    path = folder / "2024/2024-01-03.nc"
    later = days.isel(time=[0]).assign_coords(time=days.time[:1] + np.timedelta64(48, "h"))
    hours = {"units": "hours since 1970-01-01T06:00:00", "dtype": "int64"}
    later.to_netcdf(path, engine="h5netcdf", encoding={"time": hours})
    with pytest.raises(ReferenceDataError, match="1970-01-01T06"):
        Reference(folder)


def _hours() -> dict[str, str]:
    return {"units": "hours since 1970-01-01", "dtype": "int64"}


def _longitude_first(dataset: xr.Dataset, name: str) -> dict[str, xr.DataArray]:
    return {name: dataset[name].transpose("time", "longitude", "latitude")}
