"""The archives that can be fetched: where their lists and files are, which files hold a year, and what they begin with.

Addresses are those of NOAA's National Centers for Environmental Information, and of its National Data Buoy Center.
"""

import gzip
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from dacycle.common.foreign import reading
from dacycle.obs_ingest.archives.choice import Choice, choose
from dacycle.obs_ingest.archives.listing import Entry, read_listing
from dacycle.obs_ingest.archives.station_lists import (
    read_ghcnh_inventory,
    read_ghcnh_stations,
    read_igra_stations,
    read_isd_history,
    read_ndbc_stations,
)
from dacycle.obs_ingest.archives.transfer import AbsentError, Connection
from dacycle.obs_ingest.sources.netcdf import describe
from dacycle.obs_ingest.sources.netcdf_fields import OLR
from dacycle.obs_ingest.sources.text.columns import CHUNK, start
from dacycle.obs_ingest.table import ObservationError

__all__ = ["ARCHIVES", "Archive", "Found", "Index", "Wanted"]

_NCEI, _NDBC = "https://www.ncei.noaa.gov", "https://www.ndbc.noaa.gov"

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """A file to fetch.

    Attributes:
        url: its address.
        name: its path below the folder of the archive's files.
        size: bytes by the archive's index, None where that does not say.
        listed: its version by the index, empty where that does not say.
    """

    url: str
    name: str
    size: int | None = None
    listed: str = ""


@dataclass(frozen=True)
class Found:
    """The files of some years, and a sentence about each thing that the archive should have and has not."""

    wanted: list[Wanted]
    lacking: list[str]


class Index:
    """The lists of an archive: local copies, of which the server is asked once a day.

    Args:
        connection: to the server.
        folder: of the archive's files; lists of stations are kept in it, listings of folders in `.index`.
        again: ask the server whatever the time of the last question.
    """

    def __init__(self, connection: Connection, folder: Path, again: bool = False) -> None:
        self._connection, self._folder, self._again = connection, folder, again

    def read(self, url: str, parse: Callable[[Path], T]) -> T:
        """Fetch a list and return what `parse` makes of it.

        Raises:
            AbsentError: there is none.
            ObservationError: it cannot be fetched, or has another form than `parse` expects; names the address and the
                line.
        """
        page = url.endswith("/")
        name = url.split("://")[1].strip("/")
        target = self._folder / (f".index/{name.replace('/', '_')}.html" if page else name.rpartition("/")[2])
        parsed: list[T] = []
        self._connection.obtain(url, target, lambda part: parsed.append(parse(part)), page=page, again=self._again)
        try:
            return parsed[0] if parsed else parse(target)
        except ObservationError as error:
            raise ObservationError(str(error).replace(str(target), self._connection.address(url))) from None

    def folder(self, url: str) -> dict[str, Entry]:
        """Return the files of a folder; empty where there is no such folder."""
        try:
            return self.read(url, read_listing)
        except AbsentError:
            return {}


class Archive(Protocol):
    """An archive of one source.

    Attributes:
        files: where its files are below their folder, as the `path` of a source.
        by_station: whether it has a file for each station, so that stations are chosen.
    """

    files: ClassVar[str]
    by_station: ClassVar[bool]

    def find(self, index: Index, years: Sequence[int], choice: Choice) -> Found:
        """Return the files of years.

        Raises:
            ObservationError: an index cannot be fetched, or its form has changed.
        """
        ...

    def check(self, path: Path) -> None:
        """Raise ObservationError where a file does not hold what its name says; reads all of it."""
        ...


class Isd:
    """The Integrated Surface Database, Global-Hourly: a CSV file for each station and year, until August 2025."""

    files: ClassVar[str] = "*/*.csv"
    by_station: ClassVar[bool] = True
    _list = f"{_NCEI}/pub/data/noaa/isd-history.csv"
    _folder = f"{_NCEI}/data/global-hourly/access/{{year}}/"

    def find(self, index: Index, years: Sequence[int], choice: Choice) -> Found:
        """Return the files of years; how much a station reports is judged by the sizes of its cell's files."""
        listed, found = index.read(self._list, read_isd_history), Found([], [])
        for year in years:
            folder = self._folder.format(year=year)
            entries = {name.removesuffix(".csv"): entry for name, entry in index.folder(folder).items()}
            if not entries:
                found.lacking.append(f"{year}: the archive has no folder of this year")
                continue
            sizes = {station: entry.size or 0 for station, entry in entries.items()}
            stations, lacking = choose(choice, listed, sizes, str(year), year * 10000 + 101, year * 10000 + 1231)
            found.lacking.extend(lacking)
            for station in stations:
                entry, name = entries[station], f"{station}.csv"
                found.wanted.append(Wanted(folder + name, f"{year}/{name}", entry.size, entry.version))
        return found

    def check(self, path: Path) -> None:
        """Check that it is text with the columns of Global-Hourly."""
        _check_text(path, r'"?STATION"?,"?DATE"?,', "a header with STATION, DATE, ...")


class Ghcnh:
    """The Global Historical Climatology Network, hourly: a PSV file for each station and year."""

    files: ClassVar[str] = "*/*.psv"
    by_station: ClassVar[bool] = True
    _base = f"{_NCEI}/oa/global-historical-climatology-network/hourly"

    def find(self, index: Index, years: Sequence[int], choice: Choice) -> Found:
        """Return the files of years, by the archive's inventory, which has no sizes."""
        stations_of, found = index.read(f"{self._base}/doc/ghcnh-inventory.txt", read_ghcnh_inventory), Found([], [])
        listed = index.read(f"{self._base}/doc/ghcnh-station-list.txt", read_ghcnh_stations)
        spans = _spans(stations_of)
        for column, name in enumerate(("first", "last")):
            listed[name] = [spans.get(station, (0, 0))[column] for station in listed["station"]]
        for year in years:
            stations, lacking = choose(choice, listed, stations_of.get(year, {}), str(year), year, year)
            found.lacking.extend(lacking or ([] if stations else [f"{year}: the archive's inventory has no station"]))
            for station in stations:
                name = f"GHCNh_{station}_{year}.psv"
                found.wanted.append(Wanted(f"{self._base}/access/by-year/{year}/psv/{name}", f"{year}/{name}"))
        return found

    def check(self, path: Path) -> None:
        """Check that it is text with the columns of GHCNh."""
        _check_text(path, r"(?i)station(_id)?\|", "a header with STATION|...")


class Igra:
    """The Integrated Global Radiosonde Archive, version 2: a zip file for each station, of its whole period.

    If all years are among the last (the current one, or the one before), files of these years only are taken.
    """

    files: ClassVar[str] = "*-data*.zip"
    by_station: ClassVar[bool] = True
    _base = f"{_NCEI}/data/integrated-global-radiosonde-archive"
    _name = re.compile(r"(\S{11})-data(?:-beg(\d{4}))?\.txt\.zip")

    def find(self, index: Index, years: Sequence[int], choice: Choice) -> Found:
        """Return the files of stations that report in the years, by the archive's list."""
        listed = index.read(f"{self._base}/doc/igra2-station-list.txt", read_igra_stations)
        due = listed[(listed["first"] <= max(years)) & (listed["last"] >= min(years))]
        for part in ("data-y2d", "data-por"):
            folder = f"{self._base}/access/{part}/"
            files = {m[1]: (name, m[2], e) for name, e in index.folder(folder).items() if (m := self._name.match(name))}
            if files and all(int(begin or 0) <= min(years) for _, begin, _ in files.values()):
                break
        if not files:
            return Found([], [f"the archive has no soundings in {folder}"])
        entries = {station: files[station] for station in due["station"] if station in files}
        period = ", ".join(map(str, years))
        stations, lacking = choose(choice, listed, dict.fromkeys(entries, 1), period, min(years), max(years))
        wanted = [
            Wanted(folder + name, name, entry.size, _grown(entry, max(years)))
            for name, _, entry in (entries[station] for station in stations)
        ]
        return Found(wanted, lacking)

    def check(self, path: Path) -> None:
        """Check that it can be unpacked, and begins with a sounding."""
        with reading(path, ObservationError), zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ObservationError(f"{path}: {damaged} in it is damaged")
        _check_start(path, r"#\S{11} \d{4} ", "the header of a sounding (#)")


class Olr:
    """NOAA's climate data record of daily OLR: a netCDF file for each year; the last one is preliminary."""

    files: ClassVar[str] = "*/*.nc"
    by_station: ClassVar[bool] = False
    _folder = f"{_NCEI}/data/outgoing-longwave-radiation-daily/access/"
    _name = re.compile(r"olr-daily_(v\d+r\d+)(-preliminary)?_(\d{4})0101_(\d{8}|latest)\.nc")

    def find(self, index: Index, years: Sequence[int], choice: Choice) -> Found:
        """Return the files of years: of several versions the last."""
        files = index.folder(self._folder)
        matches = [match for name in files if (match := self._name.fullmatch(name))]
        found = Found([], [])
        for year in years:
            of_year = [match for match in matches if int(match[3]) == year]
            if not of_year:
                found.lacking.append(f"{year}: the archive has no file of this year")
                continue
            name = max(of_year, key=lambda match: (match[2] is None, match[1], match[4]))[0]
            entry = files[name]
            found.wanted.append(Wanted(self._folder + name, f"{year}/{name}", entry.size, entry.version))
        return found

    def check(self, path: Path) -> None:
        """Check that it is a netCDF file of OLR that can be opened."""
        describe(path, OLR)


class Ndbc:
    """Standard meteorological data of the National Data Buoy Center: a packed text for each station and year."""

    files: ClassVar[str] = "*/*.txt.gz"
    by_station: ClassVar[bool] = True
    _list = f"{_NDBC}/data/stations/station_table.txt"
    _folder = f"{_NDBC}/data/historical/stdmet/"
    _name = re.compile(r"(\w+)h(\d{4})\.txt\.gz")

    def find(self, index: Index, years: Sequence[int], choice: Choice) -> Found:
        """Return the files of years; how much a station reports is judged by the sizes of its cell's files."""
        listed, entries = index.read(self._list, read_ndbc_stations), index.folder(self._folder)
        found = Found([], [])
        for year in years:
            names = {m[1]: m[0] for name in entries if (m := self._name.fullmatch(name)) and int(m[2]) == year}
            sizes = {station: entries[name].size or 0 for station, name in names.items()}
            stations, lacking = choose(choice, listed, sizes, str(year), year, year)
            found.lacking.extend(lacking if names else [f"{year}: the archive has no file of this year"])
            for station in stations:
                name, entry = names[station], entries[names[station]]
                found.wanted.append(Wanted(self._folder + name, f"{year}/{name}", entry.size, entry.version))
        return found

    def check(self, path: Path) -> None:
        """Check that it can be unpacked, and has the columns of stdmet."""
        with reading(path, ObservationError), gzip.open(path) as file:
            while file.read(CHUNK):
                pass
        _check_start(path, r"#?(YY|YYYY)\s+MM\s+DD\s+hh\s", "a header with YY MM DD hh ...")


ARCHIVES: dict[str, Archive] = {"isd": Isd(), "ghcnh": Ghcnh(), "igra": Igra(), "ndbc": Ndbc(), "olr_netcdf": Olr()}
"""The archive of each source."""


def _grown(entry: Entry, year: int) -> str:
    """Return the version of a file that grows every day: one that changed after the year holds all of it."""
    return f"holds {year}" if int(entry.changed[:4]) > year else entry.version


def _spans(stations_of: Mapping[int, Mapping[str, int]]) -> dict[str, tuple[int, int]]:
    """Return the first and the last year of each station, from the stations of each year."""
    spans: dict[str, tuple[int, int]] = {}
    for year in sorted(stations_of):
        spans.update((station, (spans.get(station, (year, year))[0], year)) for station in stations_of[year])
    return spans


def _check_text(path: Path, begins: str, expected: str) -> None:
    """Check the first line of a text, and that it is whole text: without zeros, and with an end of its last line."""
    _check_start(path, begins, expected)
    last = b""
    with reading(path, ObservationError), path.open("rb") as file:
        while block := file.read(CHUNK):
            if b"\0" in block:
                raise ObservationError(f"{path}: there are zeros in the text: it is damaged")
            last = block[-1:]
    if last != b"\n":
        raise ObservationError(f"{path}: ends in the middle of a line: it is cut off")


def _check_start(path: Path, begins: str, expected: str) -> None:
    first = start(path).decode("ascii", "replace")
    if not re.match(begins, first):
        raise ObservationError(f"{path}, line 1: {first[:60]!r}; {expected} was expected")
