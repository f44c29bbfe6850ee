"""Observation errors estimated from a run's own departures, and the table that they propose.

Desroziers et al. (2005, doi:10.1256/qj.05.108): where analyses are optimal, with d_b = O-B and d_a = O-A,

    <d_a d_b> = sigma_o^2        <(d_b - d_a) d_b> = sigma_b^2        and always        <d_b^2> = sigma_o^2 + sigma_b^2

for each source, variable and level, of what was assimilated and with the mean of each over the run taken out.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.cycler.verification.cycles import BLOCK_DAYS
from dacycle.forecast_adapter.channels import LEVELS, LOG_LEVELS
from dacycle.forecast_adapter.scores import mean_interval
from dacycle.obs_ingest.errors.table import PARTS, ErrorSettings, ErrorTable, scaled
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES

__all__ = ["LIMITS", "cycle_sums", "estimate", "propose"]

LIMITS = (
    "The estimate is right where analyses are optimal: where the assumed background error is as wrong as the assumed "
    "observation error, or the assimilator (a network above all) weighs them in a way of its own, it is not.",
    "Errors that neighbouring stations share count as background error: the estimate is then too small. The same goes "
    "for what superobs average, as each station takes part in an analysis through the mean of its cell.",
    "Values that quality control rejected are not in it, so that large errors are cut off.",
    "Withheld values cannot be used for it, but are an independent check: where withheld and assimilated sites are "
    "alike, their O-B is as large as sqrt(sigma_o^2 + sigma_b^2); and no observation error exceeds their O-A.",
)
"""What the numbers cannot say, for whoever reads them."""

_KEYS = ["source", "variable", "level"]
_SUMS = ["values", "d_b", "d_a", "d_b_squared", "d_a_squared", "d_a_d_b", "assumed_squared"]
_MIDDLES = (LOG_LEVELS[1:] + LOG_LEVELS[:-1]) / 2


def cycle_sums(departures: pd.DataFrame) -> pd.DataFrame:
    """Counts and sums of one cycle's departures, by source, variable, level (hPa, 0 at the surface) and use.

    Only rows with an operator that were assimilated or withheld by their site.
    """
    kept = departures["use"].isin(["assimilated", "withheld"]) & departures["o_b"].notna() & departures["o_a"].notna()
    rows = departures[kept]
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
    """Estimated errors by source, variable and level (hPa, 0 at the surface), from the sums of each cycle.

    Returns:
        Columns `values` and `cycles` (how many), in SI units `assumed` (rms of the errors as used), `estimated`
        sigma_o with its 95 % interval `low`, `high` (NaN where the run is too short to give one), `background` sigma_b,
        `mean` (of O-B; it was taken out), `o_b` (standard deviation); and of withheld values their number `withheld`
        and standard deviations `withheld_o_b`, `withheld_o_a`. An estimate whose square came out negative is 0.
    """
    parts = [sums.assign(time=time) for time, sums in cycles]
    everything = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*_KEYS, "use", "time", *_SUMS])
    rows = []
    for (source, variable, level), own in everything.groupby(_KEYS):
        used, withheld = (own[own["use"] == use].set_index("time")[_SUMS] for use in ("assimilated", "withheld"))
        if len(used):
            key = {"source": str(source), "variable": str(variable), "level": int(level)}
            rows.append({**key, **_estimates(used), **_check(withheld)})
    table = pd.DataFrame(rows)
    if len(table):
        order = table["variable"].map(VARIABLES.index)
        table = table.assign(order=order).sort_values(["source", "order", "level"]).drop(columns="order")
    return table.reset_index(drop=True)


def _estimates(sums: pd.DataFrame) -> dict[str, float]:
    """Of what was assimilated, by cycle."""
    total = sums.sum()
    n = total["values"]
    mean_b, mean_a = total["d_b"] / n, total["d_a"] / n
    # What each cycle adds to the covariance, so that their mean is the covariance, and their bootstrap its interval.
    products = sums["d_a_d_b"] - mean_a * sums["d_b"] - mean_b * sums["d_a"] + sums["values"] * mean_a * mean_b
    days = np.diff((sums.index - sums.index[0]) / pd.Timedelta(days=1))
    block = max(1, round(BLOCK_DAYS / float(np.median(days)))) if len(days) else 1
    found = mean_interval((products / n * len(sums)).to_numpy(), block)
    spread = total["d_b_squared"] / n - mean_b**2
    return {
        "values": int(n),
        "cycles": len(sums),
        "assumed": _root(total["assumed_squared"] / n),
        "estimated": _root(found.estimate),
        "low": _root(found.low),
        "high": _root(found.high),
        "background": _root(spread - found.estimate),
        "mean": mean_b,
        "o_b": _root(spread),
    }


def _check(sums: pd.DataFrame) -> dict[str, float]:
    """Of what was withheld; its means are taken out too."""
    total = sums.sum()
    n = total["values"]
    spreads = [_root(total[f"{d}_squared"] / n - (total[d] / n) ** 2) if n else np.nan for d in ("d_b", "d_a")]
    return {"withheld": int(n), "withheld_o_b": spreads[0], "withheld_o_a": spreads[1]}


def _root(square: float) -> float:
    return float(np.sqrt(max(square, 0.0))) if np.isfinite(square) else np.nan


def propose(estimates: pd.DataFrame, assumed: ErrorTable) -> ErrorSettings:
    """An experiment's `errors` with what was estimated, by SOURCE:VARIABLE.

    Both parts of an error are multiplied by estimated over assumed, level by level. A level whose estimate has no 95 %
    interval, or one that reaches 0, keeps what was assumed; a variable without any other is left out.
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
