"""The text of METARs: bulletins, or one report a line; the library `metar` parses each report.

A METAR says the day of the month and the time. Its month and year come from a line such as `2020/10/01 05:53` before
it, from the name of its file or from an option, and its position from a list of stations. Nothing is guessed.
"""

import re
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from metar.Metar import Metar as Parsed
from metar.Metar import ParserError
from numpy.typing import NDArray

from dacycle.obs_ingest.sources.surface import new_reports, put, put_wind
from dacycle.obs_ingest.station_network.stations import load_stations
from dacycle.obs_ingest.table import ObservationError

__all__ = ["TextReader"]

NEAR = np.timedelta64(3, "D")
"""The largest distance of a report's day from the stated date."""

UNLIKE = 5000.0
"""Pa; the largest difference of pressure at sea level, whose hundreds of hPa are not reported, from the altimeter."""

_REPORT = re.compile(r"(?:(?:METAR|SPECI)\s+)?(?:COR\s+)?([A-Z][A-Z0-9]{3})\s+(\d{2})(\d{2})(\d{2})Z\b")
_DATE_LINE = re.compile(r"(\d{4})/(\d{2})/(\d{2}) \d{2}:\d{2}$")
# Heading of a bulletin (T1T2A1A2ii CCCC YYGGgg BBB), what surrounds it, and the lone name of what follows.
_ENVELOPE = re.compile(r"[A-Z]{4}\d{2} [A-Z]{4} \d{6}( [A-Z]{3})?$|ZCZC\b.*$|NNNN$|\d{3}$|(METAR|SPECI)( \d{6}Z)?$")
_DATE_IN_NAME = re.compile(r"(?<!\d)((?:19|20)\d{2})[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])")
# Remarks that are read here. Others are not passed to the library, some of whose expressions never end on odd ones.
_REMARK = re.compile(r"T[01]\d{3}([01]\d{3})?$|6\d{4}$|SLP\d{3}$")
_REMARKS = ("RMK", "RMKS", "NOSIG", "NOSPECI")
_WIND_UNIT = re.compile(r"(?:\d{3}|VRB|///)\d{2,3}(?:G\d{2,3})?(?:KTS?|MPS|KMH)$")
_LONGEST_GROUP, _MOST_GROUPS = 24, 60


class TextReader:
    """A parser of METARs in texts.

    Args:
        source: the source's name, for messages.
        stations: a station list in CSV or NOAA's isd-history.csv; None: the packaged list.
        date: a day near which all are from, as YYYY-MM-DD.

    Raises:
        ObservationError: the date is not a day.
    """

    def __init__(self, source: str, stations: str | None, date: str | None) -> None:
        self._list = stations
        try:
            self._date = None if date is None else np.datetime64(str(date), "D")
        except ValueError:
            raise ObservationError(f"source {source}: date is {date!r}, not a day such as 2020-10-01") from None

    @cached_property
    def _stations(self) -> dict[str, tuple[float, float, float]]:
        stations = _history(self._list)
        if stations is None:
            stations = load_stations(self._list, "stations")
        positions = zip(stations["latitude"], stations["longitude"], stations["elevation"], strict=True)
        return dict(zip(stations["station"].astype(str), positions, strict=True))

    def reports(self, path: Path, text: str, problems: list[str]) -> NDArray:
        """Return records (n,) of the reports in a text; a report of an unknown station has no position.

        Args:
            path: the file, whose name may state the date.
            text: its content.
            problems: gets a sentence about each text that is no METAR, with file and line.

        Raises:
            ObservationError: there is no METAR in it, or nothing states its date.
        """
        whole: list[tuple[np.datetime64, str]] = []
        damaged: list[str] = []
        first = _date_of(path) if self._date is None else self._date
        for number, date, report in _split(text, first):
            if _REPORT.match(report) is None:
                damaged.append(f"{path}, line {number}: no METAR")
            elif date is None:
                raise ObservationError(
                    f"{path}: nothing says the month of its METARs; give the option `date` (a day near them, such as "
                    "2020-10-01), or put it into the file's name"
                )
            else:
                whole.append((date, report))
        if not whole:
            raise ObservationError(f"{path}: no METAR in this file, which begins with {text[:40]!r}")
        problems += damaged
        return self._decode(whole)

    def _decode(self, whole: list[tuple[np.datetime64, str]]) -> NDArray:
        reports = new_reports(len(whole))
        parsed = _Report(*np.array([_parse(text) for _, text in whole]).T)
        matches = [match for _, text in whole if (match := _REPORT.match(text))]
        reports["time"] = [_time(date, match) for (date, _), match in zip(whole, matches, strict=True)]
        reports["station"] = [match[1] for match in matches]
        unknown = (np.nan, np.nan, np.nan)
        positions = np.array([self._stations.get(match[1], unknown) for match in matches])
        for name, column in zip(("latitude", "longitude", "elevation"), positions.T, strict=True):
            reports[name] = column
        put(reports, "t2m", parsed.temperature + 273.15, readable=parsed.temperature_read == 1)
        put(reports, "td2m", parsed.dewpoint + 273.15, readable=parsed.dewpoint_read == 1)
        put_wind(reports, parsed.direction, parsed.speed, readable=parsed.wind_read == 1)
        put(reports, "msl", parsed.pressure, readable=parsed.pressure_read == 1)
        put(reports, "tp", parsed.amount)
        return reports


def _history(path: str | None) -> pd.DataFrame | None:
    """Return the aerodromes of NOAA's isd-history.csv at their latest positions; None: it is another file."""
    if path is None:
        return None
    try:
        history = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        raise ObservationError(f"{path}: cannot be read as a station list: {error}") from None
    if not {"ICAO", "LAT", "LON", "ELEV(M)", "END"} <= set(history):
        return None
    names = {"ICAO": "station", "LAT": "latitude", "LON": "longitude", "ELEV(M)": "elevation"}
    last = (
        history.dropna(subset=list(names)).sort_values("END").drop_duplicates("ICAO", keep="last").rename(columns=names)
    )
    numbers = ["latitude", "longitude", "elevation"]
    last[numbers] = last[numbers].apply(pd.to_numeric, errors="coerce")
    return last.dropna(subset=numbers)


def _split(text: str, date: np.datetime64 | None) -> Iterator[tuple[int, np.datetime64 | None, str]]:
    """Yield line number, date and text of each report or unknown text; headings and empty lines are left out.

    A report ends with `=`, with an empty line, or where the next line begins another report. If reports end with `=`,
    any other line continues the one before; in other files, a line that begins with blanks does.
    """
    begun, report, bulletins = 0, "", "=" in text
    for number, line in enumerate(text.splitlines(), 1):
        plain = line.strip(" \t\x01\x03\r")
        dated = _DATE_LINE.match(plain)
        apart = not plain or dated or _ENVELOPE.match(plain)
        goes_on = report and not apart and not _REPORT.match(plain) and (bulletins or line[:1] in (" ", "\t"))
        if report and not goes_on:
            yield begun, date, report
            report = ""
        if dated:
            date = _day(*dated.groups())
        if apart:
            continue
        *ended, rest = f"{report} {plain}".strip().split("=")
        begun = begun if goes_on else number
        for each in ended:
            if each.strip():
                yield begun, date, each.strip()
        report = rest.strip()
    if report:
        yield begun, date, report


def _day(year: str, month: str, day: str) -> np.datetime64 | None:
    try:
        return np.datetime64(f"{year}-{month}-{day}", "D")
    except ValueError:
        return None


def _date_of(path: Path) -> np.datetime64 | None:
    """Return the day in a file's name."""
    match = _DATE_IN_NAME.search(path.name)
    return None if match is None else _day(*match.groups())


def _time(date: np.datetime64, report: re.Match[str]) -> np.datetime64:
    """Return the time of a report near the date; NaT where its numbers are not a time, or its day is not near."""
    days = date + np.arange(-NEAR.astype(int), NEAR.astype(int) + 1)
    day, hour, minute = (int(report[part]) for part in (2, 3, 4))
    same = [d for d in days if d.astype(object).day == day]
    if not same or hour > 23 or minute > 59:
        return np.datetime64("NaT", "s")
    return same[0].astype("M8[s]") + np.timedelta64(hour * 60 + minute, "m")


class _Report(NamedTuple):
    """The values of a report, NaN where it has none; and for each 1 if it was read or is absent, 0 if not readable."""

    temperature: Any = np.nan  # degrees Celsius
    dewpoint: Any = np.nan
    direction: Any = np.nan  # degrees
    speed: Any = np.nan  # m/s
    pressure: Any = np.nan  # Pa, at sea level
    amount: Any = np.nan  # mm in six hours
    temperature_read: Any = 0.0
    dewpoint_read: Any = 0.0
    wind_read: Any = 0.0
    pressure_read: Any = 0.0


def _parse(report: str) -> _Report:
    groups = report.split()
    end = next((i for i, group in enumerate(groups) if group in _REMARKS), len(groups))
    body = [group for group in groups[:end] if len(group) <= _LONGEST_GROUP][:_MOST_GROUPS]
    remarks = [group for group in groups[end:] if _REMARK.match(group)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about groups that it does not know, which `decode_completed` tells too
            parsed = Parsed(" ".join([*body, "RMK", *remarks]), month=1, year=2000, strict=False)
    except (ParserError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # not all are promised
        return _Report()
    complete = parsed.decode_completed and len(body) == end
    temperature, dewpoint = (np.nan if value is None else value.value("C") for value in (parsed.temp, parsed.dewpt))
    speed = np.nan if parsed.wind_speed is None else parsed.wind_speed.value("MPS")
    has_unit = any(_WIND_UNIT.match(group) for group in body)  # without one the library supposes one
    pressure, likely = _pressure(parsed)
    synoptic = parsed.cycle is not None and parsed.cycle % 6 == 0
    return _Report(
        temperature,
        dewpoint,
        np.nan if parsed.wind_dir is None else parsed.wind_dir.value(),
        speed if has_unit else np.nan,
        pressure if likely else np.nan,
        parsed.precip_6hr.value("CM") * 10 if parsed.precip_6hr is not None and synoptic else np.nan,
        float(complete or np.isfinite(temperature)),
        float(complete or np.isfinite(dewpoint)),
        float(complete if np.isnan(speed) else has_unit),
        float(likely),
    )


def _pressure(parsed: Parsed) -> tuple[float, bool]:
    """Return pressure at sea level (Pa), and whether it agrees with the altimeter setting."""
    if parsed.press_sea_level is None:
        return np.nan, True
    pressure = parsed.press_sea_level.value("HPA") * 100
    return pressure, parsed.press is None or abs(parsed.press.value("HPA") * 100 - pressure) <= UNLIKE
