"""Sum up how a run used its observations: the outcome at each site, and histograms of departures.

The sums are made from one cycle's departures at a time, so that a year takes no more memory than a day. They are stored
in branches/NAME/verification/, and new cycles are added to them.
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
"""Kinds of observations, each shown on one map: name -> variables."""

BINS: NDArray = np.linspace(-5, 5, 41)
"""Edges of the histograms, in stated errors; values beyond them count in the outermost bins."""

_KIND_CODES = np.array([[v in variables for variables in KINDS.values()].index(True) for v in VARIABLES])
_WEIGHTS = {"": 1e9, "withheld_site": 1e8, "withheld_region": 1e7, "duplicate": 0.5}
"""Weights that rank these outcomes before, or after, the most frequent reason."""
_DEPARTURES = ("o_b", "o_a")
_FOLD = 32  # number of cycles whose tables are added up at once
_SITE_KEY = ["source", "kind", "site", "outcome"]
_BIN_KEY = ["source", "variable", "of", "bin"]


@dataclass(frozen=True)
class Usage:
    """Hold the sums over the cycles of a run.

    Attributes:
        sites: source, kind (of `KINDS`), site, outcome -> `cycles`; with the site's station, latitude, longitude. A
            site has one outcome in every cycle in which it reported: `assimilated` if any of its values was
            assimilated, else `withheld_site` or `withheld_region` if any was withheld, else the most frequent reason
            (`duplicate` only if there is no other).
        departures: source, variable, of (`o_b`, `o_a`), bin (of `BINS`) -> `count` of the assimilated values whose
            departure, divided by the stated error, lies in the bin.
    """

    sites: pd.DataFrame
    departures: pd.DataFrame


def usage(branch: Branch) -> Usage:
    """Sum up every committed cycle of a branch.

    Raises:
        ArchiveError: a departure table is damaged.
    """
    keys = {record.id: fingerprint([record]) for record in branch.records if record.departures is not None}
    folder = branch.folder / "verification"
    tables, stored_keys = read_tables(folder, ("sites", "histograms"))
    if not stored_keys.items() <= keys.items():  # cycles in the sums were run again, and cannot be subtracted
        stored_keys = {}
    sites, counts = ([tables[name]] if stored_keys else [] for name in ("sites", "histograms"))
    due = [pd.Timestamp(cycle) for cycle in keys if cycle not in stored_keys]
    for number, (_, table) in enumerate(branch.each_departures(due), start=1):
        sites.append(site_outcomes(table))
        counts.append(departure_counts(table))
        if number % _FOLD == 0 or number == len(due):
            sites, counts = [_add(sites, _SITE_KEY, "cycles")], [_add(counts, _BIN_KEY, "count")]
    if due:
        write_tables(folder, {"sites": sites[0], "histograms": counts[0]}, keys)
    return Usage(sites[0], counts[0])


def _add(tables: list[pd.DataFrame], by: list[str], summed: str) -> pd.DataFrame:
    """Join tables and sum one column by a key; other columns keep their first value."""
    joined = pd.concat(tables, ignore_index=True)
    rest = {name: "first" for name in joined if name not in (*by, summed)}
    return joined.groupby(by, as_index=False).agg({**rest, summed: "sum"})


def site_outcomes(departures: pd.DataFrame) -> pd.DataFrame:
    """Return `Usage.sites` of one cycle's departures."""
    source, site, variable, reason = (departures[name].array for name in ("source", "site", "variable", "reason"))
    shape = (len(source.categories), len(KINDS), len(site.categories))
    keys = np.ravel_multi_index((source.codes, _KIND_CODES[variable.codes], site.codes), shape)
    distinct, first, group = np.unique(keys, return_index=True, return_inverse=True)
    reasons = list(reason.categories)
    counts = np.zeros((len(distinct), len(reasons)))
    np.add.at(counts, (group, reason.codes), 1)
    for name, weight in _WEIGHTS.items():
        counts[:, reasons.index(name)] = np.sign(counts[:, reasons.index(name)]) * weight
    sources, kinds, _ = np.unravel_index(distinct, shape)
    names = np.array(["assimilated" if name == "" else name for name in reasons])
    first_rows = departures.iloc[first]
    return pd.DataFrame(
        {
            "source": source.categories.to_numpy(str)[sources],
            "kind": np.array(list(KINDS))[kinds],
            "site": first_rows["site"].to_numpy(str),
            "outcome": names[counts.argmax(axis=1)],
            "station": first_rows["station"].to_numpy(str),
            "latitude": first_rows["latitude"].to_numpy(),
            "longitude": first_rows["longitude"].to_numpy(),
            "cycles": 1,
        }
    )


def departure_counts(departures: pd.DataFrame) -> pd.DataFrame:
    """Return `Usage.departures` of one cycle's departures."""
    used = (departures["use"] == "assimilated") & np.isfinite(departures["o_b"] + departures["o_a"])
    rows = departures[used.to_numpy()]
    source, variable = rows["source"].array, rows["variable"].array
    counts = np.zeros((len(source.categories), len(variable.categories), 2, len(BINS) - 1), int)
    for i, of in enumerate(_DEPARTURES):
        bins = np.searchsorted(BINS, rows[of].to_numpy() / rows["error"].to_numpy(), side="right") - 1
        np.add.at(counts, (source.codes, variable.codes, i, np.clip(bins, 0, len(BINS) - 2)), 1)
    sources, variables, departure_kinds, bins = np.nonzero(counts)
    names = {"source": source.categories.to_numpy(str)[sources], "variable": np.array(VARIABLES)[variables]}
    return pd.DataFrame(
        {**names, "of": np.array(_DEPARTURES)[departure_kinds], "bin": bins, "count": counts[counts > 0]}
    )
