"""Spatial checks: departures that contradict those of the neighbours. titanlib does the statistics.

The checks compare departures O-B in units of the observation's own error, not values, because the background accounts
for heights, climate and gradients. Only surface variables with an operator are checked: sondes are too far apart, and a
variable without an operator has no departure.

A value with too few neighbours is not rejected: a station that is alone within 300 km is worth most, and only the
background check can judge it.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import titanlib
from numpy.typing import NDArray

from dacycle.obs_ingest.table import VARIABLES

__all__ = ["CHECKED", "LEAST_BUDDIES", "RADIUS_KM", "buddy_check", "spatial_consistency"]

CHECKED: tuple[str, ...] = ("t2m", "msl", "ps", "u10", "v10")
"""Variables whose departures are compared with those of the neighbours."""

RADIUS_KM = 300.0
"""Stations nearer than this are buddies."""
LEAST_BUDDIES = 5
ITERATIONS = 5

SCT_INNER_KM, SCT_OUTER_KM = 100.0, 200.0
SCT_MOST = 100
"""The most stations that are analysed together."""
SCT_LENGTH_KM = 100.0
SCT_ERROR_RATIO = 0.5
"""Variance of an observation's error over that of the background's, as the real pair of docs/real-input.md has it."""

_NO_PROFILE = 1_000_000  # the least stations for a vertical profile, which departures do not have
_METRES = 1e4  # vertical scale, larger than any difference of heights

_Test = Callable[["titanlib.Points", NDArray, NDArray], NDArray]


def buddy_check(
    table: pd.DataFrame,
    departures: NDArray,
    checked: NDArray[np.bool_],
    buddies: NDArray[np.bool_],
    threshold: float,
) -> NDArray[np.bool_]:
    """Return which rows (n,) have a departure that is far from the mean of at least 5 buddies within 300 km.

    It is far beyond `threshold` standard deviations of the buddies' departures, or of one observation error where that
    is larger. There are 5 rounds; a rejected row is no buddy in the next one.

    Args:
        table: n rows; needs variable, latitude and longitude.
        departures: (n,) O-B over the observation's error; NaN is not checked.
        checked: (n,) the rows to check.
        buddies: (n,) those of them that are compared with. Withheld and denied values must not change what is
            assimilated: they are checked against the buddies that passed and against one another, and a buddy is never
            checked against them.
        threshold: in standard deviations; 4 accepts a normal distribution's tail, as the background check does.
    """

    def test(points: "titanlib.Points", values: NDArray, wanted: NDArray) -> NDArray:
        return titanlib.buddy_check(
            points, values, [1000 * RADIUS_KM], [LEAST_BUDDIES], threshold, -1, 0, 1, ITERATIONS, wanted
        )

    return _by_variable(table, departures, checked, buddies, test)


def spatial_consistency(
    table: pd.DataFrame,
    departures: NDArray,
    checked: NDArray[np.bool_],
    buddies: NDArray[np.bool_],
    threshold: float,
) -> NDArray[np.bool_]:
    """Return which rows (n,) fail the spatial consistency test (SCT) of Lussana et al. (2010, doi:10.1002/qj.622).

    The departures within 200 km are analysed by optimal interpolation, with and without the value itself. The value
    fails if the product of its two residuals over their error variance exceeds `threshold`.

    Args:
        table, departures, checked, buddies: as in `buddy_check`.
        threshold: for residuals of either sign; 9 is mild, 4 is strict.
    """

    def test(points: "titanlib.Points", values: NDArray, wanted: NDArray) -> NDArray:
        limit, ratio = np.full(len(values), threshold), np.full(len(values), SCT_ERROR_RATIO)
        flags, _, _ = titanlib.sct(
            points, values, LEAST_BUDDIES, SCT_MOST, 1000 * SCT_INNER_KM, 1000 * SCT_OUTER_KM, ITERATIONS,
            _NO_PROFILE, 1, 1000 * SCT_LENGTH_KM, _METRES, limit, limit, ratio, wanted,
        )  # fmt: skip
        return flags

    return _by_variable(table, departures, checked, buddies, test)


def _by_variable(
    table: pd.DataFrame, departures: NDArray, checked: NDArray[np.bool_], buddies: NDArray[np.bool_], test: _Test
) -> NDArray[np.bool_]:
    """Apply a test to each checked variable: first among the buddies, then to the others against those that passed."""
    titanlib.set_omp_threads(1)  # it flags values while it tests others: the result depends on the number of threads
    codes = table["variable"].array.codes
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    failed = np.zeros(len(table), bool)
    for name in CHECKED:
        of_name = checked & (codes == VARIABLES.index(name)) & np.isfinite(departures)
        judges, others = np.nonzero(of_name & buddies)[0], np.nonzero(of_name & ~buddies)[0]
        for group, compared in ((judges, judges[:0]), (others, judges)):
            rows = np.concatenate([group, compared[~failed[compared]]])
            # The result depends on the order. With the largest departure first, a gross error is found before its
            # neighbours are tested, and the order of the table does not matter.
            rows = rows[np.lexsort((longitude[rows], latitude[rows], departures[rows], -abs(departures[rows])))]
            wanted = np.isin(rows, group)
            if wanted.any():
                points = titanlib.Points(latitude[rows], longitude[rows], np.zeros(len(rows)))
                failed[rows[wanted]] = test(points, departures[rows], wanted.astype(np.int32))[wanted] == 1
    return failed
