"""Read a state from a file of any kind, and write states to netCDF, Zarr or GRIB2.

The format of what is read is recognised by its content; the format of what is written is chosen by the ending of its
name. Writing takes the memory of one state, for a forecast of any length and grid.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.state import StateError, grid_of, to_dataset
from dacycle.forecast_adapter.states.dataset_writer import write_netcdf, write_zarr
from dacycle.forecast_adapter.states.grib_writer import BITS, MISSING, GribFile, new_grib, write_fields
from dacycle.forecast_adapter.states.products import open_states

__all__ = ["FORMATS", "file_format", "read_state", "write_states"]

FORMATS = {".nc": "netCDF", ".zarr": "Zarr", ".grib2": "GRIB2", ".grb2": "GRIB2", ".grib": "GRIB2", ".grb": "GRIB2"}
"""Formats that can be written, by the ending of the file's name."""


def read_state(product: Path | str, grid: Grid, time: np.datetime64 | str | None = None) -> xr.DataArray:
    """Read a validated state from a file, folder or store, and regrid it.

    Args:
        product: see `products.open_states`.
        grid: the grid to regrid to.
        time: the valid time (UTC) to take; needed only where there are several.

    Raises:
        StateError: see `StateSource.state`.
    """
    source = open_states(product)
    return source.state(source.only_time() if time is None else time, grid)


def write_states(
    path: Path,
    states: Iterable[xr.DataArray],
    attrs: Mapping[str, str],
    forecast: np.datetime64 | np.timedelta64 | None = None,
    bits: int = BITS,
    centre: int = MISSING,
) -> None:
    """Write states to one file in the format that the ending of its name chooses, see `FORMATS`.

    netCDF and Zarr are in the WeatherBench2 schema, one time a chunk, with unchanged float32 values; GRIB2 packs the
    values and has no place for `attrs`. The file appears under its name only when it is whole: an interrupted or failed
    write leaves nothing.

    Args:
        path: the file; one of the same name is replaced.
        states: states on one grid, in ascending order of time.
        attrs: global attributes.
        forecast: for GRIB, the start of the forecast that the states belong to, or the lead of every state; None: the
            states are analyses.
        bits: for GRIB, bits of a value.
        centre: for GRIB, number of the originating centre.

    Raises:
        StateError: the ending of the name is none of `FORMATS`.
    """
    kind = file_format(path)
    if kind == "GRIB2":
        with new_grib(path, centre) as file:
            for state in states:
                _write_grib(file, state, forecast, bits)
        return
    write = write_zarr if kind == "Zarr" else write_netcdf
    write(path, (to_dataset(state) for state in states), attrs)


def file_format(path: Path) -> str:
    """Return which of `FORMATS` the ending of a name chooses; raise StateError where it chooses none."""
    chosen = FORMATS.get(path.suffix.lower())
    if chosen is None:
        raise StateError(f"{path}: its name does not say what to write; end it in {', '.join(FORMATS)}")
    return chosen


def _write_grib(
    file: GribFile, state: xr.DataArray, forecast: np.datetime64 | np.timedelta64 | None, bits: int
) -> None:
    valid = state.time.values.astype("datetime64[h]")
    start = valid - forecast if isinstance(forecast, np.timedelta64) else valid if forecast is None else forecast
    lead = None if forecast is None else int((valid - start) / np.timedelta64(1, "h"))
    write_fields(file, dict(zip(NAMES, state.values, strict=True)), grid_of(state), start, lead, bits)
