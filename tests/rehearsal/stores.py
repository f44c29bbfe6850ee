"""Stores of ERA5 in the form of the public ones, filled from the packaged weeks of the nature run.

`weatherbench2` has the names, the order of dimensions, the chunks and the attributes of
`1959-2023_01_10-6h-64x32_equiangular_conservative.zarr`; `arco` those of ARCO-ERA5, on a coarser grid. The nature run's
own times are moved to dates of several years, so that there is a training year with all seasons.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import WB2_NAMES
from dacycle.forecast_adapter.grid import Grid, regrid
from dacycle.forecast_adapter.physics import GRAVITY
from dacycle.forecast_adapter.state import STEP, make_state, to_dataset
from dacycle.forecast_adapter.worlds.world import World, load_world

ARCO_GRID = Grid("5deg", 90 - 5.0 * np.arange(37), 5.0 * np.arange(72))

# Where each year's blocks of days begin, and how many days of the nature run they have.
BLOCKS = {
    "2020": (("01-01", "03-01", "05-01", "07-01", "09-01", "11-01"), 8),
    "2021": (("01-01",), 8),
    "2022": (("01-01",), 8),
}
FIRST = np.datetime64("2024-01-01T00", "h")  # of the packaged weeks

_ATTRIBUTES = {  # long name, short name, unit
    "10m_u_component_of_wind": ("10 metre U wind component", "u10", "m s**-1"),
    "10m_v_component_of_wind": ("10 metre V wind component", "v10", "m s**-1"),
    "2m_temperature": ("2 metre temperature", "t2m", "K"),
    "2m_dewpoint_temperature": ("2 metre dewpoint temperature", "d2m", "K"),
    "mean_sea_level_pressure": ("Mean sea level pressure", "msl", "Pa"),
    "geopotential": ("Geopotential", "z", "m**2 s**-2"),
    "geopotential_at_surface": ("Geopotential", "z", "m**2 s**-2"),
    "land_sea_mask": ("Land-sea mask", "lsm", "(0 - 1)"),
    "specific_humidity": ("Specific humidity", "q", "kg kg**-1"),
    "u_component_of_wind": ("U component of wind", "u", "m s**-1"),
    "v_component_of_wind": ("V component of wind", "v", "m s**-1"),
    "temperature": ("Temperature", "t", "K"),
    "vertical_velocity": ("Vertical velocity", "w", "Pa s**-1"),
    "surface_pressure": ("Surface pressure", "sp", "Pa"),
    "total_precipitation_6hr": ("Total precipitation", "tp", "m"),
    "mean_top_net_long_wave_radiation_flux": ("Mean top net long-wave radiation flux", "mtnlwrf", "W m**-2"),
}


def dates() -> dict[np.datetime64, np.datetime64]:
    """Return the times of the stores, ascending, each with the time of the nature run that it is made from."""
    moved: dict[np.datetime64, np.datetime64] = {}
    for year, (starts, days) in BLOCKS.items():
        for number, start in enumerate(starts):
            first = np.datetime64(f"{year}-{start}T00", "h")
            origin = FIRST + np.timedelta64(24 * {"2020": 2 * number, "2021": 10, "2022": 19}[year], "h")
            moved |= {first + k * STEP: origin + k * STEP for k in range(4 * days)}
    return moved


def nature() -> World:
    """Return the packaged weeks of the nature run."""
    return load_world("demonstration")


def weatherbench2(path: Path) -> None:
    """Write the store of states."""
    world = nature()
    xr.concat(list(_states(world)), "time", data_vars="minimal").pipe(_as_published, world).to_zarr(
        path,
        zarr_format=2,
        consolidated=True,
        encoding={"time": {"units": "hours since 1959-01-01", "dtype": "int64"}},
    )


def _states(world: World) -> Iterator[xr.Dataset]:
    for time, origin in dates().items():
        dataset = to_dataset(make_state(world.reference.array(origin), world.grid, time))
        surface = world.reference.surface(origin, ("tp6h", "olr", "ps"))
        fields = {
            "total_precipitation_6hr": surface["tp6h"] / 1000,
            "mean_top_net_long_wave_radiation_flux": -surface["olr"],
            "surface_pressure": surface["ps"],
            "2m_dewpoint_temperature": surface["ps"] * np.nan,
        }
        yield dataset.assign({name: (("time", *field.dims), field.values[None]) for name, field in fields.items()})


def _as_published(states: xr.Dataset, world: World) -> xr.Dataset:
    """Return states as in the store: longitude before latitude, latitude ascending, a hundred times a chunk."""
    dims = ("latitude", "longitude")
    states["geopotential_at_surface"] = (dims, world.orography * np.float32(GRAVITY))
    states["land_sea_mask"] = (dims, world.land_fraction)
    states["vertical_velocity"] = states[WB2_NAMES["t"]] * 0
    states = states.sortby("latitude").transpose("time", "level", "longitude", "latitude")
    for name, variable in states.data_vars.items():
        long_name, short_name, units = _ATTRIBUTES[str(name)]
        variable.attrs = {"long_name": long_name, "short_name": short_name, "units": units}
        variable.encoding = {"chunks": tuple(100 if dim == "time" else n for dim, n in variable.sizes.items())}
    return states.drop_attrs(deep=False)


def arco(path: Path) -> None:
    """Write the store of hourly fields: sums of radiation and rain, and dewpoint; all hours that six-hour sums need."""
    units = {"top_net_thermal_radiation": "J m**-2", "total_precipitation": "m", "2m_dewpoint_temperature": "K"}
    world, hours = nature(), []
    fields: dict[str, list[np.ndarray]] = {name: [] for name in units}
    for time, origin in dates().items():
        surface = world.reference.surface(origin, ("tp6h", "olr", "td2m"))
        olr, rain, dewpoint = (regrid(surface[n].values, world.grid, ARCO_GRID) for n in ("olr", "tp6h", "td2m"))
        for hour in time - np.arange(5, -1, -1):
            hours.append(hour)
            fields["top_net_thermal_radiation"].append(-3600 * olr)
            fields["total_precipitation"].append(rain / 6000)
            fields["2m_dewpoint_temperature"].append(dewpoint)
    store = xr.Dataset(
        {name: (("time", "latitude", "longitude"), np.stack(values).astype(np.float32), {"units": units[name]})
         for name, values in fields.items()},
        {"time": np.array(hours, "datetime64[ns]"), "latitude": ARCO_GRID.latitude, "longitude": ARCO_GRID.longitude},
        {"valid_time_start": "1940-01-01", "valid_time_stop": "2022-12-31", "valid_time_stop_era5t": "2023-01-31"},
    )  # fmt: skip
    encoding = {name: {"chunks": (1, *ARCO_GRID.shape)} for name in fields}
    encoding["time"] = {"units": "hours since 1900-01-01", "dtype": "int64"}
    store.to_zarr(path, zarr_format=2, consolidated=True, encoding=encoding)


def truth_of_2022(world: World) -> Iterator[tuple[np.datetime64, NDArray[np.float32], xr.Dataset]]:
    """Yield each time of the test year with the state and the surface fields that observations are made from."""
    for time, origin in dates().items():
        if str(time).startswith("2022"):
            yield time, world.reference.array(origin), world.reference.surface(origin)
