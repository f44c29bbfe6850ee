"""Locks on files that end with their process, however it ends."""

import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dacycle.common.errors import DacycleError
from dacycle.common.places import is_remote

__all__ = ["locked"]

_PAUSE = 0.2
"""Seconds between tries while another process holds a lock."""
_SHARED = "last taken by "


@contextmanager
def locked(
    path: Path,
    what: str,
    error_class: type[DacycleError],
    wait: bool = False,
    patience: float = 0.0,
    shared: bool = False,
) -> Iterator[IO[str]]:
    """Hold a `flock` on a file, which names the process that holds it.

    The file is given to the block: a process that inherits it holds the lock until it ends, too.

    Args:
        path: the file; it is made if need be, and stays.
        what: what is written under this lock, for the message.
        error_class: what is raised.
        wait: wait for the lock instead of raising.
        patience: seconds to wait for it before raising.
        shared: several processes may hold it at once, as long as none holds it alone.

    Raises:
        error_class: another process holds the lock, which the message names, or the folder cannot be written to.
    """
    if is_remote(path):
        raise error_class(
            f"{what} cannot be written: archives in buckets are only read; `dacycle archive restore` makes a folder of "
            "it"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise error_class(f"{what} cannot be written: {path}: {error.strerror}") from error
    with file:
        if not _take(file, wait, patience, shared):
            file.seek(0)
            holder = file.read().strip()
            is_shared = holder.startswith(_SHARED)  # who took it last may have given it back
            use = (
                f"in use, {holder}; wait a while"
                if is_shared
                else f"being written by {holder}; wait for it, or stop it"
            )
            raise error_class(f"{what} is {use}")
        file.truncate(0)
        command = " ".join(sys.argv[:2])[:200]  # what follows may hold a password
        file.write(f"{_SHARED if shared else ''}process {os.getpid()} on {platform.node()} ({command})\n")
        file.flush()
        yield file


def _take(file: IO[str], wait: bool, patience: float, shared: bool) -> bool:
    """Lock an open file; return whether that succeeded. Arguments as `locked`."""
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_PAUSE)
        else:
            return True
