"""The flows on an embedded Prefect server: they do what the plain functions do, and show it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from typer.testing import CliRunner

from dacycle.assimilators.sampling.backgrounds import Backgrounds, write_backgrounds, year_times
from dacycle.common.locks import locked
from dacycle.cycler.archive.branches import Archive, ArchiveError, open_experiment
from dacycle.cycler.cli import app
from dacycle.cycler.cycle import replay
from dacycle.cycler.cycle.run_cycle import Cycle, RunStoppedError
from dacycle.cycler.experiment import load_experiment
from dacycle.cycler.operations import flows
from dacycle.cycler.operations.alerts import alerts_of
from dacycle.cycler.operations.deployments import deploy
from dacycle.cycler.verification.drift import read_scores
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.worlds.model_bias import ModelBias
from dacycle.forecast_adapter.worlds.reference import ReferenceDataError
from dacycle.forecast_adapter.worlds.world import World, load_world
from tests.cycler import replays
from tests.cycler.tiny import CYCLES, END, START, cutoff_passed_until, records, write_experiment
from tests.worlds import register_doubles

pytestmark = pytest.mark.prefect


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("prefect")
    with flows.embedded_server(folder):
        yield folder


def test_a_hindcast_goes_on_and_gives_what_it_gives_without_prefect(world, tmp_path: Path, home: Path) -> None:
    experiment = write_experiment(tmp_path, world)
    described = load_experiment(experiment)
    replay.run_due_cycles(described, Archive(tmp_path / "plain", create=True))
    replay.run_due_cycles(described, Archive(tmp_path / "flow", create=True), limit=2)
    flows.hindcast(str(experiment), str(tmp_path / "flow"))
    assert len(records(tmp_path / "flow")) == 2 + CYCLES
    assert records(tmp_path / "flow") == records(tmp_path / "plain")
    branch = open_experiment(tmp_path / "flow", "tiny")
    assert set(read_scores(branch)["start"]) == {pd.Timestamp("2024-01-03T00")}
    assert (branch.folder / "report/index.html").stat().st_size > 10_000
    assert (home / "prefect.db").exists(), "the embedded server's records belong into the folder it was given"


def test_the_command_line_runs_experiment_and_free_run_with_forecasts_and_report(world, tmp_path: Path) -> None:
    register_doubles()
    drift = {"starts": [0], "lead": "24h", "free_run": True}
    experiment = write_experiment(tmp_path, world, assimilator="nudge", drift=drift)
    options = ["hindcast", str(experiment), "--archive", str(tmp_path / "archive"), "--prefect"]
    assert CliRunner().invoke(app, [*options, "--limit", "2"]).exit_code == 2, "a flow runs the whole experiment"
    ran = CliRunner().invoke(app, options)
    assert ran.exit_code == 0, ran.output
    for name in ("tiny", "tiny-free"):
        branch = open_experiment(tmp_path / "archive", name)
        assert len(branch.records) == 2 + CYCLES
        assert set(read_scores(branch)["start"]) == {pd.Timestamp("2024-01-03T00")}
    assert (tmp_path / "archive/branches/tiny/report/index.html").stat().st_size > 10_000


def test_a_woken_flow_runs_all_that_is_due_in_order_and_nothing_more(world, tmp_path: Path) -> None:
    last = START + pd.Timedelta(hours=12)
    experiment = write_experiment(tmp_path, world, end=None, observations=cutoff_passed_until(last))
    assert flows.cycle(str(experiment), str(tmp_path / "archive")) == ["20240102T12", "20240102T18", "20240103T00"]
    assert flows.cycle(str(experiment), str(tmp_path / "archive")) == []


def test_the_card_shows_the_newest_cycle_and_why_it_is_not_well(world, tmp_path: Path) -> None:
    guards = {"minimum_observations": 10_000_000}
    experiment = write_experiment(tmp_path, world, "Sparse_1", guards=guards)
    flows.cycle(str(experiment), str(tmp_path / "archive"))
    card = Artifact.get("cycle-sparse-1")
    assert card is not None
    assert f"Sparse_1 {END:%Y%m%dT%H}: degraded" in card.data
    assert "fewer than 10000000" in card.data


@pytest.mark.parametrize("error", [StateError, ReferenceDataError, OSError])
def test_a_task_is_tried_again_after_what_may_pass(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A file in transfer, a network, a disk: the cycles that are committed stay, and the rest follows."""
    run, calls = replay.run_due_cycles, []

    def failing_after_a_cycle(*arguments: Any, **options: Any) -> list[Cycle]:
        calls.append(arguments)
        if len(calls) == 1:
            run(*arguments, **options, limit=1)
            raise error("06.grib2, 2024-01-02T06: truncated")
        return run(*arguments, **options)

    monkeypatch.setattr(replay, "run_due_cycles", failing_after_a_cycle)
    monkeypatch.setattr(flows, "replay_stretch", flows.replay_stretch.with_options(retry_delay_seconds=0))
    flows.hindcast(str(write_experiment(tmp_path, world)), str(tmp_path / "archive"))
    assert len(calls) > 1
    assert len(records(tmp_path / "archive")) == 2 + CYCLES


def test_a_changed_experiment_fails_the_flow_with_the_reason(world, tmp_path: Path) -> None:
    flows.cycle(str(write_experiment(tmp_path, world)), str(tmp_path / "archive"))
    changed = write_experiment(tmp_path, world, seed=2)
    with pytest.raises(ArchiveError, match="seed: 1 at its first cycle, now 2"):
        flows.cycle(str(changed), str(tmp_path / "archive"))


def test_forecasts_flow_makes_what_is_due(world, tmp_path: Path) -> None:
    experiment, archive = str(write_experiment(tmp_path, world)), str(tmp_path / "archive")
    flows.cycle(experiment, archive)
    assert flows.forecasts(experiment, archive) == ["20240103T00"]
    assert flows.forecasts(experiment, archive) == []


def write_bias_recipe(folder: Path, world: World, model: Path) -> Path:
    """Write backgrounds with errors, and the recipe that estimates the model's mean error from them."""
    times = year_times(2020)
    errors = np.full((len(times), 69, *world.grid.shape), 0.4, np.float16)
    (folder / "backgrounds").mkdir()
    store = Backgrounds(times, np.full(len(times), 24), errors, load_model(str(model)).digest)
    write_backgrounds(store, folder / "backgrounds/2020-01.nc", world)
    path = folder / "bias.yaml"
    content = f"{{kind: bias, world: {world.folder}, model: {model}, backgrounds: {folder}/backgrounds, years: [2020]}}"
    path.write_text(content)
    return path


# --- a late chain, verification and training --------------------------------------------------------------------------


def write_late(folder: Path, world: Any, **changes: Any) -> str:
    """Write an experiment with a late chain; return its path."""
    register_doubles()
    guards = {"minimum_observations": 10, "fallbacks_in_a_row": 1}
    asked = {"assimilator": "nudge", "late": {"cutoff": "15h"}, "guards": guards}
    return str(write_experiment(folder, world, **(asked | changes)))


def test_flows_run_the_late_chain_first_and_by_itself(world, tmp_path: Path) -> None:
    experiment, archive = write_late(tmp_path, world), str(tmp_path / "archive")
    assert len(flows.cycle(experiment, archive)) == CYCLES
    needed = END - pd.Timedelta("12h")
    assert records(tmp_path / "archive", "tiny-late")[-1].time == needed, "no more than the cycles need"
    assert flows.late(experiment, archive) == ["20240103T06", "20240103T12"]
    assert flows.verification(experiment, archive) == []
    assert flows.forecasts(experiment, archive) == ["20240103T00"]

    flows.hindcast(experiment, str(tmp_path / "hindcast"))
    assert records(tmp_path / "hindcast") == records(tmp_path / "archive")
    assert {record.start["from"] for record in records(tmp_path / "hindcast")[2:]} == {"tiny-late"}


def test_a_late_chain_that_stops_fails_its_own_flow_only(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, archive = write_late(tmp_path, world), str(tmp_path / "archive")
    replays.break_observations(monkeypatch, "tiny-late", START)
    assert len(flows.cycle(experiment, archive)) == CYCLES
    statuses = [record.status for record in records(tmp_path / "archive")[2:]]
    assert statuses == ["ok", "ok", "ok", "ok", "degraded"]
    with pytest.raises(RunStoppedError, match="tiny-late: 2 cycles in a row fell back"):
        flows.late(experiment, archive)
    late = open_experiment(tmp_path / "archive", "tiny-late")
    assert "fallback" in {alert.key for alert in alerts_of(late) if alert.ended is None}, "it is told all the same"
    hindcast = str(tmp_path / "hindcast")
    with pytest.raises(RunStoppedError, match="tiny-late: 2 cycles in a row fell back"):
        flows.hindcast(experiment, hindcast)
    assert len(records(tmp_path / "hindcast")) == 2 + CYCLES, "the experiment goes on to its end"


def test_a_free_run_that_stops_does_not_stop_the_experiment(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"drift": {"starts": [0], "lead": "24h"}, "end": None, "observations": cutoff_passed_until(END)}
    experiment, archive = str(write_experiment(tmp_path, world, **asked)), str(tmp_path / "archive")
    run_due_cycles, told = replay.run_due_cycles, []

    def stopped(run, *arguments, **options):
        if run.name == "tiny-free":
            raise RunStoppedError("it has left its range")
        return run_due_cycles(run, *arguments, **options)

    monkeypatch.setattr(replay, "run_due_cycles", stopped)
    monkeypatch.setattr(flows, "watch", lambda branch, *_: told.append(branch.name) or [])
    assert len(flows.cycle(experiment, archive)) == CYCLES
    assert told == ["tiny"]


def test_deployments_that_a_file_no_longer_asks_for_are_removed(world, tmp_path: Path) -> None:
    path = write_experiment(tmp_path, world, end=None)
    deploy(path, tmp_path / "archive", "dacycle")
    path.write_text(path.read_text() + f"\nend: {END:%Y-%m-%dT%H}\n")
    deploy(path, tmp_path / "archive", "dacycle")
    with get_client(sync_client=True) as client:
        names = {deployment.name for deployment in client.read_deployments()}
        assert names == {"tiny"}
        assert client.read_deployment_by_name("hindcast/tiny")
        with pytest.raises(ObjectNotFound):
            client.read_deployment_by_name("cycle/tiny")


def test_a_worker_that_makes_the_pool_meanwhile_does_no_harm(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, look = write_experiment(tmp_path, world), SyncPrefectClient.read_work_pool

    def made_just_after(client: SyncPrefectClient, name: str) -> None:
        monkeypatch.setattr(SyncPrefectClient, "read_work_pool", look)
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        raise ObjectNotFound(http_exc=Exception("not yet"))

    monkeypatch.setattr(SyncPrefectClient, "read_work_pool", made_just_after)
    assert [made.name for made in deploy(path, tmp_path / "archive", "of a worker")]


def test_training_runs_a_recipe_in_its_own_process(world, tmp_path: Path) -> None:
    recipe = write_bias_recipe(tmp_path, load_world(world.folder), world.model)
    folder = flows.training(str(recipe), str(tmp_path / "run"))
    assert ModelBias.load(Path(folder) / "bias.nc").grid.name == "5.625deg"
    recipe.write_text(recipe.read_text().replace("[2020]", "[1999]"))
    with pytest.raises(flows.TrainingError, match=r"ended with status 2: .*1999"):
        flows.training(str(recipe), str(tmp_path / "run"))
    with locked(tmp_path / "run/.lock", "it", ArchiveError), pytest.raises(flows.TrainingError, match="written by"):
        flows.training(str(recipe), str(tmp_path / "run"))
