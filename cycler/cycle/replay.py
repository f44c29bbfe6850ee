"""Runs of cycles: those that the archive says are due, in order, one commit each.

A live run and a replay differ in which cycles are due (`due`). A replay also does three things at once: it computes a
cycle, commits the one before, and reads the files of the one after. Only what is committed outlives a cycle: the next
one starts from the frames as they are stored.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice

import pandas as pd

from dacycle.common import logs
from dacycle.common.errors import DacycleError
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.archive.frames import StoredFrames
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.archive.writer import Writer, write
from dacycle.cycler.cycle.inputs import Inputs, absent_files, cold_start, load_inputs
from dacycle.cycler.cycle.late import LateChain, runs_again, start_of
from dacycle.cycler.cycle.members import refuse_other_members
from dacycle.cycler.cycle.readings import Readings
from dacycle.cycler.cycle.run_cycle import Cycle, Run, RunStoppedError, run_cycle
from dacycle.cycler.experiment import STEP, Experiment, ExperimentError, cycle_id
from dacycle.obs_ingest.errors.station_bias import StationBias
from dacycle.obs_ingest.operators.learned import NO_OPERATOR

__all__ = ["PATIENCE_WITH_LATE", "due", "each_due_cycle", "open_run", "run_due_cycles"]

PATIENCE_WITH_LATE = 1800.0
"""Seconds for which a cycle waits while another process runs the late chain that it starts from."""

Progress = Callable[["Cycle"], None]

logger = logging.getLogger(__name__)


@contextmanager
def open_run(
    experiment: Experiment, archive: Archive, threads: int = 1, inputs: Inputs | None = None, patience: float = 0.0
) -> Iterator[Run]:
    """Load an experiment and lock its branch; begin a new branch by its cold start, or by the fork that it asks for.

    Args:
        experiment: the experiment.
        archive: its archive.
        threads: of the networks.
        inputs: what the experiment names, where it is loaded already.
        patience: seconds to wait while another process runs it.

    Raises:
        ExperimentError: its parts do not belong together.
        ArchiveError: another process runs it, or it has changed since its first cycle.
    """
    inputs = load_inputs(experiment, threads) if inputs is None else inputs
    with write(archive, experiment, patience) as writer:
        if writer.next_time is None and experiment.cold_start.from_ is not None:
            writer.fork()
        elif writer.next_time is None:
            frame = "one state stands for both" if experiment.cold_start.one_frame else None
            writer.commit_start(cold_start(inputs), inputs.digests, frame)
        _refuse_changed_files(writer, inputs)
        refuse_other_members(inputs, writer)
        seen = [(a, b) for record in writer.records_with("withheld_sites") for a, b in record.withheld_sites or ()]
        yield Run(inputs, Readings(), writer, StoredFrames(writer), _station_bias(experiment), seen)


def _station_bias(experiment: Experiment) -> StationBias | None:
    bias = experiment.bias
    return None if bias is None else StationBias(bias.variables, bias.memory, bias.n0, bias.radius_km)


def _refuse_changed_files(writer: Writer, inputs: Inputs) -> None:
    """Raise ExperimentError where a model, assimilator or operator is another file than at the last cycle."""
    (last,) = writer.recent_records(1)
    if writer.experiment.cold_start.from_ is not None and last.time < writer.experiment.start:
        return  # the last cycle belongs to the experiment that this one was forked from
    # Records older than learned operators name none; such a branch may continue with one.
    recorded = [key for key in ("model", "assimilator", "operator", "model_bias") if key in last.digests]
    changed = [key for key in recorded if last.digests[key] != inputs.digests.get(key)]
    if changed:
        files = {key: getattr(inputs, key) for key in changed}
        keys = " and ".join(f"{key} {file.name if file else NO_OPERATOR}" for key, file in files.items())
        raise ExperimentError(
            f"experiment {writer.name}: {keys} is another file than at cycle {last.id}; "
            "put the old one back, or fork the experiment with `dacycle fork`"
        )


def due(run: Run, until: pd.Timestamp | None = None, now: pd.Timestamp | None = None) -> Iterator[pd.Timestamp]:
    """Yield the times of the cycles to run, in order, as the archive says before each.

    Args:
        run: the run.
        until: the last one; None: the experiment's end.
        now: in a live run, the time, UTC, at which the cutoffs of all sources must have passed.

    Raises:
        ExperimentError: the experiment has no end, and neither `until` nor `now` is given.
    """
    last = _last(run, until)
    if last is None and now is None:
        raise ExperimentError(f"experiment {run.writer.name} has no end: say until when to replay it")
    newest = _newest(run, last, now)
    while (time := run.writer.next_time) is not None and time <= newest:
        yield time


def _newest(run: Run, last: pd.Timestamp | None, now: pd.Timestamp | None) -> pd.Timestamp:
    """Return the time after which no cycle is due: the earlier of the last cycle and the last whose cutoff passed."""
    passed = None if now is None else now - run.inputs.experiment.wait
    return min(time for time in (last, passed, pd.Timestamp.max) if time is not None)


def _last(run: Run, until: pd.Timestamp | None, limit: int | None = None) -> pd.Timestamp | None:
    """Return the time of the last cycle of a replay: the earliest of `until`, the experiment's end and `limit`."""
    following = run.writer.next_time
    of_limit = None if limit is None or following is None else following + (limit - 1) * STEP
    return min((time for time in (until, run.inputs.experiment.end, of_limit) if time is not None), default=None)


def run_due_cycles(
    experiment: Experiment,
    archive: Archive,
    *,
    progress: Progress | None = None,
    until: pd.Timestamp | None = None,
    now: pd.Timestamp | None = None,
    limit: int | None = None,
    threads: int = 1,
    inputs: Inputs | None = None,
    patience: float = 0.0,
) -> list[Cycle]:
    """Run all cycles that are due, or the first `limit` of them; a further call continues where this one ended.

    The returned list holds all records; for a long run there is `each_due_cycle`.

    Args:
        progress: called with each cycle once it is committed.
        experiment, archive, until, now, limit, threads, inputs, patience: as for `each_due_cycle`; errors are
            the same.
    """
    done: list[Cycle] = []
    running = each_due_cycle(
        experiment, archive, until=until, now=now, limit=limit, threads=threads, inputs=inputs, patience=patience
    )
    with closing(running):
        for cycle in running:
            done.append(cycle)
            if progress is not None:
                progress(cycle)
    return done


def each_due_cycle(
    experiment: Experiment,
    archive: Archive,
    *,
    until: pd.Timestamp | None = None,
    now: pd.Timestamp | None = None,
    limit: int | None = None,
    threads: int = 1,
    inputs: Inputs | None = None,
    patience: float = 0.0,
) -> Generator[Cycle]:
    """Run all cycles that are due, or the first `limit` of them, and yield each once it is committed.

    With `late` the cycles of the late chain from which they start run first, if they are not there.

    Args:
        experiment: the experiment; its late chain and its free run are others (`Experiment.runs`).
        archive: its archive.
        until, now: as in `due`.
        limit: the largest number of cycles to run.
        threads, inputs, patience: as in `open_run`.

    Raises:
        RunStoppedError: more cycles in a row fell back to their background than the experiment allows.
        ExperimentError, ArchiveError: as `open_run`; also a replay in which a source has none of its files.
    """
    if now is None and (absent := absent_files(experiment)):
        raise ExperimentError("\n".join(f"experiment {experiment.name}: {sentence}" for sentence in absent.values()))
    with logs.context(experiment=experiment.name), open_run(experiment, archive, threads, inputs, patience) as run:
        _stop_after_fallbacks(experiment, run.writer.recent_records(experiment.guards.fallbacks_in_a_row + 1))
        times, last = islice(due(run, until, now), limit), _last(run, until, limit)
        late = None if experiment.late is None else _late_chain(run, archive, last, now, threads)
        running = _run(run, times, late) if now is not None else _replay(run, times, late, last)
        with closing(running):  # an interrupt, too, waits for the commit that is under way
            for cycle in running:
                with logs.context(cycle=cycle_id(cycle.time)):
                    _log(cycle)
                    yield cycle


def _run(run: Run, times: Iterable[pd.Timestamp], late: LateChain | None) -> Generator[Cycle]:
    """Run cycles, and yield each; raise RunStoppedError after the last fallback in a row that the experiment allows."""
    experiment = run.inputs.experiment
    for time in times:
        with logs.context(cycle=cycle_id(time)):
            cycle = run_cycle(run, time) if late is None else late.run_cycle(run, time)
        yield cycle
        _stop_after_fallbacks(experiment, run.writer.recent_records(experiment.guards.fallbacks_in_a_row + 1))


def _replay(
    run: Run, times: Iterable[pd.Timestamp], late: LateChain | None, last: pd.Timestamp | None
) -> Generator[Cycle]:
    """Do as `_run`, but while a cycle is computed commit the one before, and read the files of the one after."""
    committing: list[Cycle] = []
    # Cycles that are run again read the sources in between, and one thread at a time may.
    ahead, writer = None if runs_again(run.inputs.experiment) else last, run.writer
    assert isinstance(writer, Writer), "only cycles that are run again go elsewhere"
    with run.readings.ahead(run.inputs, ahead), writer.committing_behind():
        try:
            for cycle in _run(run, times, late):
                yield from committing  # it was, before the commit of this one could begin
                committing = [cycle]
        except DacycleError:
            writer.settle()
            yield from committing
            raise
        writer.settle()
        yield from committing


def _late_chain(
    run: Run, archive: Archive, last: pd.Timestamp | None, now: pd.Timestamp | None, threads: int
) -> LateChain | None:
    """Return the late chain of an experiment, after it has been run as far as the cycles that are due need it.

    It is as far as it comes where it stops. None where no cycle is due.

    Raises:
        ArchiveError: another process has been running it for too long.
    """
    experiment, following = run.inputs.experiment, run.writer.next_time
    newest = _newest(run, last, now)
    if following is None or following > newest or newest == pd.Timestamp.max:
        return None
    needed, late = start_of(experiment, newest.floor(STEP)), experiment.late_run()
    stands = archive.branch(late.name).next_time if late.name in archive.branches() else None
    if stands is None or stands <= needed:
        inputs = load_inputs(late, threads, like=run.inputs)
        try:
            run_due_cycles(
                late, archive, until=needed, now=now, threads=threads, inputs=inputs, patience=PATIENCE_WITH_LATE
            )
        except RunStoppedError as error:
            logger.error("%s", error)
    return LateChain(archive, experiment, _station_bias(experiment))


def _log(cycle: Cycle) -> None:
    record = cycle.record
    level = logging.INFO if record.status == "ok" else logging.WARNING
    reason = f" ({record.reason})" if record.reason else ""
    uses = ", ".join(f"{count} {use}" for use, count in record.uses.items())
    logger.log(level, "%s%s; %s; %.2f s", record.status, reason, uses, sum(cycle.seconds.values()))


def _stop_after_fallbacks(experiment: Experiment, records: list[CycleRecord]) -> None:
    """Raise RunStoppedError where more of the newest cycles fell back in a row than the experiment allows."""
    allowed, name = experiment.guards.fallbacks_in_a_row, experiment.name
    last = records[-allowed - 1 :]
    if len(last) > allowed and all(record.status == "fallback" for record in last):
        first = last[0].time
        raise RunStoppedError(
            f"experiment {name}: {len(last)} cycles in a row fell back to their background, from {cycle_id(first)}; "
            f"the last because: {last[-1].reason}. Look at `dacycle log {name}`; when the cause is mended, "
            f"`dacycle rewind {name} {cycle_id(first - STEP)}` and run again. "
            "To run on with other guards, fork it there."
        )
