"""Observation tables made ahead of a run, one Parquet file per window: the source `table` reads them.

A window's file holds its table and, as metadata, its inventory and a digest of its inputs: the source, its options and
the content of the files. `ingesting` makes them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from dacycle.common.arrow import read_parquet
from dacycle.common.files import whole
from dacycle.common.foreign import reading
from dacycle.obs_ingest.sources.base import Inventory, take_inventory
from dacycle.obs_ingest.sources.files import digest
from dacycle.obs_ingest.table import ObservationError, from_arrow, to_arrow
from dacycle.obs_ingest.window import Window

__all__ = ["TableFolder", "kept_inventory", "read_window", "window_file", "write_table"]

_NOTES = b"dacycle"


def window_file(folder: Path, time: np.datetime64) -> Path:
    """Return the file of the window of an analysis time, such as `20240104T00.parquet`."""
    return folder / f"{pd.Timestamp(time):%Y%m%dT%H}.parquet"


def write_table(path: Path, table: pd.DataFrame, notes: Mapping[str, Any] | None = None) -> None:
    """Write observations or departures as Parquet; the file appears under its name only when it is whole."""
    content = to_arrow(table)
    if notes is not None:
        content = content.replace_schema_metadata({_NOTES: json.dumps(notes)})
    with whole(path) as temporary:
        pq.write_table(content, temporary)


def kept_inventory(path: Path, made_of: str) -> Inventory | None:
    """Return the inventory of a window's file; None where it has another digest, is not there, or is damaged."""
    try:
        with reading(path, ObservationError):
            notes = json.loads(pq.read_schema(path).metadata[_NOTES])
            return Inventory(**notes["inventory"]) if notes["made_of"] == made_of else None
    except ObservationError:
        return None


def read_window(path: Path) -> tuple[pd.DataFrame, Inventory]:
    """Return the table of a window's file, and its inventory.

    Raises:
        ObservationError: the file is damaged, or something else.
    """
    with reading(path, ObservationError):
        arrow = read_parquet(path)
        if _NOTES not in (arrow.schema.metadata or {}):
            raise ObservationError(f"{path}: is not a table of `dacycle ingest`")
        inventory = Inventory(**json.loads(arrow.schema.metadata[_NOTES])["inventory"])
        return from_arrow(arrow.replace_schema_metadata(None), str(path)), inventory


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
        table, inventory = read_window(path)
        table["source"] = pd.Categorical.from_codes(np.zeros(len(table), np.int8), [self.name])
        inventory.source, inventory.latency = self.name, None
        inventory.files, inventory.digests = [str(path)], self.inputs(window)
        return table, take_inventory(inventory, table, window)

    def _path(self, window: Window) -> Path:
        path = window_file(self._folder, window.time)
        if not path.is_file():
            raise ObservationError(f"source {self.name}: {self._folder} has no window {path.stem}; `dacycle ingest` it")
        return path
