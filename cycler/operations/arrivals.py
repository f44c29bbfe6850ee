"""Find what has come since a cycle ran: read its sources again, and compare them with what it kept."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dacycle.common.arrow import to_pandas
from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.archive.record import CycleRecord
from dacycle.obs_ingest.sources.base import FileSource, Source
from dacycle.obs_ingest.table import to_arrow
from dacycle.obs_ingest.window import Window

__all__ = ["Arrival", "came_after"]

_SAME = ("time", "period", "station", "latitude", "longitude", "pressure", "variable", "value")


@dataclass(frozen=True)
class Arrival:
    """Hold the difference between what a source has for a cycle now and what the cycle had.

    Attributes:
        time: the cycle's time.
        source: the source's name.
        values: number of values in the window that are new or changed.
        gone: number of values that the cycle had and that are no longer there.
        files: files that are new or changed.
    """

    time: pd.Timestamp
    source: str
    values: int
    gone: int
    files: tuple[str, ...]


def came_after(branch: Branch, source: Source, record: CycleRecord) -> Arrival | None:
    """Compare a source as it is now with what a cycle of a branch kept of it.

    Values that had come after the cutoff are in the cycle's table as `late`; they are not new.

    Args:
        branch: the experiment in its archive.
        source: one of its sources.
        record: the cycle's record.

    Returns:
        The difference; None where there is none, or where the source reads no files.

    Raises:
        ObservationError: the source cannot be read.
    """
    recorded = record.sources.get(source.name)
    if recorded is None or not isinstance(source, FileSource):
        return None
    time = record.time
    table, inventory = source.read(Window(np.datetime64(time, "h")))
    kept = branch.departures([time])
    now, before = _rows(table), _rows(kept[kept["source"] == source.name])
    digests = recorded.digests or {}
    files = tuple(path for path, content in inventory.digests.items() if digests.get(path) != content)
    arrival = Arrival(time, source.name, len(now.difference(before)), len(before.difference(now)), files)
    return arrival if arrival.values or arrival.gone or arrival.files else None


def _rows(table: pd.DataFrame) -> pd.MultiIndex:
    """Return the distinct rows of a table, with values as they are on disk."""
    written = to_pandas(to_arrow(table).select(list(_SAME))).fillna({"pressure": 0.0})
    return pd.MultiIndex.from_frame(written.astype({"station": str, "variable": str})).unique()
