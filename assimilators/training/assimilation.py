"""Training of an assimilator: from backgrounds and freshly drawn observations to the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from dacycle.assimilators.base import Analysis
from dacycle.assimilators.sampling.backgrounds import CYCLED, Backgrounds
from dacycle.assimilators.sampling.cycles import CycledModel
from dacycle.assimilators.trained.recent import WithRecent
from dacycle.assimilators.training.closed_loop import ClosedLoop
from dacycle.assimilators.training.module import Training
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.assimilators.training.samples import Batch, Samples
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.relaxation import Relaxation
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["PREFETCH", "AssimilationTraining", "TorchAssimilator", "cycled_model", "takes_recent", "typical_errors"]

PREFETCH = 2
"""Batches that each worker prepares ahead."""
Loss = Callable[[Tensor, Tensor | None, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class TorchAssimilator(WithRecent):
    """Run a network that is not yet exported as an `Assimilator`.

    A network with `stepping` is called like its exported graph: see `dacycle.assimilators.trained.stepping`.
    """

    network: Any
    grid: Grid
    world: str
    name: str = "in training"
    digest: str = ""

    @property
    def planes(self) -> tuple[str, ...]:
        """Observation planes of the network."""
        return tuple(self.network.planes)

    @property
    def recent(self) -> bool:
        """Whether the network takes the departures of the last 24 hours."""
        return takes_recent(self.network)

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Correct B chains' backgrounds; see `Assimilator.analyse`."""
        fields = [np.ascontiguousarray(field, np.float32) for field in (background, values, errors)]
        stepping = self.network.stepping
        return Analysis(*self._run(*fields)) if stepping is None else stepping.analyse(self._run, *fields)

    def _run(self, *tensors: NDArray) -> Any:
        with torch.no_grad():  # not inference mode, because a step may differentiate
            return [output.numpy() for output in self.network(*map(torch.from_numpy, tensors))]


def cycled_model(recipe: AssimilatorRecipe, world: World, threads: int = 1) -> CycledModel:
    """Load the forecast model of a recipe as it cycles in the world of the training."""
    return CycledModel(load_model(recipe.model, threads), recipe.frames, Relaxation.of(world, recipe.relaxation))


def takes_recent(network: Any) -> bool:
    """Return whether a network takes the departures of the last 24 hours."""
    return bool(getattr(network.size, "recent", 0))


def typical_errors(backgrounds: Backgrounds, weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return (69,) the area-weighted root mean square of the forecasts' errors, in standard deviations."""
    forecasts = np.flatnonzero(backgrounds.leads != CYCLED)
    chosen = backgrounds.errors[forecasts[:: max(len(forecasts) // 500, 1)]].astype(np.float32)
    return np.sqrt((chosen**2 * weights).mean(axis=(0, 2, 3))).astype(np.float32)


class AssimilationTraining(Training):
    """Train a network whose `estimate` gives increment and spread in units of its ``error``.

    The training calls `estimate_one_way`, which costs half as much. The loss is weighted by channel and by cell area,
    like the forecast model's.

    Args:
        network: with `estimate`, and ``error`` (69, 1, 1).
        loss: of increment, spread and target.
        recipe: its other settings.
        area: (H, W) weights of the cells.
        samples: returns the samples of an epoch; a closed loop is given the analyses back.
        held_out: samples to validate with.
        epochs, learning_rate: of this round.
    """

    def __init__(
        self,
        network: Any,
        loss: Loss,
        recipe: AssimilatorRecipe,
        area: NDArray[np.floating],
        samples: Callable[[int], Samples | ClosedLoop],
        held_out: Samples,
        epochs: int,
        learning_rate: float,
    ) -> None:
        super().__init__(network, recipe, area, learning_rate)
        self.loss, self.samples, self.held_out, self.epochs = loss, samples, held_out, epochs
        # Kept out of the module tree: it shares the network's weights.
        estimate = network.estimate_one_way
        self._estimate = torch.compile(estimate) if recipe.compile else estimate
        self._closed_loop: ClosedLoop | None = None

    @property
    def updates(self) -> int:
        """Updates of all epochs."""
        return self.epochs * (self.recipe.epoch_samples // self.recipe.batch)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        state, values, errors, target, slots = batch
        with self.mixed():
            increment, spread = self._estimate(state, values, errors)
        loss = self.checked(
            (self.loss(increment, spread, target / self.network.error) * self.loss_weights).mean(), batch_index
        )
        if self._closed_loop is not None:
            self._closed_loop.analysed(slots, state + increment.detach() * self.network.error)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        state, values, errors, target, _ = batch
        increment, spread = self.average.estimate(state, values, errors)
        difference = increment - target / self.average.error
        self.log("validation_loss", (self.loss(increment, spread, difference + increment) * self.loss_weights).mean())
        self.log("overall_mse", (difference.square() * self.area).mean())
        if spread is not None:
            self.log("spread_mse", (spread.square() * self.area).mean())
        for name in HEADLINE:
            i = index(name)
            background = (target[:, i].square() * self.area).mean()
            analysis = (difference[:, i] * self.average.error[i]).square()
            self.log(f"{name}_mse", (analysis * self.area).mean() * self.average.std[i].item() ** 2)
            self.log(f"{name}_background_mse", background * self.average.std[i].item() ** 2)

    def train_dataloader(self) -> DataLoader[Batch]:
        samples = self.samples(self.trainer.current_epoch)
        self._closed_loop = samples if isinstance(samples, ClosedLoop) else None
        return DataLoader(
            samples, self.recipe.batch, drop_last=True, num_workers=self.recipe.workers, prefetch_factor=PREFETCH
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.held_out, self.recipe.batch)
