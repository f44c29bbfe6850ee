"""Set out a comparison for reading: marks, cells, and tables of cells that page, Markdown and command line share."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from dacycle.cycler.comparison.errors import AT_OBSERVATIONS, KINDS
from dacycle.cycler.comparison.runs import HEADLINE_MEAN, Comparison
from dacycle.cycler.report.tables import percent
from dacycle.forecast_adapter.channels import readable, readable_variable
from dacycle.forecast_adapter.intervals import FEWEST_EFFECTIVE, Interval

__all__ = ["LEGEND", "at_observations", "cell", "chance_text", "matrix", "readable_row", "scorecard", "span", "summary"]

LEGEND = (
    "▲ better and ▼ worse, also among all cells of the scorecard (at most 5 % of these may be chance); △ better and ▽ "
    "worse by this cell's own interval alone; no mark: the difference may be chance."
)


def cell(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Return the text of a cell with its mark, its `change` in per cent, its `kind` (a class of the page), interval."""
    change, sure = float(row["change"]), bool(row.get("holds", True))
    kind, sign = "none", ""
    if row["excludes_zero"]:
        better = change < 0
        sign = ("▲" if better else "▼") if sure else ("△" if better else "▽")
        kind = ("" if sure else "perhaps-") + ("better" if better else "worse")
    return {"text": f"{sign} {percent(change)}".strip(), "change": 100 * change, "kind": kind, "interval": span(row)}


def span(row: Mapping[Hashable, Any]) -> str:
    """Return the interval of a row with its effective sample size and number of pairs."""
    pairs = f"; {row['n']} pairs" if "n" in row else ""
    if not np.isfinite(row["low"]):
        return f"run too short for an interval{pairs}"
    return f"{percent(row['low'])} to {percent(row['high'])}, effective sample size {row['effective']:.0f}{pairs}"


def scorecard(comparison: Comparison, run: str) -> dict[str, Any]:
    """Return the names of the columns, and by region and channel the cells of a run's scorecard."""
    rows = comparison.table[(comparison.table["run"] == run) & (comparison.table["region"] != "")]
    columns = [of for of in KINDS if (rows["of"] == of).any()]
    regions = {
        region: {
            channel: {row["of"]: cell(row) for row in of_channel.to_dict("records")}
            for channel, of_channel in of_region.groupby("channel", sort=False)
        }
        for region, of_region in rows.groupby("region", sort=False)
    }
    return {"columns": columns, "regions": regions}


def summary(comparison: Comparison) -> dict[str, Any]:
    """Return the columns, and a row per run: its mean of six over the globe, and its cost.

    A mean of six is in no scorecard that it could be lost in: its mark is that of its own interval.
    """
    table = comparison.table
    means = table[(table["channel"] == HEADLINE_MEAN) & (table["region"] == "globe")]
    columns = [of for of in KINDS if (means["of"] == of).any()]
    rows = []
    for cost in comparison.costs.to_dict("records"):
        of_run = means[means["run"] == cost["run"]].drop(columns="holds").to_dict("records")
        rows.append({"run": cost["run"], "cells": {row["of"]: cell(row) for row in of_run}, "cost": cost})
    return {"columns": columns, "rows": rows}


def at_observations(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a row per field and kind of observation: rmse of the baseline, and a cell of each judged run."""
    table = comparison.table[comparison.table["of"].isin(AT_OBSERVATIONS)].drop(columns="holds")
    rows = []
    for (of, channel), found in table.groupby(["of", "channel"], sort=False):
        source, _, variable = str(channel).rpartition(" ")
        factor, unit = readable_variable(variable) if of in AT_OBSERVATIONS[:2] else readable(variable)
        cells = {row["run"]: cell(row) for row in found.to_dict("records")}
        rows.append(
            {"of": of, "source": source, "variable": variable, "unit": unit,
             "rmse": factor * float(found["rmse_a"].iloc[0]), "cells": cells}
        )  # fmt: skip
    return sorted(rows, key=lambda row: (row["source"], row["variable"], AT_OBSERVATIONS.index(row["of"])))


def matrix(comparison: Comparison) -> dict[str, dict[str, dict[str, Any]]]:
    """Return method -> against -> cell of the change of the mean squared error of the analyses, mean of six."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in comparison.pairs.to_dict("records"):
        interval = Interval(row["change"], row["low"], row["high"], row["effective"])
        cells = found.setdefault(str(row["method"]), {})
        cells[str(row["against"])] = cell({**row, "excludes_zero": interval.excludes_zero})
    return found


def chance_text(comparison: Comparison, run: str) -> str:
    """Return a sentence: how many cells exclude zero, how many would by chance, and how many hold."""
    row = comparison.chance.set_index("run").loc[run]
    if not row["cells"]:
        return f"No cell has an effective sample size of {FEWEST_EFFECTIVE:.0f}: the run is too short to tell."
    return (
        f"{row['exclude_zero']} of {row['cells']} cells have an interval without zero. If nothing differed, about "
        f"{row['by_chance']} would have one by chance. {row['hold']} hold among all cells."
    )


def readable_row(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Return a row of `Comparison.table` with its errors in the units that `dacycle scores` prints."""
    source, _, variable = str(row["channel"]).rpartition(" ")
    if row["channel"] == HEADLINE_MEAN:
        source, variable, factor, unit = "", HEADLINE_MEAN, 1.0, ""
    elif row["of"] in AT_OBSERVATIONS[:2]:
        factor, unit = readable_variable(variable)
    else:
        factor, unit = readable(variable)
    errors = {name: factor * row[name] for name in ("rmse_a", "rmse_b")}
    return {"run": row["run"], "of": row["of"], "source": source, "channel": variable, "unit": unit} | {
        str(name): errors.get(str(name), value) for name, value in row.items() if name not in ("run", "of", "channel")
    }
