"""The archive of an experiment family: its parts, and the one way to add to it.

    states.icechunk        groups analysis, background, cycles, and those of `members` for an ensemble; a branch is an
                           experiment
    forecasts.icechunk     forecasts, with commits of their own
    branches/NAME/         experiment.yaml, lock, departures/CYCLE.parquet, drift/, verification/, report/
    lock.adding            held together by all that add to a store, alone by what collects garbage
    lock.removing          held together by all that remove files, alone by a backup and a check

The archive is the ledger: the next cycle is read from `cycles`, and a file beside the stores counts only if a committed
cycle names it. A cycle's departures have their final name on disk before its commit. A process that is killed at any
moment therefore leaves either a whole cycle, or a file that no cycle names and that the next run replaces.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.arrow import read_parquet
from dacycle.common.foreign import reading
from dacycle.common.locks import locked
from dacycle.common.places import is_remote, place
from dacycle.cycler.archive.derived import CYCLE_TABLES, LAST_COPY
from dacycle.cycler.archive.exceptions import ArchiveError, NotInArchiveError
from dacycle.cycler.archive.members import MEMBERS, SMOOTHED, SMOOTHED_MEMBERS
from dacycle.cycler.archive.progress import FROZEN_REMEDY, STATES, Holding, find_states, refuse_unknown
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.archive.sealed_tables import read_sealed_table
from dacycle.cycler.archive.seals import read_sealed_text
from dacycle.cycler.archive.store import Store
from dacycle.cycler.experiment import STEP, Experiment, cycle_id, parse_experiment
from dacycle.forecast_adapter.channels import CHANNELS, HEADLINE, LEVELS, WB2_NAMES, index
from dacycle.forecast_adapter.grid import Grid, get_grid
from dacycle.forecast_adapter.state import from_arrays, make_state
from dacycle.obs_ingest.table import BIAS_COLUMN, concatenate, from_arrow

__all__ = ["HEADLINE_FIELDS", "Archive", "ArchiveError", "Branch", "Damage", "open_experiment", "read_frozen"]

_NAMES = list(WB2_NAMES.values())
_TEXTS = 64

HEADLINE_FIELDS = {"analysis": "headline_analysis", "background": "headline_background"}
"""The groups of headline fields, up to the time before which `keep` removes states."""


class Archive:
    """The archive of an experiment family, in a folder.

    Args:
        folder: the folder, or the place of a copy in a bucket, `s3://BUCKET/PREFIX`, to read.
        create: make it if need be; otherwise ArchiveError is raised where the folder is no archive.
    """

    def __init__(self, folder: Path | str, create: bool = False) -> None:
        self.folder = place(folder)
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
        with locked(self.folder / "lock", f"the archive {self.folder}", ArchiveError, wait=True):
            store.make()

    def branches(self) -> list[str]:
        """Return the names of the experiments in this archive."""
        return self.states.branches()

    def branch(self, name: str) -> "Branch":
        """Return one experiment, to read.

        Raises:
            NotInArchiveError: there is none of that name; the message lists the names.
        """
        refuse_unknown(self.folder, name)
        return Branch(self, name)

    @contextmanager
    def lock(self, name: str, patience: float = 0.0) -> Iterator[None]:
        """Hold the writer's lock of a branch; the kernel releases it even when the process is killed.

        What killed writers left there under temporary names is removed. Garbage is not collected meanwhile.

        Args:
            name: of the branch.
            patience: seconds to wait while another process holds it.
        """
        folder = self.folder / "branches" / name
        with self.adding(), locked(folder / "lock", f"experiment {name}", ArchiveError, patience=patience):
            for path in (*folder.glob(".*.part*"), *(folder / "departures").glob(".*.part*")):
                path.unlink()
            yield

    def adding(self, alone: bool = False) -> AbstractContextManager[object]:
        """Hold the lock of those who add to the archive; `alone`, nobody else adds to it meanwhile.

        Raises:
            ArchiveError: another process adds to it, and this one wants to be alone.
        """
        path = self.folder / "lock.adding"
        return locked(path, f"the archive {self.folder}", ArchiveError, wait=not alone, shared=not alone)

    def removing(self, alone: bool = False) -> AbstractContextManager[object]:
        """Hold the lock of those who remove something from the archive; `alone`, nobody else removes anything.

        Raises:
            ArchiveError: another process removes something, or keeps all from doing so, such as a backup.
        """
        return locked(self.folder / "lock.removing", f"the archive {self.folder}", ArchiveError, shared=not alone)

    def nothing_removed(self) -> AbstractContextManager[object]:
        """Keep others from removing anything; in a bucket, and on a disk that cannot be written, nobody does.

        Raises:
            ArchiveError: as `removing`.
        """
        can_be = not is_remote(self.folder) and os.access(self.folder, os.W_OK)
        return self.removing(alone=True) if can_be else nullcontext()

    def rewind(self, name: str, time: pd.Timestamp) -> None:
        """Make `time` the newest cycle of an experiment again; drop later cycles and their files.

        Raises:
            ArchiveError: there is no such cycle, its states were removed, it is before the experiment's start, or
                another process is writing or makes a backup.
        """
        branch = self.branch(name)
        first = branch.experiment.start - STEP
        if time < first:
            raise ArchiveError(f"{name} begins at {cycle_id(first)}; it cannot be rewound to {cycle_id(time)}")
        with self.removing(), self.lock(name):
            self.states.reset(name, branch.commit_of(time))
            for path in sorted(branch.folder.glob("d*/*.parquet")):
                if path.stem[: len(cycle_id(time))] > cycle_id(time):
                    path.unlink()


@dataclass(frozen=True)
class Damage:
    """Say what is damaged and what mends it; `cycle` is the one that makes it again, if one does."""

    sentence: str
    cycle: pd.Timestamp | None = None


class Branch:
    """One experiment as xarray and pandas; each access reads what is committed by then."""

    def __init__(self, archive: Archive, name: str) -> None:
        self.archive = archive
        self.name = name
        self.folder = archive.folder / "branches" / name

    @property
    def states(self) -> Store:
        """Return the store of the states."""
        return self.archive.states

    @cached_property
    def experiment(self) -> Experiment:
        """Return the experiment as it was frozen at its first cycle.

        Raises:
            ArchiveError: its file is damaged.
        """
        return read_frozen(self.folder)[0]

    @cached_property
    def grid(self) -> Grid:
        """Return the grid of the states."""
        return get_grid(self.experiment.grid)

    @property
    def analysis(self) -> xr.Dataset:
        """Return the analyses, lazily, in the WeatherBench2 schema; the first two are those of the cold start."""
        return self.states.dataset(self.name, "analysis")

    @property
    def background(self) -> xr.Dataset:
        """Return the backgrounds, lazily, in the WeatherBench2 schema."""
        return self.states.dataset(self.name, "background")

    @property
    def times(self) -> pd.DatetimeIndex:
        """Return the times of the committed analyses, the two of the cold start first."""
        return pd.DatetimeIndex(self.states.times(self.name, "cycles").astype("datetime64[s]"))

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

    def record(self, time: pd.Timestamp) -> CycleRecord:
        """Return the record of one analysis; no other is read.

        Raises:
            NotInArchiveError: there is no such cycle; the message says which there are.
        """
        times = self.times
        if time not in times:
            there = f"{cycle_id(times[0])} to {cycle_id(times[-1])}" if len(times) else "none yet"
            text = f"{self.archive.folder}: {self.name} has no cycle {cycle_id(time)} (it has {there})"
            raise NotInArchiveError(text)
        return self._records(times.slice_indexer(time, time))[0]

    def records_between(self, first: pd.Timestamp | None = None, last: pd.Timestamp | None = None) -> list[CycleRecord]:
        """Return the records of the committed analyses from `first` to `last`, in order; no other is read."""
        times = self.times
        return self._records(times.slice_indexer(first, last)) if len(times) else []

    def records_with(self, key: str) -> Iterator[CycleRecord]:
        """Yield the records that hold a key, in order, some in memory at a time; the others are not interpreted."""
        for begin in range(0, len(self.times), _TEXTS):
            texts = self.states.column(self.name, "cycles", "record", slice(begin, begin + _TEXTS))
            yield from (CycleRecord.from_json(str(text)) for text in texts if f'"{key}": ' in str(text))

    def _records(self, rows: slice) -> list[CycleRecord]:
        texts = self.states.column(self.name, "cycles", "record", rows)
        return [CycleRecord.from_json(str(text)) for text in texts]

    @property
    def cycles(self) -> pd.DataFrame:
        """Return the records as a table indexed by time; nested entries become columns such as `uses.assimilated`."""
        table = pd.json_normalize([record.as_dict() for record in self.records])
        table.index = pd.DatetimeIndex(self.times, name="time")
        return table.drop(columns="time", errors="ignore")

    def state(self, group: str, time: pd.Timestamp) -> xr.DataArray:
        """Return a state (channel, latitude, longitude), float32, of `analysis`, `background` or `smoothed`, as stored.

        Raises:
            ArchiveError: there is none, or its bytes are damaged; the message names array and time.
        """
        arrays = self.states.read(self.name, group, time, _NAMES)
        upper = [array for array in arrays.values() if array.ndim == 3]
        surface = [array[None] for array in arrays.values() if array.ndim == 2]
        return make_state(np.concatenate([*surface, *upper]), self.grid, np.datetime64(time, "h"))

    def frame(self, time: pd.Timestamp) -> NDArray[np.float32]:
        """Return an analysis (69, H, W) as it is stored, read-only. Errors as `state`."""
        values = self.state("analysis", time).values
        values.flags.writeable = False
        return values

    def headline(self, kind: str = "analysis") -> xr.Dataset:
        """Return the headline fields of every `analysis` or `background`, lazily, of removed states as well."""
        states = getattr(self, kind)
        described = [(name, CHANNELS[index(name)]) for name in HEADLINE]
        whole = {name: states[WB2_NAMES[channel.variable]] for name, channel in described}
        newer = xr.Dataset(
            {name: whole[name].sel(level=c.level, drop=True) if c.level else whole[name] for name, c in described}
        )
        if not len(self.kept(HEADLINE_FIELDS[kind])):
            return newer
        older = self.states.dataset(self.name, HEADLINE_FIELDS[kind])
        return xr.concat([older, newer.sel(time=newer["time"] > older["time"][-1])], "time", data_vars="minimal")

    def headline_fields(self, kind: str, time: pd.Timestamp) -> NDArray[np.float32]:
        """Return the headline channels (6, H, W) of an `analysis` or `background`, SI, of a removed one as well.

        Raises:
            ArchiveError: as `state`.
        """
        states, group = self.states, HEADLINE_FIELDS[kind]
        if time not in self.kept(kind) and time in self.kept(group):
            return np.stack(list(states.read(self.name, group, time, list(HEADLINE)).values()))
        described = [CHANNELS[index(name)] for name in HEADLINE]
        arrays = states.read(self.name, kind, time, [WB2_NAMES[channel.variable] for channel in described])
        whole = [(arrays[WB2_NAMES[channel.variable]], channel.level) for channel in described]
        return np.stack([array[LEVELS.index(level)] if level else array for array, level in whole])

    def members(self, time: pd.Timestamp) -> NDArray[np.float32] | None:
        """Return the perturbations (N, 69, H, W) of the analysis at `time`; None where it has no members.

        Raises:
            ArchiveError: their bytes are damaged; the message names array and time.
        """
        return self._perturbations(MEMBERS, time)

    def smoothed_members(self, time: pd.Timestamp) -> NDArray[np.float32] | None:
        """Return the perturbations (N, 69, H, W) of `smoothed`; None and errors as `members`."""
        return self._perturbations(SMOOTHED_MEMBERS, time)

    def smoothed(self, time: pd.Timestamp) -> NDArray[np.float32] | None:
        """Return the frame (69, H, W) 6 h before `time` as its analysis smoothed it; None and errors as `members`."""
        kept = np.datetime64(time, "h") in self.states.times(self.name, SMOOTHED)
        return self.state(SMOOTHED, time).values if kept else None

    def _perturbations(self, group: str, time: pd.Timestamp) -> NDArray[np.float32] | None:
        if np.datetime64(time, "h") not in self.states.times(self.name, group):
            return None
        return from_arrays(self.states.read(self.name, group, time, _NAMES))

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
        self, first: pd.Timestamp | None = None, last: pd.Timestamp | None = None, station: str | None = None
    ) -> Iterator[tuple[pd.Timestamp, pd.DataFrame]]:
        """Yield time and departures of each committed cycle from `first` to `last`; read no other record.

        With `station`, the rows of this station alone.
        """
        for record in self.records_between(first, last):
            if record.departures is not None:
                yield record.time, self.departures_of(record, station)

    def departures_of(self, record: CycleRecord, station: str | None = None) -> pd.DataFrame:
        """Return the departures of a cycle that has some. Arguments and errors as `departures_between`."""
        return self._departures_of(record.id, record.departures or "", station)

    def _departures_of(self, name: str, digest: str, station: str | None = None) -> pd.DataFrame:
        path, content = self._departures_path(name), self._departures_content(name, digest)
        rows = read_parquet(pa.BufferReader(content))
        if station is not None:
            rows = rows.filter(pc.equal(rows["station"], station))
        table = from_arrow(rows, str(path))
        table["cycle"] = pd.Timestamp(name)
        return table

    def departures_file(self, record: CycleRecord) -> bytes:
        """Return the content of the file with a cycle's departures; raise ArchiveError where it is another one."""
        return self._departures_content(record.id, record.departures or "")

    def _departures_path(self, name: str) -> Path:
        return self.folder / "departures" / f"{name}.parquet"

    def _departures_content(self, name: str, digest: str) -> bytes:
        path = self._departures_path(name)
        with reading(path, ArchiveError):
            content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != digest:
            state = "damaged" if content else "missing"
            raise ArchiveError(
                f"{path} is {state}: it is not the file that cycle {name} committed; rewind and run again"
            )
        return content

    def commit_of(self, time: pd.Timestamp) -> str:
        """Return the id of a snapshot that ends with a cycle: the one in which it was published.

        Where retention has forgotten that one, a snapshot is written that ends with the cycle. The caller adds to the
        archive (`Archive.lock`).

        Raises:
            ArchiveError: there is no such cycle, or a forecast cannot start from it as its states were removed.
        """
        for commit in self.states.commits(self.name):
            published = commit.metadata.get("time")
            if published == cycle_id(time):
                return str(commit.id)
            if published is not None and published < cycle_id(time):  # in what is behind it were only dropped cycles
                break
        if time not in self.times:
            raise ArchiveError(f"{self.archive.folder}: {self.name} has no committed cycle {cycle_id(time)}")
        if time not in self.restarts:
            raise ArchiveError(
                f"{self.archive.folder}: the states of {self.name} from which a run goes on after {cycle_id(time)} "
                f"were removed by retention (`keep` in the experiment); it can go on after {self._nearest(time)}"
            )
        records = self._records(slice(len(self.times[self.times <= time])))
        holding = Holding().after(record.as_dict() for record in records)
        notes = [note for note in self.states.notes(self.name) if note["time"] <= cycle_id(time)]
        own = notes.pop(0) if notes and notes[0]["time"] == cycle_id(time) else {"time": cycle_id(time)}
        metadata = {**own, "carried": notes}
        message = f"cut off after {cycle_id(time)}"
        return self.states.shortened(self.name, time, message, metadata, holding.to_json())

    def kept(self, group: str) -> pd.DatetimeIndex:
        """Return the times at which the states of a group are kept: all, but for those that retention removed."""
        return pd.DatetimeIndex(self.states.times(self.name, group).astype("datetime64[s]"))

    @property
    def restarts(self) -> pd.DatetimeIndex:
        """Return the times after which a run or a forecast can go on: both frames of the forecast are kept."""
        kept = self.kept("analysis")
        return kept[(kept - STEP).isin(kept)]

    def _nearest(self, time: pd.Timestamp) -> str:
        restarts = self.restarts
        near = [*restarts[restarts < time][-1:], *restarts[restarts > time][:1]]
        return " or ".join(map(cycle_id, near)) or "no cycle"

    @property
    def scores_remedy(self) -> str:
        """Say what mends a damaged file with scores of forecasts."""
        again = f"delete it and run `dacycle drift {self.name}` again"
        return f"restore it from a backup; where the states of its start are kept, you can also {again}"

    def damaged(self) -> list[str]:
        """Read everything that is kept of the run; return a sentence for each damaged array or file."""
        return [each.sentence for each in self.damage()]

    def damage(self) -> list[Damage]:
        """Read everything that is kept of the run; return each damaged array or file."""
        found = [Damage(sentence) for sentence in self.states.damaged(self.name)]
        if self.name in self.archive.forecasts.branches():
            found += [Damage(sentence) for sentence in self.archive.forecasts.damaged(self.name)]
        try:
            for cycle, read in self._readers():
                try:
                    read()
                except ArchiveError as error:
                    found.append(Damage(str(error), cycle))
        except ArchiveError as error:  # what there is cannot be listed
            found.append(Damage(str(error)))
        return list({each.sentence: each for each in found}.values())

    def _readers(self) -> Iterator[tuple[pd.Timestamp | None, Callable[[], object]]]:
        """Yield what reads each array and file, with the cycle that makes it again when it is run again."""
        yield None, partial(read_frozen, self.folder)
        for kind, group in HEADLINE_FIELDS.items():
            for time in self.kept(kind):
                yield time, partial(self.state, kind, time)
            for time in self.kept(group):
                yield time, partial(self.states.read, self.name, group, time, list(HEADLINE))
        for record in self.records:
            time = record.time
            yield time, partial(self.members, time)
            yield time, partial(self.smoothed, time)
            yield time, partial(self.smoothed_members, time)
            if record.status != "cold_start":
                yield time, partial(self.departures_file, record)
        forecasts = self.archive.forecasts
        if self.name in forecasts.branches():
            for start in forecasts.times(self.name, "starts"):
                yield None, partial(forecasts.read, self.name, "forecasts", start, list(HEADLINE))
        for path in sorted(self.folder.glob("drift/*.parquet")):
            yield None, partial(read_sealed_table, path, self.scores_remedy)
        again = "it is made again when it is next needed"
        last_copies = CYCLE_TABLES if len(self.kept("background")) < len(self.times[2:]) else ()
        for path in sorted(
            (*self.folder.glob("verification/*.parquet"), *self.archive.folder.glob("shared/*/*.parquet"))
        ):
            yield None, partial(read_sealed_table, path, LAST_COPY if path.stem in last_copies else again)


def open_experiment(archive: Path | str, branch: str) -> Branch:
    """Open an experiment to read: `.analysis`, `.background` (lazy xarray), `.cycles`, `.departures()` (pandas).

    Args:
        archive: the archive's folder, or the place of a copy in a bucket, `s3://BUCKET/PREFIX`.
        branch: the experiment.

    Raises:
        ArchiveError: the folder is no archive, or has no such branch.
    """
    return Archive(archive).branch(branch)


def read_frozen(folder: Path) -> tuple[Experiment, bool]:
    """Return the frozen experiment of a branch, and whether its file has a seal."""
    path = folder / "experiment.yaml"
    text, sealed = read_sealed_text(path, FROZEN_REMEDY)
    return parse_experiment(text, str(path)), sealed
