"""Training of an assimilator: from backgrounds and freshly drawn observations to the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dacycle.assimilators.base import Analysis
from dacycle.assimilators.training.backgrounds import Backgrounds
from dacycle.assimilators.training.forecast import POLAR_FLOOR, channel_weights
from dacycle.assimilators.training.module import Training
from dacycle.assimilators.training.observing import WITHHELD, Network, Observing, random_network
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.grid import Grid

__all__ = ["AssimilationTraining", "Samples", "TorchAssimilator", "typical_errors"]

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class TorchAssimilator:
    """A network as an `Assimilator`, not yet exported."""

    network: Any
    grid: Grid
    world: str
    name: str = "in training"
    digest: str = ""

    @property
    def planes(self) -> tuple[str, ...]:
        return tuple(self.network.planes)

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """See `Assimilator.analyse`."""
        with torch.inference_mode():
            found = self.network(*(torch.from_numpy(x) for x in (background, values, errors)))
        return Analysis(*(part.numpy() for part in found))


@dataclass(frozen=True, eq=False)
class Samples(Dataset[Batch]):
    """Samples (state, values, errors, target), each with observations of its own.

    state (69, H, W): the background, normalised. values, errors (69 + M, H, W): superobs in SI units. target
    (69, H, W): truth minus background in standard deviations.

    Attributes:
        backgrounds: their errors.
        observing: draws the observations; the truth is its world's reference.
        order: (n,) which backgrounds, in turn.
        seed: of the observations: one number a pass.
        whole: whether all observe with the whole network.
    """

    backgrounds: Backgrounds
    observing: Observing
    order: NDArray[np.int64]
    seed: int
    whole: bool = False

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, item: int) -> Batch:
        sample = int(self.order[item])
        world = self.observing.world
        generator = np.random.default_rng([self.seed, item])
        network = Network(1 - WITHHELD) if self.whole else random_network(generator, self.observing.names)
        error = self.backgrounds.errors[sample].astype(np.float32)
        time = self.backgrounds.times[sample]
        state = world.statistics.normalise(world.reference.array(time)) + error
        background = world.statistics.denormalise(state)
        drawn = self.observing.draw(time, background, network, generator)
        parts = (state, drawn.values, drawn.errors, -error)
        return tuple(torch.from_numpy(part) for part in parts)  # type: ignore[return-value]


def typical_errors(backgrounds: Backgrounds, weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """(69,) area-weighted root mean square of the backgrounds' errors, in standard deviations."""
    chosen = backgrounds.errors[:: max(len(backgrounds.errors) // 500, 1)].astype(np.float32)
    return np.sqrt((chosen**2 * weights).mean(axis=(0, 2, 3))).astype(np.float32)


class AssimilationTraining(Training):
    """Trains a network whose `estimate` gives increment and spread in units of its ``error``.

    Its loss is weighted by channel and by cell area, like the forecast model's.

    Args:
        network: with `estimate`, and ``error`` (69, 1, 1).
        loss: of increment, spread and target.
        recipe: its other settings.
        area: (H, W) weights of the cells.
        samples: those of an epoch.
        held_out: to validate with.
        epochs, learning_rate: of this training.
    """

    loss_weights: Tensor
    area: Tensor

    def __init__(
        self,
        network: Any,
        loss: Loss,
        recipe: AssimilatorRecipe,
        area: NDArray[np.floating],
        samples: Callable[[int], Samples],
        held_out: Samples,
        epochs: int,
        learning_rate: float,
    ) -> None:
        super().__init__(network, recipe)
        self.loss, self.samples, self.held_out = loss, samples, held_out
        self.epochs, self.rate = epochs, learning_rate
        weights = channel_weights(recipe.top_weight)
        cells = np.maximum(area, POLAR_FLOOR).astype(np.float32)
        loss_weights = (weights / weights.mean())[:, None, None] * (cells / cells.mean())
        self.register_buffer("loss_weights", torch.from_numpy(loss_weights), persistent=False)
        self.register_buffer("area", torch.from_numpy(np.asarray(area, np.float32)), persistent=False)
        # Kept out of the module tree: it shares the network's weights.
        self._estimate = torch.compile(network.estimate) if recipe.compile else network.estimate

    @property
    def updates(self) -> int:
        return self.epochs * (len(self.samples(0)) // self.recipe.batch)

    @property
    def learning_rate(self) -> float:
        """The highest."""
        return self.rate

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        state, values, errors, target = batch
        with self.mixed():
            increment, spread = self._estimate(state, values, errors)
        loss = self.loss(increment, spread, target / self.network.error)
        return self.checked((loss * self.loss_weights).mean(), batch_index)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        state, values, errors, target = batch
        increment, spread = self.average.estimate(state, values, errors)
        left = increment - target / self.average.error
        self.log("validation_loss", (self.loss(increment, spread, left + increment) * self.loss_weights).mean())
        self.log("overall_mse", (left.square() * self.area).mean())
        self.log("spread_mse", (spread.square() * self.area).mean())
        for name in HEADLINE:
            i = index(name)
            before = (target[:, i].square() * self.area).mean()
            share = (left[:, i] * self.average.error[i]).square()
            self.log(f"{name}_mse", (share * self.area).mean() * self.average.std[i].item() ** 2)
            self.log(f"{name}_background_mse", before * self.average.std[i].item() ** 2)

    def train_dataloader(self) -> DataLoader[Batch]:
        samples = self.samples(self.trainer.current_epoch)
        return DataLoader(samples, self.recipe.batch, drop_last=True, num_workers=self.recipe.workers)

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.held_out, self.recipe.batch)
