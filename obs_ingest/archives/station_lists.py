"""The station lists of archives: which stations there are, where, and when they report.

A list in another form than expected is an error that names the line: a station that is read wrongly would be missed in
silence.
"""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd

from dacycle.common.foreign import read_text
from dacycle.obs_ingest.table import ObservationError

__all__ = ["read_ghcnh_inventory", "read_ghcnh_stations", "read_igra_stations", "read_isd_history"]

COLUMNS = ("station", "latitude", "longitude", "first", "last")
"""Identifier, degrees (NaN where unknown), and when it reported first and last: days or years, as in the list."""

_ISD = ("USAF", "WBAN", "LAT", "LON", "BEGIN", "END")
_FIXED = re.compile(r"(\S{11}) ([ \d.-]{7}\d) ([ \d.-]{8}\d) ([ \d.-]{5}\d)( .*)?")
_YEARS = slice(72, 81)
_MONTHS = 12


def read_isd_history(path: Path) -> pd.DataFrame:
    """Read NOAA's isd-history.csv; `first` and `last` are days such as 20220131.

    Returns:
        `COLUMNS`; a station that moved is there once for each of its identifiers.

    Raises:
        ObservationError: it has another form; names the line.
    """
    lines = read_text(path, ObservationError).splitlines()
    rows = csv.reader(lines)
    header = next(rows, [])
    absent = [name for name in _ISD if name not in header]
    if absent:
        raise _changed(path, 1, ",".join(header), f"a header with the columns {', '.join(_ISD)}")
    usaf, wban, latitude, longitude, begin, end = (header.index(name) for name in _ISD)
    stations = []
    for row in rows:
        if len(row) != len(header) or not (row[begin].isdigit() and row[end].isdigit() and len(row[begin]) == 8):
            raise _changed(path, rows.line_num, ",".join(row), f"{len(header)} fields, with days in BEGIN and END")
        stations.append((row[usaf] + row[wban], row[latitude], row[longitude], int(row[begin]), int(row[end])))
    return _frame(path, stations)


def read_igra_stations(path: Path) -> pd.DataFrame:
    """Read igra2-station-list.txt; `first` and `last` are years. Result and errors as of `read_isd_history`."""
    stations = []
    for number, line in enumerate(read_text(path, ObservationError).splitlines(), 1):
        match, years = _FIXED.fullmatch(line), line[_YEARS].split()
        if match is None or len(years) != 2 or not all(year.isdigit() for year in years):
            raise _changed(path, number, line, "identifier, latitude, longitude, elevation, name and two years")
        stations.append((match[1], match[2], match[3], int(years[0]), int(years[1])))
    return _frame(path, stations)


def read_ghcnh_stations(path: Path) -> pd.DataFrame:
    """Read ghcnh-station-list.txt, which has no years (both are 0). Otherwise as `read_isd_history`."""
    stations = []
    for number, line in enumerate(read_text(path, ObservationError).splitlines(), 1):
        match = _FIXED.fullmatch(line)
        if match is None:
            raise _changed(path, number, line, "identifier, latitude, longitude, elevation and name")
        stations.append((match[1], match[2], match[3], 0, 0))
    return _frame(path, stations)


def read_ghcnh_inventory(path: Path) -> dict[int, dict[str, int]]:
    """Read ghcnh-inventory.txt: the number of reports by year and station.

    Raises:
        ObservationError: it has another form; names the line.
    """
    counts: dict[int, dict[str, int]] = {}
    for number, line in enumerate(read_text(path, ObservationError).splitlines(), 1):
        fields = line.split()
        if number == 1 and fields[1:2] == ["YEAR"]:
            continue
        if len(fields) != 2 + _MONTHS or not all(field.isdigit() for field in fields[1:]):
            raise _changed(path, number, line, "identifier, year and twelve numbers of reports")
        counts.setdefault(int(fields[1]), {})[fields[0]] = sum(map(int, fields[2:]))
    if not counts:
        raise _changed(path, 1, "", "identifier, year and twelve numbers of reports")
    return counts


def _changed(path: Path, line: int, found: str, expected: str) -> ObservationError:
    return ObservationError(
        f"{path}, line {line}: {found.strip()[:120]!r}; {expected} were expected: the form of this list has changed"
    )


def _frame(path: Path, stations: list[tuple[str, str, str, int, int]]) -> pd.DataFrame:
    """Return the stations; positions that are none (empty, 0 N 0 E, codes for unknown) become NaN."""
    if not stations:
        raise ObservationError(f"{path}: lists no station; the form of this list has changed")
    frame = pd.DataFrame(stations, columns=list(COLUMNS))
    latitude, longitude = (pd.to_numeric(frame[name], errors="coerce") for name in ("latitude", "longitude"))
    known = latitude.between(-90, 90) & longitude.between(-180, 180) & ~((latitude == 0) & (longitude == 0))
    return frame.assign(
        latitude=np.where(known, latitude, np.nan), longitude=np.where(known, longitude, np.nan)
    ).drop_duplicates("station", keep="last")
