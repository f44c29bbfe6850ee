"""Write datasets one time after another: to netCDF, and to Zarr in WeatherBench2's layout.

One time (of a forecast: one lead) is one chunk, so that a state is read alone. A file of any length takes the memory of
one time. It carries the attributes of the CF conventions (`cf`). It appears under its name only when it is whole and
xarray reads from it, bit by bit, what was written.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import xarray as xr

from dacycle.common.files import whole
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.cf import described, global_attributes

__all__ = ["HOURS", "write_netcdf", "write_zarr"]

HOURS = "hours since 1970-01-01"
_ONE_BY_ONE = ("time", "prediction_timedelta")
_READ_BYTES = 1 << 26
"""Bytes that are read back together."""
_TIMES_PER_CHUNK = 512  # of the coordinate; in Zarr a chunk for each number would be a file each


def write_netcdf(path: Path, datasets: Iterable[xr.Dataset], attrs: Mapping[str, str], level: int = 1) -> None:
    """Write datasets, each with a `time`, to one netCDF-4 file.

    Args:
        path: the file; one of the same name is replaced.
        datasets: datasets of the same float32 variables, in ascending order of time.
        attrs: global attributes.
        level: compression level of zlib.

    Raises:
        StateError: xarray reads something else than was written.
        OSError: the file cannot be written.
    """
    with whole(path) as temporary:
        checksums: list[int] = []
        with h5netcdf.File(temporary, "w") as file:
            file.attrs.update(global_attributes(attrs))
            for dataset in map(described, datasets):
                if "time" not in file.variables:
                    _create(file, dataset, level)
                _append(file, dataset)
                checksums += _checksums(dataset)
        _check(temporary, path, "h5netcdf", checksums)


def _checksums(dataset: xr.Dataset) -> Iterator[int]:
    """Yield a CRC-32 for each time of a dataset: of the time, and of the values of all variables by name."""
    count, names = dataset.sizes["time"], sorted(map(str, dataset.data_vars))
    together = max(_READ_BYTES * count // max(dataset.nbytes, 1), 1)  # a read of one time costs more than its bytes
    for first in range(0, count, together):
        part = dataset.isel(time=slice(first, first + together))
        arrays = [part[name].transpose("time", ...).values for name in names]
        for i, time in enumerate(part["time"].values):
            checksum = zlib.crc32(str(np.datetime64(time, "h")).encode())
            for array in arrays:
                checksum = zlib.crc32(np.ascontiguousarray(array[i], np.float32).tobytes(), checksum)
            yield checksum


def _check(path: Path, name: Path, engine: str, checksums: list[int]) -> None:
    """Raise StateError unless xarray finds what was written; `name` is what the file will be called."""
    options: dict[str, Any] = {"engine": engine, "chunks": None, "decode_timedelta": False}
    with reading(f"{name}: what was written", StateError), xr.open_dataset(path, **options) as dataset:
        found = list(_checksums(dataset)) if checksums else []
    if found != checksums:
        raise StateError(f"{name}: what is read is not what was written, and nothing was kept; check disk and memory")


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
    variable.encoding = _time_encoding(coordinate)
    return xr.conventions.encode_cf_variable(variable, name=str(coordinate.name))


def _time_encoding(coordinate: xr.DataArray) -> dict[str, Any]:
    if np.issubdtype(coordinate.dtype, np.datetime64):
        return {"units": HOURS, "dtype": "int64"}
    if np.issubdtype(coordinate.dtype, np.timedelta64):
        return {"units": "hours", "dtype": "int64"}
    return {"_FillValue": None}  # a coordinate has no gaps


def write_zarr(path: Path, datasets: Iterable[xr.Dataset], attrs: Mapping[str, str]) -> None:
    """Write datasets as `write_netcdf` does to a Zarr folder.

    The format is 2, with consolidated metadata, as in WeatherBench2; all tools read it. Arguments and errors as there.
    """
    with whole(path) as temporary:
        checksums: list[int] = []
        about = global_attributes(attrs)  # given each time, as what is appended replaces it
        for i, dataset in enumerate(described(dataset).assign_attrs(about) for dataset in datasets):
            checksums += _checksums(dataset)
            if i:
                dataset.to_zarr(temporary, append_dim="time", zarr_format=2, consolidated=True)
                continue
            encoding = {str(k): {"chunks": _chunks(v)} for k, v in dataset.data_vars.items()}
            encoding |= {str(k): _time_encoding(v) for k, v in dataset.coords.items()}
            encoding["time"] |= {"chunks": (_TIMES_PER_CHUNK,)}
            dataset.to_zarr(temporary, mode="w", encoding=encoding, zarr_format=2, consolidated=True)
        _check(temporary, path, "zarr", checksums)
