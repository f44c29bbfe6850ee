"""Lists of stations in CSV: values of stations on a blacklist, or not on a whitelist, are rejected."""

import csv
import hashlib
import io
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.common.foreign import decode_text, reading
from dacycle.obs_ingest.table import VARIABLES, ObservationError, is_position, site_names

__all__ = ["COLUMNS", "StationList", "has_station", "read_station_list"]

COLUMNS: tuple[str, ...] = ("station", "site", "latitude", "longitude", "variable", "from", "to", "note")
"""Columns that a list may have; each line names its station by `station`, `site`, or `latitude` and `longitude`."""

_ALWAYS = np.datetime64("0001-01-01", "s"), np.datetime64("9999-12-31", "s")
_SITE = re.compile(r"[+-]\d\d\.\d\d[+-]\d{3}\.\d\d")


@dataclass(frozen=True, eq=False)
class StationList:
    """The lines of a list.

    Attributes:
        path: the file.
        digest: SHA-256 of its content.
        lines: a row per line: station, site and variable (empty where the line does not give it), from and to
            (datetime64[s]; the first or last time where the line does not give it).
    """

    path: Path
    digest: str
    lines: pd.DataFrame

    def names(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which rows (n,) a line matches: in every column that it fills in, and with from <= time < to."""
        named = np.zeros(len(table), bool)
        by_station = self.lines["station"] != ""
        for key, lines in (("station", self.lines[by_station]), ("site", self.lines[~by_station])):
            column = table[key].array
            rows = np.nonzero(np.append(column.categories.isin(lines[key]), False)[column.codes])[0]
            pairs = pd.DataFrame({key: column[rows].astype(str), "row": rows}).merge(lines, on=key)
            row = pairs["row"].to_numpy()
            time, site, variable = (table[name].to_numpy()[row] for name in ("time", "site", "variable"))
            matches = (pairs["from"] <= time) & (time < pairs["to"])
            matches &= (pairs["site"] == "") | (pairs["site"] == site)
            matches &= (pairs["variable"] == "") | (pairs["variable"] == variable)
            named[row[matches]] = True
        return named


def has_station(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows (n,) are of a station. A point of a raster is none: its station has the name of its site."""
    station, site = table["station"].array, table["site"].array
    return site.categories.get_indexer(station.categories)[station.codes] != site.codes


def read_station_list(path: Path | str) -> StationList:
    """Read a list from a CSV file with a header and columns of `COLUMNS`, in any order.

    Args:
        path: the file. `from` and `to` are UTC, as 2024-01-31 or 2024-01-31T06:00. `site` is as in the observation
            table (+48.12+011.55); latitude and longitude in degrees are converted to a site.

    Raises:
        ObservationError: naming the file, the line and the remedy.
    """
    path = Path(path)
    with reading(path, ObservationError):
        content = path.read_bytes()
        text = decode_text(content, path, ObservationError)
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip() for name in rows.fieldnames or ()]
        rows.fieldnames = header
        _check_header(header, path)
        lines = [_line(row, f"{path}, line {rows.line_num}") for row in rows]
    columns = ("station", "site", "variable", "from", "to")
    return StationList(path, hashlib.sha256(content).hexdigest(), pd.DataFrame(lines, columns=columns))


def _check_header(header: list[str], path: Path) -> None:
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or len(set(header)) < len(header):
        wrong = f"unknown column {unknown[0][:40]!r}" if unknown else "a column is there twice"
        raise ObservationError(f"{path}, line 1: {wrong}; the columns of a station list are {', '.join(COLUMNS)}")
    if not {"station", "site", "latitude"} & set(header):
        raise ObservationError(
            f"{path}, line 1: no column names stations; give station, site, or latitude and longitude"
        )


def _line(row: dict[str, str | None], where: str) -> tuple[str, str, str, np.datetime64, np.datetime64]:
    """Return station, site, variable, from and to of a line."""
    if None in row or None in row.values():
        raise ObservationError(f"{where}: not as many fields as the header has; a note with a comma needs quotes")
    fields = {name: (text or "").strip() for name, text in row.items()}
    station, site, variable = fields.get("station", ""), _site(fields, where), fields.get("variable", "")
    if not (station or site):
        raise ObservationError(f"{where}: names no station; give station, site, or latitude and longitude")
    if variable and variable not in VARIABLES:
        raise ObservationError(f"{where}: unknown variable {variable!r}; known are {', '.join(VARIABLES)}")
    begin = _time(fields.get("from", ""), _ALWAYS[0], where)
    end = _time(fields.get("to", ""), _ALWAYS[1], where)
    if begin >= end:
        raise ObservationError(f"{where}: from {begin} is not before to {end}; `to` is the first time after")
    return station, site, variable, begin, end


def _site(fields: dict[str, str], where: str) -> str:
    """Return the site that a line names, by itself or by a position; empty where it names none."""
    site, latitude, longitude = (fields.get(name, "") for name in ("site", "latitude", "longitude"))
    if site and not _SITE.fullmatch(site):
        raise ObservationError(f"{where}: {site!r} is no site; it is written as +48.12+011.55, or give the position")
    if not (latitude or longitude):
        return site
    try:
        lat, lon = float(latitude), float(longitude)
    except ValueError:
        lat, lon = np.nan, np.nan
    if not is_position(lat, lon):
        raise ObservationError(
            f"{where}: latitude {latitude!r} and longitude {longitude!r} are no position; give both in degrees"
        )
    at_position = str(site_names(np.array([lat]), np.array([lon]))[0])
    if site and site != at_position:
        raise ObservationError(f"{where}: site {site} is not at {latitude}, {longitude}, which is {at_position}")
    return at_position


def _time(text: str, default: np.datetime64, where: str) -> np.datetime64:
    """Return the time that a text says in UTC, or the default where it is empty."""
    if not text:
        return default
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ObservationError(
            f"{where}: {text!r} is no time; write it as 2024-01-31 or 2024-01-31T06:00, in UTC"
        ) from None
    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time, "s")
