"""Answer "is it well?" for the first screen of a report: schedule, last cycle, sources, what needs attention.

What needs attention is decided by `verification.attention`, as for alerts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.report import style
from dacycle.cycler.report.observations import BY_DESIGN, plain_station
from dacycle.cycler.verification import usual
from dacycle.cycler.verification.attention import LATE, Condition, Schedule

__all__ = ["Finding", "attention", "last_counts", "source_rows", "station_rows"]

STATIONS = 12
"""Rows of the list of stations."""


@dataclass(frozen=True)
class Finding:
    """Hold one thing to look at: `level` is `bad` or `warn`."""

    level: str
    text: str


def last_counts(record: CycleRecord, fits: pd.DataFrame) -> dict[str, Any]:
    """Return the values of a cycle by use, and the RMS of O-B and O-A of those assimilated, in stated errors."""
    own = fits[fits["time"] == record.time]
    counts = own.groupby("use")["count"].sum()
    row: dict[str, Any] = {use: int(counts.get(use, 0)) for use in style.USES}
    return row | {"o_b": _rms(own, "o_b"), "o_a": _rms(own, "o_a")}


def source_rows(records: Sequence[CycleRecord], fits: pd.DataFrame, found: Sequence[Condition]) -> list[dict[str, Any]]:
    """Return a row per source: what it had in the last cycle, and what is usual for it at that hour.

    A row has `source`, `decoded`, `missing`, `late`, `latency`, `assimilated`, `rejected`, `o_b` (RMS in stated
    errors), `usual_decoded`, `usual_late`, `usual_assimilated`, `usual_o_b` (NaN where too few earlier cycles say), and
    `remarks`, words such as `silent` for what is in `found`; none where all is as usual.
    """
    last = records[-1]
    before = [r for r in records[:-1] if r.time.hour == last.time.hour][-usual.PAST :]
    names = dict.fromkeys(name for record in (last, *before) for name in record.sources)
    rows = [_source_row(name, last, before, fits) for name in names]
    for row in rows:
        start = f"source {row['source']} "
        row["remarks"] = [c.key.removeprefix(start) for c in found if c.key.startswith(start)]
    return rows


def _source_row(name: str, last: CycleRecord, before: Sequence[CycleRecord], fits: pd.DataFrame) -> dict[str, Any]:
    entry = last.sources.get(name)
    past = [record.sources[name] for record in before if name in record.sources]
    own, times = fits[(fits["source"] == name) & (fits["use"] == "assimilated")], [record.time for record in before]
    counts, ratios = own.groupby("time")["count"].sum(), _ratios(own)
    values = fits[(fits["source"] == name) & (fits["time"] == last.time)].groupby("use")["count"].sum()
    return {
        "source": name,
        "decoded": 0 if entry is None else entry.decoded,
        "missing": 0 if entry is None else entry.missing,
        "late": 0 if entry is None else entry.late,
        "latency": np.nan if entry is None or entry.latency is None else entry.latency,
        "assimilated": int(values.get("assimilated", 0)),
        "rejected": int(values.get("rejected", 0)),
        "o_b": float(ratios.get(last.time, np.nan)),
        "usual_decoded": _median([item.decoded for item in past]),
        "usual_late": _median([item.late for item in past]),
        "usual_assimilated": _median(counts.reindex(times).fillna(0)) if past else np.nan,
        "usual_o_b": _median(ratios.reindex(times).dropna()),
    }


def _median(values: Sequence[float] | pd.Series) -> float:
    return float(np.median(values)) if len(values) >= usual.FEWEST else np.nan


def attention(records: Sequence[CycleRecord], plan: Schedule, found: Sequence[Condition]) -> list[Finding]:
    """Return what the report says needs attention, the worst first; nothing where the run is well."""
    findings = [] if plan.level == "good" else [Finding(plan.level, plan.text)]
    findings += [Finding(_LEVELS[c.severity], c.text) for c in found if c.key != LATE]
    recent = [record for record in records[-20:-1] if record.status != "ok"]
    if recent:
        ids = ", ".join(record.id for record in recent[-3:])
        findings.append(
            Finding("warn", f"{len(recent)} of the {len(records[-20:-1])} cycles before were not ok: {ids}")
        )
    return sorted(findings, key=lambda finding: finding.level)


_LEVELS = {"critical": "bad", "warning": "warn"}


def station_rows(departures: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the stations with the largest O-B of a cycle, in stated errors: one row for each, with its worst value.

    Values that the experiment never uses, whatever they are, are left out.
    """
    kept = np.isfinite(departures["o_b"]) & ~departures["reason"].isin(BY_DESIGN - {"withheld_site", "withheld_region"})
    rows = departures[kept.to_numpy()]
    rows = rows.assign(ratio=(rows["o_b"].astype(float) / rows["error"].astype(float)).abs())
    rows = rows.sort_values("ratio", ascending=False, kind="stable")
    rows = rows.drop_duplicates(["source", "station", "site"]).head(STATIONS)
    listed = []
    for row in rows.to_dict("records"):
        factor, unit = style.readable_variable(str(row["variable"]))
        level = "" if not np.isfinite(row["pressure"]) else f" at {row['pressure'] / 100:.0f} hPa"
        listed.append(
            {
                "name": str(row["station"]),
                "station": plain_station(str(row["station"])) or str(row["site"]),
                "source": str(row["source"]),
                "latitude": float(row["latitude"]),
                "longitude": (float(row["longitude"]) + 180) % 360 - 180,
                "variable": f"{row['variable']}{level}",
                "o_b": factor * float(row["o_b"]),
                "unit": unit,
                "ratio": float(row["ratio"]),
                "use": str(row["reason"] or row["use"]).replace("_", " "),
            }
        )
    return listed


def _ratios(used: pd.DataFrame) -> pd.Series:
    """Return the RMS of O-B in stated errors by cycle."""
    sums = used.groupby("time")[["compared", "o_b_in_errors_squared"]].sum()
    sums = sums[sums["compared"] > 0]
    return np.sqrt((sums["o_b_in_errors_squared"] / sums["compared"]).astype(float))


def _rms(own: pd.DataFrame, of: str) -> float:
    used = own[own["use"] == "assimilated"]
    compared = used["compared"].sum()
    return float(np.sqrt(used[f"{of}_in_errors_squared"].sum() / compared)) if compared else np.nan
