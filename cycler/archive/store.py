"""A store: an Icechunk repository of groups that grow along time, one transaction at a time.

A branch is a line of commits, each of which is seen whole or not at all. Every array has a checksum, because a byte
that flips on disk would otherwise be read without an error. Each chunk holds one time, so that one state is read alone.
Icechunk's own files, which say where the chunks of a commit are, have none: `seals/COMMIT` beside them lists their
digests (`commits`). It is written before the branch points to the commit, and checked before the commit is read.
Commits of older versions of dacycle have no such list.
"""

import asyncio
import os
import threading
from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.buffer.cpu import Buffer
from zarr.storage import StorePath

from dacycle.common.files import flush_all, whole
from dacycle.common.foreign import reading
from dacycle.common.places import is_remote, s3_address
from dacycle.cycler.archive.commits import COPY, READ, branch_names, check_commit, point, seal_commit
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.growth import Encoded, Growth, Rows, create, encoded_row, rows_of
from dacycle.cycler.archive.removal import Times, collect, drop_states, forget_past, removed_times, shorten

if TYPE_CHECKING:  # what only looks at records, such as `dacycle status`, imports neither
    import pandas as pd
    import xarray as xr

__all__ = ["ArchiveError", "Rows", "Store"]

# Icechunk warns of concurrent commits to one branch in local folders; the lock of the branch excludes them.
icechunk.set_logs_filter("error")

# Without splitting, every commit writes the whole manifest of a year again.
_TIMES_PER_MANIFEST = 120
_COMMITS_AT_A_TIME = 120
"""Commits after which the repository is opened anew: Icechunk keeps something of each, 0.1 MB at 5.625 degrees."""


def _configuration() -> icechunk.RepositoryConfig:
    along_time: dict[Any, int] = {icechunk.ManifestSplitDimCondition.DimensionName("time"): _TIMES_PER_MANIFEST}
    splitting = icechunk.ManifestSplittingConfig.from_dict({icechunk.ManifestSplitCondition.AnyArray(): along_time})
    config = icechunk.RepositoryConfig.default()
    config.manifest = icechunk.ManifestConfig(splitting=splitting)
    return config


def _in_use() -> icechunk.RepositoryConfig:
    """Return what differs for this process: manifests are read when they are used, not when a session begins."""
    config = icechunk.RepositoryConfig.default()
    never = icechunk.ManifestPreloadCondition.false()
    config.manifest = icechunk.ManifestConfig(preload=icechunk.ManifestPreloadConfig(preload_if=never))
    return config


def _storage(folder: Path) -> icechunk.Storage:
    """Return Icechunk's storage of a store.

    For buckets, credentials, region and address of the server come from the variables that all tools of S3 read:
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL.
    """
    if not is_remote(folder):
        return icechunk.local_filesystem_storage(str(folder))
    bucket, prefix = s3_address(folder)
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return icechunk.s3_storage(
        bucket=bucket,
        prefix=prefix,
        region=region,
        endpoint_url=address,
        allow_http=bool(address and address.startswith("http://")),
        force_path_style=address is not None,
        from_env=True,
    )


@dataclass
class _Snapshot:
    """A commit to read, whose files have been checked; what was opened of it stays open.

    Attributes:
        store: of its arrays.
        arrays: those that were opened, by path.
        times: of the groups whose times were read.
        removed: by group, the times whose fields are gone.
    """

    store: icechunk.IcechunkStore
    arrays: dict[str, zarr.AsyncArray] = field(default_factory=dict)
    times: dict[str, Times] = field(default_factory=dict)

    @cached_property
    def removed(self) -> dict[str, Times]:
        """Return by group the times whose fields are gone."""
        return removed_times(self.store)


class Store:
    """One Icechunk repository in a folder, kept open; a store that has not been made reads as empty.

    Args:
        folder: the folder; nothing is made before `make`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, str] = {}  # of files that were checked or sealed; they never change
        self._opened: dict[str, _Snapshot] = {}  # by commit, the last two
        self._growth: dict[str, Growth] = {}  # by branch
        self._commits = 0  # since the repository was opened

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
            flush_all(temporary)

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
            return icechunk.Repository.open(_storage(self.folder), config=_in_use())

    def _reading(self, name: str = "") -> AbstractContextManager[None]:
        """Turn Icechunk's and zarr's errors into ArchiveErrors that name the store, or a file of it."""
        return reading(f"{self.folder / name} ({COPY})", ArchiveError)

    def branches(self) -> list[str]:
        """Return the sorted names of the branches, without the empty trunk `main`."""
        with self._reading("refs"):
            return branch_names(self.folder)

    def create_branch(self, branch: str, snapshot: str | None = None) -> None:
        """Begin a branch at a snapshot of another one; without a snapshot it is empty."""
        point(self.folder, branch, snapshot or self._repository.lookup_branch("main"))

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

    def notes(self, branch: str) -> Iterator[Mapping[str, Any]]:
        """Yield what was noted with each cycle or forecast, the newest first: `time`, `written`, `seconds`.

        Those of commits that retention has forgotten were carried on, as far as the experiment's `keep` reaches.

        Raises:
            ArchiveError: a commit is damaged.
        """
        last = None
        for commit in self.commits(branch):
            own = {name: value for name, value in commit.metadata.items() if name != "carried"}
            for note in (*([own] if "time" in own else []), *commit.metadata.get("carried", [])):
                if last is None or note["time"] < last:  # a branch that an older version cut off has later ones, too
                    last = note["time"]
                    yield note

    def reset(self, branch: str, snapshot: str) -> None:
        """Make `snapshot` the newest commit of a branch."""
        point(self.folder, branch, snapshot)

    def damaged(self, branch: str) -> list[str]:
        """Check the files of all commits of a branch; return a sentence for each that is damaged."""
        damage: list[str] = []
        try:
            for commit in self.commits(branch):
                try:
                    self._check(commit.id, [*READ, "transactions"])
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

    def _check(self, snapshot: str, kinds: Collection[str]) -> None:
        """Check the files of a commit that have not been checked yet; a commit without a seal is older than seals."""
        check_commit(self.folder, snapshot, kinds, self._digests)

    def times(self, branch: str, group: str) -> Times:
        """Return the times of a group, (n,) datetime64[h], in order, without those that were removed."""
        snapshot = self._snapshot(branch)
        times = self._rows(snapshot, group)
        return times[~np.isin(times, self._removed(snapshot, group))]

    def _rows(self, snapshot: _Snapshot, group: str) -> Times:
        """Return the time of each row of a group; none where it has none yet."""
        if group not in snapshot.times:
            with self._reading():
                there = group in zarr.open_group(snapshot.store, mode="r")
            if not there:
                return np.array([], "datetime64[h]")
            snapshot.times[group] = self._read(snapshot, [f"{group}/time"], slice(None))[0].astype("datetime64[h]")
        return snapshot.times[group]

    def _removed(self, snapshot: _Snapshot, group: str) -> Times:
        with self._reading():
            return snapshot.removed.get(group, np.array([], "datetime64[h]"))

    def dataset(self, branch: str, group: str) -> "xr.Dataset":
        """Return a group as a lazy dataset, without the times that were removed."""
        import xarray as xr

        snapshot = self._snapshot(branch)
        with self._reading():
            dataset = xr.open_zarr(snapshot.store, group=group, consolidated=False, chunks=None)
        removed = self._removed(snapshot, group)
        return dataset.isel(time=~np.isin(dataset["time"].values, removed)) if len(removed) else dataset

    def read(self, branch: str, group: str, time: "pd.Timestamp", names: list[str]) -> dict[str, NDArray]:
        """Return the arrays of one time in their own shapes, without the time axis.

        Raises:
            ArchiveError: there is no such time, it was removed, or the checksum of an array fails; the message names
                array and time.
        """
        snapshot, wanted = self._snapshot(branch), np.datetime64(time, "h")
        when = np.flatnonzero(self._rows(snapshot, group) == wanted)
        if when.size != 1:
            raise ArchiveError(f"{self.folder}, branch {branch}: {group} has no time {wanted}")
        self._refuse_removed(snapshot, branch, group, wanted)
        values = self._read(snapshot, [f"{group}/{name}" for name in names], int(when[0]), f" at {wanted}")
        return dict(zip(names, values, strict=True))

    def _refuse_removed(self, snapshot: _Snapshot, branch: str, group: str, time: np.datetime64) -> None:
        if time in self._removed(snapshot, group):
            kept = self.times(branch, group)
            near = [*kept[kept < time][-1:], *kept[kept > time][:1]]
            raise ArchiveError(
                f"{self.folder}, branch {branch}: {group} at {time} was removed by retention (`keep` in the "
                f"experiment); the nearest that are kept: {' and '.join(map(str, near)) or 'none'}"
            )

    def encoded(self, branch: str, group: str, time: "pd.Timestamp", names: list[str]) -> Rows:
        """Return the arrays of one time as they are stored, to append them to a group of the same layout.

        A group that has no such time gives nothing. Errors as `read`.
        """
        snapshot, wanted = self._snapshot(branch), np.datetime64(time, "h")
        when = np.flatnonzero(self._rows(snapshot, group) == wanted)
        if not when.size:
            return {}
        self._refuse_removed(snapshot, branch, group, wanted)
        paths = [f"{group}/{name}" for name in names]
        found = self._checked(_together(_copy(snapshot, path, int(when[0])) for path in paths), paths, f" at {wanted}")
        return {"time": np.array([time], "datetime64[h]"), **dict(zip(names, found, strict=True))}

    def column(self, branch: str, group: str, name: str, rows: slice = slice(None)) -> NDArray:
        """Return an array (time, ...) of a group, or some rows of it."""
        return self._read(self._snapshot(branch), [f"{group}/{name}"], rows)[0]

    def _snapshot(self, branch: str) -> _Snapshot:
        """Return what is to be read of the newest commit of a branch, after its files have been checked."""
        tip = self._tip(branch)
        opened = self._opened.get(tip)  # another thread may put others in its place
        if opened is None:
            self._check(tip, READ)
            with self._reading(f"snapshots/{tip}"):
                opened = _Snapshot(self._repository.readonly_session(snapshot_id=tip).store)
            self._opened = dict([*self._opened.items(), (tip, opened)][-2:])
        return opened

    def _read(self, snapshot: _Snapshot, paths: list[str], at: int | slice, when: str = "") -> list[NDArray]:
        values = _together(_fetch(snapshot, path, at) for path in paths)
        return [np.asarray(value) for value in self._checked(values, paths, when)]

    def _checked(self, values: list[Any], paths: list[str], when: str) -> list[Any]:
        """Return what was read of arrays; raise ArchiveError where one is damaged."""
        for path, value in zip(paths, values, strict=True):
            if isinstance(value, BaseException):
                raise ArchiveError(
                    f"{self.folder}: {path}{when} is damaged ({value}); "
                    "rewind the branch to a cycle before it and run again, or restore the folder from a copy"
                ) from value
        return values

    def append(
        self,
        branch: str,
        groups: "Mapping[str, xr.Dataset | Rows]",
        message: str,
        metadata: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> str:
        """Append to each group along `time`, in one commit; return the snapshot's id.

        Args:
            branch: of the groups.
            groups: what each group grows by. A group that is not there needs a dataset with a `time` coordinate;
                variables without that dimension are written when the group is made.
            message, metadata: of the commit.
            note: of the commit's seal.

        Raises:
            ArchiveError: a time is not later than all of the group's, or a shape differs from the group's.
        """
        tip = self._tip(branch)
        growth = self._growth.pop(branch, None)  # kept again once the branch points to the commit
        if growth is None or growth.tip != tip:
            self._check(tip, READ)
            growth = Growth(tip)
        session = self._repository.writable_session(branch)
        self._grow(session.store, branch, growth, groups)
        snapshot = self._flush(session, message, metadata, note)
        point(self.folder, branch, snapshot)
        growth.tip = snapshot
        self._growth[branch] = growth
        self._commits += 1
        if self._commits == _COMMITS_AT_A_TIME:
            self.__dict__.pop("_repository", None)
            self._commits = 0
        return snapshot

    def _grow(
        self, store: icechunk.IcechunkStore, branch: str, growth: Growth, groups: "Mapping[str, xr.Dataset | Rows]"
    ) -> None:
        """Append to groups in a session; arguments and errors as `append`."""
        unknown = [name for name in groups if name not in growth.last]
        if unknown:
            root = zarr.open_group(store, mode="a")
            for name in unknown:
                new = groups[name]
                if name not in root:
                    if isinstance(new, dict):
                        raise ArchiveError(f"{self.folder}, branch {branch}: there is no group {name}")
                    create(root, name, new)
        rows = {name: new if isinstance(new, dict) else rows_of(new) for name, new in groups.items()}
        try:
            _succeed(_together(growth.read(store, name, new) for name, new in rows.items()))
            arrays = [contents for name, new in rows.items() for contents in growth.grow(name, new)]
            _succeed(_together(_write(store, contents) for contents in arrays))
        except ArchiveError as error:
            raise ArchiveError(f"{self.folder}, branch {branch}: {error}") from error

    def _flush(
        self,
        session: icechunk.Session,
        message: str,
        metadata: Mapping[str, Any] | None,
        note: str,
        past: bool = True,
    ) -> str:
        """Write a commit that no branch points to yet, with its seal, and return its id.

        It is on disk before a branch points to it: Icechunk itself leaves that to the system.
        """
        try:
            snapshot = session.flush(message, dict(metadata or {}))
        except icechunk.IcechunkError as error:
            before, now = self._repository.lookup_snapshot(session.snapshot_id).written_at, datetime.now(UTC)
            if now > before:
                raise ArchiveError(f"{self.folder} cannot be written: {error.message}") from error
            raise ArchiveError(
                f"{self.folder}: this machine's clock says {now:%Y-%m-%d %H:%M:%S} UTC, but the newest commit was "
                f"written at {before:%Y-%m-%d %H:%M:%S}; set the clock right, and run the command again"
            ) from error
        if not past:
            forget_past(self.folder, snapshot)
            self._reopen()
        _seal(self.folder, self._repository.lookup_snapshot(snapshot), self._digests, note)
        flush_all(self.folder)
        return str(snapshot)

    def _reopen(self) -> None:
        """Forget what was read of commits that have changed or gone."""
        self.__dict__.pop("_repository", None)
        self._opened.clear()
        self._growth.clear()

    def remove(
        self,
        branch: str,
        states: Mapping[str, Times],
        additions: "Iterable[Mapping[str, xr.Dataset | Rows]]",
        message: str,
        metadata: Mapping[str, Any],
        note: str,
    ) -> None:
        """Remove the fields of some times of each group, append to other groups, and forget the branch's past.

        What is removed can be read until the branch points to the new commit, and takes space until `collect`.

        Args:
            branch: of the groups.
            states: by group, the times.
            additions: what is appended, one after the other.
            message, metadata, note: as `append`.

        Raises:
            ArchiveError: as `append`.
        """
        tip = self._tip(branch)
        self._check(tip, READ)
        session = self._repository.writable_session(branch)
        growth = Growth(tip)
        for groups in additions:
            self._grow(session.store, branch, growth, groups)
        with self._reading():
            drop_states(session.store, states)
        point(self.folder, branch, self._flush(session, message, metadata, note, past=False))

    def shortened(self, branch: str, last: "pd.Timestamp", message: str, metadata: Mapping[str, Any], note: str) -> str:
        """Write a commit without a past that holds what a branch does up to a time; no branch points to it yet.

        Returns:
            Its id.
        """
        self._check(self._tip(branch), READ)
        session = self._repository.writable_session(branch)
        with self._reading():
            shorten(session.store, np.datetime64(last, "h"))
        return self._flush(session, message, metadata, note, past=False)

    def collect(self, plan: bool = False) -> int:
        """Delete what no branch leads to, while no process adds to the store; return its bytes. `plan`: only count."""
        with self._reading():
            freed = collect(self.folder, plan)
        self._reopen()
        return freed


def _seal(folder: Path, commit: icechunk.SnapshotInfo, known: dict[str, str], note: str = "") -> None:
    seal_commit(folder, str(commit.id), [manifest.id for manifest in commit.manifests], known, note)


async def _open(store: icechunk.IcechunkStore, path: str) -> zarr.AsyncArray:
    return await zarr.AsyncArray.open(StorePath(store, path), zarr_format=3)


async def _fetch(snapshot: _Snapshot, path: str, at: int | slice) -> Any:
    if path not in snapshot.arrays:
        snapshot.arrays[path] = await _open(snapshot.store, path)
    return await snapshot.arrays[path].getitem(at)


async def _copy(snapshot: _Snapshot, path: str, row: int) -> Encoded:
    if path not in snapshot.arrays:
        snapshot.arrays[path] = await _open(snapshot.store, path)
    return await encoded_row(snapshot.store, path, snapshot.arrays[path], row)


async def _write(store: icechunk.IcechunkStore, contents: Mapping[str, bytes]) -> None:
    for key, content in contents.items():
        await store.set(key, Buffer.from_bytes(content))


def _succeed(results: Iterable[Any]) -> None:
    """Raise ArchiveError where a call of `_together` has failed."""
    for result in results:
        if isinstance(result, BaseException):
            raise ArchiveError(str(result)) from result


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
