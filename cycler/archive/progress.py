"""How far each experiment of an archive has come.

Each commit carries what its branch holds by then, `Holding`, in its seal. `dacycle status` reads that and the frozen
experiment, and imports neither pandas nor Icechunk. Where commits are older than this, it reads all records.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from dacycle.common.configuration import parse_yaml
from dacycle.common.foreign import reading
from dacycle.common.times import parse_datetime
from dacycle.cycler.archive.commits import READ, branch_names, check_commit, newest_commit
from dacycle.cycler.archive.exceptions import ArchiveError, NotInArchiveError
from dacycle.cycler.archive.record import read_content
from dacycle.cycler.archive.seals import read_sealed_text

__all__ = [
    "FROZEN_REMEDY",
    "STATES",
    "Holding",
    "Progress",
    "find_states",
    "problems",
    "read_holding",
    "read_progress",
    "refuse_unknown",
]

STATES = "states.icechunk"
FROZEN_REMEDY = "put the experiment's own file in its place, or restore it from a copy of the archive"
_STEP = timedelta(hours=6)


@dataclass(frozen=True)
class Holding:
    """Hold what the records of a branch come to.

    Attributes:
        statuses: number of analyses by status.
        last: the newest cycle, such as `20240104T00`; None where there is none.
        problems: by source, the files and messages that the newest cycle could not read.
        start: what the newest cycle starts from, where the experiment has a late chain; see `record.CycleRecord`.
    """

    statuses: Mapping[str, int] = field(default_factory=dict)
    last: str | None = None
    problems: Mapping[str, list[str]] = field(default_factory=dict)
    start: Mapping[str, Any] | None = None

    def after(self, records: Iterable[Mapping[str, Any]]) -> "Holding":
        """Return what the branch holds after further records, as plain values."""
        statuses, last, unread, start = Counter(self.statuses), self.last, self.problems, self.start
        for record in records:
            statuses[record["status"]] += 1
            last, unread, start = record["time"], problems(record), record.get("start")
        return Holding(dict(statuses), last, unread, start)

    def to_json(self) -> str:
        """Return it as one line; without a start that it has not."""
        content = {name: value for name, value in asdict(self).items() if name != "start" or value is not None}
        return json.dumps(content, sort_keys=True)


@dataclass(frozen=True)
class Progress:
    """Hold what `dacycle status` says about an experiment.

    Attributes:
        experiment: its name.
        assimilator: its method.
        cycles: number of committed cycles, the two frames of the cold start not counted.
        cycles_in_all: that number once the experiment is at its end; None where it has none.
        start, end: its first and last cycle; a live experiment has no last one.
        last: the time of the newest analysis; None before the cold start.
        degraded, fallback: number of cycles with this status.
        problems: by source, the files and messages that the newest cycle could not read.
        starts_from: what the newest cycle starts from, where the experiment has a late chain.
    """

    experiment: str
    assimilator: str
    cycles: int
    cycles_in_all: int | None
    start: datetime
    last: datetime | None
    end: datetime | None
    degraded: int
    fallback: int
    problems: Mapping[str, list[str]]
    starts_from: Mapping[str, Any] | None = None


def find_states(folder: Path) -> Path:
    """Return the folder of the states of an archive.

    Raises:
        NotInArchiveError: the folder is no archive.
    """
    states = folder / STATES
    if states.is_dir():
        return states
    if not folder.is_dir():
        raise NotInArchiveError(f"no archive at {folder}; give --archive or set DACYCLE_ARCHIVE")
    raise NotInArchiveError(f"{folder} is not an archive (it has no {STATES}); give --archive or set DACYCLE_ARCHIVE")


def refuse_unknown(folder: Path, name: str) -> None:
    """Raise NotInArchiveError where the archive in a folder has no experiment of this name; the message lists them."""
    names = branch_names(folder / STATES)
    if name not in names:
        raise NotInArchiveError(f"{folder}: no experiment {name!r} here (there are: {', '.join(names) or 'none yet'})")


def problems(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return by source the files and messages of a cycle that could not be read."""
    sources = record.get("sources", {})
    return {name: list(source["problems"]) for name, source in sources.items() if source["problems"]}


def read_holding(states: Path, name: str) -> Holding:
    """Read what a branch holds at its newest commit, after the commit's files have been checked.

    Raises:
        ArchiveError: a part of the archive is damaged.
    """
    note = check_commit(states, newest_commit(states, name), READ, {})
    if note:
        return Holding(**json.loads(note))
    from dacycle.cycler.archive.store import Store

    store = Store(states)
    if not len(store.times(name, "cycles")):
        return Holding()
    return Holding().after(read_content(str(text)) for text in store.column(name, "cycles", "record"))


def read_progress(folder: Path, name: str) -> Progress:
    """Read the progress of an experiment of the archive in a folder.

    Raises:
        ArchiveError: a part of it is damaged.
    """
    holding = read_holding(folder / STATES, name)
    assimilator, start, end = _read_frozen(folder / "branches" / name / "experiment.yaml")
    statuses = Counter(holding.statuses)
    done = statuses.total() - statuses["cold_start"]
    last = None if holding.last is None else parse_datetime(holding.last)
    left = 0 if end is None else max((end - (last or start - _STEP)) // _STEP, 0)
    return Progress(
        experiment=name,
        assimilator=assimilator,
        cycles=done,
        cycles_in_all=None if end is None else done + left,
        start=start,
        last=last,
        end=end,
        degraded=statuses["degraded"],
        fallback=statuses["fallback"],
        problems=holding.problems,
        starts_from=holding.start,
    )


def _read_frozen(path: Path) -> tuple[str, datetime, datetime | None]:
    """Return method, start and end of a frozen experiment.

    A seal says that the file is the one that was checked when it was written; one without is checked as a whole.
    """
    text, sealed = read_sealed_text(path, FROZEN_REMEDY)
    if not sealed:
        from dacycle.cycler.experiment import parse_experiment

        experiment = parse_experiment(text, str(path))
        return experiment.assimilator, experiment.start, experiment.end
    content = parse_yaml(text, str(path), "an experiment", ArchiveError)
    with reading(path, ArchiveError):
        end = None if content["end"] is None else parse_datetime(content["end"])
        return str(content["assimilator"]), parse_datetime(content["start"]), end
