"""Backgrounds of cycles to train with: what an assimilator's own cycles, or another's, are wrong by.

A cycle keeps the errors that it cannot see. A prior of its background's errors is learnt from cycles, not from
forecasts that began with the truth.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dacycle.assimilators.base import load_assimilator
from dacycle.assimilators.evaluation import observing_of
from dacycle.assimilators.training.backgrounds import (
    STEP,
    Backgrounds,
    check_years,
    months_of,
    write_backgrounds,
    year_times,
)
from dacycle.assimilators.training.cycles import DROPPED, LAG, cycle
from dacycle.assimilators.training.observing import USUAL, random_network
from dacycle.forecast_adapter.models import load_model
from dacycle.forecast_adapter.reference import Reference
from dacycle.forecast_adapter.worlds import load_world

__all__ = ["make_cycles"]

HOURS = 6


def make_cycles(
    nature: Path | str,
    folder: Path,
    years: Sequence[int],
    world: str,
    model: str,
    assimilator: str,
    sources: Sequence[Mapping[str, Any]],
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """Write the errors of the backgrounds of cycles through whole years, a file a month; months that exist are kept.

    Two chains go through each month: one is observed as an experiment is, the other by a random part of the network.

    Args:
        nature: folder of the reference, from which observations are drawn.
        folder: of the store; see `backgrounds`.
        years, world, model, workers: as for `backgrounds.make_forecasts`.
        assimilator: that cycles, by name or file.
        sources: as an experiment's `observations`.

    Raises:
        DataError: a year is incomplete, or on another grid; nothing has been written.
    """
    check_years(nature, years, world)
    jobs = [month for month in months_of(years) if not (folder / f"{month}.nc").exists()]
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs_done = {
            pool.submit(_make_month, nature, folder, month, world, model, assimilator, list(sources)): month
            for month in jobs
        }
        for done in as_completed(jobs_done):
            done.result()
            say(f"cycles of {jobs_done[done]}")


def _make_month(
    nature: Path | str,
    folder: Path,
    month: np.datetime64,
    world: str,
    model: str,
    assimilator: str,
    sources: list[Mapping[str, Any]],
) -> None:
    home, forecaster = load_world(world), load_model(model)
    year = month.astype("datetime64[Y]")
    observing = observing_of(home, Reference(Path(nature) / str(year)), sources)
    method = load_assimilator(assimilator, home)
    first, end = month.astype("datetime64[h]"), (month + 1).astype("datetime64[h]")
    begin = max(first - DROPPED * STEP, year_times(int(str(year)))[LAG + 2])
    std = home.statistics.std[:, None, None]
    times, errors = [], []
    for chain in range(2):
        seed = int(month.astype(int)) * 2 + chain
        network = random_network(np.random.default_rng(seed), observing.names) if chain else USUAL
        cycles = int((end - begin) / STEP)
        for each in islice(cycle(method, forecaster, observing, begin, cycles, seed, network), DROPPED, None):
            times.append(each.time)
            errors.append(((each.background - each.truth) / std).astype(np.float16))
    found = Backgrounds(np.array(times), np.full(len(times), HOURS), np.stack(errors), forecaster.digest)
    write_backgrounds(found, folder / f"{month}.nc", home)
