"""Files that are seen whole or not at all, and locks that end with their process."""

import fcntl
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dacycle.cycler.archive.store import ArchiveError

__all__ = ["locked", "write_whole"]


def write_whole(path: Path, content: bytes) -> None:
    """Put a file on disk so that it is seen whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive `flock` on a file; who holds it stands in the file.

    Args:
        path: the file, made if need be; it stays.
        what: is written under this lock, for the message.
        wait: for the lock, instead of raising.

    Raises:
        ArchiveError: another process holds it (says which).
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise ArchiveError(f"{what} is being written by {file.read().strip()}; wait for it, or stop it") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} ({' '.join(sys.argv)[:200]})\n")
        file.flush()
        yield
