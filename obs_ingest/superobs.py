"""Superobs: the observations of a grid cell as one value and one error, on channel planes and observation planes.

On a channel, departures are averaged at the stations' own positions and heights and the cell's background is added
back: averaging the values of forty stations at forty heights would be wrong. Variables that no channel holds
(precipitation, OLR, humidity from dewpoint) are averaged as values, on a plane of their own. Training uses the same
function as cycling.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS, LOG_LEVELS, NAMES, PLANES, index
from dacycle.forecast_adapter.grid import Grid, cells, interpolate_to_points
from dacycle.forecast_adapter.physics import humidity_from_dewpoint, station_pressure_ratio
from dacycle.obs_ingest.errors.model import period_variance
from dacycle.obs_ingest.errors.table import ErrorTable
from dacycle.obs_ingest.table import LEVEL_VARIABLES, USES, VARIABLES, ObservationError

__all__ = ["ERROR_FLOOR", "GriddedObservations", "grid_observations"]

ERROR_FLOOR = 0.01
"""Least error of a superob on a channel, as a fraction of the channel's standard deviation."""

_MIDDLES = (LOG_LEVELS[1:] + LOG_LEVELS[:-1]) / 2


@dataclass(frozen=True, eq=False)
class GriddedObservations:
    """Superobs on a grid, absolute and in SI units.

    Attributes:
        values: (69 + M, H, W) float32; exactly 0 where nothing was observed.
        errors: (69 + M, H, W) float32, one standard deviation; above 0 where observed, exactly 0 where not.
        planes: the M names of the planes after the 69 channels.
    """

    values: NDArray[np.float32]
    errors: NDArray[np.float32]
    planes: tuple[str, ...]


def grid_observations(
    table: pd.DataFrame,
    equivalents: NDArray,
    background: NDArray,
    grid: Grid,
    planes: Sequence[str] = ("tp6h", "olr", "q2m"),
    std: NDArray | None = None,
    assumed: ErrorTable | None = None,
) -> GriddedObservations:
    """Average the rows whose use is `assimilated` in grid cells.

    A superob's squared error is the mean representativeness variance plus the mean instrument variance over n: a row's
    `error` is divided between the two as in `assumed`. The OLR plane is a mean over six hours: `errors.period_variance`
    is added to the representativeness variance of a mean over any other period. Values between the standard levels go
    to the nearest one in log p. Station pressure becomes a departure in msl, unless its site reports msl itself.

    Args:
        table: after quality control, n rows.
        equivalents: (n,) H(x_b).
        background: (69, H, W) x_b.
        grid: the grid of the background.
        planes: observation planes, from `PLANES`, in this order.
        std: (69,) the world's channel standard deviations, which set the least error; None: there is none.
        assumed: the table that assigned the rows' errors; None: the built-in one.

    Raises:
        ObservationError: for an unknown plane.
    """
    unknown = [name for name in planes if name not in PLANES]
    if unknown:
        raise ObservationError(f"unknown observation plane {', '.join(unknown)}; known are {', '.join(PLANES)}")
    used = np.nonzero(table["use"].array.codes == USES.index("assimilated"))[0]
    rows, instrument, representativeness = _variances(table.iloc[used], assumed or ErrorTable())
    y, x = cells(grid, rows.latitude, rows.longitude)
    channel, scale = _channels(rows, equivalents[used], background, grid)
    values = np.zeros((len(NAMES) + len(planes), *grid.shape), np.float32)
    errors = np.zeros_like(values)

    on = np.nonzero(channel >= 0)[0]
    departure = (rows.value[on] - equivalents[used][on]) * scale[on]
    cell, mean, error = _average(
        np.ravel_multi_index((channel[on], y[on], x[on]), values.shape),
        departure, instrument[on] * scale[on] ** 2, representativeness[on] * scale[on] ** 2,
    )  # fmt: skip
    if std is not None:
        error = np.maximum(error, ERROR_FLOOR * std[cell // (grid.shape[0] * grid.shape[1])])
    values.reshape(-1)[cell] = background.reshape(-1)[cell] + mean
    errors.reshape(-1)[cell] = error

    for i, name in enumerate(planes, start=len(NAMES)):
        on, value, slope = _plane(name, rows, background, grid)
        cell, mean, error = _average(
            np.ravel_multi_index((y[on], x[on]), grid.shape),
            value, instrument[on] * slope**2, representativeness[on] * slope**2,
        )  # fmt: skip
        values[i].reshape(-1)[cell] = mean
        errors[i].reshape(-1)[cell] = error
    return GriddedObservations(values, errors, tuple(planes))


@dataclass(frozen=True, eq=False)
class _Rows:
    """The columns of the assimilated rows that superobs need."""

    variable: NDArray[np.int8]
    value: NDArray
    latitude: NDArray
    longitude: NDArray
    elevation: NDArray
    pressure: NDArray
    period: NDArray
    site: NDArray

    def are(self, name: str) -> NDArray[np.bool_]:
        return self.variable == VARIABLES.index(name)


def _variances(table: pd.DataFrame, assumed: ErrorTable) -> tuple[_Rows, NDArray, NDArray]:
    """Return the columns of the used rows, and the instrument and representativeness parts of their squared errors."""
    names = ("value", "latitude", "longitude", "elevation", "pressure", "period")
    numbers = {name: table[name].to_numpy() for name in names}
    rows = _Rows(table["variable"].array.codes, site=table["site"].array.codes, **numbers)
    share, total = assumed.instrument_share(table), np.square(table["error"].to_numpy())
    other_period = np.where(rows.are("olr"), period_variance(rows.period), 0.0)
    return rows, total * share, total * (1 - share) + other_period


def _channels(rows: _Rows, equivalents: NDArray, background: NDArray, grid: Grid) -> tuple[NDArray[np.int64], NDArray]:
    """Return each row's channel (-1: none) and the factor from its departure to that channel's.

    For station pressure it is the background's msl over H(x_b).
    """
    channel, scale = np.full(len(rows.value), -1), np.ones(len(rows.value))
    for name in ("t2m", "msl", "u10", "v10"):
        channel[rows.are(name)] = index(name)
    level = np.searchsorted(_MIDDLES, np.log(rows.pressure))
    for name in LEVEL_VARIABLES:
        of_name = rows.are(name)
        channel[of_name] = index(f"{name}{LEVELS[0]}") + level[of_name]
    station = rows.are("ps") & ~np.isin(rows.site, rows.site[rows.are("msl")])
    channel[station] = index("msl")
    latitude, longitude = rows.latitude[station], rows.longitude[station]
    scale[station] = interpolate_to_points(background[index("msl")], grid, latitude, longitude) / equivalents[station]
    channel[np.isnan(equivalents)] = -1
    return channel, scale


def _plane(name: str, rows: _Rows, background: NDArray, grid: Grid) -> tuple[NDArray[np.intp], NDArray, NDArray]:
    """Return the rows of an observation plane, their values on it, and the factor from their errors to the plane's."""
    if name == "olr":
        on = np.nonzero(rows.are("olr"))[0]
        return on, rows.value[on], np.ones(len(on))
    if name == "tp6h":
        on = np.nonzero(rows.are("tp") & (rows.period == 6))[0]
        return on, rows.value[on], np.ones(len(on))
    on = np.nonzero(rows.are("td2m") & np.isfinite(rows.elevation))[0]
    latitude, longitude = rows.latitude[on], rows.longitude[on]
    fields = background[[index("msl"), index("t2m")]]
    sea_level, temperature = interpolate_to_points(fields, grid, latitude, longitude)
    # The temperature at the model's ground, at most 500 m off, changes humidity by less than 1 % of it.
    pressure = sea_level * station_pressure_ratio(rows.elevation[on], temperature)
    dewpoint = rows.value[on]
    slope = humidity_from_dewpoint(dewpoint + 0.5, pressure) - humidity_from_dewpoint(dewpoint - 0.5, pressure)
    return on, humidity_from_dewpoint(dewpoint, pressure), slope


def _average(
    cell: NDArray[np.intp], value: NDArray, instrument: NDArray, representativeness: NDArray
) -> tuple[NDArray[np.intp], NDArray, NDArray]:
    """Return the distinct cells, the mean value in each, and the superob's error."""
    distinct, back, count = np.unique(cell, return_inverse=True, return_counts=True)
    mean = np.bincount(back, value, len(distinct)) / count
    single = np.bincount(back, instrument, len(distinct)) / count
    common = np.bincount(back, representativeness, len(distinct)) / count
    return distinct, mean, np.sqrt(common + single / count)
