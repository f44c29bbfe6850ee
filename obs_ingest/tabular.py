"""Tables of reports in delimited text or Parquet: chosen columns, whatever their order and the case of their names.

Text is dictionary-encoded: an archive repeats a few thousand different texts, and each is worked out once.
"""

import gzip
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dacycle.obs_ingest.table import ObservationError

__all__ = ["by_text", "numbers", "read_bytes", "read_table", "times"]

_NO_NAMES: Mapping[str, str] = {}
_ASCII = bytes(code if code < 128 else ord("?") for code in range(256))


def read_bytes(path: Path) -> tuple[bytes, list[str]]:
    """A file's content, unpacked if it is gzip; problems: a gzip file that was cut off, of which the rest is given.

    Raises:
        ObservationError: it cannot be read or unpacked.
    """
    pieces: list[bytes] = []
    try:
        data = path.read_bytes()
        if data[:2] != b"\x1f\x8b":
            return data, []
        with gzip.open(path) as file:
            while piece := file.read1(1 << 20):
                pieces.append(piece)
    except EOFError:
        return b"".join(pieces), [f"{path}: the compressed file is cut off"]
    except (OSError, zlib.error) as error:
        raise ObservationError(f"{path}: cannot be read: {error}") from None
    return b"".join(pieces), []


def read_table(
    path: Path,
    data: bytes,
    required: Sequence[str],
    optional: Sequence[str] = (),
    *,
    delimiter: str = ",",
    aliases: Mapping[str, str] = _NO_NAMES,
) -> tuple[pa.Table, list[str]]:
    """Columns of a Parquet or delimited file.

    Args:
        path: for messages.
        data: the file's content.
        required, optional: names of columns, in lower case as in the result; optional ones may be absent.
        delimiter: of a file that is not Parquet.
        aliases: other lower-case names that columns have had, and the one that is asked for.

    Returns:
        A table of n rows under the names asked for; and the damaged rows, by file and number.

    Raises:
        ObservationError: a required column is missing, or the file is damaged throughout.
    """
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data)) if data[:4] == b"PAR1" else None
    except (OSError, pa.ArrowException) as error:
        raise ObservationError(f"{path}: cannot be read as Parquet: {error}") from None
    names = parquet.schema_arrow.names if parquet else _header(data, delimiter)
    found = {aliases.get(name.lower(), name.lower()): name for name in reversed(names)}
    missing = [name for name in required if name not in found]
    if missing:
        raise ObservationError(f"{path}: no column {', '.join(missing)}; the file begins with {data[:40]!r}")
    chosen = {found[name]: name for name in (*required, *optional) if name in found}
    problems: list[str] = []
    try:
        if parquet:
            table = parquet.read(columns=list(chosen))
        else:
            table = _read_delimited(path, data, delimiter, list(chosen), problems)
    except (OSError, pa.ArrowException) as error:
        raise ObservationError(f"{path}: cannot be read: {error}") from None
    return table.rename_columns(chosen), problems


def _header(data: bytes, delimiter: str) -> list[str]:
    line = data[: data.find(b"\n")].decode(errors="replace").lstrip("\ufeff").strip()
    return [name.strip().strip('"') for name in line.split(delimiter)]


def _read_delimited(path: Path, data: bytes, delimiter: str, columns: list[str], problems: list[str]) -> pa.Table:
    def skip(row: Any) -> str:
        problems.append(f"{path}, row {row.number}: {row.actual_columns} fields instead of {row.expected_columns}")
        return "skip"

    if not data.isascii():
        data = data.translate(_ASCII)  # names of stations come in any encoding; what is read here is ASCII
    end = data.rfind(b"\n") + 1
    if data[end:].strip() and data[end:].count(b'"') % 2:
        # A quote left open would take the whole block for one field.
        problems.append(f"{path}: the last row is cut off")
        data = data[:end]
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.csv.read_csv(
        pa.BufferReader(data),
        pa.csv.ReadOptions(use_threads=False),
        pa.csv.ParseOptions(delimiter=delimiter, invalid_row_handler=skip),
        pa.csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, text)),
    )


def by_text(column: pa.ChunkedArray, function: Callable[[str], Any], dtype: Any = None) -> NDArray:
    """(n,) what the function makes of each row's text, which is empty where there is none."""
    texts, codes = _texts(column)
    return np.array([*(function(text.strip()) for text in texts), function("")], dtype)[codes]


def numbers(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(n,) values, NaN where there is none; and whether each is a number or empty."""
    if _is_number(column.type):
        values = column.to_numpy().astype(float)
        return np.where(np.isfinite(values), values, np.nan), ~np.isinf(values)
    texts, codes = _texts(column)
    stripped = [text.strip() for text in texts]
    values = np.append(pd.to_numeric(np.array(stripped, object), errors="coerce").astype(float), np.nan)
    values[np.isinf(values)] = np.nan
    empty = np.array([*(not text for text in stripped), True])
    return values[codes], (np.isfinite(values) | empty)[codes]


def times(column: pa.ChunkedArray, layout: str = "ISO8601") -> NDArray[np.datetime64]:
    """(n,) UTC, NaT for what is no time."""
    if pa.types.is_timestamp(column.type):
        return column.to_numpy().astype("M8[s]")
    texts, codes = _texts(column)
    parsed = pd.to_datetime(np.array([*texts, ""], object), format=layout, errors="coerce", utc=True)
    return parsed.tz_localize(None).to_numpy().astype("M8[s]")[codes]


def _texts(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.intp]]:
    """The different texts of a column, and each row's place among them: the one past the end where it has none."""
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    whole = column.combine_chunks()
    texts = whole.dictionary.to_pylist()
    return texts, whole.indices.cast(pa.int32()).fill_null(len(texts)).to_numpy(zero_copy_only=False)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
