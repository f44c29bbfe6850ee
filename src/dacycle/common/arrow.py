"""Parquet files and Arrow tables, read in the calling thread.

Arrow starts threads of its own when they are first used. A process that ends in the same moment may be aborted, after
its work is done (3 of 360 ends of a program that reads one table, on a busy machine), or never end (apache/arrow issue
50482). What is here starts none; `pq.read_table` does so even with `use_threads=False`. The tables of an archive are
small, and the files of observations are read side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["open_parquet", "read_batches", "read_parquet", "to_pandas"]


@contextmanager
def open_parquet(source: Path | pa.BufferReader) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; the checksums of its pages are verified where it has any."""
    with pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True) as file:
        yield file


def read_parquet(source: Path | pa.BufferReader, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table of a Parquet file, or some columns of it; KeyError where it lacks one of them."""
    with open_parquet(source) as file:
        if columns is None:
            return file.read(use_threads=False)
        return file.read(list(columns), use_threads=False).select(list(columns))  # `read` ignores unknown names


def read_batches(file: pq.ParquetFile, columns: Sequence[str], rows: int = 65536) -> Iterator[pa.Table]:
    """Yield columns of an open file as tables of at most so many rows; KeyError where it lacks one of them."""
    for batch in file.iter_batches(rows, columns=list(columns), use_threads=False):
        yield pa.Table.from_batches([batch]).select(list(columns))


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Return a table as a data frame."""
    frame: pd.DataFrame = table.to_pandas(use_threads=False)
    return frame
