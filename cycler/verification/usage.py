"""What became of a run's observations: of each site, and how departures are distributed.

Sums over cycles, made from one cycle's departures at a time, so that a year takes no more memory than a day. They are
kept in branches/NAME/verification/, and cycles that are new are added to them.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.archive.derived import read_tables, write_tables
from dacycle.cycler.verification.cycles import fingerprint
from dacycle.obs_ingest.table import VARIABLES

__all__ = ["BINS", "KINDS", "Usage", "departure_counts", "site_outcomes", "usage"]

KINDS: dict[str, tuple[str, ...]] = {
    "2-m temperature": ("t2m",),
    "2-m dewpoint": ("td2m",),
    "surface pressure": ("msl", "ps"),
    "10-m wind": ("u10", "v10"),
    "precipitation": ("tp",),
    "OLR": ("olr",),
    "height and temperature aloft": ("z", "t"),
    "wind aloft": ("u", "v"),
    "humidity aloft": ("q",),
}
"""Variables that one map shows together."""

BINS: NDArray = np.linspace(-5, 5, 41)
"""Edges of the histograms, in stated errors; what lies beyond counts in the outermost bins."""

_KIND_CODES = np.array([[v in own for own in KINDS.values()].index(True) for v in VARIABLES])
_WEIGHTS = {"": 1e9, "withheld_site": 1e8, "duplicate": 0.5}
"""What goes before the most frequent reason, and what after it."""
_OF = ("o_b", "o_a")
_FOLD = 32  # cycles whose tables are added up at once
_PLACE = ["source", "kind", "site", "outcome"]
_CLASS = ["source", "variable", "of", "bin"]


@dataclass(frozen=True)
class Usage:
    """Sums over the cycles of a run.

    Attributes:
        sites: source, kind (of `KINDS`), site, outcome -> cycles; and the site's station, latitude, longitude. Every
            cycle in which a site reported has one outcome: `assimilated` if any of its values was, else
            `withheld_site` if any was withheld, else the most frequent reason (`duplicate` only if there is no other).
        departures: source, variable, of (`o_b`, `o_a`), bin (of `BINS`) -> count of assimilated values whose departure
            over their error lies there.
    """

    sites: pd.DataFrame
    departures: pd.DataFrame


def usage(branch: Branch) -> Usage:
    """Sum up every committed cycle of a branch.

    Raises:
        ArchiveError: a departure table is damaged.
    """
    wanted = {record.id: fingerprint([record]) for record in branch.records if record.departures is not None}
    folder = branch.folder / "verification"
    tables, known = read_tables(folder, ("sites", "histograms"))
    if not known.items() <= wanted.items():  # cycles in the sums have been run anew: they cannot be taken out
        known = {}
    sites, counts = ([tables[name]] if known else [] for name in ("sites", "histograms"))
    due = [pd.Timestamp(name) for name in wanted if name not in known]
    for number, (_, table) in enumerate(branch.each_departures(due), start=1):
        sites.append(site_outcomes(table))
        counts.append(departure_counts(table))
        if number % _FOLD == 0 or number == len(due):
            sites, counts = [_add(sites, _PLACE, "cycles")], [_add(counts, _CLASS, "count")]
    if due:
        write_tables(folder, {"sites": sites[0], "histograms": counts[0]}, wanted)
    return Usage(sites[0], counts[0])


def _add(tables: list[pd.DataFrame], by: list[str], summed: str) -> pd.DataFrame:
    """One table with the sums of a column; of the others the first value."""
    joined = pd.concat(tables, ignore_index=True)
    rest = {name: "first" for name in joined if name not in (*by, summed)}
    return joined.groupby(by, as_index=False).agg({**rest, summed: "sum"})


def site_outcomes(departures: pd.DataFrame) -> pd.DataFrame:
    """`Usage.sites` of one cycle's departures."""
    source, site, variable, reason = (departures[name].array for name in ("source", "site", "variable", "reason"))
    shape = (len(source.categories), len(KINDS), len(site.categories))
    place = np.ravel_multi_index((source.codes, _KIND_CODES[variable.codes], site.codes), shape)
    distinct, first, back = np.unique(place, return_index=True, return_inverse=True)
    reasons = list(reason.categories)
    counts = np.zeros((len(distinct), len(reasons)))
    np.add.at(counts, (back, reason.codes), 1)
    for name, weight in _WEIGHTS.items():
        counts[:, reasons.index(name)] = np.sign(counts[:, reasons.index(name)]) * weight
    sources, kinds, _ = np.unravel_index(distinct, shape)
    names = np.array(["assimilated" if name == "" else name for name in reasons])
    own = departures.iloc[first]
    return pd.DataFrame(
        {
            "source": source.categories.to_numpy(str)[sources],
            "kind": np.array(list(KINDS))[kinds],
            "site": own["site"].to_numpy(str),
            "outcome": names[counts.argmax(axis=1)],
            "station": own["station"].to_numpy(str),
            "latitude": own["latitude"].to_numpy(),
            "longitude": own["longitude"].to_numpy(),
            "cycles": 1,
        }
    )


def departure_counts(departures: pd.DataFrame) -> pd.DataFrame:
    """`Usage.departures` of one cycle's departures."""
    used = (departures["use"] == "assimilated") & np.isfinite(departures["o_b"] + departures["o_a"])
    own = departures[used.to_numpy()]
    source, variable = own["source"].array, own["variable"].array
    counts = np.zeros((len(source.categories), len(variable.categories), 2, len(BINS) - 1), int)
    for i, of in enumerate(_OF):
        place = np.searchsorted(BINS, own[of].to_numpy() / own["error"].to_numpy(), side="right") - 1
        np.add.at(counts, (source.codes, variable.codes, i, np.clip(place, 0, len(BINS) - 2)), 1)
    sources, variables, kinds, bins = np.nonzero(counts)
    names = {"source": source.categories.to_numpy(str)[sources], "variable": np.array(VARIABLES)[variables]}
    return pd.DataFrame({**names, "of": np.array(_OF)[kinds], "bin": bins, "count": counts[counts > 0]})
