"""Seals: digests with which texts and tables are written, so that a byte that changes on disk is noticed.

A sealed text ends with a comment line that holds the SHA-256 of all lines before it. A sealed table is an ordinary
Parquet file whose metadata hold the SHA-256 of the file, taken with zeros in the digest's place. Files without a seal
are older than seals; they are read as they are.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dacycle.common.foreign import decode_text, reading
from dacycle.cycler.archive.exceptions import ArchiveError

__all__ = ["read_sealed_table", "read_sealed_text", "seal_table", "seal_text"]

_LABEL = "# sha256 "
_DIGEST = re.compile(r"[0-9a-f]{64}\s*\Z")
_KEY = b"dacycle.seal"
_ZEROS = b"sha256=" + 64 * b"0"
_SEAL = re.compile(rb"sha256=[0-9a-f]{64}")


def seal_text(text: str) -> bytes:
    """Return the content of a file with this text, which ends with a newline, and its seal."""
    return f"{text}{_LABEL}{_sha256(text.encode())}\n".encode()


def read_sealed_text(path: Path, remedy: str) -> tuple[str, bool]:
    """Return the text of a file, and whether it has a seal.

    Args:
        path: the file.
        remedy: what to do where it is damaged, for the message.

    Raises:
        ArchiveError: the file cannot be read, or is not the one that was written.
    """
    with reading(path, ArchiveError):
        content = path.read_bytes()
    text, label, digest = content.decode("utf-8", "replace").rpartition(_LABEL)
    if label and digest == f"{_sha256(text.encode())}\n":
        return text, True
    if label or _DIGEST.search(digest):  # without its label the digest's line is still there
        raise ArchiveError(f"{path} is damaged; {remedy}")
    return decode_text(content, path, ArchiveError), False


def seal_table(table: pa.Table) -> bytes:
    """Return the content of a Parquet file with this table and its seal."""
    sink = io.BytesIO()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: _ZEROS})
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue()
    return content.replace(_ZEROS, b"sha256=" + _sha256(content).encode(), 1)


def read_sealed_table(path: Path, remedy: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a table, or some columns of it. Arguments and errors as `read_sealed_text`."""
    with reading(f"{path} ({remedy})", ArchiveError):
        content = path.read_bytes()
        seal = _SEAL.search(content)
        whole = seal is None or seal[0] == b"sha256=" + _sha256(content.replace(seal[0], _ZEROS, 1)).encode()
        if whole:
            table = pq.read_table(io.BytesIO(content), columns=columns, page_checksum_verification=True)
            whole = (seal is not None) == (_KEY in (table.schema.metadata or {}))
    if not whole:
        raise ArchiveError(f"{path} is damaged; {remedy}")
    return table


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
