"""Compare the methods of a benchmark pair by pair, over the same cases, with `comparison.pairing`."""

import pandas as pd

from dacycle.assimilators.judging.benchmark import OVERALL
from dacycle.cycler.benchmark.run import Benchmark
from dacycle.cycler.comparison.pairing import COLUMNS, change, columns, each_with_each

__all__ = ["gains", "pairs_in_cycles", "pairs_of_single_analyses"]


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
        {
            "method": method,
            "setting": setting.name,
            **columns(change(by_start[method, protocol.name], by_start[method, setting.name])),
        }
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
    return each_with_each({method: by_start[method, benchmark.settings[0].name] for method in benchmark.methods})


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
    return each_with_each({method: (table / unit).mean(axis=1) for method, table in by_method.items()})


def _by_start(benchmark: Benchmark, single: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """Return the weighted MSE of analyses by the start of their forecast, for each method and setting (first seed).

    The leads of one start are no independent samples: their mean counts.
    """
    rows = single[(single["score"] == "weighted_mse") & (single["channel"] == OVERALL)]
    rows = rows[(rows["field"] == "analysis") & (rows["seed"] == benchmark.seeds[0])]
    start = pd.to_datetime(rows["time"]) - pd.to_timedelta(rows["lead"], unit="h")
    means = rows.groupby(["method", "setting", start])["value"].mean()
    return {key: of_key.droplevel([0, 1]) for key, of_key in means.groupby(level=[0, 1])}
