"""Read states from GRIB files of a weather centre: ERA5, IFS, AIFS, GFS, GDAS.

Fields are found by name, level and unit, in any order and file, and sorted by their coordinates, for any scanning mode
and first longitude. Fields that are not the quantity itself (`grib_products`) are left out and counted. The state's
`notes` name derived fields (geopotential from its height, specific humidity from relative humidity); a missing field is
an error.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.foreign import reading
from dacycle.forecast_adapter.channels import CHANNELS, EXTRA_CHANNELS, LEVELS, Channel, index
from dacycle.forecast_adapter.physics import (
    CENTRES_WITH_KNOWN_HUMIDITY,
    GRAVITY,
    humidity_from_relative_humidity,
)
from dacycle.forecast_adapter.state import StateError, as_hour, check_values
from dacycle.forecast_adapter.states.grib_messages import (
    Location,
    field_at,
    key_of,
    locations,
    on_grid,
    rows_and_columns,
    start_time,
    valid_time,
)
from dacycle.forecast_adapter.states.grib_products import SUMS, hours_summed, is_analysis, sums_of_six_hours, why_unfit
from dacycle.forecast_adapter.states.source import StateSource, read_files, spell_fields

__all__ = ["SURFACE_CHANNELS", "GribStates", "HumidityWarning"]

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
_SURFACE_NAMES = {name for choices in (SURFACE_CHANNELS | _EXTRA_FIELD_NAMES).values() for name in choices} | set(SUMS)
_UNITS = {name: unit for name, (_, _, unit) in SUMS.items()} | {
    name: unit
    for choices in (SURFACE_CHANNELS | _UPPER | _EXTRA_FIELD_NAMES).values()
    for name, unit in choices.items()
}

PRELIMINARY = "0005"
"""ECMWF's version number of ERA5T; final ERA5 has 0001."""

_SEVERAL = "is there twice (ensemble members, or two runs)"

Key = tuple[str, int | None]  # ecCodes' name and the level in hPa, None at the surface


class HumidityWarning(UserWarning):
    """Specific humidity was derived at levels where relative humidity is too imprecise for it."""


class _Run(NamedTuple):
    """The properties that fields of one time share if they belong to one state; the least of several is preferred."""

    lead: int  # hours since the start of the forecast, 0 of an analysis
    forecast: bool  # of 0 h too, beside which there may be the analysis that it starts from
    version: str
    centre: str


class _Entry(NamedTuple):
    """A field of a file that a state can be made from."""

    time: np.datetime64
    run: _Run
    key: Key
    location: Location


class _Sum(NamedTuple):
    """A field of a file that is a sum over the hours before a time; of several that of the least lead is taken."""

    name: str
    time: np.datetime64
    hours: int
    lead: int
    version: str
    location: Location


class _Index(NamedTuple):
    """The fields of a file, its sums over hours, and names of those that are left out, by the reason."""

    entries: list[_Entry]
    sums: list[_Sum]
    unfit: dict[str, list[str]]


class GribStates(StateSource):
    """States of GRIB files of one product (edition 1 or 2, multi-field messages included), on one grid.

    Of an analysis and several forecasts for one time the analysis is taken, else the shortest forecast that is whole,
    and the final version of ERA5 before ERA5T. A state is never made of two of them.

    Args:
        name: the source, for messages.
        paths: the files by the names that messages have for them; those that cannot be read are left out if there are
            others.
        left_out: further files that were left out, and the reasons.
        analyses: whether to ignore forecasts.

    Raises:
        StateError: a file is truncated or not GRIB, or none holds a field of a state on a global grid.
    """

    def __init__(
        self, name: str, paths: Mapping[str, Path], left_out: Mapping[str, str], analyses: bool = False
    ) -> None:
        self._fields: dict[np.datetime64, dict[_Run, dict[Key, list[Location]]]] = {}
        self._sums: dict[tuple[str, np.datetime64], dict[int, list[_Sum]]] = {}
        indexes, out = read_files(paths, left_out, lambda path: _index(path, *_stamp(path)))
        unfit: dict[str, list[str]] = {}
        for fields in indexes:
            for entry in fields.entries:
                if not (analyses and entry.run.lead):
                    runs = self._fields.setdefault(entry.time, {})
                    runs.setdefault(entry.run, {}).setdefault(entry.key, []).append(entry.location)
            for total in fields.sums:
                self._sums.setdefault((total.name, total.time), {}).setdefault(total.hours, []).append(total)
            for reason, names in fields.unfit.items():
                unfit.setdefault(reason, []).extend(names)
        out |= {reason: spell_fields(names) for reason, names in unfit.items()}
        if not self._fields:  # sums alone are of use beside another product
            self._fields = {time: {_Run(0, True, "", ""): {}} for _, time in self._sums}
        if not self._fields:
            left = "; ".join(f"{what}: {why}" for what, why in out.items())
            kind = "no analysis" if analyses and any(fields.entries for fields in indexes) else "no field of a state"
            raise StateError(f"{name}: it holds {kind}" + (f"; left out: {left}" if left else ""))
        time = max(self._fields)
        some = [(key, locations[0]) for key, locations in self._best(time)[1].items()]
        some += [((n, None), sums[0].location) for (n, _), by_hours in self._sums.items() for sums in by_hours.values()]
        key, location = some[0]
        with field_at(location) as message:
            grid, _ = rows_and_columns(message, f"{name}, {time}: {_spell(key)}")
        super().__init__(name, grid, self._fields, out)

    def gaps(self, time: np.datetime64) -> list[str]:
        """Return the channels that are missing at `time` and cannot be derived, or are there twice."""
        return _gaps(*self._best(self._moment(time)))

    def describe(self, time: np.datetime64) -> str:
        """Return whether the state of a time is a forecast or ERA5T, in words."""
        run, _ = self._best(self._moment(time))
        phrases = [f"forecast of {run.lead} h from {time - np.timedelta64(run.lead, 'h')}"] if run.lead else []
        phrases += ["preliminary (ERA5T, expver 5)"] if run.version == PRELIMINARY else []
        return ", ".join(phrases)

    def surface(self, time: np.datetime64 | str, wanted: Collection[str] = tuple(EXTRA_CHANNELS)) -> xr.Dataset:
        """Return those that are there; precipitation and OLR from sums that together are the six hours before."""
        hour = self._moment(time)
        _, locations = self._best(hour)
        fields = {}
        for short, (name,) in _EXTRA_FIELD_NAMES.items():
            if short in wanted and (name, None) in locations:
                values, label = self._values(hour, (name, None), locations[name, None])
                check_values(EXTRA_CHANNELS[short], values, label)
                fields[short] = (("latitude", "longitude"), values, {"units": _UNITS[name]})
        for name, (short, factor, _) in SUMS.items():
            total = self._six_hours(name, hour) if short in wanted else None
            if total is not None:
                check_values(EXTRA_CHANNELS[short], factor * total, f"{self.name}, {hour}")
                fields[short] = (("latitude", "longitude"), (factor * total).astype(np.float32), {})
        return xr.Dataset(fields, {"latitude": self.grid.latitude, "longitude": self.grid.longitude})

    def periods(self) -> dict[str, list[int]]:
        """Return the lengths (h) of the sums of precipitation and radiation that are there, by their names."""
        lengths: dict[str, set[int]] = {}
        for (name, _), by_hours in self._sums.items():
            lengths.setdefault(name, set()).update(by_hours)
        return {name: sorted(hours) for name, hours in lengths.items()}

    def _six_hours(self, name: str, time: np.datetime64) -> NDArray[np.float64] | None:
        """Return the sum of a field over the six hours up to a time; None where the sums for it are not there."""
        ends = {end: list(by_hours) for (field, end), by_hours in self._sums.items() if field == name}
        parts = sums_of_six_hours(time, ends)
        if parts is None:
            return None
        total = np.zeros(self.grid.shape)
        for end, hours in parts:
            sums = self._sums[name, end][hours]
            least = min((one.lead, one.version) for one in sums)
            locations = [one.location for one in sums if (one.lead, one.version) == least]
            total += self._values(end, (name, None), locations)[0]
        return total

    def _best(self, time: np.datetime64) -> tuple[_Run, dict[Key, list[Location]]]:
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
        twice = [key for key, several in locations.items() if len(several) > 1]
        hint += f"; {_spell(twice[0])} {_SEVERAL} in {_files(locations[twice[0]])}; leave one of them" if twice else ""
        return hint + self._spell_left_out()

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
        locations: dict[Key, list[Location]],
        channel: Channel,
        notes: dict[str, None],
    ) -> NDArray[np.float32]:
        """Return one channel in SI units, and add a note where it had to be derived."""
        name = next(name for name in _choices(channel) if len(locations.get((name, channel.level), ())) == 1)
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

    def _values(self, time: np.datetime64, key: Key, locations: list[Location]) -> tuple[NDArray[np.float32], str]:
        """Return one field (H, W), rows from the north, columns from 0 E, and its name for messages."""
        label = f"{self.name}, {time}: {_spell(key)}"
        if len(locations) > 1:
            raise StateError(f"{label} {_SEVERAL} in {_files(locations)}; leave one of them")
        with field_at(locations[0]) as message:
            with reading(label, StateError):
                same = _key(message) == key and valid_time(message) == time
            if not same:
                raise StateError(f"{label}: {locations[0].path} has changed since it was looked at; open it again")
            grid, values = on_grid(message, label, _UNITS[key[0]])
        if not grid.matches(self.grid):
            raise StateError(f"{label} is on another grid than other fields; keep grids in files of their own")
        return values, label


def _spell(key: Key) -> str:
    return key[0] + (f" at {key[1]} hPa" if key[1] else "")


def _files(locations: Sequence[Location]) -> str:
    return " and ".join(dict.fromkeys(location.path.name for location in locations))


def _choices(channel: Channel) -> dict[str, str]:
    return (_UPPER if channel.level else SURFACE_CHANNELS)[channel.variable]


def _gaps(run: _Run, locations: dict[Key, list[Location]]) -> list[str]:
    """Return the channels that a run's fields do not give; a field that is there twice gives none."""

    def there(name: str, level: int | None) -> bool:
        if name == "r" and not (run.centre in CENTRES_WITH_KNOWN_HUMIDITY and there("t", level)):
            return False
        return len(locations.get((name, level), ())) == 1

    return [c.name for c in CHANNELS if not any(there(name, c.level) for name in _choices(c))]


def _stamp(path: Path) -> tuple[int, int]:
    with reading(path, StateError):
        status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4096)
def _index(path: Path, size: int, changed: int) -> _Index:
    """Return the fields of a state in a file; size and time of change make the cache notice another file."""
    entries: list[_Entry] = []
    sums: list[_Sum] = []
    unfit: dict[str, list[str]] = {}
    grids: dict[str, str] = {}
    for count, (location, message) in enumerate(locations(path), 1):
        with reading(f"{path}: field {count}", StateError):
            key = _key(message)
            if key is None:
                continue
            hours = hours_summed(message) if key[0] in SUMS else None
            reason = why_unfit(message) if hours is None else ""
            if not reason:
                section = key_of(message, "md5GridSection")
                if section not in grids:
                    grids[section] = _why_not_global(message, key)
                reason = grids[section]
            if reason:
                unfit.setdefault(reason, []).append(key[0])
                continue
            entry = _entry(message, key, location)
            if hours is None:
                entries.append(entry)
            else:
                sums.append(_Sum(key[0], entry.time, hours, entry.run.lead, entry.run.version, location))
    return _Index(entries, sums, unfit)


def _why_not_global(message: int, key: Key) -> str:
    """Return what is wrong with the grid of a field; empty where nothing is."""
    try:
        rows_and_columns(message, f"{np.datetime_as_string(valid_time(message), 'h')}: {_spell(key)}")
    except StateError as error:
        return str(error)
    return ""


def _entry(message: int, key: Key, location: Location) -> _Entry:
    valid = valid_time(message)
    try:
        hour = as_hour(valid)
    except StateError as error:
        raise StateError(f"{location.path}: {key[0]}: {error}") from error
    lead = int((valid - start_time(message)) // np.timedelta64(1, "h"))
    run = _Run(lead, not is_analysis(message), key_of(message, "expver") or "", key_of(message, "centre"))
    return _Entry(hour, run, key, location)


def _key(message: int) -> Key | None:
    """Return name and level of a field whose name a state has; None for all others."""
    name, level = key_of(message, "shortName"), None
    if name in _UPPER_NAMES and key_of(message, "typeOfLevel") == "isobaricInhPa":
        level = int(key_of(message, "level"))
    return (name, level) if level in LEVELS or name in _SURFACE_NAMES else None
