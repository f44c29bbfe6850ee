"""The training run of a forecast model, in its folder (`training.folder`, `training.loop`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.exceptions import RecipeError
from dacycle.assimilators.networks.weights import give_weights, stored_tensors
from dacycle.assimilators.training.data import (
    Year,
    data_digest,
    hour_weights,
    load_states,
    read_years,
    season_weights,
    step_deviation,
)
from dacycle.assimilators.training.folder import begin_run, check_folder, write_record
from dacycle.assimilators.training.forecast import ForecastTraining
from dacycle.assimilators.training.loop import read_trained, run_epochs
from dacycle.assimilators.training.module import TOP
from dacycle.assimilators.training.recipe import ForecastRecipe, network_size
from dacycle.forecast_adapter.channels import CHANNELS
from dacycle.forecast_adapter.models.mini import MiniConstants, MiniNetwork, MiniSize, static_planes
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.state import STEP_HOURS
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, load_world

__all__ = ["build_forecast_network", "fit_forecast", "forecast_constants", "read_forecast_run", "train_forecast"]

MARGIN = 0.1
"""How far a forecast may leave the range of the training years, as a share of the range."""


def train_forecast(recipe: ForecastRecipe, folder: Path) -> Path:
    """Train the forecast model of a recipe in `folder`, or resume its run. Returns the checkpoint.

    Raises:
        RecipeError: another recipe's run is in the folder, or the network's size has an unknown entry, or is not that
            of the weights.
        ModelFileError: there is no model with the weights.
        DataError: the data are incomplete, not finite or on another grid; nothing has been written.
        TrainingError: the loss is no longer a number.
    """
    check_folder(recipe, folder)
    world = load_world(recipe.world)
    if recipe.weights:
        _trained(recipe.weights)  # before all the data are read

    def load(reference: Reference, times: NDArray[np.datetime64]) -> Year:
        return load_states(reference, times, world.grid, world.statistics)

    years = (recipe.training_years, recipe.validation_years)
    training, validation = (read_years(recipe.data, some_years, load) for some_years in years)
    return fit_forecast(recipe, folder, world, training, validation)


def fit_forecast(
    recipe: ForecastRecipe, folder: Path, world: World, training: list[Year], validation: list[Year]
) -> Path:
    """Train as `train_forecast` does, on data already in memory."""
    begin_run(recipe, folder)
    constants = forecast_constants(recipe, world, training)
    network = build_forecast_network(recipe, constants)
    if recipe.weights:
        _begin_with(network, *_trained(recipe.weights))
    samples = sum(len(year.times) for year in training)
    write_record(recipe, folder, world, constants, network, data_digest(training), samples)
    module = ForecastTraining(network, recipe, world.grid.weights)
    module.years = (training, validation)
    return run_epochs(module, folder, recipe.epochs)


def build_forecast_network(recipe: ForecastRecipe, constants: MiniConstants) -> MiniNetwork:
    """Return the network of a recipe, with fresh weights. RecipeError where its size has unknown entries."""
    return MiniNetwork(constants, network_size(MiniSize, recipe.network))


def _begin_with(network: MiniNetwork, tensors: Mapping[str, NDArray], source: Path) -> None:
    """Give a network trained weights. Blocks that it has beyond those of the source change nothing at first.

    Raises:
        RecipeError: they are weights of another network, or of one with more blocks.
    """
    given, blocks = _blocks(tensors), _blocks(name for name, _ in network.named_parameters())
    if more := given - blocks:
        raise RecipeError(f"weights: {source} has {len(more)} blocks more than `network`; its `depth` is {len(given)}")
    own = {
        name: np.zeros(weight.shape, np.float32) if ".narrow." in name else weight.detach().numpy()
        for name, weight in network.named_parameters()
        if _blocks([name]) - given
    }
    give_weights(network, {**own, **tensors}, source)


def _blocks(names: Iterable[str]) -> set[str]:
    """Return the numbers of the blocks on the coarse grid to which named weights belong."""
    return {name.split(".")[1] for name in names if name.startswith("coarse.")}


def _trained(source: str) -> tuple[dict[str, NDArray], Path]:
    """Return the weights of a finished run's folder, or of a model by name or file, and where they are.

    Raises:
        TrainingError: the folder holds no finished run of a forecast model.
        ModelFileError: there is no such model.
    """
    if Path(source).is_dir():
        weights = read_forecast_run(Path(source))[2].named_parameters()
        return {name: values.detach().numpy() for name, values in weights}, Path(source)
    path = load_model(source).path
    return stored_tensors(path), path


def read_forecast_run(folder: Path) -> tuple[ForecastRecipe, dict[str, Any], MiniNetwork]:
    """Return the recipe, the record and the network of a run; see `read_trained`."""
    return read_trained(
        ForecastRecipe, folder, lambda recipe, constants: build_forecast_network(recipe, MiniConstants(**constants))
    )


def _relaxation(recipe: ForecastRecipe) -> NDArray[np.float32]:
    """Return (69,) the fraction of the departure from the climate that a step removes, by channel."""
    days = np.where(TOP, recipe.top_relaxation_days or recipe.relaxation_days, recipe.relaxation_days)
    return (STEP_HOURS / (24 * days)).astype(np.float32)


def forecast_constants(recipe: ForecastRecipe, world: World, years: list[Year]) -> MiniConstants:
    """Return what the network takes from the world and from the training years."""
    statistics, season = world.statistics, season_weights(years)
    hour = hour_weights(years, season, world.land_fraction)
    climate = world.climatology.harmonics(daily=hour is not None).copy()
    climate[0] -= statistics.mean[:, None, None]
    humidity = np.array([channel.variable == "q" for channel in CHANNELS])
    lowest = statistics.mean + statistics.std * np.min([year.states.amin((0, 2, 3)) for year in years], axis=0)
    highest = statistics.mean + statistics.std * np.max([year.states.amax((0, 2, 3)) for year in years], axis=0)
    margin = MARGIN * (highest - lowest)
    return MiniConstants(
        mean=statistics.mean,
        std=statistics.std,
        step_std=(step_deviation(years, world.grid.weights) * statistics.std).astype(np.float32),
        floor=np.where(humidity, 0.0, lowest - margin).astype(np.float32),
        ceiling=(highest + margin).astype(np.float32),
        static=static_planes(world.grid.latitude, world.orography, world.land_fraction),
        climate=climate / statistics.std[:, None, None],
        season=season,
        hour=hour,
        relaxation=_relaxation(recipe),
    )
