"""Hindcasts in parallel streams: a period is cut into parts, each run on a branch of its own, and joined to one run.

    NAME-1      first part |
    NAME-2            spin-up | second part |
    NAME-3                        spin-up | third part
    NAME        first part | second part | third part

Each stream has its own cold start, an overlap before its part. It is an experiment like any other, with one writer.
Once all are complete, NAME begins on the past of NAME-1, and the other parts are committed to it cycle by cycle, with
the records and departures that they have in their streams. NAME is then a run like any other: reports, scores and
forecasts need not know of streams. The archive says how far each stream and the joining have come.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.archive.writer import write
from dacycle.cycler.cycle.replay import each_due_cycle
from dacycle.cycler.experiment import STEP, Experiment, ExperimentError, cycle_id, differences

__all__ = ["Stream", "cut", "find_streams", "join", "refuse_other_runs", "run_stream"]


@dataclass(frozen=True)
class Stream:
    """A part of a hindcast.

    Attributes:
        experiment: of its branch NAME-1, NAME-2 ..., with the spin-up.
        first: the first cycle of its own part, after the spin-up.
    """

    experiment: Experiment
    first: pd.Timestamp


def cut(experiment: Experiment, number: int, overlap: pd.Timedelta) -> list[Stream]:
    """Cut a hindcast into streams that have as many cycles each, their spin-ups counted.

    Args:
        experiment: the whole.
        number: of streams.
        overlap: length of a spin-up, a multiple of 6 h.

    Raises:
        ExperimentError: the period is too short, or the cold start is of one time only.
    """
    name, times, spin_up = experiment.name, experiment.times(), overlap // STEP
    if spin_up < 1 or overlap % STEP:
        raise ExperimentError(f"experiment {name}: the overlap of streams is a multiple of 6h, not {overlap}")
    if experiment.late is not None:
        raise ExperimentError(f"experiment {name}: a late chain is serial; leave `late` out to run in streams")
    if number > 1 and experiment.cold_start.from_ is not None:
        raise ExperimentError(
            f"experiment {name}: cold_start.from begins at one time only; streams need lagged, climatology, or a state "
            "product that holds all their starts"
        )
    length, longer = divmod(len(times) + (number - 1) * spin_up, number)
    if length < 2 * spin_up:  # else a stream would be compared before its own spin-up has ended
        raise ExperimentError(
            f"experiment {name}: {len(times)} cycles are too few for {number} streams that overlap by {spin_up} cycles"
        )
    streams, begin = [], 0
    for k in range(number):
        end = begin + length + (k < longer)
        part = {"name": f"{name}-{k + 1}", "start": times[begin], "end": times[end - 1]}
        streams.append(Stream(_part_of(experiment, part), times[begin + (spin_up if k else 0)]))
        begin = end - spin_up
    return streams


def _part_of(experiment: Experiment, part: dict[str, object]) -> Experiment:
    """Return a stream, which keeps all its states, as they are copied when it is joined; forecasts are of the whole."""
    drift = experiment.drift.model_copy(update={"starts": (), "members": None, "free_run": False})
    return experiment.model_copy(update={**part, "drift": drift, "keep": None})


def find_streams(archive: Archive, name: str) -> list[Stream]:
    """Return the streams that an archive holds of an experiment, in order.

    Raises:
        ExperimentError: there are not at least two.
    """
    found, begun = list[Experiment](), set(archive.branches())
    while (part := f"{name}-{len(found) + 1}") in begun:
        found.append(archive.branch(part).experiment)
    if len(found) < 2:
        raise ExperimentError(
            f"{archive.folder} holds no streams of {name}; `dacycle hindcast FILE --streams N` makes them"
        )
    ends = [None, *(one.end for one in found[:-1])]
    return [Stream(one, one.start if end is None else end + STEP) for one, end in zip(found, ends, strict=True)]


def refuse_other_runs(archive: Archive, experiment: Experiment, streams: Sequence[Stream]) -> None:
    """Raise ExperimentError where branches hold a run without streams, streams cut otherwise, or other settings."""
    name, begun = experiment.name, set(archive.branches())
    cuts = {stream.experiment.name: stream.experiment for stream in streams}
    if name in begun:
        record = archive.branch(name).recent_records(1)[-1]
        if record.experiment not in cuts:
            raise ExperimentError(
                f"experiment {name}: the archive holds cycles of it that no stream has run, up to {record.id}; go on "
                "without --streams"
            )
    for part, wanted in cuts.items():
        if part not in begun:
            continue
        there = archive.branch(part).experiment
        if changed := differences(there, wanted) | ({"end": (0, 0)} if there.end != wanted.end else {}):
            raise ExperimentError(
                f"experiment {name}: {part} in the archive runs from {cycle_id(there.start)} to "
                f"{cycle_id(there.end) if there.end else 'no end'}, and differs in {', '.join(changed)}; give the "
                "--streams and --overlap of the first time, or the experiment another name"
            )


def run_stream(folder: Path, experiment: Experiment, threads: int) -> dict[str, int]:
    """Run what is due of a stream or of the free run; return how many cycles had each status. Errors as a replay."""
    running = each_due_cycle(experiment, Archive(folder), threads=threads)
    return dict(Counter(str(cycle.record.status) for cycle in running))


def join(archive: Archive, experiment: Experiment, streams: Sequence[Stream]) -> Iterator[pd.Timestamp]:
    """Commit the parts of complete streams to the experiment's own branch; yield the time of each cycle.

    Raises:
        ArchiveError: another process does so, or a stream is damaged.
    """
    parts = [archive.branch(stream.experiment.name) for stream in streams]
    with write(archive, experiment) as writer:
        if writer.next_time is None:
            writer.begin_from(parts[0], parts[0].times[-1])
        for stream, part in zip(streams[1:], parts[1:], strict=True):
            begin = max(writer.next_time or stream.first, stream.first)
            if begin > part.times[-1]:
                continue
            notes = {note["time"]: note for note in part.states.notes(part.name)}
            for record in part.recent_records(int((part.times >= begin).sum())):
                writer.commit_copy(part, record, notes.get(record.id, {}))
                yield record.time
