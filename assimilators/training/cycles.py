"""Cycles in memory through years of a reference, to train on what an assimilator meets there and to judge it.

The step, the quality control and the superobs are those of a real cycle; nothing is written but the backgrounds.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import Assimilator
from dacycle.assimilators.step import Guards, Status, assimilate
from dacycle.assimilators.training.backgrounds import STEP, Backgrounds, write_backgrounds
from dacycle.assimilators.training.errors import DataError
from dacycle.assimilators.training.observing import USUAL, Network, Observing
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.models import ForecastModel, load_model
from dacycle.forecast_adapter.reference import Reference
from dacycle.forecast_adapter.worlds import World, load_world

__all__ = ["Cycle", "CycledErrors", "cycle", "cycled_errors", "make_cycles"]

LAG = 8
"""Steps of the forecast that a chain starts from: 48 hours."""
DROPPED = 12
"""Cycles at the beginning of a chain that are not looked at: three days."""
DAYS = 20
"""Length of the chains to train on: by then most of what the start was wrong about is forgotten."""
VALIDATION_DAYS = 12
VALIDATION_CHAINS = 4


@dataclass(frozen=True, eq=False)
class Cycle:
    """One cycle of a chain: fields (69, H, W), SI, and what the guards said of the analysis."""

    time: np.datetime64
    background: NDArray
    analysis: NDArray
    truth: NDArray
    status: Status


@dataclass(frozen=True)
class CycledErrors:
    """Global RMSE (SI) by headline channel over the chains, their first three days left out.

    Attributes:
        background, analysis: errors.
        cycles: how many.
        fallbacks: how many of all kept their background because the analysis could not be used.
    """

    background: dict[str, float]
    analysis: dict[str, float]
    cycles: int
    fallbacks: int


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
        yield Cycle(time, background[0], step.state[0], reference.array(time), step.status[0])


def make_cycles(
    load: Callable[[World], Assimilator],
    nature: Path | str,
    folder: Path,
    months: Sequence[np.datetime64],
    world: str,
    model: str,
    sources: Sequence[dict[str, Any]],
    seed: int,
    workers: int,
    days: int = DAYS,
    say: Callable[[str], None] = print,
) -> None:
    """Write the background errors of chains, one a month; months that exist are kept.

    Args:
        load: gives the assimilator for a world; called in each process.
        months: in which the chains begin.
        seed: of the observations.
        days: length of the chains.
        workers: chains side by side.
        Others as in `backgrounds.make_forecasts`.

    Raises:
        DataError: the reference holds too little of a month.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {
            pool.submit(_make_month, load, nature, folder, month, world, model, list(sources), seed, days): month
            for month in months
            if not (folder / f"{month}.nc").exists()
        }
        for done in as_completed(futures):
            say(f"cycled through {futures[done]}: {done.result()}")


def _make_month(
    load: Callable[[World], Assimilator],
    nature: Path | str,
    folder: Path,
    month: np.datetime64,
    world: str,
    model: str,
    sources: list[dict[str, Any]],
    seed: int,
    days: int,
) -> str:
    home = replace(load_world(world), reference=Reference(nature))
    first = month.astype("datetime64[h]")
    end = min((month + 1).astype("datetime64[h]"), first + np.timedelta64(days, "D"), home.reference.times[-1] + STEP)
    if month == month.astype("datetime64[Y]"):  # the frames before belong to another realisation
        first = first + (LAG + 2) * STEP
    cycles = int((end - first) / STEP)
    if cycles <= DROPPED:
        raise DataError(f"{nature}: {max(cycles, 0)} cycles in {month}, of which the first {DROPPED} are dropped")
    forecaster, month_seed = load_model(model), seed + int(month.astype(int))
    chain = cycle(load(home), forecaster, Observing(home, sources), first, cycles, month_seed)
    kept = [(c.time, c.background - c.truth) for c in islice(chain, DROPPED, None)]
    scale = home.statistics.std[:, None, None]
    errors = np.stack([error / scale for _, error in kept]).astype(np.float16)
    found = Backgrounds(np.array([time for time, _ in kept]), np.zeros(len(kept), int), errors, forecaster.digest)
    write_backgrounds(found, folder / f"{month}.nc", home)
    size = np.sqrt((errors[:, index("z500")].astype(float) ** 2 * home.grid.weights).mean())
    return f"z500 background error {size * home.statistics.std[index('z500')]:.0f} m2 s-2"


def cycled_errors(
    assimilator: Assimilator, model: ForecastModel, observing: Observing, seed: int, days: int = VALIDATION_DAYS
) -> CycledErrors:
    """The errors of chains of `days` spread over the reference.

    Raises:
        DataError: the reference is shorter than a chain, or a chain than what is left out of it.
    """
    headline = [index(name) for name in HEADLINE]
    area, times = observing.world.grid.weights, observing.world.reference.times
    first, last = LAG + 2, len(times) - 4 * days
    if last < first or 4 * days <= DROPPED:
        raise DataError(f"{observing.world.reference.folder}: {len(times)} times are too few for chains of {days} days")
    squares, fallbacks = [], 0
    for k, start in enumerate(times[np.linspace(first, last, VALIDATION_CHAINS).astype(int)]):
        for number, c in enumerate(cycle(assimilator, model, observing, start, 4 * days, seed + k)):
            fallbacks += c.status == "fallback"
            if number >= DROPPED:
                both = np.stack([c.background, c.analysis])[:, headline] - c.truth[headline]
                squares.append((both.astype(float) ** 2 * area).mean(axis=(2, 3)))
    before, after = np.sqrt(np.mean(squares, axis=0))
    return CycledErrors(
        dict(zip(HEADLINE, before.tolist(), strict=True)),
        dict(zip(HEADLINE, after.tolist(), strict=True)),
        len(squares),
        fallbacks,
    )
