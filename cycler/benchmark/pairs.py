"""Compare methods pair by pair, over the same cases: changes of the error with paired 95 % intervals.

The error of a case is a mean squared error. Its change is that of the mean over all cases, and its interval is that of
the differences case by case, so that a case that is hard for all methods does not hide a difference between them.
"""

import pandas as pd

from dacycle.assimilators.judging.benchmark import OVERALL
from dacycle.cycler.benchmark.run import Benchmark
from dacycle.forecast_adapter.intervals import Interval, mean_interval

__all__ = ["COLUMNS", "change", "gains", "pairs_in_cycles", "pairs_of_single_analyses"]

COLUMNS = ["change", "low", "high", "effective"]
"""A relative change, its 95 % interval and the effective sample size; the last three NaN where there are few cases."""


def change(judged: pd.Series, base: pd.Series) -> Interval:
    """Return the relative change of the mean of `judged` from that of `base`, both by time, with its interval."""
    days = ((judged.index - judged.index[0]) / pd.Timedelta(days=1)).to_numpy(float)
    return mean_interval(days, ((judged - base) / base.mean()).to_numpy(float))


def gains(benchmark: Benchmark, single: pd.DataFrame) -> pd.DataFrame:
    """Compare the protocol with each setting that differs from it in denied types alone.

    Returns:
        method, setting, and `COLUMNS` of the weighted MSE when the types are observed, paired over starts.
    """
    protocol = benchmark.settings[0]
    denying = [
        s for s in benchmark.settings if s.deny and s.model_copy(update={"name": protocol.name, "deny": ()}) == protocol
    ]
    by_start = _by_start(benchmark, single)
    rows = [
        (method, setting.name, *_columns(change(by_start[method, protocol.name], by_start[method, setting.name])))
        for method in benchmark.methods
        for setting in denying
    ]
    return pd.DataFrame(rows, columns=["method", "setting", *COLUMNS])


def pairs_of_single_analyses(benchmark: Benchmark, single: pd.DataFrame) -> pd.DataFrame:
    """Compare every method with every other by the weighted MSE of the protocol, paired over starts.

    Returns:
        method, against, and `COLUMNS`.
    """
    by_start = _by_start(benchmark, single)
    return _pairs({method: by_start[method, benchmark.settings[0].name] for method in benchmark.methods})


def pairs_in_cycles(benchmark: Benchmark, mse: pd.DataFrame) -> pd.DataFrame:
    """Compare every method with every other by the MSE of its analyses, paired over cycles.

    Args:
        benchmark: its first method's mean error is the unit of each channel, so that channels can be averaged.
        mse: of `run.CycledResults`.

    Returns:
        method, against, and `COLUMNS`.
    """
    by_method = {
        m: mse[mse["method"] == m].pivot(index="time", columns="channel", values="mse") for m in benchmark.methods
    }
    unit = by_method[benchmark.methods[0]].mean()
    return _pairs({method: (table / unit).mean(axis=1) for method, table in by_method.items()})


def _by_start(benchmark: Benchmark, single: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """Return the weighted MSE of analyses by the start of their forecast, for each method and setting (first seed).

    The leads of one start are no independent samples: their mean counts.
    """
    rows = single[(single["score"] == "weighted_mse") & (single["channel"] == OVERALL)]
    rows = rows[(rows["field"] == "analysis") & (rows["seed"] == benchmark.seeds[0])]
    start = pd.to_datetime(rows["time"]) - pd.to_timedelta(rows["lead"], unit="h")
    means = rows.groupby(["method", "setting", start])["value"].mean()
    return {key: of_key.droplevel([0, 1]) for key, of_key in means.groupby(level=[0, 1])}


def _pairs(errors: dict[str, pd.Series]) -> pd.DataFrame:
    rows = [
        (method, against, *_columns(change(errors[method], errors[against])))
        for method in errors
        for against in errors
        if method != against
    ]
    return pd.DataFrame(rows, columns=["method", "against", *COLUMNS])


def _columns(interval: Interval) -> tuple[float, float, float, float]:
    return (interval.estimate, interval.low, interval.high, interval.effective)
