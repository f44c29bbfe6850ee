"""NOAA's Global Historical Climatology Network hourly, the successor of ISD: the source `ghcnh`.

Files of one station, by year or of its whole period, as pipe-separated text or Parquet. Columns are found by name: one
layout has `Station_ID`, `Year` to `Minute`, `Latitude`, the other `STATION`, `DATE`, `LATITUDE`; each element is
followed by its codes, of which measurement, quality and source are used. Units are degrees Celsius, hPa, m/s and mm
(NCEI, GHCNh documentation).
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import ZERO_CELSIUS
from dacycle.obs_ingest.sources.surface import Parsed, ReportFiles, new_reports, put, put_wind, stacked
from dacycle.obs_ingest.sources.text.columns import by_text, numbers, read_tables, times
from dacycle.obs_ingest.table import ObservationError

__all__ = ["Ghcnh"]

ACCEPTED = ("", "0", "1", "4", "5", "9")
"""Quality codes: none, passed or not checked. 2, 3, 6 and 7 are failed checks of the sources, letters those of GHCNh;
the letters of ISD's manual corrections look the same as these."""

REMOVED = "5"
OWN_SCALE = ("220", "221", "222", "223", "347", "348")
"""Sources whose quality code 5 means that the value was removed; for others it means that it passed."""

MEASURED = ("", "2", "3", "9", "T")
"""Measurement codes of an amount for its period: none, trace or measured (see `isd.CONDITIONS`); not accumulated,
estimated or incomplete."""
TRACES = ("2", "T")

_MEASURED = {
    "temperature": ("t2m", 1.0, ZERO_CELSIUS),
    "dew_point_temperature": ("td2m", 1.0, ZERO_CELSIUS),
    "sea_level_pressure": ("msl", 100.0, 0.0),
    "station_level_pressure": ("ps", 100.0, 0.0),
}
_AMOUNT = "precipitation_6_hour"  # the column without hours is nominally hourly
_ELEMENTS = (*_MEASURED, "wind_direction", "wind_speed")
_CODES = ("quality_code", "source_code")
_CLOCK = ("year", "month", "day", "hour", "minute")


class Ghcnh(ReportFiles):
    """Station reports from GHCNh files: t2m, td2m, msl, ps, u10, v10 and 6-h precipitation (traces are 0)."""

    patterns = ("*.psv", "*.psv.gz", "*.parquet")
    by_station = True

    def parse(self, path: Path) -> Parsed:
        """Parse all reports of a file of either layout and either kind."""
        problems: list[str] = []
        required = ("station", "latitude", "longitude", "elevation", *_ELEMENTS)
        codes = [f"{element}_{code}" for element in _ELEMENTS for code in _CODES]
        amount = [_AMOUNT, *(f"{_AMOUNT}_{code}" for code in (*_CODES, "measurement_code"))]
        tables = read_tables(
            path,
            [*required, *codes],
            ["date", *_CLOCK, *amount],
            problems=problems,
            delimiter="|",
            aliases={"station_id": "station"},
        )
        return Parsed(stacked(_reports(table, path) for table in tables), problems)


def _reports(table: pa.Table, path: Path) -> NDArray:
    reports = new_reports(table.num_rows)
    reports["time"] = _times(table, path)
    reports["station"] = by_text(table["station"], str, object)
    for name in ("latitude", "longitude", "elevation"):
        reports[name] = numbers(table[name])[0]
    for element, (name, scale, offset) in _MEASURED.items():
        value, readable = numbers(table[element])
        put(reports, name, value * scale + offset, _passed(table, element), readable)
    direction, _ = numbers(table["wind_direction"])
    speed, readable = numbers(table["wind_speed"])
    passed = _passed(table, "wind_direction") & _passed(table, "wind_speed")
    put_wind(reports, direction, speed, passed, readable)
    if _AMOUNT in table.column_names:
        _put_amount(reports, table, path)
    return reports


def _put_amount(reports: NDArray, table: pa.Table, path: Path) -> None:
    absent = [
        f"{_AMOUNT}_{code}" for code in (*_CODES, "measurement_code") if f"{_AMOUNT}_{code}" not in table.column_names
    ]
    if absent:
        raise ObservationError(f"{path}: {_AMOUNT} without a column {', '.join(absent)}")
    codes = table[f"{_AMOUNT}_measurement_code"]
    trace = by_text(codes, lambda text: _code(text) in TRACES)
    measured = by_text(codes, lambda text: _code(text) in MEASURED)
    amount, readable = numbers(table[_AMOUNT])
    put(reports, "tp", np.where(trace, 0.0, amount), measured & _passed(table, _AMOUNT), readable)


def _passed(table: pa.Table, element: str) -> NDArray[np.bool_]:
    """Return whether each value (n,) passed quality control, by the codes of its source."""
    quality, source = table[f"{element}_quality_code"], table[f"{element}_source_code"]
    passed = by_text(quality, lambda text: _code(text) in ACCEPTED)
    removed = by_text(quality, lambda text: _code(text) == REMOVED) & by_text(source, lambda s: _code(s) in OWN_SCALE)
    return passed & ~removed


def _code(text: str) -> str:
    """Return a code without the explanation (`2-Trace`) or the decimals (`1.0`) that it sometimes has."""
    return text.partition("-")[0].removesuffix(".0")


def _times(table: pa.Table, path: Path) -> NDArray[np.datetime64]:
    if "date" in table.column_names:
        return times(table["date"])
    absent = [name for name in _CLOCK if name not in table.column_names]
    if absent:
        raise ObservationError(f"{path}: neither a column date nor {', '.join(absent)}")
    clock = pd.DataFrame({name: numbers(table[name])[0] for name in _CLOCK})
    return pd.to_datetime(clock, errors="coerce").to_numpy().astype("M8[s]")
