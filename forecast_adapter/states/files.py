"""States in files of any kind: one read by its time, many written one at a time.

What is read is told by its content, what is written by the ending of its name. Writing takes the memory of one state,
for a forecast of any length and grid.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import xarray as xr

from dacycle.common.files import whole
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.state import StateError, grid_of, to_dataset
from dacycle.forecast_adapter.states.dataset_writer import write_netcdf, write_zarr
from dacycle.forecast_adapter.states.grib_writer import BITS, write_fields
from dacycle.forecast_adapter.states.products import open_states

__all__ = ["FORMATS", "file_format", "read_state", "write_states"]

FORMATS = {".nc": "netCDF", ".zarr": "Zarr", ".grib2": "GRIB2", ".grb2": "GRIB2", ".grib": "GRIB2"}
"""What can be written, by the ending of the file's name."""

_MAGIC = {b"CDF": "scipy", b"\x89HD": "h5netcdf"}  # netCDF-3 and netCDF-4, by their first three bytes


def read_state(place: Path | str, grid: Grid, time: np.datetime64 | str | None = None) -> xr.DataArray:
    """A validated state on `grid` of a file, folder or store.

    Args:
        place: see `products.open_states`.
        grid: where the state is wanted.
        time: the valid time (UTC) to take; needed only where there are several.

    Raises:
        StateError: see `StateSource.state`.
    """
    source = open_states(place)
    return source.state(source.only_time() if time is None else time, grid)


def write_states(
    path: Path,
    states: Iterable[xr.DataArray],
    attrs: Mapping[str, str],
    forecast: np.datetime64 | np.timedelta64 | None = None,
    bits: int = BITS,
) -> None:
    """Write states, as they come, to one file of the kind that its name's ending says: see `FORMATS`.

    netCDF and Zarr are in the WeatherBench2 schema, one time a chunk, and hold the float32 values as they are; GRIB2
    packs them, and has no place for `attrs`. The file appears under its name only when it is whole: an interrupted or
    failed write leaves nothing.

    Args:
        path: the file; one of the same name is replaced.
        states: on one grid, in ascending order of time.
        attrs: global attributes.
        forecast: in GRIB, the start of the forecast that the states are of, or how long before each its own forecast
            started; None: they are analyses.
        bits: in GRIB, of a value.

    Raises:
        StateError: the ending of the name is none of `FORMATS`.
    """
    kind = file_format(path)
    if kind == "GRIB2":
        with whole(path) as part, part.open("wb") as file:
            for state in states:
                _write_grib(file, state, forecast, bits)
        return
    write = write_zarr if kind == "Zarr" else write_netcdf
    write(path, (to_dataset(state) for state in states), attrs)


def file_format(path: Path) -> str:
    """What of `FORMATS` a file to be written is, by the ending of its name; StateError where that says none."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise StateError(f"{path}: its name does not say what to write; end it in {', '.join(FORMATS)}")
    return found


def _write_grib(
    file: IO[bytes], state: xr.DataArray, forecast: np.datetime64 | np.timedelta64 | None, bits: int
) -> None:
    valid = state.time.values.astype("datetime64[h]")
    start = valid - forecast if isinstance(forecast, np.timedelta64) else valid if forecast is None else forecast
    lead = None if forecast is None else int((valid - start) / np.timedelta64(1, "h"))
    write_fields(file, dict(zip(NAMES, state.values, strict=True)), grid_of(state), start, lead, bits)
