"""The files of a source: which there are, what is kept in memory of each, and when they were received.

A cycle loses only the file that cannot be read: the file is counted and named, and the others are used.
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from glob import glob
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dacycle.common.foreign import reading
from dacycle.forecast_adapter.remote import is_url
from dacycle.obs_ingest.sources import fetch
from dacycle.obs_ingest.sources.base import MOST_PROBLEMS, Inventory, duration
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window

__all__ = ["Files", "Paths", "Remembered", "content_digest", "digest", "sha256"]

Paths = str | Path | Sequence[str | Path]
"""A file, a folder, a pattern, a URL (see `fetch`), or several of them."""

_DIGITS = 16
_SETTLED = 2_000_000_000
"""Nanoseconds after which a change shows in a folder's time."""
_UNREADABLE = "unreadable"
"""Stands for the digest of a file that cannot be read."""

T = TypeVar("T")


def _is_data(path: Path) -> bool:
    """Return whether it is a file or folder, or cannot be looked at; reading a pipe or a device may never end."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


class Remembered(Generic[T]):
    """A function of a file that is called again only when the file has changed; its ObservationErrors are kept too.

    Args:
        function: the function.
    """

    def __init__(self, function: Callable[[Path], T]) -> None:
        self._function = function
        self._results: dict[Path, tuple[tuple[int, int], T | ObservationError]] = {}

    def __call__(self, path: Path) -> T:
        """Return the function's result for the file as it is now.

        Raises:
            ObservationError: the file is not there, or the function cannot read it.
        """
        status = _status(path)
        stamp = (status.st_size, status.st_mtime_ns)
        if path not in self._results or self._results[path][0] != stamp:
            try:
                with reading(path, ObservationError):
                    self._results[path] = stamp, self._function(path)
            except ObservationError as error:
                self._results[path] = stamp, error
        result = self._results[path][1]
        if isinstance(result, ObservationError):
            raise ObservationError(str(result))
        return result

    def forget(self, path: Path) -> None:
        """Drop the result of a file."""
        self._results.pop(path, None)


def _status(path: Path) -> os.stat_result:
    with reading(path, ObservationError):
        return path.stat()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    Raises:
        ObservationError: the file cannot be read.
    """
    with reading(path, ObservationError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


content_digest: Callable[[Path], str] = Remembered(sha256)
"""The same, computed again only when the file has changed."""


def digest(path: Path) -> str:
    """Return the first 16 digits of the SHA-256 of a file's content."""
    return content_digest(path)[:_DIGITS]


class Files:
    """The files that a source's `path` names.

    Args:
        source: the source's name, for messages.
        path: where they are.
        patterns: which files of a folder.
        holds: whether a file holds anything of a window.
        latency: how long after their time values are taken to have been received, where the data do not say.
        received: `mtime` takes such values to have been received when their file was last written, instead.

    Raises:
        ObservationError: an option makes no sense.
    """

    def __init__(
        self,
        source: str,
        path: Paths,
        patterns: Sequence[str],
        holds: Callable[[Path, Window], bool],
        latency: str | None = None,
        received: str | None = None,
    ) -> None:
        if received not in (None, "mtime"):
            raise ObservationError(f"source {source}: received is {received!r}; it is mtime, or left out")
        if received is not None and latency is not None:
            raise ObservationError(f"source {source}: give latency or received, not both")
        self._source, self._patterns, self._holds = source, tuple(patterns), holds
        self._places = [str(place) for place in ([path] if isinstance(path, str | Path) else path)]
        self._latency = None if latency is None else duration(latency, f"source {source}: latency").to_timedelta64()
        self._by_mtime = received is not None
        self._listed: dict[str, tuple[int, list[Path]]] = {}

    def paths(self) -> list[Path]:
        """List the files that are there now, sorted.

        Raises:
            ObservationError: there is none, or a URL cannot be fetched.
        """
        files: set[Path] = set()
        for place in self._places:
            with reading(place, ObservationError):
                files.update(self._at(place))
        if not files:
            places = ", ".join(self._places)
            raise ObservationError(f"source {self._source}: no file ({', '.join(self._patterns)}) at {places}")
        return sorted(files)

    def _at(self, place: str) -> Iterable[Path]:
        """Return the files at one place."""
        if is_url(place):
            return filter(_is_data, fetch.mirror(place, patterns=self._patterns))
        if Path(place).is_dir():
            return self._in_folder(place)
        if Path(place).exists():
            return filter(_is_data, [Path(place)])
        return filter(_is_data, map(Path, glob(place, recursive=True)))

    def _in_folder(self, place: str) -> list[Path]:
        """Return the files of a folder, but hidden ones, which are unfinished, or notes of a system.

        A replay would list thousands of files in each cycle. A folder is listed again when it has changed; a change
        that is only just over may not yet show in its time.
        """
        changed = os.stat(place).st_mtime_ns
        if place in self._listed and self._listed[place][0] == changed:
            return self._listed[place][1]
        found = (file for pattern in self._patterns for file in Path(place).glob(pattern))
        files = [file for file in found if not file.name.startswith(".") and _is_data(file)]
        if time.time_ns() - changed > _SETTLED and not any("/" in pattern for pattern in self._patterns):
            self._listed[place] = changed, files
        return files

    def read(self, window: Window, inventory: Inventory, read: Callable[[Path], T]) -> dict[Path, T]:
        """Read the files that hold something of the window.

        Args:
            window: of the cycle.
            inventory: gets the files that were read, their digests, and those that could not be read.
            read: reads one file, or raises ObservationError before it has changed anything.

        Returns:
            What `read` returned, by file.

        Raises:
            ObservationError: there is no file, or none can be read.
        """
        results: dict[Path, T] = {}
        complaints, paths = [], self.paths()
        for path in paths:
            try:
                if self._holds(path, window):
                    results[path] = read(path)
                    inventory.files.append(str(path))
                    inventory.digests[str(path)] = digest(path)
            except ObservationError as error:
                complaints.append(str(error))
        if len(complaints) == len(paths):
            others = f" (nor can the {len(paths) - 1} other files be read)" if len(paths) > 1 else ""
            raise ObservationError(complaints[0] + others)
        inventory.unreadable = len(complaints)
        inventory.problems = [*complaints, *inventory.problems][:MOST_PROBLEMS]
        return results

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digests of the files that `read` would read, or fail to read, by path."""
        return {str(path): content for path in self.paths() if (content := self._content(path, window)) is not None}

    def _content(self, path: Path, window: Window) -> str | None:
        """Return the digest of a file that holds something of the window, or that cannot be read; None of others."""
        try:
            wanted = self._holds(path, window)
        except ObservationError:
            wanted = True
        try:
            return digest(path) if wanted else None
        except ObservationError:
            return _UNREADABLE

    def received(self, path: Path, times: NDArray, stated: NDArray | None = None) -> NDArray[np.datetime64]:
        """Return when values of a file were received (n,), NaT where unknown.

        Args:
            path: the file.
            times: (n,) the values' times.
            stated: (n,) the times of receipt that the data state, NaT where they do not.
        """
        if stated is None:
            stated = np.full(len(times), np.datetime64("NaT", "s"))
        if self._by_mtime:
            return np.where(np.isnat(stated), np.datetime64(int(_status(path).st_mtime), "s"), stated)
        if self._latency is not None:
            return np.where(np.isnat(stated), times + self._latency, stated)
        return stated
