"""States in files of any kind: GRIB of a weather centre, netCDF or Zarr in the WeatherBench2 schema.

Reading tells the kinds apart by their content, not their names. Writing is one state at a time, so that a forecast
of any length and grid takes the memory of one state.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.forecast_adapter.grib import regrid, state_from_grib, times_in_grib
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.state import StateError, from_dataset, grid_of, make_state, to_dataset

__all__ = ["is_grib", "native_state", "read_state", "times_in", "write_states"]

_MAGIC = {b"CDF": "scipy", b"\x89HD": "h5netcdf"}  # netCDF-3 and netCDF-4, by their first three bytes
_HOURS = "hours since 1970-01-01"


def times_in(path: Path) -> NDArray[np.datetime64]:
    """The valid times (n,) datetime64[h] of the states in a file, ascending. StateError where there are none."""
    if is_grib(path):
        return times_in_grib(path)
    with _opened(path) as dataset:
        times = _times(dataset, path)
    return np.unique(times).astype("datetime64[h]")


def read_state(path: Path, grid: Grid, time: np.datetime64 | str | None = None) -> xr.DataArray:
    """A validated state on `grid`, averaged down conservatively or interpolated bilinearly where it is on another.

    Args:
        path: a GRIB or netCDF file, or a Zarr folder.
        grid: where the state is wanted.
        time: the valid time (UTC) to take; needed only where the file holds several.

    Raises:
        StateError: the file cannot be read, or is not a whole and plausible state; names file, field and time.
    """
    if is_grib(path):
        return state_from_grib(path, grid, time)
    state = native_state(path, time)
    own = grid_of(state)
    if own.matches(grid):
        return make_state(state.values, grid, state.time.values).assign_attrs(source=path.name, notes="")
    array = regrid(state.values, own, grid)
    notes = f"brought from a {own.shape[0]} x {own.shape[1]} grid to {grid.name}"
    return make_state(array, grid, state.time.values).assign_attrs(source=path.name, notes=notes)


def native_state(path: Path, time: np.datetime64 | str | None = None) -> xr.DataArray:
    """A validated state of a netCDF file or Zarr folder on the grid it is on; arguments and errors of `read_state`."""
    with _opened(path) as dataset:
        if time is None:
            times = _times(dataset, path)
            if len(times) != 1:
                raise StateError(f"{path}: holds {len(times)} times ({times[0]} to {times[-1]}); say which one to take")
            time = times[0]
        return from_dataset(dataset, time, str(path))


def write_states(path: Path, states: Iterable[xr.DataArray], attrs: Mapping[str, str]) -> None:
    """Write states, as they come, to one netCDF file in the WeatherBench2 schema: one time a chunk, deflated.

    The file appears under its name only when it is whole: an interrupted or failed write leaves nothing.

    Args:
        path: the file; one of the same name is replaced.
        states: on one grid, in ascending order of time.
        attrs: global attributes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with h5netcdf.File(part, "w") as file:
            file.attrs.update(attrs)
            for i, state in enumerate(states):
                dataset = to_dataset(state)
                if i == 0:
                    _create(file, dataset)
                _append(file, dataset, i)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _create(file: Any, dataset: xr.Dataset) -> None:
    """Lay out the file: time without limit, everything else as in the first state."""
    file.dimensions = {str(d): None if d == "time" else n for d, n in dataset.sizes.items()}
    file.create_variable("time", ("time",), np.int64).attrs.update(units=_HOURS, calendar="proleptic_gregorian")
    for name in ("level", "latitude", "longitude"):
        file.create_variable(name, (name,), data=dataset[name].values).attrs.update(dataset[name].attrs)
    for key, variable in dataset.data_vars.items():
        chunks = (1, *variable.shape[1:])
        options = {"chunks": chunks, "compression": "gzip", "compression_opts": 1, "shuffle": True}
        made = file.create_variable(str(key), variable.dims, np.float32, **options)
        made.attrs.update(variable.attrs)


def _append(file: Any, dataset: xr.Dataset, i: int) -> None:
    file.resize_dimension("time", i + 1)
    file["time"][i] = dataset.time.values[0].astype("datetime64[h]").astype(np.int64)
    for name, variable in dataset.data_vars.items():
        file[str(name)][i] = variable.values[0]


def is_grib(path: Path) -> bool:
    """Whether a file is taken for GRIB: whatever is neither netCDF nor Zarr. StateError where there is no file."""
    return _engine(path) is None


def _engine(path: Path) -> str | None:
    """xarray's engine for a file or folder; None for anything else, which is left to ecCodes to judge."""
    if path.is_dir():
        return "zarr"
    if not path.is_file():
        raise StateError(f"{path}: no such file")
    with path.open("rb") as file:
        return _MAGIC.get(file.read(3))


@contextmanager
def _opened(path: Path) -> Iterator[xr.Dataset]:
    try:
        dataset = xr.open_dataset(path, engine=_engine(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StateError(f"{path}: cannot be opened as netCDF or Zarr: {error}") from error
    with dataset:
        yield dataset


def _times(dataset: xr.Dataset, path: Path) -> NDArray[np.datetime64]:
    for name in ("time", "valid_time"):
        if name in dataset.coords and np.issubdtype(dataset[name].dtype, np.datetime64) and dataset[name].size:
            return np.atleast_1d(dataset[name].values).astype("datetime64[m]")
    raise StateError(f"{path}: has no coordinate `time` of dates, so its states have no valid time")
