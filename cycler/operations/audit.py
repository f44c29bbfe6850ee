"""What made a cycle: its files, when their values were received, and whether all of it is as it was.

Where the experiment has a late chain, also the cycle that it starts from, and those that were run again in between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.archive.record import SourceRecord
from dacycle.cycler.cycle.late import digest_of
from dacycle.cycler.experiment import Experiment
from dacycle.obs_ingest.sources.files import digest
from dacycle.obs_ingest.window import Window

__all__ = ["Audit", "FileAudit", "SourceAudit", "StartAudit", "audit"]


@dataclass(frozen=True)
class FileAudit:
    """Hold a file that a cycle read.

    Attributes:
        path: as the source names it.
        digest: the first digits of the SHA-256 of what was read; empty where an older record has none.
        now: `same`, `changed`, `absent` or `unknown`; `not read` where the audit was not to read the files.
    """

    path: str
    digest: str
    now: str


@dataclass(frozen=True)
class SourceAudit:
    """Hold what a source gave to a cycle.

    Attributes:
        source: its name.
        cutoff: how long after the analysis time values may be received; None: whenever.
        assimilated: number of its values.
        first, last: when the first and the last of them were received, UTC; None where that is not known.
        unknown: number of assimilated values of which it is not known.
        too_late: number of assimilated values that were received after the cutoff, which must be 0.
        files: that were read.
    """

    source: str
    cutoff: pd.Timedelta | None
    assimilated: int
    first: pd.Timestamp | None
    last: pd.Timestamp | None
    unknown: int
    too_late: int
    files: Sequence[FileAudit]


@dataclass(frozen=True)
class StartAudit:
    """Hold the cycle that a cycle of an experiment with a late chain starts from.

    Attributes:
        experiment: the late chain, or the experiment itself where that had stopped.
        cycle: the time of its analysis.
        digest: the SHA-256 of its record and analysis.
        now: `same`, `changed` or `absent`: whether the archive still holds it; `removed` where retention has removed
            its analysis, which cannot be compared any more.
        due: when its last observations were due, UTC; None for the experiment's own.
        too_early: whether that was after the cutoff of the cycle that starts from it, which must not be.
        again: number of cycles that were run again in between.
        too_late: sources that gave one of these a value received after the cutoff, which must be none.
    """

    experiment: str
    cycle: pd.Timestamp
    digest: str
    now: str
    due: pd.Timestamp | None
    too_early: bool
    again: int
    too_late: Sequence[str]


@dataclass(frozen=True)
class Audit:
    """Hold what made a cycle.

    Attributes:
        experiment: that ran it; a fork's past has its donor's.
        cycle: the analysis time.
        status, reason, digests: of its record.
        sources: what each gave.
        start: the cycle that it starts from, where there is a late chain.
    """

    experiment: str
    cycle: pd.Timestamp
    status: str
    reason: str
    digests: dict[str, str]
    sources: Sequence[SourceAudit]
    start: StartAudit | None = None

    @property
    def too_late(self) -> int:
        """Return the number of values that were used although they came too late."""
        return sum(source.too_late for source in self.sources)

    @property
    def well(self) -> bool:
        """Whether nothing was used that came too late."""
        start = self.start
        return not self.too_late and (start is None or not (start.too_early or start.too_late))


def audit(archive: Archive, name: str, time: pd.Timestamp, read_files: bool = True) -> Audit:
    """Return what made a cycle, from its record, its departures, and the files that are there now.

    Args:
        archive: with the experiment.
        name: of the experiment.
        time: of the cycle.
        read_files: read the files again, to see whether they are the same.

    Raises:
        ArchiveError: there is no such cycle, or it is damaged: departures that are not those of the record among it.
    """
    branch = archive.branch(name)
    record = branch.record(time)
    runner = record.experiment or name
    experiment = archive.branch(runner).experiment if runner in archive.branches() else branch.experiment
    sources = [
        _source(table[table["source"] == each.source], each, experiment, time, read_files)
        for _, table in branch.departures_between(time, time)
        for each in record.sources.values()
    ]
    start = None if record.start is None else _start(archive, experiment, time, record.start)
    return Audit(runner, record.time, record.status, record.reason, dict(record.digests), sources, start)


def _start(archive: Archive, experiment: Experiment, time: pd.Timestamp, start: Mapping[str, Any]) -> StartAudit:
    name, cycle, late = start["from"], pd.Timestamp(start["cycle"]), experiment.late
    due = cycle + late.cutoff if late is not None and name == experiment.late_name else None
    cutoffs = {source.name: source.cutoff for source in experiment.observations}
    again = start.get("again", {})
    too_late = [
        f"{source} in {id_}"
        for id_, said in again.items()
        for source, last in said["received"].items()
        if (cutoff := cutoffs.get(source)) is not None and pd.Timestamp(last) > time + cutoff
    ]
    return StartAudit(
        experiment=name,
        cycle=cycle,
        digest=start["digest"],
        now=_cycle_now(archive, name, cycle, start["digest"]),
        due=due,
        too_early=due is not None and due > time + experiment.wait and cycle >= experiment.late_run().start,
        again=len(again),
        too_late=too_late,
    )


def _cycle_now(archive: Archive, name: str, cycle: pd.Timestamp, was: str) -> str:
    branch = archive.branch(name) if name in archive.branches() else None
    if branch is None or cycle not in branch.times:
        return "absent"
    if cycle not in branch.kept("analysis"):
        return "removed"
    return "same" if digest_of(branch.record(cycle), branch.frame(cycle)) == was else "changed"


def _source(
    table: pd.DataFrame, source: SourceRecord, experiment: Experiment, time: pd.Timestamp, read_files: bool
) -> SourceAudit:
    cutoff = next((spec.cutoff for spec in experiment.observations if spec.name == source.source), None)
    used = table[table["use"] == "assimilated"]["received"]
    known = used.dropna()
    return SourceAudit(
        source=source.source,
        cutoff=cutoff,
        assimilated=len(used),
        first=None if known.empty else known.min(),
        last=None if known.empty else known.max(),
        unknown=len(used) - len(known),
        too_late=int(Window(np.datetime64(time, "h"), cutoff).late(known.to_numpy()).sum()),
        files=[_file(path, (source.digests or {}).get(path, ""), read_files) for path in source.files],
    )


def _file(path: str, was: str, read: bool) -> FileAudit:
    if not read:
        return FileAudit(path, was, "not read")
    if not Path(path).is_file():
        return FileAudit(path, was, "absent")
    try:
        same = digest(Path(path)) == was
    except OSError:
        return FileAudit(path, was, "unknown")
    return FileAudit(path, was, "same" if same else "changed" if was else "unknown")
