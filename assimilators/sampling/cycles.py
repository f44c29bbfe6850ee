"""Cycles in memory through a year of a reference, to judge an assimilator by.

The step, the quality control and the superobs are those of a real cycle; nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import Assimilator
from dacycle.assimilators.exceptions import DataError
from dacycle.assimilators.sampling.observing import USUAL, Network, Observing
from dacycle.assimilators.step import Guards, Status, assimilate
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.models.model import ForecastModel
from dacycle.forecast_adapter.state import STEP

__all__ = ["Cycle", "CycledErrors", "cycle", "cycled_errors"]

LAG = 8
"""Steps of the forecast that a chain starts from: 48 hours."""
DROPPED = 12
"""Cycles at the beginning of a chain that are not looked at: three days."""
VALIDATION_DAYS = 12
VALIDATION_CHAINS = 4


@dataclass(frozen=True, eq=False)
class Cycle:
    """One cycle of a chain: fields (69, H, W), SI, and what the guards said of the analysis.

    The spread is None where the method has none, or the analysis is the background.
    """

    time: np.datetime64
    background: NDArray
    analysis: NDArray
    spread: NDArray | None
    truth: NDArray
    status: Status


@dataclass(frozen=True)
class CycledErrors:
    """Global RMSE (SI) by headline channel over the chains, their first three days left out.

    Attributes:
        background, analysis: errors.
        cycles: how many.
        fallbacks: how many of all kept their background because the analysis could not be used.
        spread_ratio: (69,) spread over error, both as root mean squares; None where the method has no spread.
    """

    background: dict[str, float]
    analysis: dict[str, float]
    cycles: int
    fallbacks: int
    spread_ratio: NDArray[np.float64] | None

    def spread_to_skill(self) -> float | None:
        """As `OneShot.spread_to_skill`."""
        return None if self.spread_ratio is None else float(np.sqrt(np.square(self.spread_ratio).mean()))


def cycle(
    assimilator: Assimilator,
    model: ForecastModel,
    observing: Observing,
    first: np.datetime64,
    cycles: int,
    seed: int,
    network: Network = USUAL,
) -> Iterator[Cycle]:
    """Cycle from `first` on, from a 48-hour forecast; the truth is the reference of `observing`'s world.

    network: what is observed.
    """
    world = observing.world
    reference, generator = world.reference, np.random.default_rng(seed)
    start = first - STEP - LAG * STEP
    before, at = (reference.array(time)[None] for time in (start - STEP, start))
    previous, current = islice(model.forecast(before, at, LAG), LAG - 2, LAG)
    for time in first + STEP * np.arange(cycles):
        background = next(iter(model.forecast(previous, current, 1)))
        drawn = observing.draw(time, background[0], network, generator, assimilator.planes)
        step = assimilate(
            assimilator, background, drawn.values[None], drawn.errors[None], Guards(), world.statistics.std
        )
        previous, current = current, step.state
        spread = None if step.spread is None or step.status[0] == "fallback" else step.spread[0]
        yield Cycle(time, background[0], step.state[0], spread, reference.array(time), step.status[0])


def cycled_errors(
    assimilator: Assimilator, model: ForecastModel, observing: Observing, seed: int, days: int = VALIDATION_DAYS
) -> CycledErrors:
    """The errors of chains of `days` spread over the reference.

    Raises:
        DataError: the reference is shorter than a chain, or a chain than what is left out of it.
    """
    area, times = observing.world.grid.weights, observing.world.reference.times
    first, last = LAG + 2, len(times) - 4 * days
    if last < first or 4 * days <= DROPPED:
        raise DataError(f"{observing.world.reference.folder}: {len(times)} times are too few for chains of {days} days")
    squares, spreads, fallbacks = [], [], 0
    for k, start in enumerate(times[np.linspace(first, last, VALIDATION_CHAINS).astype(int)]):
        for number, c in enumerate(cycle(assimilator, model, observing, start, 4 * days, seed + k)):
            fallbacks += c.status == "fallback"
            if number >= DROPPED:
                both = np.stack([c.background, c.analysis]) - c.truth
                squares.append((both.astype(float) ** 2 * area).mean(axis=(2, 3)))
                if c.spread is not None:
                    spreads.append((c.spread.astype(float) ** 2 * area).mean(axis=(1, 2)))
    before, after = np.sqrt(np.mean(squares, axis=0))
    return CycledErrors(
        {name: float(before[index(name)]) for name in HEADLINE},
        {name: float(after[index(name)]) for name in HEADLINE},
        len(squares),
        fallbacks,
        np.sqrt(np.mean(spreads, axis=0)) / after if spreads else None,
    )
