"""Prefect deployments of an experiment, generated from its file: names, schedules, paths.

A flow run starts in the folder in which `dacycle deploy` ran, with its `DACYCLE_` settings, so that the paths in an
experiment mean what they mean on the command line.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.schedules import Cron, Interval, Schedule
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from dacycle.assimilators.training.recipe import recipe_kind
from dacycle.common.clock import read_clock
from dacycle.cycler.experiment import STEP, Experiment, load_experiment
from dacycle.cycler.operations import flows
from dacycle.cycler.operations.flows import ServerError, check_server

__all__ = ["Deployment", "deploy", "deployments", "schedule_of"]

AFTER_CUTOFF = pd.Timedelta(minutes=5)
"""How long after the last cutoff cycles are woken, and after them forecasts and the report."""
BETWEEN = pd.Timedelta(minutes=30)

_OF_EXPERIMENTS = (flows.cycle, flows.late, flows.forecasts, flows.verification, flows.report, flows.hindcast)


@dataclass(frozen=True)
class Deployment:
    """Hold one deployment: `flow/experiment`, what it does, and its schedule (UTC), empty where a person starts it."""

    name: str
    text: str
    cron: str


def deployments(experiment: Experiment) -> Iterator[tuple[Flow[Any, Any], Deployment]]:
    """Yield the deployments of an experiment: those of a live run, or the replay of one that has an end."""
    name = experiment.name
    if experiment.end is not None:
        yield flows.hindcast, Deployment(f"hindcast/{name}", "replay with free run, forecasts and report", "")
        return
    first = experiment.wait + AFTER_CUTOFF
    every = range(0, 24, STEP // pd.Timedelta(hours=1))
    if experiment.late is not None:
        text = "every cycle of the late chain whose cutoff has passed, in order"
        yield flows.late, Deployment(f"late/{name}", text, _cron(every, experiment.late.cutoff + AFTER_CUTOFF))
    cycles = Deployment(f"cycle/{name}", "every cycle whose cutoff has passed, in order", _cron(every, first))
    yield flows.cycle, cycles
    second = _cron(every, first + BETWEEN)
    yield flows.forecasts, Deployment(f"forecasts/{name}", "forecasts from new analyses, and their scores", second)
    text = "verification as far as the reference reaches, once a day"
    yield flows.verification, Deployment(f"verification/{name}", text, _cron([12], first + 2 * BETWEEN))
    yield flows.report, Deployment(f"report/{name}", "the report, once a day", _cron([0], first + 2 * BETWEEN))


def _cron(hours: range | list[int], after: pd.Timedelta) -> str:
    """Return the cron line of some analysis hours and a time after them."""
    minutes = int(after / pd.Timedelta(minutes=1))
    at = sorted((hour + minutes // 60) % 24 for hour in hours)
    return f"{minutes % 60} {','.join(map(str, at))} * * *"


def deploy(path: Path, archive: Path, pool: str, recipes: Sequence[Path] = ()) -> list[Deployment]:
    """Make or renew an experiment's deployments on the Prefect server that is configured, and the pool if need be.

    Those that an earlier form of the file asked for are removed.

    Args:
        path: the experiment's file.
        archive: its archive.
        pool: name of a work pool of process workers.
        recipes: of trainings, each of which gets a deployment that a person starts.

    Raises:
        ExperimentError: the file cannot be read.
        RecipeError: a recipe cannot be read.
        ServerError: no server is configured, or none answers.
    """
    experiment = load_experiment(path)
    for recipe in recipes:
        recipe_kind(recipe)
    url = get_current_settings().api.url
    if not url:
        raise ServerError(
            "no Prefect server is configured: start one with `prefect server start`, and set "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    check_server(url)
    _make_pool(pool)
    made = []
    for flow, described in deployments(experiment):
        _apply(flow, described, pool, {"experiment": str(path.resolve()), "archive": str(archive.resolve())})
        made.append(described)
    _remove_former(experiment.name, {described.name for described in made})
    for recipe in recipes:
        described = Deployment(f"training/{recipe.stem}", "the training of this recipe; it goes on where it was", "")
        out = str((Path("runs") / recipe.stem).resolve())
        _apply(flows.training, described, pool, {"recipe": str(recipe.resolve()), "out": out})
        made.append(described)
    return made


def _apply(flow: Flow[Any, Any], described: Deployment, pool: str, parameters: dict[str, str]) -> None:
    """Make or renew one deployment."""
    # A wake-up that comes while a run is active is dropped: the active run runs everything that is due.
    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    deployment = RunnerDeployment.from_flow(
        flow,
        name=described.name.partition("/")[2],
        description=described.text,
        schedules=[schedule_of(described.cron)] if described.cron else [],
        parameters=parameters,
        concurrency_limit=one,
        work_pool_name=pool,
        job_variables={"working_dir": str(Path.cwd()), "env": _settings()},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.apply()


def _remove_former(experiment: str, made: set[str]) -> None:
    """Remove the deployments that an experiment's file no longer asks for, such as the cycles of one with an end."""
    with get_client(sync_client=True) as client:
        for flow in _OF_EXPERIMENTS:
            if (name := f"{flow.name}/{experiment}") not in made:
                with suppress(ObjectNotFound):
                    client.delete_deployment(client.read_deployment_by_name(name).id)


def schedule_of(cron: str) -> Schedule:
    """Return the schedule of a cron line whose hours are evenly spaced; in a rehearsal, as its clock goes."""
    clock = read_clock()
    if not clock.rehearses:
        return Cron(cron, timezone="UTC")
    minute, hours = (text.split(",") for text in cron.split()[:2])
    first = clock.shown.floor("1D") + pd.Timedelta(hours=int(hours[0]), minutes=int(minute[0]))
    every = pd.Timedelta(days=1) / len(hours) / clock.speed
    anchor = clock.of_machine(first).tz_localize("UTC").to_pydatetime(warn=False)
    return Interval(every.to_pytimedelta(), anchor_date=anchor, timezone="UTC")


def _settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("DACYCLE_")}


def _make_pool(name: str) -> None:
    """Make the work pool, unless it is there, or a worker that starts meanwhile makes it first."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            with suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
