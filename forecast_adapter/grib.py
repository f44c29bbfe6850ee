"""A state from a GRIB file of a weather centre: GFS, GDAS, IFS, ERA5, AIFS.

Fields are found by name, level and unit, whatever their order, and put in order by their coordinates,
whatever the scanning mode and the first longitude. What had to be derived (geopotential from its height,
specific humidity from relative humidity) is said in the state's `notes`; what is missing is an error.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import eccodes
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import CHANNELS, LEVELS, Channel, index
from dacycle.forecast_adapter.grid import Grid, bilinear, conservative_average
from dacycle.forecast_adapter.state import StateError, check_values, make_state, validate

__all__ = [
    "GRAVITY",
    "SURFACE_FIELDS",
    "HumidityWarning",
    "messages",
    "regrid",
    "saturation_vapour_pressure",
    "specific_humidity",
    "state_from_grib",
    "times_in_grib",
    "valid_time",
    "values_of",
]

GRAVITY = 9.80665
"""Standard gravity, m s-2: geopotential = GRAVITY x geopotential height (WMO)."""

EPSILON = 0.621981
"""Ratio of the gas constants of dry air and water vapour."""

TRIPLE_POINT = 273.16
"""Temperature (K) at and above which relative humidity refers to saturation over water."""

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
_SURFACE_NAMES = {name for choices in SURFACE_FIELDS.values() for name in choices}
_UPPER_NAMES = {name for choices in _UPPER.values() for name in choices}
_UNITS = {name: unit for choices in (SURFACE_FIELDS | _UPPER).values() for name, unit in choices.items()}

# Relative humidity refers to water above the triple point, to ice below a temperature T_ice (K), and in
# between to a mix whose water share is ((T - T_ice) / (T_0 - T_ice)) ** power: (T_ice, power) by the GRIB
# code of the centre. NCEP: function FPVSNEW of its post-processing. ECMWF: IFS documentation, part IV,
# section 7.4.2.
_ICE_MIX = {"kwbc": (253.16, 1.0), "ecmf": (250.16, 2.0)}

Key = tuple[str, int | None]  # ecCodes' name and the level in hPa, None at the surface


class HumidityWarning(UserWarning):
    """Specific humidity was derived where the relative humidity it comes from cannot carry it."""


@dataclass
class _Fields:
    """The wanted fields of one file at one time, each (H, W) on `grid`."""

    source: str
    time: np.datetime64
    grid: Grid
    centre: str
    values: dict[Key, NDArray[np.float32]] = field(default_factory=dict)

    def where(self) -> str:
        return f"{self.source}, {np.datetime_as_string(self.time, 'h')}"

    def label(self, key: Key) -> str:
        return f"{self.where()}: {key[0]}" + (f" at {key[1]} hPa" if key[1] else "")


def state_from_grib(path: str | Path, grid: Grid, time: np.datetime64 | str | None = None) -> xr.DataArray:
    """Read a validated state on `grid` from a GRIB file (edition 1 or 2, multi-field messages included).

    Args:
        path: a file of global fields on one latitude-longitude or regular Gaussian grid.
        grid: where the state is wanted; averaged down conservatively, else interpolated bilinearly.
        time: the valid time (UTC) to take; needed only where the file holds several.

    Returns:
        The state (69, H, W) in SI units, with `source`, `regridding` and `notes` (what was derived, and what
        of it is doubtful) among its attributes.

    Raises:
        StateError: the file is truncated or not GRIB, lacks a field, level or the time, or holds one twice;
            values are missing, implausible or in another unit; the grid is regional or reduced. The message
            names file, field and time.
    """
    path = Path(path)
    if not path.is_file():
        raise StateError(f"{path}: no such file")
    fields = _read(path, None if time is None else pd.Timestamp(time).to_datetime64())
    notes: dict[str, None] = {}  # an ordered set: many levels leave the same note
    array = np.stack([_channel(fields, channel, notes) for channel in CHANNELS])
    state = make_state(regrid(array, fields.grid, grid), grid, fields.time)
    state.attrs = {
        "source": path.name,
        "regridding": _regridding(fields.grid, grid),
        "notes": "; ".join(notes),
    }
    for note in notes:
        if "doubtful" in note:
            warnings.warn(f"{fields.where()}: {note}", HumidityWarning, stacklevel=2)
    return validate(state, str(path), grid)


def times_in_grib(path: str | Path) -> NDArray[np.datetime64]:
    """The valid times (n,) datetime64[h] of the fields that a state can be made from, ascending.

    Raises:
        StateError: the file is truncated or not GRIB, or holds no such field.
    """
    times = {valid_time(message) for message in messages(Path(path)) if _wanted(message)}
    if not times:
        raise StateError(f"{path}: it holds no field of a state")
    return np.array(sorted(times), "datetime64[h]")


def regrid(fields: NDArray[np.floating], source: Grid, target: Grid) -> NDArray[np.floating]:
    """Bring fields (..., H, W) to another grid, averaged down conservatively or interpolated bilinearly."""
    how = _regridding(source, target)
    if how == "none":
        return fields
    return (conservative_average if how == "conservative" else bilinear)(fields, source, target)


def _regridding(source: Grid, target: Grid) -> str:
    if source.matches(target):
        return "none"
    coarser = all(to < of for to, of in zip(target.shape, source.shape, strict=True))
    return "conservative" if coarser else "bilinear"


def saturation_vapour_pressure(temperature: NDArray[np.floating], centre: str) -> NDArray[np.floating]:
    """Saturation vapour pressure (Pa) that a centre's relative humidity refers to, from temperature (K).

    Over water at and above the triple point, over ice below 253.16 K (NCEP, `kwbc`) or 250.16 K (ECMWF,
    `ecmf`), over a mix in between (linear at NCEP, quadratic at ECMWF). Coefficients as in the IFS: Buck
    (1981) over water, Alduchov and Eskridge (1996) over ice.

    Raises:
        KeyError: another centre, whose definition is not known here.
    """
    ice, power = _ICE_MIX[centre]
    above = temperature - TRIPLE_POINT
    over_water = 611.21 * np.exp(17.502 * above / (temperature - 32.19))
    over_ice = 611.21 * np.exp(22.587 * above / (temperature + 0.7))
    share = np.clip((temperature - ice) / (TRIPLE_POINT - ice), 0, 1) ** power
    return share * over_water + (1 - share) * over_ice


def specific_humidity(
    relative_humidity: NDArray[np.floating],
    temperature: NDArray[np.floating],
    pressure: NDArray[np.floating] | float,
    centre: str,
) -> NDArray[np.floating]:
    """Specific humidity, kg/kg: q = eps e / (p - (1 - eps) e), e being the stated share of saturation.

    relative_humidity in per cent, temperature in K, pressure in Pa; centre as for the saturation pressure.
    """
    vapour = relative_humidity / 100 * saturation_vapour_pressure(temperature, centre)
    return EPSILON * vapour / (pressure - (1 - EPSILON) * vapour)


def _channel(fields: _Fields, channel: Channel, notes: dict[str, None]) -> NDArray[np.float32]:
    """One channel in SI units; adds a note on whatever had to be derived."""
    names = (_UPPER if channel.level else SURFACE_FIELDS)[channel.variable]
    found = next((name for name in names if (name, channel.level) in fields.values), None)
    if found is None:
        level = f" at {channel.level} hPa" if channel.level else ""
        raise StateError(f"{fields.where()}: {channel.name} is missing; the file needs {' or '.join(names)}{level}")
    values = fields.values[found, channel.level]
    if found == "gh":
        notes[f"z from geopotential height times {GRAVITY}"] = None
        return (values * GRAVITY).astype(np.float32)
    if found in ("prmsl", "mslet"):
        notes[f"msl from {found}"] = None
    if found == "r" and channel.level:
        return _humidity(fields, values, channel.level, notes)
    return values


def _humidity(
    fields: _Fields, relative: NDArray[np.float32], level: int, notes: dict[str, None]
) -> NDArray[np.float32]:
    if ("t", level) not in fields.values:
        raise StateError(f"{fields.where()}: t{level} is missing, and q{level} cannot be derived without it")
    if fields.centre not in _ICE_MIX:
        raise StateError(
            f"{fields.where()}: q{level} is missing, and what relative humidity refers to at the centre "
            f"{fields.centre!r} is not known; add specific humidity to the file"
        )
    notes["q from relative humidity over water, ice or their mix"] = None
    if level <= DOUBTFUL_HUMIDITY:
        doubt = f"q down to {DOUBTFUL_HUMIDITY} hPa is doubtful: relative humidity says little in air so cold"
        notes[doubt] = None
    temperature = fields.values["t", level].astype(np.float64)
    check_values(CHANNELS[index(f"t{level}")], temperature, fields.where())
    humidity = specific_humidity(relative.astype(np.float64), temperature, 100.0 * level, fields.centre)
    return humidity.astype(np.float32)


def _read(path: Path, time: np.datetime64 | None) -> _Fields:
    """All wanted fields at `time` (or at the file's only time), rows from the north, columns from 0 E."""
    fields: _Fields | None = None
    points, section, taken = np.empty(0, np.intp), "", time
    times: set[np.datetime64] = set()
    for message in messages(path):
        key = _wanted(message)
        if key is None:
            continue
        valid = valid_time(message)
        times.add(valid)
        taken = valid if taken is None else taken
        if valid != taken:
            continue
        if fields is None:
            grid, points = _grid(message, f"{path}, {np.datetime_as_string(valid, 'h')}: {key[0]}")
            section = eccodes.codes_get(message, "md5GridSection")
            fields = _Fields(str(path), valid, grid, eccodes.codes_get(message, "centre"))
        label = fields.label(key)
        if eccodes.codes_get(message, "md5GridSection") != section:
            raise StateError(f"{label} is on another grid than the fields before it; split the file by grid")
        if key in fields.values:
            raise StateError(f"{label} is there twice (ensemble members, or two runs); leave one in the file")
        fields.values[key] = values_of(message, label, _UNITS[key[0]])[points].reshape(fields.grid.shape)
    if time is None and len(times) > 1:
        raise StateError(f"{path}: holds {len(times)} times ({_spell(times)}); say which one to take")
    if fields is None:
        held = f"it holds {_spell(times)}" if times else "it holds no field of a state"
        raise StateError(f"{path}: " + (held if time is None else f"nothing is valid at {time}; {held}"))
    return fields


def _spell(times: set[np.datetime64]) -> str:
    shown = [np.datetime_as_string(time, "m") for time in sorted(times)]
    return ", ".join(shown if len(shown) <= 4 else [*shown[:3], "...", shown[-1]])


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
    date, clock = (
        str(eccodes.codes_get(message, "validityDate")),
        int(eccodes.codes_get(message, "validityTime")),
    )
    return np.datetime64(f"{date[:4]}-{date[4:6]}-{date[6:]}T{clock // 100:02}:{clock % 100:02}", "m")


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


def _grid(message: int, label: str) -> tuple[Grid, NDArray[np.intp]]:
    """The grid of a message, and the order that orders its points by row from the north, then from 0 E."""
    latitude = eccodes.codes_get_array(message, "latitudes")
    # Coded in millionths of a degree: rounding keeps 359.9999999 from becoming a column of its own.
    longitude = np.round(eccodes.codes_get_array(message, "longitudes") % 360, 6) % 360
    rows, columns = np.unique(latitude)[::-1], np.unique(longitude)
    if len(rows) * len(columns) != len(latitude):
        kind = eccodes.codes_get(message, "gridType")
        raise StateError(f"{label} is on a {kind} grid; interpolate it to latitude-longitude first")
    step = 1.5 * 360 / len(columns)
    gaps = np.diff(columns, append=columns[0] + 360)
    if gaps.max() > step or rows[0] < 90 - step or rows[-1] > step - 90:
        raise StateError(f"{label} covers only part of the globe; a state needs all of it")
    return Grid("GRIB", rows, columns), np.lexsort((longitude, -latitude))
