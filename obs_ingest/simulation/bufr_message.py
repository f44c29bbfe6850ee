"""Messages of WMO BUFR, edition 4, as the encoders of simulated observations write them.

BUFR has no element for the time of receipt; it is written as in ECMWF's archive, in a local section of that centre's
form.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import eccodes
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import wind_direction
from dacycle.obs_ingest.table import VARIABLES, ObservationError

__all__ = ["BULLETIN", "Identity", "bulletins", "instants", "message", "reports_of", "wind"]

BULLETIN = np.timedelta64(300, "s")
"""Reports are collected in bulletins, received at the next multiple of this. It divides every usual cutoff, so that the
same values are late as before."""

Identity = dict[str, NDArray]
"""Identifier, time and position of n reports, by BUFR key (n,)."""

_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("t2m", "td2m", "t"), (0.0, 655.0)),
    **dict.fromkeys(("u10", "v10", "u", "v"), (-289.0, 289.0)),
    "msl": (0.0, 163000.0),
    "tp": (0.0, 1638.0),
    "z": (-9800.0, 1275000.0),
    "q": (-np.inf, 0.2),
}
"""Range of the elements of the templates, in SI units."""


def reports_of(table: pd.DataFrame, names: tuple[str, ...], key: NDArray) -> tuple[NDArray[np.intp], NDArray]:
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


def instants(reports: pd.DataFrame) -> Identity:
    """Return the times and positions of n reports."""
    time = reports["time"].dt
    parts = {part: getattr(time, part).to_numpy() for part in ("year", "month", "day", "hour", "minute")}
    position = {name: reports[name].to_numpy() for name in ("latitude", "longitude")}
    return {f"#1#{key}": values for key, values in (parts | position).items()}


def bulletins(received: pd.Series) -> Iterator[tuple[NDArray[np.bool_], int]]:
    """Yield, of reports with these n times of receipt, those of each bulletin (n,), and its receipt (s since 1970)."""
    seconds, step = received.to_numpy().astype("datetime64[s]").astype(np.int64), BULLETIN.astype(np.int64)
    times, which = np.unique(-(-seconds // step) * step, return_inverse=True)
    for k, arrival in enumerate(times.tolist()):
        yield which == k, arrival


def wind(u: NDArray, v: NDArray) -> tuple[NDArray, NDArray]:
    """Return direction in whole degrees and speed in tenths of m/s, by the codes: 360 is north, 0 calm."""
    speed = np.rint(np.hypot(u, v) * 10) / 10
    direction = np.rint(wind_direction(u, v)) % 360
    return np.where(speed == 0, 0, np.where(direction == 0, 360, direction)), speed


def message(
    head: dict[str, Any], template: list[int], identity: Identity, received: int, elements: dict[str, Any]
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
        "unexpandedDescriptors": template,
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
