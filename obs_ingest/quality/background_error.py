"""The background's own error, as the run has found it: by channel and band of latitude, from its departures.

Background check and increment guard need the error of the background in its own unit, not in that of the climate. It
is estimated in each cycle from that cycle's departures, and only past cycles decide what the next one expects:

    s^2 <- s^2 + g (r - 1) <e^2 + s^2>

r is the ratio of the departures' variance to the expected one, e^2 + s^2 with the observation's error e, in each band
of 30 degrees. The variance is that of a normal distribution with the departures' 90th percentile: gross errors, as long
as they are fewer than one in ten, do not change it, rejected values count as all others do, and no estimate can
therefore shut out the values that contradict it. The gain g is 0.2 where many values are compared, and goes to 0 with
their number: the estimate follows seasons and spells of bad observations in a few days, and stays where nothing is
compared. A run's first cycle starts from `first_guess`, and takes its estimate from its own departures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import CHANNELS, GROUPS, LEVELS, LOG_LEVELS, NAMES, index
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import standard_error
from dacycle.obs_ingest.table import LEVEL_VARIABLES, REASONS, VARIABLES

__all__ = ["BANDS", "BackgroundError", "first_guess"]

BANDS = np.arange(-75.0, 90.0, 30.0)
"""Middles of the bands of latitude; between them the error is interpolated."""

FIRST_GUESS = 2.0
"""The first guess of the background's error, in usual errors of an observation of the same kind."""

GAIN = 0.2
MOST = 4.0
"""The largest ratio r that counts, so that one bad cycle does not open the checks."""
FEW = 20
"""Number of values in a band at which half of the gain is applied."""
LEAST = 0.5
"""The least error, in mean errors of the observations: stated errors that are too large do not make it 0."""
QUANTILE, NORMAL = 0.9, 1.6449
"""A share of the departures, and where it lies in a normal distribution, in standard deviations."""

_PLANES = ("tp", "olr")
_NAMES = (*NAMES, *_PLANES)
_ALOFT = {variable: GROUPS[variable] for variable in LEVEL_VARIABLES}
_MIDDLES = (LOG_LEVELS[1:] + LOG_LEVELS[:-1]) / 2
_COMPARED = [
    REASONS.index(name)
    for name in (
        "",
        "background_check",
        "buddy_check",
        "spatial_consistency",
        "withheld_region",
        "withheld_site",
        "denied",
    )
]


@dataclass(frozen=True, eq=False)
class BackgroundError:
    """Hold the standard deviation of the background's error, SI.

    Attributes:
        std: (71, bands): of the 69 channels, of precipitation over six hours and of OLR, by band of latitude.
    """

    std: NDArray[np.float64]

    @classmethod
    def from_dict(cls, content: Mapping[str, Sequence[float]]) -> "BackgroundError":
        """Return the error that `as_dict` wrote."""
        return cls(np.array([content[name] for name in _NAMES], float))

    def as_dict(self) -> dict[str, list[float]]:
        """Return the error of each band, south to north, by channel or variable, to four digits, as JSON holds it."""
        return {name: [float(f"{x:.4g}") for x in row] for name, row in zip(_NAMES, self.std, strict=True)}

    def on(self, grid: Grid) -> NDArray[np.float64]:
        """Return the error (69, H, 1) of the channels at the latitudes of a grid."""
        return self._between_bands(grid, slice(len(NAMES)))

    def planes(self, grid: Grid) -> dict[str, NDArray[np.float64]]:
        """Return the error (H, 1) of precipitation over six hours (`tp`) and of OLR at the latitudes of a grid."""
        return dict(zip(_PLANES, self._between_bands(grid, slice(len(NAMES), None)), strict=True))

    def _between_bands(self, grid: Grid, rows: slice) -> NDArray[np.float64]:
        return np.stack([np.interp(grid.latitude, BANDS, row) for row in self.std[rows]])[:, :, None]

    def at_rows(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """Return the error (n,) at each row of a table, linear in log p aloft; NaN without a channel.

        That of station pressure is that of pressure at sea level; at 750 m it is 9 % smaller.
        """
        codes, latitude = table["variable"].array.codes, table["latitude"].to_numpy()
        log_pressure = np.log(table["pressure"].to_numpy())
        error = np.full(len(table), np.nan)
        for variable in ("t2m", "msl", "ps", "u10", "v10"):
            rows = codes == VARIABLES.index(variable)
            error[rows] = np.interp(latitude[rows], BANDS, self.std[index("msl" if variable == "ps" else variable)])
        for variable, channels in _ALOFT.items():
            rows = np.nonzero(codes == VARIABLES.index(variable))[0]
            levels = np.stack([np.interp(latitude[rows], BANDS, row) for row in self.std[channels]])
            level = np.interp(log_pressure[rows], LOG_LEVELS, np.arange(len(LEVELS)))
            upper = np.minimum(level.astype(int), len(LEVELS) - 2)
            columns = np.arange(len(rows))
            error[rows] = levels[upper, columns] * (upper + 1 - level) + levels[upper + 1, columns] * (level - upper)
        return error

    def after(
        self, table: pd.DataFrame, departures: NDArray, expected: NDArray, gain: float = GAIN, most: float = MOST
    ) -> "BackgroundError":
        """Return the estimate after a cycle.

        Args:
            table: n rows after quality control; those that the background was compared with count, rejected or not.
            departures: (n,) O-B.
            expected: (n,) standard deviation of the error of H(x_b) that was assumed, SI.
            gain, most: see the module; a run's first cycle has 1 and infinity.
        """
        group, error = _groups(table), table["error"].to_numpy()
        compared = np.isfinite(departures) & np.isfinite(expected) & np.isin(table["reason"].array.codes, _COMPARED)
        rows = np.nonzero(compared & (group >= 0))[0]
        variance = error[rows] ** 2 + expected[rows] ** 2
        ratio = np.square(departures[rows] / NORMAL) / variance
        by_group = pd.DataFrame({"ratio": ratio, "variance": variance, "error": error[rows]}).groupby(group[rows])
        excess = np.minimum(by_group["ratio"].quantile(QUANTILE), most) - 1
        size, mean = by_group.size(), by_group[["variance", "error"]].mean()
        weight = size / (size + FEW)
        std, groups = self.std.ravel().copy(), mean.index.to_numpy()
        squared = std[groups] ** 2 + gain * weight * excess * mean["variance"]
        std[groups] = np.sqrt(np.maximum(squared, np.square(LEAST * mean["error"])))
        return BackgroundError(std.reshape(self.std.shape))


def first_guess(world: World, time: np.datetime64) -> BackgroundError:
    """Return the first guess: twice the usual error of an observation, of humidity at the season's mean humidity.

    Errors of forecasts of six hours are of the size of those that observations have, representativeness included. The
    factor leaves room for a cold start, and for what no observation is compared with.
    """
    zonal = world.climatology.at(time).mean(axis=-1)[:, ::-1]
    usual = np.stack([np.interp(BANDS, world.grid.latitude[::-1], row) for row in zonal])
    channels = [
        standard_error(channel.variable, value, 100 * channel.level if channel.level else np.nan)
        for channel, value in zip(CHANNELS, usual, strict=True)
    ]
    planes = [np.full(len(BANDS), standard_error(variable, 0.0)) for variable in _PLANES]
    return BackgroundError(FIRST_GUESS * np.stack([*channels, *planes]))


def _groups(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return the number (n,) of each row's place in `BackgroundError.std`, flat; -1 where it has none."""
    codes = table["variable"].array.codes
    row = np.full(len(table), -1)
    for variable in ("t2m", "msl", "ps", "u10", "v10"):
        row[codes == VARIABLES.index(variable)] = index("msl" if variable == "ps" else variable)
    for i, variable in enumerate(_PLANES, start=len(NAMES)):
        row[codes == VARIABLES.index(variable)] = i
    level = np.searchsorted(_MIDDLES, np.log(table["pressure"].to_numpy()))
    for variable, channels in _ALOFT.items():
        of_variable = codes == VARIABLES.index(variable)
        row[of_variable] = channels[0] + level[of_variable]
    band = np.clip((table["latitude"].to_numpy() + 90) // 30, 0, len(BANDS) - 1).astype(int)
    return np.where(row >= 0, row * len(BANDS) + band, -1)
