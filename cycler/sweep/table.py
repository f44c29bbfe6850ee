"""The table of a study: errors of each trial, and their changes from the baseline with paired intervals.

Trials are compared at the times that all of them have, so that a table of an unfinished study is fair as well; those
with fewer than half as many cases as the one with most, as one that was stopped, are left out and named. The
intervals are those of `cycler.comparison.pairing`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dacycle.common.files import write_whole
from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.comparison.costs import cost
from dacycle.cycler.comparison.pairing import change as relative_change
from dacycle.cycler.experiment import Experiment
from dacycle.cycler.report.tables import number, with_interval
from dacycle.cycler.sweep.study import Study, Trial
from dacycle.cycler.verification.cycles import verify
from dacycle.cycler.verification.drift import read_scores
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = ["Row", "StudyTable", "make_table", "markdown", "tables_of", "write_table"]


FORECAST_METRICS = ("day 1", "day 3", "day 5", "day 10")


@dataclass(frozen=True)
class Row:
    """A trial in the table.

    Attributes:
        method, trial: the method, and with its settings.
        settings: what is varied.
        ratios: RMSE over that of the baseline, by headline channel.
        ratio: their mean.
        change, low, high, effective: of the mean squared error from the baseline's, the mean of the channels relative
            to it, with its 95 % interval and effective sample size; NaN for the baseline and in too short a run.
        seconds: of a cycle, the median, and those of its `analysis`.
        clock: by which: the `processor`'s, or the `wall`'s where not all cycles note the former.
        fallbacks: cycles that kept their background.
        best: whether no other trial of the method has a lower ratio.
    """

    method: str
    trial: str
    settings: Mapping[str, Any]
    ratios: Mapping[str, float]
    ratio: float
    change: float
    low: float
    high: float
    effective: float
    seconds: float
    analysis: float
    clock: str
    fallbacks: int
    best: bool = False


@dataclass(frozen=True)
class StudyTable:
    """Hold a study's rows, and how many cases (cycles, or starts of forecasts) each run compares.

    Attributes:
        rmse: of the baseline, SI, by headline channel.
        missing: trials that have no case yet, or fewer than half as many as others.
    """

    study: str
    metric: str
    baseline: str
    cases: Mapping[str, int]
    rmse: Mapping[str, float]
    rows: Sequence[Row]
    missing: Sequence[str]


def tables_of(study: Study, name: str, trials: Sequence[Trial]) -> list[StudyTable]:
    """Return the tables of a study: of its metric first, and of some days where it has forecasts.

    Where runs are `separate`, each has its own tables, under the name of the study and its own.
    """
    metrics = dict.fromkeys([study.metric, *(FORECAST_METRICS if study.forecasts else ())])
    if not study.separate:
        return [make_table(study, name, trials, metric) for metric in metrics]
    tables = []
    for run in study.runs:
        alone = study.model_copy(update={"runs": {run: study.runs[run]}})
        of_run = [replace(trial, experiments={run: trial.experiments[run]}) for trial in trials]
        tables += [make_table(alone, f"{name}, {run}", of_run, metric) for metric in metrics]
    return tables


def make_table(study: Study, name: str, trials: Sequence[Trial], metric: str | None = None) -> StudyTable:
    """Compare the trials by what the archive holds.

    Args:
        study, name, trials: the study.
        metric: in place of the study's.
    """
    metric = metric or study.metric
    archive = Archive(study.archive)
    errors = {trial.name: _errors(archive, study, trial, metric) for trial in trials}
    most = {run: max(len(errors[trial.name][run]) for trial in trials) for run in study.runs}
    present = [
        trial for trial in trials if all(len(table) > most[run] / 2 for run, table in errors[trial.name].items())
    ]
    missing = [trial.name for trial in trials if trial not in present]
    base = next(trial for trial in trials if trial.method == study.baseline)
    if base not in present:
        return StudyTable(name, metric, base.name, dict.fromkeys(study.runs, 0), {}, [], missing)
    common = {
        run: sorted(set.intersection(*(set(errors[trial.name][run].index) for trial in present))) for run in study.runs
    }
    joined = {trial.name: _joined(errors[trial.name], common) for trial in present}
    unit = joined[base.name].mean()
    rows = [_row(archive, trial, joined[trial.name], joined[base.name], unit, base) for trial in present]
    least = {row.method: min(other.ratio for other in rows if other.method == row.method) for row in rows}
    rows = [Row(**{**vars(row), "best": row.ratio == least[row.method]}) for row in rows]
    cases = {run: len(times) for run, times in common.items()}
    return StudyTable(name, metric, base.name, cases, np.sqrt(unit).to_dict(), rows, missing)


def _errors(archive: Archive, study: Study, trial: Trial, metric: str) -> dict[str, pd.DataFrame]:
    """Return the mean squared errors, SI, of a trial by run: time by headline channel; empty where there are none."""
    held = archive.branches()
    return {
        run: _errors_of(archive.branch(experiment.name), experiment, study, metric)
        if experiment.name in held
        else pd.DataFrame()
        for run, experiment in trial.experiments.items()
    }


def _errors_of(branch: Branch, experiment: Experiment, study: Study, metric: str) -> pd.DataFrame:
    world = load_world(experiment.world)
    if metric.startswith("day"):
        scores = read_scores(branch, world).rename(columns={"start": "time"})
        of_metric = scores[(scores["kind"] == "analysis") & (scores["lead"] == 24 * int(metric.removeprefix("day")))]
    else:
        scores = verify(branch, world).errors
        of_metric = scores[scores["kind"] == metric]
    rows = of_metric[(of_metric["region"] == "globe") & of_metric["channel"].isin(HEADLINE)]
    rows = rows[rows["time"] >= experiment.start + study.spin_up]
    table = rows.astype({"channel": str}).pivot(index="time", columns="channel", values="mse")
    return table[list(HEADLINE)] if len(table) else pd.DataFrame()


def _joined(errors: Mapping[str, pd.DataFrame], common: Mapping[str, Sequence[pd.Timestamp]]) -> pd.DataFrame:
    """Return the errors of all runs by time; those of runs at the same time are no independent cases: their mean."""
    return pd.concat([errors[run].loc[times] for run, times in common.items()]).groupby(level=0).mean()


def _row(
    archive: Archive, trial: Trial, errors: pd.DataFrame, of_base: pd.DataFrame, unit: pd.Series, base: Trial
) -> Row:
    ratios = np.sqrt(errors.mean() / unit)
    interval = relative_change((errors / unit).mean(axis=1), (of_base / unit).mean(axis=1))
    change, low, high, effective = (
        (np.nan,) * 4 if trial is base else (interval.estimate, interval.low, interval.high, interval.effective)
    )
    branches = [archive.branch(experiment.name) for experiment in trial.experiments.values()]
    costs = [cost(branch, branch.times[2:]) for branch in branches]
    return Row(
        method=trial.method,
        trial=trial.name,
        settings=dict(trial.settings),
        ratios={name: float(x) for name, x in ratios.items()},
        ratio=float(ratios.mean()),
        change=change,
        low=low,
        high=high,
        effective=effective,
        seconds=float(np.mean([one["cycle"] for one in costs])),
        analysis=float(np.mean([one["analysis"] for one in costs])),
        clock=" and ".join(sorted({one["clock"] for one in costs})),
        fallbacks=sum(one["fallbacks"] for one in costs),
    )


def markdown(table: StudyTable) -> str:
    """Return the table as Markdown, with a sentence on what it compares."""
    cases = ", ".join(f"{count} {run}".strip() for run, count in table.cases.items())
    kind = "starts of forecasts" if table.metric.startswith("day") else "cycles"
    lines = [
        f"**{table.study}**",
        f"Errors of `{table.metric}` over those of {table.baseline}, root mean square, by channel and in the mean; "
        "change of the mean squared error with 95 % interval and effective sample size (n). "
        f"Compared {kind}: {cases}.",
    ]
    if table.rows:
        clock = " or ".join(sorted({row.clock for row in table.rows}))
        costs = [f"{clock} s a cycle", "an analysis", "fallbacks"]
        head = ["", "mean", *HEADLINE, f"change against {table.baseline}", *costs]
        cells = [head, ["---"] * len(head)]
        for row in table.rows:
            several = sum(other.method == row.method for other in table.rows) > 1
            name = f"**{row.trial}**" if row.best and several else row.trial
            ratios = [f"{row.ratio:.3f}", *(f"{row.ratios[channel]:.3f}" for channel in HEADLINE)]
            interval = with_interval(100 * row.change, 100 * row.low, 100 * row.high, row.effective, " %")
            changed = interval if np.isfinite(row.change) else "–"
            cells.append([name, *ratios, changed, number(row.seconds), number(row.analysis), str(row.fallbacks)])
        lines.append("\n".join("| " + " | ".join(line) + " |" for line in cells))
    if table.missing:
        lines.append(f"Left out, with no or few cases so far: {', '.join(table.missing)}.")
    return "\n\n".join(lines) + "\n"


def write_table(tables: Sequence[StudyTable], folder: Path) -> list[Path]:
    """Write table.md and table.json with the tables of a study, one for each metric; return the paths."""
    paths = [folder / "table.md", folder / "table.json"]
    write_whole(paths[0], "\n".join(markdown(table) for table in tables).encode())
    content = json.dumps(_plain([asdict(table) for table in tables]), indent=1, allow_nan=False, default=str)
    write_whole(paths[1], content.encode())
    return paths


def _plain(value: Any) -> Any:
    """Return content with None in place of numbers that are not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
