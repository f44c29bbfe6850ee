"""Backgrounds of cycles to train with: the errors of the backgrounds of another assimilator's cycles.

A cycle removes the errors that it observes. Those that remain are large where there are no observations, and have grown
over days. Priors, which have no closed loop, learn about them from these stores, and in rounds from cycles of their
own (`make_chains`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import Assimilator, load_assimilator
from dacycle.assimilators.sampling.backgrounds import (
    CYCLED,
    Backgrounds,
    check_years,
    make_months,
    write_backgrounds,
)
from dacycle.assimilators.sampling.cycles import DROPPED, LAG, ChainCycle, CycledModel, run_chain
from dacycle.assimilators.sampling.observing import USUAL, Observing, observing_of
from dacycle.common.pieces import in_processes
from dacycle.forecast_adapter.models.model import ForecastModel, load_model
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.relaxation import Relaxation, RelaxationSettings
from dacycle.forecast_adapter.worlds.world import World, load_world

__all__ = ["Cycling", "cycled_errors_between", "make_chains", "make_cycles"]

logger = logging.getLogger(__name__)


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
    relaxation: RelaxationSettings | None = None,
) -> None:
    """Write the errors of the backgrounds of cycles through whole years, a file a month; months that exist are kept.

    Two chains go through each month: one is observed as an experiment is, the other by a random subset.

    Args:
        nature: folder of the reference, from which observations are drawn.
        folder: of the store; see `backgrounds`.
        years, world, model, workers: as for `backgrounds.make_forecasts`.
        assimilator: the one that cycles, by name or file.
        sources: as an experiment's `observations`.
        frames, relaxation: as an experiment's.

    Raises:
        DataError: a year is incomplete, or on another grid; nothing has been written.
        AssimilatorError: there is no such assimilator, or it is not of this world.
    """
    check_years(nature, years, world)
    load_assimilator(assimilator, load_world(world))
    make_months(
        _make_month, folder, years, workers, nature, world, model, assimilator, list(sources), frames, relaxation
    )


def _make_month(
    folder: Path,
    month: np.datetime64,
    nature: Path | str,
    world: str,
    model: str,
    assimilator: str,
    sources: list[Mapping[str, Any]],
    frames: float | None,
    relaxation: RelaxationSettings | None,
) -> None:
    home = load_world(world)
    observing = observing_of(home, Reference(Path(nature) / str(month.astype("datetime64[Y]"))), sources)
    method = load_assimilator(assimilator, home)
    cycled = CycledModel(load_model(model), frames, Relaxation.of(home, relaxation))
    first, end = month.astype("datetime64[h]"), (month + 1).astype("datetime64[h]")
    seed = 2 * int(month.astype(int))
    backgrounds = cycled_errors_between(method, cycled, observing, first, end, seed)
    write_backgrounds(backgrounds, folder / f"{month}.nc", home)


def cycled_errors_between(
    method: Assimilator,
    cycled: CycledModel,
    observing: Observing,
    first: np.datetime64,
    end: np.datetime64,
    seed: int,
) -> Backgrounds:
    """Return the errors of the backgrounds of two chains from `first` to before `end`; see `make_cycles`.

    Chains begin three days before `first`, or as soon after that as the year has states.
    """
    world = observing.world
    begin = max(first - DROPPED * STEP, world.reference.times[LAG + 2])
    subsets = USUAL, observing.random_subset(np.random.default_rng(seed + 1))
    cycles = int((end - begin) / STEP)
    chains = (
        run_chain(method, cycled, observing, begin, cycles, seed + number, subset)
        for number, subset in enumerate(subsets)
    )
    return _errors_of_chains(chains, cycled.model, world)


@dataclass(frozen=True, eq=False)
class Cycling:
    """Hold what makes a chain: the assimilator, the model as it cycles, and the observing system."""

    method: Assimilator
    model: CycledModel
    observing: Observing


def make_chains(
    cycling: Callable[[], Cycling], folder: Path, starts: NDArray[np.datetime64], cycles: int, seed: int, workers: int
) -> None:
    """Write the errors of the backgrounds of chains, a file each; those that exist are kept.

    Every second chain is observed by a random subset, the others as in an experiment; half of these are without the
    optional sources.

    Args:
        cycling: returns what makes the chains; it is called in each process.
        folder: of the files.
        starts: first analysis time of each chain.
        cycles: of each chain.
        seed: of the observations; that of a chain is so many more as its number.
        workers: chains made at the same time, each in its own process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [
        (cycling, folder / f"{chain:04d}.nc", start, cycles, seed + chain, chain)
        for chain, start in enumerate(starts)
        if not (folder / f"{chain:04d}.nc").exists()
    ]
    logger.info("%d of %d chains of %d cycles", len(pieces), len(starts), cycles)
    with in_processes(workers) as each:
        for _ in each(_make_chain, pieces):
            pass


def _make_chain(
    cycling: Callable[[], Cycling], path: Path, start: np.datetime64, cycles: int, seed: int, number: int
) -> None:
    made_by = cycling()
    observing, cycled = made_by.observing, made_by.model
    random = number % 2 == 1
    subset = observing.random_subset(np.random.default_rng(seed)) if random else observing.usual(number // 2)
    chain = run_chain(made_by.method, cycled, observing, start, cycles, seed, subset)
    write_backgrounds(_errors_of_chains([chain], cycled.model, observing.world), path, observing.world)


def _errors_of_chains(chains: Iterable[Iterator[ChainCycle]], model: ForecastModel, world: World) -> Backgrounds:
    """Return the errors of the backgrounds of chains of cycles with a model, without their first three days."""
    std = world.statistics.std[:, None, None]
    times, errors = [], []
    for chain in chains:
        for cycle in islice(chain, DROPPED, None):
            times.append(cycle.time)
            errors.append(((cycle.background - cycle.truth) / std).astype(np.float16))
    return Backgrounds(np.array(times), np.full(len(times), CYCLED), np.stack(errors), model.digest)
