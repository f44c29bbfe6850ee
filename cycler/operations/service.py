"""A service on one machine, without a Prefect server.

It wakes after each cutoff and runs what the archive says is due: cycles, forecasts and verification of the late chain
where there is one, of the experiment, and of its free run, if it asks for one.
"""

import logging
import signal
import threading
import time

import pandas as pd
from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from dacycle.common import clock, logs
from dacycle.common.errors import DacycleError
from dacycle.common.settings import read_settings
from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.cycle import replay
from dacycle.cycler.cycle.run_cycle import Cycle, RunStoppedError
from dacycle.cycler.experiment import STEP, Experiment, cycle_id
from dacycle.cycler.keeping.tidy import is_due, tidy
from dacycle.cycler.operations.alerts import watch
from dacycle.cycler.operations.metrics import write_metrics
from dacycle.cycler.operations.telling import ways_of_telling
from dacycle.cycler.operations.watchdog import interval, notify
from dacycle.cycler.verification import drift
from dacycle.cycler.verification.cycles import verify
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.worlds.reference import ReferenceDataError
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = ["RETRY", "Service"]

RETRY = pd.Timedelta(minutes=10)
"""Time after which the service tries again after a failure that may pass (a lock, a disk, a network)."""

HANGS = pd.Timedelta(hours=1)
"""A wake-up in which no cycle, forecast or look has ended for so long gets on no more, and the watchdog is not told."""

logger = logging.getLogger(__name__)


class _Stopping(Exception):  # noqa: N818 - not an error
    """Leave, since the service was told to stop and the archive is whole."""


class Service:
    """Run one experiment without an end, or to its end; `serve` returns when it is told to stop.

    Args:
        experiment: as read from its file.
        archive: its archive.
        forecasts: whether to make the forecasts that are due after the cycles.
        threads: of the networks.
        retry: time after which it tries again after a failure that may pass.
        hangs: time without progress after which systemd's watchdog is left to start the service again.
    """

    def __init__(
        self,
        experiment: Experiment,
        archive: Archive,
        forecasts: bool = True,
        threads: int = 1,
        retry: pd.Timedelta = RETRY,
        hangs: pd.Timedelta = HANGS,
    ) -> None:
        self.experiment = experiment
        self.archive = archive
        self.forecasts = forecasts
        self.threads = threads
        self.retry = retry
        self.hangs = hangs
        self._progress: float | None = None
        """When the wake-up that is running last got on; None while there is none."""
        self._told_to_stop = threading.Event()
        self._failure: BaseException | None = None
        # Wake-ups that were missed, or came during another one, become one: the archive says what is due. With one
        # worker a second try never runs beside the regular wake-up.
        self._scheduler = BackgroundScheduler(
            timezone="UTC",
            executors={"default": {"type": "threadpool", "max_workers": 1}},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def stop(self) -> None:
        """Stop after the cycle or forecast that is running."""
        self._told_to_stop.set()

    def serve(self) -> None:
        """Wake now and after each cutoff, until SIGTERM, SIGINT or `stop`.

        Raises:
            RunStoppedError: more cycles in a row fell back to their background than the experiment allows.
            ExperimentError: the experiment cannot run as it is.
        """
        start, late = self.experiment.start, self.experiment.late
        self._wake_after(start + self.experiment.wait, "wake", next_run_time=pd.Timestamp.now("UTC"))
        if late is not None and (late.cutoff - self.experiment.wait) % STEP:
            self._wake_after(start + late.cutoff, "wake late")
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())
        self._scheduler.add_listener(self._fail, EVENT_JOB_ERROR)
        self._scheduler.start()
        notify("READY=1")
        try:
            self._wait()
        finally:
            notify("STOPPING=1")
            self._scheduler.shutdown(wait=True)
        if self._failure is not None:
            raise self._failure

    def _wake_after(self, first: pd.Timestamp, name: str, **options: pd.Timestamp) -> None:
        """Wake every six hours from a time on, UTC; in a rehearsal, as its clock goes."""
        by = clock.read_clock()
        seconds = STEP.total_seconds() / by.speed
        start = by.of_machine(first).tz_localize("UTC")
        every = IntervalTrigger(seconds=seconds, start_date=start)
        self._scheduler.add_job(self._wake, every, id=name, **options)

    def _wait(self) -> None:
        """Wait until the service is told to stop, and tell the watchdog meanwhile that it gets on."""
        every = interval()
        while not self._told_to_stop.wait(None if every is None else every / 3):
            since = self._progress
            if since is None or time.monotonic() - since < self.hangs.total_seconds():
                notify("WATCHDOG=1")

    def _wake(self) -> None:
        self._progress = time.monotonic()
        try:
            self.run_due()
        except _Stopping:
            return
        except (ArchiveError, ReferenceDataError, StateError, OSError) as error:
            logger.error("%s; trying again in %s", error, self.retry)
            again = pd.Timestamp.now("UTC") + self.retry
            self._scheduler.add_job(self._wake, "date", run_date=again, id="retry", replace_existing=True)
        finally:
            self._progress = None

    def _fail(self, event: JobExecutionEvent) -> None:
        self._failure = event.exception
        self.stop()

    def run_due(self, now: pd.Timestamp | None = None) -> None:
        """Run the cycles whose cutoffs have passed (by `now`, UTC), in order, and then the forecasts that are due.

        Cycles and forecasts are verified as far as the reference reaches by then, whether or not forecasts are made;
        alerts are told.
        A late chain or a free run that stops is logged and does not stop the experiment.
        """
        now = clock.now() if now is None else now
        for run in self.experiment.runs():
            with logs.context(experiment=run.name):
                try:
                    self._run(run, now)
                except RunStoppedError as error:
                    self._look_at(run, now)
                    if run.name == self.experiment.name:
                        raise
                    logger.error("%s", error)
        self._tidy()
        branch = self.archive.branch(self.experiment.name)
        next_time, end, late = branch.next_time, self.experiment.end, self.experiment.late
        assert next_time is not None, "a branch that was run has at least its cold start"
        longest = self.experiment.wait if late is None else late.cutoff
        with logs.context(experiment=branch.name):
            if end is not None and next_time > end and now >= end + longest:
                logger.info("complete, its last cycle was %s", cycle_id(end))
                self.stop()
                return
            logger.info("nothing more is due; the next cycle is %s", cycle_id(next_time))

    def _run(self, run: Experiment, now: pd.Timestamp) -> None:
        """Run what is due of the experiment, its late chain or its free run: cycles, forecasts, verification."""

        def after_cycle(_: Cycle) -> None:
            write_metrics(self.archive.folder, run.name)
            self._leave_if_told()

        replay.run_due_cycles(run, self.archive, now=now, progress=after_cycle, threads=self.threads)
        branch = self.archive.branch(run.name)
        world = load_world(run.world)
        for start in drift.fill_in(branch, world):
            logger.info("forecast from %s verified further", cycle_id(start))
            self._leave_if_told()
        if self.forecasts and run.drift.starts:
            model = load_model(run.model, self.threads)
            for start in drift.make_forecasts(branch, world, model):
                logger.info("forecast from %s", cycle_id(start))
                self._leave_if_told()
        self._look_at(run, now)

    def _look_at(self, run: Experiment, now: pd.Timestamp) -> None:
        """Verify a run as far as the reference reaches, and tell alerts, but those of a free run."""
        branch, world = self.archive.branch(run.name), load_world(run.world)
        if run.name == self.experiment.free_run().name:
            verify(branch, world)
        else:
            watch(branch, world, now, ways_of_telling(read_settings()))
        write_metrics(self.archive.folder, run.name)

    def _tidy(self) -> None:
        """Remove the states that the experiment does not keep; at the next wake-up, where others use the archive."""
        try:
            if is_due(self.archive, self.experiment):
                logger.info("removed states that are not kept: %.0f MB freed", tidy(self.archive).bytes / 1e6)
        except (DacycleError, OSError) as error:
            logger.warning("%s; states that are not kept are removed at the next wake-up", error)

    def _leave_if_told(self) -> None:
        self._progress = time.monotonic()
        if self._told_to_stop.is_set():
            raise _Stopping
