"""What is written follows the CF conventions: the rules of chapters 2 to 5 that apply to such grids."""

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.state import to_dataset
from dacycle.forecast_adapter.states.dataset_writer import write_netcdf, write_zarr
from dacycle.forecast_adapter.states.files import write_states
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.static import write_static
from tests.forecast_adapter.made import GRID, START, made_state

# From version 86 of the table of standard names, with their canonical units.
STANDARD_NAMES = {
    "latitude": "degree_north", "longitude": "degree_east", "time": "s", "air_pressure": "Pa",
    "forecast_period": "s", "forecast_reference_time": "s",
    "eastward_wind": "m s-1", "northward_wind": "m s-1", "air_temperature": "K", "geopotential": "m2 s-2",
    "air_pressure_at_mean_sea_level": "Pa", "specific_humidity": "1", "surface_air_pressure": "Pa",
    "lwe_thickness_of_precipitation_amount": "m", "toa_outgoing_longwave_flux": "W m-2",
    "dew_point_temperature": "K", "land_area_fraction": "1",
}  # fmt: skip
SAME_QUANTITY = {("degrees_north", "degree_north"), ("degrees_east", "degree_east"), ("hPa", "Pa"), ("kg kg-1", "1")}


def complaints(path: Path) -> list[str]:
    """Return which rules a file or store breaks."""
    found = []
    engine = "zarr" if path.suffix == ".zarr" else "h5netcdf"
    with xr.open_dataset(path, engine=engine, decode_cf=False, chunks=None) as dataset:
        if not re.fullmatch(r"CF-1\.\d+", dataset.attrs.get("Conventions", "")):
            found.append("no Conventions")
        if not re.match("written by dacycle ", dataset.attrs.get("history", "")):
            found.append("no history")
        axes = {str(v.attrs.get("axis")): str(name) for name, v in dataset.coords.items() if "axis" in v.attrs}
        if len(axes) != sum("axis" in v.attrs for v in dataset.coords.values()):
            found.append("an axis twice")
        for name, variable in dataset.variables.items():
            attrs = variable.attrs
            standard, unit = attrs.get("standard_name"), str(attrs.get("units", ""))
            if standard not in STANDARD_NAMES:
                found.append(f"{name}: standard name {standard}")
                continue
            canonical = STANDARD_NAMES[standard]
            is_time = canonical == "s" and (" since " in unit or unit == "hours")
            if not (unit == canonical or is_time or (unit, canonical) in SAME_QUANTITY):
                found.append(f"{name}: unit {unit} of {standard}")
            if name in dataset.dims and ("_FillValue" in attrs or "missing_value" in attrs):
                found.append(f"{name}: a coordinate with a fill value")
            if name in dataset.dims and not (np.diff(variable.values) > 0).all() ^ (np.diff(variable.values) < 0).all():
                found.append(f"{name}: a coordinate that is not monotonic")
            if name not in dataset.dims and variable.dims != tuple(d for d in ORDER if d in variable.dims):
                found.append(f"{name}: dimensions in another order than T, Z, Y, X")
            if standard in ("time", "forecast_reference_time") and "calendar" not in attrs:
                found.append(f"{name}: no calendar")
    return found


ORDER = ("time", "prediction_timedelta", "level", "latitude", "longitude")


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_states(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"states{ending}"
    write_states(path, (made_state(hours) for hours in (0, 6)), {"title": "Analyses"})
    assert complaints(path) == []
    np.testing.assert_array_equal(open_states(path).state(START + 6), made_state(6))


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_forecasts(ending: str, tmp_path: Path) -> None:
    """Times are starts of forecasts there, beside the time since the start."""
    path = tmp_path / f"forecasts{ending}"
    leads = np.array([24, 48], "timedelta64[h]").astype("timedelta64[ns]")
    forecast = to_dataset(made_state())[["2m_temperature"]].expand_dims(prediction_timedelta=leads, axis=1)
    (write_zarr if ending == ".zarr" else write_netcdf)(
        path, [forecast, forecast.assign_coords(time=forecast.time + np.timedelta64(6, "h"))], {}
    )
    assert complaints(path) == []


def test_the_ground(tmp_path: Path) -> None:
    field = np.ones(GRID.shape, np.float32)
    coordinates = {"latitude": GRID.latitude, "longitude": GRID.longitude}
    variables = dict.fromkeys(("geopotential_at_surface", "land_sea_mask"), (("latitude", "longitude"), field))
    xr.Dataset(variables, coordinates).to_netcdf(tmp_path / "ground.nc", engine="h5netcdf")
    write_static(str(tmp_path / "ground.nc"), tmp_path / "static.nc", get_grid("5.625deg"), START)
    assert complaints(tmp_path / "static.nc") == []
