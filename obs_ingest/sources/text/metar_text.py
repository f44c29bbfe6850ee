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
from dacycle.obs_ingest.sources.versions import CORRECTION, heading_version, letters_version
from dacycle.obs_ingest.station_network.stations import load_stations, read_csv
from dacycle.obs_ingest.table import ObservationError

__all__ = ["TextReader"]

NEAR = np.timedelta64(3, "D")
"""The largest distance of a report's day from the stated date."""

UNLIKE = 5000.0
"""Pa; the largest difference of pressure at sea level, whose hundreds of hPa are not reported, from the altimeter."""

# Words around the station are sent in any order and number. After the time of a TAF stands the period of a forecast.
_REPORT = re.compile(
    r"(?P<before>(?:(?:METAR|SPECI|COR)\s+)*)(?P<station>[A-Z][A-Z0-9]{3})\s+(?P<between>COR\s+)?"
    r"(?P<day>\d{2})(?P<hour>\d{2})(?P<minute>\d{2})Z\b(?!\s+(?:\d{4}/\d{4}|\d{6})\b)"
    r"(?:\s+(?P<after>COR|CC[A-Z]|RR[A-Z])\b)?"
)
# Words and times that begin a text of its own, whatever it is; a report never goes on with them.
_APART = re.compile(r"(?:METAR|SPECI|COR|TAF|SIGMET|AIRMET|SYNOP|AAXX|BBXX)\b|(?:\S+\s+){0,3}\d{6}Z\b")
_NIL = re.compile(r"\bNIL$")
_DATE_LINE = re.compile(r"(\d{4})/(\d{2})/(\d{2}) \d{2}:\d{2}$")
# Heading of a bulletin (T1T2A1A2ii CCCC YYGGgg BBB), what surrounds it, and the lone name of what follows.
_ENVELOPE = re.compile(r"[A-Z]{4}\d{2} [A-Z]{4} \d{6}( [A-Z]{3})?$|ZCZC\b.*$|NNNN$|\d{3}$|(METAR|SPECI)( \d{6}Z)?$")
_DATE_IN_NAME = re.compile(r"(?<!\d)((?:19|20)\d{2})[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])")
# Remarks that are read here. Others are not passed to the library, some of whose expressions never end on odd ones.
_REMARK = re.compile(r"T[01]\d{3}([01]\d{3})?$|6\d{4}$|SLP\d{3}$")
_REMARKS = ("RMK", "RMKS", "NOSIG", "NOSPECI")
_WIND = re.compile(
    r"(?:\d{3}|VRB|///|MMM|[O0]{3})(?:P?\d{2,3}|[/M]{2,3})(?:G(?:P?\d{1,3}|[/M]{1,3}))?(?P<unit>[A-Z]*)$"
)
_UNITS = ("KT", "KTS", "MPS", "KMH")
_TREND = re.compile(r"(?:TEMPO|BECMG|INTER|FM\d*|PROB\d*|TL\d*|AT\d*)$")
_HALF_TEMPERATURE = re.compile(r"M?\d/M?\d{1,2}$|M?\d{1,2}/M?\d$")
_FAILED = re.compile(r"failed while processing '(\S+)")
_MOST_FAILURES = 4
_LONGEST_GROUP, _MOST_GROUPS = 24, 60
_MOST_REPEATED = 1000
_BLANKS = " \t\x01\x03\r"


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
        whole: list[_Text] = []
        damaged: list[str] = []
        for report in _split(text, _date_of(path) if self._date is None else self._date):
            where = f"{path}, line {report.line}"
            if _REPORT.match(report.text) is None:
                damaged.append(f"{where}: no METAR")
            elif report.cut_off:
                damaged.append(f"{where}: cut off; the others end with =")
            elif report.date is None:
                raise ObservationError(
                    f"{path}: nothing says the month of its METARs; give the option `date` (a day near them, such as "
                    "2020-10-01), or put it into the file's name"
                )
            else:
                whole.append(report)
        if not whole and (text[:3] == "CDF" or text[1:4] == "HDF"):
            raise ObservationError(
                f"{path}: this is netCDF; METARs are read as text, as CSV, or as Parquet with MADIS's own names "
                "(in Python: xarray.open_dataset(FILE).to_dataframe().to_parquet(...))"
            )
        if not whole:
            raise ObservationError(f"{path}: no METAR in this file, which begins with {text[:40]!r}")
        problems += damaged
        return self._decode(whole)

    def _decode(self, whole: list["_Text"]) -> NDArray:
        reports = new_reports(len(whole))
        parsed = _Report(*np.array([_parse(report.text) for report in whole]).T)
        matches = [match for report in whole if (match := _REPORT.match(report.text))]
        reports["time"] = [_time(report.date, match) for report, match in zip(whole, matches, strict=True)]
        reports["station"] = [match["station"] for match in matches]
        versions = [max(report.version, _version(match)) for report, match in zip(whole, matches, strict=True)]
        same = pd.DataFrame({"station": reports["station"], "time": reports["time"], "version": versions})
        # Of equal versions the later in the text counts.
        reports["version"] = np.array(versions) * _MOST_REPEATED + same.groupby(list(same), dropna=False).cumcount()
        unknown = (np.nan, np.nan, np.nan)
        positions = np.array([self._stations.get(match["station"], unknown) for match in matches])
        for name, column in zip(("latitude", "longitude", "elevation"), positions.T, strict=True):
            reports[name] = column
        put(reports, "t2m", parsed.temperature + 273.15, readable=parsed.temperature_read == 1)
        put(reports, "td2m", parsed.dewpoint + 273.15, readable=parsed.dewpoint_read == 1)
        put_wind(reports, parsed.direction, parsed.speed, readable=parsed.wind_read == 1)
        put(reports, "msl", parsed.pressure, readable=parsed.pressure_read == 1)
        put(reports, "tp", parsed.amount)
        return reports


def _version(report: re.Match[str]) -> int:
    """Return the version that a report states of itself."""
    if "COR" in (report["before"] + (report["between"] or "") + (report["after"] or "")):
        return CORRECTION
    return letters_version(report["after"] or "")


def _history(path: str | None) -> pd.DataFrame | None:
    """Return the aerodromes of NOAA's isd-history.csv at their latest positions; None: it is another file."""
    if path is None:
        return None
    history = read_csv(Path(path))
    if not {"ICAO", "LAT", "LON", "ELEV(M)", "END"} <= set(history):
        return None
    names = {"ICAO": "station", "LAT": "latitude", "LON": "longitude", "ELEV(M)": "elevation"}
    named = history[history["ICAO"] != ""].rename(columns=names)
    numbers = ["latitude", "longitude", "elevation"]
    named[numbers] = named[numbers].apply(pd.to_numeric, errors="coerce")
    return named.dropna(subset=numbers).sort_values("END").drop_duplicates("station", keep="last")


class _Text(NamedTuple):
    """A report or an unknown text: its first line, the date before it, the version of its bulletin."""

    line: int
    date: Any  # datetime64, or None
    version: int
    text: str
    cut_off: bool


def _split(text: str, date: np.datetime64 | None) -> Iterator[_Text]:
    """Yield each report and each unknown text; headings and empty lines are left out.

    A report ends with `=`, with an empty line or a heading, or where the next line begins another text. Where the
    reports of a bulletin end with `=`, any other line continues the one before; elsewhere, one that begins with blanks
    does. The last report of a file in which reports end with `=` is cut off where it has none.
    """
    version, ends_marked = 0, False
    for begin, bulletin in _bulletins(text):
        marked = any("=" in line for line in bulletin)
        begun, report = 0, ""
        for number, line in enumerate(bulletin, begin):
            plain = line.strip(_BLANKS)
            dated, heading = _DATE_LINE.match(plain), _ENVELOPE.match(plain)
            if dated:
                date = _day(*dated.groups())
            if heading:
                version = heading_version(plain) or 0
            if dated or heading or not plain:
                continue
            goes_on = report and not _APART.match(plain) and (marked or line[:1] in (" ", "\t"))
            if report and not (goes_on and not _NIL.search(report)):
                yield _Text(begun, date, version, report, cut_off=False)
                report = ""
            *ended, rest = f"{report} {plain}".strip().split("=")
            begun = begun if report else number
            for each in ended:
                ends_marked = True
                if each.strip():
                    yield _Text(begun, date, version, each.strip(), cut_off=False)
            report = rest.strip()
        if report:
            is_last = not "".join(text.splitlines()[begin + len(bulletin) - 1 :]).strip(_BLANKS)
            yield _Text(begun, date, version, report, cut_off=ends_marked and is_last)


def _bulletins(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines between headings, dates and empty lines, each with the heading before, and their first number."""
    begin = 1
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        plain = line.strip(_BLANKS)
        if not plain or _DATE_LINE.match(plain) or _ENVELOPE.match(plain):
            if lines:
                yield begin, lines
            begin, lines = number, []
        lines.append(line)
    if lines:
        yield begin, lines


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
    day, hour, minute = (int(report[part]) for part in ("day", "hour", "minute"))
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
    """Return the values of a report, without the words that the library does not know around its station."""
    match = _REPORT.match(report)
    assert match is not None
    groups = [match["station"], f"{match['day']}{match['hour']}{match['minute']}Z", *report[match.end() :].split()]
    end = next((i for i, group in enumerate(groups) if group in _REMARKS), len(groups))
    body = [group for group in groups[:end] if _is_whole(group)][:_MOST_GROUPS]
    remarks = [group for group in groups[end:] if _REMARK.match(group)]
    parsed, lost = _parsed(body, remarks)
    if parsed is None:
        return _Report()
    complete = parsed.decode_completed and not lost and len(body) == end
    temperature, dewpoint = (np.nan if value is None else value.value("C") for value in (parsed.temp, parsed.dewpt))
    speed = np.nan if parsed.wind_speed is None else parsed.wind_speed.value("MPS")
    has_unit = _has_unit(body)  # without one the library supposes one
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


def _is_whole(group: str) -> bool:
    return len(group) <= _LONGEST_GROUP and not _HALF_TEMPERATURE.match(group)


def _parsed(body: list[str], remarks: list[str]) -> tuple[Parsed | None, bool]:
    """Return the library's reading, and whether it failed at a group; that is left out, and the rest is read."""
    body = list(body)
    for attempt in range(_MOST_FAILURES):
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                parsed = Parsed(" ".join([*body, "RMK", *remarks]), month=1, year=2000, strict=False)
        except (
            ParserError,
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ):  # not all are promised
            return None, True
        failed = [match[1] for warning in caught if (match := _FAILED.search(str(warning.message)))]
        if not failed:
            return parsed, attempt > 0
        if failed[0] not in body:
            break
        body.remove(failed[0])
    return None, True


def _has_unit(body: list[str]) -> bool:
    """Return whether the wind of a report, not of its trend, has a unit; the first two groups are station and time."""
    trend = next((i for i, group in enumerate(body) if _TREND.match(group)), len(body))
    wind = next((match for group in body[2:trend] if (match := _WIND.match(group))), None)
    return wind is not None and wind["unit"] in _UNITS and "P" not in wind[0].removesuffix(wind["unit"])


def _pressure(parsed: Parsed) -> tuple[float, bool]:
    """Return pressure at sea level (Pa), and whether it agrees with the altimeter setting."""
    if parsed.press_sea_level is None:
        return np.nan, True
    pressure = parsed.press_sea_level.value("HPA") * 100
    return pressure, parsed.press is None or abs(parsed.press.value("HPA") * 100 - pressure) <= UNLIKE
