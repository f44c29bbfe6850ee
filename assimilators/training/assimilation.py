"""Training of an assimilator: from backgrounds and freshly drawn observations to the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dacycle.assimilators.base import Analysis
from dacycle.assimilators.training.backgrounds import Backgrounds
from dacycle.assimilators.training.module import Training
from dacycle.assimilators.training.observing import USUAL, Observing, random_network
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.forecast_adapter.channels import GROUPS, HEADLINE, index
from dacycle.forecast_adapter.grid import Grid

__all__ = ["AssimilationTraining", "Samples", "TorchAssimilator", "typical_errors"]

MIXED = 0.75
"""Share of the samples whose error is put together from two."""
SIZES = (0.6, 1.4)
"""Range of the factor on the size of such an error."""
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
        whole: whether all observe with the whole network, and backgrounds stay as they are.
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
        network = USUAL if self.whole else random_network(generator, self.observing.names)
        time, error = self.backgrounds.times[sample], self.backgrounds.errors[sample].astype(np.float32)
        if not self.whole and generator.random() < MIXED:
            time, error = self._mixed(sample, generator)
        truth = world.reference.array(time)
        background = truth + error * world.statistics.std[:, None, None]
        background[GROUPS["q"]] = np.maximum(background[GROUPS["q"]], 0)
        drawn = self.observing.draw(time, background, network, generator)
        state, true = (world.statistics.normalise(x) for x in (background, truth))
        values, errors = torch.from_numpy(drawn.values), torch.from_numpy(drawn.errors)
        return torch.from_numpy(state), values, errors, torch.from_numpy(true - state)

    def _mixed(self, sample: int, generator: np.random.Generator) -> tuple[np.datetime64, NDArray[np.float32]]:
        """A time, and an error put together from two of its season, of any sign and somewhat any size.

        A network that meets the same background with the same error again and again learns it by heart, whatever is
        observed. Put together anew, errors keep their scales, their balance and their places, and tell nothing else.
        """
        ring, place = self._seasons
        mine = ring[int(self.backgrounds.leads[sample])]
        month = len(mine) // 12
        other, where = mine[(place[sample] + generator.integers(-month, month + 1, 2)) % len(mine)]
        angle, size = generator.uniform(0, 2 * np.pi), generator.uniform(*SIZES)
        shares = zip((size * np.cos(angle), size * np.sin(angle)), (sample, other), strict=True)
        error = sum(np.float32(share) * self.backgrounds.errors[k].astype(np.float32) for share, k in shares)
        return self.backgrounds.times[where], np.asarray(error, np.float32)

    @cached_property
    def _seasons(self) -> tuple[dict[int, NDArray[np.intp]], NDArray[np.intp]]:
        """Of each lead the samples in order of their day of the year, and each sample's place in that order."""
        times, leads = self.backgrounds.times, self.backgrounds.leads
        day = (times - times.astype("datetime64[Y]")).astype("timedelta64[h]").astype(int)
        ring, place = {}, np.zeros(len(times), int)
        for lead in np.unique(leads).tolist():
            mine = np.flatnonzero(leads == lead)
            ring[lead] = mine[np.argsort(day[mine], kind="stable")]
            place[ring[lead]] = np.arange(len(mine))
        return ring, place


def typical_errors(backgrounds: Backgrounds, weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """(69,) area-weighted root mean square of the backgrounds' errors, in standard deviations."""
    chosen = backgrounds.errors[:: max(len(backgrounds.errors) // 500, 1)].astype(np.float32)
    return np.sqrt((chosen**2 * weights).mean(axis=(0, 2, 3))).astype(np.float32)


class AssimilationTraining(Training):
    """Trains a network whose `estimate` gives increment and spread in units of its ``error``.

    In the first round `estimate_one_way` is trained in its place, which costs half as much.

    Its loss is weighted by channel and by cell area, like the forecast model's.

    Args:
        network: with `estimate`, and ``error`` (69, 1, 1).
        loss: of increment, spread and target.
        recipe: its other settings.
        area: (H, W) weights of the cells.
        samples: those of an epoch.
        held_out: to validate with.
        epochs, learning_rate, one_way: of this round.
    """

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
        one_way: bool,
    ) -> None:
        super().__init__(network, recipe, area, learning_rate)
        self.loss, self.samples, self.held_out, self.epochs = loss, samples, held_out, epochs
        # Kept out of the module tree: it shares the network's weights.
        estimate = network.estimate_one_way if one_way else network.estimate
        self._estimate = torch.compile(estimate) if recipe.compile else estimate

    @property
    def updates(self) -> int:
        return self.epochs * (len(self.samples(0)) // self.recipe.batch)

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
