"""Read states from GRIB files of a weather centre: ERA5, IFS, AIFS, GFS, GDAS.

Fields are found by name, level and unit, in any order and file, and sorted by their coordinates, for any scanning mode
and first longitude. The state's `notes` name derived fields (geopotential from its height, specific humidity from
relative humidity); a missing field is an error.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

import eccodes
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import CHANNELS, LEVELS, Channel, index
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.physics import (
    CENTRES_WITH_KNOWN_HUMIDITY,
    GRAVITY,
    humidity_from_relative_humidity,
)
from dacycle.forecast_adapter.state import StateError, as_hour, check_values
from dacycle.forecast_adapter.states.source import StateSource, global_grid

__all__ = [
    "SURFACE_CHANNELS",
    "GribStates",
    "HumidityWarning",
    "messages",
    "valid_time",
    "values_of",
]

DOUBTFUL_HUMIDITY = 150
"""Pressure (hPa) at and above which humidity derived from relative humidity is doubtful.

In such cold and dry air the rounding to a whole per cent, and differences between centres in the stratosphere, are as
large as the signal.
"""

# ecCodes' names of the fields that give a variable, the preferred one first, each with its unit.
SURFACE_CHANNELS = {
    "u10": {"10u": "m s**-1"},
    "v10": {"10v": "m s**-1"},
    "t2m": {"2t": "K"},
    "msl": {"msl": "Pa", "prmsl": "Pa", "mslet": "Pa"},
}
_UPPER = {
    "z": {"z": "m**2 s**-2", "gh": "gpm"},
    "q": {"q": "kg kg**-1", "r": "%"},
    "u": {"u": "m s**-1"},
    "v": {"v": "m s**-1"},
    "t": {"t": "K"},
}
_EXTRA_FIELD_NAMES = {"ps": {"sp": "Pa"}, "td2m": {"2d": "K"}}
_UPPER_NAMES = {name for choices in _UPPER.values() for name in choices}
_SURFACE_NAMES = {name for choices in (SURFACE_CHANNELS | _EXTRA_FIELD_NAMES).values() for name in choices}
_UNITS = {
    name: unit
    for choices in (SURFACE_CHANNELS | _UPPER | _EXTRA_FIELD_NAMES).values()
    for name, unit in choices.items()
}

PRELIMINARY = "0005"
"""ECMWF's version number of ERA5T; final ERA5 has 0001."""

Key = tuple[str, int | None]  # ecCodes' name and the level in hPa, None at the surface


class HumidityWarning(UserWarning):
    """Specific humidity was derived at levels where relative humidity is too imprecise for it."""


class _Location(NamedTuple):
    """The location of a field in a file."""

    path: Path
    offset: int
    number: int  # among the fields of one message


class _Run(NamedTuple):
    """The properties that fields of one time share if they belong to one state; the least of several is preferred."""

    lead: int  # hours since the start of the forecast, 0 of an analysis
    version: str
    centre: str


class GribStates(StateSource):
    """States of GRIB files of one product (edition 1 or 2, multi-field messages included), on one grid.

    Of several forecasts for one time the shortest that is whole is taken, and the final version of ERA5 before ERA5T. A
    state is never made of two of them.

    Args:
        name: the source, for messages.
        paths: the files; those that cannot be read are left out if there are others.
        analyses: whether to ignore forecasts.

    Raises:
        StateError: a file is truncated or not GRIB, none holds a field of a state, or the grid is regional or reduced.
    """

    def __init__(self, name: str, paths: Sequence[Path], analyses: bool = False) -> None:
        self._fields: dict[np.datetime64, dict[_Run, dict[Key, list[_Location]]]] = {}
        unreadable: dict[str, str] = {}
        for path in paths:
            try:
                fields = _index(path, path.stat().st_size, path.stat().st_mtime_ns)
            except StateError as error:
                if len(paths) == 1:
                    raise
                unreadable[path.name] = str(error).removeprefix(f"{path}: ")
                continue
            for time, run, key, location in fields:
                if not (analyses and run.lead):
                    self._fields.setdefault(time, {}).setdefault(run, {}).setdefault(key, []).append(location)
        if not self._fields:
            left = "; ".join(f"{file}: {why}" for file, why in unreadable.items())
            kind = "no analysis" if analyses and len(paths) > len(unreadable) else "no field of a state"
            raise StateError(f"{name}: it holds {kind}" + (f"; left out: {left}" if left else ""))
        time = max(self._fields)
        key, (location, *_) = next(iter(self._best(time)[1].items()))
        with _field(location) as message:
            grid = _grid(message, f"{name}, {time}: {key[0]}")[0]
        super().__init__(name, grid, self._fields, unreadable)

    def gaps(self, time: np.datetime64) -> list[str]:
        """Return the channels that are missing at `time` and cannot be derived."""
        return _gaps(*self._best(self._moment(time)))

    def describe(self, time: np.datetime64) -> str:
        """Return whether the state of a time is a forecast or ERA5T, in words."""
        run, _ = self._best(self._moment(time))
        phrases = [f"forecast of {run.lead} h from {time - np.timedelta64(run.lead, 'h')}"] if run.lead else []
        phrases += ["preliminary (ERA5T, expver 5)"] if run.version == PRELIMINARY else []
        return ", ".join(phrases)

    def surface(self, time: np.datetime64 | str) -> xr.Dataset:
        """Return surface pressure `ps` and dewpoint `td2m`, where they are there; never precipitation and OLR."""
        hour = self._moment(time)
        _, locations = self._best(hour)
        fields = {}
        for short, (name,) in _EXTRA_FIELD_NAMES.items():
            if (name, None) in locations:
                values, _ = self._values(hour, (name, None), locations[name, None])
                fields[short] = (("latitude", "longitude"), values, {"units": _UNITS[name]})
        return xr.Dataset(fields, {"latitude": self.grid.latitude, "longitude": self.grid.longitude})

    def _best(self, time: np.datetime64) -> tuple[_Run, dict[Key, list[_Location]]]:
        """Return the run that a time's state is made of: the least whole one, else the one with fewest gaps."""
        runs = sorted(self._fields[time].items())
        return min(runs, key=lambda item: len(_gaps(*item)))

    def _remedy(self, time: np.datetime64, missing: list[str]) -> str:
        variables = dict.fromkeys(CHANNELS[index(name)].variable for name in missing)
        names = (" or ".join((SURFACE_CHANNELS | _UPPER)[variable]) for variable in variables)
        hint = f"; in GRIB these are {', '.join(names)}"
        run, locations = self._best(time)
        if run.centre not in CENTRES_WITH_KNOWN_HUMIDITY and any(name == "r" for name, _ in locations):
            hint += f"; what relative humidity refers to at the centre {run.centre!r} is not known, q is needed"
        twice = [_spell(key) for key, several in locations.items() if len(several) > 1]
        hint += f"; {twice[0]} is there twice (ensemble members, or two runs)" if twice else ""
        return hint + self._left_out()

    def _read(self, time: np.datetime64, channels: Sequence[Channel]) -> tuple[NDArray[np.float32], list[str]]:
        run, locations = self._best(time)
        notes: dict[str, None] = {}  # an ordered set: many levels leave the same note
        array = np.stack([self._channel(time, run, locations, channel, notes) for channel in channels])
        for note in notes:
            if "doubtful" in note:
                warnings.warn(f"{self.name}, {time}: {note}", HumidityWarning, stacklevel=4)
        return array, list(notes)

    def _channel(
        self,
        time: np.datetime64,
        run: _Run,
        locations: dict[Key, list[_Location]],
        channel: Channel,
        notes: dict[str, None],
    ) -> NDArray[np.float32]:
        """Return one channel in SI units, and add a note where it had to be derived."""
        name = next(name for name in _choices(channel) if (name, channel.level) in locations)
        values, label = self._values(time, (name, channel.level), locations[name, channel.level])
        if name == "gh":
            notes[f"z from geopotential height times {GRAVITY}"] = None
            return (values * GRAVITY).astype(np.float32)
        if name in ("prmsl", "mslet"):
            notes[f"msl from {name}"] = None
        if name != "r" or channel.level is None:
            return values
        notes["q from relative humidity over water, ice or their mix"] = None
        if channel.level <= DOUBTFUL_HUMIDITY:
            notes[f"q down to {DOUBTFUL_HUMIDITY} hPa is doubtful: relative humidity says little in air so cold"] = None
        temperature = self._values(time, ("t", channel.level), locations["t", channel.level])[0].astype(np.float64)
        check_values(CHANNELS[index(f"t{channel.level}")], temperature, label)
        humidity = humidity_from_relative_humidity(
            values.astype(np.float64), temperature, 100.0 * channel.level, run.centre
        )
        return humidity.astype(np.float32)

    def _values(self, time: np.datetime64, key: Key, locations: list[_Location]) -> tuple[NDArray[np.float32], str]:
        """Return one field (H, W), rows from the north, columns from 0 E, and its name for messages."""
        label = f"{self.name}, {time}: {_spell(key)}"
        if len(locations) > 1:
            files = ", ".join(dict.fromkeys(location.path.name for location in locations))
            raise StateError(f"{label} is there twice (ensemble members, or two runs) in {files}; leave one of them")
        with _field(locations[0]) as message:
            if _key(message) != key or valid_time(message) != time:
                raise StateError(f"{label}: {locations[0].path} has changed since it was looked at; open it again")
            grid, order = _grid(message, label)
            if not grid.matches(self.grid):
                raise StateError(f"{label} is on another grid than other fields; keep grids in files of their own")
            return values_of(message, label, _UNITS[key[0]])[order].reshape(grid.shape), label


def _spell(key: Key) -> str:
    return key[0] + (f" at {key[1]} hPa" if key[1] else "")


def _choices(channel: Channel) -> dict[str, str]:
    return (_UPPER if channel.level else SURFACE_CHANNELS)[channel.variable]


def _gaps(run: _Run, locations: dict[Key, list[_Location]]) -> list[str]:
    """Return the channels that a run's fields do not give."""

    def there(name: str, level: int | None) -> bool:
        if name == "r" and (run.centre not in CENTRES_WITH_KNOWN_HUMIDITY or ("t", level) not in locations):
            return False
        return (name, level) in locations

    return [c.name for c in CHANNELS if not any(there(name, c.level) for name in _choices(c))]


@lru_cache(maxsize=4096)
def _index(path: Path, size: int, changed: int) -> list[tuple[np.datetime64, _Run, Key, _Location]]:
    """Return the fields of a state in a file; size and time of change make the cache notice another file."""
    fields, offset, number = [], -1, 0
    for message in messages(path):
        here = int(eccodes.codes_get(message, "offset"))
        offset, number = here, number + 1 if here == offset else 0
        key = _key(message)
        if key is None:
            continue
        valid = valid_time(message)
        try:
            hour = as_hour(valid)
        except StateError as error:
            raise StateError(f"{path}: {key[0]}: {error}") from error
        version = eccodes.codes_get(message, "expver") if eccodes.codes_is_defined(message, "expver") else ""
        run = _Run(_lead(message, valid), version, eccodes.codes_get(message, "centre"))
        fields.append((hour, run, key, _Location(path, offset, number)))
    return fields


@contextmanager
def _multi_field_support(file: IO[bytes]) -> Iterator[None]:
    """Switch ecCodes to messages of several fields, as NCEP's of u and v; without it ecCodes shows only the first."""
    eccodes.codes_grib_multi_support_on()
    try:
        yield
    finally:
        eccodes.codes_grib_multi_support_reset_file(file)
        eccodes.codes_grib_multi_support_off()


def messages(path: Path) -> Iterator[int]:
    """Yield the handles of a file's fields, and release each after use."""
    count = 0
    with path.open("rb") as file, _multi_field_support(file):
        while True:
            try:
                message = eccodes.codes_grib_new_from_file(file)
            except eccodes.CodesInternalError as error:
                problem = f"truncated or corrupt after {count} fields" if count else "not a GRIB file, or a corrupt one"
                raise StateError(f"{path}: {problem} ({error}); fetch it again") from error
            if message is None:
                break
            count += 1
            try:
                yield message
            finally:
                eccodes.codes_release(message)
    if count == 0:
        raise StateError(f"{path}: not a GRIB file, or an empty one")


@contextmanager
def _field(location: _Location) -> Iterator[int]:
    """Yield the handle of the field at a location."""
    with location.path.open("rb") as file, _multi_field_support(file):
        file.seek(location.offset)
        try:
            for _ in range(location.number):
                eccodes.codes_release(eccodes.codes_grib_new_from_file(file))
            message = eccodes.codes_grib_new_from_file(file)
        except eccodes.CodesInternalError as error:
            raise StateError(f"{location.path}: cannot be read any more: {error}; fetch it again") from error
        if message is None:
            raise StateError(f"{location.path} has changed since it was looked at; open it again")
        try:
            yield message
        finally:
            eccodes.codes_release(message)


def _key(message: int) -> Key | None:
    """Return name and level of a field that a state can be made from; None for all others, time means included."""
    name, level = eccodes.codes_get(message, "shortName"), None
    if name in _UPPER_NAMES and eccodes.codes_get(message, "typeOfLevel") == "isobaricInhPa":
        level = int(eccodes.codes_get(message, "level"))
    if (level not in LEVELS and name not in _SURFACE_NAMES) or eccodes.codes_get(message, "stepType") != "instant":
        return None
    return name, level


def valid_time(message: int) -> np.datetime64:
    """Return the valid time of a field, datetime64[m]."""
    return _time(message, "validityDate", "validityTime")


def _time(message: int, date: str, clock: str) -> np.datetime64:
    day, minutes = str(eccodes.codes_get(message, date)), int(eccodes.codes_get(message, clock))
    return np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}T{minutes // 100:02}:{minutes % 100:02}", "m")


def _lead(message: int, valid: np.datetime64) -> int:
    return int((valid - _time(message, "dataDate", "dataTime")) // np.timedelta64(1, "h"))


def values_of(message: int, label: str, unit: str) -> NDArray[np.float32]:
    """Return the values (n,) of a field in the file's order; raise StateError if any is missing or the unit differs."""
    stated = eccodes.codes_get(message, "units")
    if stated != unit:
        raise StateError(f"{label} is in {stated!r}, not in {unit!r}")
    try:
        values = eccodes.codes_get_values(message)
        missing = eccodes.codes_get(message, "numberOfMissing")
    except eccodes.CodesInternalError as error:
        raise StateError(f"{label} cannot be decoded ({error}); the file is corrupt, fetch it again") from error
    if missing:
        raise StateError(f"{label} has {missing} missing values; a state needs every point")
    return values.astype(np.float32)


_grids: dict[str, tuple[Grid, NDArray[np.intp]]] = {}


def _grid(message: int, label: str) -> tuple[Grid, NDArray[np.intp]]:
    """Return the grid of a message, and the order of its points by row from the north, then by column from 0 E."""
    section = eccodes.codes_get(message, "md5GridSection")
    if section in _grids:
        return _grids[section]
    latitude = eccodes.codes_get_array(message, "latitudes")
    longitude = np.round(eccodes.codes_get_array(message, "longitudes") % 360, 6) % 360
    rows, columns = np.unique(latitude), np.unique(longitude)
    if len(rows) * len(columns) != len(latitude):
        kind = eccodes.codes_get(message, "gridType")
        raise StateError(f"{label} is on a {kind} grid; interpolate it to latitude-longitude first")
    _grids[section] = global_grid(rows, columns, label), np.lexsort((longitude, -latitude))
    return _grids[section]
