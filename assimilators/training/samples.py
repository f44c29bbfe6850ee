"""Samples to train an assimilator with: backgrounds, freshly drawn observations, and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dacycle.assimilators.sampling.backgrounds import Backgrounds
from dacycle.assimilators.sampling.observing import Observing, Subset
from dacycle.forecast_adapter.channels import GROUPS

__all__ = ["Batch", "ErrorPairs", "Fields", "Samples", "idealised"]

SIZES = (0.6, 1.4)
"""Range of the factor on the size of such an error."""
IDEALISED = 0.6
"""Share of the samples with further observations in cells over the whole globe (`idealised`)."""
CELLS = (0.02, 0.6)
"""Range of the share of the observed cells; its logarithm is uniform."""
Fields = tuple[Tensor, Tensor, Tensor, Tensor]
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Samples(Dataset[Batch]):
    """Draw samples (state, values, errors, target, slot), each with observations of its own.

    state (69, H, W) is the normalised background; values and errors (69 + M, H, W) are superobs in SI units; target
    (69, H, W) is truth minus background in standard deviations; slot is the number of a running cycle, here always -1.

    Attributes:
        backgrounds: their errors.
        observing: draws the observations; the truth is the reference of its world.
        order: (n,) numbers of the backgrounds.
        seed: of the observations; another one in each pass.
        exact: (69,) error of idealised observations, in standard deviations.
        whole: observe every sample by its usual subset, and leave its background unchanged.
        mixed: share of the samples whose error is a combination of two of other dates (`_mixed`).
    """

    backgrounds: Backgrounds
    observing: Observing
    order: NDArray[np.int64]
    seed: int
    exact: NDArray[np.float32]
    whole: bool = False
    mixed: float = 0.0

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, item: int) -> Batch:
        world, generator = self.observing.world, np.random.default_rng([self.seed, item])
        subset = self.observing.usual(item) if self.whole else self.observing.random_subset(generator)
        time, background, truth = self.background(item, generator)
        state, values, errors, target = self.observed(time, background, subset, generator)
        if not self.whole and generator.random() < IDEALISED:
            error = (self.exact * world.statistics.std)[:, None, None]
            values, errors = map(torch.from_numpy, idealised(values.numpy(), errors.numpy(), truth, error, generator))
        return state, values, errors, target, torch.tensor(-1)

    def background(
        self, item: int, generator: np.random.Generator
    ) -> tuple[np.datetime64, NDArray[np.float32], NDArray[np.float32]]:
        """Return time, background and truth (69, H, W), SI, of a sample."""
        sample = int(self.order[item])
        world = self.observing.world
        time, error = self.backgrounds.times[sample], self.backgrounds.errors[sample].astype(np.float32)
        if not self.whole and generator.random() < self.mixed:
            time, error = self._mixed(sample, generator)
        truth = world.reference.array(time)
        background = truth + error * world.statistics.std[:, None, None]
        background[GROUPS["q"]] = np.maximum(background[GROUPS["q"]], 0)
        return time, background, truth

    def observed(
        self, time: np.datetime64, background: NDArray[np.float32], subset: Subset, generator: np.random.Generator
    ) -> Fields:
        """Return state, values, errors and target of a background (69, H, W) in SI units."""
        world = self.observing.world
        drawn = self.observing.draw(time, background, subset, generator)
        state, truth = (world.statistics.normalise(x) for x in (background, world.reference.array(time)))
        values, errors = torch.from_numpy(drawn.values), torch.from_numpy(drawn.errors)
        return torch.from_numpy(state), values, errors, torch.from_numpy(truth - state)

    def _mixed(self, sample: int, generator: np.random.Generator) -> tuple[np.datetime64, NDArray[np.float32]]:
        """Draw a time, and a random combination (any sign, 0.6 to 1.4 times the size) of two errors of its season.

        A network that is shown the same background with the same error repeatedly memorises the error. Combinations
        keep the scales, the balance and the places of errors, and nothing else that could be memorised. But such an
        error has nothing to do with the flow of its date, so the network unlearns how errors depend on it.
        """
        by_season, positions = self._seasons
        of_lead = by_season[int(self.backgrounds.leads[sample])]
        month = len(of_lead) // 12
        other, at = of_lead[(positions[sample] + generator.integers(-month, month + 1, 2)) % len(of_lead)]
        angle, size = generator.uniform(0, 2 * np.pi), generator.uniform(*SIZES)
        shares = zip((size * np.cos(angle), size * np.sin(angle)), (sample, other), strict=True)
        error = sum(np.float32(share) * self.backgrounds.errors[k].astype(np.float32) for share, k in shares)
        return self.backgrounds.times[at], np.asarray(error, np.float32)

    @cached_property
    def _seasons(self) -> tuple[dict[int, NDArray[np.intp]], NDArray[np.intp]]:
        """The samples of each lead in the order of their day of the year, and each sample's position in that order."""
        times, leads = self.backgrounds.times, self.backgrounds.leads
        day = (times - times.astype("datetime64[Y]")).astype("timedelta64[h]").astype(int)
        by_season, positions = {}, np.zeros(len(times), int)
        for lead in np.unique(leads).tolist():
            of_lead = np.flatnonzero(leads == lead)
            by_season[lead] = of_lead[np.argsort(day[of_lead], kind="stable")]
            positions[by_season[lead]] = np.arange(len(of_lead))
        return by_season, positions


@dataclass(frozen=True, eq=False)
class ErrorPairs(Dataset[tuple[Tensor, Tensor]]):
    """Draw state and target of `Samples` without observations, to train a prior with."""

    samples: Samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng([self.samples.seed, item])
        _, background, truth = self.samples.background(item, generator)
        normalise = self.samples.observing.world.statistics.normalise
        state, target = (torch.from_numpy(normalise(x)) for x in (background, truth))
        return state, target - state


def idealised(
    values: NDArray, errors: NDArray, truth: NDArray, error: NDArray, generator: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """Add observations of the truth, in cells of a random share of the globe, to superobs.

    Real networks remove only a few per cent of the error of a cycle's background, so most of a training sample is
    noise. Observations over the whole globe show how errors co-vary, which is learnt faster from them.

    Args:
        values, errors: (69 + M, H, W) superobs, SI; they are kept.
        truth: (69, H, W), SI.
        error: (69, 1, 1) standard deviation of the added observations, SI.
        generator: of the cells and the noise.
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
