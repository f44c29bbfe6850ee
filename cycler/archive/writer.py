"""The one way to add to an experiment: whole cycles, one commit each."""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.files import write_whole
from dacycle.cycler.archive.branches import Archive, Branch, read_frozen
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.members import (
    MEMBERS,
    SMOOTHED,
    SMOOTHED_MEMBERS,
    Smoothed,
    members_dataset,
    shortened,
)
from dacycle.cycler.archive.progress import Holding, read_holding
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.archive.seals import seal_text
from dacycle.cycler.archive.store import Rows, Store
from dacycle.cycler.experiment import STEP, Experiment, cycle_id, differences, parse_donor, write_experiment
from dacycle.forecast_adapter.channels import WB2_NAMES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.state import check_array, make_state, to_arrays, to_dataset
from dacycle.obs_ingest.table import to_arrow

__all__ = ["Writer", "write"]

_VARIABLES = list(WB2_NAMES.values())
_KEPT_RECORDS = 64
"""Newest records that a writer keeps in memory: more than a cycle looks at."""


@contextmanager
def write(archive: Archive, experiment: Experiment, patience: float = 0.0) -> Iterator["Writer"]:
    """Become the one writer of an experiment's branch.

    A new experiment has no branch before `Writer.commit_start` or `Writer.fork`.

    Args:
        archive, experiment: of the branch.
        patience: seconds to wait while another process writes it.

    Raises:
        ArchiveError: another process is writing it, or it began with other settings, which the message lists.
    """
    with archive.lock(experiment.name, patience):
        branch = Branch(archive, experiment.name)
        if experiment.name in archive.branches() and len(branch.times):
            frozen, sealed = read_frozen(branch.folder)
            _check_unchanged(branch, experiment)
            if frozen != experiment or not sealed:  # another end, or from before there were seals
                _freeze(branch.folder, experiment)
        yield Writer(archive, experiment)


class Writer(Branch):
    """The one writer of a branch; made by `Archive.write`, which holds the lock."""

    def __init__(self, archive: Archive, experiment: Experiment) -> None:
        super().__init__(archive, experiment.name)
        self._thread: ThreadPoolExecutor | None = None
        self._commit: Future[None] | None = None  # the one that is under way in the thread, or has failed there
        self.experiment = experiment
        self._times: pd.DatetimeIndex | None = None
        begun = experiment.name in archive.branches()
        self._next = super().next_time if begun else None
        # While the lock is held only this writer adds to the branch, so that what it wrote need not be read again.
        self._newest = self._records(slice(-_KEPT_RECORDS, None)) if begun and self._next is not None else []
        self._holding = read_holding(archive.states.folder, self.name) if begun else Holding()
        self._frames: dict[pd.Timestamp, NDArray[np.float32]] = {}
        self._members: dict[pd.Timestamp, NDArray[np.float32]] = {}
        self._appended = False

    @property
    def states(self) -> Store:
        """Return the store of the states, once the commit that is under way has ended. Errors as `settle`."""
        self.settle()
        return self.archive.states

    @contextmanager
    def committing_behind(self) -> Iterator[None]:
        """Within the block publish each cycle in a thread, while the caller computes the next one.

        One commit is under way at a time, in order: the next one, and whatever reads the store, waits until it has
        ended. A process that is killed meanwhile leaves what it would leave between two cycles.
        """
        with ThreadPoolExecutor(1, "commits") as thread:
            self._thread = thread
            try:
                yield
                self.settle()
            finally:
                self._thread = None

    def settle(self) -> None:
        """Wait until the commit that is under way has ended.

        Raises:
            ArchiveError, OSError: it has failed; this writer then knows more than the archive, and cannot go on.
        """
        if self._commit is not None:
            self._commit.result()
            self._commit = None

    @property
    def times(self) -> pd.DatetimeIndex:
        """Return the times of the committed analyses; while the lock is held, only this writer adds to them."""
        if self._times is None:
            self._times = super().times
        return self._times

    @property
    def next_time(self) -> pd.Timestamp | None:
        """Return the time of the next cycle; while the lock is held, only this writer changes it."""
        return self._next

    def recent_records(self, count: int) -> list[CycleRecord]:
        """Return the records of the last `count` analyses, as they would be read."""
        return self._newest[-count:] if count <= _KEPT_RECORDS else super().recent_records(count)

    def frame(self, time: pd.Timestamp) -> NDArray[np.float32]:
        """Return an analysis (69, H, W), read-only: one of the last two that this writer committed, or as stored."""
        return self._frames[time] if time in self._frames else super().frame(time)

    def members(self, time: pd.Timestamp) -> NDArray[np.float32] | None:
        """Return the perturbations at `time`; those of the last two cycles of this writer are in memory."""
        return self._members[time] if time in self._members else super().members(time)

    def _remember(self, records: Sequence[CycleRecord], frames: Sequence[NDArray], holding: Holding) -> None:
        """Keep what was committed, in the form in which it is read."""
        self._holding = holding
        if self._times is not None:
            self._times = self._times.append(pd.DatetimeIndex([record.time for record in records]).as_unit("s"))
        self._newest = [*self._newest, *(CycleRecord.from_json(record.to_json()) for record in records)]
        self._newest = self._newest[-_KEPT_RECORDS:]
        for record, frame in zip(records, frames, strict=False):  # copies come without frames
            stored = np.array(frame, np.float32)
            stored.flags.writeable = False
            self._frames[record.time] = stored
        self._frames = dict(list(self._frames.items())[-2:])
        self._next = records[-1].time + STEP

    def commit_start(self, frames: NDArray, digests: Mapping[str, str], remark: str | None = None) -> None:
        """Publish the two frames (2, 69, H, W) that precede the first cycle.

        Args:
            frames: the analyses at 12 and 6 h before the first cycle.
            digests: SHA-256 of what the run is made with.
            remark: `frame` of the records.
        """
        times = [self.experiment.start - 2 * STEP, self.experiment.start - STEP]
        states = [
            _state_dataset(self._checked(frame, time, "cold start"), self.grid, time)
            for frame, time in zip(frames, times, strict=True)
        ]
        records = [CycleRecord(time, "cold_start", digests, remark) for time in times]
        holding = self._holding.after(record.as_dict() for record in records)
        _freeze(self.folder, self.experiment)
        if self.name not in self.archive.branches():
            self.states.create_branch(self.name)
        self.states.append(
            self.name,
            {
                "analysis": xr.concat(states, "time", data_vars="minimal"),
                "cycles": _record_dataset(records),
            },
            f"cold start to {cycle_id(times[-1])}",
            {"time": cycle_id(times[-1])},
            holding.to_json(),
        )
        self._remember(records, list(frames), holding)

    def fork(self) -> None:
        """Publish the past of the experiment that `cold_start.from` names, up to its cycle, as this branch's own.

        The branch gets its own links to the departures and scores of that past.

        Raises:
            ArchiveError: there is no such experiment or cycle, or it is on another world or grid.
        """
        origin = self.experiment.cold_start.from_
        assert origin is not None, "only an experiment that names a donor is forked"
        name, time = parse_donor(origin)
        donor = self.archive.branch(name)
        old, new = donor.experiment, self.experiment
        if (old.world, old.grid) != (new.world, new.grid):
            raise ArchiveError(
                f"{new.name} is on world {new.world}, {new.grid}; it cannot go on from {old.name}, "
                f"which is on world {old.world}, {old.grid}"
            )
        self.begin_from(donor, time)

    def begin_from(self, donor: Branch, time: pd.Timestamp) -> None:
        """Publish the past of another branch, up to a cycle, as this branch's own.

        Raises:
            ArchiveError: there is no such cycle.
        """
        snapshot = donor.commit_of(time)
        _freeze(self.folder, self.experiment)
        for kind in ("departures", "drift", "verification"):
            (self.folder / kind).mkdir(exist_ok=True)
            for path in sorted((donor.folder / kind).glob("[!.]*.parquet")):
                link = self.folder / kind / path.name
                link.unlink(missing_ok=True)  # of an earlier attempt that was cut short
                # Tables of verification know their cycles; they say what is known of states that were removed.
                if kind == "verification" or path.stem[: len(cycle_id(time))] <= cycle_id(time):
                    os.link(path, link)
        self.states.create_branch(self.name, snapshot)
        self._next, self._times = time + STEP, None
        self._newest = self._records(slice(-_KEPT_RECORDS, None))
        self._holding = read_holding(self.states.folder, self.name)

    def commit_cycle(
        self,
        background: NDArray,
        analysis: NDArray,
        departures: pd.DataFrame,
        record: CycleRecord,
        notes: Mapping[str, Any],
        members: NDArray | None = None,
        smoothed: Smoothed | None = None,
    ) -> CycleRecord:
        """Publish one cycle and return its record as written, with the digest of the departures.

        Within `committing_behind` the cycle is published when `settle` or the next commit returns.

        Args:
            background, analysis: (69, H, W).
            departures: the cycle's observations.
            record: of the cycle.
            notes: kept with the commit but not in the record, such as wall times.
            members: (N, 69, H, W) perturbations of the analysis, of a method that has some.
            smoothed: the older frame of the next forecast, where it is neither the analysis before nor made from it.

        Raises:
            ArchiveError: the cycle is not the one that comes next in the branch.
            ArchiveError, OSError: this commit or, within `committing_behind`, the one before has failed.
        """
        time = record.time
        self._refuse_other_than_next(time)
        content = _parquet(departures)
        record = replace(record, departures=hashlib.sha256(content).hexdigest())
        form = _state_rows if self._appended else _state_dataset  # the first cycle of a branch makes its groups
        groups: dict[str, xr.Dataset | Rows] = {
            name: form(self._checked(array, time, name), self.grid, time)
            for name, array in (("background", background), ("analysis", analysis))
        }
        groups["cycles"] = _record_rows([record])
        if members is not None:
            members = shortened(members)
            groups[MEMBERS] = members_dataset(members, _state_dataset(background, self.grid, time))
        if smoothed is not None:
            state = _state_dataset(self._checked(smoothed.frame, time, "smoothed older frame"), self.grid, time)
            groups[SMOOTHED] = state
            if smoothed.members is not None:
                groups[SMOOTHED_MEMBERS] = members_dataset(shortened(smoothed.members), state)
        holding = self._holding.after([record.as_dict()])
        metadata = {"time": cycle_id(time), **notes}
        self.settle()
        publish = partial(self._publish, cycle_id(time), content, groups, metadata, holding.to_json())
        if self._thread is None:
            publish()
        else:
            self._commit = self._thread.submit(publish)
        self._appended = True
        self._remember([record], [analysis], holding)
        if members is not None:
            self._members = dict([*self._members.items(), (time, members)][-2:])
        return record

    def commit_copy(self, donor: Branch, record: CycleRecord, notes: Mapping[str, Any]) -> None:
        """Publish a cycle of another branch as this branch's next one: states, record and departures as they are there.

        Chunks are copied as they are stored.

        Args:
            donor: the other branch, with the groups that this one has.
            record: of its cycle.
            notes: of the cycle's commit there.

        Raises:
            ArchiveError: the cycle is not the one that comes next in this branch, or it is damaged.
        """
        time = record.time
        self._refuse_other_than_next(time)
        names = ("analysis", "background", MEMBERS, SMOOTHED, SMOOTHED_MEMBERS)
        found = {name: self.states.encoded(donor.name, name, time, _VARIABLES) for name in names}
        groups: dict[str, xr.Dataset | Rows] = {name: rows for name, rows in found.items() if rows}
        groups["cycles"] = _record_rows([record])
        holding = self._holding.after([record.as_dict()])
        self._publish(record.id, donor.departures_file(record), groups, notes, holding.to_json())
        self._remember([record], [], holding)

    def _refuse_other_than_next(self, time: pd.Timestamp) -> None:
        if self.next_time != time:
            raise ArchiveError(f"{self.archive.folder}: the next cycle of {self.name} is {self.next_time}, not {time}")

    def _publish(
        self,
        cycle: str,
        departures: bytes,
        groups: Mapping[str, xr.Dataset | Rows],
        metadata: Mapping[str, Any],
        note: str,
    ) -> None:
        """Write the departures of a cycle, and then the commit that makes all of it visible."""
        write_whole(self.folder / "departures" / f"{cycle}.parquet", departures)
        self.archive.states.append(self.name, groups, f"cycle {cycle}", metadata, note)

    def _checked(self, array: NDArray, time: pd.Timestamp, source: str) -> NDArray[np.float32]:
        """Return a state (69, H, W) as it is stored, after its shape and values have been checked."""
        check_array(array, self.grid, f"{self.name}, {source}, {np.datetime64(time, 'h')}")
        return np.asarray(array, np.float32)


def _check_unchanged(branch: Branch, experiment: Experiment) -> None:
    """Raise ArchiveError where an experiment differs from the one that its branch began with."""
    changed = differences(branch.experiment, experiment)
    if changed:
        lines = [f"  {key}: {old!r} at its first cycle, now {new!r}" for key, (old, new) in changed.items()]
        raise ArchiveError(
            f"{branch.archive.folder}: experiment {experiment.name} has changed since its first cycle:\n"
            + "\n".join(lines)
            + "\ngive the new one a name of its own, or fork it with `dacycle fork`"
        )


def _freeze(folder: Path, experiment: Experiment) -> None:
    write_whole(folder / "experiment.yaml", seal_text(write_experiment(experiment.as_dict())))


def _state_dataset(state: NDArray, grid: Grid, time: pd.Timestamp) -> xr.Dataset:
    return to_dataset(make_state(state, grid, np.datetime64(time, "h")))


def _state_rows(state: NDArray, grid: Grid, time: pd.Timestamp) -> Rows:
    """Return the variables of `_state_dataset` that grow along time, without making a dataset."""
    return {"time": np.array([time], "datetime64[h]"), **to_arrays(state[None])}


def _record_dataset(records: Sequence[CycleRecord]) -> xr.Dataset:
    times = np.array([record.time for record in records], "datetime64[s]")
    return xr.Dataset({"record": ("time", _record_rows(records)["record"])}, coords={"time": times})


def _record_rows(records: Sequence[CycleRecord]) -> Rows:
    texts = np.array([record.to_json() for record in records], dtype=object)
    return {"time": np.array([record.time for record in records], "datetime64[h]"), "record": texts}


def _parquet(table: pd.DataFrame) -> bytes:
    """Return a table of departures as a file; hardly a number occurs twice, so that only names get dictionaries."""
    content, arrow = io.BytesIO(), to_arrow(table)
    names = [field.name for field in arrow.schema if pa.types.is_dictionary(field.type)]
    pq.write_table(arrow, content, compression="zstd", use_dictionary=names, write_statistics=False)
    return content.getvalue()
