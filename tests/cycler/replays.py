"""Replays of four cycles in the tiny world, and what two archives must have in common."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dacycle import obs_ingest
from dacycle.assimilators.classical.background_error import BackgroundError, Tuning
from dacycle.assimilators.variational.estimation import estimate_covariance
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle import run_cycle
from dacycle.cycler.cycle.collect import Observed
from dacycle.cycler.cycle.inputs import Inputs
from dacycle.cycler.experiment import Experiment, parse_experiment, write_experiment
from dacycle.forecast_adapter.models.gradient import gradient_path
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import World
from tests.cycler.experiments import base
from tests.worlds import GRID, register_doubles, smooth

NETWORK = Path(obs_ingest.__file__).parent / "station_network/stations.csv"
START, LAST = pd.Timestamp("2024-01-03T12"), pd.Timestamp("2024-01-04T06")


def content(world: Path, model: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Return an experiment of four cycles with 120 stations and the `nudge` assimilator, as its file would hold it."""
    register_doubles()
    network = folder / "network.csv"
    if not network.exists():
        pd.read_csv(NETWORK)[::15].to_csv(network, index=False)
    stations = {"source": "stations", "network": str(network), "cutoff": "3h"}
    usual = {
        "assimilator": "nudge",
        "observations": [stations],
        "guards": {"minimum_observations": 10, "fallbacks_in_a_row": 2},
    }
    return base("demo", world, model, START, LAST, **(usual | changes))


def with_members(folder: Path, world: World, method: str = "hybrid", **settings: Any) -> dict[str, Any]:
    """Return the changes that make an experiment one of an ensemble, after writing its static ensemble."""
    path = folder / "static.nc"
    if not path.exists():
        noise = smooth(np.random.default_rng(1), 24 * 69).reshape(24, 69, *GRID.shape)
        samples = (0.8 * world.statistics.std[:, None, None] * noise).astype(np.float32)
        BackgroundError.from_samples(samples, GRID, world.name, Tuning(0.5)).save(path)
    return {"assimilator": method, "ensemble": {"members": 8, "static": str(path), **settings}}


def with_window(folder: Path, world: World, model: Path, window: str = "12h", **settings: Any) -> dict[str, Any]:
    """Return the changes that make an experiment one of 4D-Var; write its covariance and the model's gradient."""
    from dacycle.assimilators.export.gradient import export_gradient  # needs torch

    path = folder / "covariance.nc"
    if not path.exists():
        noise = smooth(np.random.default_rng(1), 80 * 69).reshape(80, 69, *GRID.shape)
        samples = (0.4 * world.statistics.std[:, None, None] * noise).astype(np.float32)
        estimate_covariance(samples, GRID, world.name, 8).save(path)
    if not gradient_path(model).is_file():
        export_gradient(load_model(model))
    return {"assimilator": "4dvar", "variational": {"covariance": str(path), "window": window, **settings}}


def experiment(content: dict[str, Any]) -> Experiment:
    """Return the experiment that a file with this content describes."""
    return parse_experiment(write_experiment(content), "demo.yaml")


def break_observations(patch: pytest.MonkeyPatch, name: str, since: pd.Timestamp) -> None:
    """Let the guards reject every analysis of a run from a cycle on: its observed values are half as large again."""
    original = run_cycle.collect

    def broken(inputs: Inputs, readings: Any, time: pd.Timestamp, *rest: Any) -> Observed:
        observed = original(inputs, readings, time, *rest)
        if inputs.experiment.name == name and time >= since:
            observed.gridded.values[observed.gridded.errors > 0] *= np.float32(1.5)
        return observed

    patch.setattr(run_cycle, "collect", broken)


def everything(archive: Path, name: str = "demo") -> dict[str, Any]:
    """Return everything that an experiment has published: arrays as bytes, departures, records."""
    branch = Archive(archive).branch(name)
    found: dict[str, Any] = {"records": branch.records}
    for group in ("analysis", "background"):
        dataset = getattr(branch, group).load()
        found |= {f"{group}/{key}": np.asarray(v).tobytes() for key, v in dataset.variables.items()}
    for group in ("members", "smoothed", "smoothed_members"):
        if len(branch.archive.states.times(name, group)):
            dataset = branch.archive.states.dataset(name, group).load()
            found |= {f"{group}/{key}": np.asarray(v).tobytes() for key, v in dataset.variables.items()}
    files = sorted((branch.folder / "departures").iterdir())
    return found | {path.name: path.read_bytes() for path in files}
