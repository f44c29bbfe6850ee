"""Run the trials of a study: what the archive does not hold yet, one branch for each run of a trial.

The archive is the ledger. A study that is killed and started again goes on with the cycle after the last one that was
committed, and does not run a finished trial again. A trial whose settings or files have changed since its first cycle
is refused. What trials name alike is loaded once in a process: world, model, operator, sources.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dacycle.common.pieces import Each, in_turn
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle.inputs import Inputs, load_inputs
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.cycle.run_cycle import Cycle, RunStoppedError
from dacycle.cycler.experiment import Experiment
from dacycle.cycler.sweep.study import Study, Trial
from dacycle.cycler.verification import drift

__all__ = ["Cost", "Outlook", "plan_study", "run_study"]

Progress = Callable[[str], None]

_TIMED = 3
"""Cycles that a plan runs to see what one costs; the first also loads and sets up."""


@dataclass(frozen=True)
class Cost:
    """What a cycle of a method costs: seconds, and bytes in the archive."""

    seconds: float
    bytes: float


@dataclass(frozen=True)
class Outlook:
    """What a study would do.

    Attributes:
        trials: number of them by method.
        cycles, done: of all runs, and those that the archive holds.
        forecasts: starts of forecasts in all runs, made or not.
        seconds, bytes: of the cycles that are left, on one processor, without forecasts.
        by_method: cost of a cycle.
    """

    trials: dict[str, int]
    cycles: int
    done: int
    forecasts: int
    seconds: float
    bytes: float
    by_method: dict[str, Cost]


def run_study(
    study: Study,
    trials: Sequence[Trial],
    each: Each = in_turn,
    progress: Progress | None = None,
    until: pd.Timestamp | None = None,
) -> dict[str, str]:
    """Run all cycles and forecasts that are not in the archive yet; return why runs were stopped, by name.

    A run that its guards stop, as with a setting that lets it diverge, does not stop the others.

    Args:
        study, trials: the study.
        each: where the runs go, such as `pieces.in_processes`; the results are the same.
        progress: called with the name of each run that is finished.
        until: the last cycle of all runs; a further call without it runs the rest.

    Raises:
        ExperimentError, ArchiveError: as `replay.run_due_cycles`; other runs keep what they have.
    """
    experiments = [experiment for trial in trials for experiment in trial.experiments.values()]
    Archive(study.archive, create=True)
    stopped: dict[str, str] = {}

    pieces = [(study.archive, experiment, study.forecasts, until) for experiment in experiments]
    for number, reason in each(_run, pieces):
        name = experiments[number].name
        if reason:
            stopped[name] = reason
        elif progress is not None:
            progress(name)
    return stopped


_loaded: Inputs | None = None
"""Of the last run of this process."""


def _run(folder: Path, experiment: Experiment, forecasts: bool, until: pd.Timestamp | None) -> str:
    """Run what is due of one experiment, then its forecasts if they are wanted; return why it was stopped, or ""."""
    global _loaded
    inputs = _loaded = load_inputs(experiment, like=_loaded)
    archive = Archive(folder)
    try:
        run_due_cycles(experiment, archive, inputs=inputs, until=until)
    except RunStoppedError as error:
        return str(error)
    if forecasts:
        for _ in drift.make_forecasts(archive.branch(experiment.name), inputs.world, inputs.model):
            pass
    return ""


def plan_study(study: Study, trials: Sequence[Trial]) -> Outlook:
    """Say what a study would do; a few cycles of each method are run in a temporary archive to see what they cost."""
    numbers = pd.Series([trial.method for trial in trials]).value_counts(sort=False).to_dict()
    costs = {method: _cost(next(t for t in trials if t.method == method)) for method in numbers}
    archive = Archive(study.archive) if (study.archive / "states.icechunk").is_dir() else None
    cycles = done = starts = 0
    seconds = size = 0.0
    for trial in trials:
        for experiment in trial.experiments.values():
            times = experiment.times()
            held = _held(archive, experiment)
            cycles, done = cycles + len(times), done + held
            starts += sum(time.hour in experiment.drift.starts for time in times) if study.forecasts else 0
            seconds += (len(times) - held) * costs[trial.method].seconds
            size += (len(times) - held) * costs[trial.method].bytes
    return Outlook(numbers, cycles, done, starts, seconds, size, costs)


def _held(archive: Archive | None, experiment: Experiment) -> int:
    """Return how many cycles of an experiment an archive holds."""
    if archive is None or experiment.name not in archive.branches():
        return 0
    return int((archive.branch(experiment.name).times >= experiment.start).sum())


def _cost(trial: Trial) -> Cost:
    experiment = next(iter(trial.experiments.values()))
    global _loaded
    inputs = _loaded = load_inputs(experiment, like=_loaded)
    with tempfile.TemporaryDirectory(prefix="dacycle-plan-") as folder:
        sizes, seconds = [], []
        for cycle in _first_cycles(experiment, Archive(folder, create=True), inputs):
            seconds.append(sum(cycle.seconds.values()))
            sizes.append(sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()))
    return Cost(min(seconds), float(sizes[-1] - sizes[0]) / max(len(sizes) - 1, 1))


def _first_cycles(experiment: Experiment, archive: Archive, inputs: Inputs) -> Iterator[Cycle]:
    for _ in range(min(_TIMED, len(experiment.times()))):
        yield from run_due_cycles(experiment, archive, limit=1, inputs=inputs)
