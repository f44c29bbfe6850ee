"""What a command took: time and memory, as a line of the file that `DACYCLE_COSTS` names."""

import csv
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["COLUMNS", "costs_kept"]

COLUMNS = ("command", "seconds", "processor_seconds", "peak_gb")
_BYTES = 1 if sys.platform == "darwin" else 1024
"""Unit of `ru_maxrss`."""


@contextmanager
def costs_kept(path: Path | None, arguments: Sequence[str]) -> Iterator[None]:
    """Append a line to `path` when the block ends, whether it succeeds or not; None: to no file.

    `peak_gb` is the most memory of one process, the command's own or one of those that it started.
    """
    begun = time.monotonic()
    try:
        yield
    finally:
        if path is not None:
            used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
            processor = sum(usage.ru_utime + usage.ru_stime for usage in used)
            peak = max(usage.ru_maxrss for usage in used) * _BYTES / 1e9
            new = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(COLUMNS)
                writer.writerow(
                    [" ".join(arguments), f"{time.monotonic() - begun:.1f}", f"{processor:.1f}", f"{peak:.2f}"]
                )
