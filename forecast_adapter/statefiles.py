"""States in files of any kind: one read by its time, many written one at a time.

Writing takes the memory of one state, for a forecast of any length and grid.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import xarray as xr

from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.products import open_states
from dacycle.forecast_adapter.state import to_dataset

__all__ = ["read_state", "write_states"]

_HOURS = "hours since 1970-01-01"


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
