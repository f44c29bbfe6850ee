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
from dacycle.assimilators.training.closed_loop import ClosedLoop
from dacycle.assimilators.training.module import Training
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.assimilators.training.samples import Batch, Samples
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.grid import Grid

__all__ = ["PREFETCH", "AssimilationTraining", "TorchAssimilator", "typical_errors"]

PREFETCH = 2
"""Batches that each worker prepares ahead."""
Loss = Callable[[Tensor, Tensor | None, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class TorchAssimilator:
    """A network as an `Assimilator`, not yet exported.

    A network with `stepping` is called as its exported graph is: see `dacycle.assimilators.trained.stepping`.
    """

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
        given = [np.ascontiguousarray(part, np.float32) for part in (background, values, errors)]
        stepping = self.network.stepping
        return Analysis(*self._run(*given)) if stepping is None else stepping.analyse(self._run, *given)

    def _run(self, *tensors: NDArray) -> Any:
        with torch.no_grad():  # not in inference mode: a step may differentiate
            return [part.numpy() for part in self.network(*map(torch.from_numpy, tensors))]


def typical_errors(backgrounds: Backgrounds, weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """(69,) area-weighted root mean square of the forecasts' errors, in standard deviations."""
    forecasts = np.flatnonzero(backgrounds.leads != CYCLED)
    chosen = backgrounds.errors[forecasts[:: max(len(forecasts) // 500, 1)]].astype(np.float32)
    return np.sqrt((chosen**2 * weights).mean(axis=(0, 2, 3))).astype(np.float32)


class AssimilationTraining(Training):
    """Trains a network whose `estimate` gives increment and spread in units of its ``error``.

    `estimate_one_way` is trained in its place, which costs half as much. The loss is weighted by channel and by cell
    area, like the forecast model's.

    Args:
        network: with `estimate`, and ``error`` (69, 1, 1).
        loss: of increment, spread and target.
        recipe: its other settings.
        area: (H, W) weights of the cells.
        samples: those of an epoch; a closed loop goes on from the analyses.
        held_out: to validate with.
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
        left = increment - target / self.average.error
        self.log("validation_loss", (self.loss(increment, spread, left + increment) * self.loss_weights).mean())
        self.log("overall_mse", (left.square() * self.area).mean())
        if spread is not None:
            self.log("spread_mse", (spread.square() * self.area).mean())
        for name in HEADLINE:
            i = index(name)
            before = (target[:, i].square() * self.area).mean()
            share = (left[:, i] * self.average.error[i]).square()
            self.log(f"{name}_mse", (share * self.area).mean() * self.average.std[i].item() ** 2)
            self.log(f"{name}_background_mse", before * self.average.std[i].item() ** 2)

    def train_dataloader(self) -> DataLoader[Batch]:
        samples = self.samples(self.trainer.current_epoch)
        self._closed_loop = samples if isinstance(samples, ClosedLoop) else None
        return DataLoader(
            samples, self.recipe.batch, drop_last=True, num_workers=self.recipe.workers, prefetch_factor=PREFETCH
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.held_out, self.recipe.batch)
