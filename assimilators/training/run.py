"""The training run of a forecast model, in its folder (`training.folder`, `training.loop`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch

from dacycle.assimilators.exceptions import TrainingError
from dacycle.assimilators.sampling.backgrounds import year_times
from dacycle.assimilators.training.data import (
    Year,
    data_digest,
    load_states,
    season_weights,
    step_deviation,
)
from dacycle.assimilators.training.folder import (
    check_folder,
    load_average,
    read_constants,
    read_record,
    write_record,
)
from dacycle.assimilators.training.forecast import ForecastTraining
from dacycle.assimilators.training.loop import checkpoint_of, minutes_of, run_epochs
from dacycle.assimilators.training.recipe import ForecastRecipe, network_size
from dacycle.forecast_adapter.channels import CHANNELS
from dacycle.forecast_adapter.models.mini import MiniConstants, MiniNetwork, MiniSize, static_planes
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, load_world

__all__ = ["build_network", "fit", "read_run", "train"]


def train(recipe: ForecastRecipe, folder: Path, say: Callable[[str], None] = print) -> Path:
    """Train what the recipe says in `folder`; resumes a run of the same recipe. Returns the checkpoint.

    Raises:
        RecipeError: another recipe's run is in the folder, or the network's size has an unknown entry.
        DataError: the data are incomplete, not finite or on another grid; nothing has been written.
        TrainingError: the loss is no longer a number.
    """
    check_folder(recipe, folder)
    world = load_world(recipe.world)
    training = _load(recipe, recipe.training_years, world, say)
    validation = _load(recipe, recipe.validation_years, world, say)
    return fit(recipe, folder, world, training, validation, say)


def fit(
    recipe: ForecastRecipe,
    folder: Path,
    world: World,
    training: list[Year],
    validation: list[Year],
    say: Callable[[str], None] = print,
) -> Path:
    """`train` on data already in memory."""
    check_folder(recipe, folder)
    torch.set_num_threads(recipe.threads)
    lightning.seed_everything(recipe.seed, verbose=False)
    constants = _constants(recipe, world, training)
    network = build_network(recipe, constants)
    samples = sum(len(year.times) for year in training)
    write_record(recipe, folder, world, constants, network, data_digest(training), samples)
    module = ForecastTraining(network, recipe, world.grid.weights)
    module.years = (training, validation)
    return run_epochs(module, folder, recipe.epochs, say)


def build_network(recipe: ForecastRecipe, constants: MiniConstants) -> MiniNetwork:
    """The network of a recipe, with fresh weights. RecipeError where its size has unknown entries."""
    return MiniNetwork(constants, network_size(MiniSize, recipe.network))


def read_run(folder: Path) -> tuple[ForecastRecipe, dict[str, Any], MiniNetwork]:
    """A forecast model's run: its recipe, record and network, with the averaged weights of its last checkpoint.

    Raises TrainingError where the folder holds no such run, or no finished epoch.
    """
    recipe, record = read_record(folder)
    if not isinstance(recipe, ForecastRecipe):
        raise TrainingError(f"{folder}: a run of kind {recipe.kind}, not of a forecast model")
    network = build_network(recipe, MiniConstants(**read_constants(folder)))
    record["epochs_done"] = load_average(network, checkpoint_of(folder))
    record["minutes"] = round(minutes_of(folder))
    return recipe, record, network.eval()


def _load(recipe: ForecastRecipe, years: list[int], world: World, say: Callable[[str], None]) -> list[Year]:
    loaded = []
    for year in years:
        folder = Path(recipe.data) / str(year)
        say(f"reading {folder}")
        loaded.append(load_states(Reference(folder), year_times(year), world.grid, world.statistics))
    return loaded


def _constants(recipe: ForecastRecipe, world: World, years: list[Year]) -> MiniConstants:
    statistics = world.statistics
    climate = world.climatology.coefficients.copy()
    climate[0] -= statistics.mean[:, None, None]
    humidity = np.array([channel.variable == "q" for channel in CHANNELS])
    return MiniConstants(
        mean=statistics.mean,
        std=statistics.std,
        step_std=(step_deviation(years, world.grid.weights) * statistics.std).astype(np.float32),
        floor=np.where(humidity, 0.0, -np.inf).astype(np.float32),
        static=static_planes(world.grid.latitude, world.orography, world.land_fraction),
        climate=climate / statistics.std[:, None, None],
        season=season_weights(years),
        relaxation=6 / (24 * recipe.relaxation_days),
    )
