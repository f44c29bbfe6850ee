"""Tables derived from the archive, kept beside it, so that nothing is computed twice of the same cycle.

Each file holds, in its metadata, the cycles that went into it and a key for each; whoever reads it computes again what
a changed key concerns. A file can be deleted at any time; one that is damaged is computed again, with a warning. Only
the scores of states that retention has removed cannot be: their tables are refused where they are damaged.

Several processes may read and write the same tables at once, such as `dacycle serve` and `dacycle report`. Each file
is seen whole, and a lock lets one process at a time write the files of a folder. A reader that meets files of two
writers, or of one that was killed between two files, sees by their keys on which cycles they agree.
"""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dacycle.common.arrow import to_pandas
from dacycle.common.files import write_whole
from dacycle.common.locks import locked
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.sealed_tables import read_sealed_table, seal_table

__all__ = ["CYCLE_TABLES", "LAST_COPY", "REMOVED", "read_cycle_tables", "read_rows", "read_tables", "write_tables"]

logger = logging.getLogger(__name__)

_KEYS = b"dacycle.cycles.4"
"""Where the keys are kept; with another number, tables of an older layout are computed again. Those with scores of
removed states cannot be, and are refused: a higher number needs a reader of the one before it."""

REMOVED = " removed"
"""How the key of a cycle ends that was never scored before its states were removed."""

CYCLE_TABLES = ("errors", "means", "fits")
"""Tables whose rows are of single cycles: the scores, of removed states as well."""

_AGAIN = "its tables are computed again"
LAST_COPY = (
    "it holds scores of states that retention has removed: restore it from a backup (`dacycle archive restore BACKUP "
    "ARCHIVE --only FILE`); without one, delete the tables of its folder, which gives these scores up"
)
"""What mends a table that cannot be computed again."""


def read_tables(folder: Path, names: Sequence[str]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Return the stored tables and the key of each cycle in them; both are empty where the files do not agree."""
    tables, keys = _read_all(folder, names)
    if not keys[0] or any(other != keys[0] for other in keys):
        return {name: _empty() for name in names}, {}
    return tables, keys[0]


def read_cycle_tables(folder: Path, removed: Collection[str]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Return the CYCLE_TABLES that are stored, and the key of each cycle in them, "" where the files disagree on it.

    Args:
        folder: of the files.
        removed: cycles whose states are gone, so that their scores cannot be computed again.

    Raises:
        ArchiveError: where such scores may be lost, a table is damaged, missing beside others, or of another layout.
    """
    tables, keys = _read_all(folder, CYCLE_TABLES, bool(removed))
    scored = any(not of_one.get(cycle, REMOVED).endswith(REMOVED) for of_one in keys for cycle in removed)
    if scored and not all(keys):
        lacking = CYCLE_TABLES[[bool(of_one) for of_one in keys].index(False)]
        raise ArchiveError(f"{folder / lacking}.parquet is missing; {LAST_COPY}")
    cycles = {cycle: key for of_one in keys for cycle, key in of_one.items()}
    return tables, {c: key if all(of_one.get(c) == key for of_one in keys) else "" for c, key in cycles.items()}


def _read_all(
    folder: Path, names: Sequence[str], last_copy: bool = False
) -> tuple[dict[str, pd.DataFrame], list[dict[str, str]]]:
    """Return each table, and the keys in each file; nothing of a file that has to be computed again."""
    paths = [folder / f"{name}.parquet" for name in names]
    found = [_read(path, last_copy) for path in paths]
    return {name: table for name, (table, _) in zip(names, found, strict=True)}, [keys for _, keys in found]


def _read(path: Path, last_copy: bool) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return a table and its keys; nothing where it has to be computed again. Raises as `read_cycle_tables`."""
    if not path.is_file():
        return _empty(), {}
    try:
        table = read_sealed_table(path, LAST_COPY if last_copy else _AGAIN)
    except ArchiveError as error:
        if last_copy:
            raise
        logger.warning("%s", error)
        return _empty(), {}
    keys = _keys(table)
    if last_copy and not keys:
        raise ArchiveError(f"{path} is of another version of dacycle; {LAST_COPY}")
    return (to_pandas(table), keys) if keys else (_empty(), {})


def _keys(table: pa.Table) -> dict[str, str]:
    return dict(json.loads((table.schema.metadata or {}).get(_KEYS, b"{}")))


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=["time"])


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
        return _empty(), {}
    table = read_sealed_table(path, remedy)
    return to_pandas(table.filter(rows)), _keys(table)


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
