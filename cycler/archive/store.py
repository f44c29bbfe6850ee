"""A store: an Icechunk repository of groups that grow along time, one transaction at a time.

A branch is a line of commits, each of which is seen whole or not at all. Every array has a checksum, because a byte
that flips on disk would otherwise be read without an error. Each chunk holds one time, so that one state is read alone.
Icechunk's own files, which say where the chunks of a commit are, have none: `seals/COMMIT` beside them lists their
digests. It is written before the branch points to the commit, and checked before the commit is read. Commits of older
versions of dacycle have no such list.
"""

import asyncio
import hashlib
import os
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import StorePath

from dacycle.common.files import flush, whole
from dacycle.common.foreign import reading
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.seals import read_sealed_text, seal_text

__all__ = ["ArchiveError", "Rows", "Store"]

Rows = Mapping[str, NDArray]
"""What a group that is there grows by: its arrays by name, time first, with `time` itself as datetime64."""

# Icechunk warns of concurrent commits to one branch in local folders; the lock of the branch excludes them.
icechunk.set_logs_filter("error")

TIME_UNITS = "hours since 1970-01-01"
# Fields have one time per chunk. Series and records share chunks; otherwise a year's list would read a file per cycle.
_NUMBERS_PER_CHUNK = 512
_TEXTS_PER_CHUNK = 64
# Without splitting, every commit writes the whole manifest of a year again.
_TIMES_PER_MANIFEST = 120
_COMPRESSORS = (ZstdCodec(level=1), Crc32cCodec())


_COPY = "restore it from a copy of the archive"
_READ = ("config.yaml", "snapshots", "manifests")
"""Icechunk's files that are read with a commit, beside its chunks."""


def _configuration() -> icechunk.RepositoryConfig:
    along_time: dict[Any, int] = {icechunk.ManifestSplitDimCondition.DimensionName("time"): _TIMES_PER_MANIFEST}
    splitting = icechunk.ManifestSplittingConfig.from_dict({icechunk.ManifestSplitCondition.AnyArray(): along_time})
    config = icechunk.RepositoryConfig.default()
    config.manifest = icechunk.ManifestConfig(splitting=splitting)
    return config


def hours(times: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Return times as int64 hours since 1970-01-01."""
    return np.asarray(times).astype("datetime64[h]").astype(np.int64)


@dataclass
class _Growth:
    """What a branch holds at a commit that this process wrote: nothing of it need be read for the next one.

    Attributes:
        tip: the commit.
        last: the last time of each group, hours; None where it has none.
        arrays: the metadata of each array, by path.
    """

    tip: str
    last: dict[str, int | None] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)


class Store:
    """One Icechunk repository in a folder, kept open; a store that has not been made reads as empty.

    Args:
        folder: the folder; nothing is made before `make`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, str] = {}  # of files that were checked or sealed; they never change
        self._opened: dict[str, icechunk.IcechunkStore] = {}  # by commit
        self._growth: dict[str, _Growth] = {}  # by branch

    @property
    def exists(self) -> bool:
        """Whether the store has been made."""
        return self.folder.is_dir()

    def make(self) -> None:
        """Make the store under a temporary name, if need be; only one process at a time may do so.

        A store that an older version left half made, before it held anything, is made again.
        """
        if (self.folder / "chunks").is_dir() or self._has_trunk():
            return
        with whole(self.folder) as temporary:
            storage = icechunk.local_filesystem_storage(str(temporary))
            repository = icechunk.Repository.create(storage, config=_configuration())
            trunk = repository.writable_session("main")
            zarr.open_group(trunk.store, mode="a")
            trunk.commit("the empty trunk, from which branches begin")
            for commit in repository.ancestry(branch="main"):
                _seal(temporary, commit, {})

    def _has_trunk(self) -> bool:
        if not self.exists:
            return False
        try:
            with self._reading():
                zarr.open_group(self._repository.readonly_session("main").store, mode="r")
        except ArchiveError:
            self.__dict__.pop("_repository", None)
            return False
        return True

    @cached_property
    def _repository(self) -> icechunk.Repository:
        with self._reading("config.yaml"):
            return icechunk.Repository.open(icechunk.local_filesystem_storage(str(self.folder)))

    def _reading(self, name: str = "") -> AbstractContextManager[None]:
        """Turn Icechunk's and zarr's errors into ArchiveErrors that name the store, or a file of it."""
        return reading(f"{self.folder / name} ({_COPY})", ArchiveError)

    def branches(self) -> list[str]:
        """Return the sorted names of the branches, without the empty trunk `main`."""
        if not self.exists:
            return []
        with self._reading("refs"):
            return sorted(set(self._repository.list_branches()) - {"main"})

    def create_branch(self, branch: str, snapshot: str | None = None) -> None:
        """Begin a branch at a snapshot of another one; without a snapshot it is empty."""
        self._repository.create_branch(branch, snapshot or self._repository.lookup_branch("main"))

    def commits(self, branch: str) -> Iterator[icechunk.SnapshotInfo]:
        """Yield the commits of a branch, newest first, with message, metadata and time of writing.

        Raises:
            ArchiveError: a commit is damaged.
        """
        snapshot: str | None = self._tip(branch)
        while snapshot is not None:
            self._check(snapshot, ["snapshots"])
            with self._reading(f"snapshots/{snapshot}"):
                commit = self._repository.lookup_snapshot(snapshot)
            yield commit
            snapshot = commit.parent_id

    def reset(self, branch: str, snapshot: str) -> None:
        """Make `snapshot` the newest commit of a branch."""
        self._repository.reset_branch(branch, snapshot)

    def damaged(self, branch: str) -> list[str]:
        """Check the files of all commits of a branch; return a sentence for each that is damaged."""
        damage: list[str] = []
        try:
            for commit in self.commits(branch):
                try:
                    self._check(commit.id, [*_READ, "transactions"])
                except ArchiveError as error:
                    damage.append(str(error))
        except ArchiveError as error:
            damage.append(str(error))
        return list(dict.fromkeys(damage))

    def _tip(self, branch: str) -> str:
        """Return the newest commit of a branch."""
        reference = f"refs/branch.{branch}/ref.json"
        if not (self.folder / reference).parent.is_dir():
            names = ", ".join(self.branches()) or "none"
            raise ArchiveError(f"{self.folder}: there is no branch {branch!r} (there are: {names})")
        with self._reading(reference):
            return str(self._repository.lookup_branch(branch))

    def _check(self, snapshot: str, kinds: Iterable[str]) -> None:
        """Check the files of a commit that have not been checked yet; a commit without a seal is older than seals."""
        seal = self.folder / "seals" / snapshot
        if not seal.is_file():
            return
        for line in read_sealed_text(seal, _COPY)[0].splitlines():
            digest, _, name = line.partition("  ")
            kind = name.partition("/")[0]
            if kind not in kinds or self._digests.get(name) == digest:
                continue
            with self._reading(name):
                content = (self.folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                remedy = f"rewind the branch to an earlier cycle, or {_COPY}" if kind == "manifests" else _COPY
                raise ArchiveError(f"{self.folder / name} is damaged; {remedy}")
            self._digests[name] = digest

    def times(self, branch: str, group: str) -> NDArray[np.datetime64]:
        """Return the times of a group, (n,) datetime64[h], in order; empty where it has none yet."""
        store = self._store(branch)
        with self._reading():
            there = group in zarr.open_group(store, mode="r")
        if not there:
            return np.array([], "datetime64[h]")
        return self._read(store, [f"{group}/time"], slice(None))[0].astype("datetime64[h]")

    def dataset(self, branch: str, group: str) -> xr.Dataset:
        """Return a group as a lazy dataset."""
        store = self._store(branch)
        with self._reading():
            return xr.open_zarr(store, group=group, consolidated=False, chunks=None)

    def read(self, branch: str, group: str, time: pd.Timestamp, names: list[str]) -> dict[str, NDArray]:
        """Return the arrays of one time, without the time axis.

        Raises:
            ArchiveError: there is no such time, or the checksum of an array fails; the message names array and time.
        """
        when = np.flatnonzero(self.times(branch, group) == np.datetime64(time, "h"))
        if when.size != 1:
            raise ArchiveError(f"{self.folder}, branch {branch}: {group} has no time {np.datetime64(time, 'h')}")
        paths = [f"{group}/{name}" for name in names]
        values = self._read(self._store(branch), paths, int(when[0]), f" at {np.datetime64(time, 'h')}")
        return dict(zip(names, values, strict=True))

    def column(self, branch: str, group: str, name: str, rows: slice = slice(None)) -> NDArray:
        """Return an array of a group along time, or some rows of it."""
        return self._read(self._store(branch), [f"{group}/{name}"], rows)[0]

    def _store(self, branch: str) -> icechunk.IcechunkStore:
        """Return what is to be read of the newest commit of a branch, after its files have been checked."""
        tip = self._tip(branch)
        if tip not in self._opened:
            self._check(tip, _READ)
            with self._reading(f"snapshots/{tip}"):
                self._opened = {tip: self._repository.readonly_session(snapshot_id=tip).store}
        return self._opened[tip]

    def _read(self, store: icechunk.IcechunkStore, paths: list[str], at: int | slice, when: str = "") -> list[NDArray]:
        values = _together(_fetch(store, path, at) for path in paths)
        for path, value in zip(paths, values, strict=True):
            if isinstance(value, BaseException):
                raise ArchiveError(
                    f"{self.folder}: {path}{when} is damaged ({value}); "
                    "rewind the branch to a cycle before it and run again, or restore the folder from a copy"
                ) from value
        return [np.asarray(value) for value in values]

    def append(
        self,
        branch: str,
        groups: Mapping[str, xr.Dataset | Rows],
        message: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Append to each group along `time`, in one commit; return the snapshot's id.

        Args:
            branch: of the groups.
            groups: what each group grows by. A group that is not there needs a dataset with a `time` coordinate;
                variables without that dimension are written when the group is made.
            message, metadata: of the commit.

        Raises:
            ArchiveError: a time is not later than all of the group's, or a shape differs from the group's.
        """
        tip = self._tip(branch)
        growth = self._growth.pop(branch, None)  # kept again once the branch points to the commit
        if growth is None or growth.tip != tip:
            self._check(tip, _READ)
            growth = _Growth(tip)
        session = self._repository.writable_session(branch)
        unknown = [name for name in groups if name not in growth.last]
        if unknown:
            root = zarr.open_group(session.store, mode="a")
            for name in unknown:
                new = groups[name]
                if name not in root:
                    if not isinstance(new, xr.Dataset):
                        raise ArchiveError(f"{self.folder}, branch {branch}: there is no group {name}")
                    _create(root, name, new)
        rows = {name: _rows(new) if isinstance(new, xr.Dataset) else new for name, new in groups.items()}
        for failure in _together(_extend(session.store, name, new, growth) for name, new in rows.items()):
            if failure is not None:
                raise ArchiveError(f"{self.folder}, branch {branch}: {failure}") from failure
        snapshot = session.flush(message, dict(metadata or {}))
        _seal(self.folder, self._repository.lookup_snapshot(snapshot), self._digests)
        self._repository.reset_branch(branch, snapshot, from_snapshot_id=tip)
        growth.tip = snapshot
        self._growth[branch] = growth
        return snapshot


def _seal(folder: Path, commit: icechunk.SnapshotInfo, known: dict[str, str]) -> None:
    """List the digests of a commit's files, in the form of `sha256sum`; those that are not `known` are added to it.

    The list gets its name at once: until a branch points to the commit nobody reads it, and what a killed process left
    under a temporary name could not be told from what another is writing.
    """
    files = ["config.yaml", f"snapshots/{commit.id}", f"transactions/{commit.id}"]
    names = [name for name in [*files, *(f"manifests/{m.id}" for m in commit.manifests)] if (folder / name).is_file()]
    for name in names:
        if name not in known:
            known[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    seal = folder / "seals" / commit.id
    seal.parent.mkdir(exist_ok=True)
    seal.write_bytes(seal_text("".join(f"{known[name]}  {name}\n" for name in names)))
    flush(seal)
    flush(seal.parent)


async def _open(store: icechunk.IcechunkStore, path: str) -> zarr.AsyncArray:
    return await zarr.AsyncArray.open(StorePath(store, path), zarr_format=3)


async def _fetch(store: icechunk.IcechunkStore, path: str, at: int | slice) -> Any:
    return await (await _open(store, path)).getitem(at)


def _rows(dataset: xr.Dataset) -> dict[str, NDArray]:
    """Return the variables of a dataset that grow along time, time first."""
    return {str(key): v.transpose("time", ...).values for key, v in dataset.variables.items() if "time" in v.dims}


async def _extend(store: icechunk.IcechunkStore, group: str, rows: Rows, growth: _Growth) -> None:
    """Append rows to a group, all arrays concurrently; their times must come after those of the group."""
    new = hours(rows["time"])
    if group not in growth.last:
        old = np.asarray(await _fetch(store, f"{group}/time", slice(None)))
        growth.last[group] = int(old[-1]) if len(old) else None
    last = growth.last[group]
    joined = new if last is None else np.concatenate([[last], new])
    if np.any(np.diff(joined) <= 0):
        before, first = (np.int64(hour).astype("datetime64[h]") for hour in (joined[0], new[0]))
        raise ArchiveError(f"{group} already goes to {before}; cannot append {first}")
    paths = {f"{group}/{name}": values for name, values in {**rows, "time": new}.items()}
    for path in paths.keys() - growth.arrays.keys():
        growth.arrays[path] = (await _open(store, path)).metadata
    length = growth.arrays[f"{group}/time"].shape[0]
    await asyncio.gather(*(_grow(store, path, length, values, growth) for path, values in paths.items()))
    growth.last[group] = int(new[-1])


async def _grow(store: icechunk.IcechunkStore, path: str, length: int, values: NDArray, growth: _Growth) -> None:
    array = zarr.AsyncArray(growth.arrays[path], StorePath(store, path))
    if array.shape != (length, *values.shape[1:]):
        raise ArchiveError(f"{path} is {array.shape} and cannot be followed by {values.shape}")
    await array.resize((length + len(values), *values.shape[1:]))
    await array.setitem(slice(length, None), values)
    growth.arrays[path] = array.metadata


def _together(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Make calls of zarr concurrently, and return their results or exceptions.

    Made one by one, each call would wait until zarr's own thread is scheduled: dozens of waits a cycle, which are long
    on a busy machine. They run in a thread of their own, because the caller's may already run an event loop, as in a
    notebook. The thread stays, as a new one would also need new threads for compression.
    """

    async def gather() -> list[Any]:
        return await asyncio.gather(*coroutines, return_exceptions=True)

    future = asyncio.run_coroutine_threadsafe(gather(), _loop(os.getpid()))
    try:
        return future.result()
    except BaseException:  # such as an interrupt
        future.cancel()
        raise


@lru_cache(maxsize=1)
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """Return an event loop that runs in a thread of this process; a forked one has not its parent's threads."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=f"zarr-{process}", daemon=True).start()
    return loop


def _create(root: zarr.Group, name: str, dataset: xr.Dataset) -> zarr.Group:
    """Create and return a group shaped like the dataset, without times."""
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
            compressors=_COMPRESSORS,
            fill_value="" if text else (np.nan if variable.dtype.kind == "f" else 0),
            attributes=attributes,
            dimension_names=[str(dim) for dim in variable.dims],
        )
        if not growing:
            array[...] = variable.values
    return group


def _chunks(shape: tuple[int, ...], text: bool) -> tuple[int, ...]:
    """Return the chunks of an array that grows along its first axis."""
    if len(shape) > 1:
        return (1, *shape[1:])
    return (_TEXTS_PER_CHUNK if text else _NUMBERS_PER_CHUNK,)
