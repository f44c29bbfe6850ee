"""NCEP's PrepBUFR, what its analyses were given and what they thought of it: the source `prepbufr`.

A file holds the reports of one analysis, each with the events that quality control added to its values: the last one
counts, which stands first. No genuine file was at hand: this follows NCEP's tables and NCEPLIBS-bufr.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.common.foreign import reading
from dacycle.forecast_adapter.physics import GRAVITY, ZERO_CELSIUS, dewpoint
from dacycle.obs_ingest.sources.aloft import LEFT_OUT, aloft_table, new_aloft
from dacycle.obs_ingest.sources.base import Inventory, take_inventory
from dacycle.obs_ingest.sources.bufr.headers import data_category, whole_messages
from dacycle.obs_ingest.sources.bufr.prepbufr_tables import TABLES, Report, Tables, reports, sequence_of
from dacycle.obs_ingest.sources.files import Files, Paths, Remembered
from dacycle.obs_ingest.sources.kept import kept
from dacycle.obs_ingest.sources.sounding import STANDARD
from dacycle.obs_ingest.sources.surface import at_sea, new_reports, put, surface_table
from dacycle.obs_ingest.table import ObservationError, is_position
from dacycle.obs_ingest.window import Window

__all__ = ["Prepbufr"]

USABLE = 3
"""The largest quality mark of a value to use: 0 kept by hand, 1 good, 2 not checked, 3 suspect; not 4 to 15."""

_VIRTUAL = 8
"""The program that turned a temperature into a virtual one (table D of PrepBUFR: 363008, VIRTMP)."""
_STATION_PRESSURE = (120, 180, 181, 187)
"""Types of report whose POB at the surface level is the pressure of the station; elsewhere it is a coordinate."""


@dataclass(frozen=True)
class _Kind:
    """A kind of report: its sequences, the types (of mass and of wind), and whose errors it has."""

    sequences: tuple[str, ...]
    types: tuple[int, ...]
    errors: str = ""
    surface: bool = False


KINDS: dict[str, _Kind] = {
    "sondes": _Kind(("ADPUPA",), (120, 132, 220, 221, 232)),
    "stations": _Kind(("ADPSFC",), (181, 187, 281, 287), surface=True),
    "marine": _Kind(("SFCSHP",), (180, 182, 280, 282), "marine", surface=True),
    "aircraft": _Kind(("AIRCFT", "AIRCAR"), (*range(130, 137), *range(230, 237)), "aircraft"),
    "motion_vectors": _Kind(("SATWND",), tuple(range(240, 261)), "motion vectors"),
}
"""Kinds of report by the value of `reports`."""

_PLACE = ("SID", "XOB", "YOB", "DHR", "ELV", "TYP", "CAT", "HRDR", "XDR", "YDR", "PMO", "PMQ")
_STACKS = {"POB": "PQM", "QOB": "QQM", "TOB": "TQM", "ZOB": "ZQM", "UOB": "WQM", "VOB": "WQM"}
"""The values of a level, each on a stack of events, and the quality mark of each."""
_WANTED = frozenset((*_PLACE, *_STACKS, *_STACKS.values(), "TPC"))


@dataclass(frozen=True)
class _Content:
    """The reports of a kind in a file, and a sentence about each damaged message."""

    records: NDArray
    found: int
    problems: list[str]


class Prepbufr:
    """Reports of one kind from PrepBUFR files.

    `sondes` give z, q, u, v, t where they report a standard level, at the place and time of the drifting sonde;
    `aircraft` and `motion_vectors` give values at their own pressures; `stations` and `marine` what `SynopBufr` does
    without precipitation. Temperatures are those before NCEP made them virtual, with the last quality mark.

    Args:
        path: a file, a folder, a pattern, a URL, or several of them.
        reports: `sondes`, `stations`, `marine`, `aircraft` or `motion_vectors`.
        name, cutoff: see `build_source`.
        latency: how long after their time values are taken to have been received; by default that stays unknown.
        received: `mtime` takes them to have been received when their file was last written, instead.
    """

    patterns = ("*prepbufr*",)

    def __init__(
        self,
        path: Paths,
        reports: str,
        name: str = "prepbufr",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
    ) -> None:
        if reports not in KINDS:
            raise ObservationError(f"source {name}: reports is {reports!r}; it is one of {', '.join(KINDS)}")
        self.name, self.cutoff, self._reports, self._kind = name, cutoff, reports, KINDS[reports]
        self._files = Files(name, path, self.patterns, self._holds, latency, received)
        self._content = Remembered(self._kept)

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digests of the files with reports of the window, or without one of this kind, by path."""
        return self._files.inputs(window)

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """Read the reports of the window.

        Damaged messages are counted with every window of their file.

        Raises:
            ObservationError: no file is there, or none can be read.
        """
        inventory = Inventory(self.name)
        blocks = self._files.read(window, inventory, lambda path: self._of_window(path, window, inventory)).values()
        records = np.concatenate([_empty(self._kind), *blocks])
        placed = is_position(records["latitude"], records["longitude"])
        inventory.skip("no position", int((~placed).sum()))
        records = records[placed]
        inventory.decoded = len(records)
        if not self._kind.surface:
            table = aloft_table(records, self.name, self._kind.errors, inventory)
            return table, take_inventory(inventory, table, window)
        if self._reports == "marine":
            records, on_land = at_sea(records)
            inventory.skip("ship on land", on_land)
            inventory.decoded -= on_land
        table = surface_table(records, self.name, inventory, self._kind.errors)
        return table, take_inventory(inventory, table, window)

    def _of_window(self, path: Path, window: Window, inventory: Inventory) -> NDArray:
        content = self._content(path)
        inventory.found += len(content.problems)
        inventory.skip("damaged", len(content.problems))
        for problem in content.problems:
            inventory.problem(f"{path}, {problem}")
        records = content.records[window.holds(content.records["time"])]
        inventory.found += len(records)
        records["received"] = self._files.received(path, records["time"])
        return records

    def _holds(self, path: Path, window: Window) -> bool:
        times = self._content(path).records["time"]
        return not len(times) or bool(window.holds(times).any())

    def _kept(self, path: Path) -> _Content:
        return kept(path, Prepbufr, (self._reports,), lambda: self._decoded(path))

    def _decoded(self, path: Path) -> _Content:
        tables, problems, blocks = Tables(_WANTED), [], [_empty(self._kind)]
        with reading(path, ObservationError):
            for number, message, time in whole_messages(path):
                if message is None:
                    problems.append(f"message {number}: truncated or damaged")
                    continue
                try:
                    if data_category(message) == TABLES:
                        tables.add(message)
                        continue
                    sequence = sequence_of(message, tables)
                    if tables.name(sequence) in self._kind.sequences:
                        of_message = list(reports(message, tables.steps(sequence)))
                        blocks.append(_records(of_message, time, self._kind))
                except (ValueError, LookupError) as error:
                    problems.append(f"message {number}: {error}")
        if not tables.known:
            raise ObservationError(f"{path}: no tables of NCEP in this file; PrepBUFR begins with them")
        records = np.concatenate(blocks)
        return _Content(records, len(records), problems)


def _empty(kind: _Kind) -> NDArray:
    return new_reports(0) if kind.surface else new_aloft(0)


def _records(every: list[Report], time: np.datetime64, kind: _Kind) -> NDArray:
    """Return the records of a message's reports."""
    wanted = [report for report in every if _number(report, "TYP") in kind.types]
    return _surface(wanted, time) if kind.surface else _aloft(wanted, time, kind)


def _aloft(every: list[Report], time: np.datetime64, kind: _Kind) -> NDArray:
    pairs = [(report, level) for report in every for level in _levels(report)]
    if "ADPUPA" in kind.sequences:
        pairs = [(report, level) for report, level in pairs if np.isclose(_last(level, "POB")[0] * 100, STANDARD).any()]
    records = new_aloft(len(pairs))
    for record, (report, level) in zip(records, pairs, strict=True):
        record["time"] = _time(time, level.get("HRDR"), report.get("DHR"))
        record["name"] = "" if "SATWND" in kind.sequences else report.get("SID") or ""
        record["latitude"], record["longitude"] = (
            _first(level, report, "YDR", "YOB"),
            _first(level, report, "XDR", "XOB"),
        )
        record["elevation"] = _number(report, "ELV") if "ADPUPA" in kind.sequences else np.nan
        pressure, good = _last(level, "POB")
        record["pressure"] = np.round(pressure * 100, 1)
        record["reason"] = 0 if good else LEFT_OUT.index("report rejected by its provider")
        values, flagged = _values(level)
        for name in ("t", "q", "z", "u", "v"):
            record[name] = values[name]
        record["flagged"] = flagged
        record["station"] = f"{report.get('SID')} {_number(report, 'TYP'):.0f} {record['pressure']:.0f}"
    return records


def _surface(every: list[Report], time: np.datetime64) -> NDArray:
    pairs = [(report, level) for report in every for level in _levels(report)[:1]]
    records = new_reports(len(pairs))
    columns = {name: np.full(len(pairs), np.nan) for name in ("t2m", "td2m", "msl", "ps", "u10", "v10")}
    lost = np.zeros(len(pairs), np.uint8)
    for i, (report, level) in enumerate(pairs):
        records["time"][i] = _time(time, report.get("DHR"))
        records["station"][i] = report.get("SID") or ""
        for name, key in (("latitude", "YOB"), ("longitude", "XOB"), ("elevation", "ELV")):
            records[name][i] = _number(report, key)
        values, lost[i] = _values(level)
        pressure, good = _last(level, "POB")
        if values["q"] > 0 and pressure > 0:
            columns["td2m"][i] = dewpoint(values["q"], pressure * 100)
        if _number(report, "TYP") in _STATION_PRESSURE and _number(level, "CAT") == 0:
            columns["ps"][i] = pressure * 100 if good else np.nan
            lost[i] += not good
        for name, key in (("t2m", "t"), ("u10", "u"), ("v10", "v")):
            columns[name][i] = values[key]
        mark = report.get("PMQ")
        columns["msl"][i] = _number(report, "PMO") * 100 if mark is None or mark <= USABLE else np.nan
    for name, column in columns.items():
        put(records, name, column)
    records["flagged"] += lost
    return records


def _levels(report: Report) -> list[Report]:
    """Return the levels of a report; one with a single level holds its elements itself."""
    levels = report.get("CAT")
    return levels if isinstance(levels, list) else [report]


def _values(level: Report) -> tuple[dict[str, float], int]:
    """Return the values of a level in SI, NaN where there is none or it is not usable, and how many are not."""
    found = {name: _last(level, name) for name in _STACKS}
    flagged = sum(not good and np.isfinite(value) for name, (value, good) in found.items() if name != "POB")
    used = {name: value if good else np.nan for name, (value, good) in found.items()}
    q = used["QOB"] * 1e-6
    t = used["TOB"] + ZERO_CELSIUS
    if level.get("TOB") and level["TOB"][0].get("TPC") == _VIRTUAL:
        sensible = next((event["TOB"] for event in level["TOB"] if event.get("TPC") != _VIRTUAL), None)
        t = t / (1 + 0.608 * q) if sensible is None else t - used["TOB"] + sensible
    z = used["ZOB"] * GRAVITY
    return {"t": t, "q": q, "z": z, "u": used["UOB"], "v": used["VOB"]}, int(flagged)


def _last(level: Report, name: str) -> tuple[float, bool]:
    """Return the value of the last event, NaN where there is none, and whether its mark lets it be used."""
    stack = level.get("UOB" if name == "VOB" else name)
    if not isinstance(stack, list) or not stack:
        return np.nan, False
    mark = stack[0].get(_STACKS[name])
    return _number(stack[0], name), mark is None or mark <= USABLE


def _number(values: Report, name: str) -> float:
    value: Any = values.get(name)
    return np.nan if value is None or isinstance(value, str | list) else float(value)


def _first(level: Report, report: Report, drifted: str, start: str) -> float:
    place = _number(level, drifted)
    return _number(report, start) if np.isnan(place) else place


def _time(cycle: np.datetime64, *hours: Any) -> np.datetime64:
    """Return the time that lies the first known hours from the cycle's; NaT without any."""
    known: Iterator[float] = (hour for hour in hours if hour is not None)
    offset = next(known, None)
    return np.datetime64("NaT") if offset is None else cycle + np.timedelta64(round(offset * 3600), "s")
