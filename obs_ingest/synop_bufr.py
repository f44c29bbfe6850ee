"""SYNOP reports in WMO BUFR: the source `synop_bufr`.

Messages are found and filtered by their raw headers (WMO Manual on Codes, FM 94, sections 0 and 1); only those that can
hold a surface report near the window are decoded, in a process of their own (`synop_decoder`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from glob import glob
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.worlds import World
from dacycle.obs_ingest.sources import Inventory, duration, take_inventory
from dacycle.obs_ingest.surface import new_reports, put, put_wind, surface_table
from dacycle.obs_ingest.synop_decoder import Decoder, DecodingError, Receipt, Report
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window

__all__ = ["SynopBufr"]

ECMWF = 98
COMPANIONS = (2, 4)
"""ECMWF's sub-categories of additional data (extremes, snow, cloud) that go with the SYNOPs of 1 and 3."""

_MARGIN = np.timedelta64(3, "h")  # a bulletin's header time may differ from its reports' times by this much
_MOST_PROBLEMS = 20
_NEEDED = ("year", "month", "day", "hour", "latitude", "longitude")


@dataclass(frozen=True)
class _Header:
    """What sections 0 and 1 of a message say."""

    centre: int
    category: int
    subcategory: int
    time: np.datetime64
    local_section: bool


@dataclass
class _Decoded:
    """Reports of a read, and when they were received."""

    reports: list[Report] = field(default_factory=list)
    received: list[np.datetime64] = field(default_factory=list)


class SynopBufr:
    """Land SYNOPs from BUFR files: t2m, td2m, msl, ps, u10, v10 and 6-h precipitation (traces are 0).

    Args:
        world, seed, name, cutoff: see `build_source`; nothing here is drawn.
        path: a file, a folder (its `*.bufr` and `*.bfr` files) or a pattern.
        latency: how long after their time reports are taken to have been received, where the message does not say (only
            ECMWF's do); by default that stays unknown, and such reports are never late.
    """

    def __init__(
        self,
        world: World | None,
        seed: int,
        path: Path | str,
        name: str = "synop_bufr",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
    ) -> None:
        self.name, self.cutoff, self._path = name, cutoff, Path(path)
        self._latency = None if latency is None else duration(latency, f"source {name}: latency").to_timedelta64()
        self._spans: dict[tuple[Path, int, float], tuple[np.datetime64, np.datetime64]] = {}

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """The window's SYNOPs. Damaged messages are counted and named in the inventory.

        Raises:
            ObservationError: no file is there, or one holds no BUFR message at all.
        """
        inventory, decoded = Inventory(self.name), _Decoded()
        with Decoder() as decoder:
            for path in self._files():
                if self._may_hold(path, window):
                    _read_file(path, window, decoder, decoded, inventory)
        table = self._table(decoded, window, inventory)
        return table, take_inventory(inventory, table, window)

    def _files(self) -> list[Path]:
        if self._path.is_dir():
            files = [f for pattern in ("*.bufr", "*.bfr") for f in self._path.glob(pattern)]
        else:
            files = [Path(f) for f in glob(str(self._path), recursive=True)]
        if not files:
            raise ObservationError(f"source {self.name}: no BUFR file at {self._path}")
        return sorted(files)

    def _may_hold(self, path: Path, window: Window) -> bool:
        """Whether the header times of a file reach into the window; each file is scanned once."""
        status = path.stat()
        key = (path, status.st_size, status.st_mtime)
        if key not in self._spans:
            times = [header.time for _, message in _messages(path) if message and (header := _header(message))]
            never = np.datetime64("NaT", "s")
            self._spans[key] = (min(times), max(times)) if times else (never, never)
        first, last = self._spans[key]
        # A file without one whole message (NaT) is opened, so that its damage is counted in every inventory.
        return not (last < window.start - _MARGIN or first > window.end + _MARGIN)

    def _table(self, decoded: _Decoded, window: Window, inventory: Inventory) -> pd.DataFrame:
        reports = _reports(decoded)
        held = window.holds(reports["time"])
        inventory.skip("report outside the window", int((~held).sum()))
        return surface_table(reports[held], self.name, inventory, self._latency)


def _read_file(path: Path, window: Window, decoder: Decoder, decoded: _Decoded, inventory: Inventory) -> None:
    """Add a file's reports to `decoded`, and what became of its messages to the inventory."""
    inventory.files.append(str(path))
    wanted: list[tuple[int, _Header, bytes]] = []
    for number, message in _messages(path):
        inventory.found += 1
        header = _header(message) if message else None
        if not message or header is None:
            _problem(inventory, f"{path}, message {number}: truncated or damaged")
        elif reason := _unwanted(header, window):
            inventory.skip(reason)
        else:
            wanted.append((number, header, message))
    requests = [(message, header.centre == ECMWF and header.local_section) for _, header, message in wanted]
    for (number, header, _), answer in zip(wanted, decoder.decode(requests), strict=True):
        if isinstance(answer, DecodingError):
            _problem(inventory, f"{path}, message {number}: {answer}")
            continue
        reports, receipt = answer
        placed = [report for report in reports if _is_placed(report)]
        inventory.skip("no time or position", len(reports) - len(placed))
        inventory.decoded += bool(placed)
        decoded.reports += placed
        decoded.received += [_received(receipt, header)] * len(placed)


def _messages(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Number from 1 and bytes of each message; None for one that is cut off or does not end in 7777."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ObservationError(f"{path}: cannot be read: {error}") from None
    start, number = data.find(b"BUFR"), 0
    if start < 0:
        raise ObservationError(f"{path}: no BUFR message in this file of {len(data)} bytes")
    while start >= 0:
        number += 1
        end = start + int.from_bytes(data[start + 4 : start + 7], "big")
        whole = end - start >= 30 and data[end - 4 : end] == b"7777" and end <= len(data)
        yield number, data[start:end] if whole else None
        start = data.find(b"BUFR", end if whole else start + 4)


def _header(message: bytes) -> _Header | None:
    """Sections 0 and 1 of editions 2 to 4; None where they make no sense."""
    edition = message[7]
    if edition == 4:
        centre, flag, category, subcategory = (
            int.from_bytes(message[12:14], "big"),
            message[17],
            message[18],
            message[20],
        )
        year, clock = int.from_bytes(message[23:25], "big"), message[25:29]
    elif edition in (2, 3):
        centre, flag, category, subcategory = message[13], message[15], message[16], message[17]
        year, clock = message[20] % 100 + (1900 if message[20] % 100 >= 70 else 2000), message[21:25]
    else:
        return None
    time = _instant(year, *clock)
    return None if time is None else _Header(centre, category, subcategory, time, bool(flag & 0x80))


def _instant(year: int, month: int, day: int, hour: int, minute: int) -> np.datetime64 | None:
    """The time, or None where these numbers are none."""
    try:
        return np.datetime64(datetime(year, month, day, hour, minute), "s")
    except ValueError:
        return None


def _unwanted(header: _Header, window: Window) -> str:
    """Why a message cannot hold a wanted report, or nothing."""
    if header.category != 0:
        return f"data category {header.category}, not surface data over land"
    if header.centre == ECMWF and header.subcategory in COMPANIONS:
        return f"additional data (sub-category {header.subcategory})"
    if header.time <= window.start - _MARGIN or header.time > window.end + _MARGIN:
        return "header time far from the window"
    return ""


def _problem(inventory: Inventory, what: str) -> None:
    inventory.skip("damaged")
    if len(inventory.problems) < _MOST_PROBLEMS:
        inventory.problems.append(what)


def _received(receipt: Receipt | None, header: _Header) -> np.datetime64:
    """When a report was received, whose message keeps the day of the month only; NaT where unknown."""
    if receipt is not None:
        day, hour, minute, second = receipt
        for offset in (0, 1, -1, 2, 3, 4, 5):
            date = header.time.astype("datetime64[D]") + offset
            if date.astype(object).day == day:
                return date.astype("datetime64[s]") + np.timedelta64(hour * 3600 + minute * 60 + second, "s")
    return np.datetime64("NaT", "s")


def _is_placed(report: Report) -> bool:
    """Whether a report has a time and a possible position."""
    if not all(name in report for name in _NEEDED) or np.isnat(_time(report)):
        return False
    return abs(float(report["latitude"])) <= 90 and -180 <= float(report["longitude"]) <= 360


def _time(report: Report) -> np.datetime64:
    year, month, day, hour, minute = (int(report.get(part, 0)) for part in ("year", "month", "day", "hour", "minute"))
    time = _instant(year, month, day, hour, minute)
    return np.datetime64("NaT", "s") if time is None else time


def _station(report: Report) -> str:
    """WMO block and station number, else the WIGOS identifier, else the position."""
    if "block" in report and "number" in report:
        return f"{int(report['block']):02d}{int(report['number']):03d}"
    if "wigos" in report:
        series, issuer, issue = (int(report.get(f"wigos_{part}", 0)) for part in ("series", "issuer", "issue"))
        return f"{series}-{issuer}-{issue}-{report['wigos']}"
    return f"{report['latitude']:+.2f}{report['longitude']:+.2f}"


def _reports(decoded: _Decoded) -> NDArray:
    """Records of the decoded reports."""
    reports = new_reports(len(decoded.reports))
    reports["time"] = [_time(report) for report in decoded.reports]
    reports["received"] = decoded.received
    reports["station"] = [_station(report) for report in decoded.reports]
    columns = {
        name: np.array([report.get(name, np.nan) for report in decoded.reports], float)
        for name in ("latitude", "longitude", "elevation", "t2m", "td2m", "msl", "ps", "tp", "direction", "speed")
    }
    for name in ("latitude", "longitude", "elevation"):
        reports[name] = columns[name]
    for name in ("t2m", "td2m", "msl", "ps"):
        put(reports, name, columns[name])
    put(reports, "tp", np.where(columns["tp"] < 0, 0.0, columns["tp"]))  # -0.1 is BUFR's trace
    put_wind(reports, columns["direction"], columns["speed"])
    return reports
