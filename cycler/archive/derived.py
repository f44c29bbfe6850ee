"""Tables derived from the archive, kept beside it, so that nothing is computed twice of the same cycle.

Each file holds, in its metadata, the cycles that went into it and a key for each; whoever reads it computes again what
a changed key concerns. A file can be deleted at any time; one that is damaged is computed again, with a warning.

Several processes may read and write the same tables at once, such as `dacycle serve` and `dacycle report`. Each file
is seen whole, and a lock lets one process at a time write the files of a folder. A reader that meets files of two
writers sees that their keys differ, and computes everything again.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dacycle.common.files import write_whole
from dacycle.common.locks import locked
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.sealed_tables import read_sealed_table, seal_table

__all__ = ["read_rows", "read_tables", "write_tables"]

logger = logging.getLogger(__name__)

_KEYS = b"dacycle.cycles.4"
"""Where the keys are kept; with another number, tables of an older layout are computed again."""


def read_tables(folder: Path, names: Sequence[str]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Return the stored tables and the key of each cycle in them; both are empty where the files do not agree."""
    tables, keys = {}, []
    for name in names:
        path = folder / f"{name}.parquet"
        if not path.is_file():
            break
        try:
            table = read_sealed_table(path, "its tables are computed again")
        except ArchiveError as error:
            logger.warning("%s", error)
            break
        tables[name] = table.to_pandas()
        keys.append((table.schema.metadata or {}).get(_KEYS, b"{}"))
    if len(keys) < len(names) or len(set(keys)) != 1 or keys[0] == b"{}":
        return {name: pd.DataFrame(columns=["time"]) for name in names}, {}
    return tables, json.loads(keys[0])


def read_rows(folder: Path, name: str, rows: pc.Expression, remedy: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return some rows of one stored table, and the key of each cycle in it; both are empty where there is none.

    Args:
        folder: of the tables.
        name: of the table.
        rows: which rows.
        remedy: what mends a file that is damaged.

    Raises:
        ArchiveError: the file is damaged.
    """
    path = folder / f"{name}.parquet"
    if not path.is_file():
        return pd.DataFrame(columns=["time"]), {}
    table = read_sealed_table(path, remedy)
    return table.filter(rows).to_pandas(), json.loads((table.schema.metadata or {}).get(_KEYS, b"{}"))


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame], keys: Mapping[str, str]) -> None:
    """Keep the tables, and for each cycle the key of what was computed from it.

    Where they cannot be written, as on a read-only disk, they are not kept, and a warning says so.
    """
    try:
        with locked(folder / "lock", f"the tables in {folder}", ArchiveError, wait=True):
            for name, frame in tables.items():
                table = pa.Table.from_pandas(frame, preserve_index=False)
                notes = {**(table.schema.metadata or {}), _KEYS: json.dumps(keys).encode()}
                write_whole(folder / f"{name}.parquet", seal_table(table.replace_schema_metadata(notes)))
    except (OSError, ArchiveError) as error:
        logger.warning("%s; they are computed, but not kept", error)
