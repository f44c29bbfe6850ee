"""Where the messages of a BUFR file are, and what their headers say (WMO Manual on Codes, FM 94, sections 0 and 1).

Messages are found by their raw bytes, without decoding them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dacycle.common.foreign import reading
from dacycle.obs_ingest.sources.bufr.reports import instant
from dacycle.obs_ingest.sources.kept import kept
from dacycle.obs_ingest.sources.versions import heading_version
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window

__all__ = ["ECMWF", "MARGIN", "NOT_STATED", "Header", "Scan", "content", "data_category", "scan_file", "whole_messages"]

ECMWF = 98
NOT_STATED = 255
"""The international sub-category of messages that do not state one, as all before edition 4."""

MARGIN = np.timedelta64(3, "h")  # a bulletin's header time may differ from its reports' times by this much
_BLOCK = 1 << 16
_HEADING_LENGTH = 100  # bytes before a message in which the heading of its bulletin stands
_VERSIONS = 1000  # more than `versions` has for bulletins


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
class Scan:
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
        return (self.time > window.start - MARGIN) & (self.time <= window.end + MARGIN)


def content(file: BinaryIO, start: int, end: int) -> bytes:
    """Return the bytes of a message from `start` to before `end`."""
    file.seek(start)
    return file.read(end - start)


def scan_file(path: Path) -> Scan:
    """Return the messages of a file, whose name may state the version of its bulletin."""
    bulletin = heading_version(path.name) or 0
    return kept(path, _scanned, (bulletin,), lambda: _scanned(path, bulletin))


def _scanned(path: Path, bulletin: int) -> Scan:
    start, end, found = zip(*_messages(path, bulletin), strict=True)
    headers = list(dict.fromkeys(header[0] for header in found if header is not None))
    position = {header: i for i, header in enumerate(headers)}
    times = [np.datetime64("NaT", "s") if header is None else header[1] for header in found]
    return Scan(
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
            yield number, content(file, start, end) if whole else None, time


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
    time = instant(year, *clock)
    version = (sequence % 255) * _VERSIONS + bulletin  # 255 is "not stated"
    if time is None:
        return None
    return Header(centre, category, international, subcategory, bool(flag & 0x80)), time, version
