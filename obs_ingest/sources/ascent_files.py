"""Soundings in files, whatever their format: a source whose files are decoded by years, and what is kept of them.

A file may hold 80 years of a station. Only the years that reach into a window are brought to the standard levels, and
only those of the last window stay in memory.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.sources.ascents import SOUNDING, ascent_table, put_levels
from dacycle.obs_ingest.sources.base import Inventory, take_inventory
from dacycle.obs_ingest.sources.files import Files, Paths, Remembered
from dacycle.obs_ingest.sources.kept import kept
from dacycle.obs_ingest.sources.versions import SUPERSEDED, superseded
from dacycle.obs_ingest.table import ObservationError, is_position
from dacycle.obs_ingest.window import Window

__all__ = ["Ascent", "AscentFiles", "Levels"]

_UNKNOWN = np.datetime64("NaT", "s")
_BATCH = 500  # soundings whose levels are in memory at a time

Levels = tuple[dict[str, NDArray], Counter[str]]
"""The levels of a sounding as `sounding.standard_levels` takes them, and what its reader has left out, by reason."""


@dataclass(frozen=True)
class Ascent:
    """A sounding of a file.

    Attributes:
        station: identifier.
        time: UTC; NaT where unknown.
        latitude, longitude: degrees.
        content: its levels, as the format has them.
        elevation: m; NaN where the file does not state it.
        version: see `versions`.
        received: UTC; NaT where unknown.
    """

    station: str
    time: np.datetime64
    latitude: float
    longitude: float
    content: Any
    elevation: float = np.nan
    version: int = 0
    received: np.datetime64 = _UNKNOWN


@dataclass(frozen=True)
class _Year:
    """The soundings of a year in a file.

    Attributes:
        records: (n,) in order of time.
        untimed: soundings of the whole file without a time.
        problems: of the whole file, each with its line.
    """

    records: NDArray
    untimed: int
    problems: list[str]


class AscentFiles(ABC):
    """A source of soundings in files: z, q, u, v, t on the standard levels, q up to 200 hPa.

    The inventory counts levels and values that are left out.

    Args:
        path: a file, a folder, a pattern, a URL, or several of them.
        name, cutoff: see `build_source`.
        latency: how long after their time soundings are taken to have been received, where they do not say; by default
            that stays unknown, and they are never late.
        received: `mtime` takes them to have been received when their file was last written, instead.
        tolerance: see `TempBufr`.
        world: its climatology scales the errors of humidity.
    """

    kind: ClassVar[str]
    """The default name."""
    patterns: ClassVar[tuple[str, ...]]
    """Files of a folder that are read."""

    def __init__(
        self,
        path: Paths,
        name: str = "",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
        tolerance: float = 1.0,
        world: World | None = None,
    ) -> None:
        self.name, self.cutoff = name or self.kind, cutoff
        if not tolerance > 0:
            raise ObservationError(f"source {self.name}: tolerance is {tolerance!r}, not above 0")
        self._tolerance, self._world = float(tolerance), world
        self._files = Files(self.name, path, self.patterns, self._holds, latency, received)
        self._spans = Remembered(self._span)
        self._years: dict[int, Remembered[_Year]] = {}

    @abstractmethod
    def ascents(self, path: Path, problems: list[str]) -> Iterator[Ascent]:
        """Yield the soundings of a file.

        They depend on its content, the class and `options` only.

        Args:
            path: the file.
            problems: gets a sentence about each damaged sounding, without the path.

        Raises:
            ObservationError: it is not a file of this kind; names it.
        """

    @abstractmethod
    def levels(self, batch: list[Ascent]) -> list[Levels]:
        """Return the levels of soundings."""

    def elevation(self, ascent: Ascent, levels: dict[str, NDArray]) -> float:
        """Return the elevation (m) of a sounding's station, NaN where unknown."""
        return ascent.elevation

    def options(self) -> tuple[object, ...]:
        """Return what the soundings depend on beside the file and the class, as values with a `repr` that says all."""
        return ()

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digests of the files with soundings of the window, or without one that has a time, by path."""
        return self._files.inputs(window)

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """Read the window's soundings.

        Damaged soundings, and those without a time, are counted with every window of their file.

        Raises:
            ObservationError: no file is there, or none can be read.
        """
        inventory = Inventory(self.name)
        files = self._files.read(window, inventory, lambda path: self._of_window(path, window, inventory))
        records = np.concatenate([np.zeros(0, SOUNDING), *files.values()])
        records = _keep(records, is_position(records["latitude"], records["longitude"]), "no position", inventory)
        records = _keep(records, ~_repeated(records), "repeated report", inventory)
        versions = records["version"].astype(int)
        old = superseded(records["station"], records["time"], versions, records["received"], window)
        records = _keep(records, ~old, SUPERSEDED, inventory)
        inventory.decoded = len(records)
        table = ascent_table(records, self.name, window, inventory, self._world)
        return table, take_inventory(inventory, table, window)

    def _of_window(self, path: Path, window: Window, inventory: Inventory) -> NDArray:
        """Return a file's soundings of the window."""
        parts = self._parts(path, window)
        records = np.concatenate([part.records for part in parts])
        records = records[window.holds(records["time"])]
        records["received"] = self._files.received(path, records["time"], records["received"])
        first = parts[0]
        inventory.found += len(records) + first.untimed + len(first.problems)
        inventory.skip("no time", first.untimed)
        inventory.skip("damaged", len(first.problems))
        for problem in first.problems:
            inventory.problem(f"{path}, {problem}")
        return records

    def _holds(self, path: Path, window: Window) -> bool:
        """Return whether a file has soundings of the window.

        It also does where none has a time: its damage is then counted in every window.
        """
        first, last = self._spans(path)
        if np.isnat(first):
            return True
        if first > window.end or last <= window.start:
            return False
        return any(window.holds(part.records["time"]).any() for part in self._parts(path, window))

    def _parts(self, path: Path, window: Window) -> list[_Year]:
        """Return the years of a file that reach into the window; those of earlier windows are freed."""
        wanted = sorted({int(str(time)[:4]) for time in (window.start, window.end)})
        self._years = {year: self._years.get(year) or Remembered(partial(self._year, year)) for year in wanted}
        return [self._years[year](path) for year in wanted]

    def _span(self, path: Path) -> tuple[np.datetime64, np.datetime64]:
        """Return the times of a file's first and last sounding, NaT where none has a time."""
        return kept(path, type(self), ("span",), lambda: _ends(self.ascents(path, [])))

    def _year(self, year: int, path: Path) -> _Year:
        options = ("year", year, self._tolerance, *self.options())
        return kept(path, type(self), options, lambda: self._decoded(path, year))

    def _decoded(self, path: Path, year: int) -> _Year:
        problems: list[str] = []
        untimed, batch, blocks = 0, [], [np.zeros(0, SOUNDING)]
        for ascent in self.ascents(path, problems):
            if np.isnat(ascent.time):
                untimed += 1
            elif int(str(ascent.time)[:4]) == year:
                batch.append(ascent)
            if len(batch) == _BATCH:
                blocks.append(self._records(batch))
                batch = []
        records = np.concatenate([*blocks, self._records(batch)])
        plain = [problem.replace(f"{path}: ", "", 1) for problem in problems]
        return _Year(records[np.argsort(records["time"], kind="stable")], untimed, plain)

    def _records(self, batch: list[Ascent]) -> NDArray:
        records = np.zeros(len(batch), SOUNDING)
        for name in ("time", "received", "version", "station", "latitude", "longitude"):
            records[name] = [getattr(ascent, name) for ascent in batch]
        for record, ascent, (levels, left_out) in zip(records, batch, self.levels(batch), strict=True):
            record["elevation"] = self.elevation(ascent, levels)
            put_levels(record, levels, left_out, self._tolerance)
        return records


def _ends(every: Iterator[Ascent]) -> tuple[np.datetime64, np.datetime64]:
    times = np.array([ascent.time for ascent in every], "M8[s]")
    times = times[~np.isnat(times)]
    return (times.min(), times.max()) if len(times) else (np.datetime64("NaT"), np.datetime64("NaT"))


def _keep(records: NDArray, good: NDArray[np.bool_], reason: str, inventory: Inventory) -> NDArray:
    """Return the good soundings, and count the others under a reason."""
    inventory.skip(reason, int((~good).sum()))
    return records[good]


def _repeated(records: NDArray) -> NDArray[np.bool_]:
    """Return which soundings (n,) another file has as well: of the same station, time and values."""
    keys = [(record["station"], int(record["time"].astype(int)), record["values"].tobytes()) for record in records]
    return pd.Series(keys, dtype=object).duplicated().to_numpy(bool)
