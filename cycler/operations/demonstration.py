"""The demonstration, from packaged files in a folder of the user's choice, on two cores.

Observations are drawn and written as files, `demo` (FNP), its free run and `demo-oi` (optimal interpolation) cycle
through two weeks, ten-day forecasts start from the analyses, and the report is written. Run again, it goes on.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from multiprocessing import get_context
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Empty, Queue

import numpy as np
import pandas as pd

from dacycle.common.files import write_whole
from dacycle.common.pieces import processes
from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, Experiment, load_experiment
from dacycle.cycler.verification.cycles import verify
from dacycle.cycler.verification.drift import due, make_forecasts
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import World, load_world
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.window import Window

__all__ = ["Progress", "Summary", "run_demonstration"]

RIVAL = "demo-oi"
"""The run with optimal interpolation, which is compared with `demo`."""

SPIN_UP = pd.Timedelta(days=4)
"""Errors are compared from then on, or over the second half of a shorter period."""

Progress = Callable[[str, int, int], None]
"""Called with the name of a task, what of it is done, and its whole."""


@dataclass(frozen=True)
class Summary:
    """Hold the outcome.

    Attributes:
        report: the page.
        since: the first cycle whose errors are compared.
        against: mean over the headline channels of the analyses' RMSE over that of another run's, by its name.
    """

    report: Path
    since: pd.Timestamp
    against: dict[str, float]


def run_demonstration(folder: Path, days: int, progress: Progress) -> Summary:
    """Run the demonstration in a folder, or what is left of it.

    Args:
        folder: gets demo.yaml, the observations and the archive; it becomes the working folder, since an experiment's
            paths are relative to it.
        days: of the period, at most 14.
        progress: shows it.

    Raises:
        DacycleError: as the commands `simulate`, `hindcast`, `drift` and `report`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    experiment = _experiment(days)
    archive = Archive(Path("archive"), create=True)
    world = load_world(experiment.world)
    with get_context("spawn").Manager() as manager, processes(2) as pool:
        for tasks in (_drawing(experiment), _reading(experiment), _running(experiment)):
            _complete(pool, manager, tasks, progress)
        branch = archive.branch(experiment.name)
        summary = pool.submit(_compared, experiment)
        from dacycle.cycler.report.page import write_report  # two seconds to import, while others work

        report = write_report(branch, world, Path("report.html"))
        return Summary(folder / report, _since(experiment), summary.result())


def _experiment(days: int) -> Experiment:
    """Return the first days of the packaged experiment, whose file is copied to the working folder."""
    file = Path("demo.yaml")
    if not file.exists():
        write_whole(file, files("dacycle.deploy").joinpath("experiments/demo.yaml").read_bytes())
    experiment = load_experiment(file)
    return experiment.model_copy(update={"end": experiment.start + pd.Timedelta(days=days)})


def _since(experiment: Experiment) -> pd.Timestamp:
    times = experiment.times()
    return min(experiment.start + SPIN_UP, times[len(times) // 2])


@dataclass(frozen=True)
class _Task:
    """A function of the experiment, the name of a task and a way to tell progress, which runs in a process."""

    name: str
    function: Callable[[Experiment, str, Progress], None]
    experiment: Experiment


def _complete(pool: ProcessPoolExecutor, manager: SyncManager, tasks: list[_Task], progress: Progress) -> None:
    """Run tasks in the processes of the pool, and show their progress until all have ended."""
    queue: Queue[tuple[str, int, int]] = manager.Queue()
    futures: list[Future[None]] = [pool.submit(_run, task, queue) for task in tasks]
    while not all(future.done() for future in futures) or not queue.empty():
        try:
            progress(*queue.get(timeout=0.1))
        except Empty:
            continue
    for future in futures:
        future.result()


def _run(task: _Task, queue: "Queue[tuple[str, int, int]]") -> None:
    task.function(task.experiment, task.name, lambda name, done, total: queue.put((name, done, total)))


def _drawing(experiment: Experiment) -> list[_Task]:
    names = [source.model_dump()["name"] for source in experiment.observations]
    return [_Task(f"drawing {name}", _draw, experiment) for name in names]


def _draw(experiment: Experiment, name: str, progress: Progress) -> None:
    from dacycle.obs_ingest.simulation.files import simulate  # loads ecCodes

    specs = {f"drawing {spec['name']}": spec for spec in (s.model_dump(mode="json") for s in experiment.observations)}
    progress(name, 0, 1)
    # of the whole period: files of a shorter one would be refused when more days are run
    times = load_experiment(Path("demo.yaml")).times().values.astype("datetime64[h]")
    simulate(specs[name], load_world(experiment.world), experiment.seed, times)
    progress(name, 1, 1)


def _reading(experiment: Experiment) -> list[_Task]:
    return [_Task(f"reading files, part {part}", _read, experiment) for part in (1, 2)]


def _read(experiment: Experiment, name: str, progress: Progress) -> None:
    """Read the files of one half of the period, so that the runs find them decoded.

    Neighbouring cycles share messages: two processes that took turns would decode them twice.
    """
    world, part = load_world(experiment.world), int(name[-1])
    specs = [source.model_dump(mode="json") for source in experiment.observations]
    sources = [build_source(spec, world, experiment.seed) for spec in specs]
    times = experiment.times()
    middle = len(times) // 2
    times = times[:middle] if part == 1 else times[middle:]
    for i, time in enumerate(times, 1):
        for source in sources:
            source.read(Window(np.datetime64(time, "h"), source.cutoff))
        progress(name, i, len(times))


def _running(experiment: Experiment) -> list[_Task]:
    free = experiment.free_run()
    rival = experiment.model_copy(
        update={"name": RIVAL, "assimilator": "oi", "drift": experiment.drift.model_copy(update={"free_run": False})}
    )
    return [  # two at a time: the free run, which takes as long as the rest of the first, begins after the second
        _Task(experiment.name, _cycle_and_forecast, experiment),
        _Task(rival.name, _cycle, rival),
        _Task(free.name, _cycle_and_forecast, free),
    ]


def _cycle(experiment: Experiment, name: str, progress: Progress) -> None:
    """Run the cycles of an experiment, and verify them, so that summary and report find the errors."""
    times, archive = experiment.times(), Archive(Path("archive"))
    run_due_cycles(
        experiment,
        archive,
        progress=lambda cycle: progress(name, int((cycle.time - times[0]) / STEP) + 1, len(times)),
    )
    verify(archive.branch(experiment.name), load_world(experiment.world))


def _cycle_and_forecast(experiment: Experiment, name: str, progress: Progress) -> None:
    _cycle(experiment, name, progress)
    branch, world = Archive(Path("archive")).branch(experiment.name), load_world(experiment.world)
    starts = due(branch, world)
    for i, _ in enumerate(make_forecasts(branch, world, load_model(experiment.model)), 1):
        progress(f"{name}, forecasts", i, len(starts))


def _compared(experiment: Experiment) -> dict[str, float]:
    archive, world = Archive(Path("archive")), load_world(experiment.world)
    since = _since(experiment)
    own = _rmse(archive.branch(experiment.name), world, since)
    others = (experiment.free_run().name, RIVAL)
    return {name: float((own / _rmse(archive.branch(name), world, since)).mean()) for name in others}


def _rmse(branch: Branch, world: World, since: pd.Timestamp) -> pd.Series:
    """Return the global RMSE of the analyses in the headline channels, by channel."""
    errors = verify(branch, world).errors
    chosen = errors[(errors["kind"] == "analysis") & (errors["region"] == "globe") & (errors["time"] >= since)]
    return np.sqrt(chosen.groupby("channel", observed=True)["mse"].mean())[list(HEADLINE)]
