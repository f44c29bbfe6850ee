"""The folders of an archive, as its web server (Apache) lists them: names of files, times of their changes, sizes."""

import html
import re
from dataclasses import dataclass
from pathlib import Path

from dacycle.common.foreign import read_text
from dacycle.obs_ingest.table import ObservationError

__all__ = ["Entry", "read_listing"]

_LINK = re.compile(r'<a href="([^"]+)"', re.IGNORECASE)
_ELSEWHERE = re.compile(r"[/?#]|\.\.|[a-z]+:", re.IGNORECASE)
"""Links of a page that name no file of the folder: its parent, its order, other sites."""
_COLUMNS = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d)\s+(\d+(?:\.\d+)?[KMGT]?|-)(?:\s|$)")
_TAG = re.compile(r"<[^>]*>")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Entry:
    """A file of a folder.

    Attributes:
        changed: when it changed last, as listed.
        size: bytes, as listed: rounded to two digits; None for a folder.
    """

    changed: str
    size: int | None

    @property
    def version(self) -> str:
        """Return what changes with the file."""
        return f"{self.changed} {self.size}"


def read_listing(path: Path) -> dict[str, Entry]:
    """Read the files that a listing names.

    Raises:
        ObservationError: it is no listing, or one in another form; names the line, and what was expected.
    """
    entries: dict[str, Entry] = {}
    lines = read_text(path, ObservationError).splitlines()
    if not any("Index of" in line for line in lines[:50]):
        first = lines[0][:60] if lines else ""
        raise ObservationError(
            f"{path}, line 1: begins with {first!r}; a listing of a folder, with the title `Index of`, was expected"
        )
    for number, line in enumerate(lines, 1):
        link = _LINK.search(line)
        if link is None or _ELSEWHERE.match(link[1]):
            continue
        columns = _COLUMNS.search(html.unescape(_TAG.sub(" ", line[link.end() :])))
        if columns is None:
            raise ObservationError(
                f"{path}, line {number}: {line.strip()[:120]!r}; a name, a date, a time and a size were expected: the "
                "form of this index has changed"
            )
        size = columns[2]
        factor = _UNITS[size[-1] if size[-1] in _UNITS else ""]
        number_of = None if size == "-" else round(float(size.rstrip("KMGT")) * factor)
        entries[html.unescape(link[1])] = Entry(columns[1], number_of)
    if not entries:
        raise ObservationError(f"{path}: lists no file; the form of this index has changed, or the folder is empty")
    return {name: entry for name, entry in entries.items() if entry.size is not None}
