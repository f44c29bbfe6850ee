"""Compare each cycle with the run's own past: what its sources brought, its departures and its increments.

A value is compared with those of earlier cycles at the same hour of the day, because soundings and many stations report
at some hours only. No limit is fixed in advance, except the least spread in `_LEAST`, which keeps a series that has
hardly varied from turning every small change into an exception.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, t

from dacycle.cycler.archive.record import CycleRecord
from dacycle.forecast_adapter.channels import HEADLINE

__all__ = ["FEWEST", "LIMIT", "PAST", "deviations", "quantities", "strengths", "typical"]

PAST = 30
"""Most earlier cycles at the same hour with which a cycle is compared: a run changes with the seasons."""
FEWEST = 5
"""Fewest of them that say what is usual."""
LIMIT = 6.0
"""A strength beyond this is unusual: docs/alerts.md has the false alarms that it gives in three months."""
DAY = pd.Timedelta(hours=24)

_LEAST = {
    "reports": 0.02,
    "late": 0.005,
    "latency": 1.0,
    "rejected": 0.01,
    "mean": 0.02,
    "rms": 0.02,
    "increment": 0.02,
}
"""Least standard deviation of each quantity, in its own unit."""
_COMPARED_AT_LEAST = 20
"""Departures of fewer values have no mean."""
_CHECKS = ("background_check", "gross_limits", "buddy_check", "spatial_consistency")


def quantities(records: Sequence[CycleRecord], fits: pd.DataFrame) -> pd.DataFrame:
    """Return what is compared, one row a cycle and one column a series, NaN where a cycle has no such value.

    Columns are named by quantity, source, variable and layer:

    | quantity | of each | value |
    |---|---|---|
    | `reports` | source | logarithm of 1 + the number decoded |
    | `late` | source | share of the reports that came after the cutoff |
    | `latency` | source | median, minutes |
    | `rejected` | source and variable | square root of the share of values that the checks rejected |
    | `mean` | source, variable and layer | mean O-B of values used and withheld, in stated errors |
    | `rms` | source, variable and layer | logarithm of the root mean square of O-B, in stated errors |
    | `increment` | headline channel (`variable`) | logarithm of the root mean square increment |

    Args:
        records: of the cycles, in order.
        fits: as in `Verification.fits`.
    """
    values = pd.concat([_of_sources(records), _of_increments(records), _rejected(fits), *_departures(fits)])
    values = values.set_index(["time", *_NAMES])["value"].unstack(_NAMES)
    return values.reindex(pd.DatetimeIndex([record.time for record in records], name="time")).sort_index(axis=1)


def deviations(values: pd.DataFrame) -> pd.DataFrame:
    """Return by how many standard deviations each value departs from what is usual at its hour.

    Usual is the median of up to `PAST` earlier cycles; the spread is the larger of their standard deviation and of that
    which their median absolute deviation gives. What few cycles say is uncertain: the ratio is Student's t with their
    number less one degrees of freedom, and is returned as the value of a normal distribution that is as rare.

    Args:
        values: as from `quantities`, one row a cycle.

    Returns:
        The same rows and columns; NaN where a value or five earlier ones are missing.
    """
    least = np.array([_LEAST[key[0]] for key in values.columns])
    table = values.to_numpy(float)
    rows = [_deviation(row, table[_past(values.index, i)], least) for i, row in enumerate(table)]
    return pd.DataFrame(np.reshape(rows, table.shape), values.index, values.columns)


def typical(values: pd.DataFrame) -> pd.Series:
    """Return what is usual of each series at the hour of the last cycle; NaN where fewer than five earlier ones say."""
    past = values.iloc[_past(values.index, len(values) - 1)]
    return past.median().where(past.notna().sum() >= FEWEST)


def _past(times: pd.DatetimeIndex, place: int) -> NDArray:
    """Return the rows of the cycles with which one is compared."""
    return np.flatnonzero(times.hour[:place] == times.hour[place])[-PAST:]


def strengths(departing: pd.DataFrame) -> pd.DataFrame:
    """Return how strongly each series departs from its past: in the cycle alone, or steadily over a day.

    The larger of a cycle's deviation and of the sum of those of 24 hours over the root of their number, which keeps the
    scale of a single one where cycles are independent. Signs are those of the departure.
    """
    day = departing.rolling(DAY, min_periods=1)
    steady = day.sum() / np.sqrt(day.count().where(day.count() > 0))
    single = departing.fillna(0.0)
    return steady.where(steady.abs() > single.abs(), departing)


def _deviation(value: NDArray, past: NDArray, least: NDArray) -> NDArray:
    """Return the deviations (n,) of values (n,) from past ones (m, n)."""
    count = np.isfinite(past).sum(axis=0)
    known = count >= FEWEST
    result = np.full(value.shape, np.nan)
    value, past, count, least = value[known], past[:, known], count[known], least[known]
    median = np.nanmedian(past, axis=0)
    robust = 1.4826 * np.nanmedian(np.abs(past - median), axis=0)
    spread = np.maximum(np.maximum(robust, np.nanstd(past, axis=0, ddof=1)), least)
    ratio = (value - median) / (spread * np.sqrt(1 + 1 / count))
    # The logarithm holds where the probability itself is 0 in double precision.
    rare = norm.isf(np.maximum(t.sf(np.abs(ratio), count - 1), 1e-300))
    result[known] = np.sign(ratio) * rare
    return result


# --- the quantities ---------------------------------------------------------------------------------------------------

_NAMES = ["quantity", "source", "variable", "layer"]


def _rows(rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["time", *_NAMES, "value"])


def _of_sources(records: Sequence[CycleRecord]) -> pd.DataFrame:
    rows = []
    for record in records:
        for name, source in record.sources.items():
            found = {"reports": np.log1p(source.decoded)}
            if source.decoded:
                found["late"] = source.late / source.decoded
            if source.latency is not None:
                found["latency"] = source.latency
            rows += [(record.time, quantity, name, "", "", value) for quantity, value in found.items()]
    return _rows(rows)


def _of_increments(records: Sequence[CycleRecord]) -> pd.DataFrame:
    sizes = [
        (record.time, channel, record.increment_rms.get(channel, 0.0)) for record in records for channel in HEADLINE
    ]
    return _rows([(time, "increment", "", channel, "", np.log(size)) for time, channel, size in sizes if size > 0])


def _rejected(fits: pd.DataFrame) -> pd.DataFrame:
    """Return the root of the share that the checks rejected; the root makes its spread independent of the share."""
    checked = fits.assign(rejected=fits["count"].where(fits["reason"].isin(_CHECKS), 0))
    sums = checked.groupby(["time", "source", "variable"], as_index=False)[["count", "rejected"]].sum()
    share = sums["rejected"].astype(float) / sums["count"]
    return sums.assign(quantity="rejected", layer="", value=np.sqrt(share))[["time", *_NAMES, "value"]]


def _departures(fits: pd.DataFrame) -> list[pd.DataFrame]:
    """Return mean and root mean square of O-B, in stated errors."""
    own = fits[fits["use"].isin(["assimilated", "withheld"])]
    columns = ["compared", "error_squared", "o_b", "o_b_in_errors_squared"]
    sums = own.groupby(["time", "source", "variable", "layer"], as_index=False)[columns].sum()
    sums = sums[sums["compared"] >= _COMPARED_AT_LEAST].astype(dict.fromkeys(columns, float))
    mean = sums["o_b"] / np.sqrt(sums["error_squared"] * sums["compared"])
    rms = np.log(np.sqrt(sums["o_b_in_errors_squared"] / sums["compared"]))
    return [
        sums.assign(quantity=name, value=values)[["time", *_NAMES, "value"]]
        for name, values in (("mean", mean), ("rms", rms))
    ]
