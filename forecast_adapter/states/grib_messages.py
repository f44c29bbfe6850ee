"""GRIB messages: the fields of a file one after another, their times, and their values with the places of these.

ecCodes gives values in the order of the file. The places that it gives beside them follow that order on some grids and
in some scanning modes only, so values and places are paired here and nowhere else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import eccodes
import numpy as np
from numpy.typing import NDArray

from dacycle.common.damage import check_grib
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.source import global_grid

__all__ = [
    "Location",
    "field_at",
    "key_of",
    "locations",
    "messages",
    "on_grid",
    "on_points",
    "rows_and_columns",
    "start_time",
    "valid_time",
]

_FOLLOWS_SCANNING = {"regular_ll", "rotated_ll", "regular_gg", "rotated_gg", "lambert_azimuthal_equal_area"}
"""Grids whose places ecCodes gives in the order of the file, except that it overlooks rows that alternate."""

_FROM_SOUTH_WEST = {"lambert", "polar_stereographic", "mercator"}
"""Grids whose places ecCodes gives from the first point to the east and north, whatever the scanning mode says."""

_LISTS = {"reduced_ll", "reduced_gg", "reduced_rotated_gg", "healpix", "unstructured_grid"}
"""Grids without rows of one length: ecCodes gives the places in the only order that it knows."""

_COLUMNS, _ROWS = ("Ni", "i", "longitude"), ("Nj", "j", "latitude")
_STEPS = {"regular_ll": (_COLUMNS, _ROWS), "rotated_ll": (_COLUMNS, _ROWS), "regular_gg": (_COLUMNS,)}
"""Grids with a step between columns and rows: ecCodes' keys of their number, their step, and their ends."""

_ROUNDING = 1e-3  # degrees; edition 1 states steps in thousandths

_WEST, _NORTH, _BY_COLUMN, _ALTERNATE = 128, 64, 32, 16
"""Bits of the scanning mode: points of a row go to the west, rows to the north, columns come first, rows alternate."""

_KNOWN_BITS = {1: _WEST | _NORTH | _BY_COLUMN, 2: _WEST | _NORTH | _BY_COLUMN | _ALTERNATE}
"""By edition, the bits of the scanning mode that are understood; those of edition 2 beyond them shift rows."""


class Location(NamedTuple):
    """The location of a field in a file."""

    path: Path
    offset: int
    number: int  # among the fields of one message


@contextmanager
def _multi_field_support(file: IO[bytes]) -> Iterator[None]:
    """Switch ecCodes to messages of several fields, as NCEP's of u and v; without it ecCodes shows only the first."""
    eccodes.codes_grib_multi_support_on()
    try:
        yield
    finally:
        eccodes.codes_grib_multi_support_reset_file(file)
        eccodes.codes_grib_multi_support_off()


def locations(path: Path) -> Iterator[tuple[Location, int]]:
    """Yield the location and the handle of each field of a file, and release the handle after use.

    Raises:
        StateError: the file cannot be read, is truncated, or holds no field.
    """
    offset, number, count = -1, 0, 0
    check_grib(path, StateError)
    with reading(path, StateError):
        file = path.open("rb")
    with file, _multi_field_support(file):
        while True:
            state = f"truncated or corrupt after {count} fields" if count else "not a GRIB file, or a corrupt one"
            with reading(f"{path}: {state}; fetch it again", StateError):
                message = eccodes.codes_grib_new_from_file(file)
                if message is None:
                    break
                here = int(eccodes.codes_get(message, "offset"))
            count += 1
            offset, number = here, number + 1 if here == offset else 0
            try:
                yield Location(path, offset, number), message
            finally:
                eccodes.codes_release(message)
    if count == 0:
        raise StateError(f"{path}: not a GRIB file, or an empty one")


def messages(path: Path) -> Iterator[int]:
    """Yield the handle of each field of a file, as `locations` does."""
    yield from (message for _, message in locations(path))


@contextmanager
def field_at(location: Location) -> Iterator[int]:
    """Yield the handle of the field at a location; raise StateError where it cannot be read, or is there no more."""
    with reading(location.path, StateError):
        file = location.path.open("rb")
    with file, _multi_field_support(file):
        with reading(f"{location.path}: fetch it again", StateError):
            file.seek(location.offset)
            for _ in range(location.number):
                eccodes.codes_release(eccodes.codes_grib_new_from_file(file))
            message = eccodes.codes_grib_new_from_file(file)
        if message is None:
            raise StateError(f"{location.path} has changed since it was looked at; open it again")
        try:
            yield message
        finally:
            eccodes.codes_release(message)


def key_of(message: int, name: str) -> Any:
    """Return the value of one of ecCodes' keys; None where the message has none such."""
    return eccodes.codes_get(message, name) if eccodes.codes_is_defined(message, name) else None


def valid_time(message: int) -> np.datetime64:
    """Return the valid time of a field, datetime64[m]."""
    return _time(message, "validityDate", "validityTime")


def start_time(message: int) -> np.datetime64:
    """Return the time of the analysis, or of the start of the forecast, that a field belongs to, datetime64[m]."""
    return _time(message, "dataDate", "dataTime")


def _time(message: int, date: str, clock: str) -> np.datetime64:
    day, minutes = f"{int(eccodes.codes_get(message, date)):08}", int(eccodes.codes_get(message, clock))
    return np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}T{minutes // 100:02}:{minutes % 100:02}", "m")


def on_points(message: int, label: str, unit: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray]:
    """Return latitude, longitude (degrees) and values of a field on any grid, each (n,), in the order of the file.

    Args:
        message: the handle.
        label: file, time and field, for messages.
        unit: the unit that the field must have.

    Raises:
        StateError: the field cannot be decoded, lacks values, is in another unit, or its places cannot be told.
    """
    latitude, longitude = _places(message, label)
    return latitude, longitude, _values(message, label, unit, len(latitude))


def on_grid(message: int, label: str, unit: str) -> tuple[Grid, NDArray[np.float32]]:
    """Return the grid of a field, and its values (H, W): rows from the north, columns from 0 E.

    Args and errors as of `on_points`; StateError also where the grid is not global, or not of rows and columns.
    """
    grid, order = rows_and_columns(message, label)
    return grid, _values(message, label, unit, len(order))[order].reshape(grid.shape)


def _values(message: int, label: str, unit: str, size: int) -> NDArray[np.float32]:
    """Return the values (size,) of a field in the order of the file."""
    with reading(f"{label}: the file is corrupt, fetch it again", StateError):
        stated, missing = eccodes.codes_get(message, "units"), eccodes.codes_get(message, "numberOfMissing")
        values = eccodes.codes_get_values(message)
    if stated != unit:
        raise StateError(f"{label} is in {stated!r}, not in {unit!r}")
    if missing:
        raise StateError(f"{label} has {missing} missing values; a state needs every point")
    if len(values) != size:
        raise StateError(f"{label} has {len(values)} values on a grid of {size} points; fetch it again")
    return values.astype(np.float32)


def _places(message: int, label: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return latitude and longitude (n,) of a field's values in the order of the file."""
    with reading(f"{label}: its grid", StateError):
        kind, mode = eccodes.codes_get(message, "gridType"), key_of(message, "scanningMode") or 0
        edition = eccodes.codes_get(message, "edition")
    if kind not in _FOLLOWS_SCANNING | _FROM_SOUTH_WEST | _LISTS:
        raise StateError(f"{label} is on a {kind} grid; interpolate it to latitude-longitude first")
    if mode & ~_KNOWN_BITS.get(edition, 0) or (kind in _LISTS and mode) or _is_misplaced(kind, mode):
        remedy = "interpolate it to latitude-longitude, or write its rows from the south and from west to east"
        raise StateError(f"{label}: the places of a {kind} grid in scanning mode {mode} are not known; {remedy}")
    with reading(f"{label}: the description of its grid", StateError):
        places = [eccodes.codes_get_array(message, name) for name in ("latitudes", "longitudes")]
        size = eccodes.codes_get(message, "numberOfDataPoints")
        shape = () if kind in _LISTS else (eccodes.codes_get(message, "Nj"), eccodes.codes_get(message, "Ni"))
        steps_fit = kind not in _STEPS or all(_steps_fit(message, *axis, mode) for axis in _STEPS[kind])
    if any(len(axis) != size for axis in places) or (shape and shape[0] * shape[1] != size) or not steps_fit:
        raise StateError(f"{label}: the description of its grid contradicts itself; fetch it again")
    if shape:
        places = [_in_order_of_file(axis, shape, mode, kind in _FROM_SOUTH_WEST) for axis in places]
    return places[0], places[1]


def _steps_fit(message: int, number: str, step: str, axis: str, mode: int) -> bool:
    """Return whether the stated step fits first and last point and their number; ecCodes believes the step."""
    if eccodes.codes_is_missing(message, f"{step}DirectionIncrement"):
        return True
    count, width = (
        eccodes.codes_get(message, number) - 1,
        eccodes.codes_get(message, f"{step}DirectionIncrementInDegrees"),
    )
    first, last = (eccodes.codes_get(message, f"{axis}Of{end}GridPointInDegrees") for end in ("First", "Last"))
    span = abs(last - first)
    if axis == "longitude":
        span = ((first - last) if mode & _WEST else (last - first)) % 360 or (360.0 if count else 0.0)
    return abs(count * width - span) <= max(width / 2, _ROUNDING * count)


def _is_misplaced(kind: str, mode: int) -> bool:
    """Return whether ecCodes takes the first point for the south-western one where it is another."""
    return kind in _FROM_SOUTH_WEST and mode & (_WEST | _NORTH) != _NORTH


def _in_order_of_file(axis: NDArray, shape: tuple[int, int], mode: int, by_row: bool) -> NDArray[np.float64]:
    """Return a coordinate (n,) as ecCodes gives it in the order of the file.

    Args:
        axis: (n,).
        shape: number of rows and columns.
        mode: the scanning mode.
        by_row: whether ecCodes gives the points row by row where the file has them column by column.
    """
    if mode & _BY_COLUMN:
        lines = axis.reshape(shape).T if by_row else axis.reshape(shape[::-1])
    else:
        lines = axis.reshape(shape)
    lines = lines.copy()
    if mode & _ALTERNATE:
        lines[1::2] = lines[1::2, ::-1]
    return lines.ravel()


_grids: dict[str, tuple[Grid, NDArray[np.intp]]] = {}


def rows_and_columns(message: int, label: str) -> tuple[Grid, NDArray[np.intp]]:
    """Return the grid of a message, and the order of its points by row from the north, then by column from 0 E.

    Raises:
        StateError: the grid is not of rows and columns, not global, or its description contradicts itself.
    """
    with reading(f"{label}: its grid", StateError):
        section, kind = eccodes.codes_get(message, "md5GridSection"), eccodes.codes_get(message, "gridType")
    if section in _grids:
        return _grids[section]
    if kind not in ("regular_ll", "regular_gg"):
        raise StateError(f"{label} is on a {kind} grid; interpolate it to latitude-longitude first")
    latitude, longitude = _places(message, label)
    longitude = np.round(longitude % 360, 6) % 360
    grid = global_grid(np.unique(latitude), longitude[latitude == latitude[0]], label)
    _grids[section] = grid, np.lexsort((longitude, -latitude))
    return _grids[section]
