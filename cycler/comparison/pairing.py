"""Pair the mean squared errors of two runs or methods, case by case, and give their change a 95 % interval.

The interval is that of the differences, so that a case that is hard for both does not hide a difference between them.
A scorecard has hundreds of such cells. Of those that do not differ one in twenty has an interval without zero;
`discoveries` says which cells hold all the same (Wilks 2016, doi:10.1175/BAMS-D-15-00267.1).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.intervals import Interval, mean_interval

__all__ = ["COLUMNS", "FALSE_DISCOVERIES", "change", "columns", "discoveries", "each_with_each", "of_roots"]

COLUMNS = ["change", "low", "high", "effective"]
"""A relative change, its 95 % interval and the effective sample size; the last three NaN where there are few cases."""
FALSE_DISCOVERIES = 0.05
"""Share of the cells that hold which may do so by chance."""


def change(judged: pd.Series, base: pd.Series) -> Interval:
    """Return the relative change of the mean of `judged` from that of `base`, both by time, with its interval."""
    days = ((judged.index - judged.index[0]) / pd.Timedelta(days=1)).to_numpy(float)
    return mean_interval(days, ((judged - base) / base.mean()).to_numpy(float))


def of_roots(squares: Interval) -> dict[str, float]:
    """Return `COLUMNS` of the root mean squared error from the change of the mean squared error.

    The interval of the latter may reach below an error of 0.
    """
    ends = np.sqrt(np.maximum(0.0, 1 + np.array([squares.estimate, squares.low, squares.high]))) - 1
    return dict(zip(COLUMNS, [*ends.tolist(), squares.effective], strict=True))


def columns(squares: Interval) -> dict[str, float]:
    """Return `COLUMNS` of the mean squared error."""
    ends = (squares.estimate, squares.low, squares.high, squares.effective)
    return dict(zip(COLUMNS, ends, strict=True))


def each_with_each(errors: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Compare every method with every other: method, against, and `COLUMNS` of the mean squared error."""
    rows = [
        {"method": method, "against": against, **columns(change(judged, base))}
        for method, judged in errors.items()
        for against, base in errors.items()
        if method != against
    ]
    return pd.DataFrame(rows, columns=["method", "against", *COLUMNS])


def discoveries(p_values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of many tests (n,) hold when at most `FALSE_DISCOVERIES` of them may do so by chance.

    Benjamini and Hochberg (1995): the tests up to the last one whose p-value is below its rank's share of the rate.
    Tests whose p-value is NaN do not count.
    """
    known = np.sort(p_values[np.isfinite(p_values)])
    below = known[known <= FALSE_DISCOVERIES * np.arange(1, len(known) + 1) / max(1, len(known))]
    return p_values <= below[-1] if len(below) else np.zeros(p_values.shape, bool)
