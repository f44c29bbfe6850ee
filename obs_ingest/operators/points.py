"""Observation operators for surface fields on any list of points: interpolation, and 2-metre temperature's height.

A 2-metre temperature of the background belongs to the model's ground. H(x) at a station is the interpolated field minus
lapse rate times the station's height above that ground. The lapse rate is that of the day: the slope of the departures.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial import cKDTree

from dacycle.forecast_adapter.states.points import PointFields, Stencil, positions, stencil
from dacycle.obs_ingest.table import VARIABLES, ObservationError

__all__ = ["PointOperator", "lapse_rate", "relief"]

LEAST_DEPARTURES = 50
"""The least number of departures that give a lapse rate."""


class PointOperator:
    """H of every row of a table, for surface fields on one list of points.

    Args:
        fields: the background; fields that are interpolated later are on the same points.
        table: observations, n rows.
        orography: the ground's height, on any points. None: it is estimated as the mean of the heights of the stations
            around (see `relief`).

    Attributes:
        stencil: interpolation from the background's points to the rows.
        height: (n,) of each station above the model's ground, m; NaN where its elevation is missing.
    """

    def __init__(self, fields: PointFields, table: pd.DataFrame, orography: PointFields | None) -> None:
        latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
        self._codes, elevation = table["variable"].array.codes, table["elevation"].to_numpy()
        self.stencil: Stencil = stencil(fields, latitude, longitude)
        if orography is None:
            self.height = relief(latitude, longitude, elevation, self.stencil.spacing_km)
        else:
            ground = stencil(orography, latitude, longitude)
            self.height = elevation - ground(orography.values["orography"])

    def of(self, variable: str) -> NDArray[np.bool_]:
        """Return whether each row (n,) is of this variable."""
        return self._codes == VARIABLES.index(variable)

    def __call__(self, values: dict[str, NDArray], lapse_rate: float) -> NDArray[np.float64]:
        """Return H(x) (n,), NaN where its channel is absent, the site is outside, or a height is needed and missing.

        Args:
            values: (m,) at the points, by channel, SI.
            lapse_rate: K per m.
        """
        model = np.full(len(self._codes), np.nan)
        for channel, field in values.items():
            rows = self.of(channel)
            model[rows] = self.stencil(field)[rows]
            if channel == "t2m":
                model[rows] -= lapse_rate * self.height[rows]
        return model


def relief(latitude: NDArray, longitude: NDArray, elevation: NDArray, scale_km: float) -> NDArray[np.float64]:
    """Return heights (n,) of stations above the mean height around them, m; NaN where the elevation is missing.

    The mean is over the places of all stations, weighted by a Gaussian with the standard deviation `scale_km`. It
    replaces an unknown model orography: with the model's grid spacing as the scale it is about as smooth. A station
    without others around it has height 0.
    """
    relative = np.full(len(elevation), np.nan)
    rows = np.nonzero(np.isfinite(elevation))[0]
    if not len(rows):
        return relative
    points, first, back = np.unique(
        positions(latitude[rows], longitude[rows]), axis=0, return_index=True, return_inverse=True
    )
    heights, tree = elevation[rows][first], cKDTree(points)
    near = tree.sparse_distance_matrix(tree, 3 * scale_km, output_type="ndarray")
    weight = np.exp(-((near["v"] / scale_km) ** 2) / 2)
    total, sum_of_heights = (
        np.bincount(near["i"], weights=w, minlength=len(points)) for w in (weight, weight * heights[near["j"]])
    )
    relative[rows] = (heights - sum_of_heights / total)[back.ravel()]
    return relative


def lapse_rate(departures: NDArray, heights: NDArray) -> float:
    """Return the lapse rate (K per m) of departures (n,) of 2-metre temperature with heights above the ground (n,).

    It is a Huber regression: departures more than 2 K from the line count by size, not by its square, so that neither
    gross errors nor a few summits decide.

    Raises:
        ObservationError: too few departures, or all at the model's ground.
    """
    rows = np.isfinite(departures) & np.isfinite(heights)
    departures, heights = departures[rows], heights[rows]
    if len(departures) < LEAST_DEPARTURES or heights.std() < 10:
        spread = heights.std() if len(heights) else 0
        raise ObservationError(
            f"{len(departures)} departures of 2-metre temperature, with heights that differ by {spread:.0f} m, do not "
            "give a lapse rate; give it with --lapse-rate (K/km: 6.5 is the standard atmosphere's, 0 leaves heights "
            "as they are)"
        )
    fit = least_squares(lambda p: departures - p[0] + 1e-3 * p[1] * heights, (0.0, 6.5), loss="huber", f_scale=2.0)
    return float(1e-3 * fit.x[1])
