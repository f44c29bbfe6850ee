"""What the page of one experiment shows: its cycles, what came in, alerts, errors and drift, beside its own past."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dacycle.common import clock
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.operations.metrics import LEADS
from dacycle.cycler.report import figures, health, style
from dacycle.cycler.report.charts import Chart, Figure, Line
from dacycle.cycler.verification import usual
from dacycle.cycler.verification.attention import HISTORY, conditions
from dacycle.cycler.web.overview import standing
from dacycle.cycler.web.parts import attempt
from dacycle.cycler.web.runs import Run
from dacycle.forecast_adapter.channels import HEADLINE

__all__ = ["calendar", "drift_rows", "run_content"]

DAYS = 31
"""Days of the timeline, where no month is asked for."""
_SMALL = (250, 130)
_SHADES = dict(zip(LEADS, ("shade 1", "shade 3", "shade 5"), strict=True))


def run_content(run: Run, month: str | None) -> dict[str, Any]:
    """Return the content of the page; a part that cannot be read has `trouble`, a sentence.

    Args:
        run: the experiment.
        month: of the timeline, such as `2024-01`; None: the newest days.

    Raises:
        ArchiveError: nothing of the run can be read.
    """
    now = clock.now()
    content = standing(run, now)
    content |= {"experiment": run.experiment, "report": (run.branch.folder / "report/index.html").is_file()}
    records = run.records
    if not records:
        return content | {"records": []}

    def attention() -> dict[str, Any]:
        recent, fits = records[-HISTORY:], run.fits()
        found, plan = conditions(run.experiment, recent, fits, now), run.plan(recent[-1].time, now)
        return {
            "found": [one for one in health.attention(recent, plan, found) if one.text != plan.text],
            "counts": health.last_counts(recent[-1], fits),
            "sources": health.source_rows(recent, fits, found),
            "figure": _came_in(recent, fits),
            "withheld": figures.fits_over_time(fits),
        }

    content |= {
        "records": records,
        "first": records[0],
        "calendar": calendar(records, month),
        "incidents": [record for record in reversed(records) if record.status != "ok"],
        "now": attempt(attention),
        "errors": attempt(lambda: {"figure": _errors(run.errors())}),
        "drift": attempt(lambda: {"rows": drift_rows(run.drift()), "figure": _drift(run.drift())}),
        "spread": _spread(records[-HISTORY:]),
    }
    return content


# --- cycles -----------------------------------------------------------------------------------------------------------


def calendar(records: Sequence[CycleRecord], month: str | None) -> dict[str, Any]:
    """Return the timeline: days across, hours down, each cell a record or None; and the months that there are.

    A month without cycles, or that is none, counts as None.
    """
    months = Counter(f"{record.time:%Y-%m}" for record in records)
    others = Counter(f"{record.time:%Y-%m}" for record in records if record.status != "ok")
    month = month if month in months else None
    if month is None:
        last = records[-1].time.normalize()
        first = max(last - pd.Timedelta(days=DAYS - 1), records[0].time.normalize())
        days = pd.date_range(first, periods=DAYS)
    else:
        days = pd.date_range(month, periods=pd.Period(month).days_in_month)
    known = {record.time: record for record in records if days[0] <= record.time < days[-1] + pd.Timedelta(days=1)}
    hours = [pd.Timedelta(hours=hour) for hour in (0, 6, 12, 18)]
    return {
        "month": month,
        "months": [{"name": name, "cycles": count, "others": others[name]} for name, count in months.items()],
        "days": list(days),
        "rows": [(f"{hour.components.hours:02}", [known.get(day + hour) for day in days]) for hour in hours],
        "spans": [
            (str(name), len(list(own))) for name, own in pd.Series(days).groupby(days.strftime("%B %Y"), sort=False)
        ],
    }


# --- what came in -----------------------------------------------------------------------------------------------------


def _came_in(records: Sequence[CycleRecord], fits: pd.DataFrame) -> Figure | None:
    """Draw for each source the reports and the RMS of O-B in stated errors, beside what is usual at the hour."""
    series = _by_source(records, fits)
    if series.empty:
        return None
    typical = usual.typical_of_each(series)
    charts = []
    for source, title in series.columns:
        own = series[source, title].dropna()
        past = typical[source, title].reindex(own.index)
        lines = [Line("usual at this hour", past.index, past.to_numpy(float), "free run")] if past.notna().any() else []
        lines.append(Line("this run", own.index, own.to_numpy(float), "analysis"))
        charts.append(Chart(f"{source}: {title}", lines, size_=_SMALL, from_zero=True))
    return Figure("What came in, against what usually comes", charts, columns=4, x_name="time")


def _by_source(records: Sequence[CycleRecord], fits: pd.DataFrame) -> pd.DataFrame:
    times = pd.DatetimeIndex([record.time for record in records])
    names = list(dict.fromkeys(name for record in records for name in record.sources))
    used = fits[fits["use"] == "assimilated"]
    columns: dict[tuple[str, str], Any] = {}
    for name in names:
        decoded = [record.sources[name].decoded if name in record.sources else 0 for record in records]
        columns[name, "reports"] = pd.Series(decoded, times, dtype=float)
        own = used[used["source"] == name]
        if len(own):
            sums = own.groupby("time")[["compared", "o_b_in_errors_squared"]].sum().astype(float)
            ratio = np.sqrt(sums["o_b_in_errors_squared"] / sums["compared"].where(sums["compared"] > 0))
            if ratio.notna().any():
                columns[name, "RMS O-B / error"] = ratio.reindex(times)
    return pd.DataFrame(columns, index=times)


# --- errors and drift -------------------------------------------------------------------------------------------------


def _errors(errors: pd.DataFrame) -> Figure | None:
    if errors.empty:
        return None
    runs = {kind: errors[errors["kind"] == kind] for kind in ("background", "analysis")}
    return figures.errors_over_time(runs, from_zero=False)


def drift_rows(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the error of the newest verified forecast by headline channel and lead, beside those of earlier starts.

    A row has `channel`, `unit`, `lead`, `start`, `now`, `usual` (the median of earlier starts, NaN where fewer than
    five say), `strength` (in standard deviations of its logarithm) and `level`, `bad` where it is unusually large:
    beyond the limit of the alerts.
    """
    rows = []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        for lead in LEADS:
            series = _by_start(scores, channel, lead)
            if series.empty:
                continue
            past, strength = usual.newest_of_errors(series)
            rows.append(
                {
                    "channel": channel,
                    "unit": unit,
                    "lead": lead,
                    "start": series.index[-1],
                    "now": factor * float(series.iloc[-1]),
                    "usual": factor * past,
                    "strength": strength,
                    "level": "bad" if strength > usual.LIMIT else "",
                }
            )
    return rows


def _by_start(scores: pd.DataFrame, channel: str, lead: int) -> pd.Series:
    """Return the RMSE of the forecasts from the analyses by start, SI."""
    if scores.empty:
        return pd.Series(dtype=float)
    own = scores[(scores["kind"] == "analysis") & (scores["channel"] == channel) & (scores["lead"] == lead)]
    rmse: pd.Series = np.sqrt(own.set_index("start")["mse"].astype(float).sort_index())
    return rmse[rmse > 0]


def _drift(scores: pd.DataFrame) -> Figure | None:
    charts = []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        of_leads = {lead: _by_start(scores, channel, lead) for lead in LEADS}
        lines = [
            Line(f"day {lead // 24}", series.index, factor * series.to_numpy(), _SHADES[lead])
            for lead, series in of_leads.items()
            if len(series)
        ]
        if lines:
            charts.append(Chart(f"{channel} ({unit})", lines, from_zero=True))
    return Figure("Forecast error by start", charts, x_name="start") if charts else None


def _spread(records: Sequence[CycleRecord]) -> Figure | None:
    """Draw the members' spread of background and analysis; None where the run has no members."""
    known = [record for record in records if record.background_spread]
    if not known:
        return None
    times = pd.DatetimeIndex([record.time for record in known])
    charts = []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        lines = []
        for kind in ("background", "analysis"):
            values = [(getattr(record, f"{kind}_spread") or {}).get(channel, np.nan) for record in known]
            lines.append(Line(f"{kind}'s spread", times, factor * np.array(values, float), kind))
        charts.append(Chart(f"{channel} ({unit})", lines, size_=_SMALL, from_zero=True))
    return Figure("Spread of the members over time", charts, columns=4, x_name="time")
