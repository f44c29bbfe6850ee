"""Groups that grow along time: how their arrays are made, and how rows are added to them.

Zarr writes any part of any array: for each one it starts tasks and a thread, compares chunks with the fill value, and
passes the metadata through its classes. With dozens of small arrays in a commit, that took longer than to compress
them. Here chunks hold whole rows, so that rows are added by encoding the chunks that they fill, with the codecs of
`create`, and by changing one number of the metadata. Zarr would write the same bytes, and reads what stands there.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import zarr
from icechunk import IcechunkStore
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.buffer import default_buffer_prototype
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import StorePath

from dacycle.cycler.archive.exceptions import ArchiveError

if TYPE_CHECKING:  # what only looks at records, such as `dacycle status`, does not import it
    import xarray as xr

__all__ = ["COMPRESSORS", "Encoded", "Growth", "Rows", "create", "encoded_row", "hours", "rows_of"]


@dataclass(frozen=True)
class Encoded:
    """One row of an array that has one row in a chunk, as it is stored; its checksum has been verified.

    Attributes:
        content: of the chunk.
        shape: of the array, without the number of rows.
        codecs: of the array, as its metadata hold them.
    """

    content: bytes
    shape: tuple[int, ...]
    codecs: str


Rows = dict[str, NDArray | Encoded]
"""What a group that is there grows by: its arrays by name, time first, with `time` itself as datetime64."""

TIME_UNITS = "hours since 1970-01-01"
# Fields have one time per chunk. Series and records share chunks; otherwise a year's list would read a file per cycle.
_NUMBERS_PER_CHUNK = 512
_TEXTS_PER_CHUNK = 64
COMPRESSORS = (ZstdCodec(level=1), Crc32cCodec())
_LENGTH = "number of rows"
"""Stands for that number in the text of an array's metadata."""


def hours(times: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Return times (n,) as int64 hours since 1970-01-01."""
    return np.asarray(times).astype("datetime64[h]").astype(np.int64)


def rows_of(dataset: "xr.Dataset") -> Rows:
    """Return the variables of a dataset that grow along time, time first."""
    return {str(key): v.transpose("time", ...).values for key, v in dataset.variables.items() if "time" in v.dims}


def create(root: zarr.Group, name: str, dataset: "xr.Dataset") -> None:
    """Create a group shaped like the dataset, without times; write its variables that do not grow."""
    group = root.create_group(name, attributes={str(key): value for key, value in dataset.attrs.items()})
    for key, variable in dataset.variables.items():
        growing, text = "time" in variable.dims, variable.dtype.kind in "OTU"
        if growing:
            variable = variable.transpose("time", ...)
        shape = (0, *variable.shape[1:]) if growing else variable.shape
        attributes = {str(k): v for k, v in variable.attrs.items()}
        if key == "time":
            attributes |= {"units": TIME_UNITS, "calendar": "proleptic_gregorian"}
        array = group.create_array(
            str(key),
            shape=shape,
            chunks=_chunks(shape, text) if growing else "auto",
            dtype=np.int64 if key == "time" else (str if text else variable.dtype),
            compressors=COMPRESSORS,
            fill_value="" if text else (np.nan if variable.dtype.kind == "f" else 0),
            attributes=attributes,
            dimension_names=[str(dim) for dim in variable.dims],
        )
        if not growing:
            array[...] = variable.values


def _chunks(shape: tuple[int, ...], text: bool) -> tuple[int, ...]:
    """Return the chunks of an array that grows along its first axis."""
    if len(shape) > 1:
        return (1, *shape[1:])
    return (_TEXTS_PER_CHUNK if text else _NUMBERS_PER_CHUNK,)


@dataclass
class Growth:
    """What a branch holds at a commit that this process wrote: nothing of it need be read for the next one.

    Attributes:
        tip: the commit.
        last: the last time of each group, hours; None where it has none.
    """

    tip: str
    last: dict[str, int | None] = field(default_factory=dict)
    _arrays: dict[str, "_Array"] = field(default_factory=dict)

    async def read(self, store: IcechunkStore, group: str, names: Iterable[str]) -> None:
        """Look at those arrays of a group that were not looked at before."""
        for path in {f"{group}/{name}" for name in names} - self._arrays.keys():
            array = await zarr.AsyncArray.open(StorePath(store, path), zarr_format=3)
            self._arrays[path] = await _Array.read(path, array)
            if path == f"{group}/time":
                self.last[group] = int(np.asarray(await array.getitem(-1))) if array.shape[0] else None

    def grow(self, group: str, rows: Rows) -> list[dict[str, bytes]]:
        """Add rows to a group, and return what the store must hold for them, by key, for each array.

        Raises:
            ArchiveError: a time does not come after those of the group, or a shape is another.
        """
        times = rows["time"]
        assert not isinstance(times, Encoded)  # times share chunks
        new, last = hours(times), self.last[group]
        joined = new if last is None else np.concatenate([[last], new])
        if np.any(np.diff(joined) <= 0):
            before, first = (np.int64(hour).astype("datetime64[h]") for hour in (joined[0], new[0]))
            raise ArchiveError(f"{group} already goes to {before}; cannot append {first}")
        self.last[group] = int(new[-1])
        values: Rows = {**rows, "time": new}
        return [self._arrays[f"{group}/{name}"].grow(value) for name, value in values.items()]


async def encoded_row(store: IcechunkStore, path: str, array: zarr.AsyncArray, row: int) -> Encoded:
    """Return a row of an array that has one row in a chunk, as it is stored.

    Raises:
        ArchiveError: the chunk is not there, or its checksum fails.
    """
    key = _chunk_key(path, row, array.ndim)
    found = await store.get(key, default_buffer_prototype())
    content = b"" if found is None else found.to_bytes()
    if array.chunks[0] != 1 or google_crc32c.value(content[:-4]).to_bytes(4, "little") != content[-4:]:
        raise ArchiveError(f"{key}: its checksum fails")
    described = array.metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"]
    return Encoded(content, array.shape[1:], _codecs(json.loads(described.to_bytes())))


def _chunk_key(path: str, number: int, dimensions: int) -> str:
    return "/".join([path, "c", str(number), *["0"] * (dimensions - 1)])


@dataclass
class _Array:
    """An array of a group as it stands at a commit.

    Attributes:
        path: of the array in its store.
        metadata: content of its `zarr.json`.
        rows: number of rows in a chunk.
        fill: the value of rows that are not there yet.
        dtype: of its values; texts are objects.
        open: (k, ...) the rows of its last chunk, where that is not full.
    """

    path: str
    metadata: dict[str, Any]
    rows: int
    fill: Any
    dtype: np.dtype
    open: NDArray

    @classmethod
    async def read(cls, path: str, array: zarr.AsyncArray) -> "_Array":
        """Return an array as it stands in a store.

        Raises:
            ArchiveError: it is not made as `create` makes arrays.
        """
        described = array.metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"]
        metadata = json.loads(described.to_bytes())
        chunk = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        rows, shape = chunk[0], metadata["shape"]
        if _codecs(metadata) not in _ENCODINGS or chunk[1:] != shape[1:]:
            raise ArchiveError(f"{path} has codecs or chunks that this version of dacycle does not write")
        text = metadata["data_type"] == "string"
        dtype = np.dtype(object if text else metadata["data_type"])
        rest = np.asarray(await array.getitem(slice(shape[0] // rows * rows, None))).astype(dtype)
        return cls(path, metadata, rows, array.metadata.fill_value, dtype, rest)

    @property
    def length(self) -> int:
        """Return the number of rows."""
        return int(self.metadata["shape"][0])

    @cached_property
    def _around_length(self) -> tuple[str, str]:
        """Return the text of the metadata before and after the number of rows, the only one that changes."""
        shape = [_LENGTH, *self.metadata["shape"][1:]]
        before, _, after = json.dumps({**self.metadata, "shape": shape}, indent=2).partition(f'"{_LENGTH}"')
        return before, after

    def grow(self, values: NDArray | Encoded) -> dict[str, bytes]:
        """Add rows (n, ...), and return what the store must hold for them, by key, the metadata first.

        Raises:
            ArchiveError: their shape is another.
        """
        if isinstance(values, Encoded):
            return self._grow_encoded(values)
        shape = self.metadata["shape"]
        if shape[1:] != list(values.shape[1:]):
            raise ArchiveError(f"{self.path} is {tuple(shape)} and cannot be followed by {values.shape}")
        encode, first = _ENCODINGS[_codecs(self.metadata)], self.length // self.rows
        pending = np.concatenate([self.open, np.asarray(values, self.dtype)])
        shape[0] += len(values)
        before, after = self._around_length
        contents = {f"{self.path}/zarr.json": f"{before}{self.length}{after}".encode()}
        for number, begin in enumerate(range(0, len(pending), self.rows), first):
            chunk = pending[begin : begin + self.rows]
            if len(chunk) < self.rows:
                absent = np.full((self.rows - len(chunk), *chunk.shape[1:]), self.fill, self.dtype)
                chunk = np.concatenate([chunk, absent])
            contents[_chunk_key(self.path, number, values.ndim)] = encode(chunk)
        self.open = pending[len(pending) // self.rows * self.rows :]
        return contents

    def _grow_encoded(self, row: Encoded) -> dict[str, bytes]:
        shape = self.metadata["shape"]
        if (self.rows, shape[1:], _codecs(self.metadata)) != (1, list(row.shape), row.codecs):
            raise ArchiveError(f"{self.path} has another shape or other codecs than what is to be copied to it")
        number = self.length
        shape[0] += 1
        before, after = self._around_length
        metadata = f"{before}{self.length}{after}".encode()
        return {f"{self.path}/zarr.json": metadata, _chunk_key(self.path, number, len(shape)): row.content}


def _codecs(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata["codecs"])


_zstd, _texts = Zstd(level=COMPRESSORS[0].level), VLenUTF8()


def _of_numbers(chunk: NDArray) -> bytes:
    return _sealed(np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<")))


def _of_texts(chunk: NDArray) -> bytes:
    return _sealed(_texts.encode(chunk))


def _sealed(content: Any) -> bytes:
    compressed = bytes(_zstd.encode(content))
    return compressed + google_crc32c.value(compressed).to_bytes(4, "little")


_NUMBERS = {"name": "bytes", "configuration": {"endian": "little"}}
_TEXTS = {"name": "vlen-utf8", "configuration": {}}
_ENCODINGS: dict[str, Callable[[NDArray], bytes]] = {
    json.dumps([serialiser, *(codec.to_dict() for codec in COMPRESSORS)]): encode
    for serialiser, encode in ((_NUMBERS, _of_numbers), (_TEXTS, _of_texts))
}
