"""Superobs: the observations of a grid cell as one value and one error, on channel planes and observation planes.

On a channel, departures are averaged at the stations' own positions and heights and the cell's background is added
back: averaging the values of forty stations at forty heights would be wrong. Variables that no channel holds
(precipitation, OLR, humidity from dewpoint) are averaged as values, on a plane of their own. Training uses the same
function as cycling.

A row's error has a part with the standard deviation s that the rows of a cell share, and one with o of its own
(`errors.model`). With weights w of sum 1 the error of their mean is error^2 = (sum w s)^2 + sum w^2 o^2; for n equal
rows error^2 = s^2 + o^2 / n. On channels the weights are the inverse squared errors. On planes all rows weigh the same,
because errors grow with the values there: the dry gauges of a cell would outweigh the wet ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS, NAMES, PLANES, index, nearest_level
from dacycle.forecast_adapter.grid import Grid, cells, interpolate_to_points
from dacycle.forecast_adapter.physics import humidity_from_dewpoint, station_pressure_ratio
from dacycle.obs_ingest.distinct import distinct_numbers
from dacycle.obs_ingest.errors.model import period_variance
from dacycle.obs_ingest.errors.table import ErrorTable
from dacycle.obs_ingest.table import LEVEL_VARIABLES, USES, VARIABLES, ObservationError

__all__ = ["ERROR_FLOOR", "GriddedObservations", "grid_observations", "superob_departures"]

ERROR_FLOOR = 0.01
"""Least error of a superob on a channel, as a fraction of the channel's standard deviation."""


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

    A row's `error` is divided into its shared and its own part as in `assumed`. The OLR plane is a mean over six hours:
    `errors.period_variance` is added to the shared variance of a mean over any other period. Values between the
    standard levels go to the nearest one in log p. Station pressure becomes a departure in msl, unless its site reports
    msl itself.

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
    rows, used = _assimilated(table, assumed or ErrorTable())
    y, x = cells(grid, rows.latitude, rows.longitude)
    channel, scale = _channels(rows, np.isfinite(equivalents[used])), _scale(rows, equivalents[used], background, grid)
    values = np.zeros((len(NAMES) + len(planes), *grid.shape), np.float32)
    errors = np.zeros_like(values)

    on = np.nonzero(channel >= 0)[0]
    mean = _Mean(np.ravel_multi_index((channel[on], y[on], x[on]), values.shape), (rows.total[on] * scale[on]) ** -2)
    error = mean.error(rows.shared[on] * scale[on], rows.own[on] * scale[on])
    if std is not None:
        error = np.maximum(error, ERROR_FLOOR * std[mean.cells // (grid.shape[0] * grid.shape[1])])
    departure = mean((rows.value[on] - equivalents[used][on]) * scale[on])
    values.reshape(-1)[mean.cells] = background.reshape(-1)[mean.cells] + departure
    errors.reshape(-1)[mean.cells] = error

    for i, name in enumerate(planes, start=len(NAMES)):
        on, value, slope = _plane(name, rows, background, grid)
        mean = _Mean(np.ravel_multi_index((y[on], x[on]), grid.shape), np.ones(len(on)))
        values[i].reshape(-1)[mean.cells] = mean(value)
        errors[i].reshape(-1)[mean.cells] = mean.error(rows.shared[on] * slope, rows.own[on] * slope)
    return GriddedObservations(values, errors, tuple(planes))


def superob_departures(departures: pd.DataFrame, grid: Grid, assumed: ErrorTable) -> pd.DataFrame:
    """Return the departures of the superobs on channels, from those of the rows of a cycle.

    Args:
        departures: rows with `o_b` and `o_a`; those assimilated and compared count, without station pressure, whose
            departure in msl depends on the background.
        grid: of the observations.
        assumed: the table that assigned the rows' errors.

    Returns:
        A row per superob, SI: `channel`; `stations`, their number; `o_b`, `o_a`, their weighted means; the stated
        `error`; `own`, the part of one station's error that the others do not share, and `scatter`, the standard
        deviation of O-B in the cell (NaN for one station).
    """
    rows, used = _assimilated(departures, assumed)
    compared = departures[["o_b", "o_a"]].to_numpy()[used]
    channel = _channels(rows, np.isfinite(compared).all(1))
    on = np.nonzero((channel >= 0) & ~rows.are("ps"))[0]
    y, x = cells(grid, rows.latitude[on], rows.longitude[on])
    cell = np.ravel_multi_index((channel[on], y, x), (len(NAMES), *grid.shape))
    mean, plain = _Mean(cell, rows.total[on] ** -2), _Mean(cell, np.ones(len(on)))
    o_b, o_a = compared[on].T
    with np.errstate(invalid="ignore"):
        scatter = np.sqrt(plain(np.square(o_b - plain(o_b)[mean.of])) * mean.count / (mean.count - 1))
    return pd.DataFrame(
        {
            "channel": np.array(NAMES)[mean.cells // (grid.shape[0] * grid.shape[1])],
            "stations": mean.count,
            "o_b": mean(o_b),
            "o_a": mean(o_a),
            "error": mean.error(rows.shared[on], rows.own[on]),
            "own": np.sqrt(plain(np.square(rows.own[on]))),
            "scatter": scatter,
        }
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """The columns of the assimilated rows that superobs need, and the two parts of their errors."""

    variable: NDArray[np.int8]
    value: NDArray
    latitude: NDArray
    longitude: NDArray
    elevation: NDArray
    pressure: NDArray
    period: NDArray
    site: NDArray
    shared: NDArray
    own: NDArray

    @property
    def total(self) -> NDArray:
        """Return the errors."""
        return np.hypot(self.shared, self.own)

    def are(self, name: str) -> NDArray[np.bool_]:
        return self.variable == VARIABLES.index(name)


def _assimilated(table: pd.DataFrame, assumed: ErrorTable) -> tuple[_Rows, NDArray[np.intp]]:
    """Return the columns of the assimilated rows, and the positions of these."""
    used = np.nonzero(table["use"].array.codes == USES.index("assimilated"))[0]
    table = table.iloc[used]
    names = ("value", "latitude", "longitude", "elevation", "pressure", "period")
    numbers = {name: table[name].to_numpy() for name in names}
    variable, variance = table["variable"].array.codes, np.square(table["error"].to_numpy())
    other_period = np.where(variable == VARIABLES.index("olr"), period_variance(numbers["period"]), 0.0)
    share = assumed.shared_share(table)
    shared, own = np.sqrt(variance * share + other_period), np.sqrt(variance * (1 - share))
    return _Rows(variable, site=table["site"].array.codes, shared=shared, own=own, **numbers), used


def _channels(rows: _Rows, comparable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return each row's channel; -1: none, or not comparable. Of a site with msl, station pressure is not used."""
    channel = np.full(len(rows.value), -1)
    for name in ("t2m", "msl", "u10", "v10"):
        channel[rows.are(name)] = index(name)
    level = nearest_level(rows.pressure)
    for name in LEVEL_VARIABLES:
        of_name = rows.are(name)
        channel[of_name] = index(f"{name}{LEVELS[0]}") + level[of_name]
    channel[rows.are("ps") & ~np.isin(rows.site, rows.site[rows.are("msl")])] = index("msl")
    channel[~comparable] = -1
    return channel


def _scale(rows: _Rows, equivalents: NDArray, background: NDArray, grid: Grid) -> NDArray:
    """Return the factor from each row's departure to its channel's; for station pressure msl_b / H(x_b)."""
    scale, station = np.ones(len(rows.value)), rows.are("ps")
    latitude, longitude = rows.latitude[station], rows.longitude[station]
    scale[station] = interpolate_to_points(background[index("msl")], grid, latitude, longitude) / equivalents[station]
    return scale


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


class _Mean:
    """The weighted means in cells.

    Args:
        cell: (n,) number of each row's cell.
        weight: (n,) above 0.

    Attributes:
        cells: (m,) the distinct cells.
        of: (n,) the position in `cells` of each row's cell.
        count: (m,) rows in each.
    """

    def __init__(self, cell: NDArray[np.intp], weight: NDArray) -> None:
        self.cells, self.of, self.count = distinct_numbers(cell)
        self._weight = weight / np.bincount(self.of, weight, len(self.cells))[self.of]

    def __call__(self, value: NDArray) -> NDArray:
        """Return the means (m,) of values (n,)."""
        return np.bincount(self.of, self._weight * value, len(self.cells))

    def error(self, shared: NDArray, own: NDArray) -> NDArray:
        """Return the errors (m,) of the means from the two parts (n,) of the values' errors."""
        single = np.bincount(self.of, np.square(self._weight * own), len(self.cells))
        return np.sqrt(np.square(self(shared)) + single)
