"""What is written can be read again, by cfgrib and xarray as users do, or is refused before anything is lost."""

from pathlib import Path

import cfgrib
import eccodes
import numpy as np
import pytest
import xarray as xr

from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.files import write_states
from dacycle.forecast_adapter.states.points import check_writable, read_points, write_points
from dacycle.forecast_adapter.worlds.world import World

N160 = "grid/ecmwf_fc48_2t_N160_valid_2018112012.grib"


def repacked(source: Path, out: Path, **keys: object) -> Path:
    """Write a copy of GRIB messages with other keys."""
    with source.open("rb") as file, out.open("wb") as copy:
        while (message := eccodes.codes_grib_new_from_file(file)) is not None:
            values = eccodes.codes_get_values(message)
            for key, value in keys.items():
                eccodes.codes_set(message, key, value)
            eccodes.codes_set_values(message, values)
            eccodes.codes_write(message, copy)
            eccodes.codes_release(message)
    return out


@pytest.mark.parametrize("suffix", [".grib2", ".nc", ".zarr"])
def test_all_fields_are_found_with_one_call(tiny: World, tmp_path: Path, suffix: str) -> None:
    path, times = tmp_path / f"states{suffix}", tiny.reference.times[:2]
    write_states(path, (tiny.reference.state(time) for time in times), {"title": "States"}, bits=24)
    if suffix == ".grib2":
        datasets = cfgrib.open_datasets(str(path), {"indexpath": ""})
        fields = {name: field for dataset in datasets for name, field in dataset.data_vars.items()}
        assert set(fields) == {"u10", "v10", "t2m", "msl", "z", "q", "u", "v", "t"}
    else:
        with xr.open_dataset(path, engine="zarr" if suffix == ".zarr" else "h5netcdf") as dataset:
            fields = {name: field.load() for name, field in dataset.data_vars.items()}
        assert len(fields) == 9
    assert {field.sizes["time"] for field in fields.values()} == {2}
    assert sum(field.sizes.get("level", field.sizes.get("isobaricInhPa", 1)) for field in fields.values()) == len(NAMES)


def test_a_constant_field_does_not_spoil_those_after_it(tiny: World, tmp_path: Path) -> None:
    state = tiny.reference.state(tiny.reference.times[0]).copy(deep=True)
    state.loc["t2m"] = 280.0
    write_states(tmp_path / "a.grib2", [state], {}, bits=16)
    back = read_points(tmp_path / "a.grib2")
    assert (back.values["t2m"] == 280).all()
    np.testing.assert_allclose(back.values["msl"], state.sel(channel="msl").values.ravel(), atol=0.2)


def test_a_file_that_readers_would_see_otherwise_is_not_kept(tiny: World, tmp_path: Path) -> None:
    """Two states of the same time are one to cfgrib, which takes the last."""
    state = tiny.reference.state(tiny.reference.times[0])
    other = state.copy(data=state.values * 1.001)
    twice = [state, other, state.copy(data=state.values * 0.999)]
    with pytest.raises(StateError, match=r"a\.grib2.*(cfgrib does not read|cannot be read)"):
        write_states(tmp_path / "a.grib2", [twice[0], twice[1]], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "keys",
    [
        {"packingType": "grid_second_order"},
        {"packingType": "grid_ieee"},
        {"edition": 2, "packingType": "grid_png"},
        {"edition": 2, "packingType": "grid_complex_spatial_differencing"},
        {"decimalScaleFactor": 1, "bitsPerValue": 0},
        {"decimalScaleFactor": 0, "bitsPerValue": 8},
        {"edition": 2, "productionStatusOfProcessedData": 4},
    ],
    ids=["second order", "IEEE", "PNG", "complex", "tenths", "8 bits", "TIGGE"],
)
def test_an_analysis_keeps_its_values_in_the_packing_of_the_background(
    shared: Path, tmp_path: Path, keys: dict[str, object]
) -> None:
    fields = read_points(repacked(shared / N160, tmp_path / "background.grib", **keys))
    wanted = fields.values["t2m"] + np.sin(np.arange(len(fields.latitude)))
    check_writable(tmp_path / "a.grib", fields)
    write_points(tmp_path / "a.grib", fields, {"t2m": wanted}, rest=True)
    (dataset,) = cfgrib.open_datasets(str(tmp_path / "a.grib"), {"indexpath": ""})
    np.testing.assert_allclose(dataset["t2m"].values, wanted, atol=2e-3)
    assert dataset["step"] == 0
    assert dataset["valid_time"].values == fields.time


def test_a_packing_that_cannot_hold_an_analysis_is_refused_before_there_is_one(shared: Path, tmp_path: Path) -> None:
    keys = {"edition": 2, "packingType": "grid_simple_log_preprocessing"}
    source = repacked(shared / N160, tmp_path / "background.grib", **keys)
    fields = read_points(source)
    message = r"background\.grib: t2m, 2018-11-20T12: packed as grid_simple_log_preprocessing .* grib_set -r"
    with pytest.raises(StateError, match=message):
        check_writable(tmp_path / "a.grib", fields)


@pytest.mark.parametrize("name", ["a.nc", "a.zarr", "a.grib2", "a.txt", "a"])
def test_an_ending_that_is_not_the_backgrounds_format_is_refused(shared: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(StateError, match=r"the background is GRIB1.*end the name in \.grib, \.grb, \.grib1, \.grb1"):
        check_writable(tmp_path / name, read_points(shared / N160))


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_files_carry_the_attributes_of_the_cf_conventions(tiny: World, tmp_path: Path, suffix: str) -> None:
    path, times = tmp_path / f"states{suffix}", tiny.reference.times[:2]
    write_states(path, (tiny.reference.state(time) for time in times), {"title": "States"})
    with xr.open_dataset(path, engine="zarr" if suffix == ".zarr" else "h5netcdf", decode_times=False) as dataset:
        assert dataset.attrs["Conventions"] == "CF-1.10"
        assert dataset.attrs["title"] == "States"
        assert "written by dacycle" in dataset.attrs["history"]
        for variable in dataset.data_vars.values():
            assert {"standard_name", "long_name", "units"} <= set(variable.attrs)
        assert dataset["2m_temperature"].attrs["standard_name"] == "air_temperature"
        assert {str(name): coordinate.attrs["axis"] for name, coordinate in dataset.coords.items()} == {
            "time": "T", "level": "Z", "latitude": "Y", "longitude": "X",
        }  # fmt: skip
        assert dataset["level"].attrs["positive"] == "down"
        for coordinate in dataset.coords.values():
            assert "units" in coordinate.attrs
            assert "_FillValue" not in {**coordinate.attrs, **coordinate.encoding}


def test_a_disk_that_keeps_other_bytes_is_noticed(tiny: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = xr.open_dataset
    monkeypatch.setattr(xr, "open_dataset", lambda *args, **options: opened(*args, **options) * np.float32(1.0000001))
    with pytest.raises(StateError, match=r"a\.nc: what is read is not what was written"):
        write_states(tmp_path / "a.nc", [tiny.reference.state(tiny.reference.times[0])], {})
    assert list(tmp_path.iterdir()) == []
