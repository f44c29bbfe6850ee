"""Backgrounds of cycles to train with: the errors of the backgrounds of another assimilator's cycles.

A cycle removes the errors that it observes. Those that remain are large where there are no observations, and have grown
over days. Priors, which have no closed loop, learn about them from these stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dacycle.assimilators.base import Assimilator, load_assimilator
from dacycle.assimilators.sampling.backgrounds import (
    CYCLED,
    Backgrounds,
    check_years,
    make_months,
    write_backgrounds,
)
from dacycle.assimilators.sampling.cycles import DROPPED, LAG, run_chain
from dacycle.assimilators.sampling.observing import USUAL, Observing, observing_of
from dacycle.forecast_adapter.models.model import ForecastModel, load_model
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = ["cycled_errors_between", "make_cycles"]


def make_cycles(
    nature: Path | str,
    folder: Path,
    years: Sequence[int],
    world: str,
    model: str,
    assimilator: str,
    sources: Sequence[Mapping[str, Any]],
    workers: int = 1,
    frames: float | None = None,
) -> None:
    """Write the errors of the backgrounds of cycles through whole years, a file a month; months that exist are kept.

    Two chains go through each month: one is observed as an experiment is, the other by a random subset.

    Args:
        nature: folder of the reference, from which observations are drawn.
        folder: of the store; see `backgrounds`.
        years, world, model, workers: as for `backgrounds.make_forecasts`.
        assimilator: the one that cycles, by name or file.
        sources: as an experiment's `observations`.
        frames: as for `run_chain`.

    Raises:
        DataError: a year is incomplete, or on another grid; nothing has been written.
        AssimilatorError: there is no such assimilator, or it is not of this world.
    """
    check_years(nature, years, world)
    load_assimilator(assimilator, load_world(world))
    make_months(_make_month, folder, years, workers, nature, world, model, assimilator, list(sources), frames)


def _make_month(
    folder: Path,
    month: np.datetime64,
    nature: Path | str,
    world: str,
    model: str,
    assimilator: str,
    sources: list[Mapping[str, Any]],
    frames: float | None,
) -> None:
    home = load_world(world)
    observing = observing_of(home, Reference(Path(nature) / str(month.astype("datetime64[Y]"))), sources)
    method, forecaster = load_assimilator(assimilator, home), load_model(model)
    first, end = month.astype("datetime64[h]"), (month + 1).astype("datetime64[h]")
    seed = 2 * int(month.astype(int))
    backgrounds = cycled_errors_between(method, forecaster, observing, first, end, seed, frames)
    write_backgrounds(backgrounds, folder / f"{month}.nc", home)


def cycled_errors_between(
    method: Assimilator,
    model: ForecastModel,
    observing: Observing,
    first: np.datetime64,
    end: np.datetime64,
    seed: int,
    frames: float | None = None,
) -> Backgrounds:
    """Return the errors of the backgrounds of two chains from `first` to before `end`; see `make_cycles`.

    Chains begin three days before `first`, or as soon after that as the year has states.
    """
    world = observing.world
    begin = max(first - DROPPED * STEP, world.reference.times[LAG + 2])
    std = world.statistics.std[:, None, None]
    times, errors = [], []
    for chain in range(2):
        subset = observing.random_subset(np.random.default_rng(seed + chain)) if chain else USUAL
        cycles = int((end - begin) / STEP)
        whole_chain = run_chain(method, model, observing, begin, cycles, seed + chain, subset, frames)
        for cycle in islice(whole_chain, DROPPED, None):
            times.append(cycle.time)
            errors.append(((cycle.background - cycle.truth) / std).astype(np.float16))
    return Backgrounds(np.array(times), np.full(len(times), CYCLED), np.stack(errors), model.digest)
