"""Tables derived from the archive, kept beside it: what was computed of a cycle once is not computed again.

Each file holds, in its metadata, the cycles that went into it and a key of each; whoever reads it computes what a
changed key concerns. A file can be deleted at any time.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dacycle.common.files import write_whole

__all__ = ["read_tables", "write_tables"]

_KEYS = b"dacycle.cycles.2"
"""Where the keys stand; another number makes tables of an older layout be computed anew."""


def read_tables(folder: Path, names: Sequence[str]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """The tables of earlier calls and the key of each cycle in them; empty where the files do not agree."""
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
    """Keep the tables, and by the name of each cycle the key of what was computed from it."""
    for name, frame in tables.items():
        table = pa.Table.from_pandas(frame, preserve_index=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEYS: json.dumps(keys).encode()})
        content = io.BytesIO()
        pq.write_table(table, content, compression="zstd")
        write_whole(folder / f"{name}.parquet", content.getvalue())
