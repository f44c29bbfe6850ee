"""Files that are seen whole or not at all, also after a killed process or a power cut."""

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole", "write_whole"]


@contextmanager
def whole(path: Path, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or a folder; it replaces `path` if the block ends without error.

    The temporary name begins with a dot, holds the process and thread ids, and keeps the suffix of `path`, since some
    libraries choose a format by it. Files are flushed to disk before they get their name.

    Args:
        path: the file or folder.
        replace: whether a folder may replace one that holds something.

    Raises:
        OSError: the file or folder cannot be written or renamed, or it may not replace what is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}.part{path.suffix}")
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
            _flush(temporary)
            os.replace(temporary, path)
        _flush(path.parent)
    finally:
        _remove(temporary)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is seen whole or not at all."""
    with whole(path) as temporary:
        temporary.write_bytes(content)


def _replace_folder(temporary: Path, path: Path) -> None:
    """Put a folder in the place of another; a folder cannot be renamed onto one that is not empty."""
    old = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.old")
    if path.is_dir():
        path.rename(old)
    temporary.rename(path)
    _remove(old)


def _flush(path: Path) -> None:
    """Make the system write a file's content, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
