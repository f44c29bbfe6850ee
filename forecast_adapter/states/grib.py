"""States from GRIB files of a weather centre: ERA5, IFS, AIFS, GFS, GDAS.

Fields are found by name, level and unit, whatever their order and file, and put in order by their coordinates,
whatever the scanning mode and the first longitude. What had to be derived (geopotential from its height,
specific humidity from relative humidity) is said in the state's `notes`; what is missing is an error.
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
    "SURFACE_FIELDS",
    "GribStates",
    "HumidityWarning",
    "messages",
    "valid_time",
    "values_of",
]

DOUBTFUL_HUMIDITY = 150
"""Down to this pressure (hPa) a humidity derived from relative humidity is doubtful: in air so cold and dry
the rounding to a whole per cent, and each centre's way with the stratosphere, are as large as the signal."""

# ecCodes' names of the fields that a variable can be taken from, the best first, each with its unit.
SURFACE_FIELDS = {
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
_BESIDE = {"ps": {"sp": "Pa"}, "td2m": {"2d": "K"}}
_UPPER_NAMES = {name for choices in _UPPER.values() for name in choices}
_SURFACE_NAMES = {name for choices in (SURFACE_FIELDS | _BESIDE).values() for name in choices}
_UNITS = {name: unit for choices in (SURFACE_FIELDS | _UPPER | _BESIDE).values() for name, unit in choices.items()}

PRELIMINARY = "0005"
"""ECMWF's version number of ERA5T; final ERA5 has 0001."""

Key = tuple[str, int | None]  # ecCodes' name and the level in hPa, None at the surface


class HumidityWarning(UserWarning):
    """Specific humidity was derived where the relative humidity it comes from cannot carry it."""


class _Place(NamedTuple):
    """Where a field stands."""

    path: Path
    offset: int
    number: int  # among the fields of one message


class _Run(NamedTuple):
    """What fields of one time must share to be of one state; of several the least is the best."""

    lead: int  # hours since the start of the forecast, 0 of an analysis
    version: str
    centre: str


class GribStates(StateSource):
    """States of GRIB files of one product (edition 1 or 2, multi-field messages included), on one grid.

    Of several forecasts for one time the shortest that is whole counts, and of ERA5 the final version before ERA5T: a
    state is never made of two.

    Args:
        name: of the source, for messages.
        paths: the files; those that cannot be read are left out if there are others.
        analyses: whether forecasts are left aside.

    Raises:
        StateError: a file is truncated or not GRIB, none holds a field of a state, or the grid is regional or reduced.
    """

    def __init__(self, name: str, paths: Sequence[Path], analyses: bool = False) -> None:
        self._fields: dict[np.datetime64, dict[_Run, dict[Key, list[_Place]]]] = {}
        unreadable: dict[str, str] = {}
        for path in paths:
            try:
                found = _index(path, path.stat().st_size, path.stat().st_mtime_ns)
            except StateError as error:
                if len(paths) == 1:
                    raise
                unreadable[path.name] = str(error).removeprefix(f"{path}: ")
                continue
            for time, run, key, place in found:
                if not (analyses and run.lead):
                    self._fields.setdefault(time, {}).setdefault(run, {}).setdefault(key, []).append(place)
        if not self._fields:
            left = "; ".join(f"{file}: {why}" for file, why in unreadable.items())
            kind = "no analysis" if analyses and len(paths) > len(unreadable) else "no field of a state"
            raise StateError(f"{name}: it holds {kind}" + (f"; left out: {left}" if left else ""))
        time = max(self._fields)
        key, (place, *_) = next(iter(self._best(time)[1].items()))
        with _field(place) as message:
            grid = _grid(message, f"{name}, {time}: {key[0]}")[0]
        super().__init__(name, grid, self._fields, unreadable)

    def gaps(self, time: np.datetime64) -> list[str]:
        """Names of the channels that are not there at `time`, nor can be derived."""
        return _gaps(*self._best(self._moment(time)))

    def describe(self, time: np.datetime64) -> str:
        """That the state of a time is a forecast, or ERA5T."""
        run, _ = self._best(self._moment(time))
        said = [f"forecast of {run.lead} h from {time - np.timedelta64(run.lead, 'h')}"] if run.lead else []
        said += ["preliminary (ERA5T, expver 5)"] if run.version == PRELIMINARY else []
        return ", ".join(said)

    def surface(self, time: np.datetime64 | str) -> xr.Dataset:
        """Surface pressure `ps` and dewpoint `td2m`, where they are there; precipitation and OLR are not instants."""
        hour = self._moment(time)
        _, held = self._best(hour)
        found = {}
        for short, (name,) in _BESIDE.items():
            if (name, None) in held:
                values, _ = self._values(hour, (name, None), held[name, None])
                found[short] = (("latitude", "longitude"), values, {"units": _UNITS[name]})
        return xr.Dataset(found, {"latitude": self.grid.latitude, "longitude": self.grid.longitude})

    def _best(self, time: np.datetime64) -> tuple[_Run, dict[Key, list[_Place]]]:
        """The run that a time's state is made of: the least whole one, else the one that lacks least."""
        runs = sorted(self._fields[time].items())
        return min(runs, key=lambda item: len(_gaps(*item)))

    def _remedy(self, time: np.datetime64, missing: list[str]) -> str:
        variables = dict.fromkeys(CHANNELS[index(name)].variable for name in missing)
        names = (" or ".join((SURFACE_FIELDS | _UPPER)[variable]) for variable in variables)
        said = f"; in GRIB these are {', '.join(names)}"
        run, held = self._best(time)
        if run.centre not in CENTRES_WITH_KNOWN_HUMIDITY and any(name == "r" for name, _ in held):
            said += f"; what relative humidity refers to at the centre {run.centre!r} is not known, q is needed"
        twice = [_called(key) for key, places in held.items() if len(places) > 1]
        said += f"; {twice[0]} is there twice (ensemble members, or two runs)" if twice else ""
        return said + self._left_out()

    def _read(self, time: np.datetime64, channels: Sequence[Channel]) -> tuple[NDArray[np.float32], list[str]]:
        run, held = self._best(time)
        notes: dict[str, None] = {}  # an ordered set: many levels leave the same note
        array = np.stack([self._channel(time, run, held, channel, notes) for channel in channels])
        for note in notes:
            if "doubtful" in note:
                warnings.warn(f"{self.name}, {time}: {note}", HumidityWarning, stacklevel=4)
        return array, list(notes)

    def _channel(
        self,
        time: np.datetime64,
        run: _Run,
        held: dict[Key, list[_Place]],
        channel: Channel,
        notes: dict[str, None],
    ) -> NDArray[np.float32]:
        """One channel in SI units; adds a note on whatever had to be derived."""
        name = next(name for name in _choices(channel) if (name, channel.level) in held)
        values, label = self._values(time, (name, channel.level), held[name, channel.level])
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
        temperature = self._values(time, ("t", channel.level), held["t", channel.level])[0].astype(np.float64)
        check_values(CHANNELS[index(f"t{channel.level}")], temperature, label)
        humidity = humidity_from_relative_humidity(
            values.astype(np.float64), temperature, 100.0 * channel.level, run.centre
        )
        return humidity.astype(np.float32)

    def _values(self, time: np.datetime64, key: Key, places: list[_Place]) -> tuple[NDArray[np.float32], str]:
        """One field (H, W), rows from the north, columns from 0 E; and what names it in messages."""
        label = f"{self.name}, {time}: {_called(key)}"
        if len(places) > 1:
            files = ", ".join(dict.fromkeys(place.path.name for place in places))
            raise StateError(f"{label} is there twice (ensemble members, or two runs) in {files}; leave one of them")
        with _field(places[0]) as message:
            if _wanted(message) != key or valid_time(message) != time:
                raise StateError(f"{label}: {places[0].path} has changed since it was looked at; open it again")
            grid, order = _grid(message, label)
            if not grid.matches(self.grid):
                raise StateError(f"{label} is on another grid than other fields; keep grids in files of their own")
            return values_of(message, label, _UNITS[key[0]])[order].reshape(grid.shape), label


def _called(key: Key) -> str:
    return key[0] + (f" at {key[1]} hPa" if key[1] else "")


def _choices(channel: Channel) -> dict[str, str]:
    return (_UPPER if channel.level else SURFACE_FIELDS)[channel.variable]


def _gaps(run: _Run, held: dict[Key, list[_Place]]) -> list[str]:
    """Channels that a run's fields do not give."""

    def there(name: str, level: int | None) -> bool:
        if name == "r" and (run.centre not in CENTRES_WITH_KNOWN_HUMIDITY or ("t", level) not in held):
            return False
        return (name, level) in held

    return [c.name for c in CHANNELS if not any(there(name, c.level) for name in _choices(c))]


@lru_cache(maxsize=4096)
def _index(path: Path, size: int, changed: int) -> list[tuple[np.datetime64, _Run, Key, _Place]]:
    """The fields of a state in a file as it was when it had this size and time of change."""
    found, offset, number = [], -1, 0
    for message in messages(path):
        here = int(eccodes.codes_get(message, "offset"))
        offset, number = here, number + 1 if here == offset else 0
        key = _wanted(message)
        if key is None:
            continue
        valid = valid_time(message)
        try:
            hour = as_hour(valid)
        except StateError as error:
            raise StateError(f"{path}: {key[0]}: {error}") from error
        version = eccodes.codes_get(message, "expver") if eccodes.codes_is_defined(message, "expver") else ""
        run = _Run(_lead(message, valid), version, eccodes.codes_get(message, "centre"))
        found.append((hour, run, key, _Place(path, offset, number)))
    return found


@contextmanager
def _multi_field_support(file: IO[bytes]) -> Iterator[None]:
    """NCEP packs u and v into one message, of which ecCodes shows only u until this global switch is on."""
    eccodes.codes_grib_multi_support_on()
    try:
        yield
    finally:
        eccodes.codes_grib_multi_support_reset_file(file)
        eccodes.codes_grib_multi_support_off()


def messages(path: Path) -> Iterator[int]:
    """The handles of a file's fields, one at a time, each released after use."""
    count = 0
    with path.open("rb") as file, _multi_field_support(file):
        while True:
            try:
                message = eccodes.codes_grib_new_from_file(file)
            except eccodes.CodesInternalError as error:
                place = f"truncated or corrupt after {count} fields" if count else "not a GRIB file, or a corrupt one"
                raise StateError(f"{path}: {place} ({error}); fetch it again") from error
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
def _field(place: _Place) -> Iterator[int]:
    """The handle of the field at a place."""
    with place.path.open("rb") as file, _multi_field_support(file):
        file.seek(place.offset)
        try:
            for _ in range(place.number):
                eccodes.codes_release(eccodes.codes_grib_new_from_file(file))
            message = eccodes.codes_grib_new_from_file(file)
        except eccodes.CodesInternalError as error:
            raise StateError(f"{place.path}: cannot be read any more: {error}; fetch it again") from error
        if message is None:
            raise StateError(f"{place.path} has changed since it was looked at; open it again")
        try:
            yield message
        finally:
            eccodes.codes_release(message)


def _wanted(message: int) -> Key | None:
    """Name and level of a field that a state can be made from; None for all others, time means included."""
    name, level = eccodes.codes_get(message, "shortName"), None
    if name in _UPPER_NAMES and eccodes.codes_get(message, "typeOfLevel") == "isobaricInhPa":
        level = int(eccodes.codes_get(message, "level"))
    if (level not in LEVELS and name not in _SURFACE_NAMES) or eccodes.codes_get(message, "stepType") != "instant":
        return None
    return name, level


def valid_time(message: int) -> np.datetime64:
    """The valid time of a field, datetime64[m]."""
    return _time(message, "validityDate", "validityTime")


def _time(message: int, date: str, clock: str) -> np.datetime64:
    day, minutes = str(eccodes.codes_get(message, date)), int(eccodes.codes_get(message, clock))
    return np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}T{minutes // 100:02}:{minutes % 100:02}", "m")


def _lead(message: int, valid: np.datetime64) -> int:
    return int((valid - _time(message, "dataDate", "dataTime")) // np.timedelta64(1, "h"))


def values_of(message: int, label: str, unit: str) -> NDArray[np.float32]:
    """The values (n,) of a field in the file's order; StateError, named by `label`, if it lacks any or the unit."""
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
    """The grid of a message, and the order that orders its points by row from the north, then from 0 E."""
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
