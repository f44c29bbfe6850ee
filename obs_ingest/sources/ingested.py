"""Observation tables made ahead of a run, one Parquet file per window: made from files, and read as the source `table`.

A window's file holds its table and, as metadata, its inventory and a digest of its inputs: the source, its options and
the content of the files. A window that is there with the same digest is not made again.
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
import pyarrow.parquet as pq
from numpy.typing import NDArray

import dacycle
from dacycle.common.files import whole
from dacycle.common.foreign import reading
from dacycle.obs_ingest.sources.base import FileSource, Inventory, build_source, take_inventory
from dacycle.obs_ingest.sources.files import digest
from dacycle.obs_ingest.table import ObservationError, from_arrow, to_arrow
from dacycle.obs_ingest.window import Window

__all__ = ["IngestedWindow", "TableFolder", "ingest", "total", "window_file", "write_table"]

_NOTES = b"dacycle"


@dataclass(frozen=True)
class IngestedWindow:
    """A window of a folder of tables: its analysis time, its inventory, and whether it was made now or was there."""

    time: np.datetime64
    inventory: Inventory
    made: bool


def window_file(folder: Path, time: np.datetime64) -> Path:
    """Return the file of the window of an analysis time, such as `20240104T00.parquet`."""
    return folder / f"{pd.Timestamp(time):%Y%m%dT%H}.parquet"


def ingest(spec: Mapping[str, Any], times: NDArray[np.datetime64], folder: Path) -> Iterator[IngestedWindow]:
    """Make the tables of windows, one after the other; after an interruption it continues when it is run again.

    Values are decoded, not checked: quality control belongs to the cycle. Each value keeps the time of its receipt, as
    far as that is known, so that the run decides with its own cutoff which values are late.

    Args:
        spec: of a source that reads files, as in an experiment.
        times: the analysis times.
        folder: where the tables are written.

    Raises:
        ObservationError: the source does not read files, or none of its files can be read.
    """
    source = build_source({**spec, "cutoff": "none"}, None, 0)
    if not isinstance(source, FileSource):
        raise ObservationError(f"source {spec['source']} does not read files; there is nothing to ingest")
    for time in times:
        window, path = Window(time), window_file(folder, time)
        made_of = _fingerprint(spec, source.inputs(window))
        present = _inventory(path, made_of)
        if present is not None:
            yield IngestedWindow(window.time, present, made=False)
            continue
        table, inventory = source.read(window)
        write_table(path, table, {"made_of": made_of, "inventory": inventory.as_dict()})
        yield IngestedWindow(window.time, inventory, made=True)


def total(inventories: Sequence[Inventory]) -> Inventory:
    """Return the inventory of several windows.

    Something that belongs to no window, such as a damaged row, is counted with each window that read it.
    """
    result = Inventory(inventories[0].source)
    for name in ("found", "decoded", "missing", "late"):
        setattr(result, name, sum(getattr(inventory, name) for inventory in inventories))
    result.skipped = _sum(inventory.skipped for inventory in inventories)
    result.values = _sum(inventory.values for inventory in inventories)
    result.digests = {file: content for inventory in inventories for file, content in inventory.digests.items()}
    result.files = list(result.digests)
    result.unreadable = max(inventory.unreadable for inventory in inventories)
    result.problems = list(dict.fromkeys(problem for inventory in inventories for problem in inventory.problems))
    latencies = [inventory.latency for inventory in inventories if inventory.latency is not None]
    result.latency = round(float(np.median(latencies)), 1) if latencies else None
    return result


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    result: Counter[str] = Counter()
    for count in counts:
        result.update(count)
    return dict(result)


def _fingerprint(spec: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the SHA-256 of all that a table depends on: names of files are part of it, their folders are not."""
    options = {key: _content(value) for key, value in spec.items() if key not in ("path", "cutoff")}
    files = sorted((Path(path).name, content) for path, content in inputs.items())
    text = json.dumps([dacycle.__version__, options, files], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(option: Any) -> Any:
    """Return an option's value, or the digest of the file that it names, such as a station list."""
    return digest(Path(option)) if isinstance(option, str) and Path(option).is_file() else option


def write_table(path: Path, table: pd.DataFrame, notes: Mapping[str, Any] | None = None) -> None:
    """Write observations or departures as Parquet; the file appears under its name only when it is whole."""
    content = to_arrow(table)
    if notes is not None:
        content = content.replace_schema_metadata({_NOTES: json.dumps(notes)})
    with whole(path) as temporary:
        pq.write_table(content, temporary)


def _inventory(path: Path, made_of: str) -> Inventory | None:
    """Return the inventory of a window's file; None where it has another digest, is not there, or is damaged."""
    try:
        with reading(path, ObservationError):
            notes = json.loads(pq.read_schema(path).metadata[_NOTES])
            return Inventory(**notes["inventory"]) if notes["made_of"] == made_of else None
    except ObservationError:
        return None


class TableFolder:
    """Tables that `dacycle ingest` has made of a period: the source `table`.

    The inventory of a cycle is that of the ingestion, except late values, which depend on the run's own cutoff, and the
    files, which are those of the folder.

    Args:
        path: the folder.
        name, cutoff: see `build_source`.
    """

    def __init__(self, path: Path | str, name: str = "table", cutoff: pd.Timedelta | None = None) -> None:
        self.name, self.cutoff, self._folder = name, cutoff, Path(path)

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digest of the window's file, by path."""
        path = self._path(window)
        return {str(path): digest(path)}

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """Read the window's table.

        Raises:
            ObservationError: the window was not ingested, or its file is damaged.
        """
        path = self._path(window)
        with reading(path, ObservationError):
            with pq.ParquetFile(path) as file:
                arrow = file.read()
            if _NOTES not in (arrow.schema.metadata or {}):
                raise ObservationError(f"{path}: is not a table of `dacycle ingest`")
            notes = json.loads(arrow.schema.metadata[_NOTES])
            inventory = Inventory(**notes["inventory"])
            table = from_arrow(arrow.replace_schema_metadata(None), str(path))
        table["source"] = pd.Categorical.from_codes(np.zeros(len(table), np.int8), [self.name])
        inventory.source, inventory.latency = self.name, None
        inventory.files, inventory.digests = [str(path)], self.inputs(window)
        return table, take_inventory(inventory, table, window)

    def _path(self, window: Window) -> Path:
        path = window_file(self._folder, window.time)
        if not path.is_file():
            raise ObservationError(f"source {self.name}: {self._folder} has no window {path.stem}; `dacycle ingest` it")
        return path
