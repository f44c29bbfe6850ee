"""Reports that another one of the same place, or of the same moving platform, makes superfluous."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.obs_ingest.table import VARIABLES

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
    received, source = table["received"].to_numpy()[rows], table["source"].array.codes[rows]
    earliness = np.where(np.isnat(received), 0, -received.astype("datetime64[s]").astype(np.int64))
    superfluous = np.zeros(len(table), bool)
    for place in ("site", "station"):
        order, first = _reports_of_a(place, table, rows, (earliness, source, distance[rows]))
        others = order != first
        if place == "station":
            latitude, longitude = table["latitude"].to_numpy()[rows], table["longitude"].to_numpy()[rows]
            north = abs(latitude[order] - latitude[first])
            east = abs((longitude[order] - longitude[first] + 180) % 360 - 180) * np.cos(np.deg2rad(latitude[order]))
            others &= (
                (north < SAME_STATION) & (east < SAME_STATION) & np.isnan(table["pressure"].to_numpy()[rows][order])
            )
        superfluous[rows[order[others]]] = True
    return superfluous


def _reports_of_a(
    place: str, table: pd.DataFrame, rows: NDArray[np.intp], preference: tuple[NDArray, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return an order (m,) of the rows, and for each in that order the one that counts of its place and quantity.

    Args:
        place: `site` or `station`.
        table: n rows.
        rows: (m,) the candidates.
        preference: arrays (m,) to sort by, the most important last.
    """
    pressure = np.nan_to_num(table["pressure"].to_numpy()[rows])
    named, variable = table[place].array.codes[rows], table["variable"].array.codes[rows]
    period = table["period"].to_numpy()[rows]
    quantity = named.astype(np.int64) * len(VARIABLES) + variable
    order = np.lexsort((*preference, period, pressure, quantity))
    new = np.ones(len(rows), bool)
    new[1:] = (np.diff(quantity[order]) != 0) | (np.diff(pressure[order]) != 0) | (np.diff(period[order]) != 0)
    return order, order[np.nonzero(new)[0][np.cumsum(new) - 1]]
