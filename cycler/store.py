"""A store: an Icechunk repository of groups that grow along time, one transaction at a time.

A branch is a timeline of commits; a commit is seen whole or not at all. Every array has a checksum, because a byte
flipped on disk would otherwise be read back silently, and each chunk holds one time, so that a state is read alone.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

__all__ = ["ArchiveError", "Store"]

# Icechunk warns that local folders are not safe for concurrent commits to one branch: the branch lock forbids them.
icechunk.set_logs_filter("error")

TIME_UNITS = "hours since 1970-01-01"
# Fields have one time per chunk. Series and records share chunks, else listing a year would read a file per cycle.
_NUMBERS_PER_CHUNK = 512
_TEXTS_PER_CHUNK = 64
# Unsplit, the manifest of a year is rewritten whole by every commit.
_TIMES_PER_MANIFEST = 120
_COMPRESSORS = (ZstdCodec(level=1), Crc32cCodec())


class ArchiveError(RuntimeError):
    """The archive refuses what was asked, or is damaged; the message says where and what to do."""


def _configuration() -> icechunk.RepositoryConfig:
    along_time: dict[Any, int] = {icechunk.ManifestSplitDimCondition.DimensionName("time"): _TIMES_PER_MANIFEST}
    splitting = icechunk.ManifestSplittingConfig.from_dict({icechunk.ManifestSplitCondition.AnyArray(): along_time})
    config = icechunk.RepositoryConfig.default()
    config.manifest = icechunk.ManifestConfig(splitting=splitting)
    return config


def hours(times: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Times as int64 hours since 1970-01-01."""
    return np.asarray(times).astype("datetime64[h]").astype(np.int64)


class Store:
    """One Icechunk repository in a folder, held open.

    Args:
        folder: where it is.
        create: make it, or finish making it, if need be; only one process at a time may.
    """

    def __init__(self, folder: Path, create: bool = False) -> None:
        self.folder = folder
        storage = icechunk.local_filesystem_storage(str(folder))
        if not create:
            self._repository = icechunk.Repository.open(storage)
            return
        self._repository = icechunk.Repository.open_or_create(storage, config=_configuration())
        trunk = self._repository.writable_session("main")
        zarr.open_group(trunk.store, mode="a")
        if trunk.has_uncommitted_changes:
            trunk.commit("the empty trunk, from which branches begin")

    def branches(self) -> list[str]:
        """Names of the branches, sorted (the empty trunk `main` is not one)."""
        return sorted(set(self._repository.list_branches()) - {"main"})

    def create_branch(self, branch: str, snapshot: str | None = None) -> None:
        """Begin a branch at a snapshot of another one, or empty."""
        self._repository.create_branch(branch, snapshot or self._repository.lookup_branch("main"))

    def commits(self, branch: str) -> Iterator[icechunk.SnapshotInfo]:
        """The commits of a branch, newest first, with message, metadata and the time they were written."""
        return iter(self._repository.ancestry(branch=branch))

    def reset(self, branch: str, snapshot: str) -> None:
        """Make `snapshot` the newest commit of a branch."""
        self._repository.reset_branch(branch, snapshot)

    def times(self, branch: str, group: str) -> NDArray[np.datetime64]:
        """(n,) datetime64[h] of a group, in order; empty where it has nothing yet."""
        return self._times(self._root(branch), group)

    def dataset(self, branch: str, group: str) -> xr.Dataset:
        """A group as a lazy dataset."""
        store = self._repository.readonly_session(branch).store
        return xr.open_zarr(store, group=group, consolidated=False, chunks=None)

    def read(self, branch: str, group: str, time: pd.Timestamp, names: list[str]) -> dict[str, NDArray]:
        """Arrays of one time, without the time axis.

        Raises:
            ArchiveError: no such time, or an array whose checksum fails (names array and time).
        """
        root = self._root(branch)
        when = np.flatnonzero(self._times(root, group) == np.datetime64(time, "h"))
        if when.size != 1:
            raise ArchiveError(f"{self.folder}, branch {branch}: {group} has no time {np.datetime64(time, 'h')}")
        return {name: np.asarray(self._read(root, f"{group}/{name}", int(when[0]), time)) for name in names}

    def column(self, branch: str, group: str, name: str, rows: slice = slice(None)) -> NDArray:
        """An array of a group along time, or some rows of it."""
        return np.asarray(self._read(self._root(branch), f"{group}/{name}", rows))

    def _root(self, branch: str) -> zarr.Group:
        try:
            session = self._repository.readonly_session(branch)
        except icechunk.IcechunkError as error:
            known = ", ".join(self.branches()) or "none"
            raise ArchiveError(f"{self.folder}: cannot read branch {branch!r} (there are: {known}): {error}") from error
        return zarr.open_group(session.store, mode="r")

    def _times(self, root: zarr.Group, group: str) -> NDArray[np.datetime64]:
        if group not in root:
            return np.array([], "datetime64[h]")
        return np.asarray(self._read(root, f"{group}/time", slice(None))).astype("datetime64[h]")

    def _read(self, root: zarr.Group, path: str, at: int | slice, time: pd.Timestamp | None = None) -> Any:
        try:
            return root[path][at]  # type: ignore[index]
        except (ValueError, RuntimeError, icechunk.IcechunkError) as error:
            when = "" if time is None else f" at {np.datetime64(time, 'h')}"
            raise ArchiveError(
                f"{self.folder}: {path}{when} is damaged ({error}); "
                "rewind the branch to a cycle before it and run again, or restore the folder from a copy"
            ) from error

    def append(
        self,
        branch: str,
        groups: Mapping[str, xr.Dataset],
        message: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Append each dataset to its group along `time`, in one commit; return the snapshot's id.

        Each dataset has a `time` coordinate; variables without that dimension are written when the group is made.

        Raises:
            ArchiveError: a time that is not later than all of the group's, or a shape that differs from the group's.
        """
        session = self._repository.writable_session(branch)
        root = zarr.open_group(session.store, mode="a")
        for name, dataset in groups.items():
            group = root[name] if name in root else _create(root, name, dataset)
            assert isinstance(group, zarr.Group)
            self._extend(branch, group, dataset)
        return session.commit(message, metadata=dict(metadata or {}))

    def _extend(self, branch: str, group: zarr.Group, dataset: xr.Dataset) -> None:
        arrays = dict(group.arrays())
        unlike = sorted(arrays.keys() ^ {str(name) for name in dataset.variables})
        if unlike:
            raise ArchiveError(
                f"{self.folder}, {group.basename}: only in the archive or only in what is appended: {unlike}"
            )
        new, old = hours(dataset.time.values), np.asarray(arrays["time"][:])
        joined = np.concatenate([old[-1:], new])
        if np.any(np.diff(joined) <= 0):
            last, first = (hour.astype("datetime64[h]") for hour in (joined[0], new[0]))
            raise ArchiveError(
                f"{self.folder}, branch {branch}: {group.basename} already goes to {last}; cannot append {first}"
            )
        for name, array in arrays.items():
            if "time" not in dataset[name].dims:
                continue
            values = new if name == "time" else dataset[name].transpose("time", ...).values
            if values.shape[1:] != array.shape[1:]:
                raise ArchiveError(
                    f"{self.folder}, {group.basename}/{name}: shape {values.shape[1:]}, not {array.shape[1:]}"
                )
            array.resize((len(old) + len(new), *array.shape[1:]))
            array[len(old) :] = values


def _create(root: zarr.Group, name: str, dataset: xr.Dataset) -> zarr.Group:
    """A group shaped like the dataset, with no times yet."""
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
    """Chunks of an array that grows along its first axis."""
    if len(shape) > 1:
        return (1, *shape[1:])
    return (_TEXTS_PER_CHUNK if text else _NUMBERS_PER_CHUNK,)
