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
"""Fewer do not give a lapse rate."""


class PointOperator:
    """H of every row of a table, for surface fields on one list of points.

    Args:
        fields: the background; what is interpolated later lies on the same points.
        table: observations, n rows.
        orography: the ground's height, on any points. None: it is estimated from the stations' own heights, as their
            mean around a station (see `relief`).

    Attributes:
        stencil: interpolates from the background's points to the rows.
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
        """(n,) whether a row is of this variable."""
        return self._codes == VARIABLES.index(variable)

    def __call__(self, values: dict[str, NDArray], lapse_rate: float) -> NDArray[np.float64]:
        """(n,) H(x), NaN where its channel is not there, the place is outside, or a height is needed and missing.

        Args:
            values: (m,) at the points, by channel, SI.
            lapse_rate: K per m.
        """
        out = np.full(len(self._codes), np.nan)
        for channel, field in values.items():
            rows = self.of(channel)
            out[rows] = self.stencil(field)[rows]
            if channel == "t2m":
                out[rows] -= lapse_rate * self.height[rows]
        return out


def relief(latitude: NDArray, longitude: NDArray, elevation: NDArray, scale_km: float) -> NDArray[np.float64]:
    """(n,) m: heights of stations above the mean height around them; NaN where the elevation is missing.

    The mean is over the places of all stations, weighted by a Gaussian with this standard deviation. It stands for a
    model's ground that is not known: with the model's grid spacing as the scale it is about as smooth. A station alone
    is on its own ground.
    """
    out = np.full(len(elevation), np.nan)
    known = np.nonzero(np.isfinite(elevation))[0]
    if not len(known):
        return out
    points, first, back = np.unique(
        positions(latitude[known], longitude[known]), axis=0, return_index=True, return_inverse=True
    )
    heights, tree = elevation[known][first], cKDTree(points)
    near = tree.sparse_distance_matrix(tree, 3 * scale_km, output_type="ndarray")
    weight = np.exp(-((near["v"] / scale_km) ** 2) / 2)
    total, sum_of_heights = (
        np.bincount(near["i"], weights=w, minlength=len(points)) for w in (weight, weight * heights[near["j"]])
    )
    out[known] = (heights - sum_of_heights / total)[back.ravel()]
    return out


def lapse_rate(departures: NDArray, heights: NDArray) -> float:
    """K per m: how fast departures (n,) of 2-metre temperature fall with height above the model's ground (n,).

    Huber's regression: departures beyond 2 K of the line count by their size, not its square, so that neither gross
    errors nor a few summits decide.

    Raises:
        ObservationError: too few departures, or all at the model's ground.
    """
    rows = np.isfinite(departures) & np.isfinite(heights)
    departures, heights = departures[rows], heights[rows]
    if len(departures) < LEAST_DEPARTURES or heights.std() < 10:
        spread = heights.std() if len(heights) else 0
        raise ObservationError(
            f"{len(departures)} departures of 2-metre temperature, with heights that differ by {spread:.0f} m, do not "
            "give a lapse rate; give it (6.5 K/km is the standard atmosphere's, 0 leaves heights as they are)"
        )
    fit = least_squares(lambda p: departures - p[0] + 1e-3 * p[1] * heights, (0.0, 6.5), loss="huber", f_scale=2.0)
    return float(1e-3 * fit.x[1])
