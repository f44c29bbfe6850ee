"""Tables derived from the archive, kept beside it, so that nothing is computed twice of the same cycle.

Each file holds, in its metadata, the cycles that went into it and a key for each; whoever reads it computes again what
a changed key concerns. A file can be deleted at any time.

Several processes may read and write the same tables at once, such as `dacycle serve` and `dacycle report`. Each file
is seen whole, and a lock lets one process at a time write the files of a folder. A reader that meets files of two
writers sees that their keys differ, and computes everything again.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dacycle.common.files import write_whole
from dacycle.cycler.archive.lock import locked

__all__ = ["read_tables", "write_tables"]

_KEYS = b"dacycle.cycles.2"
"""Where the keys are kept; with another number, tables of an older layout are computed again."""


def read_tables(folder: Path, names: Sequence[str]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Return the stored tables and the key of each cycle in them; both are empty where the files do not agree."""
    tables, keys = {}, []
    for name in names:
        path = folder / f"{name}.parquet"
        if not path.is_file():
            break
        table = pq.read_table(path)
        tables[name] = table.to_pandas()
        keys.append((table.schema.metadata or {}).get(_KEYS, b"{}"))
    if len(keys) < len(names) or len(set(keys)) != 1 or keys[0] == b"{}":
        return {name: pd.DataFrame(columns=["time"]) for name in names}, {}
    return tables, json.loads(keys[0])


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame], keys: Mapping[str, str]) -> None:
    """Keep the tables, and for each cycle the key of what was computed from it."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", f"the tables in {folder}", wait=True):
        for name, frame in tables.items():
            table = pa.Table.from_pandas(frame, preserve_index=False)
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEYS: json.dumps(keys).encode()})
            content = io.BytesIO()
            pq.write_table(table, content, compression="zstd")
            write_whole(folder / f"{name}.parquet", content.getvalue())
