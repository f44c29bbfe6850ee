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
from dacycle.cycler.verification.consistency import spread_by_layer
from dacycle.forecast_adapter.channels import HEADLINE

__all__ = ["FEWEST", "LIMIT", "PAST", "newest_of_errors", "quantities", "strengths", "typical", "typical_of_each"]

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
    "spread": 0.02,
    "increment": 0.02,
    "error": 0.02,
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
    | `spread` | source, variable and layer, of runs with members | log of the RMS of O-B over that explained |
    | `increment` | headline channel (`variable`) | logarithm of the root mean square increment |

    What is explained of O-B is the root of the mean square of the members' spread plus that of the stated error.

    Args:
        records: of the cycles, in order.
        fits: as in `Verification.fits`.
    """
    values = pd.concat([_of_sources(records), _of_increments(records), _rejected(fits), *_departures(fits, records)])
    values = values.set_index(["time", *_NAMES])["value"].unstack(_NAMES)
    return values.reindex(pd.DatetimeIndex([record.time for record in records], name="time")).sort_index(axis=1)


def strengths(values: pd.DataFrame) -> pd.DataFrame:
    """Return how strongly each series departs from its past, in standard deviations.

    Usual is the median of up to `PAST` earlier cycles at the same hour. The strength is the largest of three:

    * the departure of the cycle from what is usual, over the spread of the cycles that say what is usual;
    * the same of the last 24 hours together: the sum over the root of their number;
    * the change of the departure since the cycle before, over that of earlier changes. A series whose departures
      change slowly jumps where its source does, and an analysis that follows a wrong observation soon hides it.

    What few cycles say is uncertain: a ratio is Student's t, and counts as the value of a normal distribution that is
    as rare.

    Args:
        values: as from `quantities`, one row a cycle.

    Returns:
        The same rows and columns, not negative; NaN where too few earlier cycles have a value.
    """
    table, least = values.to_numpy(float), np.array([_LEAST[key[0]] for key in values.columns])
    departing, alone = (np.full(table.shape, np.nan) for _ in range(2))
    for row, past in enumerate(table[_alike(values.index, row)] for row in range(len(table))):
        departing[row] = table[row] - _median(past)
        alone[row] = _deviation(departing[row], past - _median(past), least)
    day = pd.DataFrame(alone, values.index).rolling(DAY, min_periods=1)
    together = day.sum().abs() / np.sqrt(day.count())
    before = pd.DataFrame(departing).ffill(limit=4).shift(1).to_numpy()
    changes = departing - before
    jumps = [_deviation(change, changes[max(0, row - 4 * PAST) : row], least) for row, change in enumerate(changes)]
    largest = np.fmax(np.fmax(np.abs(alone), np.abs(np.reshape(jumps, table.shape))), together.to_numpy())
    return pd.DataFrame(largest, values.index, values.columns)


def typical(values: pd.DataFrame) -> pd.Series:
    """Return what is usual of each series at the hour of the last cycle; NaN where fewer than five earlier ones say."""
    return pd.Series(_typical(values, len(values) - 1), values.columns)


def typical_of_each(values: pd.DataFrame) -> pd.DataFrame:
    """Return what was usual of each series at each cycle, from the cycles before it; NaN as in `typical`."""
    rows = [_typical(values, row) for row in range(len(values))]
    return pd.DataFrame(np.reshape(rows, values.shape), values.index, values.columns)


def newest_of_errors(errors: pd.Series, together: int = 1) -> tuple[float, float]:
    """Return what is usual of an error, and how strongly the newest departs from it; NaN where fewer than five say.

    Usual is the median of the values before. The strength is in standard deviations of the logarithm, positive for a
    larger error, by the rules of `strengths`.

    Args:
        errors: the root mean square errors of a run, in order, positive.
        together: number of values whose mean is compared, with the means of as many before.
    """
    if len(errors) < together:
        return np.nan, np.nan
    logs = np.log(errors.rolling(together).mean().to_numpy(float)[together - 1 :])
    past = logs[: max(0, len(logs) - together), None]
    typical = _median(past)
    strength = _deviation(logs[-1:] - typical, past - typical, np.array([_LEAST["error"]]))
    return float(np.exp(typical[0])), float(strength[0])


def _typical(values: pd.DataFrame, row: int) -> NDArray:
    return _median(values.to_numpy(float)[_alike(values.index, row)])


def _alike(times: pd.DatetimeIndex, row: int) -> NDArray:
    """Return the rows of the earlier cycles with which one is compared."""
    return np.flatnonzero(times.hour[:row] == times.hour[row])[-PAST:]


def _median(past: NDArray) -> NDArray:
    """Return the medians (n,) of past values (m, n), NaN where there are fewer than `FEWEST`."""
    enough = np.isfinite(past).sum(axis=0) >= FEWEST
    result = np.full(past.shape[1], np.nan)
    result[enough] = np.nanmedian(past[:, enough], axis=0)
    return result


def _deviation(departure: NDArray, past: NDArray, least: NDArray) -> NDArray:
    """Return departures (n,) in standard deviations of past ones (m, n), as those of a normal distribution.

    The standard deviation is the larger of the usual estimate and of that which the median absolute value gives.
    """
    count = np.isfinite(past).sum(axis=0)
    known = (count >= FEWEST) & np.isfinite(departure)
    result = np.full(departure.shape, np.nan)
    past, count = past[:, known], count[known]
    robust = 1.4826 * np.nanmedian(np.abs(past), axis=0)
    spread = np.maximum(np.maximum(robust, np.nanstd(past, axis=0, ddof=1)), least[known])
    ratio = departure[known] / (spread * np.sqrt(1 + 1 / count))
    tail = t.sf(np.abs(ratio), count - 1)
    result[known] = np.sign(ratio) * norm.isf(np.maximum(tail, 1e-300))  # finite where the tail underflows
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


def _departures(fits: pd.DataFrame, records: Sequence[CycleRecord]) -> list[pd.DataFrame]:
    """Return mean and root mean square of O-B, in stated errors, and what the members' spread leaves unexplained."""
    own = fits[fits["use"].isin(["assimilated", "withheld"])]
    columns = ["compared", "error_squared", "o_b", "o_b_in_errors_squared"]
    members = any(record.background_spread for record in records)
    columns += ["o_b_squared"] if members else []
    sums = own.groupby(["time", "source", "variable", "layer"], as_index=False)[columns].sum()
    sums = sums[sums["compared"] >= _COMPARED_AT_LEAST].astype(dict.fromkeys(columns, float))
    found = {
        "mean": sums["o_b"] / np.sqrt(sums["error_squared"] * sums["compared"]),
        "rms": np.log(np.sqrt(sums["o_b_in_errors_squared"] / sums["compared"])),
    }
    if members:
        spreads = {record.time: spread_by_layer([record]) for record in records}
        keys = zip(sums["time"], sums["variable"], sums["layer"], strict=True)
        spread = np.array([spreads[time].get((variable, layer), np.nan) for time, variable, layer in keys])
        explained = spread * sums["compared"] + sums["error_squared"]
        found["spread"] = np.log(np.sqrt(sums["o_b_squared"] / explained))
    tables = [sums.assign(quantity=name, value=values)[["time", *_NAMES, "value"]] for name, values in found.items()]
    return [table.dropna(subset="value") for table in tables]
