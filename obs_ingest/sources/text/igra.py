"""The Integrated Global Radiosonde Archive, version 2, of NOAA's NCEI: the source `igra`.

A file holds the soundings of one station, of its whole period (-data) or of the last years (-data-beg2024), as text or
zip. Soundings are brought to the standard levels by years, because a whole period can be 80 years long.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.common.foreign import read_text
from dacycle.forecast_adapter.physics import GRAVITY
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.sources.ascents import SOUNDING, ascent_table, put_levels
from dacycle.obs_ingest.sources.base import Inventory, take_inventory
from dacycle.obs_ingest.sources.files import Files, Paths, Remembered, content_digest
from dacycle.obs_ingest.sources.kept import kept
from dacycle.obs_ingest.sources.text.igra_text import Ascent, ascents, level_values
from dacycle.obs_ingest.station_network.stations import load_stations
from dacycle.obs_ingest.table import ObservationError, is_position
from dacycle.obs_ingest.window import Window

__all__ = ["Igra"]

_BATCH = 500  # soundings whose levels are in memory at a time
_LISTED = re.compile(r"(\S{11}) ([ \d.-]{8}) ([ \d.-]{9}) ([ \d.-]{6})( .*)?")
_UNKNOWN_ELEVATION = -998.0  # m; -998.8 and -999.9 in IGRA's list


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


class Igra:
    """Radiosondes from IGRA files: z, q, u, v, t on the standard levels, q up to 200 hPa.

    Values have the position in the sounding's header and the time of release, else the nominal hour. The inventory
    counts levels and values that are left out.

    Args:
        path: a file, a folder, a pattern, a URL, or several of them.
        name, cutoff: see `build_source`.
        latency: how long after their time soundings are taken to have been received; by default that stays unknown,
            and they are never late.
        received: `mtime` takes them to have been received when their file was last written, instead.
        network: a list with the stations' elevations: IGRA's igra2-station-list.txt, or CSV. Without it, or for a
            station that it lacks, the elevation is the height of the sounding's surface level, else unknown.
        tolerance: see `TempBufr`.
        world: its climatology scales the errors of humidity.
    """

    patterns = ("*-data*.txt", "*-data*.txt.gz", "*-data*.zip")

    def __init__(
        self,
        path: Paths,
        name: str = "igra",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
        network: str | None = None,
        tolerance: float = 1.0,
        world: World | None = None,
    ) -> None:
        if not tolerance > 0:
            raise ObservationError(f"source {name}: tolerance is {tolerance!r}, not above 0")
        self.name, self.cutoff = name, cutoff
        self._network, self._tolerance, self._world = network, float(tolerance), world
        self._files = Files(name, path, self.patterns, self._holds, latency, received)
        self._spans = Remembered(self._span)
        self._years: dict[int, Remembered[_Year]] = {}

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
        inventory.decoded = len(records)
        table = ascent_table(records, self.name, window, inventory, self._world)
        return table, take_inventory(inventory, table, window)

    def _of_window(self, path: Path, window: Window, inventory: Inventory) -> NDArray:
        """Return a file's soundings of the window."""
        parts = self._parts(path, window)
        records = np.concatenate([part.records for part in parts])
        records = records[window.holds(records["time"])]
        records["received"] = self._files.received(path, records["time"])
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
        return kept(path, Igra, ("span",), lambda: _ends(ascents(path, [])))

    def _year(self, year: int, path: Path) -> _Year:
        options = ("year", year, self._tolerance, self._digest)
        return kept(path, Igra, options, lambda: self._decoded(path, year))

    def _decoded(self, path: Path, year: int) -> _Year:
        problems: list[str] = []
        untimed, batch, blocks = 0, [], [np.zeros(0, SOUNDING)]
        for ascent in ascents(path, problems):
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
        records["received"] = np.datetime64("NaT")
        for name in ("time", "station", "latitude", "longitude"):
            records[name] = [getattr(ascent, name) for ascent in batch]
        for record, ascent, (levels, left_out) in zip(records, batch, level_values(batch), strict=True):
            surface = levels["z"][levels["surface"]] / GRAVITY
            known = surface[np.isfinite(surface)]
            record["elevation"] = self._elevations.get(ascent.station, known[0] if len(known) else np.nan)
            put_levels(record, levels, left_out, self._tolerance)
        return records

    @cached_property
    def _digest(self) -> str:
        """Return the digest of the station list."""
        return "" if self._network is None else content_digest(Path(self._network))

    @cached_property
    def _elevations(self) -> dict[str, float]:
        """Return the elevation (m) of each station on the list."""
        if self._network is None:
            return {}
        path = Path(self._network)
        listed = [_LISTED.fullmatch(line) for line in read_text(path, ObservationError).splitlines()]
        if None in listed or not listed:
            stations = load_stations(path, "sondes")
            return dict(zip(stations["station"], stations["elevation"], strict=True))
        pairs = ((match[1], float(match[4])) for match in listed if match is not None)
        return {station: elevation for station, elevation in pairs if elevation > _UNKNOWN_ELEVATION}


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
