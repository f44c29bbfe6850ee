"""Training of a prior: on backgrounds and their errors, and on observations where the prior is conditional on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dacycle.assimilators.training.module import Training
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.assimilators.training.samples import ErrorPairs, Samples

__all__ = ["PriorTraining"]


class PriorTraining(Training):
    """Train a `PriorNetwork` by its own loss. Its quality in analyses is measured by cycles after the training.

    Args:
        network: the prior.
        recipe: its settings.
        area: (H, W) weights of the cells.
        samples: returns the samples of an epoch.
        held_out: samples to validate with, always with the same noise.
        epochs, learning_rate: of this round.
    """

    def __init__(
        self,
        network: Any,
        recipe: AssimilatorRecipe,
        area: NDArray[np.floating],
        samples: Callable[[int], Samples],
        held_out: Samples,
        epochs: int,
        learning_rate: float,
    ) -> None:
        super().__init__(network, recipe, area, learning_rate)
        self.samples, self.held_out, self.epochs = samples, held_out, epochs
        self._generator = torch.Generator()

    @property
    def updates(self) -> int:
        """Updates of all epochs."""
        return self.epochs * (self.recipe.epoch_samples // self.recipe.batch)

    def _loss(self, network: Any, batch: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        if not network.observes:
            return cast(Tensor, network.prior_loss(*batch, self.loss_weights, generator))
        state, values, errors, target, _ = batch
        return cast(Tensor, network.prior_loss(state, target, self.loss_weights, generator, values, errors))

    def _dataset(self, samples: Samples) -> Dataset[Any]:
        return samples if self.network.observes else ErrorPairs(samples)

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        with self.mixed():
            loss = self._loss(self.network, batch, self._generator)
        return self.checked(loss, batch_index)

    def validation_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        loss = self._loss(self.average, batch, torch.Generator().manual_seed(batch_index))
        self.log("validation_loss", loss, batch_size=len(batch[0]))

    def train_dataloader(self) -> DataLoader[Any]:
        # Every process has noise of its own.
        self._generator.manual_seed(1000 * (1000 * self.recipe.seed + self.trainer.current_epoch) + self.global_rank)
        dataset = self._dataset(self.samples(self.trainer.current_epoch))
        return DataLoader(dataset, self.recipe.batch, drop_last=True, num_workers=self.recipe.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self._dataset(self.held_out), self.recipe.batch)
