"""METARs that others have decoded: the source `metar`.

Two tables: CSV of decoded bulletins (`Unix_time, ICAO, Latitude, ...`, as JCSDA's ioda-converters read them), and
Parquet with the fields of MADIS (`stationName, timeObs, temperature, temperatureDD, ...`). The altimeter setting of
either is not used: reduced with the standard atmosphere, it is neither pressure at sea level nor at the station.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dacycle.obs_ingest.surface import Parsed, ReportFiles, new_reports, put, put_wind
from dacycle.obs_ingest.tabular import by_text, numbers, read_bytes, read_table, times

__all__ = ["Metar"]

KNOT = 1852 / 3600  # m/s
TRACE = 0.127
"""mm, half of the least amount reported: how the table of bulletins writes a trace."""

ACCEPTED = ("", "Z", "C", "S", "V", "G")
"""MADIS's data descriptors: not checked, passed one to three levels of checks, good by judgement. Not X, Q, B (failed,
bad), nor I, W, T (replaced by an estimate); see MADIS, "QC information"."""


class Metar(ReportFiles):
    """Aerodrome reports: t2m, td2m, u10, v10 and 6-h precipitation (traces are 0); with MADIS's fields also msl."""

    patterns = ("*.csv", "*.csv.gz", "*.parquet")

    def parse(self, path: Path) -> Parsed:
        """All reports of a file of either kind."""
        data, problems = read_bytes(path)
        reports, damaged = _madis(path, data) if data[:4] == b"PAR1" else _bulletins(path, data)
        return Parsed(reports, [*problems, *damaged])


def _bulletins(path: Path, data: bytes) -> tuple[NDArray, list[str]]:
    """Degrees Celsius, knots, mm. Its QcFlag says what remarks a bulletin has (AUTO, $, ...), nothing about values."""
    required = ("unix_time", "icao", "latitude", "longitude", "elev", "temp", "dewp", "wdir", "wspd", "pcp6h")
    table, problems = read_table(path, data, required)
    reports = _placed(table, "icao", "elev")
    seconds = numbers(table["unix_time"])[0]
    known = np.isfinite(seconds)
    reports["time"][known] = seconds[known].astype("M8[s]")
    for name, column in (("t2m", "temp"), ("td2m", "dewp")):
        value, readable = numbers(table[column])
        put(reports, name, value + 273.15, readable=readable)
    direction, _ = numbers(table["wdir"])
    speed, readable = numbers(table["wspd"])
    put_wind(reports, direction, speed * KNOT, readable=readable)
    amount, readable = numbers(table["pcp6h"])
    put(reports, "tp", np.where(amount == TRACE, 0.0, amount), readable=readable)
    return reports, problems


def _madis(path: Path, data: bytes) -> tuple[NDArray, list[str]]:
    """K, Pa, m/s, and precipitation in m."""
    elements = ("temperature", "dewpoint", "sealevelpress", "winddir", "windspeed", "precip6hour")
    flags = [f"{element}dd" for element in elements]
    required = ("stationname", "latitude", "longitude", "elevation", "timeobs", "timereceived", *elements, *flags)
    table, problems = read_table(path, data, required)
    reports = _placed(table, "stationname", "elevation")
    reports["time"], reports["received"] = times(table["timeobs"]), times(table["timereceived"])
    passed = {element: by_text(table[f"{element}dd"], ACCEPTED.__contains__) for element in elements}
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
    return reports, problems


def _placed(table: pa.Table, station: str, elevation: str) -> NDArray:
    """Records with their stations and positions."""
    reports = new_reports(table.num_rows)
    reports["station"] = by_text(table[station], str, object)
    for name, column in (("latitude", "latitude"), ("longitude", "longitude"), ("elevation", elevation)):
        # Archives keep positions in single precision; at 0.00001 degrees they are as they were given.
        reports[name] = numbers(table[column])[0].round(5)
    return reports
