"""Zarr stores: which objects hold a field, and stores that are asked for each object once.

A chunk of a published store holds up to a hundred times, so that reading time by time asks for each chunk a hundred
times. A `KeptStore` keeps the objects in a folder, for all processes of a command and for the next one.
"""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from dacycle.common.files import write_whole
from dacycle.common.foreign import reading
from dacycle.forecast_adapter import remote
from dacycle.forecast_adapter.state import StateError

__all__ = ["Arrays", "KeptStore", "RemoteStore"]

T = TypeVar("T")


class Arrays:
    """The arrays of an open Zarr store by name, with the names of their dimensions.

    Args:
        arrays: Zarr arrays by name.
        dimensions: the names of the dimensions of each.
    """

    def __init__(self, arrays: Mapping[str, Any], dimensions: Mapping[str, Sequence[str]]) -> None:
        self._arrays, self._dimensions = arrays, dimensions
        self._written: set[str] = set()

    def __contains__(self, name: object) -> bool:
        """Return whether there is an array of this name."""
        return name in self._arrays

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._arrays)

    def fill_value(self, name: str) -> Any:
        """Return what stands for values that were never written; None where the store does not say."""
        return self._arrays[name].fill_value

    def length(self, name: str, dimension: str) -> int:
        """Return the length along a dimension of a chunk, or of a shard, which holds several chunks."""
        array = self._arrays[name]
        return (array.shards or array.chunks)[self._dimensions[name].index(dimension)]

    def name_of(self, key: str) -> str:
        """Return the name of the array that an object belongs to."""
        return next(name for name, array in self._arrays.items() if key.startswith(f"{array.store_path.path}/"))

    def keys(self, name: str, positions: Mapping[str, Collection[int]]) -> set[str]:
        """Return the keys of an array's chunks (or shards) at these positions along dimensions; all along others."""
        array, ranges = self._arrays[name], []
        sizes = array.shards or array.chunks
        for dimension, length, size in zip(self._dimensions[name], array.shape, sizes, strict=True):
            at = positions.get(dimension)
            ranges.append(range(-(-length // size)) if at is None else sorted({i // size for i in at}))
        return {(array.store_path / array.metadata.encode_chunk_key(chunk)).path for chunk in product(*ranges)}

    def are_written(self, name: str, keys: Collection[str]) -> bool:
        """Return whether objects of an array are in the store."""
        unchecked = sorted(set(keys) - self._written)
        store = self._arrays[name].store_path.store

        async def ask() -> list[bool]:
            return list(await asyncio.gather(*map(store.exists, unchecked)))

        found = sync(ask())
        self._written.update(key for key, there in zip(unchecked, found, strict=True) if there)
        return all(found)


class RemoteStore(WrapperStore[Store]):
    """A remote store that is asked for each object a bounded number of times, with a time limit for each.

    Args:
        url: the store.
    """

    def __init__(self, url: str) -> None:
        super().__init__(FsspecStore.from_url(url, read_only=True))
        self._url = url

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object, or a part of it; None where there is none.

        Raises:
            StateError: it cannot be fetched in `remote.TRIES` tries of at most `remote.OBJECT` seconds each.
        """
        return await self._ask(key, lambda: self._store.get(key, prototype, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of objects."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Return whether the store has an object. Errors as `get`."""
        return await self._ask(key, lambda: self._store.exists(key))

    async def getsize(self, key: str) -> int:
        """Return the bytes of an object. Errors as `get`; FileNotFoundError where there is none."""
        return await self._ask(key, lambda: self._store.getsize(key))

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield the names below a prefix. Errors as `get`."""

        async def names() -> list[str]:
            return [name async for name in self._store.list_dir(prefix)]

        for name in await self._ask(prefix, names):
            yield name

    async def _ask(self, key: str, call: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(remote.TRIES):
            try:
                with reading(f"{self._url}/{key}", StateError):
                    return await _limited(call())
            except StateError as error:
                if isinstance(error.__cause__, FileNotFoundError):  # an answer
                    raise error.__cause__ from None
                if attempt == remote.TRIES - 1:
                    raise
                await asyncio.sleep(remote.PAUSE * 2**attempt)
        raise AssertionError


async def _limited(answer: Awaitable[T]) -> T:
    try:
        return await asyncio.wait_for(answer, remote.OBJECT)
    except TimeoutError:
        raise TimeoutError(f"no answer in {remote.OBJECT:.0f} s") from None


class KeptStore(RemoteStore):
    """A remote store whose objects are kept in a folder, from where they are read the next time.

    Args:
        url: the store.
        folder: the folder to keep objects in.

    Attributes:
        fresh: whether every object is asked for again, as metadata are when a command opens the store. Where one has
            changed, all that was kept is removed.
    """

    def __init__(self, url: str, folder: Path, fresh: bool) -> None:
        super().__init__(url)
        self._folder, self._kept, self.fresh = folder, LocalStore(folder, read_only=True), fresh

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object, or a part of it; None where there is none; errors as of `RemoteStore.get`."""
        kept = None if self.fresh else await self._kept.get(key, prototype, byte_range)
        if kept is not None:
            return kept
        content = await super().get(key, prototype)
        if content is None:
            return None
        if self.fresh:
            self._renew(key, content.to_bytes())
        else:
            await asyncio.to_thread(write_whole, self._folder / key, content.to_bytes())
        return content if byte_range is None else await self._kept.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Return whether the store has an object."""
        return self.holds(key) or await super().exists(key)

    def _renew(self, key: str, content: bytes) -> None:
        path = self._folder / key
        if path.exists() and path.read_bytes() != content:
            shutil.rmtree(self._folder)
        write_whole(path, content)

    def holds(self, key: str) -> bool:
        """Return whether an object is kept."""
        return (self._folder / key).exists()

    def fetch(self, keys: Collection[str], at_once: int) -> None:
        """Fetch objects, so many at once; what fails is asked for again by what reads it, which reports the failure."""
        free = asyncio.Semaphore(at_once)

        async def one(key: str) -> None:
            async with free:
                await self.get(key, default_buffer_prototype())

        async def all_of_them() -> None:
            await asyncio.gather(*(one(key) for key in keys if not self.holds(key)), return_exceptions=True)

        sync(all_of_them())

    def forget(self, keys: Collection[str]) -> None:
        """Remove kept objects."""
        for key in keys:
            (self._folder / key).unlink(missing_ok=True)

    def sizes(self, keys: Sequence[str]) -> list[int]:
        """Return the bytes of objects, 0 where the store has none."""

        async def size(key: str) -> int:
            try:
                return await self.getsize(key)
            except FileNotFoundError:
                return 0

        async def ask() -> list[int]:
            return list(await asyncio.gather(*map(size, keys)))

        with reading(f"{self._url}: sizes of its chunks", StateError):
            return sync(ask())
