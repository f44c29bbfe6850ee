"""Compare two experiments: the differences of their settings, and of their errors with paired intervals.

Both are verified against the same reference at the same times. The intervals are of the differences of their mean
squared errors, so that weather that is hard for both does not hide a difference between them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dacycle.common.files import write_whole
from dacycle.cycler.archive.branches import ArchiveError, Branch
from dacycle.cycler.experiment import differences
from dacycle.cycler.report import figures, tables
from dacycle.cycler.report.page import render
from dacycle.cycler.verification.cycles import Verification, verify, withheld_fits
from dacycle.cycler.verification.drift import read_scores
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.intervals import mean_interval
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["Comparison", "compare", "write_comparison"]

FORECAST_DAYS = (1, 3, 5, 10)


@dataclass(frozen=True)
class Comparison:
    """Hold the comparison of experiment `b` with `a`.

    Attributes:
        a, b: the branches.
        times: the cycles that both have, from the later of their starts.
        table: `of` (`background`, `analysis`, `day 1`, ..., `withheld O-B`, `withheld O-A`), channel (or source and
            variable), region -> `n` pairs, `rmse_a`, `rmse_b` (SI), `change` of the RMSE as a fraction of a's, and its
            95 % interval `low`, `high`, with its `effective` sample size, and whether it `excludes_zero`.
        verified, scored: the tables of both that `table` is made from.
    """

    a: Branch
    b: Branch
    times: pd.DatetimeIndex
    table: pd.DataFrame
    verified: tuple[Verification, Verification]
    scored: tuple[pd.DataFrame, pd.DataFrame]


def compare(a: Branch, b: Branch, world: World) -> Comparison:
    """Compare two branches of one world at the times both have, from the later of their starts.

    Raises:
        ArchiveError: the branches have different worlds or grids, or no cycle in common.
    """
    first, second = a.experiment, b.experiment
    if (first.world, first.grid) != (second.world, second.grid):
        raise ArchiveError(
            f"{a.name} is on world {first.world}, {first.grid}, {b.name} on {second.world}, {second.grid}: "
            "their errors cannot be compared"
        )
    # A forked experiment shares its past with its donor; those cycles are the same, and are left out.
    times = a.times.intersection(b.times)
    times = times[times >= max(first.start, second.start)]
    if not len(times):
        raise ArchiveError(f"{a.name} and {b.name} have no cycle in common")
    verified, scored = (verify(a, world), verify(b, world)), (read_scores(a), read_scores(b))
    rows = [*_cycle_rows(verified, times), *_forecast_rows(scored, times), *_withheld_rows(verified, times)]
    return Comparison(a, b, times, pd.DataFrame(rows), verified, scored)


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write the comparison as one HTML page."""
    a, b = comparison.a.name, comparison.b.name
    errors, drift = None, None
    colours = {a: "background", b: "analysis"}
    if all(len(v.errors) for v in comparison.verified):
        runs = {
            name: v.errors[(v.errors["kind"] == "analysis") & v.errors["time"].isin(comparison.times)]
            for name, v in zip((a, b), comparison.verified, strict=True)
        }
        errors = figures.errors_over_time(runs, colours)
    pairs = _paired_scores(comparison.scored, comparison.times)
    if all(len(table) for table in pairs):
        drift = figures.drift_side_by_side(
            {name: tables.drift_summary(table)[0] for name, table in zip((a, b), pairs, strict=True)}
        )
    changed = differences(comparison.a.experiment, comparison.b.experiment)
    context: dict[str, Any] = {
        "a": a,
        "b": b,
        "times": comparison.times,
        "settings": {key: value for key, value in changed.items() if key != "name"},
        "scorecard": scorecard(comparison.table),
        "withheld": comparison.table[comparison.table["of"].str.startswith("withheld")].to_dict("records"),
        "errors": errors,
        "drift": drift,
    }
    write_whole(path, render("compare.html", **context).encode())
    return path


def scorecard(table: pd.DataFrame) -> dict[str, Any]:
    """Arrange the rows by region, channel and column for printing; return them with the names of the columns."""
    by_region = table[table["region"] != ""]
    columns = list(dict.fromkeys(by_region["of"]))
    rows = {
        region: {
            channel: {row["of"]: row for row in of_channel.to_dict("records")}
            for channel, of_channel in of_region.groupby("channel", sort=False)
        }
        for region, of_region in by_region.groupby("region", sort=False)
    }
    return {"columns": columns, "regions": rows}


# --- pairs ------------------------------------------------------------------------------------------------------------


def _cycle_rows(verified: tuple[Verification, Verification], times: pd.DatetimeIndex) -> Iterator[dict[str, Any]]:
    keys = ["kind", "channel", "region"]
    series = [
        v.errors[v.errors["time"].isin(times) & v.errors["channel"].isin(HEADLINE)].set_index([*keys, "time"])["mse"]
        for v in verified
    ]
    for region in scores.REGIONS:
        for channel in HEADLINE:
            for kind in ("background", "analysis"):
                yield from _pair(kind, channel, region, [_pick(s, (kind, channel, region)) for s in series])


def _paired_scores(
    scored: tuple[pd.DataFrame, pd.DataFrame], times: pd.DatetimeIndex
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of the starts that both have, among `times`."""
    common = set(scored[0]["start"]) & set(scored[1]["start"]) & set(times)
    first, second = (table[table["start"].isin(common)] for table in scored)
    return first, second


def _forecast_rows(scored: tuple[pd.DataFrame, pd.DataFrame], times: pd.DatetimeIndex) -> Iterator[dict[str, Any]]:
    keys = ["lead", "channel", "region"]
    series = [
        table[(table["kind"] == "analysis") & table["channel"].isin(HEADLINE)]
        .astype({"channel": str, "region": str})
        .set_index([*keys, "start"])["mse"]
        .astype(float)
        for table in _paired_scores(scored, times)
    ]
    for region in scores.REGIONS:
        for channel in HEADLINE:
            for day in FORECAST_DAYS:
                yield from _pair(f"day {day}", channel, region, [_pick(s, (24 * day, channel, region)) for s in series])


def _withheld_rows(verified: tuple[Verification, Verification], times: pd.DatetimeIndex) -> Iterator[dict[str, Any]]:
    sums = []
    for v in verified:
        fits = withheld_fits(v.fits[v.fits["time"].isin(times) & (v.fits["compared"] > 0)])
        sums.append(fits.groupby(["source", "variable", "time"])[["compared", "o_b_squared", "o_a_squared"]].sum())
    kinds = sums[0].index.droplevel("time").unique().intersection(sums[1].index.droplevel("time").unique())
    for source, variable in kinds:
        for name, column in (("O-B", "o_b_squared"), ("O-A", "o_a_squared")):
            series = [_pick(s[column] / s["compared"], (source, variable)) for s in sums]
            yield from _pair(f"withheld {name}", f"{source} {variable}", "", series)


def _pick(series: pd.Series, key: tuple[object, ...]) -> pd.Series:
    try:
        return series.xs(key, level=list(range(len(key)))).sort_index()
    except KeyError:
        return pd.Series(dtype=float)


def _pair(of: str, channel: str, region: str, series: list[pd.Series]) -> Iterator[dict[str, Any]]:
    """Yield one row from two series of mean squared errors; none where they have no time in common."""
    a, b = series[0].align(series[1], join="inner")
    if not len(a) or not np.isfinite([a, b]).all() or not a.mean() > 0:
        return
    days = (a.index - a.index[0]) / pd.Timedelta(days=1)
    difference = mean_interval(days.to_numpy(float), (b - a).to_numpy())
    base = float(a.mean())
    # From a difference of mean squared errors to a change of the RMSE. The interval may reach below an error of 0.
    change, low, high = (
        float(np.sqrt(max(0.0, 1 + x / base)) - 1) for x in (difference.estimate, difference.low, difference.high)
    )
    yield {
        "of": of,
        "channel": channel,
        "region": region,
        "n": len(a),
        "rmse_a": float(np.sqrt(base)),
        "rmse_b": float(np.sqrt(b.mean())),
        "change": change,
        "low": low if np.isfinite(difference.low) else np.nan,
        "high": high if np.isfinite(difference.high) else np.nan,
        "effective": difference.effective,
        "excludes_zero": difference.excludes_zero,
    }
