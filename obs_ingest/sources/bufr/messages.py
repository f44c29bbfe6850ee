"""Reports of any kind in files of WMO BUFR: the messages, their headers, and their decoding.

Messages are found and filtered by their raw headers (WMO Manual on Codes, FM 94, sections 0 and 1); only those that can
hold a wanted report near the window are decoded, in a process of their own (`decoder`). What a file holds, and the
reports of each six hours of it, are pure functions of its content, and are `kept`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.common.foreign import reading
from dacycle.obs_ingest.sources.base import Inventory, take_inventory
from dacycle.obs_ingest.sources.bufr.decoder import Receipt, Report, Undecoded, decode
from dacycle.obs_ingest.sources.files import Files, Paths, Remembered
from dacycle.obs_ingest.sources.kept import kept
from dacycle.obs_ingest.sources.versions import SUPERSEDED, heading_version, superseded
from dacycle.obs_ingest.table import ObservationError, is_position
from dacycle.obs_ingest.window import Window

__all__ = [
    "ECMWF",
    "NOT_STATED",
    "BufrFiles",
    "BufrSource",
    "Header",
    "data_category",
    "exact_time",
    "report_time",
    "station_name",
    "whole_messages",
]

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
_PART = 6 * 3600  # s; reports are decoded and kept by parts, such as the messages of 06:00:01 to 12:00 UTC


@dataclass(frozen=True)
class Header:
    """What sections 0 and 1 say of a message's content.

    Attributes:
        international: the international sub-category, or `NOT_STATED`.
        subcategory: the local one.
    """

    centre: int
    category: int
    international: int
    subcategory: int
    local_section: bool


@dataclass(frozen=True)
class _Scan:
    """The n messages of a file.

    Attributes:
        start, end: (n,) where they are.
        time: (n,) of their headers; NaT where a message is cut off or damaged.
        version: (n,) which version of its reports each holds: its update sequence number, then the heading of its
            bulletin.
        headers: the different headers.
        header: (n,) which of them each has; -1 where it is cut off or damaged.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    time: NDArray[np.datetime64]
    version: NDArray[np.int64]
    headers: list[Header]
    header: NDArray[np.int64]

    def near(self, window: Window) -> NDArray[np.bool_]:
        """Return which messages can hold a report of the window, by the time of their headers."""
        return (self.time > window.start - _MARGIN) & (self.time <= window.end + _MARGIN)


@dataclass(frozen=True)
class _Part:
    """What became of m messages of a file.

    Attributes:
        message: (m,) their positions in the file.
        found, placed: (m,) their reports, and those with a time and a position; `found` is -1 where a message cannot be
            decoded.
        reasons: why, by position.
        of: (n,) the position of the message of each record.
        records: (n,) of the reports.
        final: whether decoding again would give the same.
    """

    message: NDArray[np.int64]
    found: NDArray[np.int64]
    placed: NDArray[np.int64]
    reasons: dict[int, str]
    of: NDArray[np.int64]
    records: NDArray
    final: bool


class BufrFiles:
    """The BUFR files of a source.

    Args:
        path: a file, a folder (its `*.bufr` and `*.bfr` files), a pattern, a URL, or several of them.
        source: the source's name, for messages.
        reader: the script whose `Reader` makes reports of a message; see `decoder`.
        unwanted: returns why a message with this header cannot hold a wanted report; empty if it can.
        records: makes a structured array of reports, each of which has a time and a position; `time`, `received`,
            `version` and `station` are among its fields.
        options: what else the records depend on, as values with a `repr` that says all.
        latency, received: when reports that do not say are taken to have been received; see `Files`.
    """

    def __init__(
        self,
        path: Paths,
        source: str,
        reader: str,
        unwanted: Callable[[Header], str],
        records: Callable[[list[Report]], NDArray],
        options: tuple[object, ...] = (),
        latency: str | None = None,
        received: str | None = None,
    ) -> None:
        self._files = Files(source, path, ("*.bufr", "*.bfr"), self._holds, latency, received)
        self._reader, self._unwanted = Path(__file__).with_name(reader), unwanted
        self._records, self._options = records, (reader, *options)
        self._scan = Remembered(_kept_scan)
        self._span = Remembered(self._times)

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digests of the files with messages near the window, by path."""
        return self._files.inputs(window)

    def read(self, window: Window, inventory: Inventory) -> NDArray:
        """Read the records of messages near the window.

        The inventory counts the messages and reports that are left out.

        Raises:
            ObservationError: no file is there, or none holds a BUFR message.
        """
        files = self._files.read(window, inventory, lambda path: self._read_file(path, window, inventory))
        return np.concatenate([self._records([]), *files.values()])

    def _times(self, path: Path) -> tuple[np.datetime64, np.datetime64]:
        """Return the earliest and latest header time of a file's messages, NaT where none is whole."""
        times = self._scan(path).time
        times = times[~np.isnat(times)]
        return (times.min(), times.max()) if len(times) else (np.datetime64("NaT"), np.datetime64("NaT"))

    def _holds(self, path: Path, window: Window) -> bool:
        """Return whether the header times of a file's messages reach into the window.

        They also do where no message is whole: the file's damage is then counted in every inventory.
        """
        first, last = self._span(path)
        if np.isnat(first) or not (last < window.start - _MARGIN or first > window.end + _MARGIN):
            return True
        self._scan.forget(path)
        return False

    def _read_file(self, path: Path, window: Window, inventory: Inventory) -> NDArray:
        """Return a file's records, and count in the inventory what became of its messages."""
        scan = self._scan(path)
        with reading(path, ObservationError):
            unwanted = np.array([self._unwanted(header) for header in scan.headers] + [""], object)[scan.header]
            whole, near = scan.header >= 0, scan.near(window)
            wanted = whole & (unwanted == "")
            number = (scan.time.astype("M8[s]").astype(np.int64) - 1) // _PART
            parts = [
                self._part(path, scan, np.nonzero(wanted & (number == each))[0])
                for each in np.unique(number[wanted & near])
            ]
        problems = [((i // _BATCH, 0, i), "truncated or damaged") for i in np.nonzero(~whole)[0].tolist()]
        for part in parts:
            problems += [((i // _BATCH, 1, i), reason) for i, reason in part.reasons.items() if near[i]]
        inventory.found += len(scan.start)
        inventory.skip("damaged", len(problems))
        for (_, _, i), reason in sorted(problems):
            inventory.problem(f"{path}, message {i + 1}: {reason}")
        for reason in dict.fromkeys(unwanted[whole & ~wanted].tolist()):
            inventory.skip(reason, int((unwanted == reason).sum()))
        inventory.skip("header time far from the window", int((wanted & ~near).sum()))
        records = [self._records([])]
        for part in parts:
            rows = near[part.message]
            found, placed = part.found[rows], part.placed[rows]
            inventory.found += int(np.maximum(found - 1, 0).sum())  # the messages themselves are counted already
            inventory.skip("no time or position", int(np.maximum(found - placed, 0).sum()))
            inventory.skip("no report of this kind", int((found == 0).sum()))
            inventory.decoded += int(placed.sum())
            of_part = part.records
            of_part["version"] = scan.version[part.of]
            records.append(of_part[near[part.of]])
        of_file = np.concatenate(records)
        of = np.concatenate([np.empty(0, int), *(part.of[near[part.of]] for part in parts)])
        of_file = of_file[np.argsort(of, kind="stable")]
        of_file["received"] = self._files.received(path, of_file["time"], of_file["received"])
        return of_file

    def _part(self, path: Path, scan: _Scan, messages: NDArray[np.intp]) -> _Part:
        """Return what becomes of some messages of a file."""
        options = (*self._options, messages.tolist())
        return kept(path, self._records, options, lambda: self._decoded(path, scan, messages), lambda part: part.final)

    def _decoded(self, path: Path, scan: _Scan, messages: NDArray[np.intp]) -> _Part:
        counts: list[tuple[int, int]] = []
        reasons: dict[int, str] = {}
        of: list[int] = []
        blocks, final = [self._records([])], True
        with path.open("rb") as file:
            for begin in range(0, len(messages), _BATCH):
                batch = messages[begin : begin + _BATCH].tolist()
                headers = [scan.headers[scan.header[i]] for i in batch]
                requests = [
                    (_content(file, int(scan.start[i]), int(scan.end[i])), _keeps_receipt(header))
                    for i, header in zip(batch, headers, strict=True)
                ]
                placed: list[Report] = []
                received: list[np.datetime64] = []
                for i, answer in zip(batch, decode(self._reader, requests), strict=True):
                    if isinstance(answer, Undecoded):
                        reasons[i], final = answer.reason, final and answer.final
                        counts.append((-1, 0))
                        continue
                    reports, receipt = answer
                    good = [report for report in reports if _is_placed(report)]
                    counts.append((len(reports), len(good)))
                    placed += good
                    received += [_received(receipt, scan.time[i])] * len(good)
                    of += [i] * len(good)
                records = self._records(placed)
                records["received"] = np.array(received, "M8[s]")
                blocks.append(records)
        found, placed_counts = np.array(counts, np.int64).reshape(-1, 2).T
        rows = np.asarray(messages, np.int64)
        return _Part(rows, found, placed_counts, reasons, np.array(of, np.int64), np.concatenate(blocks), final)


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
    options: tuple[object, ...] = ()
    """What the records depend on beside the reports, as values with a `repr` that says all."""

    def __init__(
        self,
        path: Paths,
        name: str = "",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
    ) -> None:
        self.name, self.cutoff = name or self.kind, cutoff
        self._files = BufrFiles(
            path, self.name, self.reader, self.unwanted, self.records, self.options, latency, received
        )

    @staticmethod
    @abstractmethod
    def unwanted(header: Header) -> str:
        """Return why a message with this header cannot hold a wanted report; empty if it can."""

    @abstractmethod
    def records(self, reports: list[Report]) -> NDArray:
        """Return a structured array (n,) of reports, with `time`, `received`, `version` and `station`.

        It depends on the reports and `options` only.
        """

    @abstractmethod
    def table(self, records: NDArray, window: Window, inventory: Inventory) -> pd.DataFrame:
        """Return the table of the window's reports, and count in the inventory what is missing or left out."""

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digests of the files with messages near the window, by path."""
        return self._files.inputs(window)

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """Read the window's reports; damaged messages are counted and named in the inventory.

        Raises:
            ObservationError: no file is there, or none holds a BUFR message.
        """
        inventory = Inventory(self.name)
        records = self._files.read(window, inventory)
        records = _keep(records, window.holds(records["time"]), "report outside the window", inventory)
        stations, versions = records["station"], records["version"].astype(int)
        old = superseded(stations, records["time"], versions, records["received"], window)
        records = _keep(records, ~old, SUPERSEDED, inventory)
        table = self.table(records, window, inventory)
        return table, take_inventory(inventory, table, window)


def _keep(records: NDArray, good: NDArray[np.bool_], reason: str, inventory: Inventory) -> NDArray:
    """Return the good records, and count the others in the inventory under a reason."""
    lost = int((~good).sum())
    inventory.skip(reason, lost)
    inventory.decoded -= lost
    return records[good] if lost else records


def _content(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _keeps_receipt(header: Header) -> bool:
    return header.centre == ECMWF and header.local_section


def _kept_scan(path: Path) -> _Scan:
    """Return the messages of a file, whose name may state the version of its bulletin."""
    bulletin = heading_version(path.name) or 0
    return kept(path, _scanned, (bulletin,), lambda: _scanned(path, bulletin))


def _scanned(path: Path, bulletin: int) -> _Scan:
    start, end, found = zip(*_messages(path, bulletin), strict=True)
    headers = list(dict.fromkeys(header[0] for header in found if header is not None))
    position = {header: i for i, header in enumerate(headers)}
    times = [np.datetime64("NaT", "s") if header is None else header[1] for header in found]
    return _Scan(
        np.array(start, np.int64),
        np.array(end, np.int64),
        np.array(times, "M8[s]"),
        np.array([0 if header is None else header[2] for header in found], np.int64),
        headers,
        np.array([-1 if header is None else position[header[0]] for header in found], np.int64),
    )


_Found = tuple[Header, np.datetime64, int]
"""What a message's header says, its time and its version."""


def _messages(path: Path, bulletin: int) -> Iterator[tuple[int, int, _Found | None]]:
    """Yield start, end and header of a file's messages; one that is cut off or does not end in 7777 has no header."""
    with reading(path, ObservationError), path.open("rb") as file:
        before = 0
        for start, end, head, whole in _extents(file, path):
            bulletin = _bulletin(file, before, start, bulletin)
            yield start, end, _header(head, bulletin) if whole else None
            before = end


def _extents(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, bytes, bool]]:
    """Yield start and end of each message, its first 30 bytes, and whether its lengths agree with one another."""
    start = _find(file, 0)
    if start < 0:
        raise ObservationError(f"{path}: no BUFR message in this file of {path.stat().st_size} bytes")
    while start >= 0:
        file.seek(start)
        head = file.read(30)
        end = start + int.from_bytes(head[4:7], "big")
        file.seek(max(end - 4, 0))
        ended = end - start >= 30 and file.read(4) == b"7777"
        yield start, end, head, ended and _adds_up(file, start, end, head)
        start = _find(file, end if ended else start + 4)


def whole_messages(path: Path) -> Iterator[tuple[int, bytes | None, np.datetime64]]:
    """Yield number, content and header time of a file's messages; one that is cut off or damaged has no content.

    The time is NaT where the header states none, as those of NCEP's tables.

    Raises:
        ObservationError: it holds no BUFR message.
    """
    with path.open("rb") as file:
        for number, (start, end, head, whole) in enumerate(_extents(file, path), 1):
            found = _header(head, 0) if whole else None
            time = np.datetime64("NaT") if found is None else found[1]
            yield number, _content(file, start, end) if whole else None, time


def data_category(message: bytes) -> int:
    """Return the data category that section 1 states."""
    return message[18 if message[7] == 4 else 16]


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


def _header(message: bytes, bulletin: int) -> _Found | None:
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
    return Header(centre, category, international, subcategory, bool(flag & 0x80)), time, version


def _instant(year: int, month: int, day: int, hour: int, minute: int) -> np.datetime64 | None:
    """Return the time, or None where these numbers are not a time."""
    try:
        return np.datetime64(datetime(year, month, day, hour, minute), "s")
    except ValueError:
        return None


def _received(receipt: Receipt | None, time: np.datetime64) -> np.datetime64:
    """Return when a report was received, NaT where unknown; the message states only the day of the month."""
    if receipt is not None:
        day, hour, minute, second = receipt
        for offset in (0, 1, -1, 2, 3, 4, 5):
            date = time.astype("datetime64[D]") + offset
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


def exact_time(report: Report) -> np.datetime64:
    """Return the same with the seconds, if the report has them."""
    seconds = float(report.get("second", 0))
    return report_time(report) + np.timedelta64(int(seconds) if 0 <= seconds < 60 else 0, "s")


def station_name(report: Report) -> str:
    """Return WMO block and station number, else the WIGOS identifier, buoy's number or call sign, else the position."""
    if "block" in report and "number" in report:
        return f"{int(report['block']):02d}{int(report['number']):03d}"
    if "wigos" in report:
        series, issuer, issue = (int(report.get(f"wigos_{part}", 0)) for part in ("series", "issuer", "issue"))
        return f"{series}-{issuer}-{issue}-{report['wigos']}"
    if "platform" in report:
        return f"{int(report['platform']):07d}"
    if "buoy" in report and "buoy_region" in report and "buoy_area" in report:
        digits = 3 if report["buoy"] < 1000 else 5
        return f"{int(report['buoy_region'])}{int(report['buoy_area'])}{int(report['buoy']):0{digits}d}"
    if "fixed_buoy" in report:
        return str(report["fixed_buoy"])
    if report.get("ship", _ANONYMOUS[0]) not in _ANONYMOUS:
        return str(report["ship"])
    return f"{report['latitude']:+.2f}{report['longitude']:+.2f}"
