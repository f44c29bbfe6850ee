"""A reference: what a forecast is verified against, and what simulated observations are drawn from.

`Reference` is a folder of netCDF files in the WeatherBench2 schema, one time per chunk, any number of times per file;
where it has a manifest, the files that this lists. They are read through h5netcdf directly: one state takes
milliseconds, against tens through a lazily concatenated dataset. `ProductReference` is any product that states come
from, where it is: ERA5 in a bucket, operational analyses.
"""

import logging
import time as clock
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import CHANNEL_COUNT, GROUPS, LEVELS, WB2_NAMES
from dacycle.forecast_adapter.grid import Grid, GridError, regrid
from dacycle.forecast_adapter.state import SURFACE, UPPER, StateError, as_hour, make_state
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.manifest import dataset_files

__all__ = ["SURFACE_FIELDS", "ProductReference", "Reference", "ReferenceError", "write_times"]

logger = logging.getLogger(__name__)

SURFACE_FIELDS: dict[str, tuple[str, str, float]] = {
    # short name: (name in the file, SI unit of the short name, factor from the file's unit)
    "tp6h": ("total_precipitation_6hr", "kg m-2", 1000.0),  # WeatherBench2 keeps metres of water
    "olr": ("outgoing_longwave_radiation", "W m-2", 1.0),
    "td2m": ("2m_dewpoint_temperature", "K", 1.0),
    "ps": ("surface_pressure", "Pa", 1.0),
}
"""Surface fields beside the state: 6-h precipitation and mean OLR (both ending at the time), dewpoint, pressure."""

_HOURS = "hours since 1970-01-01"


class ReferenceError(LookupError):
    """A reference has no such time, or its files are not what they should be; names the folder and the time."""


class Reference:
    """States by time from a folder of netCDF files (searched recursively for names that start with a digit).

    Args:
        folder: where the files are.
        kept: how many states stay in memory once read; None: all of them.

    Attributes:
        folder: where the files are.
        grid: the grid they are on, latitude descending, longitude from 0.
        times: (n,) datetime64[h], ascending, unique.

    Raises:
        ReferenceError: there are no such files, or one is not as it should be.
        DatasetError: the folder is a dataset that is unfinished or has lost a file.
    """

    def __init__(self, folder: Path | str, kept: int | None = 64) -> None:
        self.folder: Path | str = Path(folder)
        self._where: dict[np.datetime64, tuple[Path, int]] = {}
        self._stamps: dict[Path, tuple[int, int]] = {}
        files = self._files()
        if not files:
            raise ReferenceError(f"{self.folder}: no netCDF files of states here")
        self.grid = _grid(files[0])
        self.array = lru_cache(maxsize=kept)(self._array)
        self.surface = lru_cache(maxsize=kept)(self._surface)
        self.times: NDArray[np.datetime64] = np.array([], "datetime64[h]")
        self.refresh()

    def refresh(self) -> None:
        """Look at the folder again: files that have come or changed since are taken in.

        Raises:
            ReferenceError: one of them is not as it should be; the reference stays as it was.
        """
        stamps = {path: _stamp(path) for path in self._files()}
        changed = {path for path, stamp in stamps.items() if self._stamps.get(path) != stamp}
        if not changed and stamps.keys() == self._stamps.keys():
            return
        where = {time: place for time, place in self._where.items() if place[0] in stamps and place[0] not in changed}
        for path in sorted(changed):
            if not _grid(path).matches(self.grid):
                raise ReferenceError(f"{path}: on another grid than {next(iter(stamps)).name}")
            for i, time in enumerate(_times(path)):
                if time in where:
                    raise ReferenceError(f"{path}: {time} is also in {where[time][0].name}")
                where[time] = (path, i)
        if self._stamps.keys() & changed:  # what was read of them is of the old files
            for cache in (_file, self.array, self.surface):
                cache.cache_clear()
        self._where, self._stamps = where, stamps
        self.times = np.array(sorted(where), "datetime64[h]")

    def _files(self) -> list[Path]:
        listed = dataset_files(Path(self.folder))
        return sorted(Path(self.folder).rglob("[0-9]*.nc")) if listed is None else listed

    def __contains__(self, time: object) -> bool:
        return as_hour(time) in self._where

    def missing(self, times: Iterable[np.datetime64]) -> list[np.datetime64]:
        """Those of `times` that the reference does not hold."""
        return [time for time in times if time not in self]

    def absence(self, time: np.datetime64) -> str:
        """Why there is no state at `time`."""
        try:
            self.array(as_hour(time))
        except ReferenceError as error:
            return str(error)
        return ""

    def times_of(self, years: Iterable[int]) -> NDArray[np.datetime64]:
        """The times that lie in these calendar years."""
        return self.times[np.isin(self.times.astype("datetime64[Y]").astype(int) + 1970, list(years))]

    def state(self, time: np.datetime64) -> xr.DataArray:
        """The state at `time`; ReferenceError where there is none."""
        return make_state(self.array(as_hour(time)), self.grid, time)

    def _array(self, time: np.datetime64) -> NDArray[np.float32]:
        """The state at `time` as (69, H, W) float32, read-only (the last `kept` stay in memory)."""
        file, i = self._open(time)
        out = np.empty((CHANNEL_COUNT, *self.grid.shape), np.float32)
        for k, short in enumerate(SURFACE):
            out[k] = file[WB2_NAMES[short]][i]
        for short in UPPER:
            out[GROUPS[short][0] : GROUPS[short][-1] + 1] = file[WB2_NAMES[short]][i]
        out.flags.writeable = False
        return out

    def _surface(self, time: np.datetime64, names: tuple[str, ...] = tuple(SURFACE_FIELDS)) -> xr.Dataset:
        """Fields of `SURFACE_FIELDS` at `time` as a dataset (latitude, longitude), in SI units."""
        file, i = self._open(time)
        fields = {}
        for short in names:
            name, unit, factor = SURFACE_FIELDS[short]
            if name not in file.variables:
                raise ReferenceError(f"{self._where[as_hour(time)][0]}: no {name} here")
            values = np.asarray(file[name][i], np.float32) * np.float32(factor)
            fields[short] = (("latitude", "longitude"), values, {"units": unit})
        return xr.Dataset(fields, {"latitude": self.grid.latitude, "longitude": self.grid.longitude})

    def surface_names(self, time: np.datetime64) -> tuple[str, ...]:
        """Those of `SURFACE_FIELDS` that are there at `time`."""
        file, _ = self._open(time)
        return tuple(short for short, (name, _, _) in SURFACE_FIELDS.items() if name in file.variables)

    def _open(self, time: np.datetime64) -> tuple[Any, int]:
        try:
            path, i = self._where[as_hour(time)]
        except KeyError:
            span = f"{self.times[0]} to {self.times[-1]}"
            raise ReferenceError(f"{self.folder}: no state at {time}; it holds {span}") from None
        return _file(path), i


class ProductReference(Reference):
    """The analyses of a product, brought to a world's grid.

    A time whose state is not whole is not there; what it lacks is in the error. A product that grows is looked at again
    when a time is asked for that it did not hold, `AGAIN` seconds or more after the last look.

    Args:
        place: of the product, see `products.open_states`.
        grid: where its states are wanted.
        kept: how many states stay in memory once read.

    Attributes:
        folder: the place.
        times: (n,) datetime64[h], ascending: times with at least one field, as of the last look.

    Raises:
        ReferenceError: there is nothing there, or it cannot be read.
    """

    AGAIN = 60.0

    def __init__(self, place: Path | str, grid: Grid, kept: int | None = 64) -> None:
        self.folder = place
        self.grid = grid
        self.array = lru_cache(maxsize=kept)(self._array)
        self.surface = lru_cache(maxsize=kept)(self._surface)
        try:
            self._look()
        except StateError as error:
            raise ReferenceError(str(error)) from error

    def __contains__(self, time: object) -> bool:
        hour = as_hour(time)
        if hour not in self._source:
            self.refresh()
        return hour in self._source

    def refresh(self) -> None:
        """Look again, if the last look is `AGAIN` seconds ago; what was known stays known where that fails."""
        if clock.monotonic() - self._looked >= self.AGAIN:
            try:
                self._look()
            except StateError as error:
                logger.warning("reference %s cannot be looked at again: %s", self.folder, error)

    def _look(self) -> None:
        self._looked = clock.monotonic()
        self._source = open_states(self.folder, analyses=True)
        self.times = self._source.times

    def _array(self, time: np.datetime64) -> NDArray[np.float32]:
        try:
            values = self._source.state(time, self.grid).values
        except StateError as error:
            raise ReferenceError(str(error)) from error
        values.flags.writeable = False
        return values

    def _surface(self, time: np.datetime64, names: tuple[str, ...] = tuple(SURFACE_FIELDS)) -> xr.Dataset:
        own = self._own_surface(time)
        absent = [name for name in names if name not in own]
        if absent:
            raise ReferenceError(f"{self.folder}, {time}: no {', '.join(absent)} here")
        coordinates = {"latitude": self.grid.latitude, "longitude": self.grid.longitude}
        fields = {
            name: (("latitude", "longitude"), regrid(own[name].values, self._source.grid, self.grid), own[name].attrs)
            for name in names
        }
        return xr.Dataset(fields, coordinates)

    def surface_names(self, time: np.datetime64) -> tuple[str, ...]:
        """Those of `SURFACE_FIELDS` that are there at `time`."""
        own = self._own_surface(time)
        return tuple(name for name in SURFACE_FIELDS if name in own)

    def _own_surface(self, time: np.datetime64) -> xr.Dataset:
        try:
            return self._source.surface(time)
        except StateError as error:
            raise ReferenceError(str(error)) from error


@lru_cache(maxsize=32)
def _file(path: Path) -> Any:
    return h5netcdf.File(path, "r")


def _stamp(path: Path) -> tuple[int, int]:
    """What tells a file from another one that takes its name: it is replaced whole, never written in place."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ino


def _times(path: Path) -> NDArray[np.datetime64]:
    """The times of one file, after checking that its layout is the one that `Reference` reads by position."""
    with h5netcdf.File(path, "r") as file:
        needed = ["time", "level", "latitude", "longitude", *(WB2_NAMES[v] for v in (*SURFACE, *UPPER))]
        missing = [name for name in needed if name not in file.variables]
        if missing:
            raise ReferenceError(f"{path}: missing {', '.join(missing)}")
        if tuple(np.asarray(file["level"])) != LEVELS:
            raise ReferenceError(f"{path}: levels are {list(np.asarray(file['level']))}, not {list(LEVELS)} hPa")
        surface, upper = ("time", "latitude", "longitude"), ("time", "level", "latitude", "longitude")
        layout = {WB2_NAMES[short]: surface for short in SURFACE} | {WB2_NAMES[short]: upper for short in UPPER}
        layout |= {name: surface for name, _, _ in SURFACE_FIELDS.values() if name in file.variables}
        for name, dimensions in layout.items():
            if file[name].dimensions != dimensions:
                raise ReferenceError(f"{path}: {name} is {file[name].dimensions}, not {dimensions}")
            if not np.issubdtype(file[name].dtype, np.floating):
                raise ReferenceError(f"{path}: {name} is packed as {file[name].dtype}; store it as floating point")
        units = file["time"].attrs["units"]
        units = units.decode() if isinstance(units, bytes) else str(units)
        if not units.startswith(_HOURS) or units.removeprefix(_HOURS).strip(" T0:.Z"):
            raise ReferenceError(f"{path}: times are {units!r}, not {_HOURS!r}")
        return np.asarray(file["time"]).astype("int64").astype("datetime64[h]")


def _grid(path: Path) -> Grid:
    with h5netcdf.File(path, "r") as file:
        try:
            return Grid("from file", np.asarray(file["latitude"], float), np.asarray(file["longitude"], float))
        except (GridError, KeyError) as error:
            raise ReferenceError(f"{path}: no usable latitude and longitude: {error}") from error


def write_times(dataset: xr.Dataset, path: Path, level: int = 1) -> None:
    """Write a dataset of states as one netCDF file of a reference: one time per chunk, hours since 1970, atomically.

    level: zlib level. The file appears under its name only when it is whole.
    """
    encoding: dict[str, Any] = {}
    for name, variable in dataset.data_vars.items():
        chunks = (1, *variable.shape[1:])
        encoding[str(name)] = {"zlib": True, "complevel": level, "shuffle": True, "chunksizes": chunks}
    encoding["time"] = {"units": _HOURS, "dtype": "int64"}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("." + path.name + ".part")
    dataset.to_netcdf(part, engine="h5netcdf", encoding=encoding)
    part.replace(path)
