"""Samples to train an assimilator with: backgrounds, observations drawn afresh, the truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dacycle.assimilators.sampling.backgrounds import Backgrounds
from dacycle.assimilators.sampling.observing import USUAL, Network, Observing, random_network
from dacycle.forecast_adapter.channels import GROUPS

__all__ = ["Batch", "ErrorPairs", "Fields", "Samples", "idealised"]

MIXED = 0.75
"""Share of the samples whose error is put together from two."""
SIZES = (0.6, 1.4)
"""Range of the factor on the size of such an error."""
IDEALISED = 0.6
"""Share of the samples that are observed in cells all over the globe as well (`idealised`)."""
CELLS = (0.02, 0.6)
"""Range of the share of the cells, whose logarithm is uniform."""
Fields = tuple[Tensor, Tensor, Tensor, Tensor]
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Samples(Dataset[Batch]):
    """Samples (state, values, errors, target, slot), each with observations of its own.

    state (69, H, W): the background, normalised. values, errors (69 + M, H, W): superobs in SI units. target
    (69, H, W): truth minus background in standard deviations. slot: -1; those of running cycles have one.

    Attributes:
        backgrounds: their errors.
        observing: draws the observations; the truth is its world's reference.
        order: (n,) which backgrounds, in turn.
        seed: of the observations: one number a pass.
        exact: (69,) the error, in standard deviations, of idealised observations.
        whole: whether all observe with the whole network and nothing else, and backgrounds stay as they are.
    """

    backgrounds: Backgrounds
    observing: Observing
    order: NDArray[np.int64]
    seed: int
    exact: NDArray[np.float32]
    whole: bool = False

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, item: int) -> Batch:
        world, generator = self.observing.world, np.random.default_rng([self.seed, item])
        network = USUAL if self.whole else random_network(generator, self.observing.names)
        time, background, truth = self.background(item, generator)
        state, values, errors, target = self.observed(time, background, network, generator)
        if not self.whole and generator.random() < IDEALISED:
            error = (self.exact * world.statistics.std)[:, None, None]
            values, errors = map(torch.from_numpy, idealised(values.numpy(), errors.numpy(), truth, error, generator))
        return state, values, errors, target, torch.tensor(-1)

    def background(
        self, item: int, generator: np.random.Generator
    ) -> tuple[np.datetime64, NDArray[np.float32], NDArray[np.float32]]:
        """Time, background and truth (69, H, W), SI, of a sample."""
        sample = int(self.order[item])
        world = self.observing.world
        time, error = self.backgrounds.times[sample], self.backgrounds.errors[sample].astype(np.float32)
        if not self.whole and generator.random() < MIXED:
            time, error = self._mixed(sample, generator)
        truth = world.reference.array(time)
        background = truth + error * world.statistics.std[:, None, None]
        background[GROUPS["q"]] = np.maximum(background[GROUPS["q"]], 0)
        return time, background, truth

    def observed(
        self, time: np.datetime64, background: NDArray[np.float32], network: Network, generator: np.random.Generator
    ) -> Fields:
        """State, values, errors and target of a background (69, H, W) in SI units."""
        world = self.observing.world
        drawn = self.observing.draw(time, background, network, generator)
        state, true = (world.statistics.normalise(x) for x in (background, world.reference.array(time)))
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


@dataclass(frozen=True, eq=False)
class ErrorPairs(Dataset[tuple[Tensor, Tensor]]):
    """State and target of samples, see `Samples`, without observations: what a prior is trained on."""

    samples: Samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng([self.samples.seed, item])
        _, background, truth = self.samples.background(item, generator)
        normalise = self.samples.observing.world.statistics.normalise
        state, true = (torch.from_numpy(normalise(x)) for x in (background, truth))
        return state, true - state


def idealised(
    values: NDArray, errors: NDArray, truth: NDArray, error: NDArray, generator: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """Superobs, and beside them observations of the truth in cells of a random share of the globe.

    What real networks see takes away a few per cent of the error of a cycle's background. From such samples alone it is
    learnt slowly how errors belong together; where much is seen, much can be learnt.

    Args:
        values, errors: (69 + M, H, W) superobs, SI; they stay.
        truth: (69, H, W).
        error: (69, 1, 1) standard deviation of the others, SI.
    """
    seen = np.zeros(truth.shape, bool)
    cells = generator.random(truth.shape[1:]) < np.exp(generator.uniform(*np.log(CELLS)))
    for group in GROUPS.values():
        share = generator.choice([0.0, 0.5, 1.0], p=[0.3, 0.2, 0.5])
        seen[group] = cells & (generator.random(cells.shape) < share)
    seen &= errors[: len(truth)] == 0
    drawn = truth + error * generator.standard_normal(truth.shape).astype(np.float32)
    drawn[GROUPS["q"]] = np.maximum(drawn[GROUPS["q"]], 0)
    values, errors = values.copy(), errors.copy()
    values[: len(truth)] = np.where(seen, drawn, values[: len(truth)])
    errors[: len(truth)] = np.where(seen, error, errors[: len(truth)])
    return values, errors
