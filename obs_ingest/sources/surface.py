"""Reports of surface stations: one record per report whatever its format, the table made of them, and their files.

A decoder fills records (`new_reports`, `put`, `put_wind`). It counts the values that it cannot use in the record, so
that a window's inventory accounts for every value. `ReportFiles` is a source whose files are parsed once each.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import wind_components
from dacycle.obs_ingest.errors.model import standard_error
from dacycle.obs_ingest.sources.base import MOST_PROBLEMS, Inventory, take_inventory
from dacycle.obs_ingest.sources.files import Files, Paths, Remembered
from dacycle.obs_ingest.sources.kept import kept
from dacycle.obs_ingest.sources.versions import SUPERSEDED, superseded
from dacycle.obs_ingest.station_network.inland import is_inland
from dacycle.obs_ingest.table import (
    VARIABLES,
    at_origin,
    check_unit,
    empty_table,
    is_position,
    make_table,
    site_names,
)
from dacycle.obs_ingest.window import Window

__all__ = [
    "REPORT",
    "VALUES",
    "Parsed",
    "ReportFiles",
    "at_sea",
    "new_reports",
    "put",
    "put_wind",
    "stacked",
    "surface_table",
]

VALUES = ("t2m", "td2m", "msl", "ps", "u10", "v10", "tp")
"""The values of a report; `tp` is over the six hours before its time."""

LOST = {
    "flagged": "value rejected by its provider",
    "unreadable": "value that cannot be read",
    "undirected": "wind without a direction",
    "governed": "value of a statistic, a period or another time",
}
"""Why values of a report are left out, by the record's field that counts them (a wind is two values)."""

REPORT = np.dtype(
    [
        ("time", "M8[s]"),
        ("received", "M8[s]"),
        ("version", "u4"),
        ("station", object),
        ("latitude", "f8"),
        ("longitude", "f8"),
    ]
    + [(name, "f4") for name in ("elevation", *VALUES)]
    + [(name, "u1") for name in LOST]
)
"""A report: UTC, degrees, m, and `VALUES` in SI; NaN and NaT where unknown; `version` is a number, see `versions`."""

_PLACE = "\0"  # stands for the path of a file in sentences that are kept
_ELEVATIONS = (-500.0, 9000.0)  # m; no station is lower or higher, but codes for "unknown" are


def new_reports(n: int) -> NDArray:
    """Return (n,) records in which every field is unknown."""
    reports = np.zeros(n, REPORT)
    for name in REPORT.names or ():
        kind = REPORT[name].kind
        if kind != "u":
            reports[name] = {"M": np.datetime64("NaT"), "O": "", "f": np.nan}[kind]
    return reports


def stacked(blocks: Iterable[NDArray]) -> NDArray:
    """Return blocks of records as one array; each block is freed once it is copied, which saves half of the memory."""
    remaining = list(blocks)
    reports = np.empty(sum(map(len, remaining)), REPORT)
    end = len(reports)
    while remaining:
        block = remaining.pop()
        reports[end - len(block) : end] = block
        end -= len(block)
    return reports


def put(
    reports: NDArray,
    name: str,
    value: NDArray,
    accepted: NDArray[np.bool_] | bool = True,
    readable: NDArray[np.bool_] | bool = True,
) -> None:
    """Set a value of each report, and count the values that are left out.

    Args:
        reports: (n,) records.
        name: one of `VALUES`.
        value: (n,) SI, NaN where there is none.
        accepted: whether the provider's quality control accepts it.
        readable: False where there was something that is not a value.
    """
    rejected = np.isfinite(value) & ~np.asarray(accepted)
    reports[name] = np.where(rejected, np.nan, value)
    reports["flagged"] += rejected
    reports["unreadable"] += ~np.asarray(readable)


def put_wind(
    reports: NDArray,
    direction: NDArray,
    speed: NDArray,
    accepted: NDArray[np.bool_] | bool = True,
    readable: NDArray[np.bool_] | bool = True,
) -> None:
    """Set u10 and v10 from the direction (degrees) the wind blows from and its speed (m/s); other arguments as `put`.

    Calm needs no direction. North is 360 in every meteorological code; 0 with a speed above 0 means that the direction
    was variable or not observed.
    """
    readable = np.asarray(readable) & ~(speed < 0)
    present = np.isfinite(speed) & readable
    rejected = present & ~np.asarray(accepted)
    undirected = present & ~rejected & (speed > 0) & ~((direction > 0) & (direction <= 360))
    usable = present & ~rejected & ~undirected
    for name, component in zip(("u10", "v10"), wind_components(direction, speed), strict=True):
        reports[name] = np.where(usable, component, np.nan)
    for name, lost in (("flagged", rejected), ("unreadable", ~readable), ("undirected", undirected)):
        reports[name] += 2 * lost.astype(np.uint8)


def at_sea(reports: NDArray) -> tuple[NDArray, int]:
    """Return the records of ships and buoys at sea, and how many others there are.

    Where no height above the sea is stated, the elevation becomes 0; a report of that kind on land (`inland`) is left
    out. A stated height is that of a lake.
    """
    low, high = _ELEVATIONS
    stated = (reports["elevation"] > low) & (reports["elevation"] < high) & (reports["elevation"] != 0)
    good = stated | ~is_inland(reports["latitude"], reports["longitude"])
    reports = reports.copy()
    reports["elevation"][~stated] = 0
    return reports[good], int((~good).sum())


def surface_table(reports: NDArray, source: str, inventory: Inventory, kind: str = "") -> pd.DataFrame:
    """Return the observation table of records.

    Args:
        reports: (n,) of `REPORT`, each with a time and a position.
        source: the source's name.
        inventory: gets the numbers of values that are missing or left out.
        kind: whose errors they have; see `errors.model.errors_of`.
    """
    values = np.stack([reports[name] for name in VALUES]).astype(float)
    which, who = np.nonzero(np.isfinite(values))
    lost = {reason: int(reports[name].sum()) for name, reason in LOST.items()}
    for reason, count in lost.items():
        inventory.skip(reason, count)
    inventory.missing = values.size - len(who) - sum(lost.values())
    if not len(who):
        return empty_table()
    errors = np.stack([standard_error(name, value, kind=kind) for name, value in zip(VALUES, values, strict=True)])
    return make_table(
        time=reports["time"][who],
        period=np.where(which == VALUES.index("tp"), 6.0, 0.0),
        received=reports["received"][who],
        site=site_names(reports["latitude"], reports["longitude"])[who],
        station=pd.Categorical(reports["station"])[who],
        latitude=reports["latitude"][who],
        longitude=reports["longitude"][who],
        elevation=reports["elevation"][who],
        pressure=np.nan,
        variable=np.array([VARIABLES.index(name) for name in VALUES])[which],
        value=values[which, who],
        error=errors[which, who],
        source=source,
    )


@dataclass(frozen=True)
class Parsed:
    """The content of one file.

    Attributes:
        reports: (n,) records, in any order.
        problems: a sentence about each damaged record, with file and number.
    """

    reports: NDArray
    problems: list[str]


class ReportFiles(ABC):
    """A source of surface reports in files; each content is parsed once, by whatever process (see `kept`).

    A parsed file that reaches into the window stays in memory, about 75 bytes per report: a year of hourly reports of
    2000 stations takes 1.3 GB. Of the others only the times of their first and last report are kept.

    Args:
        path: a file, a folder, a pattern, a URL, or several of them.
        name, cutoff: see `build_source`.
        latency: how long after their time reports are taken to have been received, where they do not say; by default
            that stays unknown, and such reports are never late.
        received: `mtime` takes such reports to have been received when their file was last written, instead.
    """

    patterns: ClassVar[tuple[str, ...]]
    """Files of a folder that are read."""
    by_station: ClassVar[bool] = False
    """Whether a file holds one station, and has its name (with or without the year)."""
    error_kind: ClassVar[str] = ""
    """Whose errors the values have; see `errors.model.errors_of`."""

    def __init__(
        self,
        path: Paths,
        name: str = "",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
    ) -> None:
        self.name, self.cutoff = name or type(self).__name__.lower(), cutoff
        self._files = Files(self.name, path, self.patterns, self._holds, latency, received)
        self._parsed = Remembered(self._sorted)
        self._spans = Remembered(self._span)

    @abstractmethod
    def parse(self, path: Path) -> Parsed:
        """Parse all reports of a file.

        They depend on its content, its name, the class and `options` only. Each problem begins with the path.

        Raises:
            ObservationError: it is not a file of this kind; names it.
        """

    def options(self) -> tuple[object, ...]:
        """Return what `parse` depends on beside the file and the class, as values with a `repr` that says all."""
        return ()

    def paths(self) -> list[Path]:
        """Return all files; ObservationError where there is none."""
        return self._files.paths()

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digests of the files with reports of the window, or without a report that has a time, by path."""
        return self._files.inputs(window)

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """Read the reports of the window.

        Damaged reports, and those without a time, are counted with every window of their file.

        Raises:
            ObservationError: no file is there, or none can be read.
        """
        inventory = Inventory(self.name)

        def read(path: Path) -> NDArray:
            parsed = self._parsed(path)
            inventory.found += len(parsed.problems)
            inventory.skip("damaged", len(parsed.problems))
            for problem in parsed.problems[:MOST_PROBLEMS]:
                inventory.problem(problem)
            first, last, timed = _rows(parsed.reports["time"], window)
            reports = parsed.reports[first:last].copy()
            reports["received"] = self._files.received(path, reports["time"], reports["received"])
            return np.concatenate([reports, parsed.reports[timed:]])

        blocks = self._files.read(window, inventory, read).values()
        reports = self._usable(np.concatenate([new_reports(0), *blocks]), window, inventory)
        inventory.decoded = len(reports)
        table = surface_table(reports, self.name, inventory, self.error_kind)
        return table, take_inventory(inventory, table, window)

    def _holds(self, path: Path, window: Window) -> bool:
        """Return whether a file has reports of the window.

        It also does where no report has a time: its damage is then counted in every window.
        """
        first, last = self._spans(path)
        if np.isnat(first):
            return True
        if first <= window.end and last > window.start:
            begin, end, _ = _rows(self._parsed(path).reports["time"], window)
            return begin < end
        self._parsed.forget(path)
        return False

    def _span(self, path: Path) -> tuple[np.datetime64, np.datetime64]:
        """Return the times of a file's first and last report, NaT where no report has a time."""
        return kept(path, type(self), ("span", path.name, *self.options()), lambda: _ends(self._parsed(path)))

    def _sorted(self, path: Path) -> Parsed:
        """Return a file's reports in order of time; those without a time come last."""

        def parsed() -> Parsed:
            parsed = self.parse(path)
            for name in VALUES:
                check_unit(name, parsed.reports[name], str(path))
            order = np.argsort(parsed.reports["time"], kind="stable")
            in_order = (order[1:] > order[:-1]).all()
            problems = [problem.replace(str(path), _PLACE, 1) for problem in parsed.problems]
            return Parsed(parsed.reports if in_order else parsed.reports[order], problems)

        of_content = kept(path, type(self), ("reports", path.name, *self.options()), parsed)
        problems = [problem.replace(_PLACE, str(path), 1) for problem in of_content.problems]
        return Parsed(of_content.reports, problems)

    def _usable(self, reports: NDArray, window: Window, inventory: Inventory) -> NDArray:
        """Return the reports with a time and a position, each once and in its last version."""
        inventory.found += len(reports)
        reports = _keep(reports, ~np.isnat(reports["time"]), "no time", inventory)
        latitude, longitude = reports["latitude"], reports["longitude"]
        placed = is_position(latitude, longitude) & ~at_origin(latitude, longitude, inclusive=True)
        reports = _keep(reports, placed, "no position", inventory)
        reports = reports[np.lexsort((reports["received"], reports["time"]))]
        reports = _keep(reports, ~_repeated(reports), "repeated report", inventory)
        old = superseded(reports["station"], reports["time"], reports["version"], reports["received"], window)
        reports = _keep(reports, ~old, SUPERSEDED, inventory)
        low, high = _ELEVATIONS
        unknown = (reports["elevation"] < low) | (reports["elevation"] > high)
        reports["elevation"][unknown] = np.nan
        return reports


def _ends(parsed: Parsed) -> tuple[np.datetime64, np.datetime64]:
    times = parsed.reports["time"]
    timed = times[~np.isnat(times)]
    return (timed[0], timed[-1]) if len(timed) else (np.datetime64("NaT"), np.datetime64("NaT"))


def _rows(times: NDArray, window: Window) -> tuple[int, int, int]:
    """Return where in sorted times the window begins and ends, and where the unknown times (NaT) begin."""
    first, last = np.searchsorted(times, np.array([window.start, window.end], "M8[s]"), side="right")
    return int(first), int(last), int(np.searchsorted(times, np.datetime64("NaT")))


def _keep(reports: NDArray, good: NDArray[np.bool_], reason: str, inventory: Inventory) -> NDArray:
    """Return the good reports, and count the others under a reason."""
    inventory.skip(reason, int((~good).sum()))
    return reports[good]


def _repeated(reports: NDArray) -> NDArray[np.bool_]:
    """Return which reports repeat an earlier one of the same station, place, time, version and values."""
    same = ("time", "station", "version", "latitude", "longitude", *VALUES)
    return pd.DataFrame({name: reports[name] for name in same}).duplicated().to_numpy()
