"""Training data: whole years of states in memory, checked before the first step, and windows of them.

Years of a nature run are separate realisations, so no window reaches from one into the next.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dacycle.assimilators.exceptions import DataError
from dacycle.assimilators.sampling.backgrounds import year_times
from dacycle.forecast_adapter.channels import GROUPS, NAMES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.time_of_state import annual_cycle, hour_predictors
from dacycle.forecast_adapter.statistics import Statistics
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import annual_basis

__all__ = [
    "Windows",
    "Year",
    "check_complete",
    "data_digest",
    "hour_weights",
    "load_states",
    "preload",
    "read_years",
    "season_weights",
    "step_deviation",
]

logger = logging.getLogger(__name__)

RIDGE = 0.01
"""Ridge of the regressions for season and hour, as a share of the number of states."""
UNTOLD = 0.5
"""Share of the variance of the hour's cos and sin that may stay unexplained where states tell the hour."""


@dataclass(frozen=True, eq=False)
class Year:
    """Hold one year or a part of it.

    Attributes:
        times: (n,) every 6 h.
        states: (n, 69, H, W) normalised, in half precision, which takes half the memory: its 11 bits are far finer than
            the steps that references are kept in. `some` returns them in single precision.
    """

    times: NDArray[np.datetime64]
    states: Tensor

    def some(self, which: slice) -> Tensor:
        """Return some of the states, (k, 69, H, W) float32."""
        return self.states[which].float()


SomeYear = TypeVar("SomeYear", bound=Year)


def read_years(
    data: str, years: Sequence[int], load: Callable[[Reference, NDArray[np.datetime64]], SomeYear]
) -> list[SomeYear]:
    """Read years from a folder that holds one folder for each; `load` reads the states of some times."""
    read = []
    for year in years:
        folder = Path(data) / str(year)
        logger.info("reading %s", folder)
        read.append(load(Reference(folder), year_times(year)))
    return read


def load_states(reference: Reference, times: NDArray[np.datetime64], grid: Grid, statistics: Statistics) -> Year:
    """Read and normalise all states at `times`.

    Raises:
        DataError: another grid, or missing times.
        ReferenceDataError: a state cannot be read or has values that cannot be.
    """
    check_complete(reference, times, grid)
    states = torch.empty((len(times), len(NAMES), *grid.shape), dtype=torch.float16)
    for i, time in enumerate(times):
        states[i] = torch.from_numpy(statistics.normalise(reference.array(time)))
    return Year(times, states)


def preload(reference: Reference, times: NDArray[np.datetime64], grid: Grid) -> None:
    """Read states and surface fields into the reference's memory, which has to be large enough (`kept`).

    Raises:
        DataError, ReferenceDataError: as `load_states`, also for surface fields.
    """
    check_complete(reference, times, grid)
    for time in times:
        reference.array(time)
        reference.surface(time)


def check_complete(reference: Reference, times: NDArray[np.datetime64], grid: Grid) -> None:
    """Raise DataError where the reference is on another grid, or lacks one of `times`."""
    if not reference.grid.matches(grid):
        raise DataError(f"{reference.folder}: the data are on a {reference.grid.shape} grid, not on {grid.name}")
    missing = reference.missing(times)
    if missing:
        raise DataError(
            f"{reference.folder}: {len(missing)} of the {len(times)} times from {times[0]} to {times[-1]} are missing, "
            f"first {missing[0]}; make them with `dacycle nature-run` or `dacycle dataset`, or leave the year out of "
            "the recipe"
        )


def step_deviation(years: list[Year], weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return (69,) area-weighted standard deviations of the 6-h change, in the channels' standard deviations.

    Raises:
        DataError: a channel never changes.
    """
    area = torch.from_numpy(np.asarray(weights, np.float32))
    total, count = torch.zeros(len(NAMES), dtype=torch.float64), 0
    for year in years:
        for i in range(len(year.times) - 1):
            before, after = year.some(slice(i, i + 2))
            total += ((after - before).square() * area).mean(dim=(1, 2)).double()
            count += 1
    deviation = (total / count).sqrt().numpy().astype(np.float32)
    constant = [name for name, value in zip(NAMES, deviation, strict=True) if not value > 0]
    if constant:
        raise DataError(f"{', '.join(constant)} never changes in the training years: nothing can be learnt from it")
    return deviation


def season_weights(years: list[Year]) -> NDArray[np.float32]:
    """Return the (2, 13 H + 1) weights that give cos and sin of the day of the year from a state.

    The predictors are the normalised zonal mean temperatures and a constant. Neighbouring latitudes and levels are
    strongly correlated, hence ridge regression.
    """
    zonal = np.concatenate([_zonal_temperatures(year) for year in years]).astype(float)
    annual = np.concatenate([annual_basis(year.times)[:, 1:3] for year in years]).astype(float)
    centred, mean = zonal - zonal.mean(0), annual.mean(0)
    ridge = RIDGE * len(zonal) * np.eye(zonal.shape[1])
    weights = np.linalg.solve(centred.T @ centred + ridge, centred.T @ (annual - mean))
    constant = mean - zonal.mean(0) @ weights
    return np.concatenate([weights, constant[None]]).T.astype(np.float32)


def _zonal_temperatures(year: Year) -> NDArray[np.float32]:
    """Return the zonal mean temperatures (n, 13 H) of a year."""
    return np.asarray(year.states[:, GROUPS["t"]].float().mean(-1).flatten(1).numpy())


def hour_weights(
    years: list[Year], season: NDArray[np.float32], land: NDArray[np.floating]
) -> NDArray[np.float32] | None:
    """Return the (2, 2 H + 5) weights that give cos and sin of the hour (UTC) from a state; None: it does not tell.

    A ridge regression on `time_of_state.hour_predictors`. The states of every second week judge the regression on the
    others: those of a model without a daily cycle do not tell the hour, nor do those of one hour or of a week alone.

    Args:
        years: of the training.
        season: of `season_weights`.
        land: (H, W) land fraction.
    """
    weights, fraction = torch.from_numpy(season), torch.from_numpy(np.asarray(land, np.float32))
    blocks = (block.float() for year in years for block in year.states.split(256))
    parts = [hour_predictors(block, fraction, annual_cycle(block, weights)) for block in blocks]
    predictors = torch.cat(parts).numpy().astype(float)
    times = np.concatenate([year.times for year in years])
    angle = 2 * np.pi * (times.astype("datetime64[h]") - times.astype("datetime64[D]")).astype(float) / 24
    wanted = np.stack([np.cos(angle), np.sin(angle)], -1)
    judging = times.astype("datetime64[W]").astype(int) % 2 == 1
    if judging.all() or not judging.any():
        return None
    guess = predictors[judging] @ _ridge(predictors[~judging], wanted[~judging])
    unexplained = np.mean((guess - wanted[judging]) ** 2)
    if not unexplained < UNTOLD * wanted[judging].var(axis=0).min():
        return None
    logger.info("states tell the hour of the day")
    return _ridge(predictors, wanted).T.astype(np.float32)


def _ridge(predictors: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coefficients (p, 2) of a ridge regression of (n, 2) on predictors (n, p)."""
    ridge = RIDGE * len(predictors) * np.eye(predictors.shape[1]) * predictors.var(0).mean()
    return np.linalg.solve(predictors.T @ predictors + ridge, predictors.T @ wanted)


def data_digest(years: list[Year]) -> str:
    """Return the SHA-256 of the times and the normalised states."""
    digest = hashlib.sha256()
    for year in years:
        digest.update(year.times.astype("datetime64[h]").astype(np.int64).tobytes())
        digest.update(year.states.numpy().data)
    return digest.hexdigest()


class Windows(Dataset[Tensor]):
    """Hold all runs of ``frames`` consecutive states, (frames, 69, H, W), none across the end of a year."""

    def __init__(self, years: list[Year], frames: int, stride: int = 1) -> None:
        self.years, self.frames = years, frames
        self.starts = [
            (number, start)
            for number, year in enumerate(years)
            for start in range(0, len(year.times) - frames + 1, stride)
        ]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Tensor:
        number, start = self.starts[index]
        return self.years[number].some(slice(start, start + self.frames))
