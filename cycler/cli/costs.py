"""What a command took: time and memory, as a line of the file that `DACYCLE_COSTS` names."""

import csv
import re
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["COLUMNS", "costs_kept"]

COLUMNS = ("command", "seconds", "processor_seconds", "peak_gb")
_PASSWORD = re.compile(r"(://[^:/\s]*:)\S*@")
_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in the unit of `ru_maxrss`."""


@contextmanager
def costs_kept(path: Path | None, arguments: Sequence[str]) -> Iterator[None]:
    """Append a line to `path` when the block ends, whether it succeeds or not; None: to no file.

    `peak_gb` is the most memory of one process, the command's own or one of those that it started. Passwords in URLs
    are left out.
    """
    begun = time.monotonic()
    try:
        yield
    finally:
        if path is not None:
            used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
            processor = sum(usage.ru_utime + usage.ru_stime for usage in used)
            peak = max(_own_peak(), used[1].ru_maxrss) * _UNIT / 1e9
            command = _PASSWORD.sub(r"\1***@", " ".join(arguments))
            new = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(COLUMNS)
                writer.writerow([command, f"{time.monotonic() - begun:.1f}", f"{processor:.1f}", f"{peak:.2f}"])


def _own_peak() -> int:
    """Return the most memory of this process, in units of `ru_maxrss`, which on Linux is that of who started it too."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found is not None:
            return int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
