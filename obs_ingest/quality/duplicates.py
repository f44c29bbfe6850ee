"""Reports that another one of the same place, or of the same moving platform, makes superfluous."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["duplicates"]

SAME_STATION = 1.5
"""Degrees of latitude, and of longitude at the equator: reports of one name that are farther apart are of two stations.
In half a window a fast ship moves by a degree."""


def duplicates(table: pd.DataFrame, distance: NDArray, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return all reports (n,) of a site, variable, pressure and period but the nearest to t.

    Of equally near ones of a source the one received last counts, because it may be a correction; of other equals the
    first. A platform that moves has a site for each report: at the surface the same holds for all reports of a station
    of one name within `SAME_STATION` of the nearest one.
    """
    rows = np.nonzero(candidates)[0]
    pressure, source = table["pressure"].to_numpy()[rows], table["source"].array.codes[rows]
    latitude, longitude = table["latitude"].to_numpy()[rows], table["longitude"].to_numpy()[rows]
    received = table["received"].to_numpy()[rows]
    earliness = np.where(np.isnat(received), 0, -received.astype("datetime64[s]").astype(np.int64))
    quantity = _quantities(table, rows, pressure)
    superfluous = np.zeros(len(table), bool)
    for place in ("site", "station"):
        of_a = table[place].array.codes[rows].astype(np.int64) * (quantity.max(initial=0) + 1) + quantity
        order, first = _reports_of_a(of_a, (earliness, source, distance[rows]))
        others = order != first
        if place == "station":
            north = abs(latitude[order] - latitude[first])
            east = abs((longitude[order] - longitude[first] + 180) % 360 - 180) * np.cos(np.deg2rad(latitude[order]))
            others &= (north < SAME_STATION) & (east < SAME_STATION) & np.isnan(pressure[order])
        superfluous[rows[order[others]]] = True
    return superfluous


def _quantities(table: pd.DataFrame, rows: NDArray[np.intp], pressure: NDArray) -> NDArray[np.int64]:
    """Return a number (m,) for each variable, pressure and period of some rows."""
    quantity = table["variable"].array.codes[rows].astype(np.int64)
    for numbers in (np.nan_to_num(pressure), table["period"].to_numpy()[rows]):
        codes, found = pd.factorize(numbers)
        quantity = quantity * len(found) + codes
    return quantity


def _reports_of_a(key: NDArray[np.int64], preference: tuple[NDArray, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows whose place and quantity another row has too, in order, and for each the one that counts.

    Args:
        key: (m,) the same number for the same place and quantity.
        preference: arrays (m,) to sort by, the most important last.
    """
    codes, _ = pd.factorize(key)
    several = np.nonzero(np.bincount(codes)[codes] > 1)[0]
    order = several[np.lexsort((*(values[several] for values in preference), codes[several]))]
    new = np.ones(len(order), bool)
    new[1:] = np.diff(codes[order]) != 0
    return order, order[np.nonzero(new)[0][np.cumsum(new) - 1]]
