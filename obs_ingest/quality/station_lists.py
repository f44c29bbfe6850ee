"""Lists of stations, as CSV: a blacklist, whose values are not used, or a whitelist, all others of which are not."""

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

from dacycle.obs_ingest.table import VARIABLES, ObservationError, is_position, site_names

__all__ = ["COLUMNS", "StationList", "has_station", "read_station_list"]

COLUMNS: tuple[str, ...] = ("station", "site", "latitude", "longitude", "variable", "from", "to", "note")
"""What a list may have; each line names its station by `station`, `site`, or `latitude` and `longitude`."""

_ALWAYS = np.datetime64("0001-01-01", "s"), np.datetime64("9999-12-31", "s")
_SITE = re.compile(r"[+-]\d\d\.\d\d[+-]\d{3}\.\d\d")


@dataclass(frozen=True, eq=False)
class StationList:
    """What a list names.

    Attributes:
        path: of the file.
        digest: SHA-256 of its content.
        lines: a row per line: station, site and variable (empty where the line leaves it open), from and to
            (datetime64[s]; open ends are the least and the last time).
    """

    path: Path
    digest: str
    lines: pd.DataFrame

    def names(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """(n,) whether a line names this row: all that the line says is so, and from <= time < to."""
        out = np.zeros(len(table), bool)
        by_station = self.lines["station"] != ""
        for key, lines in (("station", self.lines[by_station]), ("site", self.lines[~by_station])):
            column = table[key].array
            rows = np.nonzero(np.append(column.categories.isin(lines[key]), False)[column.codes])[0]
            found = pd.DataFrame({key: column[rows].astype(str), "row": rows}).merge(lines, on=key)
            row = found["row"].to_numpy()
            time, site, variable = (table[name].to_numpy()[row] for name in ("time", "site", "variable"))
            fits = (found["from"] <= time) & (time < found["to"])
            fits &= (found["site"] == "") | (found["site"] == site)
            fits &= (found["variable"] == "") | (found["variable"] == variable)
            out[row[fits]] = True
        return out


def has_station(table: pd.DataFrame) -> NDArray[np.bool_]:
    """(n,) whether a value is a station's. A point of a raster has none: its station is called as its site is."""
    station, site = table["station"].array, table["site"].array
    return site.categories.get_indexer(station.categories)[station.codes] != site.codes


def read_station_list(path: Path | str) -> StationList:
    """A list from a CSV file with a header; columns of `COLUMNS`, in any order.

    Args:
        path: of the file. `from` and `to` are UTC, as 2024-01-31 or 2024-01-31T06:00; `site` is as in the observation
            table (+48.12+011.55), which latitude and longitude in degrees are turned into.

    Raises:
        ObservationError: naming the file, the line and the remedy.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        header = [name.strip() for name in rows.fieldnames or ()]
        rows.fieldnames = header
        _check_header(header, path)
        lines = [_line(row, f"{path}, line {rows.line_num}") for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ObservationError(f"{path}: cannot be read as a station list in CSV: {error}") from None
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
    """Station, site, variable, from and to of a line."""
    if None in row or None in row.values():
        raise ObservationError(f"{where}: not as many fields as the header has; a note with a comma needs quotes")
    said = {name: (text or "").strip() for name, text in row.items()}
    station, site, variable = said.get("station", ""), _site(said, where), said.get("variable", "")
    if not (station or site):
        raise ObservationError(f"{where}: names no station; give station, site, or latitude and longitude")
    if variable and variable not in VARIABLES:
        raise ObservationError(f"{where}: unknown variable {variable!r}; known are {', '.join(VARIABLES)}")
    begin = _time(said.get("from", ""), _ALWAYS[0], where)
    end = _time(said.get("to", ""), _ALWAYS[1], where)
    if begin >= end:
        raise ObservationError(f"{where}: from {begin} is not before to {end}; `to` is the first time after")
    return station, site, variable, begin, end


def _site(said: dict[str, str], where: str) -> str:
    site, latitude, longitude = (said.get(name, "") for name in ("site", "latitude", "longitude"))
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
    place = str(site_names(np.array([lat]), np.array([lon]))[0])
    if site and site != place:
        raise ObservationError(f"{where}: site {site} is not at {latitude}, {longitude}, which is {place}")
    return place


def _time(text: str, otherwise: np.datetime64, where: str) -> np.datetime64:
    if not text:
        return otherwise
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ObservationError(
            f"{where}: {text!r} is no time; write it as 2024-01-31 or 2024-01-31T06:00, in UTC"
        ) from None
    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time, "s")
