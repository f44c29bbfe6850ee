"""The files of a source: which are there, what is remembered of them, when they came.

A file that cannot be read costs a cycle that file: it is counted and named, and the others are used.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dacycle.forecast_adapter.remote import is_url
from dacycle.obs_ingest.sources import fetch
from dacycle.obs_ingest.sources.base import MOST_PROBLEMS, Inventory, duration
from dacycle.obs_ingest.table import ObservationError

__all__ = ["Files", "Paths", "Remembered", "digest"]

Paths = str | Path | Sequence[str | Path]
"""A file, a folder, a pattern, a URL (see `fetch`), or several of them."""

_DIGITS = 16
_UNREADABLE = "unreadable"
"""What stands for the digest of a file whose bytes cannot be had."""

_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pa.ArrowException,
)
"""What libraries raise on bytes that are not what they take them for."""

T = TypeVar("T")


class Remembered(Generic[T]):
    """What a function makes of a file, made again only when the file has changed; so are its complaints.

    Args:
        make: the function; what it complains of is remembered like a result.
    """

    def __init__(self, make: Callable[[Path], T]) -> None:
        self._make = make
        self._kept: dict[Path, tuple[tuple[int, int], T | ObservationError]] = {}

    def __call__(self, path: Path) -> T:
        """What `make` makes of the file as it is now.

        Raises:
            ObservationError: the file is not there, or not what `make` takes it for.
        """
        status = _status(path)
        stamp = (status.st_size, status.st_mtime_ns)
        if path not in self._kept or self._kept[path][0] != stamp:
            try:
                self._kept[path] = stamp, self._make(path)
            except ObservationError as error:
                self._kept[path] = stamp, error
            except _DAMAGE as error:
                self._kept[path] = stamp, ObservationError(f"{path}: cannot be read: {error}")
        made = self._kept[path][1]
        if isinstance(made, ObservationError):
            raise ObservationError(str(made))
        return made

    def forget(self, path: Path) -> None:
        """Give its memory back."""
        self._kept.pop(path, None)


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise ObservationError(f"{path}: cannot be read: {error}") from None


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
    except OSError as error:
        raise ObservationError(f"{path}: cannot be read: {error}") from None


digest: Callable[[Path], str] = Remembered(_sha256)
"""The first 16 digits of the SHA-256 of a file's content."""


class Files:
    """The files that a source's `path` names.

    Args:
        source: the source's name, for messages.
        path: where they are.
        patterns: which files of a folder.
        latency: how long after their time values are taken to have been received, where they do not say.
        received: `mtime` takes them to have been received when their file was last written, instead.

    Raises:
        ObservationError: an option makes no sense.
    """

    def __init__(
        self, source: str, path: Paths, patterns: Sequence[str], latency: str | None = None, received: str | None = None
    ) -> None:
        if received not in (None, "mtime"):
            raise ObservationError(f"source {source}: received is {received!r}; it is mtime, or left out")
        if received is not None and latency is not None:
            raise ObservationError(f"source {source}: give latency or received, not both")
        self._source, self._patterns = source, tuple(patterns)
        self._places = [str(place) for place in ([path] if isinstance(path, str | Path) else path)]
        self._latency = None if latency is None else duration(latency, f"source {source}: latency").to_timedelta64()
        self._by_mtime = received is not None

    def paths(self) -> list[Path]:
        """The files that are there now, sorted.

        Raises:
            ObservationError: there is none, or a URL cannot be had.
        """
        found: set[Path] = set()
        for place in self._places:
            if is_url(place):
                found.update(fetch.mirror(place, patterns=self._patterns))
            elif Path(place).is_dir():
                found.update(file for pattern in self._patterns for file in Path(place).glob(pattern))
            elif Path(place).exists():
                found.add(Path(place))
            else:
                found.update(map(Path, glob(place, recursive=True)))
        if not found:
            places = ", ".join(self._places)
            raise ObservationError(f"source {self._source}: no file ({', '.join(self._patterns)}) at {places}")
        return sorted(found)

    def each(self, inventory: Inventory, holds: Callable[[Path], bool], read: Callable[[Path], None]) -> None:
        """Read the files that hold something; what happened to each is in the inventory.

        Args:
            inventory: gets the files that were read, their digests, and those that could not be.
            holds: whether a file holds anything of the window.
            read: takes what it wants from a file, or raises ObservationError before it has taken anything.

        Raises:
            ObservationError: there is no file, or none can be read.
        """
        complaints, paths = [], self.paths()
        for path in paths:
            try:
                if holds(path):
                    read(path)
                    inventory.files.append(str(path))
                    inventory.digests[str(path)] = digest(path)
            except ObservationError as error:
                complaints.append(str(error))
        if len(complaints) == len(paths):
            others = f" (nor can the {len(paths) - 1} other files be read)" if len(paths) > 1 else ""
            raise ObservationError(complaints[0] + others)
        inventory.unreadable = len(complaints)
        inventory.problems = [*complaints, *inventory.problems][:MOST_PROBLEMS]

    def inputs(self, holds: Callable[[Path], bool]) -> dict[str, str]:
        """Digests of the files that `each` would read, or fail to, by path."""
        return {str(path): content for path in self.paths() if (content := _content(path, holds)) is not None}

    def received(self, path: Path, times: NDArray, known: NDArray | None = None) -> NDArray[np.datetime64]:
        """(n,) when values of a file were received, NaT where unknown.

        Args:
            path: the file.
            times: (n,) the values' times.
            known: (n,) what the values themselves say, NaT where nothing.
        """
        if known is None:
            known = np.full(len(times), np.datetime64("NaT", "s"))
        if self._by_mtime:
            return np.where(np.isnat(known), np.datetime64(int(_status(path).st_mtime), "s"), known)
        if self._latency is not None:
            return np.where(np.isnat(known), times + self._latency, known)
        return known


def _content(path: Path, holds: Callable[[Path], bool]) -> str | None:
    try:
        wanted = holds(path)
    except ObservationError:
        wanted = True
    try:
        return digest(path) if wanted else None
    except ObservationError:
        return _UNREADABLE
