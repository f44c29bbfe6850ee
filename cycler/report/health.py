"""Answer "is it well?" for the first screen of a report: schedule, last cycle, sources, what needs attention.

The last cycle is compared with the run's own earlier cycles at the same hour of the day, as sondes and many stations
report at some hours only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.experiment import STEP, Experiment, cycle_id
from dacycle.cycler.report import style
from dacycle.cycler.report.observations import BY_DESIGN, plain_station

__all__ = ["Finding", "Schedule", "attention", "last_counts", "schedule", "source_rows", "station_rows"]

PAST = 5
"""Least number of earlier cycles at the same hour that say what is usual."""
LATEST = 60
"""Most of them that are used: a run changes with the seasons."""
FEW = 0.5
"""A source has few values if it has less than this share of what is usual."""
HIGH = 1.2
"""Departures are high if they exceed this multiple of what is usual, and every earlier value."""
SLACK = pd.Timedelta(minutes=30)
"""A live cycle counts as behind once it has not been there for this long after its last cutoff."""
STATIONS = 12
"""Rows of the list of stations."""


@dataclass(frozen=True)
class Finding:
    """Hold one thing to look at: `level` is `bad` or `warn`."""

    level: str
    text: str


@dataclass(frozen=True)
class Schedule:
    """Hold how a run stands: `short` for a glance, `text` in a sentence; `level` is `good`, `warn` or `bad`."""

    level: str
    short: str
    text: str


def schedule(experiment: Experiment, last: pd.Timestamp, now: pd.Timestamp) -> Schedule:
    """Return how far a run is: a replay towards its end, a live run against the clock (`now`, UTC)."""
    following = last + STEP
    if experiment.end is not None and following > experiment.end:
        return Schedule("good", "complete", f"the run is complete, {cycle_id(last)} is its end")
    if experiment.end is not None:
        left = int((experiment.end - last) / STEP)
        text = f"{left} cycles are left until {cycle_id(experiment.end)}; the same `dacycle hindcast` goes on"
        return Schedule("warn", f"{left} cycles left", text)
    ready = following + experiment.wait
    if now < ready:
        return Schedule("good", "up to date", f"the next cycle, {cycle_id(following)}, is due in {_span(ready - now)}")
    behind = int((now - experiment.wait - last) / STEP)
    text = f"{cycle_id(following)} has been due for {_span(now - ready)}"
    if now < ready + SLACK:
        return Schedule("good", "due now", text)
    cycles = "cycle" if behind == 1 else "cycles"
    return Schedule("bad", f"{behind} {cycles} behind", f"{text}; `dacycle serve` or `dacycle cycle` runs it")


def last_counts(record: CycleRecord, fits: pd.DataFrame) -> dict[str, Any]:
    """Return the values of a cycle by use, and the RMS of O-B and O-A of those assimilated, in stated errors."""
    own = fits[fits["time"] == record.time]
    counts = own.groupby("use")["count"].sum()
    row: dict[str, Any] = {use: int(counts.get(use, 0)) for use in style.USES}
    return row | {"o_b": _rms(own, "o_b"), "o_a": _rms(own, "o_a")}


def source_rows(records: Sequence[CycleRecord], fits: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row per source: what it had in the last cycle, and what is usual for it at that hour.

    A row has `source`, `decoded`, `missing`, `late`, `latency`, `assimilated`, `rejected`, `o_b` (RMS in stated
    errors), `usual_decoded`, `usual_assimilated`, `usual_o_b`, `highest_o_b` (NaN where there are fewer than `PAST`
    earlier cycles), and `findings`, a list of words; none where all is as usual.
    """
    last = records[-1]
    before = [r for r in records[:-1] if r.time.hour == last.time.hour][-LATEST:]
    names = dict.fromkeys(name for record in (last, *before) for name in record.sources)
    used = fits[fits["use"] == "assimilated"]
    return [_source_row(name, last, before, used, fits) for name in names]


def _source_row(
    name: str, last: CycleRecord, before: Sequence[CycleRecord], used: pd.DataFrame, fits: pd.DataFrame
) -> dict[str, Any]:
    entry = last.sources.get(name)
    past = [record.sources[name] for record in before if name in record.sources]
    known = len(past) >= PAST
    own, times = used[used["source"] == name], [record.time for record in before]
    counts = own.groupby("time")["count"].sum()
    values = fits[(fits["source"] == name) & (fits["time"] == last.time)].groupby("use")["count"].sum()
    ratios = _ratios(own)
    earlier = ratios.reindex(times).dropna()
    row: dict[str, Any] = {
        "source": name,
        "decoded": 0 if entry is None else entry.decoded,
        "missing": 0 if entry is None else entry.missing,
        "late": 0 if entry is None else entry.late,
        "latency": np.nan if entry is None or entry.latency is None else entry.latency,
        "assimilated": int(values.get("assimilated", 0)),
        "rejected": int(values.get("rejected", 0)),
        "o_b": float(ratios.get(last.time, np.nan)),
        "usual_decoded": float(np.median([item.decoded for item in past])) if known else np.nan,
        "usual_late": float(np.median([item.late for item in past])) if known else np.nan,
        "usual_assimilated": float(counts.reindex(times).fillna(0).median()) if known else np.nan,
        "usual_o_b": float(earlier.median()) if len(earlier) >= PAST else np.nan,
        "highest_o_b": float(earlier.max()) if len(earlier) >= PAST else np.nan,
    }
    return row | {"findings": _words(row, known, any(item.decoded for item in past))}


def _words(row: dict[str, Any], known: bool, ever: bool) -> list[str]:
    words = []
    usual = row["usual_decoded"]
    if row["decoded"] == 0 and (usual > 0 or (not known and ever)):
        words.append("silent")
    elif known and row["decoded"] < FEW * usual:
        words.append("few reports")
    elif known and row["assimilated"] < FEW * row["usual_assimilated"]:
        words.append("few values used")
    if known and row["late"] > max(2 * row["usual_late"], 0.1 * usual):
        words.append("late")
    if row["o_b"] > max(HIGH * row["usual_o_b"], row["highest_o_b"]):
        words.append("O-B high")
    return words


def attention(records: Sequence[CycleRecord], plan: Schedule, sources: Sequence[dict[str, Any]]) -> list[Finding]:
    """Return what needs attention, the worst first; nothing where the run is well."""
    last, found = records[-1], []
    if plan.level != "good":
        found.append(Finding(plan.level, plan.text))
    if last.status == "fallback":
        count = next((i for i, r in enumerate(reversed(records)) if r.status != "fallback"), len(records))
        times = "" if count == 1 else f" ({count} cycles in a row)"
        found.append(Finding("bad", f"{last.id} kept its background as the analysis{times}: {last.reason}"))
    elif last.status != "ok":
        found.append(Finding("warn", f"{last.id} is {last.status}: {last.reason}"))
    for row in sources:
        found += [
            Finding("bad" if word == "silent" else "warn", f"source {row['source']}: {_said(word, row)}")
            for word in row["findings"]
        ]
    for name, entry in last.sources.items():
        if entry.problems:
            more = f", and {len(entry.problems) - 1} more" if len(entry.problems) > 1 else ""
            found.append(Finding("warn", f"source {name} could not be read whole: {entry.problems[0]}{more}"))
    recent = [record for record in records[-20:-1] if record.status != "ok"]
    if recent:
        ids = ", ".join(record.id for record in recent[-3:])
        found.append(Finding("warn", f"{len(recent)} of the {len(records[-20:-1])} cycles before were not ok: {ids}"))
    return sorted(found, key=lambda finding: finding.level)


def _said(word: str, row: dict[str, Any]) -> str:
    usual = f"{row['usual_decoded']:,.0f} are usual at this hour"
    if word == "silent":
        return "silent in the last cycle" + (f"; {usual}" if np.isfinite(row["usual_decoded"]) else "")
    if word == "few reports":
        return f"{row['decoded']:,} reports; {usual}"
    if word == "few values used":
        return f"{row['assimilated']:,} values used; {row['usual_assimilated']:,.0f} are usual at this hour"
    if word == "late":
        return f"{row['late']:,} values came after the cutoff; {row['usual_late']:,.0f} are usual at this hour"
    return (
        f"O-B is {row['o_b']:.2f} stated errors; {row['usual_o_b']:.2f} is usual at this hour, "
        f"{row['highest_o_b']:.2f} was the highest"
    )


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


def _span(span: pd.Timedelta) -> str:
    hours = span.total_seconds() / 3600
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
