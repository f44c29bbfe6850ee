"""Write datasets one time after another: to netCDF, and to Zarr in WeatherBench2's layout.

All of them carry the attributes of the CF conventions (`cf`). One time (of a forecast: one lead) is one chunk, so that
a state is read alone. A file of any length takes the memory of one time, and appears under its name only when it is
whole.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import xarray as xr

from dacycle.common.files import whole
from dacycle.forecast_adapter.states.cf import described, global_attributes

__all__ = ["HOURS", "write_netcdf", "write_zarr"]

HOURS = "hours since 1970-01-01"
_ONE_BY_ONE = ("time", "prediction_timedelta")
_TIMES_PER_CHUNK = 512  # of the coordinate; in Zarr a chunk for each number would be a file each


def write_netcdf(path: Path, datasets: Iterable[xr.Dataset], attrs: Mapping[str, str], level: int = 1) -> None:
    """Write datasets, each with a `time`, to one netCDF-4 file.

    Args:
        path: the file; one of the same name is replaced.
        datasets: datasets of the same float32 variables, in ascending order of time.
        attrs: global attributes.
        level: compression level of zlib.
    """
    with whole(path) as temporary, h5netcdf.File(temporary, "w") as file:
        file.attrs.update(global_attributes(attrs))
        for dataset in map(described, datasets):
            if "time" not in file.variables:
                _create(file, dataset, level)
            _append(file, dataset)


def _create(file: Any, dataset: xr.Dataset, level: int) -> None:
    """Create dimensions and variables as in the first dataset, with an unlimited time."""
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
    """Return a coordinate as numbers; times and leads as whole hours."""
    variable = coordinate.variable.copy(deep=False)
    variable.encoding = _coordinate_encoding(coordinate)
    return xr.conventions.encode_cf_variable(variable, name=str(coordinate.name))


def _coordinate_encoding(coordinate: xr.DataArray) -> dict[str, Any]:
    """Return times and leads as whole hours; a coordinate has no missing values, and so no fill value."""
    if np.issubdtype(coordinate.dtype, np.datetime64):
        return {"units": HOURS, "dtype": "int64"}
    if np.issubdtype(coordinate.dtype, np.timedelta64):
        return {"units": "hours", "dtype": "int64"}
    return {"_FillValue": None}


def write_zarr(path: Path, datasets: Iterable[xr.Dataset], attrs: Mapping[str, str]) -> None:
    """Write datasets as `write_netcdf` does to a Zarr folder.

    The format is 2, with consolidated metadata, as in WeatherBench2; all tools read it.
    """
    attributes = global_attributes(attrs)
    with whole(path) as temporary:
        for i, dataset in enumerate(described(dataset).assign_attrs(attributes) for dataset in datasets):
            if i:  # an appended dataset replaces the attributes, so that it has the same ones
                dataset.to_zarr(temporary, append_dim="time", zarr_format=2, consolidated=True)
                continue
            encoding = {str(k): {"chunks": _chunks(v)} for k, v in dataset.data_vars.items()}
            encoding |= {str(k): _coordinate_encoding(v) for k, v in dataset.coords.items()}
            encoding["time"] |= {"chunks": (_TIMES_PER_CHUNK,)}
            dataset.to_zarr(temporary, mode="w", encoding=encoding, zarr_format=2, consolidated=True)
