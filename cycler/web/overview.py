"""What the page of all experiments shows: one row for each."""

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from dacycle.common import clock
from dacycle.cycler.report import style
from dacycle.cycler.report.charts import line_path
from dacycle.cycler.verification import usual
from dacycle.cycler.web.parts import attempt
from dacycle.cycler.web.runs import Run, Runs
from dacycle.forecast_adapter.channels import HEADLINE

__all__ = ["overview", "standing"]

CHANNEL, LEAD = HEADLINE[0], 72
"""What is shown of the errors at a glance."""
DAY = 4
"""Number of cycles in a day."""


def overview(runs: Runs) -> list[dict[str, Any]]:
    """Return a row for each experiment, in alphabetical order; `trouble` says why one cannot be read."""
    now = clock.now()
    return [{"name": name, **attempt(partial(_row, runs, name, now))} for name in runs.names()]


def _row(runs: Runs, name: str, now: pd.Timestamp) -> dict[str, Any]:
    """Return how a run stands, and its errors at a glance, each None where it is not known."""
    run = runs.run(name)
    return {
        **standing(run, now),
        "errors": attempt(lambda: {"shown": _at_a_glance(run.errors(), "time", together=DAY)}),
        "forecasts": attempt(lambda: {"shown": _at_a_glance(run.drift(), "start", LEAD)}),
    }


def standing(run: Run, now: pd.Timestamp) -> dict[str, Any]:
    """Return how a run stands: its newest cycle against its schedule, its cycles by status, its alerts.

    `alerts` has the rows, or `trouble`; the numbers of those that are open are None then.
    """
    experiment, holding, newest = run.experiment, run.holding, run.newest
    done = {status: holding.statuses.get(status, 0) for status in style.STATUSES}
    alerts = attempt(lambda: {"rows": run.alerts})
    opened = [alert for alert in alerts.get("rows", ()) if alert.ended is None]
    numbers = Counter(alert.severity for alert in opened)
    return {
        "assimilator": experiment.assimilator,
        "model": experiment.model,
        "free": experiment.assimilator == "none",
        "live": experiment.end is None,
        "plan": None if newest is None else run.plan(newest.time, now),
        "newest": newest,
        "statuses": done,
        "cycles": sum(done.values()),
        "critical": None if alerts["trouble"] else numbers["critical"],
        "warnings": None if alerts["trouble"] else numbers["warning"],
        "open": opened,
        "alerts": alerts,
    }


def _at_a_glance(scores: pd.DataFrame, by: str, lead: int | None = None, together: int = 1) -> dict[str, Any] | None:
    """Return the newest error of the analyses, or of forecasts from them, beside the run's own past; None: unknown."""
    if scores.empty:
        return None
    own = scores[(scores["kind"] == "analysis") & (scores["channel"] == CHANNEL)]
    own = own if lead is None else own[own["lead"] == lead]
    series = np.sqrt(own.set_index(by)["mse"].astype(float).sort_index())
    series = series[series > 0]
    if series.empty:
        return None
    factor, unit = style.readable(CHANNEL)
    past, strength = usual.newest_of_errors(series, together)
    return {
        "now": factor * float(series.iloc[-together:].mean()),
        "usual": factor * past,
        "unit": unit,
        "level": "bad" if strength > usual.LIMIT else "",
        "curve": _spark(series),
    }


def _spark(series: pd.Series) -> Markup:
    """Draw a small curve from zero."""
    values = series.to_numpy(float)
    x, y = np.linspace(1, 89, len(values)), 21 - 19 * values / (values.max() or 1.0)
    return Markup(
        '<svg class="spark" aria-hidden="true" viewBox="0 0 90 22"><path class="g" d="M0 21.5H90"/>'
        '<path class="l" style="stroke:var(--{})" d="{}"/></svg>'
    ).format(style.slug("analysis"), Markup(line_path(x, y)))
