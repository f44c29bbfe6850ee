"""Training of an observation operator, and its run in its folder (`training.folder`, `training.loop`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dacycle.assimilators.exceptions import DataError
from dacycle.assimilators.networks.observation_operator import (
    OperatorConstants,
    OperatorNetwork,
    OperatorSize,
    likelihood_loss,
    negative_log_likelihood,
)
from dacycle.assimilators.training.data import Year, data_digest, load_states, read_years
from dacycle.assimilators.training.folder import begin_run, check_folder, write_record
from dacycle.assimilators.training.loop import read_trained, run_epochs
from dacycle.assimilators.training.module import Training
from dacycle.assimilators.training.recipe import OperatorRecipe, network_size
from dacycle.forecast_adapter.models.mini import static_planes
from dacycle.forecast_adapter.worlds.reference import Reference, ReferenceDataError
from dacycle.forecast_adapter.worlds.world import World, load_world
from dacycle.obs_ingest.operators.learned import LEARNED

__all__ = ["ObservedYear", "OperatorTraining", "fit_operator", "load_year", "read_operator_run", "train_operator"]


@dataclass(frozen=True, eq=False)
class ObservedYear(Year):
    """Hold a year and its ``planes`` (n, 2, H, W) float32, SI: precipitation and OLR over the 6 h before each time."""

    planes: Tensor


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Hold all pairs of consecutive states (2, 69, H, W) with the planes of the 6 h between; none across years."""

    def __init__(self, years: list[ObservedYear]) -> None:
        self.years = years
        self.ends = [(number, i) for number, year in enumerate(years) for i in range(1, len(year.times))]

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        number, i = self.ends[index]
        year = self.years[number]
        return year.some(slice(i - 1, i + 1)), year.planes[i]


class OperatorTraining(Training):
    """Train an `OperatorNetwork`; ``years`` are those of training and of validation."""

    def __init__(self, network: OperatorNetwork, recipe: OperatorRecipe, area: NDArray[np.floating]) -> None:
        super().__init__(network, recipe, area)
        self.years: tuple[list[ObservedYear], list[ObservedYear]] = ([], [])

    @property
    def updates(self) -> int:
        """Updates of all epochs."""
        return int(self.recipe.epochs * (len(Pairs(self.years[0])) // self.recipe.batch))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        estimate = self._estimate(self.network, batch)
        return self.checked((likelihood_loss(*estimate) * self.area).mean(), batch_index)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        mean, error, target = self._estimate(self.average, batch)
        self.log("validation_loss", (negative_log_likelihood(mean, error, target) * self.area).mean())
        squared = ((mean - target) * self.average.plane_std).square() * self.area
        for name, value in zip(LEARNED, squared.mean((0, 2, 3)), strict=True):
            self.log(f"{name}_mse", value)

    def _estimate(self, network: Any, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return means, errors and the truth, each (B, 2, H, W) in units of the planes' standard deviations."""
        states, planes = batch
        with self.mixed():
            mean, error = network.estimate(states.mean(1))
        return mean.float(), error.float(), (planes - network.offset) / network.plane_std

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        pairs = Pairs(self.years[0])
        # A fixed list, not a shuffling sampler, because Lightning asks for the order more often in a resumed run.
        order = np.random.default_rng([self.recipe.seed, self.trainer.current_epoch]).permutation(len(pairs)).tolist()
        return DataLoader(pairs, self.recipe.batch, sampler=order, drop_last=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        pairs = Pairs(self.years[1])
        return DataLoader(pairs, self.recipe.batch, sampler=range(0, len(pairs), 5))


def train_operator(recipe: OperatorRecipe, folder: Path) -> Path:
    """Train the observation operator of a recipe in `folder`, or resume its run. Returns the checkpoint.

    Raises:
        RecipeError: another recipe's run is in the folder, or the network's size has an unknown entry.
        DataError: the data are incomplete, not finite or on another grid; nothing has been written.
        TrainingError: the loss is no longer a number.
    """
    check_folder(recipe, folder)
    world = load_world(recipe.world)
    training, validation = (
        read_years(recipe.data, years, lambda reference, times: load_year(reference, times, world))
        for years in (recipe.training_years, recipe.validation_years)
    )
    return fit_operator(recipe, folder, world, training, validation)


def load_year(reference: Reference, times: NDArray[np.datetime64], world: World) -> ObservedYear:
    """Read states and planes at `times`. DataError as `load_states`, and where a plane is missing or not finite."""
    year = load_states(reference, times, world.grid, world.statistics)
    try:
        surface = [reference.surface(time, LEARNED) for time in times]
    except ReferenceDataError as error:
        raise DataError(f"{error}: an operator needs {' and '.join(LEARNED)}") from error
    planes = np.stack([[fields[name].values for name in LEARNED] for fields in surface])
    if not np.isfinite(planes).all():
        time = times[np.argmax(~np.isfinite(planes).all((1, 2, 3)))]
        raise DataError(f"{reference.folder}: values at {time} are not finite in {' or '.join(LEARNED)}")
    return ObservedYear(year.times, year.states, torch.from_numpy(planes))


def fit_operator(
    recipe: OperatorRecipe, folder: Path, world: World, training: list[ObservedYear], validation: list[ObservedYear]
) -> Path:
    """Train as `train_operator` does, on data already in memory."""
    begin_run(recipe, folder)
    constants = _constants(world, training)
    network = _build(recipe, constants)
    write_record(recipe, folder, world, constants, network, _digest(training), len(Pairs(training)))
    module = OperatorTraining(network, recipe, world.grid.weights)
    module.years = (training, validation)
    return run_epochs(module, folder, recipe.epochs)


def read_operator_run(folder: Path) -> tuple[OperatorRecipe, dict[str, Any], OperatorNetwork]:
    """Return the recipe, the record and the network of a run; see `read_trained`."""
    return read_trained(
        OperatorRecipe, folder, lambda recipe, constants: _build(recipe, OperatorConstants(**constants))
    )


def _build(recipe: OperatorRecipe, constants: OperatorConstants) -> OperatorNetwork:
    return OperatorNetwork(constants, network_size(OperatorSize, recipe.network))


def _constants(world: World, years: list[ObservedYear]) -> OperatorConstants:
    statistics, area = world.statistics, torch.from_numpy(world.grid.weights).double()
    planes = torch.cat([year.planes for year in years]).double()
    mean = (planes * area).mean((0, 2, 3))
    variance = ((planes - mean[:, None, None]).square() * area).mean((0, 2, 3))
    return OperatorConstants(
        mean=statistics.mean,
        std=statistics.std,
        plane_mean=mean.numpy().astype(np.float32),
        plane_std=variance.sqrt().numpy().astype(np.float32),
        static=static_planes(world.grid.latitude, world.orography, world.land_fraction),
    )


def _digest(years: list[ObservedYear]) -> str:
    """Return the SHA-256 of times, normalised states and planes."""
    digest = hashlib.sha256(data_digest(list(years)).encode())
    for year in years:
        digest.update(year.planes.numpy().data)
    return digest.hexdigest()
