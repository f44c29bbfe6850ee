"""A service on one machine, without a Prefect server: wakes after each cutoff and runs what the archive says is due."""

import logging
import signal
import threading

import pandas as pd
from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.cycle import replay
from dacycle.cycler.experiment import STEP, Experiment, cycle_id
from dacycle.cycler.verification import drift
from dacycle.cycler.verification.cycles import verify
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = ["RETRY", "Service", "wake_after"]

RETRY = pd.Timedelta(minutes=10)
"""How long after a failure that may pass (a lock, a disk, a network) the service tries again."""

logger = logging.getLogger(__name__)


class _Stopping(Exception):  # noqa: N818 - not an error
    """The service was told to stop, and the archive stands whole: leave."""


def wake_after(experiment: Experiment) -> pd.Timedelta:
    """How long after an analysis time its last cutoff has passed."""
    cutoffs = [source.cutoff for source in experiment.observations if source.cutoff is not None]
    return max(cutoffs, default=pd.Timedelta(0))


class Service:
    """Runs one experiment for ever, or to its end; `serve` returns when it is told to stop.

    Args:
        experiment: as read from its file.
        archive: its archive.
        forecasts: whether the forecasts that are due follow the cycles.
        threads: of the networks.
        retry: how long after a failure that may pass it tries again.
    """

    def __init__(
        self,
        experiment: Experiment,
        archive: Archive,
        forecasts: bool = True,
        threads: int = 1,
        retry: pd.Timedelta = RETRY,
    ) -> None:
        self.experiment = experiment
        self.archive = archive
        self.forecasts = forecasts
        self.threads = threads
        self.retry = retry
        self._told_to_stop = threading.Event()
        self._failure: BaseException | None = None
        # Wake-ups that were missed, or came while one was running, are one: the archive says what is due. One worker,
        # so that a second try never meets the regular wake-up.
        self._scheduler = BackgroundScheduler(
            timezone="UTC",
            executors={"default": {"type": "threadpool", "max_workers": 1}},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def stop(self) -> None:
        """Stop after the cycle, or the forecast, that is running."""
        self._told_to_stop.set()

    def serve(self) -> None:
        """Wake now and after each cutoff, until SIGTERM, SIGINT or `stop`.

        Raises:
            RunStoppedError: more cycles in a row fell back to their background than the experiment allows.
            ExperimentError: the experiment cannot run as it is.
        """
        first = self.experiment.start + wake_after(self.experiment)
        every = IntervalTrigger(hours=STEP // pd.Timedelta(hours=1), start_date=first.tz_localize("UTC"))
        self._scheduler.add_job(self._wake, every, id="wake", next_run_time=pd.Timestamp.now("UTC"))
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())
        self._scheduler.add_listener(self._fail, EVENT_JOB_ERROR)
        self._scheduler.start()
        try:
            self._told_to_stop.wait()
        finally:
            self._scheduler.shutdown(wait=True)
        if self._failure is not None:
            raise self._failure

    def _wake(self) -> None:
        try:
            self.run_due()
        except _Stopping:
            return
        except (ArchiveError, OSError) as error:
            logger.error("%s; trying again in %s", error, self.retry)
            again = pd.Timestamp.now("UTC") + self.retry
            self._scheduler.add_job(self._wake, "date", run_date=again, id="retry", replace_existing=True)

    def _fail(self, event: JobExecutionEvent) -> None:
        self._failure = event.exception
        self.stop()

    def run_due(self, now: pd.Timestamp | None = None) -> None:
        """Run the cycles whose cutoffs have passed (by `now`, UTC), in order, and then the forecasts that are due.

        What the reference has come to hold since is verified, whether or not forecasts are made.
        """
        now = pd.Timestamp.now("UTC").tz_localize(None) if now is None else now
        replay.hindcast(self.experiment, self.archive, now=now, progress=self._show, threads=self.threads)
        branch = self.archive.branch(self.experiment.name)
        world = load_world(self.experiment.world)
        for start in drift.fill_in(branch, world):
            logger.info("%s: forecast from %s verified further", branch.name, cycle_id(start))
            self._leave_if_told()
        if self.forecasts and self.experiment.drift.starts:
            model = load_model(self.experiment.model, self.threads)
            for start in drift.make_forecasts(branch, world, model):
                logger.info("%s: forecast from %s", branch.name, cycle_id(start))
                self._leave_if_told()
        verify(branch, world)
        next_time, end = branch.next_time, self.experiment.end
        assert next_time is not None, "a branch that was run has at least its cold start"
        if end is not None and next_time > end:
            logger.info("%s: complete, its last cycle was %s", branch.name, cycle_id(end))
            self.stop()
            return
        logger.info("%s: nothing more is due; the next cycle is %s", branch.name, cycle_id(next_time))

    def _show(self, cycle: replay.Cycle) -> None:
        record = cycle.record
        level = logging.INFO if record.status == "ok" else logging.WARNING
        uses = ", ".join(f"{count} {use}" for use, count in record.uses.items())
        reason = f" ({record.reason})" if record.reason else ""
        name, seconds = self.experiment.name, sum(cycle.seconds.values())
        logger.log(level, "%s %s: %s%s; %s; %.2f s", name, record.id, record.status, reason, uses, seconds)
        self._leave_if_told()

    def _leave_if_told(self) -> None:
        if self._told_to_stop.is_set():
            raise _Stopping
