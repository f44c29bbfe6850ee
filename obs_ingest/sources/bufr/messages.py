"""Reports of any kind in files of WMO BUFR: the messages, their headers, and their decoding.

Messages are found and filtered by their raw headers (WMO Manual on Codes, FM 94, sections 0 and 1); only those that can
hold a wanted report near the window are decoded, in a process of their own (`decoder`). What a file holds, and the
reports of each six hours of it, are pure functions of its content, and are `kept`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.common.foreign import reading
from dacycle.obs_ingest.sources.base import Inventory, take_inventory
from dacycle.obs_ingest.sources.bufr.decoder import Report, Undecoded, decode
from dacycle.obs_ingest.sources.bufr.headers import ECMWF, MARGIN, Header, Scan, content, scan_file
from dacycle.obs_ingest.sources.bufr.reports import is_placed, receipt_time
from dacycle.obs_ingest.sources.files import Files, Paths, Remembered
from dacycle.obs_ingest.sources.kept import kept
from dacycle.obs_ingest.sources.versions import SUPERSEDED, superseded
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window

__all__ = ["BufrFiles", "BufrSource"]

_BATCH = 1000  # messages in memory at a time
_PART = 6 * 3600  # s; reports are decoded and kept by parts, such as the messages of 06:00:01 to 12:00 UTC


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
        self._scan = Remembered(scan_file)
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
        if np.isnat(first) or not (last < window.start - MARGIN or first > window.end + MARGIN):
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

    def _part(self, path: Path, scan: Scan, messages: NDArray[np.intp]) -> _Part:
        """Return what becomes of some messages of a file."""
        options = (*self._options, messages.tolist())
        return kept(path, self._records, options, lambda: self._decoded(path, scan, messages), lambda part: part.final)

    def _decoded(self, path: Path, scan: Scan, messages: NDArray[np.intp]) -> _Part:
        counts: list[tuple[int, int]] = []
        reasons: dict[int, str] = {}
        of: list[int] = []
        blocks, final = [self._records([])], True
        with path.open("rb") as file:
            for begin in range(0, len(messages), _BATCH):
                batch = messages[begin : begin + _BATCH].tolist()
                headers = [scan.headers[scan.header[i]] for i in batch]
                requests = [
                    (content(file, int(scan.start[i]), int(scan.end[i])), _keeps_receipt(header))
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
                    good = [report for report in reports if is_placed(report)]
                    counts.append((len(reports), len(good)))
                    placed += good
                    received += [receipt_time(receipt, scan.time[i])] * len(good)
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


def _keeps_receipt(header: Header) -> bool:
    return header.centre == ECMWF and header.local_section
