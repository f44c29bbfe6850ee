"""Bias of single stations, from their departures in past cycles.

A mean departure O-B contains the bias of the model as well as the station's. Only the station's deviation is removed:
its mean minus the median of its neighbours' means, because a bias that neighbours share is more likely the model's. A
model error at one station alone (a valley, a coast) cannot be told from a bias of the station, and is removed with it.
A station without neighbours is not corrected. Withheld sites are neither corrected nor counted.

The deviation from n departures is multiplied by n / (n + n0), so that few departures remove little. The only input are
tables of departures, never a reference: a run that continues from its archive computes the same biases.
"""

from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dacycle.forecast_adapter.states.points import positions
from dacycle.obs_ingest.table import BIAS_COLUMN

__all__ = ["StationBias"]

_FEWEST, _MOST = 3, 20  # neighbours

Key = tuple[str, str, str]
Departures = Callable[[pd.Timestamp, pd.Timestamp], Iterable[tuple[pd.Timestamp, pd.DataFrame]]]


class StationBias:
    """Biases of the stations of one run, by source, site and variable.

    Args:
        variables: surface variables with an operator.
        memory: how long before the analysis time cycles count.
        n0: number of departures at which half of a deviation is removed. The best value is the variance of one
            departure over that of stations' biases: 9 for 1.5 and 0.5 K, and about twice that in practice, because
            departures of one station 6 h apart are not independent.
        radius_km: distance within which stations are neighbours; the 20 nearest count.
    """

    def __init__(self, variables: tuple[str, ...], memory: pd.Timedelta, n0: float, radius_km: float) -> None:
        self._variables, self._memory, self._n0, self._radius_km = variables, memory, n0, radius_km
        self._numbers: dict[Key, int] = {}
        self._positions: dict[int, tuple[float, float]] = {}
        self._past: deque[tuple[pd.Timestamp, NDArray[np.intp], NDArray]] = deque()

    def catch_up(self, time: pd.Timestamp, read: Departures) -> None:
        """Learn from the cycles before `time` that are new, and forget those older than the memory.

        Args:
            time: the analysis time.
            read: gives the time and departures of each cycle from one time to another, in order.
        """
        oldest, instant = time - self._memory, pd.Timedelta(seconds=1)
        for cycle, departures in read(self._past[-1][0] + instant if self._past else oldest, time - instant):
            self._learn(cycle, departures)
        while self._past and self._past[0][0] < oldest:
            self._past.popleft()

    def remove(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the table (n rows) with its station's bias subtracted from `value`, and with that bias as a column."""
        bias = np.zeros(len(table))
        rows = np.nonzero(self._corrected(table))[0]
        # In float32, as in the archive: value and bias are then those that it holds.
        numbers = [self._numbers.get(key, -1) for key in _keys(table.iloc[rows])]  # -1: a station without departures
        bias[rows] = np.append(self._biases(), 0.0).astype(np.float32)[numbers]
        return table.assign(**{"value": table["value"].to_numpy() - bias, BIAS_COLUMN: bias})

    def _learn(self, cycle: pd.Timestamp, departures: pd.DataFrame) -> None:
        """Add the departures of one cycle: those of the assimilated values as they were observed."""
        o_b = departures["o_b"].to_numpy(float)
        kept = self._corrected(departures) & (departures["use"] == "assimilated").to_numpy() & np.isfinite(o_b)
        rows = departures[kept]
        removed = rows[BIAS_COLUMN].to_numpy(float) if BIAS_COLUMN in rows else 0.0
        numbers = [self._numbers.setdefault(key, len(self._numbers)) for key in _keys(rows)]
        positions_of_rows = zip(rows["latitude"].tolist(), rows["longitude"].tolist(), strict=True)
        self._positions.update(zip(numbers, positions_of_rows, strict=True))
        self._past.append((cycle, np.array(numbers, np.intp), o_b[kept] + removed))

    def _corrected(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Return the rows (n,) of the variables that are corrected."""
        return table["variable"].isin(self._variables).to_numpy()

    def _biases(self) -> NDArray[np.float64]:
        """Return the bias to remove of each key, by its number."""
        bias = np.zeros(len(self._positions))
        if not self._past:
            return bias
        numbers, departures = (np.concatenate([cycle[i] for cycle in self._past]) for i in (1, 2))
        count = np.bincount(numbers, minlength=len(bias))
        mean = np.bincount(numbers, departures, len(bias)) / np.maximum(count, 1)
        for variable in self._variables:
            # Sorted by name, because the numbers follow the order in which stations came in this process.
            keys = sorted(key for key, i in self._numbers.items() if key[2] == variable and count[i])
            stations = np.array([self._numbers[key] for key in keys], np.intp)
            if len(stations) > _FEWEST:
                sites = np.unique([key[1] for key in keys], return_inverse=True)[1]
                anchor = self._anchors(stations, sites, mean[stations])
                weight = count[stations] / (count[stations] + self._n0)
                bias[stations] = np.where(np.isnan(anchor), 0.0, weight * (mean[stations] - anchor))
        return bias

    def _anchors(self, stations: NDArray[np.intp], sites: NDArray[np.intp], mean: NDArray) -> NDArray[np.float64]:
        """Return the median (m,) of the means at other sites within the radius; NaN where these are too few."""
        points = positions(*np.array([self._positions[i] for i in stations]).T)
        k = min(_MOST + 1, len(stations))
        distance, near = cKDTree(points).query(points, k=k, distance_upper_bound=self._radius_km)
        is_neighbour = np.isfinite(distance)
        near[~is_neighbour] = 0
        is_neighbour &= sites[near] != sites[:, None]
        values = np.where(is_neighbour, mean[near], np.nan)
        enough = is_neighbour.sum(axis=1) >= _FEWEST
        anchor = np.full(len(stations), np.nan)
        anchor[enough] = np.nanmedian(values[enough], axis=1)
        return anchor


def _keys(rows: pd.DataFrame) -> list[Key]:
    columns = (rows[name].array for name in ("source", "site", "variable"))
    names = (np.asarray(column.categories, object)[column.codes].tolist() for column in columns)
    return list(zip(*names, strict=True))
