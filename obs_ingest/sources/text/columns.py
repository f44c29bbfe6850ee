"""Tables of reports in delimited text or Parquet: chosen columns, whatever their order and the case of their names.

Text is dictionary-encoded: an archive repeats a few thousand different texts, and each is parsed once.
"""

import codecs
import gzip
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from dacycle.common.arrow import open_parquet, read_batches
from dacycle.common.foreign import decode_text, reading
from dacycle.obs_ingest.table import ObservationError

__all__ = ["by_text", "lines", "numbers", "read_tables", "start", "times"]

CHUNK = 4 << 20
"""Bytes of a file that are in memory at a time."""

_NO_NAMES: Mapping[str, str] = {}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def start(path: Path) -> bytes:
    """Return the first characters of a file, unpacked if it is gzip or zip, as `lines` yields them.

    Raises:
        ObservationError: it cannot be read or unpacked.
    """
    begins = next(_pieces(path, 256, []), b"")
    return _ascii(begins[: len(begins) // 2 * 2] if begins.startswith(_UTF16) else begins, path)


def lines(path: Path, problems: list[str]) -> Iterator[bytes]:
    """Yield a file's text in ASCII, unpacked if it is gzip or zip, in pieces of about `CHUNK` that end with a line.

    Each byte that is not ASCII becomes a question mark: names of stations come in any encoding, and nothing else in
    these files has such characters. A byte order mark is left out.

    Args:
        path: the file.
        problems: gets a sentence where a gzip file was cut off; the part before is still yielded.

    Raises:
        ObservationError: it cannot be read or unpacked.
    """
    rest = bytearray()
    pieces = _pieces(path, CHUNK, problems)
    first = next(pieces, b"")
    if first.startswith(_UTF16):
        first = b"".join([first, *pieces])
    for piece in chain([first], pieces):
        rest += _ascii(piece, path)
        if len(rest) >= CHUNK:
            end = rest.rfind(b"\n") + 1 or len(rest)  # no text has a line as long as this
            yield bytes(rest[:end])
            del rest[:end]
    if rest:
        yield bytes(rest)


def _pieces(path: Path, size: int, problems: list[str]) -> Iterator[bytes]:
    with reading(path, ObservationError):
        try:
            with path.open("rb") as plain, _unpacked(plain, path) as file:
                while piece := file.read1(size):
                    yield piece
        except EOFError:
            problems.append(f"{path}: the compressed file is cut off")


@contextmanager
def _unpacked(plain: BufferedReader, path: Path) -> Iterator[Any]:
    """Open what a file holds: the text of a gzip file, the only member of a zip file, else the file itself."""
    begins = plain.read(4)
    plain.seek(0)
    if begins[:2] == b"\x1f\x8b":
        with gzip.open(plain) as file:
            yield file
    elif begins == b"PK\x03\x04":
        with zipfile.ZipFile(plain) as archive:
            members = archive.namelist()
            if len(members) != 1:
                raise ObservationError(f"{path}: a zip file of {len(members)} files; unpack the one that is meant")
            with archive.open(members[0]) as file:
                yield file
    else:
        yield plain


def _ascii(piece: bytes, path: Path) -> bytes:
    return decode_text(piece, path, ObservationError, strict=False).encode("ascii", "replace")


def read_tables(
    path: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    *,
    problems: list[str],
    delimiter: str = ",",
    aliases: Mapping[str, str] = _NO_NAMES,
) -> Iterator[pa.Table]:
    """Read columns of a Parquet or delimited file, some rows at a time.

    Args:
        path: the file.
        required, optional: names of columns, in lower case as in the result; optional ones may be absent.
        problems: gets a sentence about each damaged row, with file and number.
        delimiter: of a file that is not Parquet.
        aliases: other lower-case names that columns have had, and the requested name of each.

    Yields:
        Tables with the requested names; together they are the file.

    Raises:
        ObservationError: a required column is missing, or the file is damaged throughout.
    """

    def chosen(names: list[str], begins: bytes) -> dict[str, str]:
        present = {aliases.get(name.lower(), name.lower()): name for name in reversed(names)}
        missing = [name for name in required if name not in present]
        if missing:
            raise ObservationError(f"{path}: no column {', '.join(missing)}; the file begins with {begins[:40]!r}")
        return {present[name]: name for name in (*required, *optional) if name in present}

    begins = start(path)
    if not begins:
        chosen([], begins)
    with reading(path, ObservationError):
        if begins[:4] == b"PAR1":
            yield from _read_parquet(path, chosen, begins)
        else:
            yield from _read_delimited(path, delimiter, chosen, problems)


Choose = Callable[[list[str], bytes], dict[str, str]]


def _read_parquet(path: Path, chosen: Choose, begins: bytes) -> Iterator[pa.Table]:
    with open_parquet(path) as parquet:
        names = chosen(parquet.schema_arrow.names, begins)
        for table in read_batches(parquet, [*names]):
            yield table.rename_columns(names)


def _read_delimited(path: Path, delimiter: str, chosen: Choose, problems: list[str]) -> Iterator[pa.Table]:
    text = pa.dictionary(pa.int32(), pa.string())
    header, names, rows = b"", {}, 0

    def skip(row: Any) -> str:
        where = f"row {rows + row.number}"
        problems.append(f"{path}, {where}: {row.actual_columns} fields instead of {row.expected_columns}")
        return "skip"

    pieces = lines(path, problems)
    piece = next(pieces, b"")
    while piece:
        following = next(pieces, b"")
        if not header:
            header = piece[: piece.find(b"\n") + 1] or piece
            names = chosen(_header(header, delimiter), piece)
        else:
            piece = header + piece
        end = piece.rfind(b"\n") + 1
        if not following and piece[end:].strip() and piece[end:].count(b'"') % 2:
            # With an open quote the whole block would be read as one field.
            problems.append(f"{path}: the last row is cut off")
            piece = piece[:end]
        yield pa.csv.read_csv(
            pa.BufferReader(piece),
            pa.csv.ReadOptions(use_threads=False),
            pa.csv.ParseOptions(delimiter=delimiter, invalid_row_handler=skip),
            pa.csv.ConvertOptions(include_columns=list(names), column_types=dict.fromkeys(names, text)),
        ).rename_columns(names)
        rows += piece.count(b"\n") - 1
        piece = following


def _header(line: bytes, delimiter: str) -> list[str]:
    return [name.strip().strip('"') for name in line.decode().strip().split(delimiter)]


def by_text(column: pa.ChunkedArray, function: Callable[[str], Any], dtype: Any = None) -> NDArray:
    """Return the function's result (n,) for each row's text, which is empty where there is none."""
    texts, codes = _texts(column)
    return np.array([*(function(text.strip()) for text in texts), function("")], dtype)[codes]


def numbers(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return values (n,), NaN where there is none, and whether each is a number or empty."""
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
    """Return times (n,) in UTC, NaT for texts that are not a time."""
    if pa.types.is_timestamp(column.type):
        return column.to_numpy().astype("M8[s]")
    texts, codes = _texts(column)
    parsed = pd.to_datetime(np.array([*texts, ""], object), format=layout, errors="coerce", utc=True)
    return parsed.tz_localize(None).to_numpy().astype("M8[s]")[codes]


def _texts(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.intp]]:
    """Return the distinct texts of a column, and the index of each row's text; past the end where it has none."""
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    whole = column.combine_chunks()
    texts = whole.dictionary.to_pylist()
    return texts, whole.indices.cast(pa.int32()).fill_null(len(texts)).to_numpy(zero_copy_only=False)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
