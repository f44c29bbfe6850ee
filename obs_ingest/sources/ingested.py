"""Observation tables made ahead of a run, one Parquet file per window: made from files, and read as the source `table`.

A window's file holds its table and, as metadata, its inventory and what it was made of: the source, its options and
the digests of the files. What is there and made of the same is not made again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import dacycle
from dacycle.common.files import whole
from dacycle.obs_ingest.sources.base import FileSource, Inventory, build_source, take_inventory
from dacycle.obs_ingest.sources.files import digest
from dacycle.obs_ingest.table import ObservationError, from_arrow, to_arrow
from dacycle.obs_ingest.window import Window

__all__ = ["IngestedWindow", "TableFolder", "ingest", "total", "window_file", "write_table"]

_NOTES = b"dacycle"
_DAMAGE = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)


@dataclass(frozen=True)
class IngestedWindow:
    """A window of a folder of tables: its analysis time, its inventory, and whether it was made now or was there."""

    time: np.datetime64
    inventory: Inventory
    made: bool


def window_file(folder: Path, time: np.datetime64) -> Path:
    """The file of the window of an analysis time, such as `20240104T00.parquet`."""
    return folder / f"{pd.Timestamp(time):%Y%m%dT%H}.parquet"


def ingest(spec: Mapping[str, Any], times: NDArray[np.datetime64], folder: Path) -> Iterator[IngestedWindow]:
    """Make the tables of windows, one after the other; interrupted, it goes on when it is run again.

    Values are decoded, not judged: quality control is the cycle's. Each has the time at which it was received, as far
    as that is known, so that the run decides with its own cutoff which are late.

    Args:
        spec: of a source that reads files, as in an experiment.
        times: the analysis times.
        folder: where to.

    Raises:
        ObservationError: the source is none of files, or none of its files can be read.
    """
    source = build_source({**spec, "cutoff": "none"}, None, 0)
    if not isinstance(source, FileSource):
        raise ObservationError(f"source {spec['source']} does not read files; there is nothing to ingest")
    for time in times:
        window, path = Window(time), window_file(folder, time)
        made_of = _fingerprint(spec, source.inputs(window))
        kept = _kept(path, made_of)
        if kept is not None:
            yield IngestedWindow(window.time, kept, made=False)
            continue
        table, inventory = source.read(window)
        write_table(path, table, {"made_of": made_of, "inventory": inventory.as_dict()})
        yield IngestedWindow(window.time, inventory, made=True)


def total(inventories: Sequence[Inventory]) -> Inventory:
    """The inventory of several windows: what belongs to none, such as a damaged row, counts with each that read it."""
    whole = Inventory(inventories[0].source)
    for name in ("found", "decoded", "missing", "late"):
        setattr(whole, name, sum(getattr(each, name) for each in inventories))
    whole.skipped = _sum(each.skipped for each in inventories)
    whole.values = _sum(each.values for each in inventories)
    whole.digests = {file: content for each in inventories for file, content in each.digests.items()}
    whole.files = list(whole.digests)
    whole.unreadable = max(each.unreadable for each in inventories)
    whole.problems = list(dict.fromkeys(problem for each in inventories for problem in each.problems))
    known = [each.latency for each in inventories if each.latency is not None]
    whole.latency = round(float(np.median(known)), 1) if known else None
    return whole


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    whole: Counter[str] = Counter()
    for each in counts:
        whole.update(each)
    return dict(whole)


def _fingerprint(spec: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """SHA-256 of what a table depends on; where its files lie is no part of it, but their names are."""
    options = {key: _content(value) for key, value in spec.items() if key not in ("path", "cutoff")}
    files = sorted((Path(path).name, content) for path, content in inputs.items())
    text = json.dumps([dacycle.__version__, options, files], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(option: Any) -> Any:
    """An option's value; the digest of a file that it names, such as a station list."""
    return digest(Path(option)) if isinstance(option, str) and Path(option).is_file() else option


def write_table(path: Path, table: pd.DataFrame, notes: Mapping[str, Any] | None = None) -> None:
    """Write observations or departures as Parquet; the file appears under its name only when it is whole."""
    content = to_arrow(table)
    if notes is not None:
        content = content.replace_schema_metadata({_NOTES: json.dumps(notes)})
    with whole(path) as temporary:
        pq.write_table(content, temporary)


def _kept(path: Path, made_of: str) -> Inventory | None:
    """The inventory of a window's file that was made of just this; None where it was not, is not there, or damaged."""
    try:
        notes = json.loads(pq.read_schema(path).metadata[_NOTES])
        return Inventory(**notes["inventory"]) if notes["made_of"] == made_of else None
    except _DAMAGE:
        return None


class TableFolder:
    """Tables that `dacycle ingest` has made of a period: the source `table`.

    The inventory of a cycle is that of the ingestion, but for late values, which the run's own cutoff decides, and for
    the files, which are those of the folder.

    Args:
        path: the folder.
        name, cutoff: see `build_source`.
    """

    def __init__(self, path: Path | str, name: str = "table", cutoff: pd.Timedelta | None = None) -> None:
        self.name, self.cutoff, self._folder = name, cutoff, Path(path)

    def inputs(self, window: Window) -> dict[str, str]:
        """The digest of the window's file, by path."""
        path = self._path(window)
        return {str(path): digest(path)}

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """The window's table.

        Raises:
            ObservationError: the window was not ingested, or its file is damaged.
        """
        path = self._path(window)
        try:
            with pq.ParquetFile(path) as file:
                arrow = file.read()
            notes = json.loads(arrow.schema.metadata[_NOTES])
            inventory = Inventory(**notes["inventory"])
            table = from_arrow(arrow.replace_schema_metadata(None), str(path))
        except _DAMAGE as error:
            raise ObservationError(f"{path}: is not a table of `dacycle ingest`, or damaged: {error}") from None
        table["source"] = pd.Categorical.from_codes(np.zeros(len(table), np.int8), [self.name])
        inventory.source, inventory.latency = self.name, None
        inventory.files, inventory.digests = [str(path)], self.inputs(window)
        return table, take_inventory(inventory, table, window)

    def _path(self, window: Window) -> Path:
        path = window_file(self._folder, window.time)
        if not path.is_file():
            raise ObservationError(f"source {self.name}: {self._folder} has no window {path.stem}; `dacycle ingest` it")
        return path
