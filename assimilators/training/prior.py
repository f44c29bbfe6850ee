"""Training of a prior: on backgrounds and their errors, without observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from dacycle.assimilators.training.module import Training
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.assimilators.training.samples import ErrorPairs, Samples

__all__ = ["PriorTraining"]

Pair = tuple[Tensor, Tensor]


class PriorTraining(Training):
    """Trains a `PriorNetwork` by its own loss. What it is worth in an analysis, cycles say after the training.

    Args:
        network: the prior.
        recipe: its settings.
        area: (H, W) weights of the cells.
        samples: those of an epoch.
        held_out: to validate with, always with the same noise.
    """

    def __init__(
        self,
        network: Any,
        recipe: AssimilatorRecipe,
        area: NDArray[np.floating],
        samples: Callable[[int], Samples],
        held_out: Samples,
    ) -> None:
        super().__init__(network, recipe, area)
        self.samples, self.held_out = samples, held_out
        self._generator = torch.Generator()

    @property
    def updates(self) -> int:
        return self.recipe.epochs * (self.recipe.epoch_samples // self.recipe.batch)

    def training_step(self, batch: Pair, batch_index: int) -> Tensor:
        with self.mixed():
            loss = self.network.prior_loss(*batch, self.loss_weights, self._generator)
        return self.checked(loss, batch_index)

    def validation_step(self, batch: Pair, batch_index: int) -> None:
        generator = torch.Generator().manual_seed(batch_index)
        loss = self.average.prior_loss(*batch, self.loss_weights, generator)
        self.log("validation_loss", loss, batch_size=len(batch[0]))

    def train_dataloader(self) -> DataLoader[Pair]:
        # Every process has noise of its own.
        self._generator.manual_seed(1000 * (1000 * self.recipe.seed + self.trainer.current_epoch) + self.global_rank)
        pairs = ErrorPairs(self.samples(self.trainer.current_epoch))
        return DataLoader(pairs, self.recipe.batch, drop_last=True, num_workers=self.recipe.workers)

    def val_dataloader(self) -> DataLoader[Pair]:
        return DataLoader(ErrorPairs(self.held_out), self.recipe.batch)
