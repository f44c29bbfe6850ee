"""Evaluation of an assimilator: single analyses of held-out samples, and its increments with few observations.

Needs no torch. Any `Assimilator` can be evaluated, with the observations, quality control and superobs of a cycle.
"""

from __future__ import annotations

import time as clock
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import Assimilator
from dacycle.assimilators.sampling.backgrounds import Backgrounds
from dacycle.assimilators.sampling.observing import Observing
from dacycle.forecast_adapter.channels import HEADLINE, NAMES, index
from dacycle.forecast_adapter.grid import Grid, great_circle_km
from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM

__all__ = [
    "Influence",
    "OneShot",
    "SingleObservationReach",
    "evaluate",
    "increment_alone",
    "influence",
    "single_observation_reach",
]

SITES = ((52.0, 10.0), (0.0, -60.0), (-75.0, 100.0), (30.0, 179.0))
"""Latitudes and longitudes of single observations: mid-latitudes, the tropics, near a pole and at the date line."""
TRIED = "z500"
"""Channel of the single observations."""


@dataclass(frozen=True, eq=False)
class OneShot:
    """Hold the errors of single analyses of n held-out backgrounds.

    Attributes:
        leads: (n,) hours of the backgrounds.
        background, analysis: (n, 69) area-weighted mean squared errors, SI.
        spread: (n, 69) mean squared spread of the analysis, or None where the method has none.
        seconds: median time of one analysis.
    """

    leads: NDArray[np.int64]
    background: NDArray[np.float64]
    analysis: NDArray[np.float64]
    spread: NDArray[np.float64] | None
    seconds: float

    def rmse(self, which: str, channel: str, lead: int | None = None) -> float:
        """Return the root mean squared error of a channel, or its spread, over all leads or for one.

        Args:
            which: `background`, `analysis` or `spread`.
            channel: its name.
            lead: hours; None: all.
        """
        rows = slice(None) if lead is None else self.leads == lead
        return float(np.sqrt(getattr(self, which)[rows, index(channel)].mean()))

    def spread_to_skill(self) -> float | None:
        """Return spread over error, the root mean square over all channels; 1 is right, None: there is no spread."""
        ratio = self.spread_ratio
        return None if ratio is None else float(np.sqrt(np.square(ratio).mean()))

    @property
    def spread_ratio(self) -> NDArray[np.float64] | None:
        """(69,) spread over error, both as root mean squares."""
        return None if self.spread is None else np.sqrt(self.spread.mean(axis=0) / self.analysis.mean(axis=0))

    def as_dict(self) -> dict[str, Any]:
        """Return RMSE of background and analysis by headline channel over all leads, spread over error, and n."""
        rmse = {
            name: {which: float(f"{self.rmse(which, name):.4g}") for which in ("background", "analysis")}
            for name in HEADLINE
        }
        ratio = self.spread_to_skill()
        return {**rmse, "spread_to_skill": None if ratio is None else round(ratio, 3), "samples": len(self.leads)}


def evaluate(assimilator: Assimilator, observing: Observing, backgrounds: Backgrounds, seed: int) -> OneShot:
    """Analyse every background once, with observations of its own, and compare with the truth.

    Args:
        assimilator: the method.
        observing: draws the observations from the reference of its world, which is the truth.
        backgrounds: held-out ones.
        seed: of the observations; the same seed gives every assimilator the same.
    """
    world, area = observing.world, observing.world.grid.weights
    std = world.statistics.std[:, None, None]
    rows: list[NDArray] = []
    seconds = []
    for sample, (time, error) in enumerate(zip(backgrounds.times, backgrounds.errors, strict=True)):
        truth = world.reference.array(time)
        background = (truth + error.astype(np.float32) * std)[None]
        generator = np.random.default_rng([seed, sample])
        drawn = observing.draw(time, background[0], observing.usual(sample), generator, assimilator.planes)
        began = clock.perf_counter()
        analysis = assimilator.analyse(background, drawn.values[None], drawn.errors[None])
        seconds.append(clock.perf_counter() - began)
        fields = [background[0] - truth, analysis.state[0] - truth]
        if analysis.spread is not None:
            fields.append(analysis.spread[0])
        rows.append((np.stack(fields).astype(np.float64) ** 2 * area).mean(axis=(2, 3)))
    squares = np.stack(rows, axis=1)
    spread = squares[2] if len(squares) == 3 else None
    return OneShot(backgrounds.leads, squares[0], squares[1], spread, float(np.median(seconds)))


def increment_alone(assimilator: Assimilator, background: NDArray, std: NDArray) -> float:
    """Return the largest increment without any observation, in standard deviations; background (69, H, W) SI."""
    nothing = np.zeros((1, len(NAMES) + len(assimilator.planes), *background.shape[1:]), np.float32)
    analysis = assimilator.analyse(background[None], nothing, nothing).state[0]
    return float((np.abs(analysis - background).max(axis=(1, 2)) / std).max())


@dataclass(frozen=True)
class Influence:
    """Describe how large an increment is, and how far it reaches.

    Attributes:
        peak: its largest magnitude.
        row, column: the cell of the peak.
        away_km: distance of the peak from the observation.
        half_km: radius of a circle as large as the area in which the increment is at least half its peak.
        beyond: largest magnitude beyond a given distance from the observation, as a share of the peak.
    """

    peak: float
    row: int
    column: int
    away_km: float
    half_km: float
    beyond: float


def influence(increment: NDArray, grid: Grid, row: int, column: int, distance_km: float) -> Influence:
    """Return the influence of an observation in a cell (row, column).

    Args:
        increment: (H, W) that the observation made, signed or a magnitude.
        grid: of the increment.
        row, column: cell of the observation.
        distance_km: beyond which `Influence.beyond` is measured.
    """
    size = np.abs(increment)
    lat, lon = np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
    away = great_circle_km(lat, lon, np.array(grid.latitude[row]), np.array(grid.longitude[column]))
    y, x = np.unravel_index(int(size.argmax()), size.shape)
    peak = float(size[y, x])
    if not peak:
        return Influence(0.0, row, column, 0.0, 0.0, 0.0)
    # The weights have a mean of 1 over the sphere, whose area is 4 pi R^2.
    share = float(grid.weights[size >= peak / 2].sum()) / size.size
    beyond = float(size[away > distance_km].max(initial=0)) / peak
    return Influence(peak, int(y), int(x), float(away[y, x]), 2 * EARTH_RADIUS_KM * np.sqrt(share), beyond)


@dataclass(frozen=True)
class SingleObservationReach:
    """Describe the increments of single observations at several places.

    Attributes:
        peak: largest increment, in standard deviations of its channel, at the place where it is smallest.
        beyond: largest increment beyond a distance, as a share of the peak, at the place where it is largest.
    """

    peak: float
    beyond: float


def single_observation_reach(
    assimilator: Assimilator, background: NDArray, std: NDArray, distance_km: float
) -> SingleObservationReach:
    """Analyse one observation of 500-hPa geopotential at a time, one standard deviation above the background.

    Args:
        assimilator: the method.
        background: (69, H, W) SI.
        std: (69,) standard deviations of the channels, SI.
        distance_km: beyond which increments are measured.
    """
    grid, k = assimilator.grid, index(TRIED)
    peaks, shares = [], []
    for latitude, longitude in SITES:
        y, x = np.abs(grid.latitude - latitude).argmin(), np.abs(grid.longitude - longitude % 360).argmin()
        values = np.zeros((1, len(NAMES) + len(assimilator.planes), *grid.shape), np.float32)
        errors = np.zeros_like(values)
        values[0, k, y, x], errors[0, k, y, x] = background[k, y, x] + std[k], 0.1 * std[k]
        analysis = assimilator.analyse(background[None], values, errors).state[0]
        size = (np.abs(analysis - background) / std[:, None, None]).max(axis=0)
        increment = influence(size, grid, int(y), int(x), distance_km)
        peaks.append(increment.peak)
        shares.append(increment.beyond)
    return SingleObservationReach(min(peaks), max(shares))
