"""Tabulate a report's observations: found, unreadable, used, and not used with the reason."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.report import style
from dacycle.cycler.verification.consistency import consistency
from dacycle.cycler.verification.usage import KINDS
from dacycle.obs_ingest.table import REASONS, VARIABLES

__all__ = [
    "BY_DESIGN",
    "OFTEN",
    "by_variable",
    "consistency_rows",
    "inventories",
    "inventory_rows",
    "outcome_rows",
    "plain_station",
    "problem_rows",
    "reason_rows",
    "sites_by_outcome",
    "suspect_rows",
]

OFTEN = 0.1
"""A site is marked on a map if no value of it was used in at least this share of its cycles."""

MOST = 20
"""Most rows of a list of sites or of problems; the others are counted."""

_USED = ("assimilated", "withheld_site", "withheld_region")
BY_DESIGN = {*_USED, "denied", "blacklisted", "not_listed", "station_height", "no_operator"}
"""Outcomes that do not depend on the quality of a station's measurements."""

_NUMBERS = ("found", "decoded", "missing", "late")


def consistency_rows(fits: pd.DataFrame, records: Sequence[CycleRecord]) -> list[dict[str, Any]]:
    """Return the rows of `consistency`, with errors in readable units."""
    rows = consistency(fits, records).to_dict("records")
    for row in rows:
        factor, row["unit"] = style.readable_variable(str(row["variable"]))
        row |= {name: factor * row[name] for name in ("stated", "estimated", "background", "spread")}
        row["ratio"] = row["estimated"] / row["stated"]
    return [{str(name): value for name, value in row.items()} for row in rows]


# --- inventories ------------------------------------------------------------------------------------------------------


def inventories(records: Sequence[CycleRecord]) -> pd.DataFrame:
    """Return one row per cycle and source: found, decoded, missing, late, latency (minutes, NaN where unknown)."""
    rows = [
        {"time": record.time, "source": name, **{key: getattr(entry, key) for key in (*_NUMBERS, "latency")}}
        for record in records
        for name, entry in record.sources.items()
    ]
    return pd.DataFrame(rows, columns=["time", "source", *_NUMBERS, "latency"]).astype({"latency": float})


def inventory_rows(records: Sequence[CycleRecord]) -> list[dict[str, Any]]:
    """Return one row per source: cycles, empty cycles, sums, median latency, and the skipped reports by reason."""
    rows = []
    for name, entries in inventories(records).groupby("source", sort=False):
        skipped: dict[str, int] = {}
        for record in records:
            if name in record.sources:
                for reason, count in record.sources[name].skipped.items():
                    skipped[reason] = skipped.get(reason, 0) + count
        sums = {key: int(entries[key].sum()) for key in _NUMBERS}
        rows.append(
            {
                "source": name,
                "cycles": len(entries),
                "empty": int((entries["decoded"] == 0).sum()),
                **sums,
                "latency": float(entries["latency"].median()),
                "skipped": dict(sorted(skipped.items(), key=lambda item: -item[1])),
            }
        )
    return rows


def problem_rows(records: Sequence[CycleRecord]) -> tuple[list[dict[str, Any]], int]:
    """Return what could not be read (source, problem, first cycle, number of cycles), and how many rows are omitted."""
    times_of: dict[tuple[str, str], list[str]] = {}
    for record in records:
        for name, entry in record.sources.items():
            for problem in entry.problems:
                times_of.setdefault((name, problem), []).append(record.id)
    rows = [
        {"source": source, "problem": problem, "first": times[0], "cycles": len(set(times))}
        for (source, problem), times in times_of.items()
    ]
    return rows[:MOST], max(0, len(rows) - MOST)


# --- use and reason ---------------------------------------------------------------------------------------------------


def reason_rows(fits: pd.DataFrame) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the reasons that occur, and a row per source and variable: values, assimilated, and a count per reason."""
    present = set(fits["reason"])
    reasons = [name for name in REASONS if name and name in present]
    rows = []
    for (source, variable), sums in by_variable(fits):
        counts = sums.groupby("reason")["count"].sum()
        total, used = int(sums["count"].sum()), int(sums.loc[sums["use"] == "assimilated", "count"].sum())
        unused = [int(counts.get(name, 0)) for name in reasons]
        rows.append({"source": source, "variable": variable, "values": total, "assimilated": used, "reasons": unused})
    return reasons, rows


def by_variable(table: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Split a table by source and variable, variables in their usual order."""
    groups = [((str(s), str(v)), rows) for (s, v), rows in table.groupby(["source", "variable"], sort=False)]
    return sorted(groups, key=lambda group: (group[0][0], VARIABLES.index(group[0][1])))


def sites_by_outcome(sites: pd.DataFrame) -> pd.DataFrame:
    """Return a row per source, kind and site: station, latitude, longitude, `cycles`, `outcome`, `unused`.

    `unused` is the share of the cycles in which no value of the site was used. Where it is at least `OFTEN`, the
    outcome is the most frequent reason, else `assimilated`, `withheld_site` or `withheld_region`.

    Args:
        sites: of `usage.Usage`.
    """
    key = ["source", "kind", "site"]
    table = sites.assign(unused=sites["cycles"].where(~sites["outcome"].isin(_USED), 0))
    table[["cycles_in_all", "unused"]] = table.groupby(key)[["cycles", "unused"]].transform("sum")
    table["unused"] /= table["cycles_in_all"]
    # The outcome to show comes first: the most frequent of the reasons, or else of the uses.
    table["shown"] = (table["unused"] >= OFTEN) != table["outcome"].isin(_USED)
    ordered = table.sort_values(["shown", "cycles"], ascending=False, kind="stable").drop_duplicates(key)
    columns = [*key, "station", "latitude", "longitude", "outcome", "cycles_in_all", "unused"]
    return ordered.sort_values(key)[columns].rename(columns={"cycles_in_all": "cycles"}).reset_index(drop=True)


def outcome_rows(sites: pd.DataFrame) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the outcomes that occur, and a row per source and kind: number of sites, and sites per outcome.

    Args:
        sites: of `sites_by_outcome`.
    """
    present = set(sites["outcome"])
    outcomes = [name for name in dict.fromkeys((*_USED, *REASONS)) if name in present]
    rows = []
    for (source, kind), group in sites.groupby(["source", "kind"]):
        counts = group["outcome"].value_counts()
        per_outcome = [int(counts.get(name, 0)) for name in outcomes]
        rows.append({"source": source, "kind": kind, "sites": len(group), "counts": per_outcome})
    return outcomes, sorted(rows, key=lambda row: (row["source"], list(KINDS).index(row["kind"])))


def suspect_rows(sites: pd.DataFrame) -> tuple[list[dict[str, Any]], int]:
    """Return the stations whose values are most often not used, worst first, and the number of those left out.

    Sites are left out where a station list, their height or a setting of the experiment is the reason.

    Args:
        sites: of `sites_by_outcome`.
    """
    suspects = sites[(sites["unused"] >= OFTEN) & ~sites["outcome"].isin(BY_DESIGN)]
    suspects = suspects.sort_values(["unused", "cycles", "site"], ascending=[False, False, True])
    # A station has a row for each kind of its observations: the worst speaks for it, with the names of all.
    place = ["source", "station", "latitude", "longitude"]
    kinds = suspects.groupby(place, sort=False)["kind"].agg(", ".join)
    stations = suspects.drop_duplicates(place)
    rows = [
        {**row, "kind": kinds[tuple(row[name] for name in place)], "station": plain_station(str(row["station"]))}
        for row in stations.head(MOST).to_dict("records")
    ]
    return rows, max(0, len(stations) - MOST)


def plain_station(name: str) -> str:
    """Return the name by which people know a station: the last part of a WIGOS identifier such as `0-20000-0-10393`."""
    parts = name.split("-", 3)
    return parts[3] if len(parts) == 4 and all(part.isdigit() for part in parts[:3]) else name
