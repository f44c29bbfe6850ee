"""Observation operators: what the background says an observation should have been, H(x).

Bilinear in the horizontal; 2-metre temperature moved from the model's orography to the station's height; levels between
the standard ones linear in log p. Precipitation and OLR are interpolated from what a learned operator (`learned.py`)
makes of the two frames of each six hours, where a world has one. Dewpoint has no operator. The rows of these three
become observation planes of their own, which trained assimilators learn to read.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS, LOG_LEVELS, index
from dacycle.forecast_adapter.grid import Grid, interpolate_to_points
from dacycle.forecast_adapter.physics import LAPSE_RATE, station_pressure_ratio
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES

if TYPE_CHECKING:
    from dacycle.obs_ingest.operators.learned import LearnedOperator

__all__ = [
    "MSL_HEIGHT_LIMIT",
    "equivalents",
    "over_periods",
]

MSL_HEIGHT_LIMIT = 750.0
"""Metres; above it pressure reduced to sea level says more about the reduction than about the air."""

_SURFACE = ("t2m", "msl", "u10", "v10")


def equivalents(
    table: pd.DataFrame,
    previous: NDArray,
    current: NDArray,
    grid: Grid,
    orography: NDArray,
    operator: "LearnedOperator | None" = None,
    earlier: Sequence[NDArray] = (),
) -> NDArray[np.float64]:
    """H(x) of every row of a table.

    Args:
        table: observations, n rows.
        previous, current: (69, H, W) the states 6 h before the analysis time and at it. Operators are instantaneous
            and take `current`; the learned one takes both.
        grid: of the states.
        orography: (H, W) m, the model's.
        operator: for precipitation and mean OLR; None: they have none.
        earlier: the states before `previous`, every 6 h, oldest first: as many as there are, which decides how long a
            period may be.

    Returns:
        (n,) in each row's unit; NaN where a variable has no operator (td2m; tp and olr over a period that the states do
        not cover in steps of 6 h), the pressure is outside 50 to 1000 hPa, the elevation that t2m or ps need is
        missing, ps is from above 750 m, or the site is nearer to a pole than the last row of cells is.
    """
    codes = table["variable"].array.codes
    out = np.full(len(table), np.nan)
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    elevation = table["elevation"].to_numpy()
    surface = np.concatenate([current[[index(name) for name in _SURFACE]], orography[None]], dtype=np.float64)
    rows = np.nonzero(np.isin(codes, [VARIABLES.index(name) for name in (*_SURFACE, "ps")]))[0]
    points, back = _points(latitude[rows], longitude[rows])
    at = interpolate_to_points(surface, grid, points.real, points.imag)
    for k, name in enumerate(_SURFACE):
        mine = codes[rows] == VARIABLES.index(name)
        out[rows[mine]] = at[k, back[mine]]
        if name == "t2m":
            out[rows[mine]] -= LAPSE_RATE * (elevation[rows[mine]] - at[-1, back[mine]])
    mine = (codes[rows] == VARIABLES.index("ps")) & (elevation[rows] <= MSL_HEIGHT_LIMIT)
    out[rows[mine]] = at[_SURFACE.index("msl"), back[mine]] * station_pressure_ratio(elevation[rows[mine]])
    _upper_air(out, table, current, grid)
    if operator is not None:
        learned = over_periods(table, [x.values for x in operator.intervals(previous, current, earlier)], grid)
        out = np.where(np.isnan(learned), out, learned)
    out[np.abs(latitude) > _polar_circle(grid)] = np.nan
    return out


def over_periods(table: pd.DataFrame, intervals: Sequence[Mapping[str, NDArray]], grid: Grid) -> NDArray[np.float64]:
    """(n,) precipitation's sums and OLR's means over the periods of their rows.

    Args:
        table: observations, n rows.
        intervals: fields (H, W) by variable over six hours each, newest first, back from the analysis time.
        grid: of the fields.

    Returns:
        NaN for other variables, and for periods that are no multiple of 6 h or longer than all intervals.
    """
    out = np.full(len(table), np.nan)
    codes, period = table["variable"].array.codes, table["period"].to_numpy()
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    for count in range(1, len(intervals) + 1):
        for variable in intervals[0]:
            rows = np.nonzero((period == 6 * count) & (codes == VARIABLES.index(variable)))[0]
            if len(rows):
                fields = [interval[variable] for interval in intervals[:count]]
                field = np.sum(fields, axis=0) if variable == "tp" else np.mean(fields, axis=0)
                out[rows] = interpolate_to_points(field, grid, latitude[rows], longitude[rows])
    return out


def _polar_circle(grid: Grid) -> float:
    """The latitude of the last row before the pole.

    Beyond it interpolation gives the mean of the row, which is no cell's value: an analysis would be pushed towards a
    departure that its increments, made in one cell, do not reduce, and again in every cycle. (Seen with a sonde at the
    South Pole: within four days the analysis was wrong by tens of kelvins there.)
    """
    return float(np.abs(grid.latitude[np.abs(grid.latitude) < 90]).max())


def _upper_air(out: NDArray, table: pd.DataFrame, current: NDArray, grid: Grid) -> None:
    """Fill `out` for values aloft: every column interpolated once, then each row between its two levels."""
    codes = table["variable"].array.codes
    first = VARIABLES.index(LEVEL_VARIABLES[0])
    pressure = table["pressure"].to_numpy()
    with np.errstate(invalid="ignore"):
        inside = (codes >= first) & (pressure >= LEVELS[0] * 100) & (pressure <= LEVELS[-1] * 100)
    rows = np.nonzero(inside)[0]
    if not len(rows):
        return
    points, back = _points(table["latitude"].to_numpy()[rows], table["longitude"].to_numpy()[rows])
    columns = interpolate_to_points(current[4:], grid, points.real, points.imag)
    columns = columns.reshape(len(LEVEL_VARIABLES), len(LEVELS), -1)
    log_pressure = np.log(pressure[rows])
    upper = np.clip(np.searchsorted(LOG_LEVELS, log_pressure, side="right") - 1, 0, len(LEVELS) - 2)
    weight = (log_pressure - LOG_LEVELS[upper]) / (LOG_LEVELS[upper + 1] - LOG_LEVELS[upper])
    which = codes[rows] - first
    out[rows] = columns[which, upper, back] * (1 - weight) + columns[which, upper + 1, back] * weight


def _points(latitude: NDArray, longitude: NDArray) -> tuple[NDArray[np.complex128], NDArray[np.intp]]:
    """Distinct positions as latitude + i longitude, and each row's place among them."""
    return np.unique(latitude + 1j * longitude, return_inverse=True)
