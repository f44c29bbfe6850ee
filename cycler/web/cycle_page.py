"""What the page of one cycle shows: its record, its files, its departures and its increments."""

from typing import Any

import numpy as np
import pandas as pd

from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.operations.audit import audit
from dacycle.cycler.report import health, maps, observation_figures, observations, style, tables
from dacycle.cycler.verification.cycles import fit_table
from dacycle.cycler.web.parts import attempt
from dacycle.cycler.web.runs import Run
from dacycle.forecast_adapter.channels import HEADLINE

__all__ = ["cycle_content"]


def cycle_content(run: Run, time: pd.Timestamp, read_files: bool = False) -> dict[str, Any]:
    """Return the content of the page; a part that cannot be read has `trouble`, a sentence.

    Args:
        run: the experiment.
        time: of the cycle.
        read_files: read the files of its sources again, to see whether they are the same.

    Raises:
        ArchiveError: there is no such cycle; the message says which there are.
    """
    record = run.record(time)
    before, after = (_neighbour(run, time + pd.Timedelta(hours=hours)) for hours in (-6, 6))
    return {
        "experiment": run.experiment,
        "record": record,
        "before": before,
        "after": after,
        "seconds": attempt(lambda: {"of": run.seconds(record)}),
        "audit": attempt(lambda: {"found": audit(run.archive, run.name, time, read_files)}),
        "read_files": read_files,
        "observations": attempt(lambda: _observations(run, record)),
        "increments": _increments(record),
        "maps": attempt(lambda: _maps(run, record)),
    }


def _neighbour(run: Run, time: pd.Timestamp) -> str | None:
    records = run.records
    there = records[0].time <= time <= records[-1].time
    return f"{time:%Y%m%dT%H}" if there else None


def _observations(run: Run, record: CycleRecord) -> dict[str, Any]:
    """Return tables, maps and the stations with a large O-B; all empty where the cycle had no observations."""
    tables_of = [table for _, table in run.branch.departures_between(record.time, record.time)]
    if not tables_of or tables_of[0].empty:
        return {"rows": [], "reasons": [], "reason_rows": [], "maps": None, "stations": []}
    departures = tables_of[0]
    fits = fit_table(record.time, departures)
    reasons, reason_rows = observations.reason_rows(fits)
    never = observations.BY_DESIGN - {"withheld_site", "withheld_region"}
    return {
        "rows": tables.departure_rows(fits),
        "reasons": reasons,
        "reason_rows": reason_rows,
        "maps": observation_figures.departure_maps(departures[~departures["reason"].isin(never)]),
        "stations": health.station_rows(departures),
    }


def _increments(record: CycleRecord) -> list[dict[str, Any]]:
    """Return the size of the increment by headline channel, and the members' spread where there is one."""
    rows = []
    for channel in HEADLINE:
        if channel in record.increment_rms:
            factor, unit = style.readable(channel)
            spreads = (record.background_spread or {}, record.analysis_spread or {})
            background, analysis = (factor * spread.get(channel, np.nan) for spread in spreads)
            rms, largest = factor * record.increment_rms[channel], factor * record.increment_max.get(channel, np.nan)
            row = {"channel": channel, "unit": unit, "rms": rms, "max": largest}
            rows.append(row | {"background_spread": background, "analysis_spread": analysis})
    return rows


def _maps(run: Run, record: CycleRecord) -> dict[str, Any]:
    background, analysis = (
        run.branch.headline_fields(kind, record.time).astype(float) for kind in ("background", "analysis")
    )
    grid = run.branch.grid
    return {
        "weather": maps.weather_maps(analysis, analysis - background, grid),
        "increments": maps.increments_of_cycle(analysis - background, grid),
    }
