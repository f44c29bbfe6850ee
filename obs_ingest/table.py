"""The observation table: one row per value, checked once where it enters, with the same columns up to the archive.

Text columns are pandas categoricals in memory (their integer codes make quality control fast) and dictionaries of
plain strings on disk. Times are UTC without a zone.
"""

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from dacycle.common.arrow import to_pandas
from dacycle.common.errors import DacycleError

__all__ = [
    "BIAS_COLUMN",
    "COLUMNS",
    "DEPARTURE_COLUMNS",
    "LEVEL_VARIABLES",
    "OTHER_UNITS",
    "PLANE_VARIABLES",
    "REASONS",
    "SCHEMA",
    "UNITS",
    "USES",
    "VARIABLES",
    "ObservationError",
    "add_departures",
    "at_origin",
    "check_table",
    "check_unit",
    "concatenate",
    "empty_table",
    "from_arrow",
    "is_position",
    "make_table",
    "site_names",
    "to_arrow",
]

UNITS: dict[str, str] = {
    "t2m": "K",
    "td2m": "K",
    "msl": "Pa",
    "ps": "Pa",
    "u10": "m s-1",
    "v10": "m s-1",
    "tp": "kg m-2",
    "olr": "W m-2",
    "z": "m2 s-2",
    "q": "kg kg-1",
    "u": "m s-1",
    "v": "m s-1",
    "t": "K",
}
"""Observed variables and their units: `tp` is a sum and `olr` (upward positive) a mean over `period`."""

VARIABLES: tuple[str, ...] = tuple(UNITS)
LEVEL_VARIABLES: tuple[str, ...] = ("z", "q", "u", "v", "t")
PLANE_VARIABLES: dict[str, str] = {"tp6h": "tp", "olr": "olr", "q2m": "td2m"}
"""Observation planes beside the channels, and the variable that fills each."""
USES: tuple[str, ...] = ("assimilated", "withheld", "rejected", "late")
REASONS: tuple[str, ...] = (
    "",
    "outside_window",
    "duplicate",
    "gross_limits",
    "station_height",
    "background_check",
    "no_operator",
    "unit",
    "not_listed",
    "withheld_site",
    "denied",
    "after_cutoff",
    "missing_value",
    "position",
    "blacklisted",
    "buddy_check",
    "spatial_consistency",
    "withheld_region",
)

OTHER_UNITS: dict[str, tuple[float, float, str]] = {
    "t2m": (-95.0, 65.0, "degrees Celsius; add 273.15"),
    "td2m": (-110.0, 45.0, "degrees Celsius; add 273.15"),
    "t": (-110.0, 65.0, "degrees Celsius; add 273.15"),
    "msl": (800.0, 1100.0, "hPa; multiply by 100"),
    "ps": (300.0, 1100.0, "hPa; multiply by 100"),
    "q": (0.06, 40.0, "g/kg; divide by 1000"),
}
"""Range of each variable in its usual wrong unit, outside the range in SI: low, high, the unit and its remedy."""

_TIME, _TEXT, _FLOAT = pa.timestamp("s"), pa.dictionary(pa.int32(), pa.string()), pa.float32()
SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("time", _TIME, nullable=False),
        pa.field("period", _FLOAT, nullable=False),
        pa.field("received", _TIME),
        pa.field("site", _TEXT, nullable=False),
        pa.field("station", _TEXT, nullable=False),
        pa.field("latitude", pa.float64(), nullable=False),
        pa.field("longitude", pa.float64(), nullable=False),
        pa.field("elevation", _FLOAT),
        pa.field("pressure", _FLOAT),
        pa.field("variable", _TEXT, nullable=False),
        pa.field("value", _FLOAT),
        pa.field("error", _FLOAT, nullable=False),
        pa.field("source", _TEXT, nullable=False),
        pa.field("use", _TEXT, nullable=False),
        pa.field("reason", _TEXT, nullable=False),
    ]
)
"""The table on disk: period in hours, elevation in metres, pressure in Pa, null at the surface."""

COLUMNS: tuple[str, ...] = tuple(SCHEMA.names)
DEPARTURE_COLUMNS: tuple[str, ...] = ("background", "analysis", "o_b", "o_a", "height_difference")
"""Columns that a table of departures has in addition: H(x_b), H(x_a), O-B and O-A, NaN where there is no operator; and
the height of the station above the model's ground (m), for t2m, which H corrects by it, and td2m; NaN for others."""
BIAS_COLUMN = "bias"
"""Bias of the station that was subtracted from `value`; in departures of an experiment that corrects biases."""

_EXTRA = (*DEPARTURE_COLUMNS, BIAS_COLUMN)
_ENUMERATIONS = {"variable": VARIABLES, "use": USES, "reason": REASONS}
_DTYPES = {name: pd.CategoricalDtype(values) for name, values in _ENUMERATIONS.items()}
_NAMES = ("site", "station", "source")
_NUMBERS = ("period", "latitude", "longitude", "elevation", "pressure", "value", "error")
_COMPLETE = ("time", "period", "latitude", "longitude", "error")


class ObservationError(DacycleError, ValueError):
    """Observations cannot be read or used as they are; the message names source, column or field, and the remedy."""


def is_position(latitude: ArrayLike, longitude: ArrayLike) -> NDArray[np.bool_]:
    """Return whether each latitude is in [-90, 90] and each longitude in [-180, 360], in degrees; NaN is not."""
    east = np.asarray(longitude)
    return (np.abs(latitude) <= 90) & (east >= -180) & (east <= 360)


def at_origin(latitude: NDArray, longitude: NDArray, inclusive: bool = False) -> NDArray[np.bool_]:
    """Return whether each position is 0 N 0 E to 0.01 degrees, in the sea: where stations without a position are put.

    Args:
        latitude, longitude: degrees.
        inclusive: whether 0.01 degrees itself counts; it does for reports in text, not in quality control.
    """
    within = np.less_equal if inclusive else np.less
    return within(abs(latitude), 0.01) & within(abs(longitude), 0.01)


def site_names(latitude: NDArray, longitude: NDArray) -> pd.Categorical:
    """Return names of places (n,), from positions rounded to 0.01 degrees: two sources at one place share a site."""
    lat = np.rint(np.asarray(latitude) * 100).astype(int)
    lon = (np.rint(np.asarray(longitude) * 100).astype(int) + 18000) % 36000 - 18000
    keys, codes = np.unique((lat + 9000) * 36000 + lon + 18000, return_inverse=True)
    of_latitude, of_longitude = _halves_of_names()
    y, x = np.divmod(keys, 36000)
    return pd.Categorical.from_codes(codes, of_latitude[y] + of_longitude[x])


@cache
def _halves_of_names() -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Return the texts of all latitudes and of all longitudes, in hundredths of a degree."""
    latitudes = [f"{y / 100:+06.2f}" for y in range(-9000, 9001)]
    longitudes = [f"{x / 100:+07.2f}" for x in range(-18000, 18000)]
    return np.array(latitudes, object), np.array(longitudes, object)


def make_table(
    *,
    time: NDArray,
    period: ArrayLike,
    received: NDArray,
    site: pd.Categorical,
    station: pd.Categorical,
    latitude: NDArray,
    longitude: NDArray,
    elevation: ArrayLike,
    pressure: ArrayLike,
    variable: NDArray,
    value: NDArray,
    error: NDArray,
    source: str,
) -> pd.DataFrame:
    """Return a table of n rows from arrays; `variable` holds positions in `VARIABLES`, scalars are repeated.

    Every row starts as `assimilated`; quality control decides.
    """
    n = len(value)
    zeros = np.zeros(n, np.int8)
    columns = {
        "time": np.asarray(time, "datetime64[s]"),
        "period": np.broadcast_to(np.asarray(period, float), n).copy(),
        "received": np.asarray(received, "datetime64[s]"),
        "site": site,
        "station": station,
        "latitude": np.asarray(latitude, float),
        "longitude": np.asarray(longitude, float),
        "elevation": np.broadcast_to(np.asarray(elevation, float), n).copy(),
        "pressure": np.broadcast_to(np.asarray(pressure, float), n).copy(),
        "variable": pd.Categorical.from_codes(variable, dtype=_DTYPES["variable"]),
        "value": np.asarray(value, float),
        "error": np.asarray(error, float),
        "source": pd.Categorical.from_codes(zeros, dtype=_only(source)),
        "use": pd.Categorical.from_codes(zeros, dtype=_DTYPES["use"]),
        "reason": pd.Categorical.from_codes(zeros, dtype=_DTYPES["reason"]),
    }
    return pd.DataFrame(columns, copy=False)


@lru_cache(maxsize=256)
def _only(name: str) -> pd.CategoricalDtype:
    """Return the type of a column that holds one name: always the same object, which `_union` recognises."""
    return pd.CategoricalDtype([name])


def empty_table() -> pd.DataFrame:
    """Return a table with every column and no row."""
    numbers = np.empty(0)
    times = np.empty(0, "datetime64[s]")
    names = pd.Categorical.from_codes(np.empty(0, int), [])
    table = make_table(
        time=times, period=numbers, received=times, site=names, station=names, latitude=numbers, longitude=numbers,
        elevation=numbers, pressure=numbers, variable=np.empty(0, int), value=numbers, error=numbers, source="",
    )  # fmt: skip
    table["source"] = names
    return table


def concatenate(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Stack tables of any sources; categoricals are kept, which pandas' own concat would turn into objects."""
    filled = [table for table in tables if len(table)]
    if not filled:
        return empty_table()
    if len(filled) == 1:
        return filled[0].reset_index(drop=True)
    columns: dict[str, object] = {}
    for name in filled[0].columns:
        arrays = [table[name].array for table in filled]
        if name in _NAMES:
            columns[name] = _union(arrays)
        elif name in _DTYPES:
            codes = np.concatenate([array.codes for array in arrays])
            columns[name] = pd.Categorical.from_codes(codes, dtype=_DTYPES[name])
        else:
            columns[name] = np.concatenate([array.to_numpy() for array in arrays])
    return pd.DataFrame(columns, copy=False)


def _union(columns: Sequence[pd.Categorical]) -> pd.Categorical:
    """Stack columns of names, with the categories of all in the order in which they are met."""
    lists = [column.categories for column in columns]
    if all(names is lists[0] for names in lists):
        return pd.Categorical.from_codes(np.concatenate([column.codes for column in columns]), dtype=columns[0].dtype)
    joined = pa.chunked_array([_texts(names) for names in lists]).dictionary_encode().combine_chunks()
    new_codes = np.split(joined.indices.to_numpy(), np.cumsum([len(names) for names in lists[:-1]]))
    codes = [new[column.codes] for new, column in zip(new_codes, columns, strict=True)]
    dtype = pd.CategoricalDtype(pd.Index(joined.dictionary.to_pandas()))
    return pd.Categorical.from_codes(np.concatenate(codes), dtype=dtype)


def add_departures(table: pd.DataFrame, background: NDArray, analysis: NDArray) -> pd.DataFrame:
    """Return the table with `background` = H(x_b), `analysis` = H(x_a) and the departures `o_b`, `o_a`, each (n,)."""
    value = table["value"].to_numpy()
    return table.assign(background=background, analysis=analysis, o_b=value - background, o_a=value - analysis)


def to_arrow(table: pd.DataFrame) -> pa.Table:
    """Return the table as it is written to disk; departure columns, where present, follow those of `SCHEMA`."""
    extra = [pa.field(name, _FLOAT) for name in _EXTRA if name in table]
    schema = pa.schema([*SCHEMA, *extra])
    arrays = [_arrow_array(table[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _arrow_array(column: pd.Series, kind: pa.DataType) -> pa.Array:
    if kind != _TEXT:
        return pa.array(column.to_numpy(), from_pandas=True).cast(kind, safe=False)
    return pa.DictionaryArray.from_arrays(
        pa.array(column.cat.codes.to_numpy(), pa.int32()), _texts(column.cat.categories)
    )


def _texts(names: pd.Index) -> pa.Array:
    """Return the names of a categorical."""
    texts = pa.array(names.astype(str).array)
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    return texts.cast(pa.string())


def from_arrow(arrow: pa.Table, source: str) -> pd.DataFrame:
    """Return the checked table that `to_arrow` wrote; `source` is the file, for messages."""
    return check_table(to_pandas(arrow), source)


def check_table(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return a table with its columns in order and in their types, or raise an error that says what is wrong with it.

    A value may be NaN: quality control rejects that row as `missing_value`. No other number of a row may be missing but
    receipt, elevation and, at the surface, pressure.

    Args:
        table: any frame with the columns of `COLUMNS`, with none or all of `DEPARTURE_COLUMNS`, with or without
            `BIAS_COLUMN`. An older table of departures, without `height_difference`, gets that column as NaN.
        source: where the table comes from, for the message.

    Raises:
        ObservationError: naming the source, the column, the first bad row and the remedy.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ObservationError(f"{source}: the observation table has no column {', '.join(missing)}")
    unknown = [str(name) for name in table if name not in (*COLUMNS, *_EXTRA)]
    if unknown:
        raise ObservationError(f"{source}: unknown columns {', '.join(unknown)}; the columns are {', '.join(COLUMNS)}")
    if "o_b" in table and "height_difference" not in table:
        table = table.assign(height_difference=np.nan)
    order = [*COLUMNS, *(name for name in _EXTRA if name in table)]
    checked = pd.DataFrame({name: _column(table[name], name, source) for name in order}, copy=False)
    _check_numbers(checked, source)
    _check_units(checked, source)
    return checked


def _column(column: pd.Series, name: str, source: str) -> object:
    """Return one column in its type."""
    if name in ("time", "received"):
        if getattr(column.dtype, "tz", None) is not None:
            raise ObservationError(f"{source}: {name} has a time zone; times are UTC without one")
        return _convert(column, "datetime64[s]", name, source)
    if name in _DTYPES:
        if column.dtype == _DTYPES[name]:
            return column.array
        bad = sorted({str(v) for v in column.unique()} - set(_ENUMERATIONS[name]))
        if bad:
            known = ", ".join(map(repr, _ENUMERATIONS[name]))
            raise ObservationError(f"{source}: unknown {name} {', '.join(map(repr, bad))}; known are {known}")
        return column.astype(_DTYPES[name]).array
    if name in _NAMES:
        if column.isna().any():
            raise ObservationError(f"{source}: {name} is missing in row {int(column.isna().argmax())}")
        return column.array if isinstance(column.dtype, pd.CategoricalDtype) else column.astype("category").array
    return _convert(column, "float64", name, source)


def _convert(column: pd.Series, dtype: str, name: str, source: str) -> NDArray:
    try:
        return column.to_numpy().astype(dtype)
    except (TypeError, ValueError) as error:
        raise ObservationError(f"{source}: {name} is {column.dtype}, not {dtype}: {error}") from None


def _check_numbers(table: pd.DataFrame, source: str) -> None:
    for name in _COMPLETE:
        _refuse(table[name].isna().to_numpy(), table, source, f"{name} is missing")
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    _refuse(abs(latitude) > 90, table, source, "latitude is outside [-90, 90]")
    _refuse((longitude < -180) | (longitude > 360), table, source, "longitude is outside [-180, 360]")
    _refuse(~(table["error"].to_numpy() > 0), table, source, "error is not above 0")
    _refuse(~(table["period"].to_numpy() >= 0), table, source, "period is negative")
    pressure = table["pressure"].to_numpy()
    aloft = table["variable"].isin(LEVEL_VARIABLES).to_numpy()
    _refuse(aloft & ~(pressure > 0), table, source, "pressure is missing for a value aloft")
    _refuse(~aloft & ~np.isnan(pressure), table, source, "pressure is set for a value at the surface")
    if aloft.any() and np.nanmax(pressure) < 1200:
        highest = np.nanmax(pressure)
        raise ObservationError(f"{source}: pressure reaches only {highest:g}; if it is hPa, multiply by 100")


def _refuse(bad: NDArray, table: pd.DataFrame, source: str, problem: str) -> None:
    """Raise an error about the first bad row, if there is one."""
    if bad.any():
        row = table.iloc[int(bad.argmax())]
        raise ObservationError(
            f"{source}: {problem} in {int(bad.sum())} of {len(table)} rows, first for {row['variable']} at station "
            f"{row['station']}, {row['time']}"
        )


def _check_units(table: pd.DataFrame, source: str) -> None:
    codes, values = table["variable"].array.codes, table["value"].to_numpy()
    for name in OTHER_UNITS:
        check_unit(name, values[codes == VARIABLES.index(name)], source)


def check_unit(name: str, values: NDArray, source: str) -> None:
    """Raise an error where the median of values lies in the range of the usual wrong unit; see `OTHER_UNITS`.

    Single values are left to quality control.

    Args:
        name: of the variable.
        values: (n,) NaN where missing.
        source: where they come from, for the message.

    Raises:
        ObservationError: naming the source, the variable and the remedy.
    """
    low, high, remedy = OTHER_UNITS.get(name, (np.inf, -np.inf, ""))
    values = values[np.isfinite(values)]
    if len(values) and low < (middle := float(np.median(values))) < high:
        raise ObservationError(
            f"{source}: {name} has a median of {middle:.6g}, not plausible in {UNITS[name]}: it looks like {remedy}"
        )
