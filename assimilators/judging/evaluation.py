"""How good an assimilator is: one-shot on held-out samples, and where little or nothing is observed.

Needs no torch: it judges any `Assimilator`, classical ones and exported files alike, with the observations, quality
control and superobs of a cycle.
"""

from __future__ import annotations

import time as clock
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import Assimilator
from dacycle.assimilators.sampling.backgrounds import Backgrounds
from dacycle.assimilators.sampling.observing import USUAL, Observing
from dacycle.forecast_adapter.channels import HEADLINE, NAMES, index
from dacycle.forecast_adapter.grid import Grid, great_circle_km
from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM

__all__ = [
    "Influence",
    "OneShot",
    "SingleObservation",
    "evaluate",
    "increment_alone",
    "influence",
    "single_observation",
]

SITES = ((52.0, 10.0), (0.0, -60.0), (-75.0, 100.0), (30.0, 179.0))
"""Where single observations are tried: in mid-latitudes, the tropics, near a pole and at the date line."""


@dataclass(frozen=True, eq=False)
class OneShot:
    """Errors over n held-out samples, from single analyses of forecasts' backgrounds.

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
        """Root mean squared error (or spread) of a channel, of all leads or of one."""
        rows = slice(None) if lead is None else self.leads == lead
        return float(np.sqrt(getattr(self, which)[rows, index(channel)].mean()))

    def spread_to_skill(self) -> float | None:
        """Spread over error, both as root mean squares over all channels in units of each one's error; 1 is honest."""
        ratio = self.spread_ratio
        return None if ratio is None else float(np.sqrt(np.square(ratio).mean()))

    @property
    def spread_ratio(self) -> NDArray[np.float64] | None:
        """(69,) spread over error, both as root mean squares."""
        return None if self.spread is None else np.sqrt(self.spread.mean(axis=0) / self.analysis.mean(axis=0))

    def as_dict(self) -> dict[str, Any]:
        """RMSE of background and analysis by headline channel, over all leads; spread over skill; how many."""
        both = {
            name: {which: float(f"{self.rmse(which, name):.4g}") for which in ("background", "analysis")}
            for name in HEADLINE
        }
        ratio = self.spread_to_skill()
        return {**both, "spread_to_skill": None if ratio is None else round(ratio, 3), "samples": len(self.leads)}


def evaluate(assimilator: Assimilator, observing: Observing, backgrounds: Backgrounds, seed: int) -> OneShot:
    """Analyse every background once, with observations of its own, and compare with the truth.

    The same seed gives every assimilator the same observations.

    Args:
        observing: draws them from its world's reference, which is the truth.
    """
    world, area = observing.world, observing.world.grid.weights
    std = world.statistics.std[:, None, None]
    rows: list[NDArray] = []
    seconds = []
    for sample, (time, error) in enumerate(zip(backgrounds.times, backgrounds.errors, strict=True)):
        truth = world.reference.array(time)
        background = (truth + error.astype(np.float32) * std)[None]
        generator = np.random.default_rng([seed, sample])
        drawn = observing.draw(time, background[0], USUAL, generator, assimilator.planes)
        began = clock.perf_counter()
        found = assimilator.analyse(background, drawn.values[None], drawn.errors[None])
        seconds.append(clock.perf_counter() - began)
        fields = [background[0] - truth, found.state[0] - truth]
        if found.spread is not None:
            fields.append(found.spread[0])
        rows.append((np.stack(fields).astype(np.float64) ** 2 * area).mean(axis=(2, 3)))
    squares = np.stack(rows, axis=1)
    spread = squares[2] if len(squares) == 3 else None
    return OneShot(backgrounds.leads, squares[0], squares[1], spread, float(np.median(seconds)))


def increment_alone(assimilator: Assimilator, background: NDArray, std: NDArray) -> float:
    """Largest increment where nothing at all is observed, in standard deviations. background: (69, H, W) SI."""
    nothing = np.zeros((1, len(NAMES) + len(assimilator.planes), *background.shape[1:]), np.float32)
    found = assimilator.analyse(background[None], nothing, nothing).state[0]
    return float((np.abs(found - background).max(axis=(1, 2)) / std).max())


@dataclass(frozen=True)
class Influence:
    """How large an increment is, and how far it reaches.

    Attributes:
        peak: its largest magnitude.
        row, column: the cell in which it is.
        away_km: how far that is from the observation.
        half_km: radius of a circle as large as the area in which the increment is at least half its peak.
        beyond: largest magnitude further than a distance from the observation, as a share of the peak.
    """

    peak: float
    row: int
    column: int
    away_km: float
    half_km: float
    beyond: float


def influence(increment: NDArray, grid: Grid, row: int, column: int, distance_km: float) -> Influence:
    """Of an increment (H, W), signed or a magnitude, that an observation in a cell (row, column) made."""
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
class SingleObservation:
    """What one observation does.

    Attributes:
        peak: largest increment, in standard deviations of its channel; the least of all places.
        beyond: largest increment further away than `distance_km`, as a share of the peak; the most of all places.
        distance_km: the distance.
    """

    peak: float
    beyond: float
    distance_km: float


def single_observation(
    assimilator: Assimilator, background: NDArray, std: NDArray, distance_km: float, channel: str = "z500"
) -> SingleObservation:
    """One observation at a time, one standard deviation above the background, at each of `SITES`."""
    grid, k = assimilator.grid, index(channel)
    peaks, shares = [], []
    for latitude, longitude in SITES:
        y, x = np.abs(grid.latitude - latitude).argmin(), np.abs(grid.longitude - longitude % 360).argmin()
        values = np.zeros((1, len(NAMES) + len(assimilator.planes), *grid.shape), np.float32)
        errors = np.zeros_like(values)
        values[0, k, y, x], errors[0, k, y, x] = background[k, y, x] + std[k], 0.1 * std[k]
        found = assimilator.analyse(background[None], values, errors).state[0]
        size = (np.abs(found - background) / std[:, None, None]).max(axis=0)
        made = influence(size, grid, int(y), int(x), distance_km)
        peaks.append(made.peak)
        shares.append(made.beyond)
    return SingleObservation(min(peaks), max(shares), distance_km)
