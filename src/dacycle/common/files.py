"""Files that are seen whole or not at all, also after a killed process or a power cut."""

import ctypes
import errno
import os
import platform
import re
import shutil
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dacycle.common.places import is_remote

__all__ = ["flush", "flush_all", "stamp", "whole", "write_whole"]


@contextmanager
def whole(path: Path, replace: bool = True, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or a folder; it replaces `path` if the block ends without error.

    The temporary name begins with a dot, holds the machine, process and thread, and keeps the suffix of `path`, since
    some libraries choose a format by it. Files are flushed to disk before they get their name. What a process of this
    machine that was killed left of the same file or folder is removed first.

    Args:
        path: the file or folder.
        replace: whether a folder may replace one that holds something.
        durable: whether the content is flushed to disk; not needed where damage is noticed and costs nothing.

    Raises:
        OSError: the file or folder cannot be written or renamed, or it may not replace what is there.
    """
    if is_remote(path):
        raise OSError(errno.EROFS, "archives in buckets are only read", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_up(path)
    temporary = _temporary(path, "part")
    _remove(temporary)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EEXIST, "is a device or a pipe, which is not replaced by a file", str(path))
        yield temporary
        if temporary.is_dir() and replace:
            _replace_folder(temporary, path)
        elif temporary.is_dir():
            temporary.rename(path)
        else:
            if durable:
                flush(temporary)
            os.replace(temporary, path)
        if durable:
            flush(path.parent)
    finally:
        _remove(temporary)


def stamp(path: Path) -> tuple[int, int]:
    """Return what changes when a file is replaced, or when the names in a folder change; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is seen whole or not at all."""
    with whole(path) as temporary:
        temporary.write_bytes(content)


def _replace_folder(temporary: Path, path: Path) -> None:
    """Put a folder in the place of another; a folder cannot be renamed onto one that is not empty."""
    old = _temporary(path, "old")
    if path.is_dir():
        path.rename(old)
    temporary.rename(path)
    _remove(old)


def _temporary(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.stem}.{_PLACE}-{os.getpid()}-{threading.get_ident()}.{kind}{path.suffix}")


def _place() -> str:
    """Return what tells where a process id holds: the machine, and on it the container."""
    namespace = Path("/proc/self/ns/pid")
    return f"{zlib.crc32(f'{platform.node()} {os.readlink(namespace) if namespace.exists() else 0}'.encode()):08x}"


_PLACE = _place()
_ENDING = re.compile(r"(\d+)-\d+\.(part|old)")


def _clear_up(path: Path) -> None:
    """Remove what killed processes left under temporary names of `path`; put back a folder that was being replaced."""
    begin = f".{path.stem}.{_PLACE}-"
    for name in os.listdir(path.parent):
        if not (name.startswith(begin) and name.endswith(path.suffix)):
            continue
        match = _ENDING.fullmatch(name[len(begin) :].removesuffix(path.suffix))
        if match is None or _is_alive(int(match[1])):
            continue
        if match[2] == "old" and not path.exists():
            path.with_name(name).rename(path)
        else:
            _remove(path.with_name(name))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def flush(path: Path) -> None:
    """Make the system write a file's content, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_all(path: Path) -> None:
    """Make the system write to disk everything that was written to the file system on which a folder is.

    For many files whose names are not known, such as those of a store.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        sync = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if sync is None:  # not Linux
            os.sync()
        elif sync(handle) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)  # another process may be removing it too
    else:
        path.unlink(missing_ok=True)
