"""Reports of any kind in files of WMO BUFR: the messages, their headers, and their decoding.

Messages are found and filtered by their raw headers (WMO Manual on Codes, FM 94, sections 0 and 1); only those that can
hold a wanted report near the window are decoded, in a process of their own (`decoder`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import compress
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.common.foreign import reading
from dacycle.obs_ingest.sources.base import Inventory, take_inventory
from dacycle.obs_ingest.sources.bufr.decoder import DecodingProcess, Receipt, Report, Undecoded
from dacycle.obs_ingest.sources.files import Files, Paths, Remembered
from dacycle.obs_ingest.sources.versions import SUPERSEDED, heading_version, superseded
from dacycle.obs_ingest.table import ObservationError, is_position
from dacycle.obs_ingest.window import Window

__all__ = ["ECMWF", "NOT_STATED", "BufrFiles", "BufrSource", "Decoded", "Header", "report_time", "station_name"]

ECMWF = 98
NOT_STATED = 255
"""The international sub-category of messages that do not state one, as all before edition 4."""

_MARGIN = np.timedelta64(3, "h")  # a bulletin's header time may differ from its reports' times by this much
_BATCH = 1000  # messages in memory at a time
_BLOCK = 1 << 16
_HEADING_LENGTH = 100  # bytes before a message in which the heading of its bulletin stands
_VERSIONS = 1000  # more than `versions` has for bulletins
_ANONYMOUS = ("SHIP", "BUOY", "PLAT", "RIGG")  # call signs of whoever does not want to be named
_NEEDED = ("year", "month", "day", "hour", "latitude", "longitude")


@dataclass(frozen=True)
class Header:
    """Sections 0 and 1 of a message.

    Attributes:
        international: the international sub-category, or `NOT_STATED`.
        subcategory: the local one.
        version: which version of its reports it holds: its update sequence number, then the heading of its bulletin.
    """

    centre: int
    category: int
    international: int
    subcategory: int
    time: np.datetime64
    local_section: bool
    version: int


@dataclass(frozen=True)
class _Message:
    """The position of a message in its file; it has no header where it is cut off or damaged."""

    number: int
    start: int
    end: int
    header: Header | None


@dataclass(frozen=True)
class Decoded:
    """Decoded reports, when each was received, and its version."""

    reports: list[Report]
    received: list[np.datetime64]
    versions: list[int]

    def __getitem__(self, rows: NDArray[np.bool_]) -> "Decoded":
        """Return the reports of some rows (n,)."""
        reports, received, versions = self.reports, self.received, self.versions
        return Decoded([*compress(reports, rows)], [*compress(received, rows)], [*compress(versions, rows)])

    def extend(self, reports: list[Report], received: list[np.datetime64], versions: list[int]) -> None:
        """Add reports."""
        self.reports.extend(reports)
        self.received.extend(received)
        self.versions.extend(versions)

    def times(self) -> NDArray[np.datetime64]:
        """Return the times (n,) of the reports."""
        return np.array([report_time(report) for report in self.reports], "M8[s]")


class BufrFiles:
    """The BUFR files of a source, each scanned for messages once.

    Args:
        path: a file, a folder (its `*.bufr` and `*.bfr` files), a pattern, a URL, or several of them.
        source: the source's name, for messages.
        reader: the script whose `Reader` makes reports of a message; see `decoder`.
        unwanted: returns why a message with this header cannot hold a wanted report; empty if it can.
        latency, received: when reports that do not say are taken to have been received; see `Files`.
    """

    def __init__(
        self,
        path: Paths,
        source: str,
        reader: str,
        unwanted: Callable[[Header], str],
        latency: str | None = None,
        received: str | None = None,
    ) -> None:
        self._files = Files(source, path, ("*.bufr", "*.bfr"), self._holds, latency, received)
        self._reader, self._unwanted = Path(__file__).with_name(reader), unwanted
        self._scan = Remembered(lambda path: list(_messages(path)))

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digests of the files with messages near the window, by path."""
        return self._files.inputs(window)

    def read(self, window: Window, inventory: Inventory) -> Decoded:
        """Read the reports of messages near the window; each has a time and a position.

        The inventory counts the messages and reports that are left out.

        Raises:
            ObservationError: no file is there, or none holds a BUFR message.
        """
        with DecodingProcess(self._reader) as process:

            def read(path: Path) -> Decoded:
                return self._read_file(path, window, process, inventory)

            files = self._files.read(window, inventory, read).values()
        everything = Decoded([], [], [])
        for decoded in files:
            everything.extend(decoded.reports, decoded.received, decoded.versions)
        return everything

    def _holds(self, path: Path, window: Window) -> bool:
        """Return whether the header times of a file's messages reach into the window.

        They also do where no message is whole: the file's damage is then counted in every inventory.
        """
        times = [message.header.time for message in self._scan(path) if message.header is not None]
        return not times or not (max(times) < window.start - _MARGIN or min(times) > window.end + _MARGIN)

    def _read_file(self, path: Path, window: Window, process: DecodingProcess, inventory: Inventory) -> Decoded:
        """Return a file's reports, and count in the inventory what became of its messages."""
        messages = self._scan(path)
        decoded = Decoded([], [], [])
        with reading(path, ObservationError), path.open("rb") as file:
            inventory.found += len(messages)
            for begin in range(0, len(messages), _BATCH):
                batch = messages[begin : begin + _BATCH]
                wanted = [
                    (message, header) for message in batch if (header := self._wanted(path, message, window, inventory))
                ]
                requests = [(_content(file, message), _keeps_receipt(header)) for message, header in wanted]
                for (message, header), answer in zip(wanted, process.decode(requests), strict=True):
                    if isinstance(answer, Undecoded):
                        _damaged(inventory, f"{path}, message {message.number}: {answer.reason}")
                        continue
                    of_message, receipt = answer
                    inventory.found += max(len(of_message) - 1, 0)  # the message itself is counted already
                    placed = [report for report in of_message if _is_placed(report)]
                    inventory.skip("no time or position", len(of_message) - len(placed))
                    inventory.skip("no report of this kind", int(not of_message))
                    inventory.decoded += len(placed)
                    n = len(placed)
                    decoded.extend(placed, [_received(receipt, header)] * n, [header.version] * n)
        decoded.received[:] = self._files.received(path, decoded.times(), np.array(decoded.received, "M8[s]"))
        return decoded

    def _wanted(self, path: Path, message: _Message, window: Window, inventory: Inventory) -> Header | None:
        """Return the header of a message that can hold a wanted report; count in the inventory why others cannot."""
        if message.header is None:
            _damaged(inventory, f"{path}, message {message.number}: truncated or damaged")
        elif reason := self._unwanted(message.header) or _far(message.header, window):
            inventory.skip(reason)
        else:
            return message.header
        return None


class BufrSource(ABC):
    """A source of one kind of report in BUFR files.

    Args:
        path: a file, a folder (its `*.bufr` and `*.bfr` files), a pattern, a URL, or several of them.
        name, cutoff: see `build_source`.
        latency: how long after their time reports are taken to have been received, where the message does not say (only
            ECMWF's do); by default that stays unknown, and such reports are never late.
        received: `mtime` takes them to have been received when their file was last written, instead.
    """

    kind: ClassVar[str]
    """The default name."""
    reader: ClassVar[str]
    """The script whose `Reader` makes reports of a message; see `decoder`."""

    def __init__(
        self,
        path: Paths,
        name: str = "",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
    ) -> None:
        self.name, self.cutoff = name or self.kind, cutoff
        self._files = BufrFiles(path, self.name, self.reader, self.unwanted, latency, received)

    @staticmethod
    @abstractmethod
    def unwanted(header: Header) -> str:
        """Return why a message with this header cannot hold a wanted report; empty if it can."""

    @abstractmethod
    def table(self, decoded: Decoded, window: Window, inventory: Inventory) -> pd.DataFrame:
        """Return the table of the window's reports, and count in the inventory what is missing or left out."""

    def superseded(self, decoded: Decoded, window: Window) -> NDArray[np.bool_]:
        """Return which reports (n,) a later version supersedes."""
        stations = [station_name(report) for report in decoded.reports]
        received = np.array(decoded.received, "M8[s]")
        return superseded(stations, decoded.times(), np.array(decoded.versions, int), received, window)

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digests of the files with messages near the window, by path."""
        return self._files.inputs(window)

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """Read the window's reports; damaged messages are counted and named in the inventory.

        Raises:
            ObservationError: no file is there, or none holds a BUFR message.
        """
        inventory = Inventory(self.name)
        decoded = self._files.read(window, inventory)
        decoded = _kept(decoded, window.holds(decoded.times()), "report outside the window", inventory)
        decoded = _kept(decoded, ~self.superseded(decoded, window), SUPERSEDED, inventory)
        table = self.table(decoded, window, inventory)
        return table, take_inventory(inventory, table, window)


def _kept(decoded: Decoded, good: NDArray[np.bool_], reason: str, inventory: Inventory) -> Decoded:
    """Return the good reports, and count the others in the inventory under a reason."""
    lost = int((~good).sum())
    inventory.skip(reason, lost)
    inventory.decoded -= lost
    return decoded[good] if lost else decoded


def _content(file: BinaryIO, message: _Message) -> bytes:
    file.seek(message.start)
    return file.read(message.end - message.start)


def _keeps_receipt(header: Header) -> bool:
    return header.centre == ECMWF and header.local_section


def _messages(path: Path) -> Iterator[_Message]:
    """Yield the messages of a file, numbered from 1; one that is cut off or does not end in 7777 has no header."""
    with reading(path, ObservationError), path.open("rb") as file:
        start, number, end = _find(file, 0), 0, 0
        if start < 0:
            raise ObservationError(f"{path}: no BUFR message in this file of {path.stat().st_size} bytes")
        bulletin = heading_version(path.name) or 0
        while start >= 0:
            number += 1
            bulletin = _bulletin(file, end, start, bulletin)
            file.seek(start)
            head = file.read(30)
            end = start + int.from_bytes(head[4:7], "big")
            file.seek(max(end - 4, 0))
            whole = end - start >= 30 and file.read(4) == b"7777"
            header = _header(head, bulletin) if whole and _adds_up(file, start, end, head) else None
            yield _Message(number, start, end, header)
            start = _find(file, end if whole else start + 4)


def _bulletin(file: BinaryIO, end: int, start: int, before: int) -> int:
    """Return the version that the heading between two messages states; without one that of the message before."""
    begin = max(end, start - _HEADING_LENGTH)
    if begin >= start:
        return before
    file.seek(begin)
    stated = heading_version(file.read(start - begin).decode("latin-1"))
    return before if stated is None else stated


def _adds_up(file: BinaryIO, start: int, end: int, head: bytes) -> bool:
    """Return whether the lengths of the sections add up to the message's; ecCodes reads beyond its end if not."""
    has_second = head[17 if head[7] == 4 else 15] & 0x80
    section = start + 8
    for _ in range(4 if has_second else 3):
        file.seek(section)
        length = int.from_bytes(file.read(3), "big")
        if length < 4:
            return False
        section += length
    return section == end - 4


def _find(file: BinaryIO, start: int) -> int:
    """Return where the next message begins at or after `start`; -1 if there is none."""
    file.seek(start)
    block = file.read(4)  # it usually begins right there
    while len(block) > 3:
        offset = block.find(b"BUFR")
        if offset >= 0:
            return start + offset
        start += len(block) - 3
        block = block[-3:] + file.read(_BLOCK)
    return -1


def _header(message: bytes, bulletin: int) -> Header | None:
    """Parse sections 0 and 1 of editions 2 to 4; None where they make no sense."""
    edition = message[7]
    if edition == 4:
        centre, sequence, flag = int.from_bytes(message[12:14], "big"), message[16], message[17]
        category, international, subcategory = message[18:21]
        year, clock = int.from_bytes(message[23:25], "big"), message[25:29]
    elif edition in (2, 3):
        centre, sequence, flag, category, subcategory = message[13:18]
        international = NOT_STATED
        year, clock = message[20] % 100 + (1900 if message[20] % 100 >= 70 else 2000), message[21:25]
    else:
        return None
    time = _instant(year, *clock)
    version = (sequence % 255) * _VERSIONS + bulletin  # 255 is "not stated"
    if time is None:
        return None
    return Header(centre, category, international, subcategory, time, bool(flag & 0x80), version)


def _instant(year: int, month: int, day: int, hour: int, minute: int) -> np.datetime64 | None:
    """Return the time, or None where these numbers are not a time."""
    try:
        return np.datetime64(datetime(year, month, day, hour, minute), "s")
    except ValueError:
        return None


def _far(header: Header, window: Window) -> str:
    """Return why a message cannot hold a report of the window; empty if it can."""
    if header.time <= window.start - _MARGIN or header.time > window.end + _MARGIN:
        return "header time far from the window"
    return ""


def _damaged(inventory: Inventory, sentence: str) -> None:
    inventory.skip("damaged")
    inventory.problem(sentence)


def _received(receipt: Receipt | None, header: Header) -> np.datetime64:
    """Return when a report was received, NaT where unknown; the message states only the day of the month."""
    if receipt is not None:
        day, hour, minute, second = receipt
        for offset in (0, 1, -1, 2, 3, 4, 5):
            date = header.time.astype("datetime64[D]") + offset
            if date.astype(object).day == day:
                return date.astype("datetime64[s]") + np.timedelta64(hour * 3600 + minute * 60 + second, "s")
    return np.datetime64("NaT", "s")


def _is_placed(report: Report) -> bool:
    """Return whether a report has a time and a possible position."""
    if not all(name in report for name in _NEEDED) or np.isnat(report_time(report)):
        return False
    return bool(is_position(float(report["latitude"]), float(report["longitude"])))


def report_time(report: Report) -> np.datetime64:
    """Return the time of a report; NaT where its numbers are not a time."""
    year, month, day, hour, minute = (int(report.get(part, 0)) for part in ("year", "month", "day", "hour", "minute"))
    time = _instant(year, month, day, hour, minute)
    return np.datetime64("NaT", "s") if time is None else time


def station_name(report: Report) -> str:
    """Return WMO block and station number, else the WIGOS identifier or the call sign, else the position."""
    if "block" in report and "number" in report:
        return f"{int(report['block']):02d}{int(report['number']):03d}"
    if "wigos" in report:
        series, issuer, issue = (int(report.get(f"wigos_{part}", 0)) for part in ("series", "issuer", "issue"))
        return f"{series}-{issuer}-{issue}-{report['wigos']}"
    if report.get("ship", _ANONYMOUS[0]) not in _ANONYMOUS:
        return str(report["ship"])
    return f"{report['latitude']:+.2f}{report['longitude']:+.2f}"
