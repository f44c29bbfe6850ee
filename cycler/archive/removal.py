"""What a store no longer holds: times that were removed, times that were cut off, and a past that was forgotten.

Each chunk of a state holds one time, so that a state is removed by dropping its chunks: the arrays keep their length,
and `removed/GROUP` lists the times that are gone. Icechunk keeps a chunk as long as a commit that a branch leads to has
it. A commit that removes states is therefore made without a past; what only its past had is garbage.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import icechunk
import numpy as np
import zarr
from icechunk import IcechunkStore
from numpy.typing import NDArray
from zarr.core.sync import sync

from dacycle.common.files import flush
from dacycle.common.locks import locked
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.growth import COMPRESSORS, hours

__all__ = ["REMOVED", "Times", "collect", "drop_states", "forget_past", "removed_times", "shorten"]

REMOVED = "removed"
"""The group that lists, for each other group, the times whose fields are gone."""

Times = NDArray[np.datetime64]

_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


def removed_times(store: IcechunkStore) -> dict[str, Times]:
    """Return by group the times (n,) datetime64[h], ascending, whose fields were removed."""
    root = zarr.open_group(store, mode="r")
    if REMOVED not in root:
        return {}
    lists = zarr.open_group(store, path=REMOVED, mode="r")
    return {name: np.asarray(array[:]).astype("datetime64[h]") for name, array in lists.arrays()}


def drop_states(store: IcechunkStore, states: Mapping[str, Times]) -> None:
    """Drop the fields of some times of each group in a session, and list these times as removed."""
    gone = removed_times(store)
    root = zarr.open_group(store, mode="a")
    lists = root.require_group(REMOVED)
    for name, times in states.items():
        if not len(times):
            continue
        group = zarr.open_group(store, path=name, mode="a")
        rows = np.flatnonzero(np.isin(_times(group), hours(times)))
        chunks = [
            "/".join([name, key, "c", str(row), *["0"] * (array.ndim - 1)])
            for key, array in group.arrays()
            if _grows(array) and array.ndim > 1
            for row in rows
        ]
        sync(_delete(store, chunks))
        _write_list(lists, name, np.union1d(hours(gone.get(name, np.array([], "datetime64[h]"))), hours(times)))


async def _delete(store: IcechunkStore, keys: Iterable[str]) -> None:
    for key in keys:
        await store.delete(key)


def shorten(store: IcechunkStore, last: np.datetime64) -> None:
    """Cut all groups off after a time, in a session."""
    root = zarr.open_group(store, mode="a")
    end = int(hours(np.array([last]))[0])
    for name, group in root.groups():
        if name == REMOVED:
            for key, array in group.arrays():
                _write_list(group, key, np.asarray(array[:])[np.asarray(array[:]) <= end])
            continue
        count = int(np.searchsorted(_times(group), end, "right"))
        for _, array in group.arrays():
            if _grows(array):
                array.resize((count, *array.shape[1:]))


def _times(group: zarr.Group) -> NDArray[np.int64]:
    return np.asarray(zarr.open_array(group.store, path=f"{group.path}/time", mode="r")[:])


def _grows(array: zarr.Array) -> bool:
    names = getattr(array.metadata, "dimension_names", None) or ()
    return names[:1] == ("time",)


def _write_list(lists: zarr.Group, name: str, times: NDArray[np.int64]) -> None:
    array = lists.create_array(
        name, shape=times.shape, chunks=(max(len(times), 1),), dtype=np.int64, compressors=COMPRESSORS, overwrite=True
    )
    array[...] = times


def forget_past(folder: Path, snapshot: str) -> None:
    """Make the store's first commit the parent of a commit that no branch points to yet.

    Icechunk expires what is older than a time in all branches. Here it sees one branch, which ends with this commit.
    Other processes may add to the store meanwhile.

    Args:
        folder: of the store.
        snapshot: the commit.

    Raises:
        ArchiveError: its past could not be forgotten.
    """
    with locked(folder.parent / "lock.forgetting", f"the archive {folder.parent}", ArchiveError, wait=True):
        _forget_past(folder, snapshot, folder.parent / f".forget.{folder.name}")


def _forget_past(folder: Path, snapshot: str, alone: Path) -> None:
    """Do so in a temporary folder, in which a killed process may have left something."""
    shutil.rmtree(alone, ignore_errors=True)
    try:
        (alone / "refs/branch.main").mkdir(parents=True)
        (alone / "refs/branch.main/ref.json").write_text(json.dumps({"snapshot": snapshot}))
        (alone / "snapshots").mkdir()
        whole = icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder)))
        for commit in whole.ancestry(snapshot_id=snapshot):
            (alone / "snapshots" / commit.id).hardlink_to(folder / "snapshots" / commit.id)
        shutil.copy(folder / "config.yaml", alone)
        repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(alone)))
        repository.expire_snapshots(repository.lookup_snapshot(snapshot).written_at)
        changed = icechunk.Repository.open(icechunk.local_filesystem_storage(str(alone)))
        parent = changed.lookup_snapshot(snapshot).parent_id
        if parent is None or changed.lookup_snapshot(parent).parent_id is not None:
            raise ArchiveError(f"{folder}: commit {snapshot} still has a past; nothing was removed")
        flush(alone / "snapshots" / snapshot)
        (alone / "snapshots" / snapshot).replace(folder / "snapshots" / snapshot)
        flush(folder / "snapshots")
    finally:
        shutil.rmtree(alone, ignore_errors=True)


def collect(folder: Path, plan: bool = False) -> int:
    """Delete what no branch of a store leads to; return the number of bytes.

    No other process may add to the store meanwhile.

    Args:
        folder: of the store.
        plan: only count; others may add to it.
    """
    for path in () if plan else folder.glob("refs/branch.*"):
        if not (path / "ref.json").is_file():  # a process was killed before the branch began
            shutil.rmtree(path)
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder)))
    found = repository.garbage_collect(_NEVER, dry_run=plan)
    if not plan:
        for seal in folder.glob("seals/*"):
            if not (folder / "snapshots" / seal.name).is_file():
                seal.unlink()
    return int(found.bytes_deleted)
