"""Compare any number of runs with the first one, at the times that all have.

All are verified against the same reference at the same times. The first run is the baseline: errors of the others are
paired with its errors, case by case.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dacycle.cycler.archive.branches import ArchiveError, Branch
from dacycle.cycler.comparison.costs import cost
from dacycle.cycler.comparison.errors import CHANNELS, KEYS, KINDS, squared_errors
from dacycle.cycler.comparison.pairing import change, discoveries, each_with_each, of_roots
from dacycle.cycler.experiment import cycle_id, differences
from dacycle.cycler.verification.at_observations import at_observations
from dacycle.cycler.verification.cycles import Verification, verify_all
from dacycle.cycler.verification.drift import read_scores
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["HEADLINE_MEAN", "Comparison", "compare"]

HEADLINE_MEAN = "mean of six"
"""Stands for a channel: the mean of the headline channels, each in units of the baseline's mean squared error."""
_CHANCE = 0.05  # of a 95 % interval


@dataclass(frozen=True)
class Comparison:
    """Hold the comparison of runs with the first of them.

    Attributes:
        runs: the branches by the name under which they are shown, the baseline first.
        times: the cycles that all have, from the latest of their starts.
        table: run, `of` (of `errors.KINDS` or `errors.AT_OBSERVATIONS`), channel (or source and variable, or
            `HEADLINE_MEAN`), region -> `n` pairs, `rmse_a` of the baseline, `rmse_b` (SI; of a mean in the baseline's
            own), `change` of the RMSE as a fraction, its 95 % interval `low`, `high`, the `effective` sample size,
            whether it `excludes_zero`, and whether it still `holds` among all cells of the run's scorecard.
        pairs: method, against -> change of the mean squared error of the analyses, mean of the headline channels.
        chance: run -> `cells` of its scorecard that could exclude zero, how many do so `by_chance` where nothing
            differs, how many `exclude_zero`, and how many `hold`.
        costs: run -> median seconds a cycle: of the `analysis`, of the whole `cycle`; and `clock`, `processor` or
            `wall`; number of `fallbacks` in these cycles.
        settings: dotted key -> the value of each run, where they differ.
        without_forecasts: runs without scores of forecasts.
        verified, scored: tables by run, at `times`.
    """

    runs: Mapping[str, Branch]
    times: pd.DatetimeIndex
    table: pd.DataFrame
    pairs: pd.DataFrame
    chance: pd.DataFrame
    costs: pd.DataFrame
    settings: Mapping[str, list[Any]]
    without_forecasts: list[str]
    verified: Mapping[str, Verification]
    scored: Mapping[str, pd.DataFrame]

    @property
    def baseline(self) -> str:
        """Return the name of the first run."""
        return next(iter(self.runs))

    @property
    def judged(self) -> list[str]:
        """Return the names of the other runs."""
        return list(self.runs)[1:]


def compare(
    branches: Sequence[Branch],
    world: World,
    since: pd.Timestamp | None = None,
    until: pd.Timestamp | None = None,
) -> Comparison:
    """Compare branches of one world with the first, at the times that all have, from the latest of their starts.

    Args:
        branches: two at least; they may be of several archives.
        world: of all of them.
        since, until: first and last cycle; None: as far as all reach.

    Raises:
        ArchiveError: the branches have different worlds or grids, or no cycle in common.
    """
    runs = dict(zip(_names(branches), branches, strict=True))
    times = _common_times(runs, since, until)
    verified = {
        name: verification.within(times)
        for name, verification in zip(runs, verify_all(list(branches), world), strict=True)
    }
    scores = {name: read_scores(branch, world) for name, branch in runs.items()}
    starts = set.intersection(set(times), *(set(table["start"].unique()) for table in scores.values() if len(table)))
    scored = {name: table[table["start"].isin(starts)] for name, table in scores.items()}
    squares = {
        name: squared_errors(
            verified[name], scored[name], _observed(branch, world, starts) if len(scored[name]) else None
        )
        for name, branch in runs.items()
    }
    paired = _cases_of_all(squares)
    table = pd.concat([_table(name, paired) for name in list(runs)[1:]], ignore_index=True)
    table["holds"] = False
    of_card = (table["region"] != "") & (table["channel"] != HEADLINE_MEAN)
    for name in list(runs)[1:]:
        rows = of_card & (table["run"] == name)
        table.loc[rows, "holds"] = discoveries(table.loc[rows, "p_value"].to_numpy(float))
    return Comparison(
        runs,
        times,
        table.drop(columns="p_value"),
        _each_with_each(paired),
        _chance(table[of_card], list(runs)[1:]),
        pd.DataFrame([{"run": name, **cost(branch, times)} for name, branch in runs.items()]),
        _settings(runs),
        [name for name, of_run in scores.items() if of_run.empty],
        verified,
        scored,
    )


def _names(branches: Sequence[Branch]) -> list[str]:
    """Return a name for each branch: its own, with the archive's before it where two have the same one."""
    names = [branch.name for branch in branches]
    shown = [
        name if names.count(name) == 1 else f"{branch.archive.folder.name}/{name}"
        for name, branch in zip(names, branches, strict=True)
    ]
    return [name if name not in shown[:i] else f"{name} ({i + 1})" for i, name in enumerate(shown)]


def _common_times(
    runs: Mapping[str, Branch], since: pd.Timestamp | None, until: pd.Timestamp | None
) -> pd.DatetimeIndex:
    (first, base), *others = runs.items()
    for name, branch in others:
        asked, of_base = branch.experiment, base.experiment
        if (asked.world, asked.grid) != (of_base.world, of_base.grid):
            raise ArchiveError(
                f"{first} is on world {of_base.world}, {of_base.grid}, {name} on {asked.world}, {asked.grid}: "
                "their errors cannot be compared"
            )
    # A forked experiment shares its past with its donor; those cycles are the same, and are left out.
    begin = max(branch.experiment.start for branch in runs.values())
    times = base.times
    for _, branch in others:
        times = times.intersection(branch.times)
    times = times[(times >= max(begin, since or begin)) & (times <= (until or pd.Timestamp.max))]
    if not len(times):
        span = f" from {cycle_id(since) if since else 'their start'} to {cycle_id(until) if until else 'their end'}"
        raise ArchiveError(f"{', '.join(runs)} have no cycle in common{span if since or until else ''}")
    return times


def _observed(branch: Branch, world: World, starts: set[pd.Timestamp]) -> pd.DataFrame:
    """Return the scores at observations of these starts, as far as they were made: to make them takes minutes."""
    observed = at_observations(branch, world, new=False)
    return observed[observed["start"].isin(starts)]


def _cases_of_all(squares: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the squared errors that the baseline has, NaN in the cases that one of the runs lacks.

    A run that lacks all cases of a column, as a free run those of forecasts, does not take them from the others.
    """
    base, *others = squares.values()
    times = base.index
    for table in others:
        times = times.intersection(table.index)
    same = [table.reindex(index=times, columns=base.columns) for table in squares.values()]
    finite = [np.isfinite(table.to_numpy()) for table in same]
    there = np.logical_and.reduce([found | ~found.any(axis=0) for found in finite])
    return {name: table.where(there) for name, table in zip(squares, same, strict=True)}


def _table(name: str, paired: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    base, judged = next(iter(paired.values())), paired[name]
    rows = [
        {"run": name, **dict(zip(KEYS, key, strict=True)), **row}
        for key in base.columns
        for row in _pair(judged[key].dropna(), base[key].dropna())
    ]
    regions = dict.fromkeys(region for _, _, region in base.columns if region)
    for of in KINDS:
        for region in regions:
            keys = [(of, channel, region) for channel in HEADLINE]
            if all(key in base.columns for key in keys):
                unit = base[keys].mean()
                means = [(table[keys] / unit).mean(axis=1, skipna=False).dropna() for table in (judged, base)]
                where = {"run": name, "of": of, "channel": HEADLINE_MEAN, "region": region}
                rows += [{**where, **row} for row in _pair(*means)]
    columns = ["run", *KEYS, "n", "rmse_a", "rmse_b", "change", "low", "high", "effective", "excludes_zero", "p_value"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.assign(
        channel=pd.Categorical(table["channel"], dict.fromkeys([HEADLINE_MEAN, *CHANNELS, *table["channel"]])),
        of=pd.Categorical(table["of"], dict.fromkeys([*KINDS, *table["of"]])),
    )
    return table.sort_values(["channel", "of"], kind="stable").astype({"channel": str, "of": str})


def _pair(judged: pd.Series, base: pd.Series) -> Iterator[dict[str, Any]]:
    """Yield one row from two series of mean squared errors; none where they have no case, or no error."""
    if not len(base) or not len(judged) or not base.mean() > 0:
        return
    squares = change(judged, base)
    yield {
        "n": len(base),
        "rmse_a": float(np.sqrt(base.mean())),
        "rmse_b": float(np.sqrt(judged.mean())),
        **of_roots(squares),
        "excludes_zero": squares.excludes_zero,
        "p_value": squares.p_value,
    }


def _each_with_each(paired: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    base = next(iter(paired.values()))
    keys = [("analysis", channel, "globe") for channel in HEADLINE]
    if not all(key in base.columns for key in keys) or base[keys].dropna().empty:
        return each_with_each({})
    unit = base[keys].mean()
    return each_with_each({name: (table[keys].dropna() / unit).mean(axis=1) for name, table in paired.items()})


def _chance(cells: pd.DataFrame, judged: Sequence[str]) -> pd.DataFrame:
    rows = []
    for name in judged:
        of_run = cells[cells["run"] == name]
        tested = int(of_run["p_value"].notna().sum())
        counts = {"exclude_zero": int(of_run["excludes_zero"].sum()), "hold": int(of_run["holds"].sum())}
        rows.append({"run": name, "cells": tested, "by_chance": round(_CHANCE * tested), **counts})
    return pd.DataFrame(rows)


def _settings(runs: Mapping[str, Branch]) -> dict[str, list[Any]]:
    base, *others = (branch.experiment for branch in runs.values())
    changed = [differences(base, other) for other in others]
    keys = dict.fromkeys(key for found in changed for key in found if key != "name")
    first = {key: next(found[key][0] for found in changed if key in found) for key in keys}
    return {key: [first[key], *(found[key][1] if key in found else first[key] for found in changed)] for key in keys}
