"""Stores of ERA5 in the form of the public ones, filled from the packaged weeks of the nature run.

`weatherbench2` has the names, the order of dimensions, the chunks and the attributes of
`1959-2023_01_10-6h-64x32_equiangular_conservative.zarr`; `weatherbench2_fine` those of
`1959-2023_01_10-wb13-6h-1440x721_with_derived_variables.zarr`, and `arco` those of ARCO-ERA5, on coarser grids. The
nature run's own times are moved to dates of several years, so that there is a training year with all seasons. A date is
made from the same time in all stores.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import WB2_NAMES
from dacycle.forecast_adapter.grid import Grid, regrid
from dacycle.forecast_adapter.physics import GRAVITY
from dacycle.forecast_adapter.state import STEP, make_state, to_dataset
from dacycle.forecast_adapter.worlds.world import World, load_world

ARCO_GRID = Grid("5deg", 90 - 5.0 * np.arange(37), 5.0 * np.arange(72))
FINE_GRID = Grid("1deg", 90 - 1.0 * np.arange(181), 1.0 * np.arange(360))

FIRST, LENGTH = np.datetime64("2024-01-01T00", "h"), 112  # of the packaged weeks: the time of the first, their number

# Months, and how many of their times, from the first: a training year with all seasons, a validation year long enough
# to judge a model, and the test year. The packaged weeks are used in a circle.
TRAINING = {"2020-01": 124, **{f"2020-{month:02}": 8 for month in range(2, 13)}}
BLOCKS = {**TRAINING, "2021-01": 124, "2021-02": 112, "2021-03": 12, "2022-01": 24}
FINE_BLOCKS = {"2021-01": 20, **{f"2021-{month:02}": 1 for month in range(2, 13)}, "2022-01": 24}

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


def dates(blocks: Mapping[str, int] = BLOCKS) -> dict[np.datetime64, np.datetime64]:
    """Return the times of a store, ascending, each with the time of the nature run that it is made from."""
    times = [np.datetime64(f"{month}-01T00", "h") + k * STEP for month, count in blocks.items() for k in range(count)]
    return {time: FIRST + time.astype(int) // STEP.astype(int) % LENGTH * STEP for time in times}


def nature() -> World:
    """Return the packaged weeks of the nature run."""
    return load_world("demonstration")


def weatherbench2(path: Path) -> None:
    """Write the store of states: longitude before latitude, latitude ascending, a hundred times a chunk."""
    world, times = nature(), dates()
    packaged = {time: number for number, time in enumerate(dict.fromkeys(times.values()))}
    states = xr.concat([_published(world, time) for time in packaged], "time", data_vars="minimal")
    states = states.sortby("latitude").transpose("time", "level", "longitude", "latitude")
    for variable in states.data_vars.values():
        written = variable.isel(time=[packaged[t] for t in times.values()]) if "time" in variable.dims else variable
        _append(path, written.to_dataset(), list(times), chunk=100)
    zarr.consolidate_metadata(path, zarr_format=2)


def weatherbench2_fine(path: Path) -> None:
    """Write the store of fine states: latitude descending from pole to pole, before longitude, a time a chunk."""
    world, times = nature(), dates(FINE_BLOCKS)
    for time, origin in times.items():
        states = _published(world, origin, FINE_GRID).transpose("time", "level", "latitude", "longitude")
        fixed = [name for name, variable in states.data_vars.items() if "time" not in variable.dims]
        if path.exists():
            states.drop_vars([*fixed, "level", "latitude", "longitude"]).assign_coords(time=[time]).to_zarr(
                path, append_dim="time", zarr_format=2
            )
        else:
            _append(path, states, [time], chunk=1)
    zarr.consolidate_metadata(path, zarr_format=2)


def _append(path: Path, states: xr.Dataset, times: list[np.datetime64], chunk: int) -> None:
    """Add variables to a store, with the published attributes and chunks."""
    encoding: dict[str, dict[str, object]] = {}
    for name, variable in states.data_vars.items():
        long_name, short_name, units = _ATTRIBUTES[str(name)]
        variable.attrs = {"long_name": long_name, "short_name": short_name, "units": units}
        encoding[str(name)] = {"chunks": tuple(chunk if dim == "time" else n for dim, n in variable.sizes.items())}
    if "time" in states.dims:
        states = states.assign_coords(time=times)
        if not (path / "time").exists():
            encoding["time"] = {"units": "hours since 1959-01-01", "dtype": "int64"}
    states.to_zarr(path, mode="a", zarr_format=2, encoding=encoding)


def _published(world: World, time: np.datetime64, grid: Grid | None = None) -> xr.Dataset:
    """Return a state, interpolated to a grid, with the fields that the store has beside; its dewpoint has no value."""
    grid = grid or world.grid
    surface = world.reference.surface(time, ("tp6h", "olr", "ps"))
    fields = {
        "total_precipitation_6hr": surface["tp6h"].values / 1000,
        "mean_top_net_long_wave_radiation_flux": -surface["olr"].values,
        "surface_pressure": surface["ps"].values,
        "2m_dewpoint_temperature": surface["ps"].values * np.nan,
        "geopotential_at_surface": world.orography * np.float32(GRAVITY),
        "land_sea_mask": world.land_fraction,
    }
    state, *planes = (regrid(x, world.grid, grid) for x in (world.reference.array(time), *fields.values()))
    dataset = to_dataset(make_state(state, grid, time))
    for name, plane in zip(fields, planes, strict=True):
        static = name in ("geopotential_at_surface", "land_sea_mask")
        dims = ("latitude", "longitude") if static else ("time", "latitude", "longitude")
        dataset[name] = (dims, plane if static else plane[None])
    dataset["vertical_velocity"] = dataset[WB2_NAMES["t"]] * 0
    return dataset


def arco(path: Path) -> None:
    """Write the store of hourly fields: sums of radiation and rain, and dewpoint; all hours that six-hour sums need.

    The true store has an hour a chunk, and a grid of 0.25 degrees; a day a chunk makes fewer files.
    """
    units = {"top_net_thermal_radiation": "J m**-2", "total_precipitation": "m", "2m_dewpoint_temperature": "K"}
    world, times = nature(), dates()
    packaged = {time: _hourly(world, time) for time in dict.fromkeys(times.values())}
    hours = np.concatenate([time - np.arange(5, -1, -1) for time in times])
    store = xr.Dataset(
        {
            name: (
                ("time", "latitude", "longitude"),
                np.repeat(np.stack([packaged[time][name] for time in times.values()]), 6, axis=0),
                {"units": unit},
            )
            for name, unit in units.items()
        },
        {"time": hours.astype("datetime64[ns]"), "latitude": ARCO_GRID.latitude, "longitude": ARCO_GRID.longitude},
        {"valid_time_start": "1940-01-01", "valid_time_stop": "2022-12-31", "valid_time_stop_era5t": "2023-01-31"},
    )
    encoding = {name: {"chunks": (24, *ARCO_GRID.shape)} for name in units}
    store.to_zarr(
        path,
        zarr_format=2,
        consolidated=True,
        encoding={**encoding, "time": {"units": "hours since 1900-01-01", "dtype": "int64"}},
    )


def _hourly(world: World, time: np.datetime64) -> dict[str, NDArray[np.float32]]:
    surface = world.reference.surface(time, ("tp6h", "olr", "td2m"))
    olr, rain, dewpoint = (regrid(surface[name].values, world.grid, ARCO_GRID) for name in ("olr", "tp6h", "td2m"))
    return {
        "top_net_thermal_radiation": (-3600 * olr).astype(np.float32),
        "total_precipitation": (rain / 6000).astype(np.float32),
        "2m_dewpoint_temperature": dewpoint.astype(np.float32),
    }


def truth_of_2022(world: World) -> Iterator[tuple[np.datetime64, NDArray[np.float32], xr.Dataset]]:
    """Yield each time of the test year with the state and the surface fields that observations are made from."""
    for time, origin in dates().items():
        if str(time).startswith("2022"):
            yield time, world.reference.array(origin), world.reference.surface(origin)
