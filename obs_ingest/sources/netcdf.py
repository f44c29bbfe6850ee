"""Fields of observations in netCDF: which variable, on which points, and which hours each field covers.

Everything is found by name (CF standard names, or the usual short ones), never by position. If a file does not state
something, an error asks for it, because it cannot be guessed: a mean stamped 00 UTC may be that of the day before or of
the day after.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from xarray.coders import CFDatetimeCoder

from dacycle.common.damage import check_hdf5
from dacycle.common.foreign import plain_attributes, reading
from dacycle.obs_ingest.sources.kept import kept
from dacycle.obs_ingest.table import ObservationError, is_position, site_names

__all__ = ["STAMPS", "Fields", "Points", "Wanted", "describe"]

STAMPS: dict[str, float] = {"start": 0.0, "middle": 0.5, "end": 1.0}
"""Where in its period a time stamp may stand, as a fraction of the period."""

LONGEST = np.timedelta64(24, "h")

_SMALL = 1 << 16
"""Values of a file that is read as a whole."""

_TIMES = CFDatetimeCoder(use_cftime=False, time_unit="s")
_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")

_MAGIC = {b"CDF": "scipy", b"\x89HD": "h5netcdf"}  # netCDF-3 and netCDF-4, by their first three bytes
_LATITUDE, _LONGITUDE, _TIME = ("latitude", "lat"), ("longitude", "lon"), ("time", "valid_time")


@dataclass(frozen=True)
class Wanted:
    """Which variable to look for, and the experiment's options, which take precedence over the file's attributes.

    Attributes:
        names: short names of the variable, lower case.
        standard_names: its CF standard names.
        methods: accepted cell methods over the period: `mean`, `sum`.
        variable: its name in these files.
        units: its units.
        stamp: which part of its period a time stamp is, one of `STAMPS`.
        period: the period that each value is a mean or a sum over.
    """

    names: tuple[str, ...]
    standard_names: tuple[str, ...]
    methods: tuple[str, ...]
    variable: str | None = None
    units: str | None = None
    stamp: str | None = None
    period: np.timedelta64 | None = None


@dataclass(frozen=True, eq=False)
class Points:
    """The n points of a grid, row by row: latitude and longitude (n,), degrees as in the file; `site` names (n,)."""

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    site: pd.Categorical


@dataclass(frozen=True, eq=False)
class Fields:
    """The k fields of a file.

    Attributes:
        path, variable, units: the file, and its variable.
        start, end: (k,) datetime64[s], the period that each field covers.
        dims: names of the time, latitude and longitude dimensions.
        latitude, longitude: of the rows and columns, degrees, in the file's order.
    """

    path: Path
    variable: str
    units: str | None
    start: NDArray[np.datetime64]
    end: NDArray[np.datetime64]
    dims: tuple[str, str, str]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    @property
    def points(self) -> Points:
        """Return the points of the values of `read`."""
        return _points(self.latitude.tobytes(), self.longitude.tobytes())

    def read(self, which: NDArray[np.intp]) -> NDArray[np.float64]:
        """Read values (len(which), n) of these fields in the file's units, unpacked; NaN where the file has none.

        Raises:
            ObservationError: they cannot be read; names the file, the variable and the time.
        """
        if self._is_small:
            with suppress(ObservationError):  # a field may be damaged that is not wanted
                return self._all(lambda: _opened(self.path))[which]
        options = (self.variable, self.dims, [int(k) for k in which])
        return kept(self.path, Fields, options, lambda: self._values(_opened(self.path), which))

    def keep(self, dataset: xr.Dataset) -> None:
        """Read the values of a small file while it is open, because opening it takes longer; errors are for `read`."""
        if self._is_small:
            with suppress(ObservationError):
                self._all(lambda: nullcontext(dataset))

    @property
    def _is_small(self) -> bool:
        return len(self.start) * len(self.latitude) * len(self.longitude) <= _SMALL

    def _all(self, open_file: Callable[[], AbstractContextManager[xr.Dataset]]) -> NDArray[np.float64]:
        options = (self.variable, self.dims, "all")
        return kept(self.path, Fields, options, lambda: self._values(open_file(), np.arange(len(self.start))))

    def _values(self, opened: AbstractContextManager[xr.Dataset], which: NDArray[np.intp]) -> NDArray[np.float64]:
        time, *horizontal = self.dims
        with opened as dataset:
            data = dataset[self.variable]
            data = data.isel({time: which}) if time in data.dims else data.expand_dims(time)
            when = f"{self.start[which[0]]} to {self.end[which[-1]]}" if len(which) else "no time"
            with reading(f"{self.path}: {self.variable} of {when}", ObservationError):
                values = data.squeeze(_other_dims(data, self.dims)).transpose(time, *horizontal).to_numpy()
        return values.reshape(len(which), -1).astype(float)


def describe(path: Path, wanted: Wanted) -> Fields:
    """Describe the fields of a file; the result is kept in memory until the file changes.

    Raises:
        ObservationError: it is not a netCDF file, is damaged, has no such variable, or does not state where its points
            are or which hours its values cover; names the file, the variable and the remedy.
    """
    with reading(path, ObservationError):
        status = path.stat()
    return _describe(path, status.st_size, status.st_mtime_ns, wanted)


@lru_cache(maxsize=4096)
def _describe(path: Path, size: int, modified: int, wanted: Wanted) -> Fields:
    return replace(kept(path, describe, (wanted,), lambda: _described(path, wanted)), path=path)


def _described(path: Path, wanted: Wanted) -> Fields:
    with _opened(path) as dataset:
        name = _variable(dataset, wanted, path)
        data = dataset[name]
        latitude, longitude = _axis(dataset, name, _LATITUDE, path), _axis(dataset, name, _LONGITUDE, path)
        time = next((t for t in _TIME if t in dataset.variables), None)
        if time is None:
            raise ObservationError(f"{path}: {name} has no time")
        dims = (time, latitude, longitude)
        for dim in _other_dims(data, dims):
            if data.sizes[dim] != 1:
                raise ObservationError(f"{path}: {name} has a dimension {dim} beside time, latitude and longitude")
        rows, columns = (dataset[axis].to_numpy().astype(float) for axis in (latitude, longitude))
        if not (is_position(rows, 0.0).all() and is_position(0.0, columns).all()):
            raise ObservationError(f"{path}: latitude or longitude of {name} is not in degrees, or missing")
        _check_method(data, time, wanted, path)
        start, end = _periods(dataset, data, time, wanted, path)
        units = wanted.units or str(data.attrs.get("units", ""))
        fields = Fields(path, name, units, start, end, dims, rows, columns)
        fields.keep(dataset)
        return fields


@contextmanager
def _opened(path: Path) -> Iterator[xr.Dataset]:
    """Open a file; xarray reads as values are asked for, so that the guard holds for the whole block."""
    with reading(path, ObservationError):
        with path.open("rb") as file:
            engine = _MAGIC.get(file.read(3))
        if engine is None:
            raise ObservationError(f"{path}: is not a netCDF file")
        if engine == "h5netcdf":
            check_hdf5(path, ObservationError)
        with xr.open_dataset(path, engine=engine, decode_cf=False) as coded:
            _check_times(coded, path)
            yield plain_attributes(_decoded(coded, path))


def _decoded(coded: xr.Dataset, path: Path) -> xr.Dataset:
    try:
        return xr.decode_cf(coded, decode_times=_TIMES, decode_timedelta=False)
    except (ValueError, OverflowError) as problem:
        raise ObservationError(
            f"{path}: its times are no dates; their units are written as hours since 1900-01-01"
        ) from problem


def _check_times(coded: xr.Dataset, path: Path) -> None:
    """Raise an error where times are not counted in the calendar of observations, or there is none."""
    for time in (name for name in _TIME if name in coded.variables):
        attrs, size = coded[time].attrs, coded[time].size
        units, calendar = str(attrs.get("units", "")), str(attrs.get("calendar", "standard")).lower()
        if not size:
            raise ObservationError(f"{path}: {time} holds no time; the file is empty, or still being written")
        if calendar not in _CALENDARS:
            raise ObservationError(
                f"{path}: {time} is of the calendar {calendar}, whose days are not those of observations; convert it, "
                "for instance with `cdo setcalendar,standard IN OUT`"
            )
        since = re.search(r"\bsince\s+(\d+)-", units)
        if since and int(since[1]) <= 1582 and calendar != "proleptic_gregorian":
            raise ObservationError(
                f"{path}: {time} is in {units!r}, from before the Gregorian calendar, which programs count in two "
                "ways, days apart; convert it, for instance with `cdo setreftime,1900-01-01,00:00:00,hours IN OUT`"
            )


def _variable(dataset: xr.Dataset, wanted: Wanted, path: Path) -> str:
    """Return the name of the wanted variable: the one that the experiment names, else by short or standard name."""
    if wanted.variable is not None:
        names = [wanted.variable] if wanted.variable in dataset else []
    else:
        names = [
            str(name)
            for name, data in dataset.data_vars.items()
            if str(name).lower() in wanted.names or data.attrs.get("standard_name") in wanted.standard_names
        ]
    if len(names) != 1:
        expected = wanted.variable or " or ".join((*wanted.names, *wanted.standard_names))
        variables = ", ".join(map(str, dataset.data_vars)) or "none"
        raise ObservationError(
            f"{path}: {len(names) or 'no'} variable{'s' if names else ''} {expected}; "
            f"name one with the option `variable`. Its variables: {variables}"
        )
    return names[0]


def _axis(dataset: xr.Dataset, name: str, names: tuple[str, str], path: Path) -> str:
    """Return the dimension of a variable that is its latitude or longitude, with a coordinate of the same name."""
    for dim in map(str, dataset[name].dims):
        if dim in dataset.coords and (dim in names or dataset[dim].attrs.get("standard_name") == names[0]):
            return dim
    raise ObservationError(f"{path}: {name} has no dimension {' or '.join(names)} with a coordinate")


def _other_dims(data: xr.DataArray, dims: tuple[str, ...]) -> list[str]:
    return [str(dim) for dim in data.dims if dim not in dims]


def _check_method(data: xr.DataArray, time: str, wanted: Wanted, path: Path) -> None:
    """Raise an error where the file states another cell method, such as a maximum or a value at a moment."""
    for method in re.findall(rf"\b{time}\s*:\s*(\w+)", str(data.attrs.get("cell_methods", ""))):
        if method not in wanted.methods:
            known = " or ".join(wanted.methods)
            raise ObservationError(f"{path}: {data.name} is a {method} over time (cell_methods), not a {known}")


def _periods(
    dataset: xr.Dataset, data: xr.DataArray, time: str, wanted: Wanted, path: Path
) -> tuple[NDArray[np.datetime64], NDArray[np.datetime64]]:
    """Return start and end (k,) of each field: from time bounds, or from the time stamp and the period."""
    attrs, stamps = dataset[time].attrs, np.atleast_1d(dataset[time].to_numpy())
    if not np.issubdtype(stamps.dtype, np.datetime64) or np.isnat(stamps).any():
        raise ObservationError(
            f"{path}: {time} of {data.name} does not hold dates; its units are written as hours since 1900-01-01"
        )
    bounds = dataset.get(attrs.get("bounds"))
    if bounds is not None and wanted.stamp is None and wanted.period is None:
        ends = np.atleast_2d(bounds.to_numpy()).T
    else:
        # The attributes are a convention of NOAA's Physical Sciences Laboratory, whose files have no bounds.
        stamp = wanted.stamp or attrs.get("coordinate_defines")
        period = wanted.period or _averaging(attrs) or _averaging(data.attrs)
        if stamp not in STAMPS or period is None:
            raise ObservationError(
                f"{path}: nothing says which hours {data.name} of {stamps[0].astype('datetime64[m]')} covers; give the "
                "options `stamp` (that time is the start, middle or end of its period) and `period` (such as 24h)"
            )
        length = period.astype("timedelta64[ms]")
        begin = stamps.astype("datetime64[ms]") - (length * STAMPS[stamp]).astype("timedelta64[ms]")
        ends = np.stack([begin, begin + length])
    if ends.shape != (2, len(stamps)) or not np.issubdtype(ends.dtype, np.datetime64) or np.isnat(ends).any():
        raise ObservationError(f"{path}: the time bounds of {data.name} are not two dates for each time")
    # To the nearest minute: times are often fractions of a day, and a day may end at 23:59:59.
    minutes = (ends.astype("datetime64[s]") + np.timedelta64(30, "s")).astype("datetime64[m]")
    start, end = minutes.astype("datetime64[s]")
    longest, shortest = (end - start).max(), (end - start).min()
    if shortest <= np.timedelta64(0, "s"):
        raise ObservationError(f"{path}: the time bounds of {data.name} end before they start")
    if longest > LONGEST:
        hours = longest / np.timedelta64(1, "h")
        raise ObservationError(
            f"{path}: {data.name} covers {hours:g} hours at a time; no more than a day is of use here"
        )
    return start, end


def _averaging(attrs: dict[str, object]) -> np.timedelta64 | None:
    """Return the attribute `avg_period` ("0000-00-01 00:00:00" is a day), or None."""
    match = re.fullmatch(r"(\d+)-(\d+)-(\d+) (\d+):(\d+):(\d+)\S*", str(attrs.get("avg_period", "")).strip())
    if match is None:
        return None
    years, months, days, hours, minutes, seconds = map(int, match.groups())
    days += 365 * years + 30 * months  # too long in any case, which is an error
    return np.timedelta64(((days * 24 + hours) * 60 + minutes) * 60 + seconds, "s")


@lru_cache(maxsize=16)
def _points(latitude: bytes, longitude: bytes) -> Points:
    """Return the points of a grid, made once for all its files: naming 65,000 sites takes longer than reading them."""
    rows, columns = np.meshgrid(np.frombuffer(latitude), np.frombuffer(longitude), indexing="ij")
    return Points(rows.ravel(), columns.ravel(), site_names(rows.ravel(), columns.ravel()))
