"""What pure functions make of files, kept in memory and on disk: no content is decoded twice, by whatever process.

An entry's name is a digest of all that its content depends on: the content of the file, the function with its options,
dacycle's code, the libraries, the processor. Entries are therefore never out of date, and equal what the function
would return again. They are pickles. Unpickling runs what a pickle says, so an entry counts only if it is a file of
the user that nobody else may write, in the user's own cache folder, and agrees with the digests inside; any other is
made again. Without a folder that can be written everything is kept in memory only.
"""

import hashlib
import importlib.metadata
import io
import os
import pickle
import platform
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import dacycle
from dacycle.common.files import whole
from dacycle.common.foreign import reading
from dacycle.common.settings import read_settings
from dacycle.obs_ingest.sources.files import content_digest, sha256
from dacycle.obs_ingest.table import ObservationError

__all__ = ["LIMIT", "anew", "folder", "kept"]

LIMIT = 2 << 30
"""Bytes of the folder; the entries that were used longest ago are removed. A process looks each time it has written a
sixteenth of it, so that for a while there may be that much more."""

_MEMORY = 64 << 20  # bytes of entries that a process keeps in memory
_MAGIC = b"dacycle decoded 1\n"
_UNTOUCHED = 3600.0  # s after which the use of an entry is noted again
_CODE = (
    "obs_ingest/**/*.py",
    "obs_ingest/station_network/*.csv",
    "forecast_adapter/physics.py",
    "forecast_adapter/channels.py",
    "common/foreign.py",
)
_LIBRARIES = ("eccodes", "eccodeslib", "metar", "numpy", "pandas", "pyarrow", "scipy", "xarray", "h5netcdf", "h5py")

T = TypeVar("T")


class _Memory:
    """The entries used last, as many as fit into `_MEMORY`."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def recall(self, key: str) -> bytes | None:
        """Return an entry, if it is still there."""
        with suppress(KeyError):  # another thread may drop it in between
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def keep(self, key: str, entry: bytes) -> None:
        """Add an entry, and drop the oldest ones where memory runs out."""
        if key in self._entries or len(entry) > _MEMORY // 4:
            return
        self._entries[key] = entry
        self._size += len(entry)
        while self._size > _MEMORY:
            self._size -= len(self._entries.popitem(last=False)[1])

    def clear(self) -> None:
        """Drop all entries."""
        self._entries.clear()
        self._size = 0


class _Disk:
    """The entries in the user's cache folder."""

    def __init__(self) -> None:
        self._unchecked = LIMIT  # bytes written since the size of the folder was looked at

    def load(self, key: str) -> bytes | None:
        """Return an entry; None where there is none, or it is damaged or not the user's own."""
        file = _file(key)
        try:
            if not file.is_file():
                return None
            with file.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_uid != os.getuid() or status.st_mode & 0o022:
                    return None
                content = stream.read()
        except OSError:
            return None
        entry = content[len(_MAGIC) + 32 :]
        if content[: len(_MAGIC) + 32] != _head(key, entry):
            return None
        if time.time() - status.st_mtime > _UNTOUCHED:
            with suppress(OSError):
                os.utime(file)
        return entry

    def store(self, key: str, entry: bytes) -> None:
        """Write an entry, unless the folder cannot be written or the entry is large."""
        if len(entry) > LIMIT // 16:
            return
        file = _file(key)
        with suppress(OSError):
            folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            with whole(file, durable=False) as temporary:
                temporary.touch(mode=0o600)
                temporary.write_bytes(_head(key, entry) + entry)
            self._unchecked += len(entry)
            if self._unchecked >= LIMIT // 16:
                self._unchecked = 0
                _tidy()


_memory, _disk = _Memory(), _Disk()
_anew = False


@contextmanager
def anew() -> Iterator[None]:
    """Within the block keep nothing and use nothing that was kept, to measure how long reading takes."""
    global _anew
    _anew = True
    try:
        yield
    finally:
        _anew = False


def kept(
    path: Path,
    function: Callable[..., Any],
    options: tuple[Any, ...],
    make: Callable[[], T],
    final: Callable[[T], bool] = lambda result: True,
) -> T:
    """Return what a pure function makes of a file's content.

    Args:
        path: the file.
        function: the function, or a class; it and its module's code are part of the entry's name.
        options: what else the result depends on, as values with a `repr` that says all.
        make: makes the result, which does not depend on the file's place; its errors are not kept.
        final: whether a result may be kept.

    Raises:
        ObservationError: the file cannot be read, or `make` says so.
    """
    if _anew:
        return make()
    content = content_digest(path)
    name = (function.__module__, function.__qualname__, _module(function.__module__), options, content, _versions())
    key = hashlib.sha256(repr(name).encode()).hexdigest()
    entry = _memory.recall(key)
    if entry is None and (entry := _disk.load(key)) is not None:
        _memory.keep(key, entry)
    if entry is not None:
        with suppress(ObservationError), reading(_file(key), ObservationError):
            result: T = pickle.loads(entry)
            return result
    result = make()
    # A file that was written meanwhile has not the content of the name.
    if final(result) and sha256(path) == content:
        entry = _pickled(result)
        _memory.keep(key, entry)
        _disk.store(key, entry)
    return result


def folder() -> Path:
    """Return the folder of the entries."""
    return _folder(*map(os.environ.get, ("DACYCLE_CACHE", "XDG_CACHE_HOME", "HOME")))


@lru_cache(maxsize=8)
def _folder(*variables: str | None) -> Path:
    """Return it for values of all the variables that it depends on: settings take a millisecond to read."""
    return read_settings().cache / "decoded"


class _Pickler(pickle.Pickler):
    """Pickles records by column: numpy makes a tuple of every record that has a text."""

    def reducer_override(self, value: Any) -> Any:
        if not (isinstance(value, np.ndarray) and value.dtype.names and value.dtype.hasobject):
            return NotImplemented
        texts = {name: value[name].tolist() for name in value.dtype.names if value.dtype[name].hasobject}
        numbers = {name: np.ascontiguousarray(value[name]) for name in value.dtype.names if name not in texts}
        return _records, (value.dtype, len(value), numbers, texts)


def _records(dtype: np.dtype, n: int, numbers: dict[str, NDArray], texts: dict[str, list[Any]]) -> NDArray:
    records = np.empty(n, dtype)
    for name, column in {**numbers, **texts}.items():
        records[name] = column
    return records


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def _file(key: str) -> Path:
    return folder() / key[:2] / key[2:]


def _head(key: str, entry: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(key.encode() + entry).digest()


def _tidy() -> None:
    """Remove the entries that were used longest ago, down to nine tenths of the limit."""
    files = sorted(_entries())
    size = sum(length for _, length, _ in files)
    if size <= LIMIT:
        return
    for _, length, file in files:
        if size <= LIMIT * 0.9:
            break
        with suppress(OSError):
            os.unlink(file)
        size -= length


def _entries() -> Iterator[tuple[float, int, str]]:
    """Yield when each file of the folder was last used, its size and its path."""
    for part in os.scandir(folder()):
        with suppress(OSError):
            for file in os.scandir(part.path):
                with suppress(OSError):
                    status = file.stat(follow_symlinks=False)
                    yield status.st_mtime, status.st_size, file.path


@lru_cache(maxsize=64)
def _module(name: str) -> str:
    """Return the digest of a module's code."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return "" if file is None else sha256(Path(file))


@lru_cache(maxsize=1)
def _versions() -> str:
    """Return a digest of dacycle's code, the libraries' versions, ecCodes' settings and the processor.

    The last digits of logarithms and powers depend on the processor.
    """
    root = Path(dacycle.__file__).resolve().parent
    code = [(str(file.relative_to(root)), sha256(file)) for pattern in _CODE for file in sorted(root.glob(pattern))]
    libraries = [(name, _version(name)) for name in _LIBRARIES]
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("ECCODES_"))
    everything = (code, libraries, settings, sys.version, platform.machine(), _processor())
    return hashlib.sha256(repr(everything).encode()).hexdigest()


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            text = file.read(8192).partition("\n\n")[0]
    except OSError:
        return platform.processor()
    return "\n".join(line for line in text.splitlines() if line.startswith(("model name", "flags", "Features")))
