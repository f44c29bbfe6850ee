"""What the sources of an experiment have for a cycle; in a replay it is read while the cycle before is computed.

Sources wait for the decoding process and for disks, networks compute without Python: the two share a machine well. Only
replays read ahead, because the files of a live run are still arriving; and only files on this machine, because a
download may take its time, and drawn observations share the reference with the cycle. One thread at a time uses the
sources, so that they need no locks. A reading is the same whenever it is made: it depends on the files and the window.
"""

import hashlib
import time as clock
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dacycle.common import logs
from dacycle.cycler.cycle.inputs import Inputs
from dacycle.cycler.experiment import STEP, cycle_id
from dacycle.forecast_adapter.remote import is_url, within
from dacycle.obs_ingest.sources.base import FileSource, Inventory
from dacycle.obs_ingest.table import ObservationError, concatenate, to_arrow
from dacycle.obs_ingest.window import Window

__all__ = ["Reading", "Readings", "read_sources"]

FETCH_LIMIT = pd.Timedelta(minutes=10)
"""How long a cycle waits for the files of all its sources together, where its experiment does not say."""


@dataclass(frozen=True)
class Reading:
    """What the sources have for a cycle.

    Attributes:
        time: of the cycle.
        table: of all sources, before quality control.
        inventories: what each source found, by its name.
        failures: sentences about sources that could not be read.
        remarks: sentences about sources with files that could not be read.
        digest: SHA-256 of the table.
    """

    time: pd.Timestamp
    table: pd.DataFrame
    inventories: dict[str, dict[str, Any]]
    failures: list[str]
    remarks: list[str]
    digest: str


class Readings:
    """The readings of one cycle after the other; the last one is kept, for a cycle that begins again."""

    def __init__(self) -> None:
        self._reading: Reading | None = None
        self._next: Future[Reading] | None = None  # of the cycle after that of `_reading`
        self._thread: ThreadPoolExecutor | None = None
        self._last: pd.Timestamp | None = None

    @contextmanager
    def ahead(self, inputs: Inputs, last: pd.Timestamp | None) -> Iterator[None]:
        """Within the block read each cycle up to `last` while the one before is computed, if all files are local."""
        if last is None or not _in_local_files(inputs):
            yield
            return
        with ThreadPoolExecutor(1, "readings") as thread:
            self._thread, self._last = thread, last
            try:
                yield
            finally:
                self._thread = self._last = self._next = None

    def of(self, inputs: Inputs, time: pd.Timestamp) -> Reading:
        """Return the reading of a cycle; where it had to be waited for, begin with that of the next one at once.

        Raises:
            ReferenceDataError: see `read_sources`.
        """
        if self._reading is None or self._reading.time != time:
            begun, self._next = self._next, None
            behind = begun is None or not begun.done()
            self._reading = read_sources(inputs, time) if begun is None else begun.result()
            if behind:
                self.read_ahead(inputs)
        return self._reading

    def read_ahead(self, inputs: Inputs) -> None:
        """Begin with the reading of the next cycle, if there is one to read ahead and it has not begun.

        The best moment is before a network computes: reading needs Python, and a network does not.
        """
        if self._thread is None or self._last is None or self._reading is None or self._next is not None:
            return
        if self._reading.time < self._last:
            self._next = self._thread.submit(copy_context().run, _read_ahead, inputs, self._reading.time + STEP)


def _read_ahead(inputs: Inputs, time: pd.Timestamp) -> Reading:
    with logs.context(cycle=cycle_id(time)):
        return read_sources(inputs, time)


def _in_local_files(inputs: Inputs) -> bool:
    """Return whether all observations of an experiment are in files of this machine."""
    paths = [(spec.model_extra or {}).get("path", ()) for spec in inputs.experiment.observations]
    places = [str(place) for path in paths for place in ([path] if isinstance(path, str) else path)]
    return all(isinstance(source, FileSource) for source in inputs.sources) and not any(map(is_url, places))


def read_sources(inputs: Inputs, time: pd.Timestamp) -> Reading:
    """Read the observations of all sources for a cycle.

    If a source cannot be read, or its files have not arrived in its share of `fetch_limit`, the cycle goes on without
    it, and `failures` says why. If a file cannot be read, the cycle goes on without that file; `remarks` says so and
    the inventory names it.

    Raises:
        ReferenceDataError: simulated observations cannot be drawn because the reference lacks a time.
    """
    tables, inventories, failures, remarks = [], {}, [], []
    limit = inputs.experiment.fetch_limit or FETCH_LIMIT
    until = clock.monotonic() + limit.total_seconds()
    for number, source in enumerate(inputs.sources):
        share = (until - clock.monotonic()) / (len(inputs.sources) - number)  # a slow source leaves some to the next
        try:
            with within(share):
                table, inventory = source.read(Window(np.datetime64(time, "h"), source.cutoff))
            tables.append(table)
        except ObservationError as error:
            inventory = Inventory(source.name, problems=[str(error)])
            failures.append(f"source {source.name} could not be read: {error}")
        if inventory.unreadable:
            remarks.append(f"source {source.name}: unreadable files: {inventory.unreadable}")
        inventories[source.name] = inventory.as_dict()
    table = concatenate(tables)
    return Reading(time, table, inventories, failures, remarks, _digest(table))


def _digest(table: pd.DataFrame) -> str:
    """Return the SHA-256 of a table before quality control."""
    content = to_arrow(table).drop_columns(["use", "reason"])  # nothing is decided yet
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, content.schema) as writer:
        writer.write_table(content)
    return hashlib.sha256(sink.getvalue()).hexdigest()
