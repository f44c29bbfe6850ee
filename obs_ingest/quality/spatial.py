"""Spatial checks: departures that contradict those of the neighbours. titanlib does the statistics.

What is compared are departures O-B in units of the observation's own error, not values: heights, climate and gradients
are in the background already. Only surface variables with an operator are checked; sondes are too far apart, and what
has no operator has no departure.

A value with too few neighbours is not rejected: where there is one station in 300 km it is worth most, and only the
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
"""So many stations at most are analysed together."""
SCT_LENGTH_KM = 100.0
SCT_ERROR_RATIO = 0.5
"""Variance of an observation's error over that of the background's, as the real pair of docs/real-input.md has it."""

_NO_PROFILE = 1_000_000  # so many stations would be needed for a vertical profile; departures have none
_METRES = 1e4  # a vertical scale that no difference of heights reaches

_Test = Callable[["titanlib.Points", NDArray, NDArray], NDArray]


def buddy_check(
    table: pd.DataFrame,
    departures: NDArray,
    checked: NDArray[np.bool_],
    buddies: NDArray[np.bool_],
    threshold: float,
) -> NDArray[np.bool_]:
    """(n,) rows whose departure is far from the mean of at least 5 buddies within 300 km.

    Far is more than `threshold` standard deviations of the buddies' departures, which count as one observation error at
    least. What is rejected is no buddy in the next of 5 rounds.

    Args:
        table: n rows; needs variable, latitude and longitude.
        departures: (n,) O-B over the observation's error; NaN is not checked.
        checked: (n,) the rows to judge.
        buddies: (n,) those of them that judge. Others never decide over a buddy: values that are withheld or denied
            must not change what is assimilated. They are judged by the buddies that passed, and by one another.
        threshold: in standard deviations; 4 lets a normal distribution's tail pass, as the background check does.
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
    """(n,) rows that fail the spatial consistency test (SCT) of Lussana et al. (2010, doi:10.1002/qj.622).

    An optimal interpolation of the departures within 200 km, with and without the value itself: it fails if the product
    of the two residuals, over the error variance that they have there, exceeds `threshold`.

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
    titanlib.set_omp_threads(1)  # it marks values while others are looked at: more threads, other verdicts
    codes = table["variable"].array.codes
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    out = np.zeros(len(table), bool)
    for name in CHECKED:
        mine = checked & (codes == VARIABLES.index(name)) & np.isfinite(departures)
        judges, others = np.nonzero(mine & buddies)[0], np.nonzero(mine & ~buddies)[0]
        for group, judging in ((judges, judges[:0]), (others, judges)):
            rows = np.concatenate([group, judging[~out[judging]]])
            # The result depends on the order: the largest first, so that it is found before its neighbours are judged,
            # and the order in which the rows came decides nothing.
            rows = rows[np.lexsort((longitude[rows], latitude[rows], departures[rows], -abs(departures[rows])))]
            wanted = np.isin(rows, group)
            if wanted.any():
                points = titanlib.Points(latitude[rows], longitude[rows], np.zeros(len(rows)))
                out[rows[wanted]] = test(points, departures[rows], wanted.astype(np.int32))[wanted] == 1
    return out
