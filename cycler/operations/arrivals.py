"""What came after a cycle had used what there was: its sources are read again, and compared with what it kept."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.archive.record import CycleRecord
from dacycle.obs_ingest.sources.base import FileSource, Source
from dacycle.obs_ingest.table import to_arrow
from dacycle.obs_ingest.window import Window

__all__ = ["Arrival", "came_after"]

_SAME = ("time", "period", "station", "latitude", "longitude", "pressure", "variable", "value")


@dataclass(frozen=True)
class Arrival:
    """What a source has for a cycle by now that the cycle did not have.

    Attributes:
        time: of the cycle.
        source: its name.
        values: values of the window that the cycle did not have, or had otherwise.
        gone: values that the cycle had and that are no longer there.
        files: files that were not there, or were otherwise.
    """

    time: pd.Timestamp
    source: str
    values: int
    gone: int
    files: tuple[str, ...]


def came_after(branch: Branch, source: Source, record: CycleRecord) -> Arrival | None:
    """Compare a source as it is now with what a cycle of a branch kept of it.

    Values that had come, but after the cutoff, are in the cycle's table as `late` and count as had.

    Args:
        branch: the experiment in its archive.
        source: one of its sources.
        record: of the cycle.

    Returns:
        What came after, or None: nothing did, or the source reads no files.

    Raises:
        ObservationError: the source cannot be read.
    """
    then = record.sources.get(source.name)
    if then is None or not isinstance(source, FileSource):
        return None
    time = record.time
    table, inventory = source.read(Window(np.datetime64(time, "h")))
    kept = branch.departures([time])
    now, before = _rows(table), _rows(kept[kept["source"] == source.name])
    had = then.digests or {}
    files = tuple(path for path, content in inventory.digests.items() if had.get(path) != content)
    arrival = Arrival(time, source.name, len(now.difference(before)), len(before.difference(now)), files)
    return arrival if arrival.values or arrival.gone or arrival.files else None


def _rows(table: pd.DataFrame) -> pd.MultiIndex:
    """The rows of a table as it is on disk, each once."""
    written = to_arrow(table).select(list(_SAME)).to_pandas().fillna({"pressure": 0.0})
    return pd.MultiIndex.from_frame(written.astype({"station": str, "variable": str})).unique()
