"""One cycle: from two stored analyses to one commit, and what is done where a state leaves the model's range."""

import logging
import time as clock
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.assimilators.balance import LAYER_NAMES, supersaturated
from dacycle.assimilators.ensemble.algebra import spread
from dacycle.assimilators.step import StepResult, assimilate
from dacycle.common.errors import DacycleError
from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.archive.frames import StoredFrames
from dacycle.cycler.archive.record import CycleRecord, SourceRecord
from dacycle.cycler.archive.writer import Writer
from dacycle.cycler.cycle.bridge import Bridge
from dacycle.cycler.cycle.collect import Observed, collect, with_departures
from dacycle.cycler.cycle.inputs import Inputs
from dacycle.cycler.cycle.members import forecast, older_to_keep, with_members
from dacycle.cycler.cycle.readings import Readings
from dacycle.cycler.cycle.window import with_past
from dacycle.cycler.experiment import STEP, Experiment, cycle_id
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.models.model import ForecastError
from dacycle.forecast_adapter.state import StateError
from dacycle.obs_ingest.errors.station_bias import StationBias
from dacycle.obs_ingest.quality.background_error import BackgroundError

__all__ = ["Cycle", "Run", "RunStoppedError", "Start", "Stopwatch", "run_cycle"]

PAST = 28
"""Cycles before the analysis whose increments say how large an increment usually is: a week."""

logger = logging.getLogger(__name__)


class RunStoppedError(DacycleError, RuntimeError):
    """A run must not continue by itself; the message says why and what to do next."""

    label = "stopped"
    exit_status = 1


@dataclass
class Stopwatch:
    """Measure the seconds spent in each named stage, and the processor's of the whole process meanwhile."""

    seconds: dict[str, float] = field(default_factory=dict)
    processor: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        begun, used = clock.perf_counter(), clock.process_time()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + clock.perf_counter() - begun
        self.processor[stage] = self.processor.get(stage, 0.0) + clock.process_time() - used


@dataclass(frozen=True)
class Cycle:
    """Hold a cycle that was run: its time, its record, and the seconds that each stage took.

    Attributes:
        began: of the clock `time.perf_counter`.
    """

    time: pd.Timestamp
    record: CycleRecord
    seconds: dict[str, float]
    began: float


@dataclass(frozen=True)
class Start:
    """Hold what a cycle of an experiment with a late chain starts from; made by `late.LateChain`.

    Attributes:
        past: the cycles before it: those of the late chain, or of the experiment itself.
        record: `start` of its record.
        degraded: why it does not start from the late chain; empty if it does.
        spent: the time spent on cycles that were run again.
    """

    past: Branch
    record: Mapping[str, Any]
    degraded: str = ""
    spent: Stopwatch = field(default_factory=Stopwatch)


@dataclass
class Run:
    """An experiment being run by this process, which holds its branch; made by `replay.open_run`.

    Attributes:
        writer: takes its cycles; those that are run again from a late chain go to a bridge.
        frames: of the cycles before.
        seen: latitude and longitude of the withheld sites of the cycles before.
        start: what the cycle starts from, where the experiment has a late chain.
    """

    inputs: Inputs
    readings: Readings
    writer: Writer | Bridge
    frames: StoredFrames
    bias: StationBias | None = None
    seen: list[tuple[float, float]] = field(default_factory=list)
    start: Start | None = None

    @property
    def past(self) -> Branch:
        """Return the cycles before the next one."""
        return self.writer if self.start is None else self.start.past


def run_cycle(run: Run, time: pd.Timestamp) -> Cycle:
    """Run one cycle, from two stored analyses to one commit.

    Where the forecast from the last analysis is not finite or not plausible, the cycle begins from the last background
    instead; where its analysis is not, it keeps its own background. Its status is then `fallback`, with the reason.

    Raises:
        ArchiveError: the stored frames are damaged, or `time` is not the branch's next.
        RunStoppedError: the model leaves its range from the last background, too.
    """
    failures: list[str] = []
    from_background, analysed = False, True
    while True:
        try:
            return _attempt(run, time, from_background, analysed, failures)
        except _OutOfRangeError as error:
            failures.append(f"from the last {'background' if from_background else 'analysis'}: {error}")
            logger.warning("%s", failures[-1])
            if error.may_be_the_analysis and analysed:
                analysed = False
            elif not from_background and run.frames.has_background(time - STEP):
                from_background, analysed = True, True
            else:
                name = run.writer.name
                raise RunStoppedError(
                    f"experiment {name}, cycle {cycle_id(time)}: {'; '.join(failures)}. The model has left its range: "
                    f"look at `dacycle log {name}`, and rewind to a cycle before the trouble began"
                ) from error


class _OutOfRangeError(Exception):
    """A state of a cycle is not finite or not plausible; the message says which.

    Attributes:
        may_be_the_analysis: whether the forecast has passed, so that it may be the analysis.
    """

    def __init__(self, message: str, may_be_the_analysis: bool) -> None:
        super().__init__(message)
        self.may_be_the_analysis = may_be_the_analysis


@contextmanager
def _in_range(may_be_the_analysis: bool) -> Iterator[None]:
    """Tell states of the cycle itself, which are out of range, from those that its sources read."""
    try:
        yield
    except (ForecastError, StateError) as error:
        raise _OutOfRangeError(str(error), may_be_the_analysis) from error


def _attempt(run: Run, time: pd.Timestamp, from_background: bool, analysed: bool, failures: list[str]) -> Cycle:
    """Run a cycle in one way, and commit it.

    Args:
        run, time: as for `run_cycle`.
        from_background: begin from the last background in place of the last analysis.
        analysed: let the observations change the background; else they are compared with it only.
        failures: why other ways were left.

    Raises:
        _OutOfRangeError: a state is not finite or not plausible; nothing has been committed.
    """
    inputs, start, began = run.inputs, run.start, clock.perf_counter()
    watch = Stopwatch() if start is None else Stopwatch(dict(start.spent.seconds), dict(start.spent.processor))
    with watch("read"):
        frames = run.frames.pair_without_increment if from_background else run.frames.pair
        before, previous = frames(time - STEP)
    with watch("background"), _in_range(may_be_the_analysis=False):
        predicted = forecast(inputs, run.frames, before, previous, time, afresh=from_background)
    background, members = predicted.state, predicted.members
    past = run.past.recent_records(PAST)
    known = past[-1].background_error
    background_error = None if known is None else BackgroundError.from_dict(known)
    if run.bias is not None:
        with watch("bias"):
            run.bias.catch_up(time, run.past.departures_between)
    observed = collect(inputs, run.readings, time, run.frames, background, background_error, watch, run.seen, run.bias)
    values, errors = observed.gridded.values[None], observed.gridded.errors[None]
    if not analysed:
        values, errors = np.zeros_like(values), np.zeros_like(errors)
    with watch("read"):
        method = with_past(
            with_members(inputs, time, predicted), inputs, run.past, run.frames, time, (before, previous),
            longest=not from_background,
        )  # fmt: skip
    run.readings.read_ahead(inputs)
    with watch("analysis"), _in_range(may_be_the_analysis=True):
        step = assimilate(
            method,
            background[None], values, errors, inputs.experiment.guards.of_step(),
            observed.background_error.on(inputs.world.grid), _usual_increment(past),
            cold=_is_cold(inputs.experiment, time),
        )  # fmt: skip
    with watch("departures"):
        table = with_departures(observed, inputs, previous, step.state[0])
    updated = members if step.members[0] is None else step.members[0]
    record = replace(
        _record(inputs, time, observed, step, failures, start, predicted.replaced),
        background_spread=_spread(inputs, members),
        analysis_spread=_spread(inputs, updated),
    )
    notes = {
        "written": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "seconds": dict(watch.seconds),
        "processor_seconds": dict(watch.processor),
    }
    with watch("commit"), _in_range(may_be_the_analysis=True):
        newer = step.state[0] if run.past is not run.writer else None  # the branch has no frame before it
        older = older_to_keep(inputs, previous, predicted, step.older[0], newer)
        record = run.writer.commit_cycle(background, step.state[0], table, record, notes, updated, older)
    run.seen += observed.new_sites
    return Cycle(time, record, watch.seconds, began)


def _usual_increment(past: list[CycleRecord]) -> NDArray[np.float64]:
    """Return the largest root mean square increment (69,) of past cycles, SI; 0 where there are none."""
    return np.max([[r.increment_rms.get(name, 0.0) for name in NAMES] for r in past], axis=0)


def _is_cold(experiment: Experiment, time: pd.Timestamp) -> bool:
    """Return whether a cycle has the guards of a cold start; a forked branch has no such cycles."""
    return experiment.cold_start.from_ is None and time < experiment.start + experiment.guards.cold_cycles * STEP


def _record(
    inputs: Inputs,
    time: pd.Timestamp,
    observed: Observed,
    step: StepResult,
    failures: list[str],
    start: Start | None,
    replaced: str,
) -> CycleRecord:
    """Return the record of a cycle; the digest of its departures is added when it is committed.

    Args:
        inputs, time, observed, step: of the cycle.
        failures: why it does not begin from the last analysis, as it should.
        start: what it starts from, where the experiment has a late chain.
        replaced: why members are not what the model forecast.
    """
    status = "fallback" if failures else step.status[0]
    late = "" if start is None else start.degraded
    degraded = late or replaced or observed.reading.failures
    reasons = [*failures, late, replaced, step.reason[0], *observed.reading.failures, *observed.reading.remarks]
    counts = observed.counts()
    return CycleRecord(
        time=time,
        status="degraded" if status == "ok" and degraded else status,
        digests={**inputs.digests, **inputs.checks.digests, "observations": observed.reading.digest},
        experiment=inputs.experiment.name,
        reason="; ".join(reason for reason in reasons if reason),
        uses=counts["uses"],
        reasons=counts["reasons"],
        variables=counts["variables"],
        sources={name: SourceRecord(**inventory) for name, inventory in observed.reading.inventories.items()},
        gridded=int(step.observations[0]),
        clipped_water=_short(step.clipped_water[0]),
        increment_rms={name: _short(x) for name, x in zip(NAMES, step.increment_rms[0], strict=True)},
        increment_max={name: _short(x) for name, x in zip(NAMES, step.increment_max[0], strict=True)},
        thickness_imbalance={name: _short(x) for name, x in zip(LAYER_NAMES, step.thickness_imbalance[0], strict=True)},
        supersaturated=supersaturated(step.state[0]),
        withheld_sites=observed.new_sites or None,
        background_error=observed.next_error.as_dict(),
        unpaired_model=inputs.mismatch or None,
        start=None if start is None else start.record,
    )


def _spread(inputs: Inputs, members: NDArray | None) -> dict[str, float] | None:
    """Return the root mean square over the globe of the spread of perturbations (N, 69, H, W), by channel."""
    if members is None:
        return None
    variance = (spread(members).astype(np.float64) ** 2 * inputs.world.grid.weights).mean(axis=(1, 2))
    return {name: _short(x) for name, x in zip(NAMES, np.sqrt(variance), strict=True)}


def _short(value: float) -> float:
    return float(f"{value:.6g}")
