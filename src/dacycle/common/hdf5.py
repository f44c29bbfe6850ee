"""A check of HDF5 files (netCDF-4) in a process of its own, because damaged ones can keep HDF5 busy for ever.

`check_hdf5` is called before a foreign file is opened in this process. The checking process opens every object of the
file once. It is started when it is first needed, serves this process until it ends, and is started again when a file
brings it down. This file is also its program, which imports nothing of dacycle.
"""

import atexit
import json
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["PATIENCE", "check_hdf5"]

PATIENCE = 20.0
"""Seconds that HDF5 may take to open all objects of a file."""


def check_hdf5(path: Path, error: type[Exception]) -> None:
    """Raise `error` where HDF5 cannot open all objects of a file, or does not come to an end; names the file.

    A file is checked again only when it has changed.
    """
    try:
        status = path.stat()
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from None
    complaint = _complaint(str(path.absolute()), status.st_size, status.st_mtime_ns)
    if complaint:
        raise error(f"{path}: {complaint}")


@lru_cache(maxsize=4096)
def _complaint(path: str, size: int, modified: int) -> str:
    return _checker.check(path)


class _Checker:
    """The checking process, shared by all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self._stop)

    def check(self, path: str) -> str:
        """Return what is wrong with a file; empty if nothing is."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                command = [sys.executable, "-P", str(Path(__file__).resolve())]
                pipe = subprocess.PIPE
                self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None
            assert stdout is not None
            try:
                print(json.dumps(path), file=stdin, flush=True)
                ended = not select.select([stdout], [], [], PATIENCE)[0]
                answer = "" if ended else stdout.readline()
            except BrokenPipeError:
                ended, answer = False, ""
            if not answer:
                self._stop()
                return f"is damaged: HDF5 {'does not come to an end with it' if ended else 'breaks down on it'}"
            return str(json.loads(answer))

    def _stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()


_checker = _Checker()


def _problems(paths: Iterator[str]) -> Iterator[str]:
    """Yield what is wrong with each file, on its line of standard input."""
    import h5py

    def visit(name: str, item: Any) -> None:
        list(item.attrs)
        if isinstance(item, h5py.Dataset):
            [len(dimension) for dimension in item.dims]

    for line in paths:
        signal.alarm(round(PATIENCE) + 5)  # ends this process, also where the one that it serves is gone
        try:
            with h5py.File(json.loads(line)) as file:
                file.visititems(visit)
            complaint = ""
        except Exception as problem:  # noqa: BLE001 whatever h5py raises on damaged bytes
            complaint = f"as HDF5: cannot be read: {type(problem).__name__}: {str(problem)[:200]}"
        signal.alarm(0)
        yield complaint


if __name__ == "__main__":
    for problem in _problems(iter(sys.stdin)):
        print(json.dumps(problem), flush=True)
