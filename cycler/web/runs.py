"""Read the runs of an archive for the pages, and keep what was read as long as the archive has not moved on.

Only what is committed is read, and nothing is written. Several threads may ask at once.
"""

import hashlib
import threading
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from dacycle.common import clock
from dacycle.common.files import stamp
from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.archive.commits import branch_names, newest_commit
from dacycle.cycler.archive.exceptions import NotInArchiveError
from dacycle.cycler.archive.progress import Holding, find_states, read_holding, refuse_unknown
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.experiment import Experiment
from dacycle.cycler.operations.alerts import Alert, alerts_of
from dacycle.cycler.verification.attention import HISTORY, Schedule, schedule
from dacycle.cycler.verification.cycles import fingerprint, fit_table, kept_rows
from dacycle.cycler.verification.drift import read_scores
from dacycle.cycler.web.cache import Cache
from dacycle.forecast_adapter.channels import HEADLINE

__all__ = ["SHOWN", "STARTS", "Run", "Runs"]

SHOWN = HISTORY
"""Number of newest cycles whose departures and errors are shown, about a month."""
STARTS = 60
"""Number of newest forecasts whose errors are shown."""
_SHOWN_FILES = ("alerts.json", "verification/fits.parquet", "drift", "report/index.html")
"""Files and folders of a run whose change changes a page."""
_TEXTS = ("site", "station", "variable", "source", "use", "reason")


class Runs:
    """The experiments of an archive, which may not be there yet.

    Args:
        folder: of the archive.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    @cached_property
    def _archive(self) -> Archive:
        return Archive(self.folder)

    def names(self) -> list[str]:
        """Return the names of the experiments.

        Raises:
            NotInArchiveError: there is no archive.
        """
        return branch_names(find_states(self.folder))

    def run(self, name: str) -> "Run":
        """Return one experiment.

        Raises:
            NotInArchiveError: there is no archive, or no experiment of that name; the message lists the names.
        """
        find_states(self.folder)
        refuse_unknown(self.folder, name)
        with self._lock:
            if name not in self._runs:
                self._runs[name] = Run(self._archive, name)
            return self._runs[name]


class Run:
    """One experiment of an archive, read by any number of threads."""

    def __init__(self, archive: Archive, name: str) -> None:
        self.archive, self.name = archive, name
        self._kept = Cache(24)  # what was read, by what it depends on
        self._cycles = Cache(2 * SHOWN)  # what was counted, and of single cycles
        self._stations = Cache(64 * SHOWN)  # the departures of a station in a cycle
        self._known: tuple[str, list[CycleRecord]] = ("", [])
        self._generation = 0  # how often the records did not only grow, as after a rewind
        self._lock = threading.RLock()

    @property
    def branch(self) -> Branch:
        """Return the branch, with the experiment as it is frozen now."""
        path = self.archive.folder / "branches" / self.name / "experiment.yaml"
        made: Branch = self._kept.get(("branch", stamp(path)), lambda: self.archive.branch(self.name))
        return made

    @property
    def experiment(self) -> Experiment:
        """Return the frozen experiment. Errors as `Branch.experiment`."""
        return self.branch.experiment

    @property
    def tip(self) -> str:
        """Return the newest commit."""
        return newest_commit(self.archive.states.folder, self.name)

    @property
    def version(self) -> str:
        """Return a text that changes whenever something changes that a page shows."""
        folder = self.branch.folder
        parts = [self.tip, self._forecast_tip()]
        parts += [str(stamp(folder / name)) for name in _SHOWN_FILES]
        last = self.holding.last
        parts.append("" if last is None else self.plan(pd.Timestamp(last), clock.now()).text)
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]

    def _forecast_tip(self) -> str:
        store = self.archive.forecasts.folder
        return newest_commit(store, self.name) if (store / f"refs/branch.{self.name}").is_dir() else ""

    def plan(self, last: pd.Timestamp, now: pd.Timestamp) -> Schedule:
        """Return how the run stands after its newest cycle, at a time, UTC."""
        return schedule(self.experiment, last, now)

    @property
    def holding(self) -> Holding:
        """Return what the run holds, read from its newest commit."""
        read: Holding = self._kept.get(
            ("holding", self.tip), lambda: read_holding(self.archive.states.folder, self.name)
        )
        return read

    @property
    def newest(self) -> CycleRecord | None:
        """Return the record of the newest cycle; None before the first one."""
        records = self._kept.get(("newest", self.tip), lambda: self.branch.recent_records(1))
        return records[0] if records and records[0].status != "cold_start" else None

    @property
    def records(self) -> list[CycleRecord]:
        """Return the records of all cycles, in order, without the cold start."""
        with self._lock:
            tip, known = self._known
            if tip != self.tip:
                tip = self.tip  # what is committed while the records are read is read once more
                known = self._grown(known)
                self._known = (tip, known)
            return known

    def _grown(self, known: list[CycleRecord]) -> list[CycleRecord]:
        if known:
            since = self.branch.records_between(known[-1].time)
            if since and since[0] == known[-1]:
                return [*known, *since[1:]]
        self._generation += 1
        return [record for record in self.branch.records_between() if record.status != "cold_start"]

    @property
    def alerts(self) -> list[Alert]:
        """Return the alerts, the newest first. Errors as `alerts_of`."""
        return alerts_of(self.branch)[::-1]

    def fits(self) -> pd.DataFrame:
        """Return `Verification.fits` of the newest `SHOWN` cycles; those that nothing has verified are counted here."""
        recent = self.records[-SHOWN:]
        if not recent:
            return pd.DataFrame(columns=["time", "source", "variable", "layer", "use", "reason", "count", "compared"])
        key = ("fits", fingerprint(recent[-1:]), len(recent), stamp(self.branch.folder / "verification/fits.parquet"))
        read: pd.DataFrame = self._kept.get(key, lambda: self._read_fits(recent))
        return read

    def _read_fits(self, recent: list[CycleRecord]) -> pd.DataFrame:
        rows = pc.field("time") >= recent[0].time.to_datetime64()
        kept = kept_rows(self.branch, "fits", rows, recent)
        there = set(kept["time"])
        counted = self._count([record for record in recent if record.time not in there])
        filled = [table for table in (kept, *counted) if len(table)]
        return pd.concat(filled, ignore_index=True).sort_values("time", kind="stable") if filled else kept

    def _count(self, records: list[CycleRecord]) -> list[pd.DataFrame]:
        """Return the counts of cycles that nothing has verified, each counted once."""

        def count(record: CycleRecord) -> pd.DataFrame:
            return fit_table(record.time, self.branch.departures_of(record))

        return [
            self._cycles.get(("counts", record.departures), partial(count, record))
            for record in records
            if record.departures is not None
        ]

    def errors(self) -> pd.DataFrame:
        """Return global errors of the headline channels in the newest `SHOWN` cycles, as far as they are verified."""
        recent = self.records[-SHOWN:]
        if not recent:
            return pd.DataFrame(columns=["time"])
        rows = (pc.field("region") == "globe") & pc.field("channel").isin(list(HEADLINE))
        rows &= pc.field("time") >= recent[0].time.to_datetime64()
        key = ("errors", fingerprint(recent[-1:]), stamp(self.branch.folder / "verification/errors.parquet"))
        read: pd.DataFrame = self._kept.get(key, lambda: kept_rows(self.branch, "errors", rows, recent))
        return read

    def drift(self) -> pd.DataFrame:
        """Return global scores of the newest `STARTS` forecasts, as `read_scores`, of the headline channels alone."""
        records = self.records
        if not records or not self.experiment.drift.starts:
            return pd.DataFrame(columns=["start"])
        key = ("drift", self._generation, self._forecast_tip(), stamp(self.branch.folder / "drift"))
        read: pd.DataFrame = self._kept.get(key, self._read_drift)
        return read

    def _read_drift(self) -> pd.DataFrame:
        scores = read_scores(self.branch, newest=STARTS)
        if scores.empty:
            return scores
        kept = (scores["region"] == "globe") & scores["channel"].isin(HEADLINE)
        return scores[kept].astype({"channel": str, "kind": str})

    def station(self, name: str, records: list[CycleRecord]) -> pd.DataFrame:
        """Return the departures of a station in some cycles, with their `cycle`."""

        def read(record: CycleRecord) -> pd.DataFrame:
            return self.branch.departures_of(record, name).astype(dict.fromkeys(_TEXTS, str))

        tables = [
            self._stations.get((name, record.departures), partial(read, record))
            for record in records
            if record.departures is not None
        ]
        filled = [table for table in tables if len(table)]
        return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()

    def stations(self, cycles: int) -> list[dict[str, Any]]:
        """Return the stations of the newest cycles, those with the most values first.

        A row has `station`, `source`, `site`, `latitude`, `longitude`, `values`, `used`, and `text`, in which words are
        searched for.
        """
        recent = self.records[-cycles:]
        key = ("stations", fingerprint(recent))
        listed: list[dict[str, Any]] = self._kept.get(key, lambda: _stations(self.branch, recent))
        return listed

    def seconds(self, record: CycleRecord) -> dict[str, float]:
        """Return the wall time of each stage of one of the newest cycles, seconds; nothing for earlier cycles."""

        def read() -> dict[str, float]:
            for note in islice(self.archive.states.notes(self.name), SHOWN):
                if note["time"] == record.id:
                    return {str(stage): float(took) for stage, took in note.get("seconds", {}).items()}
            return {}

        found: dict[str, float] = self._cycles.get(("seconds", fingerprint([record])), read)
        return found

    def record(self, time: pd.Timestamp) -> CycleRecord:
        """Return the record of a cycle.

        Raises:
            NotInArchiveError: there is none; the message says which there are.
        """
        records = self.records
        place = int(np.searchsorted([record.time for record in records], time)) if records else 0
        if place < len(records) and records[place].time == time:
            return records[place]
        there = f"{records[0].id} to {records[-1].id}" if records else "none yet"
        raise NotInArchiveError(f"{self.name} has no cycle {time:%Y%m%dT%H} (it has {there})")


def _stations(branch: Branch, recent: list[CycleRecord]) -> list[dict[str, Any]]:
    if not recent:
        return []
    columns = ["station", "source", "site", "latitude", "longitude", "use"]
    tables = [table[columns] for _, table in branch.departures_between(recent[0].time, recent[-1].time)]
    if not tables:
        return []
    table = pd.concat([own.astype({"station": str, "source": str, "site": str}) for own in tables])
    table = table.assign(used=table["use"] == "assimilated")
    groups = table[table["station"] != ""].groupby(["station", "source"], sort=False)
    sums = groups.agg(
        site=("site", "first"), latitude=("latitude", "first"), longitude=("longitude", "first"),
        values=("used", "size"), used=("used", "sum"),
    ).reset_index()  # fmt: skip
    sums = sums.sort_values(["values", "station"], ascending=[False, True])
    sums["text"] = [" ".join(row).lower() for row in sums[["station", "source", "site"]].to_numpy()]
    return [{str(key): value for key, value in row.items()} for row in sums.to_dict("records")]
