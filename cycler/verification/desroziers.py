"""Estimate observation errors from a run's own departures, and propose a table of errors.

Source: Desroziers et al. (2005, doi:10.1256/qj.05.108). With d_b = O-B and d_a = O-A,

    <d_a d_b> = sigma_o^2            where analyses are optimal
    <(d_b - d_a) d_b> = sigma_b^2    where analyses are optimal
    <d_b^2> = sigma_o^2 + sigma_b^2  always

The means < > are over the assimilated values of each source, variable and level. The mean departures over the run are
subtracted first.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS, LOG_LEVELS
from dacycle.forecast_adapter.intervals import mean_interval
from dacycle.obs_ingest.errors.table import PARTS, ErrorSettings, ErrorTable, scaled
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES

__all__ = ["LIMITS", "covariance_estimates", "cycle_sums", "estimate", "propose"]

LIMITS = (
    "The estimate assumes optimal analyses. It is wrong where the assumed background error is wrong too, and where the "
    "assimilator (above all a network) does not weigh the two errors as optimal interpolation does.",
    "Errors that neighbouring stations share count as background error, and so do errors within a superob, because "
    "a station enters the analysis only through the mean of its cell. The estimate is then too small; `--superobs` "
    "estimates the errors of these means.",
    "Values that quality control rejected are left out, so large errors are missing from the estimate.",
    "Withheld values cannot be used for it, but are an independent check: where withheld and assimilated sites are "
    "alike, their O-B is as large as sqrt(sigma_o^2 + sigma_b^2); and no observation error exceeds their O-A.",
)
"""Limits of the estimate; `dacycle errors` prints them below its table."""

_KEYS = ["source", "variable", "level"]
_SUMS = ["values", "d_b", "d_a", "d_b_squared", "d_a_squared", "d_a_d_b", "assumed_squared"]
_MIDDLES = (LOG_LEVELS[1:] + LOG_LEVELS[:-1]) / 2


def cycle_sums(departures: pd.DataFrame) -> pd.DataFrame:
    """Sum up one cycle's departures, by source, variable, level (hPa, 0 at the surface) and use.

    Only assimilated rows, and those at withheld sites, with an observation operator count.
    """
    compared = departures["o_b"].notna() & departures["o_a"].notna() & (departures["reason"] != "withheld_region")
    rows = departures[compared & departures["use"].isin(["assimilated", "withheld"])]
    pressure = rows["pressure"].to_numpy(float)
    nearest = np.array(LEVELS)[np.searchsorted(_MIDDLES, np.log(pressure))]
    d_b, d_a = rows["o_b"].to_numpy(float), rows["o_a"].to_numpy(float)
    table = pd.DataFrame(
        {
            "source": rows["source"].astype(str),
            "variable": rows["variable"].astype(str),
            "level": np.where(np.isnan(pressure), 0, nearest),
            "use": rows["use"].astype(str),
            "values": 1,
            "d_b": d_b,
            "d_a": d_a,
            "d_b_squared": d_b**2,
            "d_a_squared": d_a**2,
            "d_a_d_b": d_a * d_b,
            "assumed_squared": rows["error"].to_numpy(float) ** 2,
        }
    )
    return table.groupby([*_KEYS, "use"], as_index=False).sum()


def estimate(cycles: Iterable[tuple[pd.Timestamp, pd.DataFrame]]) -> pd.DataFrame:
    """Estimate errors by source, variable and level (hPa, 0 at the surface), from the sums of each cycle.

    Returns:
        A table with these columns; errors and departures are in SI units.

        | column | content |
        |---|---|
        | `values`, `cycles` | number of assimilated values, and of cycles |
        | `assumed` | root mean square of the errors as used |
        | `estimated`, `low`, `high` | sigma_o and its 95 % interval (NaN where the run is too short) |
        | `effective` | effective sample size of the interval, in cycles |
        | `background` | sigma_b |
        | `mean`, `o_b` | mean of O-B, which is subtracted, and its standard deviation |
        | `withheld` | number of withheld values |
        | `withheld_o_b`, `withheld_o_a` | standard deviations of the withheld values |

        An estimate whose square is negative is given as 0.
    """
    tables = [sums.assign(time=time) for time, sums in cycles]
    joined = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*_KEYS, "use", "time", *_SUMS])
    rows = []
    for (source, variable, level), sums in joined.groupby(_KEYS):
        by_use = {use: sums[sums["use"] == use].set_index("time")[_SUMS] for use in ("assimilated", "withheld")}
        if len(by_use["assimilated"]):
            key = {"source": str(source), "variable": str(variable), "level": int(level)}
            rows.append({**key, **covariance_estimates(by_use["assimilated"]), **_withheld_check(by_use["withheld"])})
    table = pd.DataFrame(rows)
    if len(table):
        order = table["variable"].map(VARIABLES.index)
        table = table.assign(order=order).sort_values(["source", "order", "level"]).drop(columns="order")
    return table.reset_index(drop=True)


def covariance_estimates(sums: pd.DataFrame) -> dict[str, float]:
    """Estimate errors from the sums of assimilated values of one kind, a row per cycle; see `estimate`."""
    total = sums.sum()
    n = total["values"]
    mean_b, mean_a = total["d_b"] / n, total["d_a"] / n
    # Each cycle's contribution to the covariance: their mean is the covariance, with its interval.
    products = sums["d_a_d_b"] - mean_a * sums["d_b"] - mean_b * sums["d_a"] + sums["values"] * mean_a * mean_b
    days = (sums.index - sums.index[0]) / pd.Timedelta(days=1)
    variance = mean_interval(days.to_numpy(float), (products / n * len(sums)).to_numpy())
    o_b_variance = total["d_b_squared"] / n - mean_b**2
    return {
        "values": int(n),
        "cycles": len(sums),
        "assumed": _root(total["assumed_squared"] / n),
        "estimated": _root(variance.estimate),
        "low": _root(variance.low),
        "high": _root(variance.high),
        "effective": variance.effective,
        "background": _root(o_b_variance - variance.estimate),
        "mean": mean_b,
        "o_b": _root(o_b_variance),
    }


def _withheld_check(sums: pd.DataFrame) -> dict[str, float]:
    """Return number and standard deviations of the withheld values."""
    total = sums.sum()
    n = total["values"]
    deviations = [_root(total[f"{d}_squared"] / n - (total[d] / n) ** 2) if n else np.nan for d in ("d_b", "d_a")]
    return {"withheld": int(n), "withheld_o_b": deviations[0], "withheld_o_a": deviations[1]}


def _root(square: float) -> float:
    return float(np.sqrt(max(square, 0.0))) if np.isfinite(square) else np.nan


def propose(estimates: pd.DataFrame, assumed: ErrorTable) -> ErrorSettings:
    """Return the estimates in the form of an experiment's `errors`, by SOURCE:VARIABLE.

    Both parts of an error are multiplied by the ratio of estimated to assumed error, level by level. A level keeps the
    assumed error where its estimate has no 95 % interval, or one that reaches 0. A variable with no other level is
    left out.
    """
    settings: ErrorSettings = {}
    for (source, variable), rows in estimates.groupby(["source", "variable"], sort=False):
        rows = rows[rows["low"] > 0]
        if rows.empty:
            continue
        ratio = (rows["estimated"] / rows["assumed"]).to_numpy()
        factor: float | NDArray = float(ratio[0])
        if variable in LEVEL_VARIABLES:
            factor = np.ones(len(LEVELS))
            factor[np.searchsorted(LEVELS, rows["level"])] = ratio
        model = assumed.model(str(source), str(variable))
        parts = {part: scaled(getattr(model, part), factor) for part in PARTS}
        settings[f"{source}:{variable}"] = {part: _short(value) for part, value in parts.items() if np.any(value)}
    return settings


def _short(value: float | tuple[float, ...]) -> float | list[float]:
    return [float(f"{x:.4g}") for x in value] if isinstance(value, tuple) else float(f"{value:.4g}")
