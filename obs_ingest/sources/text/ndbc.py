"""Standard meteorological data of past years (stdmet) of NOAA's National Data Buoy Center: the source `ndbc`.

Columns are found by the names in the first line, which has changed: #YY, YYYY or YY for the year, of two digits until
1998; no minutes until 2004; WD and BAR for WDIR and PRES until 2006. NDBC, "Measurement descriptions and units".
"""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.common.foreign import read_text
from dacycle.forecast_adapter.physics import ZERO_CELSIUS
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.files import Paths, content_digest
from dacycle.obs_ingest.sources.surface import Parsed, ReportFiles, at_sea, new_reports, put, put_wind, stacked
from dacycle.obs_ingest.sources.text.columns import lines
from dacycle.obs_ingest.station_network.stations import load_stations
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window

__all__ = ["Ndbc", "station_positions"]

_FORMER = {"#YY": "YYYY", "YY": "YYYY", "WD": "WDIR", "BAR": "PRES"}
_NEEDED = ("YYYY", "MM", "DD", "hh", "WDIR", "WSPD", "PRES", "ATMP", "DEWP")
_MISSING = {"WDIR": 999.0, "WSPD": 99.0, "PRES": 9999.0, "ATMP": 999.0, "DEWP": 999.0}
_LARGEST = 1e5  # no value of these columns is as large
_YEAR = re.compile(r"h\d{4}$")
_LOCATION = re.compile(r"\s*(\d+\.\d+)\s+([NS])\s+(\d+\.\d+)\s+([EW])")
_FIELDS = 7  # of the station table, up to the location


def station_positions(path: Path) -> dict[str, tuple[float, float]]:
    """Read NDBC's station_table.txt: latitude and longitude by identifier (lower case), NaN where there is none.

    Raises:
        ObservationError: it has another form; names the line.
    """
    positions: dict[str, tuple[float, float]] = {}
    for number, line in enumerate(read_text(path, ObservationError).splitlines(), 1):
        fields = line.split("|")
        if line.startswith("#") or not line.strip():
            continue
        if len(fields) < _FIELDS or not fields[0].strip().isalnum():
            raise ObservationError(
                f"{path}, line {number}: {line[:120]!r}; identifier, five fields and a location between | were "
                "expected: the form of this list has changed"
            )
        match = _LOCATION.match(fields[_FIELDS - 1])
        position = (np.nan, np.nan)
        if match is not None:
            position = (float(match[1]) * (-1) ** (match[2] == "S"), float(match[3]) * (-1) ** (match[4] == "W"))
        positions[fields[0].strip().lower()] = position
    if not any(np.isfinite(latitude) for latitude, _ in positions.values()):
        raise ObservationError(f"{path}: no station has a location such as 31.759 N 74.936 W")
    return positions


class Ndbc(ReportFiles):
    """Buoys and coastal stations: t2m, td2m, msl, u10, v10, with the errors of ships and buoys.

    Files do not state their station, which is the name's beginning (`41002h2022.txt.gz`), nor its position. Stations
    far from any coast (on lakes, whose height is not known) are left out and counted as `ship on land`. Winds are not
    reduced from the height of the anemometer.

    Args (beside those of `ReportFiles`):
        network: NDBC's station_table.txt, or CSV with station, latitude, longitude and elevation. Reports of other
            stations have `no position`.
    """

    patterns = ("*h[12][0-9][0-9][0-9].txt", "*h[12][0-9][0-9][0-9].txt.gz")
    by_station = True
    error_kind = "marine"

    def __init__(
        self,
        path: Paths,
        network: str,
        name: str = "",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
    ) -> None:
        super().__init__(path, name, cutoff, latency, received)
        self._network = Path(network)

    def options(self) -> tuple[object, ...]:
        """Return the digest of the station list."""
        return (content_digest(self._network),)

    @cached_property
    def _positions(self) -> dict[str, tuple[float, float]]:
        if read_text(self._network, ObservationError).startswith("#"):
            return station_positions(self._network)
        stations = load_stations(self._network, "stations")
        places = zip(stations["latitude"], stations["longitude"], strict=True)
        return dict(zip(stations["station"].str.lower(), places, strict=True))

    def parse(self, path: Path) -> Parsed:
        """Parse all reports of a file."""
        problems: list[str] = []
        station = _YEAR.sub("", path.name.partition(".")[0].lower())
        latitude, longitude = self._positions.get(station, (np.nan, np.nan))
        reports = stacked(_reports(path, problems))
        reports["station"], reports["latitude"], reports["longitude"] = station, latitude, longitude
        return Parsed(reports, problems)

    def _usable(self, reports: NDArray, window: Window, inventory: Inventory) -> NDArray:
        reports, on_land = at_sea(super()._usable(reports, window, inventory))
        inventory.skip("ship on land", on_land)
        return reports


def _reports(path: Path, problems: list[str]) -> Iterator[NDArray]:
    columns: list[str] = []
    number = 0
    for piece in lines(path, problems):
        rows = []
        for text in piece.decode("ascii").splitlines():
            number += 1
            fields = text.split()
            if not columns:
                columns = _columns(path, fields)
            elif not fields or fields[0].startswith("#"):
                continue
            elif len(fields) != len(columns):
                problems.append(f"{path}, line {number}: {len(fields)} fields, not {len(columns)} as in the first line")
            else:
                rows.append(fields)
        yield _decoded(pd.DataFrame(rows, columns=columns, dtype=str))
    if not columns:
        raise ObservationError(f"{path}: no standard meteorological data: it is empty")


def _columns(path: Path, fields: list[str]) -> list[str]:
    columns = [_FORMER.get(field, field) for field in fields]
    absent = [name for name in _NEEDED if name not in columns]
    if absent:
        raise ObservationError(f"{path}: no column {', '.join(absent)} in its first line, {' '.join(fields)[:60]!r}")
    return columns


def _decoded(table: pd.DataFrame) -> NDArray:
    reports = new_reports(len(table))
    clock = table[["YYYY", "MM", "DD", "hh"]].apply(pd.to_numeric, errors="coerce")
    clock.columns = pd.Index(["year", "month", "day", "hour"])
    clock["year"] += np.where(clock["year"] < 100, 1900, 0)
    clock["minute"] = pd.to_numeric(table["mm"], errors="coerce") if "mm" in table else 0
    reports["time"] = pd.to_datetime(clock, errors="coerce").to_numpy().astype("M8[s]")
    values, readable = {}, {}
    for name, missing in _MISSING.items():
        number = pd.to_numeric(table[name], errors="coerce").to_numpy(float)
        number = np.where(abs(number) < _LARGEST, number, np.nan)
        readable[name] = np.isfinite(number) | (table[name] == "MM").to_numpy()
        values[name] = np.where(number == missing, np.nan, number)
    put(reports, "t2m", values["ATMP"] + ZERO_CELSIUS, readable=readable["ATMP"])
    put(reports, "td2m", values["DEWP"] + ZERO_CELSIUS, readable=readable["DEWP"])
    put(reports, "msl", values["PRES"] * 100, readable=readable["PRES"])
    direction = np.where(values["WDIR"] == 0, 360.0, values["WDIR"])  # there is no code for a variable wind
    put_wind(reports, direction, values["WSPD"], readable=readable["WSPD"])
    return reports
