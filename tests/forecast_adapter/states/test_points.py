"""Surface fields at points: read from GRIB on any grid or from a state, interpolated, and written back."""

from pathlib import Path

import eccodes
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.points import PointFields, read_orography, read_points, stencil, write_points
from tests.conftest import TinyWorld

N160 = "grid/ecmwf_fc48_2t_N160_valid_2018112012.grib"
GFS = "grid/gfs_2p5_2011011012_f120.grib2"
TIME = np.datetime64("2018-11-20T12", "h")


def keys(path: Path, *names: str) -> list[dict]:
    """Read these keys of each message with ecCodes alone."""
    with path.open("rb") as file:
        found = []
        while (message := eccodes.codes_grib_new_from_file(file)) is not None:
            found.append({name: eccodes.codes_get(message, name) for name in names})
            eccodes.codes_release(message)
    return found


def independent(path: Path) -> xr.DataArray:
    options = {"indexpath": "", "filter_by_keys": {"shortName": "2t"}}
    return xr.open_dataset(path, engine="cfgrib", backend_kwargs=options)["t2m"]


@pytest.fixture(scope="module")
def forecast(shared: Path) -> PointFields:
    return read_points(shared / N160)


def test_a_reduced_gaussian_grid(shared: Path, forecast: PointFields) -> None:
    other = independent(shared / N160)
    assert forecast.time == TIME
    assert list(forecast.values) == ["t2m"]
    assert_allclose(forecast.values["t2m"], other.values, atol=1e-4)
    assert_allclose(forecast.latitude, other.latitude.values)
    assert_allclose(forecast.longitude, other.longitude.values)


def test_other_fields_are_passed_over(shared: Path) -> None:
    fields = read_points(shared / GFS)
    assert fields.names == {"u10": "10u", "v10": "10v", "t2m": "2t", "msl": "prmsl"}
    assert_allclose(fields.values["t2m"], independent(shared / GFS).values.ravel(), rtol=1e-6)
    assert list(fields.only(["msl"]).values) == ["msl"]


def test_an_analysis_is_the_background_but_for_its_values(forecast: PointFields, tmp_path: Path) -> None:
    out = tmp_path / "folder/analysis.grib"
    wanted = forecast.values["t2m"] + np.sin(np.arange(len(forecast.latitude)))
    write_points(out, forecast, {"t2m": wanted}, rest=True)
    assert_allclose(independent(out).values, wanted, atol=2e-3)  # 100 K in 16 bits
    what = ("gridType", "shortName", "centre", "typeOfLevel", "numberOfDataPoints", "validityDate", "validityTime")
    assert keys(out, *what) == keys(forecast.path, *what)
    assert keys(out, "marsType", "stepRange", "dataDate", "dataTime") == [
        {"marsType": "an", "stepRange": "0", "dataDate": 20181120, "dataTime": 1200}
    ]
    assert list(tmp_path.rglob(".*")) == []


def test_unchanged_values_come_back_bit_for_bit(forecast: PointFields, tmp_path: Path) -> None:
    write_points(tmp_path / "same.grib", forecast, forecast.values, rest=True)
    assert_array_equal(read_points(tmp_path / "same.grib").values["t2m"], forecast.values["t2m"])


def test_the_rest_of_a_file_is_copied_or_left_out(shared: Path, tmp_path: Path) -> None:
    fields = read_points(shared / GFS)
    write_points(tmp_path / "whole", fields, {"v10": fields.values["v10"] + 1}, rest=True)
    write_points(tmp_path / "one", fields, {"v10": np.full(len(fields.latitude), 0.5)}, rest=False)
    again = read_points(tmp_path / "whole")
    assert_allclose(again.values["v10"], fields.values["v10"] + 1, atol=1e-2)
    for name in ("u10", "t2m", "msl"):
        assert_array_equal(again.values[name], fields.values[name])
    names = [found["shortName"] for found in keys(tmp_path / "whole", "shortName", "level")]
    assert len(names) == 84  # all fields of the 70 messages, 14 of which hold u and v
    assert keys(tmp_path / "one", "shortName", "typeOfGeneratingProcess") == [
        {"shortName": "10v", "typeOfGeneratingProcess": 0}
    ]


def test_a_state_in_netcdf(world: TinyWorld, tmp_path: Path) -> None:
    source = world.folder / "reference/2024-01-01.nc"
    with pytest.raises(StateError, match="say which one"):
        read_points(source)
    fields = read_points(source, np.datetime64("2024-01-03T06"))
    with xr.open_dataset(source, engine="h5netcdf") as states:
        msl = states["mean_sea_level_pressure"].sel(time="2024-01-03T06").transpose("latitude", "longitude").values
    assert_array_equal(fields.values["msl"], msl.ravel())
    write_points(tmp_path / "a.nc", fields, {"msl": fields.values["msl"] + 100}, rest=True)
    again = read_points(tmp_path / "a.nc")
    assert again.time == fields.time
    assert_allclose(again.values["msl"], fields.values["msl"] + 100)
    assert_array_equal(again.values["t2m"], fields.values["t2m"])


def test_interpolation_is_exact_at_points_and_close_between(forecast: PointFields) -> None:
    some = slice(5000, 90000, 997)
    at = stencil(forecast, forecast.latitude[some], forecast.longitude[some] - 360)
    assert_allclose(at(forecast.values["t2m"]), forecast.values["t2m"][some], atol=1e-9)
    assert 60 < at.spacing_km < 90
    rng = np.random.default_rng(1)
    latitude, longitude = rng.uniform(-80, 80, 500), rng.uniform(-180, 180, 500)
    smooth = np.sin(np.deg2rad(forecast.latitude)) + np.cos(np.deg2rad(forecast.longitude))
    wanted = np.sin(np.deg2rad(latitude)) + np.cos(np.deg2rad(longitude))
    assert_allclose(stencil(forecast, latitude, longitude)(smooth), wanted, atol=0.01)


@given(st.floats(-90, 90), st.floats(-180, 360))
def test_interpolation_never_leaves_the_neighbours_range(latitude: float, longitude: float) -> None:
    lat, lon = (a.ravel() for a in np.meshgrid(np.linspace(90, -90, 13), np.arange(0, 360, 15), indexing="ij"))
    fields = PointFields(Path("none"), TIME, lat, lon, {})
    at = stencil(fields, np.array([latitude]), np.array([longitude]))
    values = np.random.default_rng(0).normal(size=len(lat))
    assert values[at.points].min() - 1e-12 <= at(values)[0] <= values[at.points].max() + 1e-12


def test_a_regional_field_ends(forecast: PointFields) -> None:
    inside = (abs(forecast.latitude - 50) < 8) & (abs(forecast.longitude - 15) < 12)
    region = PointFields(forecast.path, TIME, forecast.latitude[inside], forecast.longitude[inside], {})
    at = stencil(region, np.array([50.0, 60.0, 50.0]), np.array([15.0, 15.0, 200.0]))
    assert_array_equal(np.isnan(at(forecast.values["t2m"][inside])), [False, True, True])


def test_orography(world: TinyWorld, shared: Path, tmp_path: Path) -> None:
    ground = read_orography(world.folder / "static.nc")
    with xr.open_dataset(world.folder / "static.nc", engine="h5netcdf") as static:
        assert_allclose(ground.values["orography"], static["geopotential_at_surface"].values.ravel() / 9.80665)
    gfs = read_orography(shared / GFS).values["orography"]  # its `orog`
    assert 4000 < gfs.max() < 7000
    with pytest.raises(StateError, match="holds no orography"):
        read_orography(shared / N160)
    xr.Dataset({"height": ("latitude", [1.0])}).to_netcdf(tmp_path / "h.nc", engine="h5netcdf")
    with pytest.raises(StateError, match=r"h\.nc: geopotential_at_surface"):
        read_orography(tmp_path / "h.nc")


def test_files_that_will_not_do(shared: Path, tmp_path: Path) -> None:
    data = (shared / N160).read_bytes()
    cut, page, twice = tmp_path / "cut.grib", tmp_path / "page.grib", tmp_path / "twice.grib"
    cut.write_bytes(data[:50_000])
    page.write_text("<html>503 Service Unavailable</html>")
    twice.write_bytes(data + data)
    cases = {
        cut: r"cut\.grib: .*corrupt",
        page: r"page\.grib: it is a web page",
        twice: r"twice\.grib, 2018-11-20T12: 2t is there twice",
        tmp_path / "nowhere.grib": "no such file",
        shared / "grid/ecmwf_opendata_aifs_0p25_t500_2026031012.grib2": "holds no surface channel",
    }
    for path, words in cases.items():
        with pytest.raises(StateError, match=words):
            read_points(path)
    with pytest.raises(StateError, match="nothing is valid at 2018-11-21T00; it holds 2018-11-20T12:00"):
        read_points(shared / N160, np.datetime64("2018-11-21T00"))


def test_values_in_another_unit_are_refused(forecast: PointFields, tmp_path: Path) -> None:
    """A GRIB message has no unit, so that degrees Celsius under the name 2t are only caught as implausible."""
    write_points(tmp_path / "celsius.grib", forecast, {"t2m": forecast.values["t2m"] - 273.15}, rest=True)
    with pytest.raises(StateError, match=r"celsius\.grib, 2018-11-20T12: t2m spans .* add 273.15"):
        read_points(tmp_path / "celsius.grib")
