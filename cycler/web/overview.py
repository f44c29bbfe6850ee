"""What the page of all experiments shows: one row for each."""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from dacycle.common.errors import DacycleError
from dacycle.cycler.report import style
from dacycle.cycler.report.charts import line_path
from dacycle.cycler.web.runs import Run, Runs
from dacycle.forecast_adapter.channels import HEADLINE

__all__ = ["glance", "overview", "standing"]

CHANNEL, LEAD = HEADLINE[0], 72
"""What is shown of the errors at a glance."""
DAY = 4
"""Number of cycles in a day."""


def overview(runs: Runs) -> list[dict[str, Any]]:
    """Return a row for each experiment, in alphabetical order; `trouble` says why one cannot be read."""
    return [_row(runs, name) for name in runs.names()]


def _row(runs: Runs, name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "trouble": ""}
    try:
        run = runs.run(name)
        row |= standing(run)
        row["errors"], row["forecasts"] = glance(run)
    except (DacycleError, OSError) as error:
        row["trouble"] = str(error)
    return row


def standing(run: Run) -> dict[str, Any]:
    """Return how a run stands: its newest cycle against its schedule, its cycles by status, its open alerts."""
    experiment, holding, newest = run.experiment, run.holding, run.newest
    done = {status: holding.statuses.get(status, 0) for status in style.STATUSES}
    alerts = [alert for alert in run.alerts if alert.ended is None]
    return {
        "assimilator": experiment.assimilator,
        "model": experiment.model,
        "free": experiment.assimilator == "none",
        "live": experiment.end is None,
        "plan": None if newest is None else run.plan(newest.time),
        "newest": newest,
        "statuses": done,
        "cycles": sum(done.values()),
        "critical": sum(alert.severity == "critical" for alert in alerts),
        "warnings": sum(alert.severity == "warning" for alert in alerts),
        "open": alerts,
    }


def glance(run: Run) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the error of the newest analyses, and of the newest forecast, beside the run's own past; None: unknown."""
    errors, scores = run.errors(), run.drift()
    found: list[dict[str, Any] | None] = []
    for table, kind, at, last in ((errors, "analysis", "time", DAY), (scores, "analysis", "start", 1)):
        if table.empty:
            found.append(None)
            continue
        own = table[(table["kind"] == kind) & (table["channel"] == CHANNEL)]
        own = own[own["lead"] == LEAD] if at == "start" else own
        series = np.sqrt(own.set_index(at)["mse"].astype(float).sort_index())
        found.append(_beside_past(series, last) if len(series) else None)
    return found[0], found[1]


def _beside_past(series: pd.Series, last: int) -> dict[str, Any]:
    factor, unit = style.readable(CHANNEL)
    before = series.iloc[:-last]
    now, usual = float(series.iloc[-last:].mean()), float(before.median()) if len(before) >= 5 else np.nan
    level = "bad" if now > 1.5 * usual else "warn" if now > 1.2 * usual else ""
    return {"now": factor * now, "usual": factor * usual, "unit": unit, "level": level, "curve": _spark(series)}


def _spark(series: pd.Series) -> Markup:
    """Draw a small curve from zero."""
    values = series.to_numpy(float)
    x, y = np.linspace(1, 89, len(values)), 21 - 19 * values / (values.max() or 1.0)
    return Markup(
        '<svg class="spark" aria-hidden="true" viewBox="0 0 90 22"><path class="g" d="M0 21.5H90"/>'
        '<path class="l" style="stroke:var(--{})" d="{}"/></svg>'
    ).format(style.slug("analysis"), Markup(line_path(x, y)))
