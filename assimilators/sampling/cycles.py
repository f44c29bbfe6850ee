"""Cycles in memory through a year of a reference, which an assimilator is judged by.

The step, the quality control and the superobs are those of a real cycle; nothing is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import Assimilator, Past, has_window
from dacycle.assimilators.exceptions import DataError
from dacycle.assimilators.sampling.observing import USUAL, Observing, Subset
from dacycle.assimilators.step import Status, StepGuards, assimilate
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.models.frames import older_frame
from dacycle.forecast_adapter.models.model import ForecastModel
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.relaxation import Relaxation

__all__ = ["ChainCycle", "CycledErrors", "CycledModel", "cycled_errors", "run_chain"]

LAG = 8
"""Steps of the forecast that a chain starts from: 48 hours."""
DROPPED = 12
"""Cycles at the beginning of a chain that are not scored: three days."""
VALIDATION_DAYS = 12
VALIDATION_CHAINS = 4


@dataclass(frozen=True, eq=False)
class CycledModel:
    """Forecast from one analysis to the next as the cycles of an experiment do.

    Attributes:
        model: the forecast model.
        frames: as an experiment's, the share of the increment in the older frame of the next forecast.
        relaxation: of backgrounds, if there is one.
    """

    model: ForecastModel
    frames: float | None = None
    relaxation: Relaxation | None = None

    def background(self, previous: NDArray, current: NDArray, time: np.datetime64) -> NDArray[np.float32]:
        """Return the background (B, 69, H, W), SI, at a time, from two frames of the same shape."""
        forecast = next(iter(self.model.forecast(previous, current, 1)))
        return forecast if self.relaxation is None else self.relaxation(forecast, time)


@dataclass(frozen=True, eq=False)
class ChainCycle:
    """Hold one cycle of a chain: fields (69, H, W), SI, and the status of its analysis.

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
    """Hold the global RMSE (SI) by headline channel over the chains, without their first three days.

    Attributes:
        background, analysis: errors.
        cycles: number of scored cycles.
        fallbacks: number of cycles, of all, that kept their background because the analysis could not be used.
        spread_ratio: (69,) spread over error, both as root mean squares; None where the method has no spread.
    """

    background: dict[str, float]
    analysis: dict[str, float]
    cycles: int
    fallbacks: int
    spread_ratio: NDArray[np.float64] | None

    def spread_to_skill(self) -> float | None:
        """Return spread over error over all channels, as `OneShot.spread_to_skill`."""
        return None if self.spread_ratio is None else float(np.sqrt(np.square(self.spread_ratio).mean()))


def run_chain(
    assimilator: Assimilator,
    cycled: CycledModel,
    observing: Observing,
    first: np.datetime64,
    cycles: int,
    seed: int,
    subset: Subset = USUAL,
) -> Iterator[ChainCycle]:
    """Yield cycles from `first` on, which start from a 48-hour forecast.

    Args:
        assimilator, cycled: the two that cycle.
        observing: draws observations from the reference of its world, which is the truth.
        first: analysis time of the first cycle.
        cycles: how many.
        seed: of the observations.
        subset: of the observing system.
    """
    world = observing.world
    reference, generator = world.reference, np.random.default_rng(seed)
    start = first - STEP - LAG * STEP
    first_frames = [reference.array(time)[None] for time in (start - STEP, start)]
    previous, current = islice(cycled.model.forecast(first_frames[0], first_frames[1], LAG), LAG - 2, LAG)
    window = Window(assimilator, cycled.frames)
    for time in first + STEP * np.arange(cycles):
        background = cycled.background(previous, current, time)
        drawn, error = observing.draw_with_error(time, background[0], subset, generator, assimilator.planes)
        method = window.method(previous[0], current[0])
        step = assimilate(
            method, background, drawn.values[None], drawn.errors[None], StepGuards(), error.on(world.grid)
        )
        window.add(background[0], (drawn.values, drawn.errors))
        previous, current = older_frame(current, background, step.state, cycled.frames), step.state
        spread = None if step.spread is None or step.status[0] == "fallback" else step.spread[0]
        yield ChainCycle(time, background[0], step.state[0], spread, reference.array(time), step.status[0])


class Window:
    """Keep what a method needs of the cycles before in a chain, if it has a window.

    Args:
        method: the one that cycles.
        share: of the increment in the older frame.
    """

    def __init__(self, method: Assimilator, share: float | None) -> None:
        self._method, self._share = method, share or 0.0
        steps = method.steps if has_window(method) else 1
        self._starts: deque[tuple[NDArray, NDArray]] = deque(maxlen=steps)
        self._cycles: deque[tuple[NDArray, tuple[NDArray, NDArray]]] = deque(maxlen=steps - 1)

    def method(self, older: NDArray, newer: NDArray) -> Assimilator:
        """Return the method of a cycle whose background comes from two frames (69, H, W)."""
        if not has_window(self._method):
            return self._method
        self._starts.append((older, newer))
        backgrounds, observations = [cycle[0] for cycle in self._cycles], [cycle[1] for cycle in self._cycles]
        return self._method.with_past(Past(*self._starts[0], observations, self._share, backgrounds=backgrounds))

    def add(self, background: NDArray, observed: tuple[NDArray, NDArray]) -> None:
        """Keep a cycle's background, and the values and errors that it assimilated."""
        self._cycles.append((background, observed))


def cycled_errors(
    assimilator: Assimilator,
    cycled: CycledModel,
    observing: Observing,
    seed: int,
    days: int = VALIDATION_DAYS,
) -> CycledErrors:
    """Return the errors of four chains of `days`, spread over the reference; arguments as for `run_chain`.

    Two of them are without the optional sources.

    Raises:
        DataError: the reference is shorter than a chain, or a chain is not longer than its unscored beginning.
    """
    area, times = observing.world.grid.weights, observing.world.reference.times
    first, last = LAG + 2, len(times) - 4 * days
    if last < first or 4 * days <= DROPPED:
        raise DataError(f"{observing.world.reference.folder}: {len(times)} times are too few for chains of {days} days")
    squares, spreads, fallbacks = [], [], 0
    for k, start in enumerate(times[np.linspace(first, last, VALIDATION_CHAINS).astype(int)]):
        chain = run_chain(assimilator, cycled, observing, start, 4 * days, seed + k, observing.usual(k))
        for number, cycle in enumerate(chain):
            fallbacks += cycle.status == "fallback"
            if number >= DROPPED:
                errors = np.stack([cycle.background, cycle.analysis]) - cycle.truth
                squares.append((errors.astype(float) ** 2 * area).mean(axis=(2, 3)))
                if cycle.spread is not None:
                    spreads.append((cycle.spread.astype(float) ** 2 * area).mean(axis=(1, 2)))
    before, after = np.sqrt(np.mean(squares, axis=0))
    return CycledErrors(
        {name: float(before[index(name)]) for name in HEADLINE},
        {name: float(after[index(name)]) for name in HEADLINE},
        len(squares),
        fallbacks,
        np.sqrt(np.mean(spreads, axis=0)) / after if spreads else None,
    )
