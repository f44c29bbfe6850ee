"""References: the states that forecasts are verified against and that simulated observations are drawn from.

`Reference` reads a folder of netCDF files in the WeatherBench2 schema, one time a chunk, any number of times a file; in
a folder with a manifest, only the files that the manifest lists. It reads them with h5netcdf: one state takes
milliseconds, where a lazily concatenated dataset takes tens. `ProductReference` reads any product of states where it
is: ERA5 in a bucket, operational analyses.
"""

import hashlib
import logging
import time as clock
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.errors import DacycleError
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, EXTRA_CHANNELS, GROUPS, LEVELS, WB2_NAMES
from dacycle.forecast_adapter.grid import Grid, GridError, regrid
from dacycle.forecast_adapter.state import SURFACE, UPPER, StateError, as_hour, check_array, check_values, make_state
from dacycle.forecast_adapter.states.dataset_writer import HOURS, write_netcdf
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.manifest import dataset_files

__all__ = ["EXTRA_FIELDS", "ProductReference", "Reference", "ReferenceDataError", "write_times"]

logger = logging.getLogger(__name__)

EXTRA_FIELDS: dict[str, tuple[str, str, float]] = {
    # short name: (name in the file, SI unit of the short name, factor from the file's unit)
    "tp6h": ("total_precipitation_6hr", "kg m-2", 1000.0),  # WeatherBench2 keeps metres of water
    "olr": ("outgoing_longwave_radiation", "W m-2", 1.0),
    "td2m": ("2m_dewpoint_temperature", "K", 1.0),
    "ps": ("surface_pressure", "Pa", 1.0),
}
"""Surface fields beside the 69 channels: 6-h precipitation and mean OLR (both end at the time), dewpoint, pressure."""

KEPT = 64
"""States of a reference that stay in memory once read."""


class ReferenceDataError(DacycleError, LookupError):
    """A reference has no such time, or its files have another layout; names the folder or file and the time."""


class Reference:
    """States by time from a folder of netCDF files, searched recursively for names that start with a digit.

    Args:
        folder: the folder of the files.
        kept: number of states that stay in memory once read; None: all.

    Attributes:
        folder: the folder of the files.
        grid: the grid of the states, latitude descending, longitude from 0.
        times: (n,) datetime64[h], ascending, unique.

    Raises:
        ReferenceDataError: there are no such files, or one has another layout.
        DatasetError: the folder is a dataset that is unfinished or lacks a file.
    """

    def __init__(self, folder: Path | str, kept: int | None = KEPT) -> None:
        self.folder: Path | str = Path(folder)
        self._where: dict[np.datetime64, tuple[Path, int]] = {}
        self._stamps: dict[Path, tuple[int, int]] = {}
        files = self._files()
        if not files:
            raise ReferenceDataError(
                f"{self.folder}: no netCDF files of states here; `dacycle nature-run` or `dacycle dataset` makes them"
            )
        self.grid = _grid(files[0])
        self.array = lru_cache(maxsize=kept)(self._array)
        self._surface_at = lru_cache(maxsize=kept)(self._surface)
        self._mark_at = lru_cache(maxsize=None)(self._mark)
        self.times: NDArray[np.datetime64] = np.array([], "datetime64[h]")
        self.refresh()

    def refresh(self) -> None:
        """Take in the files of the folder that are new or have changed since the last look.

        Raises:
            ReferenceDataError: one of them has another layout; the reference stays as it was.
        """
        stamps = {path: _stamp(path) for path in self._files()}
        changed = {path for path, stamp in stamps.items() if self._stamps.get(path) != stamp}
        if not changed and stamps.keys() == self._stamps.keys():
            return
        unchanged = stamps.keys() - changed
        where = {time: (path, i) for time, (path, i) in self._where.items() if path in unchanged}
        for path in sorted(changed):
            if not _grid(path).matches(self.grid):
                raise ReferenceDataError(f"{path}: on another grid than {next(iter(stamps)).name}")
            for i, time in enumerate(_times(path)):
                if time in where:
                    raise ReferenceDataError(f"{path}: {time} is also in {where[time][0].name}")
                where[time] = (path, i)
        if self._stamps.keys() & changed:  # cached states are from the old files
            for cache in (_file, self.array, self._surface_at, self._mark_at):
                cache.cache_clear()
        self._where, self._stamps = where, stamps
        self.times = np.array(sorted(where), "datetime64[h]")

    def _files(self) -> list[Path]:
        listed = dataset_files(Path(self.folder))
        return sorted(Path(self.folder).rglob("[0-9]*.nc")) if listed is None else listed

    def __contains__(self, time: object) -> bool:
        """Return whether there is a state at `time`."""
        return as_hour(time) in self._where

    def missing(self, times: Iterable[np.datetime64]) -> list[np.datetime64]:
        """Return those of `times` at which the reference holds no state."""
        return [time for time in times if time not in self]

    def mark(self, time: np.datetime64) -> str:
        """Return what tells the state at `time` from that of another reference; empty where there is none.

        It is a digest of all fields of the state as they are stored.
        """
        return self._mark_at(as_hour(time)) if time in self else ""

    def _mark(self, time: np.datetime64) -> str:
        file, i = self._open(time)
        digest = hashlib.sha256()
        for name in (*WB2_NAMES.values(), *(name for name, _, _ in EXTRA_FIELDS.values())):
            if name in file:
                with reading(f"{self._label(time)}: {name}", ReferenceDataError):
                    digest.update(_stored(file[name], i))
        return digest.hexdigest()[:16]

    def absence(self, time: np.datetime64) -> str:
        """Return why there is no state at `time`; empty where there is one."""
        try:
            self.array(as_hour(time))
        except ReferenceDataError as error:
            return str(error)
        return ""

    def times_of(self, years: Iterable[int]) -> NDArray[np.datetime64]:
        """Return the times (n,) that lie in these calendar years, datetime64[h]."""
        return self.times[np.isin(self.times.astype("datetime64[Y]").astype(int) + 1970, list(years))]

    def state(self, time: np.datetime64) -> xr.DataArray:
        """Return the state (69, H, W), SI, at `time`; raise ReferenceDataError where there is none."""
        return make_state(self.array(as_hour(time)), self.grid, time)

    def _array(self, time: np.datetime64) -> NDArray[np.float32]:
        """Return the state at `time` as (69, H, W) float32, read-only; the last `kept` stay in memory."""
        file, i = self._open(time)
        out = np.empty((CHANNEL_COUNT, *self.grid.shape), np.float32)
        for k, short in enumerate(SURFACE):
            out[k] = self._plane(file, WB2_NAMES[short], i, time)
        for short in UPPER:
            out[GROUPS[short][0] : GROUPS[short][-1] + 1] = self._plane(file, WB2_NAMES[short], i, time)
        with _of_reference():
            check_array(out, self.grid, self._label(time))
        out.flags.writeable = False
        return out

    def surface(self, time: np.datetime64, needed: Iterable[str] = ()) -> xr.Dataset:
        """Return those `EXTRA_FIELDS` that are there at `time` as a dataset (latitude, longitude), in SI units.

        Raises:
            ReferenceDataError: one of the needed ones is not there, or there is no state at `time`.
        """
        fields = self._surface_at(time)
        absent = [EXTRA_FIELDS[short][0] for short in needed if short not in fields]
        if absent:
            raise ReferenceDataError(f"{self.folder}, {time}: no {', '.join(absent)} here")
        return fields

    def _surface(self, time: np.datetime64) -> xr.Dataset:
        file, i = self._open(time)
        fields = {}
        for short in self.surface_names(time):
            name, unit, factor = EXTRA_FIELDS[short]
            values = np.asarray(self._plane(file, name, i, time), np.float32) * np.float32(factor)
            with _of_reference():
                check_values(EXTRA_CHANNELS[short], values, self._label(time))
            fields[short] = (("latitude", "longitude"), values, {"units": unit})
        return xr.Dataset(fields, {"latitude": self.grid.latitude, "longitude": self.grid.longitude})

    def _plane(self, file: Any, name: str, position: int, time: np.datetime64) -> NDArray:
        """Return a variable at a position in an open file."""
        with reading(f"{self._label(time)}: {name}", ReferenceDataError):
            return np.asarray(file[name][position])

    def _label(self, time: np.datetime64) -> str:
        """Return the file that holds a time, and the time, for messages."""
        return f"{self._where[as_hour(time)][0]}, {time}"

    def surface_names(self, time: np.datetime64) -> tuple[str, ...]:
        """Return the names of those `EXTRA_FIELDS` that are there at `time`."""
        file, _ = self._open(time)
        return tuple(short for short, (name, _, _) in EXTRA_FIELDS.items() if name in file)

    def extra_fields(self, times: Iterable[np.datetime64]) -> tuple[str, ...]:
        """Return the names of those `EXTRA_FIELDS` that are there at all of `times`.

        Raises:
            ReferenceDataError: one is there at a part of the times only; names fields, years and the remedy.
        """
        there = {time: self.surface_names(time) for time in times}
        lacking = {short: [time for time, names in there.items() if short not in names] for short in EXTRA_FIELDS}
        partly = {short: absent for short, absent in lacking.items() if 0 < len(absent) < len(there)}
        if partly:
            raise ReferenceDataError(f"{self.folder}: {_partly(partly)}")
        return tuple(short for short, absent in lacking.items() if not absent)

    def _open(self, time: np.datetime64) -> tuple[Any, int]:
        """Return the open file that holds a time, and the time's position in it."""
        try:
            path, i = self._where[as_hour(time)]
        except KeyError:
            span = f"{self.times[0]} to {self.times[-1]}"
            raise ReferenceDataError(f"{self.folder}: no state at {time}; it holds {span}") from None
        with reading(path, ReferenceDataError):
            return _file(path), i


class ProductReference(Reference):
    """The analyses of a product, regridded to a world's grid.

    A time whose state is incomplete counts as absent, and the error names the missing channels. Where a time is asked
    for that the product did not hold, the product is opened again, at most once in `AGAIN` seconds.

    Args:
        product: the product, see `products.open_states`.
        grid: the grid that its states are regridded to.

    Attributes:
        folder: the product.
        times: (n,) datetime64[h], ascending: times with at least one field when the product was last opened.

    Raises:
        ReferenceDataError: there is nothing there, or it cannot be read.
    """

    AGAIN = 60.0

    def __init__(self, product: Path | str, grid: Grid) -> None:
        self.folder = product
        self.grid = grid
        self._failed: dict[np.datetime64, float] = {}  # when the product was opened that a time could not be read from
        self.array = lru_cache(maxsize=KEPT)(self._array)
        self._surface_at = lru_cache(maxsize=KEPT)(self._surface)
        with _of_reference():
            self._open_product()

    def __contains__(self, time: object) -> bool:
        """Return whether there is a whole state at `time`, so far as it is known: none that failed to be read."""
        hour = as_hour(time)
        if hour not in self._source or hour in self._failed:
            self.refresh()
        if hour in self._failed:
            return self._failed[hour] != self._opened and not self.absence(hour)
        return hour in self._source

    def mark(self, time: np.datetime64) -> str:
        """Return the product's name, which stands for its states; empty where there is none at `time`."""
        return str(self.folder).rstrip("/").rsplit("/", 1)[-1] if time in self else ""

    def refresh(self) -> None:
        """Open the product again, if `AGAIN` seconds have passed; where that fails, log it and keep what was open."""
        if clock.monotonic() - self._opened >= self.AGAIN:
            try:
                self._open_product()
            except StateError as error:
                logger.warning("reference %s cannot be opened again: %s", self.folder, error)

    def _open_product(self) -> None:
        self._opened = clock.monotonic()
        self._source = open_states(self.folder, analyses=True)
        self.times = self._source.times

    def _array(self, time: np.datetime64) -> NDArray[np.float32]:
        try:
            values = self._source.state(time, self.grid).values
        except StateError as error:
            self._failed[time] = self._opened
            raise ReferenceDataError(str(error)) from error
        self._failed.pop(time, None)
        values.flags.writeable = False
        return values

    def _surface(self, time: np.datetime64) -> xr.Dataset:
        fields = self._product_surface(time)
        names = [name for name in EXTRA_FIELDS if name in fields]
        coordinates = {"latitude": self.grid.latitude, "longitude": self.grid.longitude}
        regridded = {name: regrid(fields[name].values, self._source.grid, self.grid) for name in names}
        variables = {name: (("latitude", "longitude"), regridded[name], fields[name].attrs) for name in names}
        return xr.Dataset(variables, coordinates)

    def surface_names(self, time: np.datetime64) -> tuple[str, ...]:
        """Return the names of those `EXTRA_FIELDS` that are there at `time`."""
        return tuple(map(str, self.surface(time)))

    def _product_surface(self, time: np.datetime64) -> xr.Dataset:
        with _of_reference():
            return self._source.surface(time)


@contextmanager
def _of_reference() -> Iterator[None]:
    """Turn errors of states into those of a reference."""
    try:
        yield
    except StateError as error:
        raise ReferenceDataError(str(error)) from error


def _partly(lacking: dict[str, list[np.datetime64]]) -> str:
    """Spell which fields are missing in which years, and what to do."""
    words = []
    for short, times in lacking.items():
        years = sorted({str(time)[:4] for time in times})
        words.append(f"{EXTRA_FIELDS[short][0]} is missing in {', '.join(years)} (first at {times[0]})")
    remedy = "add it there with `dacycle dataset --beside`, or take years that all have it or all lack it"
    return f"{'; '.join(words)}, and is there at other times; {remedy}"


@lru_cache(maxsize=32)
def _file(path: Path) -> Any:
    # Not through h5netcdf, which looks up the length of each dimension in the whole file at every read.
    return h5py.File(path, "r")


def _stored(variable: h5py.Dataset, position: int) -> bytes:
    """Return one position along the first axis as it is stored: still packed, where it is a chunk of its own."""
    if variable.chunks == (1, *variable.shape[1:]):
        return bytes(variable.id.read_direct_chunk((position, *(0 for _ in variable.shape[1:])))[1])
    return np.asarray(variable[position]).tobytes()


def _stamp(path: Path) -> tuple[int, int]:
    """Return time of change and inode, which tell a file from one that replaces it; none is written in place."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ino


def _times(path: Path) -> NDArray[np.datetime64]:
    """Return the times of one file, and check its layout, since `Reference` reads by position."""
    with reading(path, ReferenceDataError), h5netcdf.File(path, "r") as file:
        needed = ["time", "level", "latitude", "longitude", *(WB2_NAMES[v] for v in (*SURFACE, *UPPER))]
        missing = [name for name in needed if name not in file.variables]
        if missing:
            raise ReferenceDataError(f"{path}: missing {', '.join(missing)}")
        if tuple(np.asarray(file["level"])) != LEVELS:
            raise ReferenceDataError(f"{path}: levels are {list(np.asarray(file['level']))}, not {list(LEVELS)} hPa")
        surface, upper = ("time", "latitude", "longitude"), ("time", "level", "latitude", "longitude")
        layout = {WB2_NAMES[short]: surface for short in SURFACE} | {WB2_NAMES[short]: upper for short in UPPER}
        layout |= {name: surface for name, _, _ in EXTRA_FIELDS.values() if name in file.variables}
        for name, dimensions in layout.items():
            if file[name].dimensions != dimensions:
                raise ReferenceDataError(f"{path}: {name} is {file[name].dimensions}, not {dimensions}")
            if not np.issubdtype(file[name].dtype, np.floating):
                raise ReferenceDataError(f"{path}: {name} is packed as {file[name].dtype}; store it as floating point")
        units = file["time"].attrs["units"]
        units = units.decode() if isinstance(units, bytes) else str(units)
        if not units.startswith(HOURS) or units.removeprefix(HOURS).strip(" T0:.Z"):
            raise ReferenceDataError(f"{path}: times are {units!r}, not {HOURS!r}")
        return np.asarray(file["time"]).astype("int64").astype("datetime64[h]")


def _grid(path: Path) -> Grid:
    with reading(path, ReferenceDataError), h5netcdf.File(path, "r") as file:
        absent = [axis for axis in ("latitude", "longitude") if axis not in file.variables]
        if absent:
            raise ReferenceDataError(f"{path}: no usable latitude and longitude: {' and '.join(absent)} missing")
        latitude, longitude = (np.asarray(file[axis], float) for axis in ("latitude", "longitude"))
    try:
        return Grid("from file", latitude, longitude)
    except GridError as error:
        raise ReferenceDataError(f"{path}: no usable latitude and longitude: {error}") from error


def write_times(dataset: xr.Dataset, path: Path) -> None:
    """Write a dataset of states as one netCDF file of a reference, one time a chunk, hours since 1970.

    The file appears under its name only when it is whole.
    """
    write_netcdf(path, [dataset], dict(dataset.attrs))
