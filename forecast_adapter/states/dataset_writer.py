"""Files of datasets that grow along time, written as they come: netCDF, and Zarr as WeatherBench2 keeps it.

One time (of a forecast: one lead) is one chunk, so that a state is read alone. A file of any length takes the memory of
one time, and appears under its name only when it is whole.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import xarray as xr

from dacycle.common.files import whole

__all__ = ["HOURS", "write_netcdf", "write_zarr"]

HOURS = "hours since 1970-01-01"
_ONE_BY_ONE = ("time", "prediction_timedelta")
_TIMES_PER_CHUNK = 512  # of the coordinate: a chunk of its own for each number would be a file each in Zarr


def write_netcdf(path: Path, datasets: Iterable[xr.Dataset], attrs: Mapping[str, str], level: int = 1) -> None:
    """Write datasets with a `time` each, as they come, to one netCDF-4 file.

    Args:
        path: the file; one of the same name is replaced.
        datasets: of the same variables, float32, in ascending order of time.
        attrs: global attributes.
        level: of zlib.
    """
    with whole(path) as part, h5netcdf.File(part, "w") as file:
        file.attrs.update(attrs)
        for dataset in datasets:
            if "time" not in file.variables:
                _create(file, dataset, level)
            _append(file, dataset)


def _create(file: Any, dataset: xr.Dataset, level: int) -> None:
    """Lay out the file: time without limit, everything else as in the first dataset."""
    file.dimensions = {str(d): None if d == "time" else n for d, n in dataset.sizes.items()}
    for key, variable in dataset.coords.items():
        coded = _encoded(variable)
        data = None if "time" in coded.dims else coded.values
        file.create_variable(str(key), coded.dims, coded.dtype, data=data).attrs.update(coded.attrs)
    for key, variable in dataset.data_vars.items():
        options = {"chunks": _chunks(variable), "compression": "gzip", "compression_opts": level, "shuffle": True}
        file.create_variable(str(key), variable.dims, np.float32, **options).attrs.update(variable.attrs)


def _chunks(variable: xr.DataArray) -> tuple[int, ...]:
    return tuple(1 if dim in _ONE_BY_ONE else size for dim, size in variable.sizes.items())


def _append(file: Any, dataset: xr.Dataset) -> None:
    old = file.dimensions["time"].size
    times = _encoded(dataset["time"]).values
    file.resize_dimension("time", old + len(times))
    file["time"][old:] = times
    for name, variable in dataset.data_vars.items():
        file[str(name)][old:] = variable.values


def _encoded(coordinate: xr.DataArray) -> xr.Variable:
    """A coordinate as numbers; times and leads as whole hours."""
    variable = coordinate.variable.copy(deep=False)
    variable.encoding = _time_encoding(coordinate)
    return xr.conventions.encode_cf_variable(variable, name=str(coordinate.name))


def _time_encoding(coordinate: xr.DataArray) -> dict[str, Any]:
    if np.issubdtype(coordinate.dtype, np.datetime64):
        return {"units": HOURS, "dtype": "int64"}
    if np.issubdtype(coordinate.dtype, np.timedelta64):
        return {"units": "hours", "dtype": "int64"}
    return {}


def write_zarr(path: Path, datasets: Iterable[xr.Dataset], attrs: Mapping[str, str]) -> None:
    """The same as a Zarr folder, of format 2 with consolidated metadata like WeatherBench2's, which all tools read."""
    with whole(path) as part:
        for i, dataset in enumerate(datasets):
            if i:
                dataset.to_zarr(part, append_dim="time", zarr_format=2, consolidated=True)
                continue
            encoding = {str(k): {"chunks": _chunks(v)} for k, v in dataset.data_vars.items()}
            encoding |= {str(k): _time_encoding(v) for k, v in dataset.coords.items()}
            encoding["time"] |= {"chunks": (_TIMES_PER_CHUNK,)}
            dataset.assign_attrs(attrs).to_zarr(part, mode="w", encoding=encoding, zarr_format=2, consolidated=True)
