"""The numbers of a report's observations: what was found, what could not be read, what was used, what not and why."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.verification.usage import KINDS
from dacycle.obs_ingest.table import REASONS, VARIABLES

__all__ = [
    "OFTEN",
    "by_variable",
    "inventories",
    "inventory_rows",
    "outcome_rows",
    "places",
    "problem_rows",
    "reason_rows",
    "suspect_rows",
]

OFTEN = 0.1
"""A site stands out on a map if this share of its cycles, or more, went without any of its values."""

MOST = 20
"""Lists of sites and of problems end after so many; the rest is counted."""

_HELD = ("assimilated", "withheld_site")
_BY_DESIGN = {*_HELD, "denied", "blacklisted", "not_listed", "station_height", "no_operator"}
"""Outcomes that say nothing of whether a station measures well."""

_NUMBERS = ("found", "decoded", "missing", "late")


# --- inventories


def inventories(records: Sequence[CycleRecord]) -> pd.DataFrame:
    """One row per cycle and source: found, decoded, missing, late, latency (minutes, NaN where unknown)."""
    rows = [
        {"time": record.time, "source": name, **{key: getattr(entry, key) for key in (*_NUMBERS, "latency")}}
        for record in records
        for name, entry in record.sources.items()
    ]
    return pd.DataFrame(rows, columns=["time", "source", *_NUMBERS, "latency"]).astype({"latency": float})


def inventory_rows(records: Sequence[CycleRecord]) -> list[dict[str, Any]]:
    """One row per source: cycles, those without a report, sums over all, median latency, what was left out and why."""
    rows = []
    for name, own in inventories(records).groupby("source", sort=False):
        skipped: dict[str, int] = {}
        for record in records:
            if name in record.sources:
                for reason, count in record.sources[name].skipped.items():
                    skipped[reason] = skipped.get(reason, 0) + count
        sums = {key: int(own[key].sum()) for key in _NUMBERS}
        rows.append(
            {
                "source": name,
                "cycles": len(own),
                "empty": int((own["decoded"] == 0).sum()),
                **sums,
                "latency": float(own["latency"].median()),
                "skipped": dict(sorted(skipped.items(), key=lambda item: -item[1])),
            }
        )
    return rows


def problem_rows(records: Sequence[CycleRecord]) -> tuple[list[dict[str, Any]], int]:
    """What could not be read: source, text, in how many cycles, the first of them; and how many more rows there are."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in records:
        for name, entry in record.sources.items():
            for problem in entry.problems:
                found.setdefault((name, problem), []).append(record.id)
    rows = [
        {"source": source, "problem": problem, "first": times[0], "cycles": len(set(times))}
        for (source, problem), times in found.items()
    ]
    return rows[:MOST], max(0, len(rows) - MOST)


# --- use and reason


def reason_rows(fits: pd.DataFrame) -> tuple[list[str], list[dict[str, Any]]]:
    """The reasons that occur, and a row per source and variable: values, assimilated, and how many for each reason."""
    present = set(fits["reason"])
    reasons = [name for name in REASONS if name and name in present]
    rows = []
    for (source, variable), own in by_variable(fits):
        counts = own.groupby("reason")["count"].sum()
        total, used = int(own["count"].sum()), int(own.loc[own["use"] == "assimilated", "count"].sum())
        left = [int(counts.get(name, 0)) for name in reasons]
        rows.append({"source": source, "variable": variable, "values": total, "assimilated": used, "reasons": left})
    return reasons, rows


def by_variable(table: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Parts by source and variable, variables in their usual order."""
    parts = [((str(s), str(v)), own) for (s, v), own in table.groupby(["source", "variable"], sort=False)]
    return sorted(parts, key=lambda part: (part[0][0], VARIABLES.index(part[0][1])))


def places(sites: pd.DataFrame) -> pd.DataFrame:
    """A row per source, kind and site: station, latitude, longitude, `cycles`, outcome, `unused`.

    `unused` is the share of the cycles that went without the site's values; where it is at least `OFTEN` the outcome is
    their most frequent reason, else `assimilated` or `withheld_site`.

    Args:
        sites: of `usage.Usage`.
    """
    key = ["source", "kind", "site"]
    table = sites.assign(unused=sites["cycles"].where(~sites["outcome"].isin(_HELD), 0))
    table[["cycles_in_all", "unused"]] = table.groupby(key)[["cycles", "unused"]].transform("sum")
    table["unused"] /= table["cycles_in_all"]
    # First comes what the site is shown by: the more frequent of the reasons, or else of the uses.
    table["fitting"] = (table["unused"] >= OFTEN) != table["outcome"].isin(_HELD)
    ordered = table.sort_values(["fitting", "cycles"], ascending=False, kind="stable").drop_duplicates(key)
    kept = [*key, "station", "latitude", "longitude", "outcome", "cycles_in_all", "unused"]
    return ordered.sort_values(key)[kept].rename(columns={"cycles_in_all": "cycles"}).reset_index(drop=True)


def outcome_rows(shown: pd.DataFrame) -> tuple[list[str], list[dict[str, Any]]]:
    """The outcomes that occur, and a row per source and kind of `places`: sites, and how many have each outcome."""
    present = set(shown["outcome"])
    outcomes = [name for name in dict.fromkeys((*_HELD, *REASONS)) if name in present]
    rows = []
    for (source, kind), own in shown.groupby(["source", "kind"]):
        counts = own["outcome"].value_counts()
        each = [int(counts.get(name, 0)) for name in outcomes]
        rows.append({"source": source, "kind": kind, "sites": len(own), "counts": each})
    return outcomes, sorted(rows, key=lambda row: (row["source"], list(KINDS).index(row["kind"])))


def suspect_rows(shown: pd.DataFrame) -> tuple[list[dict[str, Any]], int]:
    """Of `places` those whose values checks object to most often, worst first; and how many more there are."""
    own = shown[(shown["unused"] >= OFTEN) & ~shown["outcome"].isin(_BY_DESIGN)]
    own = own.sort_values(["unused", "cycles", "site"], ascending=[False, False, True])
    return own.head(MOST).to_dict("records"), max(0, len(own) - MOST)
