"""Observation operators: the model equivalent H(x) of each observation.

Interpolation is bilinear in the horizontal and linear in log p between the standard levels. 2-metre temperature is
corrected from the model's orography to the station's height. Station pressure is msl brought to the station's height
with that same temperature (`physics.station_pressure_ratio`). Precipitation and OLR are interpolated from the fields
that a learned operator (`learned`) computes from the two frames of each six hours, where a world has one. Dewpoint has
no operator. The rows of these three become observation planes of their own, which trained assimilators learn to read.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS, LOG_LEVELS, index
from dacycle.forecast_adapter.grid import Grid, interpolate_to_points
from dacycle.forecast_adapter.physics import (
    DRY_AIR_GAS_CONSTANT,
    GRAVITY,
    LAPSE_RATE,
    ZERO_CELSIUS,
    station_pressure_ratio,
)
from dacycle.obs_ingest.distinct import distinct_positions
from dacycle.obs_ingest.operators.learned import LearnedFields, over_periods
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES

__all__ = [
    "MSL_HEIGHT_LIMIT",
    "REDUCTION_TEMPERATURE_ERROR",
    "between_levels",
    "equivalents",
    "reduction_error",
]

MSL_HEIGHT_LIMIT = 750.0
"""Metres; above it, pressure reduced to sea level depends more on the reduction than on the air."""

REDUCTION_TEMPERATURE_ERROR = 4.0
"""Kelvins by which the mean temperature of the column between a station and sea level is uncertain, one standard
deviation: an inversion, humidity (up to 3 K of virtual temperature), the background's error, and how a model or a
service reduces pressure."""

_SURFACE = ("t2m", "msl", "u10", "v10")


def equivalents(
    table: pd.DataFrame, state: NDArray, grid: Grid, orography: NDArray, intervals: Sequence[LearnedFields] = ()
) -> NDArray[np.float64]:
    """Return H(x) of every row of a table.

    Args:
        table: observations, n rows.
        state: (69, H, W) at the analysis time.
        grid: the grid of the state.
        orography: (H, W) m, the model's.
        intervals: precipitation and mean OLR of the six hours before the analysis time, of the six before those, and so
            on (`LearnedOperator.intervals`); their number limits the period that a row may cover. None: precipitation
            and OLR have no operator.

    Returns:
        (n,) in each row's unit; NaN where a variable has no operator (td2m; tp and olr over a period that is no
        multiple of 6 h or longer than all intervals), the pressure is outside 50 to 1000 hPa, the elevation that t2m or
        ps need is missing, ps is from above 750 m, or the site is nearer to a pole than the last row of cells is.
    """
    codes = table["variable"].array.codes
    model = np.full(len(table), np.nan)
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    elevation = table["elevation"].to_numpy()
    surface = np.concatenate([state[[index(name) for name in _SURFACE]], orography[None]], dtype=np.float64)
    rows = np.nonzero(np.isin(codes, [VARIABLES.index(name) for name in (*_SURFACE, "ps")]))[0]
    points, back = _points(latitude[rows], longitude[rows])
    *fields, ground = interpolate_to_points(surface, grid, points.real, points.imag)[:, back]
    at_rows = dict(zip(_SURFACE, fields, strict=True))
    at_rows["t2m"] -= LAPSE_RATE * (elevation[rows] - ground)
    low = np.where(_are(codes[rows], "ps") & (elevation[rows] <= MSL_HEIGHT_LIMIT), elevation[rows], np.nan)
    at_rows["ps"] = at_rows["msl"] * station_pressure_ratio(low, at_rows["t2m"])
    for name, values in at_rows.items():
        of_name = _are(codes[rows], name)
        model[rows[of_name]] = values[of_name]
    _upper_air(model, table, state, grid)
    learned = over_periods(table, [interval.values for interval in intervals], grid)
    model = np.where(np.isnan(learned), model, learned)
    model[np.abs(latitude) > _polar_circle(grid)] = np.nan
    return model


def reduction_error(table: pd.DataFrame, equivalents: NDArray) -> NDArray[np.float64]:
    """Return the error (n,) of station pressure's operator, Pa; 0 for other variables.

    It is H(x_b) g |z| / (R T^2) times `REDUCTION_TEMPERATURE_ERROR`, with T = 273.15 K: 0.4 % of the height's own
    difference in pressure for each kelvin, which is 18 Pa at 100 m and 120 Pa at 700 m.

    Args:
        table: observations, n rows.
        equivalents: (n,) H(x_b); where it is NaN the error is 0.
    """
    slope = GRAVITY * REDUCTION_TEMPERATURE_ERROR / (DRY_AIR_GAS_CONSTANT * ZERO_CELSIUS**2)
    error = slope * np.abs(table["elevation"].to_numpy()) * equivalents
    return np.where(_are(table["variable"].array.codes, "ps"), np.nan_to_num(error), 0.0)


def _are(codes: NDArray, name: str) -> NDArray[np.bool_]:
    return codes == VARIABLES.index(name)


def _polar_circle(grid: Grid) -> float:
    """Return the latitude of the last row before the pole.

    Beyond it interpolation gives the mean of the row, which is no cell's value. An analysis would be pushed towards a
    departure that its increments, made in one cell, do not reduce, and again in every cycle. (Seen with a sonde at the
    South Pole: within four days the analysis was wrong by tens of kelvins there.)
    """
    return float(np.abs(grid.latitude[np.abs(grid.latitude) < 90]).max())


def _upper_air(model: NDArray, table: pd.DataFrame, state: NDArray, grid: Grid) -> None:
    """Fill `model` for values aloft: interpolate each distinct column once, then each row between its two levels."""
    codes = table["variable"].array.codes
    first = VARIABLES.index(LEVEL_VARIABLES[0])
    pressure = table["pressure"].to_numpy()
    with np.errstate(invalid="ignore"):
        inside = (codes >= first) & (pressure >= LEVELS[0] * 100) & (pressure <= LEVELS[-1] * 100)
    rows = np.nonzero(inside)[0]
    if not len(rows):
        return
    points, back = _points(table["latitude"].to_numpy()[rows], table["longitude"].to_numpy()[rows])
    columns = interpolate_to_points(state[4:], grid, points.real, points.imag)
    columns = columns.reshape(len(LEVEL_VARIABLES), len(LEVELS), -1)
    upper, weight = between_levels(pressure[rows])
    variable = codes[rows] - first
    model[rows] = columns[variable, upper, back] * (1 - weight) + columns[variable, upper + 1, back] * weight


def between_levels(pressure: NDArray) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the position in `LEVELS` of the level above each pressure (n,), Pa, and the weight of the one below.

    Interpolation is linear in log p.
    """
    log_pressure = np.log(pressure)
    upper = np.clip(np.searchsorted(LOG_LEVELS, log_pressure, side="right") - 1, 0, len(LEVELS) - 2)
    return upper, (log_pressure - LOG_LEVELS[upper]) / (LOG_LEVELS[upper + 1] - LOG_LEVELS[upper])


def _points(latitude: NDArray, longitude: NDArray) -> tuple[NDArray[np.complex128], NDArray[np.intp]]:
    """Return the distinct positions as latitude + i longitude, and the index of each row's position among them."""
    return distinct_positions(latitude + 1j * longitude)
