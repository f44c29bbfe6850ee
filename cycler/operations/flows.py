"""Prefect flows: thin wrappers of the plain functions that also run without Prefect.

Prefect wakes, shows, retries and alerts. What is due is read from the archive, never from a schedule or from Prefect's
own records, so a lost, late or repeated flow run does no harm. Tasks pass paths and small values; nothing is cached.
"""

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

# Prefect reads this when it is imported; it then sends no reports.
os.environ.setdefault("DO_NOT_TRACK", "1")

import httpx
import pandas as pd
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.futures import PrefectFuture
from prefect.logging.handlers import APILogWorker
from prefect.settings import get_current_settings, temporary_settings

from dacycle.common import logs
from dacycle.common.clock import now
from dacycle.common.errors import DacycleError
from dacycle.common.locks import locked
from dacycle.common.settings import read_settings
from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.cycle import replay
from dacycle.cycler.cycle.inputs import Inputs, load_inputs
from dacycle.cycler.cycle.run_cycle import Cycle, RunStoppedError
from dacycle.cycler.experiment import Experiment, cycle_id, load_experiment
from dacycle.cycler.keeping.tidy import is_due, tidy
from dacycle.cycler.operations.alerts import Alert, watch
from dacycle.cycler.operations.metrics import write_metrics
from dacycle.cycler.operations.telling import ways_of_telling
from dacycle.cycler.verification import drift
from dacycle.cycler.verification.cycles import verify
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.worlds.reference import ReferenceDataError
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = [
    "ServerError",
    "check_server",
    "cycle",
    "embedded_server",
    "forecasts",
    "hindcast",
    "late",
    "report",
    "training",
    "verification",
]


_PATIENCE = 5.0
"""Seconds in which a server has to answer."""


class ServerError(DacycleError, RuntimeError):
    """The Prefect server that is configured does not answer; names its address."""


@contextmanager
def embedded_server(home: Path) -> Iterator[None]:
    """Start a Prefect server for the flows inside the block, with its files in `home`, and stop it at the end.

    Where a server is configured (PREFECT_API_URL or the active profile), that one is used instead.

    Raises:
        ServerError: nothing answers at the address that is configured.
    """
    if url := get_current_settings().api.url:
        check_server(url)
        yield
        return
    # The server's code is large, and the process of a worker's flow run does not need it.
    from prefect.server.api.server import SubprocessASGIServer

    home.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"home": home.resolve(), "server.analytics_enabled": False}
    with temporary_settings(settings):
        server = SubprocessASGIServer()
        # A first start migrates its database: 10 s on an idle machine, more than the default 20 s on a busy one.
        server.start(timeout=180)
        try:
            with temporary_settings({"api.url": server.api_url}):
                yield
        finally:
            # The last messages of the runs may still be on their way.
            APILogWorker.instance().drain()
            EventsWorker.drain_all()
            server.stop()


def check_server(url: str) -> None:
    """Raise ServerError where no Prefect server answers; Prefect itself would try for 20 s."""
    try:
        # Certificates are Prefect's own matter.
        answer = httpx.get(f"{url.rstrip('/')}/health", timeout=_PATIENCE, verify=False)
        reason = "" if answer.status_code != httpx.codes.NOT_FOUND else "there is a server, but none of Prefect's"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
    if reason:
        raise ServerError(
            f"PREFECT_API_URL (or the active Prefect profile) is {url}, but no Prefect server answers there: {reason}; "
            "start it with `prefect server start`, write the address as http://HOST:4200/api, or remove the setting, "
            "and a server of its own runs with the command"
        )


def _transient(_task: object, _run: object, state: Any) -> bool:
    """Return whether a failure may pass by itself: disks, networks, files in transfer. The archive is whole anyway."""
    return isinstance(state.data, OSError | ReferenceDataError | StateError)


_TASK: dict[str, Any] = {
    "persist_result": False,
    "cache_policy": NO_CACHE,
    "retries": 3,
    "retry_delay_seconds": [30, 120, 600],
    "retry_condition_fn": _transient,
}
_FLOW: dict[str, Any] = {"persist_result": False, "flow_run_name": lambda: _flow_run_name()}


def _flow_run_name() -> str:
    """Return EXPERIMENT, or RECIPE, and the scheduled start of the run, which is not the time of any cycle."""
    started, given = runtime.flow_run.scheduled_start_time, runtime.flow_run.parameters
    return f"{Path(given.get('experiment') or given['recipe']).stem} {started:%Y-%m-%d %H:%M}"


@contextmanager
def _logging() -> Iterator[None]:
    """Write log records as the command line does while a flow runs; Prefect's root handler would repeat them."""
    logger = logging.getLogger("dacycle")
    propagate = logger.propagate
    logs.configure(read_settings().log)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagate


# --- live -------------------------------------------------------------------------------------------------------------


@flow(name="cycle", **_FLOW)
def cycle(experiment: str, archive: str) -> list[str]:
    """Run every cycle whose cutoff has passed, in order, and verify as far as the reference reaches by now.

    The same follows for the free run, if the experiment asks for one. Then alerts are told. Where there is a late
    chain, its cycles from which these start run first, unless they are there.

    Args:
        experiment: path of the experiment's file.
        archive: path of the archive's folder.

    Returns:
        The names of the experiment's cycles; empty if none was due.
    """
    with _logging():
        described = load_experiment(experiment)
        done = _run_live(experiment, archive, described.name)
        for run in described.runs():
            if run.name not in (described.name, described.late_name):
                _run_free(experiment, archive, run.name)
        remove_states(experiment, archive)
    return done


def _run_live(experiment: str, archive: str, name: str) -> list[str]:
    """Run what is due of an experiment or of its late chain, verify it, and tell its alerts, also where it stops."""
    try:
        done = catch_up(experiment, archive, name)
        fill_in(experiment, archive, name)
    finally:
        if name in Archive(archive, create=True).branches():
            tell_alerts(experiment, archive, name)
    return done


def _run_free(experiment: str, archive: str, name: str) -> None:
    """Run and verify what is due of the free run, which does not stop the experiment where it stops itself."""
    try:
        catch_up(experiment, archive, name)
        fill_in(experiment, archive, name)
    except RunStoppedError as error:
        get_run_logger().error("%s", error)


@flow(name="late", **_FLOW)
def late(experiment: str, archive: str) -> list[str]:
    """Run every cycle of the late chain whose cutoff has passed, in order, verify it, and tell its alerts.

    Returns:
        The names of the cycles; empty if none was due.
    """
    with _logging():
        return _run_live(experiment, archive, load_experiment(experiment).late_run().name)


@flow(name="verification", **_FLOW)
def verification(experiment: str, archive: str) -> list[str]:
    """Verify all runs as far as the reference reaches by now; return the experiment's starts with new scores.

    `cycle` does so, too; this flow does it whatever becomes of the cycles.
    """
    with _logging():
        begun, described = Archive(archive).branches(), load_experiment(experiment)
        done = {run.name: fill_in(experiment, archive, run.name) for run in described.runs() if run.name in begun}
    return done.get(described.name, [])


@task(task_run_name="{name} catch up", **_TASK)
def catch_up(experiment: str, archive: str, name: str) -> list[str]:
    """Run the cycles that the archive says are due now; show each once it is committed.

    The flow of the experiment itself may be running its late chain: the task then waits for it.
    """
    described, done = _find(experiment, name), []

    def show(cycle: Cycle) -> None:
        done.append(cycle.record.id)
        _show(described, cycle.record)
        write_metrics(Path(archive), name)

    is_late = name == load_experiment(experiment).late_name
    patience = replay.PATIENCE_WITH_LATE if is_late else 0.0
    replay.run_due_cycles(described, Archive(archive, create=True), now=now(), progress=show, patience=patience)
    if not done:
        get_run_logger().info("%s: no cycle is due", described.name)
    return done


@task(task_run_name="{name} verify", **_TASK)
def fill_in(experiment: str, archive: str, name: str) -> list[str]:
    """Verify cycles and kept forecasts as far as the reference reaches by now; return the starts with new scores."""
    described = _find(experiment, name)
    branch, world = Archive(archive).branch(described.name), load_world(described.world)
    verify(branch, world)
    try:
        starts = [cycle_id(start) for start in drift.fill_in(branch, world)]
    except ArchiveError as error:  # the process that is making forecasts also does this
        get_run_logger().warning("%s", error)
        return []
    get_run_logger().info("%s: %d forecasts verified further", described.name, len(starts))
    return starts


@task(task_run_name="{name} alerts", **_TASK)
def tell_alerts(experiment: str, archive: str, name: str) -> list[str]:
    """Tell what needs somebody, also as events of Prefect; return the sentences of the alerts that are open."""
    described = _find(experiment, name)
    ways = {"event": _emit, **ways_of_telling(read_settings())}
    branch, world = Archive(archive).branch(described.name), load_world(described.world)
    opened = watch(branch, world, now(), ways)
    write_metrics(Path(archive), described.name)
    return [alert.text for alert in opened]


@task(task_run_name="retention", **_TASK)
def remove_states(experiment: str, archive: str) -> int:
    """Remove the states that the experiment does not keep, at most once a day of its cycles; return the bytes freed."""
    opened, described = Archive(archive), load_experiment(experiment)
    try:
        return tidy(opened).bytes if is_due(opened, described) else 0
    except (DacycleError, OSError) as error:  # others use the archive, or another experiment of it cannot be read
        get_run_logger().warning("%s; states that are not kept are removed by the next run", error)
        return 0


def _emit(alert: Alert) -> None:
    """Send the event `dacycle.alert.open` or `.over`, from a resource that stays the same for both."""
    emit_event(
        event=f"dacycle.alert.{alert.state}",
        resource={
            "prefect.resource.id": f"dacycle.alert.{_slug(alert.experiment)}.{_slug(alert.key)}",
            "dacycle.experiment": alert.experiment,
            "dacycle.severity": alert.severity,
        },
        payload={"text": alert.text, "cycle": alert.cycle, "began": alert.began, "ended": alert.ended},
    )


def _show(experiment: Experiment, record: CycleRecord) -> None:
    """Write a cycle's card in Prefect, and an event for automations to alert on where its status is not `ok`."""
    uses = "\n".join(f"| {use} | {count} |" for use, count in record.uses.items())
    heading = f"## {experiment.name} {record.id}: {record.status}"
    create_markdown_artifact(
        key=f"cycle-{_slug(experiment.name)}",
        markdown=f"{heading}\n\n{record.reason}\n\n| observations | values |\n|---|---|\n{uses}\n",
        description=f"the newest cycle of {experiment.name}; its history is that of the run",
    )
    logger = get_run_logger()
    if record.status == "ok":
        logger.info("%s %s: ok", experiment.name, record.id)
        return
    logger.warning("%s %s: %s, %s", experiment.name, record.id, record.status, record.reason)
    emit_event(
        event=f"dacycle.cycle.{record.status}",
        resource={"prefect.resource.id": f"dacycle.experiment.{_slug(experiment.name)}"},
        payload={"cycle": record.id, "reason": record.reason},
    )


def _slug(name: str) -> str:
    """Return a name in the form of Prefect's keys: lower case, digits and dashes."""
    return "".join(c if c.isalnum() else "-" for c in name.lower())


# --- replay -----------------------------------------------------------------------------------------------------------


@flow(name="hindcast", **_FLOW)
def hindcast(experiment: str, archive: str, days_per_task: int = 10) -> None:
    """Replay an experiment, its late chain and its free run, with forecasts beside the chain, and report.

    A late chain that stops does not stop the experiment; the flow run then fails at its end.

    Args:
        experiment: path of the experiment's file.
        archive: path of the archive's folder.
        days_per_task: days of cycles in one task. A task opens the archive and the run anew, which costs as much as a
            cycle or two; what a run loads is kept from task to task.
    """
    described, stopped = load_experiment(experiment), None
    forecasting: PrefectFuture[list[str]] | None = None
    with _logging(), _keeping_inputs():
        for run in described.runs():
            try:
                for first, last in _stretches(run, Archive(archive, create=True), pd.Timedelta(days=days_per_task)):
                    replay_stretch(experiment, archive, run.name, first, last)
                    if run.drift.starts:
                        # The chain never needs forecasts, so they run beside it, one at a time and in order.
                        forecasting = make_forecasts.submit(
                            experiment, archive, run.name, return_state=False, wait_for=forecasting
                        )
            except RunStoppedError as error:
                if run.name != described.late_name:
                    raise
                stopped = error  # the experiment goes on from its own analyses
        if forecasting is not None:
            forecasting.result()
        write_report(experiment, archive)
    if stopped is not None:
        raise stopped


_KEPT: dict[str, Inputs] = {}
"""Networks, world and readers of the run whose days are tasks, by the experiment's digest; one at a time."""


@contextmanager
def _keeping_inputs() -> Iterator[None]:
    """Forget at the end of a flow run what it loaded: the next one may find other files."""
    _KEPT.clear()
    try:
        yield
    finally:
        _KEPT.clear()


def _inputs(experiment: Experiment) -> Inputs:
    """Return what an experiment names, loaded by its first task."""
    kept = _KEPT.pop(experiment.digest, None)  # kept again if nothing fails, so that a task's retry loads everything
    if kept is None:
        _KEPT.clear()
        return load_inputs(experiment)
    load_world(experiment.world)  # takes in new times of the reference
    return replace(kept, experiment=experiment)


def _find(experiment: str, name: str) -> Experiment:
    """Return the experiment of a file, its late chain or its free run."""
    return next(run for run in load_experiment(experiment).runs() if run.name == name)


def _stretches(experiment: Experiment, archive: Archive, length: pd.Timedelta) -> Iterator[tuple[str, str]]:
    """Yield first and last cycle of each stretch, cut at fixed times, from where the archive stands to the end."""
    times = experiment.times()
    if experiment.name in archive.branches():
        next_time = archive.branch(experiment.name).next_time
        times = times if next_time is None else times[times >= next_time]
    for _, stretch in times.to_series().groupby(times.floor(length)):
        yield cycle_id(stretch.iloc[0]), cycle_id(stretch.iloc[-1])


@task(task_run_name="{name} {first} to {last}", **_TASK)
def replay_stretch(experiment: str, archive: str, name: str, first: str, last: str) -> dict[str, int]:
    """Run the cycles up to `last` that the archive lacks; return how many had each status."""
    described = _find(experiment, name)
    inputs = _inputs(described)
    done = replay.run_due_cycles(described, Archive(archive, create=True), until=pd.Timestamp(last), inputs=inputs)
    _KEPT[described.digest] = inputs
    counts = Counter(cycle.record.status for cycle in done)
    get_run_logger().info("%s to %s: %s", first, last, ", ".join(f"{n} {status}" for status, n in counts.items()))
    return {str(status): count for status, count in counts.items()}


# --- forecasts and report ---------------------------------------------------------------------------------------------


@flow(name="forecasts", **_FLOW)
def forecasts(experiment: str, archive: str) -> list[str]:
    """Make the forecasts that are due from committed analyses, and score those whose leads can be verified by now.

    The same follows for the free run, if the experiment asks for one and it has begun; returns the experiment's starts.
    """
    with _logging():
        begun = Archive(archive).branches()
        described = load_experiment(experiment)
        names = [run.name for run in described.runs() if run.drift.starts]
        starts = {
            name: make_forecasts(experiment, archive, name) for name in names if name == described.name or name in begun
        }
    return starts.get(described.name, [])


@task(task_run_name="{name} forecasts", **_TASK)
def make_forecasts(experiment: str, archive: str, name: str) -> list[str]:
    """Make the forecasts that are due; return their starts."""
    described = _find(experiment, name)
    branch, world = Archive(archive).branch(name), load_world(described.world)
    if not drift.due(branch, world):  # a model takes longer to load
        return []
    starts = drift.make_forecasts(branch, world, load_model(described.model))
    return [cycle_id(start) for start in starts]


@flow(name="report", **_FLOW)
def report(experiment: str, archive: str) -> str:
    """Write the report of an experiment; return its path."""
    with _logging():
        return write_report(experiment, archive)


@task(task_run_name="report", **_TASK)
def write_report(experiment: str, archive: str) -> str:
    """Write the report from what is in the archive; return its path."""
    from dacycle.cycler.report import page as reporting  # pictures: seconds to import

    described = load_experiment(experiment)
    path = reporting.write_report(Archive(archive).branch(described.name), load_world(described.world))
    get_run_logger().info("report: %s", path)
    return str(path)


# --- training ---------------------------------------------------------------------------------------------------------


@flow(name="training", **_FLOW)
def training(recipe: str, out: str | None = None) -> str:
    """Train a recipe by `dacycle train` in a process of its own; a run that ended too early goes on where it was.

    Args:
        recipe: path of the recipe.
        out: folder of the run; as of `dacycle train` where it is not given.

    Returns:
        The folder of the run.
    """
    folder = out or str(Path("runs") / Path(recipe).stem)
    with _logging():
        train(recipe, folder)
    return folder


@task(task_run_name="train {recipe}", **_TASK)
def train(recipe: str, out: str) -> None:
    """Run `dacycle train`; its output goes to the log of the flow run.

    The training keeps the lock of its folder where the flow run is killed and it goes on alone.

    Raises:
        TrainingError: it ended with another status than 0, or is still running from before.
    """
    command = [sys.executable, "-c", "from dacycle.cycler.cli import main; main()", "train", recipe, "--out", out]
    logger, last = get_run_logger(), ""
    with (
        locked(Path(out) / ".lock", f"the training in {out}", TrainingError) as lock,
        subprocess.Popen(
            command, pass_fds=[lock.fileno()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        for line in filter(str.strip, process.stdout):
            logger.info("%s", last := line.rstrip())
    if process.returncode:
        raise TrainingError(f"dacycle train {recipe} ended with status {process.returncode}: {last}")


class TrainingError(DacycleError, RuntimeError):
    """A training ended too early; names the recipe and the last line of its output. Run it again to continue."""
