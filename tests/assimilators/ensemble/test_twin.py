"""A perfect-model twin: the truth is a free run of `mini` itself, so that only the filter is judged.

The network and the errors are those of the SPEEDY experiments of Kotsuki et al. 2022 (doi:10.5194/gmd-15-8325-2022):
415 sites every 6 h with u, v and t on 7 levels, q on the lowest 4, and the pressure; 40 members. Theirs has a first
guess of T500 with an error of 0.48 K, 0.12 of that of a free run, and a spread of about its size.

    python -m pytest -m trial -s tests/assimilators/ensemble/test_twin.py
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from dacycle import obs_ingest
from dacycle.assimilators.ensemble.algebra import spread
from dacycle.assimilators.ensemble.filters import EnsembleFilter
from dacycle.assimilators.ensemble.filters import load as load_filter
from dacycle.assimilators.ensemble.settings import EnsembleSettings
from dacycle.forecast_adapter.channels import GROUPS, NAMES, index
from dacycle.forecast_adapter.models.model import ForecastModel, load_model
from dacycle.forecast_adapter.worlds.world import World, load_world

SITES, SPIN_UP, CYCLES = 415, 40, 80
ERRORS = {"u": 1.0, "v": 1.0, "t": 1.0, "q": 1e-3}
LEVELS = {"u": (100, 200, 300, 500, 700, 850, 925), "q": (500, 700, 850, 925)}


@dataclass
class Twin:
    """Hold root mean squares over the globe, (cycles, 69): errors of first guesses, spread, errors of a free run."""

    error: NDArray
    spread: NDArray
    free: NDArray

    def mean(self, name: str, channel: str) -> float:
        """Return the root mean square over the cycles after the spin-up."""
        return float(np.sqrt(np.square(getattr(self, name)[SPIN_UP:, index(channel)]).mean()))


def errors_of_network(world: World) -> NDArray:
    """Return the errors of the superobs of 415 sites, (69, H, W): those of a value over the root of their number."""
    folder = Path(obs_ingest.__file__).parent / "station_network"
    sondes, stations = (pd.read_csv(folder / name) for name in ("sondes.csv", "stations.csv"))
    chosen = stations.iloc[:: max(1, len(stations) // (SITES - len(sondes)))] if len(sondes) < SITES else stations[:0]
    sites = pd.concat([sondes, chosen])[:SITES]
    assert len(sites) == SITES
    rows = np.abs(world.grid.latitude[:, None] - sites["latitude"].to_numpy()).argmin(axis=0)
    turn = (world.grid.longitude[:, None] - sites["longitude"].to_numpy() + 180) % 360 - 180
    number = np.zeros(world.grid.shape)
    np.add.at(number, (rows, np.abs(turn).argmin(axis=0)), 1)
    errors = np.zeros((len(NAMES), *world.grid.shape), np.float32)
    observed = {f"{v}{level}": e for v, e in ERRORS.items() for level in LEVELS.get(v, LEVELS["u"])} | {"msl": 100.0}
    for name, error in observed.items():
        errors[index(name)] = np.divide(error, np.sqrt(number), out=np.zeros_like(number), where=number > 0)
    return errors


def truth_of(model: ForecastModel, world: World, steps: int) -> Iterator[NDArray]:
    """Yield states (69, H, W) of a free run of the model from the first states of the reference."""
    times = world.reference.times
    for state in model.forecast(*(world.reference.array(time)[None] for time in times[:2]), steps):
        yield state[0]


def run(world: World, model: ForecastModel, settings: EnsembleSettings, lag: int = 8, before: int = 40) -> Twin:
    """Cycle a filter over a free run of the model, begun from its states `lag` steps earlier.

    Args:
        world, model: of the twin.
        settings: of the filter.
        lag: in steps of 6 h; the free run that the error is compared with begins there, too.
        before: steps of the free run before the first cycle.
    """
    truth = list(truth_of(model, world, before + CYCLES))
    method: EnsembleFilter = load_filter("letkf", world, settings)
    errors, generator = errors_of_network(world), np.random.default_rng(0)
    planes = np.zeros((len(method.planes), *world.grid.shape), np.float32)
    frames = [truth[before - lag - 2], truth[before - lag - 1]]
    perturbations = [method.first_members(generator)] * 2
    alone = [state[0] for state in model.forecast(*(frame[None] for frame in frames), CYCLES)]
    found: list[list[NDArray]] = []

    def size(fields: NDArray) -> NDArray:
        return np.sqrt((fields.astype(np.float64) ** 2 * world.grid.weights).mean(axis=(1, 2)))

    for cycle in range(CYCLES):
        members = [frame + around for frame, around in zip(frames, perturbations, strict=True)]
        for some in members:
            some[:, GROUPS["q"]] = np.maximum(some[:, GROUPS["q"]], 0)
        background, around = method.background(next(iter(model.forecast(*members, 1))), generator)
        state = truth[before + cycle]
        values = np.where(errors > 0, state + errors * generator.standard_normal(state.shape), 0).astype(np.float32)
        values[GROUPS["q"]] = np.maximum(values[GROUPS["q"]], 0)
        analysis = method.with_members(around, generator).analyse(
            background[None], np.concatenate([values, planes])[None], np.concatenate([errors, planes])[None]
        )
        found.append([size(background - state), size(spread(around)), size(alone[cycle] - state)])
        assert analysis.members is not None
        newest = analysis.state[0]
        newest[GROUPS["q"]] = np.maximum(newest[GROUPS["q"]], 0)
        frames, perturbations = [frames[1], newest], [perturbations[1], analysis.members[0]]
    return Twin(*np.moveaxis(np.array(found), 1, 0))


@pytest.mark.trial
def test_a_perfect_model_twin() -> None:
    world = load_world("demonstration")
    settings = EnsembleSettings(members=40, additive=0.0, rtps=0.9, inflation="none", vertical_lnp="none")
    twin = run(world, load_model("mini"), settings)
    for channel in ("t500", "z500", "u500", "msl", "q700"):
        error, of_members, free = (twin.mean(name, channel) for name in ("error", "spread", "free"))
        ratios = f"spread / error {of_members / error:.2f}, error / that of a free run {error / free:.3f}"
        print(f"{channel}: first guess {error:.3g}, {ratios}")
        assert error < 0.13 * free
    assert twin.mean("error", "t500") < 0.5
    assert 0.8 < twin.mean("spread", "t500") / twin.mean("error", "t500") < 1.2
