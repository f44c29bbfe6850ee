"""Names, units and coordinates in published datasets of states, and their translation to ours.

WeatherBench2 and ARCO-ERA5 use long names, the Climate Data Store short ones; its old netCDF has `time` and `level`,
its new one `valid_time` and `pressure_level`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from dacycle.common.foreign import reading
from dacycle.common.times import parse_time
from dacycle.forecast_adapter.channels import WB2_NAMES
from dacycle.forecast_adapter.physics import GRAVITY
from dacycle.forecast_adapter.state import StateError, as_hour

__all__ = [
    "DIMENSIONS",
    "EXTRA_FIELD_NAMES",
    "HOURLY",
    "MEANS_OF_AN_HOUR",
    "VARIABLES",
    "check_extra_unit",
    "check_unit",
    "hours_of",
    "levels_in_words",
    "levels_of",
    "standardised",
    "validity_of",
    "with_dates",
]

VARIABLES: dict[str, tuple[str, ...]] = {
    "u10": (WB2_NAMES["u10"], "u10", "10u"),
    "v10": (WB2_NAMES["v10"], "v10", "10v"),
    "t2m": (WB2_NAMES["t2m"], "t2m", "2t"),
    "msl": (WB2_NAMES["msl"], "msl", "prmsl"),
    "z": (WB2_NAMES["z"], "z", "geopotential_height", "gh"),
    "q": (WB2_NAMES["q"], "q"),
    "u": (WB2_NAMES["u"], "u"),
    "v": (WB2_NAMES["v"], "v"),
    "t": (WB2_NAMES["t"], "t"),
}
"""Names of a variable in datasets, the preferred one first."""

HOURLY: frozenset[str] = frozenset({"total_precipitation", "tp", "top_net_thermal_radiation", "ttr"})
"""Variables that are sums over the hour that ends at the time, in ERA5."""

EXTRA_FIELD_NAMES: dict[str, tuple[str, dict[str, float]]] = {
    "tp6h": ("kg m-2", {"total_precipitation_6hr": 1e3, "total_precipitation": 1e3, "tp": 1e3}),
    "olr": (
        "W m-2",
        {
            "outgoing_longwave_radiation": 1.0,
            "top_net_thermal_radiation": -1 / 21600,
            "ttr": -1 / 21600,
            "mean_top_net_long_wave_radiation_flux": -1.0,
        },
    ),
    "td2m": ("K", {"2m_dewpoint_temperature": 1.0, "d2m": 1.0, "2d": 1.0}),
    "ps": ("Pa", {"surface_pressure": 1.0, "sp": 1.0}),
}
"""Extra fields beside the 69 channels: SI unit, and by name the factor to it from the value (or sum of hourly ones)."""

MEANS_OF_AN_HOUR: frozenset[str] = frozenset({"mean_top_net_long_wave_radiation_flux"})
"""Variables that are means over the hour that ends at the time, in ERA5, where others are of six hours."""

_EXTRA_UNITS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("total_precipitation_6hr", "total_precipitation", "tp"), ("m", "m of water equivalent")),
    **dict.fromkeys(
        ("top_net_thermal_radiation", "ttr"), ("J m**-2", "J m-2", "J m^-2", "J/m^2", "J/m2", "joules m**-2")
    ),
    **dict.fromkeys(
        ("outgoing_longwave_radiation", "mean_top_net_long_wave_radiation_flux"),
        ("W m**-2", "W m-2", "W m^-2", "W/m^2", "W/m2"),
    ),
    **dict.fromkeys(("2m_dewpoint_temperature", "d2m", "2d"), ("K", "kelvin")),
    **dict.fromkeys(("surface_pressure", "sp"), ("Pa", "pascal")),
}
"""Spellings of the units that the factors of `EXTRA_FIELD_NAMES` are for."""

DIMENSIONS = {
    "isobaricInhPa": "level",
    "pressure_level": "level",
    "plev": "level",
    "isobaric": "level",
    "pressure": "level",
    "lev": "level",
    "lat": "latitude",
    "lon": "longitude",
    "time_index": "time",
    "valid_time": "time",
}
"""Other names of the dimensions time, level, latitude and longitude."""

_PRESSURE = {
    **dict.fromkeys(("hPa", "millibars", "millibar", "mbar", "mb"), 1.0),
    **dict.fromkeys(("Pa", "pascal", "Pascal"), 0.01),
}
"""Units of pressure levels, and the factors from them to hPa."""

_HIGHEST_LEVEL = 1100.0  # hPa; of levels without a unit, only those not above it are taken for hPa

_LEADS = ("prediction_timedelta", "step")
"""Coordinates that say how long after `time` a forecast is valid."""

_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")

# Spellings of the SI units in files of ECMWF, NOAA and WeatherBench2.
_UNITS = {
    "z": ("m2 s-2", "m**2 s**-2", "m^2 s^-2", "m2/s2"),
    "gh": ("m", "gpm"),
    "q": ("kg kg-1", "kg kg**-1", "kg kg^-1", "kg/kg", "1"),
    "t": ("K", "kelvin"),
    "msl": ("Pa", "pascal"),
    "wind": ("m s-1", "m s**-1", "m s^-1", "m/s"),
}


def standardised(dataset: xr.Dataset, source: str) -> xr.Dataset:
    """Return the dataset with dimensions named time, level, latitude, longitude, without others of length 1.

    Raises:
        StateError: valid times are a table of starts and leads, or are not given for forecasts.
    """
    if "valid_time" in dataset.variables:
        dataset = _by_valid_time(dataset, source)
    for lead in _LEADS:
        if lead in dataset.variables and np.asarray(dataset[lead].values).astype(float).any():
            raise StateError(f"{source}: its times are starts of forecasts ({lead} is not 0); add their `valid_time`")
    dataset = dataset.rename(_our_names(dataset))
    single = [d for d, n in dataset.sizes.items() if n == 1 and d not in ("time", "level", "latitude", "longitude")]
    if "expver" in dataset.dims and "expver" in dataset.coords:
        dataset = dataset.sortby("expver")
    return dataset.squeeze(single, drop=True)


def _our_names(dataset: xr.Dataset) -> dict[str, str]:
    """Return our name of each dimension that has another one; `lev` may be anything, so that its unit decides."""
    present = {*map(str, dataset.variables), *map(str, dataset.dims)}
    names: dict[str, str] = {}
    for old, new in DIMENSIONS.items():
        is_pressure = old != "lev" or (old in dataset.variables and dataset[old].attrs.get("units") in _PRESSURE)
        if old in present and is_pressure and new not in present | set(names.values()):
            names[old] = new
    return names


def with_dates(dataset: xr.Dataset, source: str) -> xr.Dataset:
    """Return a dataset that was opened with its times as numbers, with dates.

    Raises:
        StateError: there is no time in it, or its times are in another calendar or cannot be told; names the remedy.
    """
    for name, variable in dataset.variables.items():
        unit = str(variable.attrs.get("units", ""))
        if " since " not in unit or not np.issubdtype(variable.dtype, np.number):
            continue
        calendar = str(variable.attrs.get("calendar", "standard")).lower()
        if variable.size == 0:
            raise StateError(f"{source}: holds no time yet ({name} has length 0); read it when it is complete")
        if calendar not in _CALENDARS:
            what = f"{name} is in the calendar {calendar!r}, which has other days than observations and models here"
            raise StateError(f"{source}: {what}; give states of the standard calendar")
        with reading(f"{source}: {name} in {unit!r} (convert it, e.g. by `cdo {_CDO} IN OUT`)", StateError):
            try:
                dates = xr.conventions.decode_cf_variable(str(name), variable, decode_timedelta=False).load()
            except (ValueError, OverflowError) as problem:  # whose advice is for programmers
                raise StateError(
                    f"{source}: {name} in {unit!r} holds no dates that are known here; convert it, e.g. by "
                    f"`cdo {_CDO} IN OUT`"
                ) from problem
        if not np.issubdtype(dates.dtype, np.datetime64):
            raise StateError(f"{source}: {name} in {unit!r} is before 1678; convert it, e.g. by `cdo {_CDO} IN OUT`")
        dataset = dataset.assign_coords({name: dates}) if name in dataset.coords else dataset.assign({name: dates})
    return dataset


_CDO = "setreftime,1900-01-01,00:00:00,1hour"


def _by_valid_time(dataset: xr.Dataset, source: str) -> xr.Dataset:
    """Return the dataset with its valid times as `time`; in cfgrib `time` is the start of a forecast."""
    valid = dataset["valid_time"]
    if valid.ndim == 2 and 1 in valid.shape:
        dataset = dataset.squeeze([d for d in valid.dims if dataset.sizes[d] == 1])
        valid = dataset["valid_time"]
    if valid.ndim > 1:
        raise StateError(f"{source}: holds forecasts by start and lead ({', '.join(map(str, valid.dims))}); select one")
    dataset = dataset.drop_vars(
        [name for name in ("time", "step") if name in dataset.coords and name not in valid.dims]
    )
    if valid.ndim == 0 or valid.dims == ("valid_time",):
        return dataset.rename({"valid_time": "time"})
    (dimension,) = valid.dims
    values = valid.values
    return (
        dataset.drop_vars(["valid_time", dimension], errors="ignore")
        .rename({dimension: "time"})
        .assign_coords(time=("time", values))
    )


def hours_of(dataset: xr.Dataset, source: str) -> dict[np.datetime64, int | None]:
    """Return the hours of a standardised dataset and their positions, None for a single time without a dimension.

    Raises:
        StateError: there is no coordinate of dates, a date is not on the hour, or is there twice.
    """
    if "time" not in dataset.coords:
        raise StateError(f"{source}: has no coordinate `time` of dates, so its states have no valid time")
    coordinate = dataset["time"]
    if not np.issubdtype(coordinate.dtype, np.datetime64):
        coordinate = _decoded(coordinate, dataset.attrs, source)
    try:
        hours = [as_hour(time) for time in np.atleast_1d(coordinate.values)]
    except StateError as error:
        raise StateError(f"{source}: {error}") from error
    positions: dict[np.datetime64, int | None] = {}
    for i, hour in enumerate(hours):
        if hour in positions:
            raise StateError(f"{source}: {hours.count(hour)} states at {hour}, need exactly one; drop the others")
        positions[hour] = i if coordinate.ndim else None
    return positions


def _decoded(coordinate: xr.DataArray, attrs: Mapping[Any, Any], source: str) -> xr.DataArray:
    """Decode times whose unit is in the attributes of the dataset."""
    unit = str(attrs.get("time_units", ""))
    if " since " not in unit:
        raise StateError(f"{source}: has no coordinate `time` of dates, so its states have no valid time")
    encoded = xr.Variable(coordinate.dims, coordinate.values, {"units": unit.partition("(")[0].strip()})
    return xr.decode_cf(xr.Dataset({"time": encoded}))["time"]


def levels_of(dataset: xr.Dataset) -> dict[int, int | None]:
    """Return the pressure levels (hPa) of a standardised dataset and their positions; none without that coordinate.

    Levels that are no pressure, or whose unit is not stated and not hPa by their size, are left out.
    """
    if "level" not in dataset.coords:
        return {}
    level = dataset["level"]
    values, unit = np.atleast_1d(level.values).astype(float), level.attrs.get("units")
    scale = _PRESSURE.get(str(unit)) if unit is not None else 1.0 if values.max() <= _HIGHEST_LEVEL else None
    if scale is None:
        return {}
    rounded = np.round(values * scale)
    exact = np.isclose(values * scale, rounded, rtol=1e-6)
    return {int(rounded[i]): int(i) if level.ndim else None for i in np.flatnonzero(exact)}


def levels_in_words(dataset: xr.Dataset) -> str:
    """Return which levels a standardised dataset has, as the end of a message on missing ones; empty without any."""
    upper = (dataset[name] for short in "zquvt" for name in VARIABLES[short] if name in dataset)
    known = ("time", "latitude", "longitude", "expver", "number")
    names = dict.fromkeys(str(dim) for variable in upper for dim in variable.dims if dim not in known)
    names |= {"level": None} if "level" in dataset.coords else {}
    words = ""
    for name in names:
        if name not in dataset.coords:
            words += f"; its dimension {name} has no coordinate that says the levels"
            continue
        values = [f"{value:g}" for value in np.atleast_1d(dataset[name].values).astype(float)]
        unit = dataset[name].attrs.get("units")
        stated = str(unit) if unit is not None else "hPa" if name == "level" and levels_of(dataset) else "without units"
        remedy = "" if levels_of(dataset) else ", which is not known as pressure; state `units` hPa or Pa"
        shown = values if len(values) <= 40 else [*values[:10], "...", values[-1]]
        words += f"; its levels are {', '.join(shown)} {stated}{remedy}"
    return words


def validity_of(attrs: Mapping[Any, Any], source: str) -> tuple[np.datetime64, np.datetime64, np.datetime64]:
    """Return first, last final and last valid time by a store's attributes; ARCO-ERA5's time axis runs past its data.

    The attributes `valid_time_start`, `valid_time_stop` and `valid_time_stop_era5t` are dates, the last ones included.
    """
    start = _bound(attrs, "valid_time_start", "1678-01-01", source)
    final = _bound(attrs, "valid_time_stop", "2261-12-31", source)
    return start, final, max(final, _bound(attrs, "valid_time_stop_era5t", str(final), source))


def _bound(attrs: Mapping[Any, Any], name: str, default: str, source: str) -> np.datetime64:
    text = str(attrs.get(name, default))
    try:
        time = parse_time(text)
    except ValueError as error:
        raise StateError(f"{source}: attribute {name}: {error}") from None
    whole_day = len(text) <= len("2024-01-31") and "stop" in name
    return time.astype("datetime64[h]") + np.timedelta64(23 if whole_day else 0, "h")


def check_extra_unit(variable: xr.DataArray, label: str) -> None:
    """Raise StateError where an extra field states another unit than its factor is for."""
    known, stated = _EXTRA_UNITS[str(variable.name)], variable.attrs.get("units")
    if stated is not None and stated not in known:
        raise StateError(f"{label}: {variable.name} is in {stated!r}; convert it to {known[0]!r} first")


def check_unit(variable: xr.DataArray, short: str, label: str) -> float:
    """Return the factor that converts a variable to SI: 1, or `GRAVITY` for a declared geopotential height.

    Raises:
        StateError: the variable states another unit. Where it states none, only the plausible ranges are checked.
    """
    height = short == "z" and variable.name in ("geopotential_height", "gh")
    kind = "gh" if height else "t" if short in ("t", "t2m") else short if short in _UNITS else "wind"
    stated = variable.attrs.get("units")
    if stated is not None and stated not in _UNITS[kind]:
        raise StateError(f"{label}: {variable.name} is in {stated!r}; convert it to {_UNITS[kind][0]!r} first")
    return GRAVITY if height else 1.0
