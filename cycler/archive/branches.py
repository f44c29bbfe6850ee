"""The archive of an experiment family: its parts, and the one way to add to it.

    states.icechunk        groups analysis, background, cycles, and members of methods with an ensemble; a branch is an
                           experiment
    forecasts.icechunk     forecasts, with commits of their own
    branches/NAME/         experiment.yaml, lock, departures/CYCLE.parquet, drift/, verification/, report/

The archive is the ledger: the next cycle is read from `cycles`, and a file beside the stores counts only if a committed
cycle names it. A cycle's departures have their final name on disk before its commit. A process that is killed at any
moment therefore leaves either a whole cycle, or a file that no cycle names and that the next run replaces.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.files import write_whole
from dacycle.common.foreign import reading
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.lock import locked
from dacycle.cycler.archive.members import MEMBERS, members_dataset, shortened
from dacycle.cycler.archive.progress import (
    FROZEN_REMEDY,
    STATES,
    Holding,
    find_states,
    read_holding,
    refuse_unknown,
)
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.archive.sealed_tables import read_sealed_table
from dacycle.cycler.archive.seals import read_sealed_text, seal_text
from dacycle.cycler.archive.store import Rows, Store
from dacycle.cycler.experiment import (
    STEP,
    Experiment,
    cycle_id,
    differences,
    parse_donor,
    parse_experiment,
    write_experiment,
)
from dacycle.forecast_adapter.channels import HEADLINE, WB2_NAMES
from dacycle.forecast_adapter.grid import Grid, get_grid
from dacycle.forecast_adapter.state import check_array, from_arrays, make_state, to_arrays, to_dataset
from dacycle.obs_ingest.table import BIAS_COLUMN, concatenate, from_arrow, to_arrow

__all__ = ["Archive", "ArchiveError", "Branch", "Writer", "open_experiment"]

_NAMES = list(WB2_NAMES.values())
_KEPT_RECORDS = 64
"""Newest records that a writer keeps in memory: more than a cycle looks at."""


class Archive:
    """The archive of an experiment family, in a folder.

    Args:
        folder: the folder.
        create: make it if need be; otherwise ArchiveError is raised where the folder is no archive.
    """

    def __init__(self, folder: Path | str, create: bool = False) -> None:
        self.folder = Path(folder)
        self.forecasts = Store(self.folder / "forecasts.icechunk")
        if create:
            self.states = Store(self.folder / STATES)
            self.make(self.states)
        else:
            self.states = Store(find_states(self.folder))

    def make(self, store: Store) -> None:
        """Make one of the two stores, if need be; that of the forecasts is made with the first forecast.

        Raises:
            ArchiveError: the folder cannot be written to.
        """
        with locked(self.folder / "lock", f"the archive {self.folder}", wait=True):
            store.make()

    def branches(self) -> list[str]:
        """Return the names of the experiments in this archive."""
        return self.states.branches()

    def branch(self, name: str) -> "Branch":
        """Return one experiment, to read.

        Raises:
            ArchiveError: there is none of that name; the message lists the names.
        """
        refuse_unknown(self.folder, name)
        return Branch(self, name)

    @contextmanager
    def write(self, experiment: Experiment) -> Iterator["Writer"]:
        """Become the one writer of an experiment's branch.

        A new experiment has no branch before `Writer.commit_start` or `Writer.fork`.

        Raises:
            ArchiveError: another process is writing it, or it began with other settings, which the message lists.
        """
        with self.lock(experiment.name):
            branch = Branch(self, experiment.name)
            if experiment.name in self.branches() and len(branch.times):
                frozen, sealed = _frozen(branch.folder)
                _check_unchanged(branch, experiment)
                if frozen != experiment or not sealed:  # another end, or from before there were seals
                    _freeze(branch.folder, experiment)
            yield Writer(self, experiment)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the writer's lock of a branch; the kernel releases it even when the process is killed.

        What killed writers left there under temporary names is removed.
        """
        folder = self.folder / "branches" / name
        with locked(folder / "lock", f"experiment {name}"):
            for path in (*folder.glob(".*.part*"), *(folder / "departures").glob(".*.part*")):
                path.unlink()
            yield

    def rewind(self, name: str, time: pd.Timestamp) -> None:
        """Make `time` the newest cycle of an experiment again; drop later cycles and their files.

        Raises:
            ArchiveError: there is no such cycle, it is before the experiment's start, or another process is writing.
        """
        branch = self.branch(name)
        first = branch.experiment.start - STEP
        if time < first:
            raise ArchiveError(f"{name} begins at {cycle_id(first)}; it cannot be rewound to {cycle_id(time)}")
        with self.lock(name):
            self.states.reset(name, branch.commit_of(time))
            for path in sorted(branch.folder.glob("d*/*.parquet")):
                if path.stem > cycle_id(time):
                    path.unlink()


class Branch:
    """One experiment as xarray and pandas; each access reads what is committed by then."""

    def __init__(self, archive: Archive, name: str) -> None:
        self.archive = archive
        self.name = name
        self.folder = archive.folder / "branches" / name

    @cached_property
    def experiment(self) -> Experiment:
        """Return the experiment as it was frozen at its first cycle.

        Raises:
            ArchiveError: its file is damaged.
        """
        return _frozen(self.folder)[0]

    @cached_property
    def grid(self) -> Grid:
        """Return the grid of the states."""
        return get_grid(self.experiment.grid)

    @property
    def analysis(self) -> xr.Dataset:
        """Return the analyses, lazily, in the WeatherBench2 schema; the first two are those of the cold start."""
        return self.archive.states.dataset(self.name, "analysis")

    @property
    def background(self) -> xr.Dataset:
        """Return the backgrounds, lazily, in the WeatherBench2 schema."""
        return self.archive.states.dataset(self.name, "background")

    @property
    def times(self) -> pd.DatetimeIndex:
        """Return the times of the committed analyses, the two of the cold start first."""
        return pd.DatetimeIndex(self.archive.states.times(self.name, "cycles").astype("datetime64[s]"))

    @property
    def next_time(self) -> pd.Timestamp | None:
        """Return the time of the next cycle; None before the cold start."""
        times = self.times
        return times[-1] + STEP if len(times) else None

    @property
    def records(self) -> list[CycleRecord]:
        """Return the record of every committed analysis, in order."""
        return self._records(slice(None)) if len(self.times) else []

    def recent_records(self, count: int) -> list[CycleRecord]:
        """Return the records of the last `count` analyses, or of all where there are fewer, in order."""
        return self._records(slice(-count, None))

    def _records(self, rows: slice) -> list[CycleRecord]:
        texts = self.archive.states.column(self.name, "cycles", "record", rows)
        return [CycleRecord.from_json(str(text)) for text in texts]

    @property
    def cycles(self) -> pd.DataFrame:
        """Return the records as a table indexed by time; nested entries become columns such as `uses.assimilated`."""
        table = pd.json_normalize([record.as_dict() for record in self.records])
        table.index = pd.DatetimeIndex(self.times, name="time")
        return table.drop(columns="time", errors="ignore")

    def state(self, group: str, time: pd.Timestamp) -> xr.DataArray:
        """Return a state (channel, latitude, longitude), float32, of `analysis` or `background`, as it is stored.

        Raises:
            ArchiveError: there is none, or its bytes are damaged; the message names array and time.
        """
        arrays = self.archive.states.read(self.name, group, time, _NAMES)
        upper = [array for array in arrays.values() if array.ndim == 3]
        surface = [array[None] for array in arrays.values() if array.ndim == 2]
        return make_state(np.concatenate([*surface, *upper]), self.grid, np.datetime64(time, "h"))

    def frame(self, time: pd.Timestamp) -> NDArray[np.float32]:
        """Return an analysis (69, H, W) as it is stored, read-only. Errors as `state`."""
        values = self.state("analysis", time).values
        values.flags.writeable = False
        return values

    def members(self, time: pd.Timestamp) -> NDArray[np.float32] | None:
        """Return the perturbations (N, 69, H, W) of the analysis at `time`; None where it has no members.

        Raises:
            ArchiveError: their bytes are damaged; the message names array and time.
        """
        if np.datetime64(time, "h") not in self.archive.states.times(self.name, MEMBERS):
            return None
        return from_arrays(self.archive.states.read(self.name, MEMBERS, time, _NAMES))

    def departures(self, times: Sequence[pd.Timestamp] | None = None) -> pd.DataFrame:
        """Return the departures of all committed cycles, or of some; a column `cycle` names the cycle.

        Raises:
            ArchiveError: a cycle is not committed, or a file is not the one that was committed.
        """
        tables = [table for _, table in self.each_departures(times)]
        if any(BIAS_COLUMN in table for table in tables):  # a fork may remove biases although its past did not
            tables = [table if BIAS_COLUMN in table else table.assign(**{BIAS_COLUMN: 0.0}) for table in tables]
        return concatenate(tables)

    def each_departures(
        self, times: Sequence[pd.Timestamp] | None = None
    ) -> Iterator[tuple[pd.Timestamp, pd.DataFrame]]:
        """Yield time and departures of each cycle, one at a time in memory. Arguments and errors as `departures`."""
        digests = {record.id: record.departures for record in self.records if record.departures is not None}
        names = list(digests) if times is None else [cycle_id(pd.Timestamp(time)) for time in times]
        absent = [name for name in names if name not in digests]
        if absent:
            raise ArchiveError(f"{self.archive.folder}: {self.name} has no committed cycle {', '.join(absent)}")
        for name in names:
            yield pd.Timestamp(name), self._departures_of(name, digests[name])

    def departures_between(
        self, first: pd.Timestamp | None = None, last: pd.Timestamp | None = None
    ) -> Iterator[tuple[pd.Timestamp, pd.DataFrame]]:
        """Yield time and departures of each committed cycle from `first` to `last`; read no other record."""
        times = self.times
        for record in self._records(times.slice_indexer(first, last)) if len(times) else []:
            if record.departures is not None:
                yield record.time, self._departures_of(record.id, record.departures)

    def _departures_of(self, name: str, digest: str) -> pd.DataFrame:
        path = self.folder / "departures" / f"{name}.parquet"
        with reading(path, ArchiveError):
            content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != digest:
            state = "damaged" if content else "missing"
            raise ArchiveError(
                f"{path} is {state}: it is not the file that cycle {name} committed; rewind and run again"
            )
        table = from_arrow(pq.read_table(io.BytesIO(content)), str(path))
        table["cycle"] = pd.Timestamp(name)
        return table

    def commit_of(self, time: pd.Timestamp) -> str:
        """Return the id of the snapshot in which a cycle was published.

        Raises:
            ArchiveError: there is no such cycle.
        """
        for commit in self.archive.states.commits(self.name):
            if commit.metadata.get("time") == cycle_id(time):
                return str(commit.id)
        raise ArchiveError(f"{self.archive.folder}: {self.name} has no committed cycle {cycle_id(time)}")

    def damaged(self) -> list[str]:
        """Read everything that is kept of the run; return a sentence for each damaged array or file."""
        damage = self.archive.states.damaged(self.name)
        if self.name in self.archive.forecasts.branches():
            damage += self.archive.forecasts.damaged(self.name)
        try:
            for read in self._readers():
                try:
                    read()
                except ArchiveError as error:
                    damage.append(str(error))
        except ArchiveError as error:  # what there is cannot be listed
            damage.append(str(error))
        return list(dict.fromkeys(damage))

    def _readers(self) -> Iterator[Callable[[], object]]:
        for record in self.records:
            yield partial(self.state, "analysis", record.time)
            yield partial(self.members, record.time)
            if record.status != "cold_start":
                yield partial(self.state, "background", record.time)
                yield partial(self.departures, [record.time])
        forecasts = self.archive.forecasts
        if self.name in forecasts.branches():
            for start in forecasts.times(self.name, "starts"):
                yield partial(forecasts.read, self.name, "forecasts", start, list(HEADLINE))
        for path in sorted(self.folder.glob("drift/*.parquet")):
            yield partial(read_sealed_table, path, f"delete it and run `dacycle drift {self.name}` again")
        for path in sorted(
            (*self.folder.glob("verification/*.parquet"), *self.archive.folder.glob("shared/*/*.parquet"))
        ):
            yield partial(read_sealed_table, path, "it is made again when it is next needed")


class Writer(Branch):
    """The one writer of a branch; made by `Archive.write`, which holds the lock."""

    def __init__(self, archive: Archive, experiment: Experiment) -> None:
        super().__init__(archive, experiment.name)
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
        for record, frame in zip(records, frames, strict=True):
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
            self.archive.states.create_branch(self.name)
        self.archive.states.append(
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
        snapshot = donor.commit_of(time)
        _freeze(self.folder, new)
        for kind in ("departures", "drift"):
            (self.folder / kind).mkdir(exist_ok=True)
            for path in sorted((donor.folder / kind).glob("[!.]*.parquet")):
                link = self.folder / kind / path.name
                link.unlink(missing_ok=True)  # of an earlier attempt that was cut short
                if path.stem[: len(cycle_id(time))] <= cycle_id(time):
                    os.link(path, link)
        self.archive.states.create_branch(self.name, snapshot)
        self._next, self._times = time + STEP, None
        self._newest = self._records(slice(-_KEPT_RECORDS, None))
        self._holding = read_holding(self.archive.states.folder, self.name)

    def commit_cycle(
        self,
        background: NDArray,
        analysis: NDArray,
        departures: pd.DataFrame,
        record: CycleRecord,
        notes: Mapping[str, Any],
        members: NDArray | None = None,
    ) -> CycleRecord:
        """Publish one cycle and return its record as written, with the digest of the departures.

        Args:
            background, analysis: (69, H, W).
            departures: the cycle's observations.
            record: of the cycle.
            notes: kept with the commit but not in the record, such as wall times.
            members: (N, 69, H, W) perturbations of the analysis, of a method that has some.

        Raises:
            ArchiveError: the cycle is not the one that comes next in the branch.
        """
        time = record.time
        if self.next_time != time:
            raise ArchiveError(f"{self.archive.folder}: the next cycle of {self.name} is {self.next_time}, not {time}")
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
        write_whole(self.folder / "departures" / f"{cycle_id(time)}.parquet", content)
        holding = self._holding.after([record.as_dict()])
        metadata = {"time": cycle_id(time), **notes}
        self.archive.states.append(self.name, groups, f"cycle {cycle_id(time)}", metadata, holding.to_json())
        self._appended = True
        self._remember([record], [analysis], holding)
        if members is not None:
            self._members = dict([*self._members.items(), (time, members)][-2:])
        return record

    def _checked(self, array: NDArray, time: pd.Timestamp, source: str) -> NDArray[np.float32]:
        """Return a state (69, H, W) as it is stored, after its shape and values have been checked."""
        check_array(array, self.grid, f"{self.name}, {source}, {np.datetime64(time, 'h')}")
        return np.asarray(array, np.float32)


def open_experiment(archive: Path | str, branch: str) -> Branch:
    """Open an experiment to read: `.analysis`, `.background` (lazy xarray), `.cycles`, `.departures()` (pandas).

    Raises:
        ArchiveError: the folder is no archive, or has no such branch.
    """
    return Archive(archive).branch(branch)


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


def _frozen(folder: Path) -> tuple[Experiment, bool]:
    """Return the frozen experiment of a branch, and whether its file has a seal."""
    path = folder / "experiment.yaml"
    text, sealed = read_sealed_text(path, FROZEN_REMEDY)
    return parse_experiment(text, str(path)), sealed


def _state_dataset(state: NDArray, grid: Grid, time: pd.Timestamp) -> xr.Dataset:
    return to_dataset(make_state(state, grid, np.datetime64(time, "h")))


def _state_rows(state: NDArray, grid: Grid, time: pd.Timestamp) -> Rows:
    """Return the variables of `_state_dataset` that grow along time, without making a dataset."""
    return {"time": np.array([time], "datetime64[h]"), **to_arrays(state[None])}


def _record_dataset(records: Sequence[CycleRecord]) -> xr.Dataset:
    rows = _record_rows(records)
    return xr.Dataset({"record": ("time", rows["record"])}, coords={"time": rows["time"].astype("datetime64[s]")})


def _record_rows(records: Sequence[CycleRecord]) -> Rows:
    texts = np.array([record.to_json() for record in records], dtype=object)
    return {"time": np.array([record.time for record in records], "datetime64[h]"), "record": texts}


def _parquet(table: pd.DataFrame) -> bytes:
    """Return a table of departures as a file; hardly a number occurs twice, so that only names get dictionaries."""
    content, arrow = io.BytesIO(), to_arrow(table)
    names = [field.name for field in arrow.schema if pa.types.is_dictionary(field.type)]
    pq.write_table(arrow, content, compression="zstd", use_dictionary=names, write_statistics=False)
    return content.getvalue()
