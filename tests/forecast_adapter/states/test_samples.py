"""Genuine files, each compared with an independent reader at some places; errors name missing channels."""

from pathlib import Path

import eccodes
import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.testing import assert_allclose, assert_array_equal

from dacycle.forecast_adapter.channels import LEVELS
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.points import read_points
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.states.source import StateSource, spell_channels

PLACES = [(90.0, 0.0), (60.0, 180.0), (30.0, 12.0), (0.0, 348.0), (-66.0, 276.0), (-90.0, 90.0)]
SURFACE = ["u10", "v10", "t2m", "msl"]


def upper(variables: str, levels: tuple[int, ...] = LEVELS) -> list[str]:
    return [f"{variable}{level}" for variable in variables for level in levels]


def lacks(source: StateSource, time: str, missing: list[str]) -> None:
    """Check that reading a whole state raises an error that names exactly these channels."""
    assert sorted(source.gaps(np.datetime64(time, "h"))) == sorted(missing)
    with pytest.raises(StateError) as caught:
        source.state(time)
    ordered = source.gaps(np.datetime64(time, "h"))
    assert f"{source.name}, {time}: missing {spell_channels(ordered)}" in str(caught.value)


def by_header(path: Path, name: str, level: int, time: str) -> list[float]:
    """Return values at PLACES, counted from the header's first point, rows to the south, columns to the east."""
    with path.open("rb") as file:
        while (message := eccodes.codes_grib_new_from_file(file)) is not None:
            keys = [eccodes.codes_get(message, key) for key in ("shortName", "level", "validityDate", "validityTime")]
            if keys == [name, level, int(time[:10].replace("-", "")), 100 * int(time[11:])]:
                assert eccodes.codes_get(message, "scanningMode") == 0
                step = 180 / (eccodes.codes_get(message, "Nj") - 1)
                values = eccodes.codes_get_values(message).reshape(eccodes.codes_get(message, "Nj"), -1)
                first = eccodes.codes_get(message, "longitudeOfFirstGridPointInDegrees")
                at = [(round((90 - lat) / step), round((lon - first) % 360 / step)) for lat, lon in PLACES]
                return [values[row, column] for row, column in at]
            eccodes.codes_release(message)
    raise AssertionError(f"{path} has no {name} at {level}")


def at_places(field: xr.DataArray) -> list[float]:
    return [float(field.sel(latitude=lat, longitude=lon, method="nearest", tolerance=1e-6)) for lat, lon in PLACES]


@pytest.mark.parametrize(
    ("name", "time", "held", "read"),
    [
        (
            "ecmwf_opendata_0p4_2024010100_first10msgs.grib2",
            "2024-01-01T00",
            upper("z", (200, 250, 300, 700, 925)),
            {"z200": ("gh", 200), "z925": ("gh", 925)},
        ),
        (
            "ecmwf_opendata_aifs_0p25_t500_2026031012.grib2",
            "2026-03-10T12",
            ["t500"],
            {"t500": ("t", 500)},
        ),
        (
            "gfs_1deg_uv_4lev_2004040200_f000-012.grb1",
            "2004-04-02T06",
            upper("uv", (200, 500, 850, 1000)),
            {"u200": ("u", 200), "v1000": ("v", 1000)},
        ),
    ],
)
def test_grib(shared: Path, name: str, time: str, held: list[str], read: dict[str, tuple[str, int]]) -> None:
    """ECMWF open data (CCSDS packing, columns from 180 E) and GFS in edition 1 with three times."""
    path = shared / "grid" / name
    source = open_states(path)
    lacks(source, time, [c for c in [*SURFACE, *upper("zquvt")] if c not in held])
    fields = source.fields(time, read)
    assert fields.longitude.values[0] == 0
    assert fields.latitude.values[0] == 90
    for channel, (short, level) in read.items():
        factor = 9.80665 if short == "gh" else 1.0
        expected = [factor * value for value in by_header(path, short, level, time)]
        assert_allclose(at_places(fields.sel(channel=channel)), expected, rtol=1e-6, atol=1e-5)


def test_gfs_leads_are_forecasts(shared: Path) -> None:
    source = open_states(shared / "grid/gfs_1deg_uv_4lev_2004040200_f000-012.grb1")
    start = np.datetime64("2004-04-02T00", "h")
    assert_array_equal(source.times, start + np.array([0, 6, 12]))
    assert [source.describe(time) for time in source.times] == [
        "",
        "forecast of 6 h from 2004-04-02T00",
        "forecast of 12 h from 2004-04-02T00",
    ]


def test_gfs_of_three_levels(shared: Path) -> None:
    """Packing is JPEG; humidity is derived from relative humidity where there is a temperature."""
    source = open_states(shared / "grid/gfs_2p5_3lev_2008021312_f000.grib2")
    absent = tuple(level for level in LEVELS if level not in (200, 500, 850))
    lacks(source, "2008-02-13T12", ["u10", "v10", "t2m", *upper("zquvt", absent)])
    fields = source.fields("2008-02-13T12", ["q850", "v500"])
    assert 0 <= fields.sel(channel="q850").min() < fields.sel(channel="q850").max() < 0.025
    path = shared / "grid/gfs_2p5_3lev_2008021312_f000.grib2"
    with xr.open_dataset(
        path, engine="cfgrib", backend_kwargs={"filter_by_keys": {"shortName": "v"}, "indexpath": ""}
    ) as d:
        assert_array_equal(fields.sel(channel="v500"), d["v"].sel(isobaricInhPa=500))


def test_members(shared: Path) -> None:
    """The file has ten members of one field, of which none may be taken for the state."""
    source = open_states(shared / "grid/era5_eda10_zt_500_850_3deg_20170101-02_12h.grib")
    lacks(
        source,
        "2017-01-01T12",
        [*SURFACE, *upper("zquvt")],
    )
    with pytest.raises(StateError, match="z at 500 hPa is there twice"):
        source.fields("2017-01-01T12", ["z500"])


def test_a_reduced_grid_is_read_as_points(shared: Path) -> None:
    path = shared / "grid/ecmwf_fc48_2t_N160_valid_2018112012.grib"
    with pytest.raises(StateError, match=r"2018-11-20T12: 2t is on a reduced_gg grid"):
        open_states(path)
    points = read_points(path)
    with xr.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": ""}) as dataset:
        assert_allclose(points.values["t2m"], dataset["t2m"].values, rtol=1e-6)


def test_a_field_that_no_state_has(shared: Path) -> None:
    with pytest.raises(StateError, match=r"gdas_0p25_2023011112_msg12\.grib2: it holds no field of a state"):
        open_states(shared / "grid/gdas_0p25_2023011112_msg12.grib2")


def test_low_resolution_weatherbench2(shared: Path) -> None:
    """(level, longitude, latitude), latitude from the south, 37 levels, no surface field."""
    path = shared / "grid/era5_64x32_37lev_19590102T00.nc"
    source = open_states(path)
    lacks(source, "1959-01-02T00", SURFACE)
    fields = source.fields("1959-01-02T00", ["z500", "q700", "t50"])
    raw = xr.open_dataset(path, engine="scipy")
    for channel, name in (("z500", "geopotential"), ("q700", "specific_humidity"), ("t50", "temperature")):
        theirs = raw[name].sel(level=int(channel[1:])).values  # (longitude, latitude)
        assert_array_equal(fields.sel(channel=channel).values, theirs.T[::-1])


def test_era_interim_in_three_files(full_samples: Path, tmp_path: Path) -> None:
    """A file a variable, short names: together they are one product, and give what all three hold."""
    for name in "tuv":
        (tmp_path / f"{name}.nc").symlink_to(full_samples / f"grid/eraint_1p5deg_37lev_20050123T00_{name}.nc")
    source = open_states(tmp_path)
    lacks(source, "2005-01-23T00", [*SURFACE, *upper("zq")])
    fields = source.fields("2005-01-23T00", ["u250", "v850", "t1000"])
    assert fields.shape == (3, 121, 240)
    for channel in fields.channel.values:
        raw = xr.open_dataset(tmp_path / f"{channel[0]}.nc", engine="h5netcdf")
        assert_allclose(fields.sel(channel=channel), raw[channel[0]].sel(level=int(channel[1:])).values, rtol=1e-6)


def test_era5_surface_on_a_gaussian_grid(shared: Path) -> None:
    path = shared / "grid/era5_sfc_N20_20240101_6h.nc"
    source = open_states(path)
    assert_array_equal(source.times, np.datetime64("2024-01-01T00", "h") + np.array([0, 6, 12, 18]))
    lacks(source, "2024-01-01T06", upper("zquvt"))
    raw = xr.open_dataset(path, engine="h5netcdf")
    fields = source.fields("2024-01-01T06", SURFACE)
    for name in SURFACE:
        assert_array_equal(fields.sel(channel=name).values, raw[name].values[1])
    assert_array_equal(source.surface("2024-01-01T06")["td2m"].values, raw["d2m"].values[1])
    points = read_points(path, np.datetime64("2024-01-01T06"))
    assert_array_equal(points.values["msl"], raw["msl"].values[1].ravel())


def test_zarr_whose_times_are_numbers(shared: Path) -> None:
    """The store is not consolidated and has `time_index` in hours since 1940, by an attribute; it is read raw."""
    path = shared / "grid/era5_sfc_1deg_20260325-31.zarr"
    source = open_states(path)
    raw = zarr.open_group(path, mode="r")
    assert source.times[0] == np.datetime64("2026-03-25T00", "h")
    assert_array_equal(source.times, np.datetime64("1940-01-01T00", "h") + raw["time_index"][:])
    lacks(source, "2026-03-25T07", upper("zquvt"))
    fields = source.fields("2026-03-25T07", SURFACE)
    for name in SURFACE:
        assert_array_equal(fields.sel(channel=name).values, raw[name][1])
