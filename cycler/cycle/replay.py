"""The cycle, and runs of cycles: what the archive says is due, in order, one commit each.

A live run and a replay are the same thing; they differ in what is due (`due`). Nothing of a cycle outlives it but what
was committed: the next one starts from the stored frames.
"""

import time as clock
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.assimilators.balance import LAYER_NAMES
from dacycle.assimilators.step import StepResult, assimilate
from dacycle.cycler.archive.branches import Archive, Record, Writer
from dacycle.cycler.cycle.collect import Observed, collect, with_departures
from dacycle.cycler.cycle.inputs import Inputs, absent_files, cold_start, cold_start_times, load_inputs
from dacycle.cycler.experiment import STEP, Experiment, ExperimentError, cycle_id
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.models.model import ForecastError
from dacycle.forecast_adapter.state import StateError
from dacycle.obs_ingest.errors.station_bias import StationBias
from dacycle.obs_ingest.operators.learned import NO_OPERATOR

__all__ = ["Cycle", "Run", "RunStoppedError", "due", "hindcast", "open_run", "run_cycle"]

Progress = Callable[["Cycle"], None]


class RunStoppedError(RuntimeError):
    """The run must not go on by itself; the message says why and what to do next."""


@dataclass
class Stopwatch:
    """Seconds spent in each named stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        begun = clock.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + clock.perf_counter() - begun


@dataclass(frozen=True)
class Cycle:
    """A committed cycle: its time, its record, and the seconds that each stage took."""

    time: pd.Timestamp
    record: Record
    seconds: dict[str, float]


@dataclass
class Run:
    """An experiment being run by this process, which holds its branch; made by `open_run`."""

    inputs: Inputs
    writer: Writer
    bias: StationBias | None = None
    _frames: dict[pd.Timestamp, NDArray[np.float32]] = field(default_factory=dict)

    def frame(self, time: pd.Timestamp) -> NDArray[np.float32]:
        """The analysis (69, H, W) at `time` as the archive holds it: read once, read-only."""
        if time not in self._frames:
            values = self.writer.state("analysis", time).values
            values.flags.writeable = False
            self._frames = {t: frame for t, frame in self._frames.items() if t >= time - STEP} | {time: values}
        return self._frames[time]

    def frames_before(self, time: pd.Timestamp, count: int) -> list[NDArray[np.float32]]:
        """The analyses (69, H, W) before `time`, every 6 h, oldest first: `count`, or as many as there are in a row."""
        found: list[NDArray[np.float32]] = []
        while len(found) < count and (earlier := time - (len(found) + 1) * STEP) in self.writer.times:
            found.insert(0, self.frame(earlier))
        return found


@contextmanager
def open_run(experiment: Experiment, archive: Archive, threads: int = 1) -> Iterator[Run]:
    """Load an experiment and hold its branch; a branch without a cycle is given its cold start.

    Raises:
        ExperimentError: its parts do not belong together.
        ArchiveError: another process runs it, or it has changed since its first cycle.
    """
    inputs = load_inputs(experiment, threads)
    with archive.write(experiment) as writer:
        if writer.next_time is None:
            frames = cold_start(inputs)
            frame = {"frame": "one state stands for both"} if experiment.cold_start.one_frame else {}
            writer.commit_start(frames, cold_start_times(experiment), {"digests": inputs.digests, **frame})
        _refuse_changed_files(writer, inputs)
        yield Run(inputs, writer, _station_bias(experiment))


def _station_bias(experiment: Experiment) -> StationBias | None:
    asked = experiment.bias
    return None if asked is None else StationBias(asked.variables, asked.memory, asked.n0, asked.radius_km)


def _refuse_changed_files(writer: Writer, inputs: Inputs) -> None:
    """A model or assimilator that was replaced under its name is a changed experiment."""
    last = writer.records[-1]
    if last["digests"]["experiment"] != inputs.digests["experiment"]:
        return  # the last cycle is that of the experiment that this one was forked from
    # Records of before there were learned operators name none: such a branch goes on with one.
    named = [key for key in ("model", "assimilator", "operator") if key in last["digests"]]
    changed = [key for key in named if last["digests"][key] != inputs.digests.get(key)]
    if changed:
        parts = {key: getattr(inputs, key) for key in changed}
        keys = " and ".join(f"{key} {part.name if part else NO_OPERATOR}" for key, part in parts.items())
        raise ExperimentError(
            f"experiment {writer.name}: {keys} is another file than at cycle {last['time']}; "
            "put the old one back, or fork the experiment with `dacycle fork`"
        )


def due(run: Run, until: pd.Timestamp | None = None, now: pd.Timestamp | None = None) -> Iterator[pd.Timestamp]:
    """Times of the cycles to run, in order, as the archive has it before each.

    Args:
        run: the run.
        until: the last one; None: the experiment's end.
        now: where given (live), cycles only whose cutoffs have passed at this time, UTC.
    """
    last = min((t for t in (until, run.inputs.experiment.end) if t is not None), default=None)
    if last is None and now is None:
        raise ExperimentError(f"experiment {run.writer.name} has no end: say until when to replay it")
    cutoffs = [source.cutoff for source in run.inputs.sources]
    wait = max((cutoff for cutoff in cutoffs if cutoff is not None), default=pd.Timedelta(0))
    while (time := run.writer.next_time) is not None:
        if (last is not None and time > last) or (now is not None and time + wait > now):
            return
        yield time


def hindcast(
    experiment: Experiment,
    archive: Archive,
    *,
    progress: Progress | None = None,
    until: pd.Timestamp | None = None,
    now: pd.Timestamp | None = None,
    limit: int | None = None,
    threads: int = 1,
) -> list[Cycle]:
    """Run all cycles that are due, or the first `limit` of them; running it again goes on where it ended.

    Raises:
        RunStoppedError: more cycles in a row fell back to their background than the experiment allows.
        ExperimentError, ArchiveError: as `open_run`; also a replay whose sources lack all their files.
    """
    if now is None and (absent := absent_files(experiment)):
        raise ExperimentError("\n".join(f"experiment {experiment.name}: {sentence}" for sentence in absent.values()))
    done: list[Cycle] = []
    with open_run(experiment, archive, threads) as run:
        records = run.writer.recent_records(experiment.guards.fallbacks_in_a_row + 1)
        _stop_after_fallbacks(experiment, records)
        for time in due(run, until, now):
            cycle = run_cycle(run, time)
            done.append(cycle)
            if progress is not None:
                progress(cycle)
            records.append(cycle.record)
            _stop_after_fallbacks(experiment, records)
            if len(done) == limit:
                break
    return done


def _stop_after_fallbacks(experiment: Experiment, records: list[Record]) -> None:
    allowed, name = experiment.guards.fallbacks_in_a_row, experiment.name
    last = records[-allowed - 1 :]
    if len(last) > allowed and all(record["status"] == "fallback" for record in last):
        first = pd.Timestamp(last[0]["time"])
        raise RunStoppedError(
            f"experiment {name}: {len(last)} cycles in a row fell back to their background, from {cycle_id(first)}; "
            f"the last because: {last[-1]['reason']}. Look at `dacycle log {name}`; when the cause is mended, "
            f"`dacycle rewind {name} {cycle_id(first - STEP)}` and run again. "
            "To run on with other guards, fork it there."
        )


def run_cycle(run: Run, time: pd.Timestamp) -> Cycle:
    """One cycle, from two stored analyses to one commit.

    Raises:
        ArchiveError: the stored frames are damaged, or `time` is not the branch's next.
    """
    inputs, watch = run.inputs, Stopwatch()
    with watch("read"):
        before, previous = run.frame(time - 2 * STEP), run.frame(time - STEP)
    with watch("background"), _stopping(run, time):
        background = next(iter(inputs.model.forecast(before[None], previous[None], 1)))[0]
    guards, std, cold = inputs.experiment.guards, inputs.world.statistics.std, _is_cold(inputs.experiment, time)
    background_error = guards.background_error * (guards.cold_factor if cold else 1.0)
    if run.bias is not None:
        with watch("bias"):
            run.bias.catch_up(time, run.writer.departures_between)
    observed = collect(
        inputs, time, previous, background, background_error, watch, run.bias,
        lambda count: run.frames_before(time - STEP, count),
    )  # fmt: skip
    values, errors = observed.gridded.values[None], observed.gridded.errors[None]
    with watch("analysis"):
        step = assimilate(inputs.assimilator, background[None], values, errors, guards.of_step(), std, cold)
    with watch("departures"):
        table = with_departures(observed, inputs, previous, step.state[0])
    record = _record(inputs, observed, step)
    notes = {"written": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "seconds": dict(watch.seconds)}
    with watch("commit"), _stopping(run, time):
        record = run.writer.commit_cycle(time, background, step.state[0], table, record, notes)
    return Cycle(time, record, watch.seconds)


@contextmanager
def _stopping(run: Run, time: pd.Timestamp) -> Iterator[None]:
    """Turn a state that is not finite or not plausible into the end of the run: nothing could follow from it."""
    try:
        yield
    except (ForecastError, StateError) as error:
        name = run.writer.name
        raise RunStoppedError(
            f"experiment {name}, cycle {cycle_id(time)}: {error}. The model has left its range: "
            f"look at `dacycle log {name}`, and rewind to a cycle before the trouble began"
        ) from error


def _is_cold(experiment: Experiment, time: pd.Timestamp) -> bool:
    """Whether the guards are still those of a cold start; a branch forked from another run has none."""
    return experiment.cold_start.from_ is None and time < experiment.start + experiment.guards.cold_cycles * STEP


def _record(inputs: Inputs, observed: Observed, step: StepResult) -> Record:
    """What is kept of a cycle beside arrays and departures: nothing that another run of it would not repeat."""
    status, reasons = step.status[0], [step.reason[0], *observed.failures, *observed.remarks]
    return {
        "experiment": inputs.experiment.name,
        "status": "degraded" if status == "ok" and observed.failures else status,
        "reason": "; ".join(reason for reason in reasons if reason),
        **observed.counts(),
        "sources": observed.inventories,
        "gridded": int(step.observations[0]),
        "digests": {**inputs.digests, **inputs.checks.digests, "observations": observed.digest},
        "clipped_water": _short(step.clipped_water[0]),
        "increment_rms": {name: _short(x) for name, x in zip(NAMES, step.increment_rms[0], strict=True)},
        "increment_max": {name: _short(x) for name, x in zip(NAMES, step.increment_max[0], strict=True)},
        "thickness_imbalance": {
            name: _short(x) for name, x in zip(LAYER_NAMES, step.thickness_imbalance[0], strict=True)
        },
    } | ({"unpaired_model": inputs.mismatch} if inputs.mismatch else {})


def _short(value: float) -> float:
    return float(f"{value:.6g}")
