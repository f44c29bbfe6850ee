"""Observation tables as messages of WMO BUFR, edition 4: the inverse of the sources `synop_bufr` and `temp_bufr`.

Stations become SYNOPs (template 307080), sondes TEMPs (309052), each with its WIGOS identifier (301150). BUFR has no
element for the time of receipt; it is written as in ECMWF's archive, in a local section of that centre's form. Values
have the resolution of the templates: 0.01 K, 10 Pa, 0.1 m/s and whole degrees, 0.1 kg/m2, 1 gpm.
"""

from datetime import UTC, datetime
from typing import Any

import eccodes
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import GRAVITY, dewpoint, wind_direction
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES, ObservationError

__all__ = ["BULLETIN", "encode_synops", "encode_temps"]

BULLETIN = np.timedelta64(300, "s")
"""SYNOPs are collected in bulletins, received at the next multiple of this. It divides every usual cutoff, so that the
same values are late as before."""

_SURFACE = ("t2m", "td2m", "msl", "u10", "v10", "tp")
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("t2m", "td2m", "t"), (0.0, 655.0)),
    **dict.fromkeys(("u10", "v10", "u", "v"), (-289.0, 289.0)),
    "msl": (0.0, 163000.0),
    "tp": (0.0, 1638.0),
    "z": (-9800.0, 1275000.0),
    "q": (-np.inf, 0.2),
}
"""Range of the elements of the templates, in SI units."""
_DRIEST = 1e-12  # kg/kg; the least humidity that is written as a dewpoint
_STANDARD_LEVEL = 1 << 16  # in the extended vertical sounding significance
_SYNOP = {"dataCategory": 0, "dataSubCategory": 170, "rdbType": 1}
_TEMP = {"dataCategory": 2, "dataSubCategory": 109, "rdbType": 5}


def encode_synops(table: pd.DataFrame) -> bytes:
    """Encode the reports of surface stations at one time, one message for each bulletin.

    Args:
        table: t2m, td2m, msl, u10, v10 and 6-h tp of stations, with the times of receipt.

    Raises:
        ObservationError: another variable is in it, a wind lacks a component, or a value is beyond what BUFR can hold.
    """
    first, values = _reports(table, _SURFACE, table["station"].array.codes)
    stations = table.iloc[first]
    identity = _identification(stations)
    identity["#1#heightOfStationGroundAboveMeanSeaLevel"] = stations["elevation"].to_numpy()
    received = stations["received"].to_numpy().astype("datetime64[s]").astype(np.int64)
    step = BULLETIN.astype(np.int64)
    bulletins, which = np.unique(-(-received // step) * step, return_inverse=True)
    return b"".join(
        _synops(_rows(identity, which == k), values[:, which == k], int(seconds)) for k, seconds in enumerate(bulletins)
    )


def encode_temps(table: pd.DataFrame) -> bytes:
    """Encode the soundings of one time, one message for each.

    The height of the station is left out: a simulated sounding begins above the model's ground, which is not at the
    height of the station, and readers compare the lowest thickness with that. No humidity is below 1e-12.

    Args:
        table: z, q, u, v, t of stations at any pressures, with the times of receipt.

    Raises:
        ObservationError: as `encode_synops`.
    """
    pressure = table["pressure"].to_numpy()
    levels, level = np.unique(-pressure, return_inverse=True)  # from the ground up
    first, values = _reports(
        table, LEVEL_VARIABLES, table["station"].array.codes.astype(np.int64) * len(levels) + level
    )
    lowest = np.nonzero(np.diff(table["station"].array.codes[first], prepend=-1))[0]
    stations = table.iloc[first[lowest]]
    identity = _identification(stations)
    received = stations["received"].to_numpy().astype("datetime64[s]").astype(np.int64)
    soundings = zip(np.split(pressure[first], lowest[1:]), np.split(values, lowest[1:], axis=1), strict=True)
    return b"".join(
        _temp(_rows(identity, slice(k, k + 1)), at, of_levels, int(received[k]))
        for k, (at, of_levels) in enumerate(soundings)
    )


def _reports(table: pd.DataFrame, names: tuple[str, ...], key: NDArray) -> tuple[NDArray[np.intp], NDArray]:
    """Return the first row of each of the n reports (or levels), and its values (len(names), n), NaN where absent."""
    _check(table, names)
    position = np.array([names.index(name) if name in names else -1 for name in VARIABLES])
    _, first, report = np.unique(key, return_index=True, return_inverse=True)
    values = np.full((len(names), len(first)), np.nan)
    values[position[table["variable"].array.codes], report] = table["value"].to_numpy()
    halved = np.isnan(values[[names.index(name) for name in names if name[0] in "uv"]]).sum(axis=0) == 1
    if halved.any():
        station = table["station"].iloc[first[int(halved.argmax())]]
        raise ObservationError(f"station {station}: BUFR has no place for one component of a wind without the other")
    return first, values


def _check(table: pd.DataFrame, names: tuple[str, ...]) -> None:
    """Raise an error for values of other variables, and for those beyond `_RANGES`."""
    low, high = np.array([_RANGES[name] if name in names else (np.inf, -np.inf) for name in VARIABLES]).T
    codes, value = table["variable"].array.codes, table["value"].to_numpy()
    bad = (value < low[codes]) | (value > high[codes])
    if bad.any():
        row = table.iloc[int(bad.argmax())]
        raise ObservationError(
            f"station {row['station']}, {row['time']}: {row['variable']} of {row['value']:g} does not fit into this "
            "BUFR template"
        )


def _identification(stations: pd.DataFrame) -> dict[str, NDArray]:
    """Return identifier, time and position of n reports, by BUFR key (n,).

    A name of five digits is a WMO block and station number, any other a local WIGOS identifier without an issuer.
    """
    names, time = stations["station"].astype(str), stations["time"].dt
    number = names.where(names.str.fullmatch(r"\d{5}")).astype(float).to_numpy()
    identity = {
        "blockNumber": number // 1000,
        "stationNumber": number % 1000,
        **{f"wigos{part}": np.zeros(len(names)) for part in ("IdentifierSeries", "IssuerOfIdentifier", "IssueNumber")},
        "wigosLocalIdentifierCharacter": names.where(np.isnan(number), "").to_numpy(str),
        **{part: getattr(time, part).to_numpy() for part in ("year", "month", "day", "hour", "minute")},
        "latitude": stations["latitude"].to_numpy(),
        "longitude": stations["longitude"].to_numpy(),
    }
    return {f"#1#{key}": values for key, values in identity.items()}


def _rows(identity: dict[str, NDArray], which: NDArray[np.bool_] | slice) -> dict[str, NDArray]:
    return {key: values[which] for key, values in identity.items()}


def _synops(identity: dict[str, NDArray], values: NDArray, received: int) -> bytes:
    """Return the compressed message of a bulletin: n reports, values (6, n)."""
    t2m, td2m, msl, u10, v10, tp = values
    direction, speed = _wind(u10, v10)
    elements = {
        "#1#pressureReducedToMeanSeaLevel": msl,
        "#1#heightOfSensorAboveLocalGroundOrDeckOfMarinePlatform": 2.0,
        "#1#airTemperature": t2m,
        "#1#dewpointTemperature": td2m,
        "#4#timePeriod": -6,  # hours, of the first of two amounts of precipitation
        "#1#totalPrecipitationOrTotalWaterEquivalent": tp,
        "#7#heightOfSensorAboveLocalGroundOrDeckOfMarinePlatform": 10.0,
        "#10#timePeriod": -10,  # minutes, of the wind
        "#1#windDirection": direction,
        "#1#windSpeed": speed,
    }
    shape = {"compressedData": 1, "inputDelayedDescriptorReplicationFactor": [0, 0]}  # no layers of cloud
    return _message(_SYNOP | shape, 307080, identity, received, elements)


def _temp(identity: dict[str, NDArray], pressure: NDArray, values: NDArray, received: int) -> bytes:
    """Return the message of a sounding: n levels, values (5, n)."""
    z, q, u, v, t = values
    direction, speed = _wind(u, v)
    elements = {
        "#1#timeSignificance": 18,  # the time is that of the launch
        "extendedVerticalSoundingSignificance": np.full(len(pressure), _STANDARD_LEVEL),
        "pressure": pressure,
        "nonCoordinateGeopotentialHeight": np.rint(z / GRAVITY),
        "airTemperature": t,
        "dewpointTemperature": dewpoint(np.maximum(q, _DRIEST), pressure),
        "windDirection": direction,
        "windSpeed": speed,
    }
    shape = {
        "inputExtendedDelayedDescriptorReplicationFactor": [len(pressure)],
        "inputDelayedDescriptorReplicationFactor": [0],  # no wind shear
    }
    return _message(_TEMP | shape, 309052, identity, received, elements)


def _wind(u: NDArray, v: NDArray) -> tuple[NDArray, NDArray]:
    """Return direction in whole degrees and speed in tenths of m/s, by the codes: 360 is north, 0 calm."""
    speed = np.rint(np.hypot(u, v) * 10) / 10
    direction = np.rint(wind_direction(u, v)) % 360
    return np.where(speed == 0, 0, np.where(direction == 0, 360, direction)), speed


def _message(
    head: dict[str, Any], template: int, identity: dict[str, NDArray], received: int, elements: dict[str, Any]
) -> bytes:
    """Encode a message with one subset for each place, received at a time (s since 1970)."""
    arrival = datetime.fromtimestamp(received, UTC)
    head = {
        "masterTablesVersionNumber": 33,
        "numberOfSubsets": len(identity["#1#latitude"]),
        **{f"typical{p.capitalize()}": int(identity[f"#1#{p}"][0]) for p in ("year", "month", "day", "hour", "minute")},
        "typicalSecond": 0,
        **{f"rdbtime{part.capitalize()}": getattr(arrival, part) for part in ("day", "hour", "minute", "second")},
        **head,
        "unexpandedDescriptors": [301150, template],
    }
    handle = eccodes.codes_bufr_new_from_samples("BUFR4_local")
    try:
        for key, value in (head | identity | elements).items():
            _set(handle, key, value)
        eccodes.codes_set(handle, "pack", 1)
        return bytes(eccodes.codes_get_message(handle))
    finally:
        eccodes.codes_release(handle)


def _set(handle: int, key: str, value: Any) -> None:
    """Set a key to a number, or to an array of names or numbers, of which NaN is missing."""
    if np.ndim(value) == 0:
        eccodes.codes_set(handle, key, value)
        return
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        value = np.where(np.isnan(value), eccodes.CODES_MISSING_DOUBLE, value)
    eccodes.codes_set_array(handle, key, value)
