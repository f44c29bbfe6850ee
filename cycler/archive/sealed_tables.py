"""Seals of tables: Parquet files whose metadata hold the SHA-256 of the file, taken with zeros in the digest's place.

Any reader of Parquet reads them. Files without a seal are older than seals; they are read as they are.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dacycle.common.arrow import read_parquet
from dacycle.common.foreign import reading
from dacycle.cycler.archive.exceptions import ArchiveError

__all__ = ["read_sealed_table", "seal_table"]

_KEY = b"dacycle.seal"
_ZEROS = b"sha256=" + 64 * b"0"
_SEAL = re.compile(rb"sha256=[0-9a-f]{64}")


def seal_table(table: pa.Table) -> bytes:
    """Return the content of a Parquet file with this table and its seal."""
    sink = io.BytesIO()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: _ZEROS})
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue()
    return content.replace(_ZEROS, b"sha256=" + _sha256(content).encode(), 1)


def read_sealed_table(path: Path, remedy: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a table, or some columns of it. Arguments and errors as `seals.read_sealed_text`."""
    with reading(f"{path} ({remedy})", ArchiveError):
        content = path.read_bytes()
        seal = _SEAL.search(content)
        whole = seal is None or seal[0] == b"sha256=" + _sha256(content.replace(seal[0], _ZEROS, 1)).encode()
        if whole:
            table = read_parquet(pa.BufferReader(content), columns)
            whole = (seal is not None) == (_KEY in (table.schema.metadata or {}))
    if not whole:
        raise ArchiveError(f"{path} is damaged; {remedy}")
    return table


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
