"""What the pages show, as plain values for programs: times in ISO 8601, null where there is no number."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from dacycle.common import clock
from dacycle.cycler.operations.audit import audit
from dacycle.cycler.report.health import source_rows
from dacycle.cycler.verification.attention import HISTORY, conditions
from dacycle.cycler.web.overview import overview, standing
from dacycle.cycler.web.parts import attempt
from dacycle.cycler.web.run_page import drift_rows
from dacycle.cycler.web.runs import Run, Runs
from dacycle.cycler.web.stations import station_content, stations_content

__all__ = ["cycle", "cycles", "experiment", "experiments", "plain", "station", "stations"]


def experiments(runs: Runs) -> list[dict[str, Any]]:
    """Return how each experiment stands; `trouble` says why one cannot be read, `alerts` why its alerts cannot."""
    return [_stands(row) for row in overview(runs)]


def _stands(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("trouble"):
        return {"name": row["name"], "trouble": row["trouble"]}
    kept = ("name", "assimilator", "model", "live", "cycles", "statuses", "critical", "warnings")
    newest, plan = row["newest"], row["plan"]
    return {
        **{name: row[name] for name in kept if name in row},
        **({"alerts": row["alerts"]} if row["alerts"]["trouble"] else {}),
        "newest": None if newest is None else {"cycle": newest.id, "status": newest.status, "reason": newest.reason},
        "schedule": None if plan is None else asdict(plan),
    }


def experiment(run: Run) -> dict[str, Any]:
    """Return how an experiment stands, what its sources had in the newest cycle, its alerts, and its drift."""
    now = clock.now()
    content = {"name": run.name, **_stands(standing(run, now))}
    records = run.records[-HISTORY:]
    if not records:
        return content

    def sources() -> dict[str, Any]:
        fits = run.fits()
        found = conditions(run.experiment, records, fits, now)
        return {"conditions": [asdict(one) for one in found], "rows": source_rows(records, fits, found)}

    content["sources"] = attempt(sources)
    content["alerts"] = attempt(lambda: {"rows": [asdict(alert) for alert in run.alerts]})
    content["drift"] = attempt(lambda: {"rows": drift_rows(run.drift())})
    result: dict[str, Any] = plain(content)
    return result


def cycles(run: Run, last: int) -> list[dict[str, Any]]:
    """Return cycle, status, reason and counts by use of the newest cycles, in order."""
    return [
        {"cycle": record.id, "status": record.status, "reason": record.reason, "uses": dict(record.uses)}
        for record in run.records[-last:]
    ]


def cycle(run: Run, time: pd.Timestamp) -> dict[str, Any]:
    """Return the record of a cycle, and its audit without reading its files again."""
    record = run.record(time)
    made = attempt(lambda: asdict(audit(run.archive, run.name, time, read_files=False)))
    result: dict[str, Any] = plain({"record": record.as_dict(), "audit": made})
    return result


def stations(run: Run, search: str) -> list[dict[str, Any]]:
    """Return the stations of the newest cycles that a text finds."""
    rows: list[dict[str, Any]] = plain(stations_content(run, search)["rows"])
    return [{name: value for name, value in row.items() if name != "text"} for row in rows]


def station(run: Run, name: str, days: int) -> list[dict[str, Any]]:
    """Return every value of a station, the newest first, in the unit that each row names."""
    rows: list[dict[str, Any]] = plain(station_content(run, name, days)["rows"])
    return rows


def plain(value: Any) -> Any:
    """Return a value as JSON holds it."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    if isinstance(value, pd.Timedelta):
        return value.isoformat()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
