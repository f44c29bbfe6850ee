"""METARs: the source `metar`.

Their text (`metar_text`), or one of two tables of decoded reports: CSV of decoded bulletins (`Unix_time, ICAO,
Latitude, ...`, as JCSDA's ioda-converters read them), and Parquet with the fields of MADIS (`stationName, timeObs,
temperature, temperatureDD, ...`). The altimeter setting is not used: reduced with the standard atmosphere, it is
neither pressure at sea level nor at the station.
"""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import KNOT, ZERO_CELSIUS
from dacycle.obs_ingest.sources.files import Paths, content_digest
from dacycle.obs_ingest.sources.surface import Parsed, ReportFiles, new_reports, put, put_wind, stacked
from dacycle.obs_ingest.sources.text.columns import by_text, lines, numbers, read_tables, start, times
from dacycle.obs_ingest.sources.text.metar_text import TextReader

__all__ = ["Metar"]

TRACE = 0.127
"""mm, half of the least amount reported: how the table of bulletins writes a trace."""

ACCEPTED = ("", "Z", "C", "S", "V", "G")
"""MADIS's data descriptors: not checked, passed one to three levels of checks, good by judgement. Not X, Q, B (failed,
bad), nor I, W, T (replaced by an estimate); see MADIS, "QC information"."""


_BULLETINS = ("unix_time", "icao", "latitude", "longitude", "elev", "temp", "dewp", "wdir", "wspd", "pcp6h")
_ELEMENTS = ("temperature", "dewpoint", "sealevelpress", "winddir", "windspeed", "precip6hour")
_FIELDS = ("stationname", "latitude", "longitude", "elevation", "timeobs", "timereceived", *_ELEMENTS)


class Metar(ReportFiles):
    """Aerodrome reports: t2m, td2m, u10, v10 and 6-h precipitation (traces are 0); from MADIS and text also msl.

    Args (beside those of `ReportFiles`):
        network: station list with the positions of the stations in texts, or NOAA's isd-history.csv; by default the
            packaged list, which is thinned to 60 km. Reports of other stations are left out as `no position`.
        date: a day such as 2020-10-01 near which all texts are from; needed where neither the texts nor the names of
            their files state it.
    """

    patterns = ("*.csv", "*.csv.gz", "*.parquet", "*.txt", "*.TXT", "*.txt.gz")

    def __init__(
        self,
        path: Paths,
        name: str = "metar",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
        network: str | None = None,
        date: str | None = None,
    ) -> None:
        super().__init__(path, name, cutoff, latency, received)
        self._text = TextReader(name, network, date)
        self._network, self._date = network, date

    @cached_property
    def _stations(self) -> str:
        """Return the digest of the station list; the packaged one is part of dacycle's code."""
        return "" if self._network is None else content_digest(Path(self._network))

    def options(self) -> tuple[object, ...]:
        """Return the date and the content of the station list."""
        return str(self._date), self._stations

    def parse(self, path: Path) -> Parsed:
        """Parse all reports of a file of any kind."""
        problems: list[str] = []
        blocks: Iterable[NDArray]
        if start(path)[:4] == b"PAR1":
            flags = [f"{element}dd" for element in _ELEMENTS]
            blocks = map(_madis, read_tables(path, [*_FIELDS, *flags], problems=problems))
        elif path.name.lower().endswith((".csv", ".csv.gz")):
            blocks = map(_bulletins, read_tables(path, _BULLETINS, problems=problems))
        else:
            text = b"".join(lines(path, problems)).decode("ascii")
            blocks = [self._text.reports(path, text, problems)]
        return Parsed(stacked(blocks), problems)


def _bulletins(table: pa.Table) -> NDArray:
    """Return records from degrees Celsius, knots and mm.

    The column QcFlag states the remarks of a bulletin (AUTO, $, ...), and nothing about its values.
    """
    reports = _placed(table, "icao", "elev")
    reports["time"] = _seconds(table["unix_time"])
    for name, column in (("t2m", "temp"), ("td2m", "dewp")):
        value, readable = numbers(table[column])
        put(reports, name, value + ZERO_CELSIUS, readable=readable)
    direction, _ = numbers(table["wdir"])
    speed, readable = numbers(table["wspd"])
    put_wind(reports, direction, speed * KNOT, readable=readable)
    amount, readable = numbers(table["pcp6h"])
    put(reports, "tp", np.where(amount == TRACE, 0.0, amount), readable=readable)
    return reports


def _madis_times(column: pa.ChunkedArray) -> NDArray[np.datetime64]:
    """Return times (n,) in UTC of timestamps, texts, or seconds since 1970, as in MADIS's own files; NaT where none."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return times(column)
    return _seconds(column)


def _seconds(column: pa.ChunkedArray) -> NDArray[np.datetime64]:
    """Return times (n,) of seconds since 1970, NaT where there is no number."""
    seconds = numbers(column)[0]
    found = np.full(len(seconds), np.datetime64("NaT"), "M8[s]")
    timed = np.abs(seconds) < 1e11  # false for NaN, and for what no calendar holds
    found[timed] = seconds[timed].astype("M8[s]")
    return found


def _madis(table: pa.Table) -> NDArray:
    """Return records from K, Pa, m/s, and precipitation in m."""
    reports = _placed(table, "stationname", "elevation")
    reports["time"], reports["received"] = _madis_times(table["timeobs"]), _madis_times(table["timereceived"])
    passed = {element: by_text(table[f"{element}dd"], ACCEPTED.__contains__) for element in _ELEMENTS}
    for name, element, scale in (
        ("t2m", "temperature", 1),
        ("td2m", "dewpoint", 1),
        ("msl", "sealevelpress", 1),
        ("tp", "precip6hour", 1000),
    ):
        value, readable = numbers(table[element])
        put(reports, name, value * scale, passed[element], readable)
    direction, _ = numbers(table["winddir"])
    speed, readable = numbers(table["windspeed"])
    put_wind(reports, direction, speed, passed["winddir"] & passed["windspeed"], readable)
    return reports


def _placed(table: pa.Table, station: str, elevation: str) -> NDArray:
    """Return records with their stations and positions."""
    reports = new_reports(table.num_rows)
    reports["station"] = by_text(table[station], str, object)
    for name, column in (("latitude", "latitude"), ("longitude", "longitude"), ("elevation", elevation)):
        # Archives keep positions in single precision; rounded to 0.00001 degrees they are the original ones.
        reports[name] = numbers(table[column])[0].round(5)
    return reports
