"""Say what a run would do: its cycles, the inputs that are there or missing, and its cost."""

import time as clock
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle.inputs import Inputs, absent_files, load_inputs
from dacycle.cycler.cycle.late import runs_again
from dacycle.cycler.experiment import STEP, Experiment, cycle_id, parse_donor
from dacycle.forecast_adapter.channels import CHANNEL_COUNT
from dacycle.forecast_adapter.worlds.reference import ReferenceDataError
from dacycle.obs_ingest.sources.base import Source
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window

__all__ = ["Content", "Plan", "plan"]


_DAY = 4
"""Cycles in a day."""


@dataclass(frozen=True)
class Content:
    """Hold what a source has for a cycle: the number of values, None where it has none to read, and of bad files."""

    cycle: pd.Timestamp
    values: int | None
    unreadable: int = 0

    def __str__(self) -> str:
        unreadable = f", unreadable files: {self.unreadable}" if self.unreadable else ""
        return f"{cycle_id(self.cycle)}: " + (
            "not there" if self.values is None else f"{self.values} values{unreadable}"
        )


@dataclass
class Plan:
    """Hold what a run would do.

    Attributes:
        first, last: first and last cycle to run; None where none is left; a live experiment has no last one.
        cycles: number of these cycles; 0 for a live experiment without an end.
        done: number of cycles already in the archive.
        sources: by source, what it has for the first and the last of these cycles.
        missing: sentences about inputs that are not there.
        step_seconds: measured time of one 6-h step of the model on this machine.
        megabytes: size of the states that the cycles would add, before compression.
        forecast_steps: number of model steps of the forecasts that start from these cycles.
        chain_steps: number of model steps of these cycles, with those that are run again and those of the late chain.
        late: from what the cycles start, in a sentence; empty without a late chain.
    """

    first: pd.Timestamp | None
    last: pd.Timestamp | None
    cycles: int
    done: int
    sources: dict[str, list[Content]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    step_seconds: float = 0.0
    megabytes: float = 0.0
    forecast_steps: int = 0
    chain_steps: int = 0
    late: str = ""


def plan(experiment: Experiment, archive: Archive | None, threads: int = 1) -> Plan:
    """Look at everything that a run needs; run and write nothing.

    Args:
        experiment: the experiment.
        archive: where it would run; None where there is no archive yet.
        threads: of the model.

    Raises:
        ExperimentError: the experiment's parts do not belong together.
    """
    inputs = load_inputs(experiment, threads)
    branch = None
    if archive is not None and experiment.name in archive.branches():
        branch = archive.branch(experiment.name)
    first = (branch.next_time if branch is not None else None) or experiment.start
    done = max(int((first - experiment.start) / STEP), 0)
    if experiment.end is not None and first > experiment.end:
        return Plan(None, None, 0, done)
    times = [] if experiment.end is None else list(pd.date_range(first, experiment.end, freq=STEP))
    outlook = Plan(first, experiment.end, len(times), done)
    outlook.missing += _missing_donor(experiment, archive) if branch is None else []
    days = [times[:_DAY] or [first], times[-_DAY:][::-1]]
    _look_at_sources(inputs, days if len(times) > 1 else days[:1], outlook)
    outlook.step_seconds = _time_one_step(inputs, first)
    outlook.chain_steps = len(times)
    late_states = _look_at_late(experiment, archive, outlook)
    kept = (2 if experiment.late is None else 3) + (0 if experiment.members is None else experiment.members.members)
    states = len(times) * kept + late_states
    outlook.megabytes = states * CHANNEL_COUNT * np.prod(inputs.world.grid.shape) * 4 / 1e6
    starts = sum(time.hour in experiment.drift.starts for time in times)
    outlook.forecast_steps = starts * (experiment.drift.lead // STEP) * (1 + (experiment.drift.members or 0))
    return outlook


def _look_at_late(experiment: Experiment, archive: Archive | None, outlook: Plan) -> int:
    """Add what the late chain costs; return the number of states that it would add."""
    if experiment.late is None:
        return 0
    late, again = experiment.late_run(), runs_again(experiment)
    begun = archive is not None and late.name in archive.branches()
    if not begun and experiment.late.from_ is not None:
        outlook.missing += _missing_donor(late, archive)
    first = (archive.branch(late.name).next_time if archive is not None and begun else None) or late.start
    left = 0 if experiment.end is None else max(int((experiment.end - first) / STEP) + 1, 0)
    outlook.chain_steps += again * outlook.cycles + left
    said = f", and runs {again} cycles again in between" if again else ""
    hours, cutoff = 6 * (again + 1), experiment.late.cutoff / pd.Timedelta(hours=1)
    outlook.late = f"each cycle starts from {late.name} of {hours} h before, cutoff {cutoff:g} h{said}"
    members = 0 if experiment.members is None else experiment.members.members
    return left * (2 + members)


def _missing_donor(experiment: Experiment, archive: Archive | None) -> list[str]:
    if experiment.cold_start.from_ is None:
        return []
    donor, time = parse_donor(experiment.cold_start.from_)
    if archive is None or donor not in archive.branches():
        return [f"cold_start: there is no experiment {donor} in this archive"]
    if time not in archive.branch(donor).times:
        return [f"cold_start: {donor} has no cycle {cycle_id(time)}"]
    return []


def _look_at_sources(inputs: Inputs, days: list[list[pd.Timestamp]], outlook: Plan) -> None:
    """Look at what sources have for the first cycle of each day; where that is nothing, at the other cycles too.

    Soundings are made at 00 and 12 UTC, daily means end at one hour: only a day without values is worth a word.
    """
    absent = absent_files(inputs.experiment)
    outlook.missing += absent.values()
    for source in inputs.sources:
        if source.name in absent:
            continue
        contents = []
        for cycles in days:
            try:
                content = _content(source, cycles[0])
                if not content.values and not any(_content(source, cycle).values for cycle in cycles[1:]):
                    span = " to ".join(dict.fromkeys(map(cycle_id, (min(cycles), max(cycles)))))
                    outlook.missing.append(f"source {source.name} has nothing for {span}")
            except (ReferenceDataError, ObservationError) as error:
                content = Content(cycles[0], None)
                sentence = f"source {source.name}: {str(error).removeprefix(f'source {source.name}: ')}"
                outlook.missing += [sentence] if sentence not in outlook.missing else []
            contents.append(content)
        outlook.sources[source.name] = contents


def _content(source: Source, cycle: pd.Timestamp) -> Content:
    table, inventory = source.read(Window(np.datetime64(cycle, "h"), source.cutoff))
    return Content(cycle, len(table), inventory.unreadable or 0)


def _time_one_step(inputs: Inputs, time: pd.Timestamp) -> float:
    """Return the seconds of one model step from the climatology, after a first step that sets up the session."""
    frame = inputs.world.climatology.at(np.datetime64(time, "h"))[None]
    seconds = 0.0
    for _ in range(2):
        begun = clock.perf_counter()
        next(iter(inputs.model.forecast(frame, frame, 1)))
        seconds = clock.perf_counter() - begun
    return seconds
