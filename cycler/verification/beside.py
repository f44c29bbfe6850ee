"""Make forecasts beside cycles, on a second core.

    cycles          this process: it commits cycles, then makes the scores that all runs share, half of what is left
    forecasts       another process: it makes forecasts from what is committed, in order, and scores them

Both only read what is committed and write what each would write alone, so that the archive is the same whatever the
number of processes, and whichever of them is killed: what is missing is made by the next run. The process ends with the
one that started it.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from queue import Empty

import pandas as pd

from dacycle.common import logs
from dacycle.common.errors import DacycleError
from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.experiment import STEP, Experiment
from dacycle.cycler.verification.drift import due, make_forecasts, verifiable_leads
from dacycle.cycler.verification.shared import try_shared_scores
from dacycle.forecast_adapter.models.model import ForecastModel, load_model
from dacycle.forecast_adapter.worlds.world import World, load_world

__all__ = ["Forecasting", "ForecastingError", "forecasting", "starts_until"]

_FEWEST = 8
"""Fewer forecasts are made before another process has begun."""
_PAUSE = 0.2
"""Seconds between two looks at what the other process has done."""

Made = tuple[str, pd.Timestamp]
"""The experiment and the start of a forecast."""


class ForecastingError(DacycleError, RuntimeError):
    """The process that makes the forecasts ended too early; what it has made is kept."""

    label = "stopped"
    exit_status = 1


class Forecasting:
    """The forecasts of some experiments of an archive, while their cycles are run; made by `forecasting`.

    Args:
        archive: the archive.
        names: of the experiments.
        threads: of the networks.
    """

    def __init__(self, archive: Archive, names: Sequence[str], threads: int) -> None:
        self._archive, self._names, self._threads = archive, names, threads
        self._process: BaseProcess | None = None

    def begin(self) -> None:
        """Start the other process."""
        context = get_context("spawn")
        self._made: Queue[Made | DacycleError] = context.Queue()
        self._cycled: Event = context.Event()
        arguments = (str(self._archive.folder), self._names, self._threads, self._cycled, self._made, logs.as_here())
        self._process = context.Process(target=_beside, args=arguments, daemon=True)
        self._process.start()

    def end(self) -> None:
        """End the other process, whatever it is making."""
        if self._process is not None:
            self._process.terminate()
            self._process.join()

    def due(self) -> int:
        """Return how many forecasts are due, of the cycles that are committed."""
        return sum(len(due(*_opened(self._archive, name))) for name in self._begun())

    def rest(self) -> Iterator[Made]:
        """Make what is left, after the last cycle, and yield each forecast once it is on disk.

        Raises:
            ArchiveError: as `drift.make_forecasts`.
            ForecastingError: the other process ended too early.
        """
        if self._process is None:
            for name in self._begun():
                yield from _forecasts(self._archive, name, partial(load_model, threads=self._threads))
            return
        self._cycled.set()
        for name in self._begun():
            yield from self._share(name)
        while self._process.is_alive():
            yield from self._news(wait=_PAUSE)
        yield from self._news()
        if self._process.exitcode:
            raise ForecastingError(
                f"the process that makes the forecasts ended with status {self._process.exitcode}, as a killed one "
                "does; what it has made is kept, and the same command goes on"
            )

    def _begun(self) -> list[str]:
        there = self._archive.branches()
        return [name for name in self._names if name in there]

    def _share(self, name: str) -> Iterator[Made]:
        """Make the shared scores of the starts that are left, ahead of the other process, which reads them."""
        assert self._process is not None
        branch, world = _opened(self._archive, name)
        starts = due(branch, world)
        if not starts:
            return
        model = load_model(branch.experiment.model, self._threads)
        for start in starts:
            if not self._process.is_alive():
                return
            try_shared_scores(self._archive, world, model, start, verifiable_leads(branch, world, start))
            yield from self._news()

    def _news(self, wait: float = 0.0) -> Iterator[Made]:
        """Yield what the other process has made since; raise its error."""
        while True:
            try:
                made = self._made.get(timeout=wait) if wait else self._made.get_nowait()
            except Empty:
                return
            if isinstance(made, DacycleError):
                raise made
            yield made


@contextmanager
def forecasting(archive: Archive, names: Sequence[str], expected: int, threads: int) -> Iterator[Forecasting]:
    """Make the forecasts of experiments while the block runs their cycles, where there is a core for it.

    Args:
        archive: the archive.
        names: of the experiments; their branches may not be there yet.
        expected: number of forecasts that will be due; few are made after the cycles, in this process.
        threads: of the networks.
    """
    forecasts = Forecasting(archive, names, threads)
    if expected >= _FEWEST and len(os.sched_getaffinity(0)) > threads:
        forecasts.begin()
    try:
        yield forecasts
    finally:
        forecasts.end()


def starts_until(experiment: Experiment, last: pd.Timestamp | None) -> int:
    """Return the number of forecasts that an experiment asks for up to a cycle, or to its end."""
    end = min(time for time in (last, experiment.end, pd.Timestamp.max) if time is not None)
    if end == pd.Timestamp.max:
        return 0
    times = pd.date_range(experiment.start, end, freq=STEP)
    return int(times.hour.isin(experiment.drift.starts).sum())


def _opened(archive: Archive, name: str) -> tuple[Branch, World]:
    branch = archive.branch(name)
    return branch, load_world(branch.experiment.world)


def _forecasts(archive: Archive, name: str, load: Callable[[str], ForecastModel]) -> Iterator[Made]:
    """Make the forecasts of an experiment that are due; its model is loaded only where there are any."""
    branch, world = _opened(archive, name)
    if due(branch, world):
        for start in make_forecasts(branch, world, load(branch.experiment.model)):
            yield name, start


def _beside(
    folder: str,
    names: Sequence[str],
    threads: int,
    cycled: Event,
    made: "Queue[Made | DacycleError]",
    log: Callable[[], None],
) -> None:
    """Make what is due whenever cycles were committed, until nothing is after the last one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run ends this process
    log()
    starter = parent_process()
    assert starter is not None
    archive, load = Archive(folder), lru_cache(maxsize=1)(partial(load_model, threads=threads))
    seen: dict[str, pd.Timestamp | None] = {}
    try:
        while starter.is_alive():
            last = cycled.is_set()  # before looking, so that no cycle is missed
            begun = archive.branches()
            stand = {name: archive.branch(name).next_time for name in names if name in begun}
            for name in [name for name in stand if stand[name] != seen.get(name)]:
                for forecast in _forecasts(archive, name, load):
                    made.put(forecast)
                    if not starter.is_alive():
                        return
            if last:
                return
            if stand == seen:
                time.sleep(_PAUSE)
            seen = stand
    except DacycleError as error:
        made.put(error)
