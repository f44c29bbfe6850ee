"""Bias of single stations, from what their departures have been in past cycles.

A mean departure O-B holds the bias of the model as well as the station's. Only a station's own deviation is removed:
its mean minus the median of its neighbours' means, because what neighbours share is more likely the model's. What a
model does wrong at one station alone (a valley, a coast) cannot be told from a bias of the station, and is removed with
it; a station without neighbours is left alone. Withheld sites neither change nor count: they are not assimilated.

The mean of n departures is shrunk by n / (n + n0): few remove little. Nothing but tables of departures enters, never a
reference, so that a run that goes on from its archive comes to the same numbers.
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
        variables: at the surface, with an operator.
        memory: cycles this long before the analysis count.
        n0: number of departures at which half of a deviation is removed. What is best is the variance of one departure
            over that of stations' biases: 9 for 1.5 and 0.5 K, and about twice as much as departures of one station
            6 h apart are not independent.
        radius_km: within which stations are neighbours, at most the 20 nearest.
    """

    def __init__(self, variables: tuple[str, ...], memory: pd.Timedelta, n0: float, radius_km: float) -> None:
        self._variables, self._memory, self._n0, self._radius_km = variables, memory, n0, radius_km
        self._numbers: dict[Key, int] = {}
        self._places: dict[int, tuple[float, float]] = {}
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
        """The table (n rows) with `value` less its station's bias, and a column `bias` that says how much that is."""
        bias = np.zeros(len(table))
        mine = np.nonzero(self._mine(table))[0]
        # As float32, which the archive keeps: value and bias are then those that it holds.
        numbers = [self._numbers.get(key, -1) for key in _keys(table.iloc[mine])]  # -1: nothing is known of it
        bias[mine] = np.append(self._biases(), 0.0).astype(np.float32)[numbers]
        return table.assign(**{"value": table["value"].to_numpy() - bias, BIAS_COLUMN: bias})

    def _learn(self, cycle: pd.Timestamp, departures: pd.DataFrame) -> None:
        """Take in the departures of one cycle: of values as observed, where they were assimilated."""
        o_b = departures["o_b"].to_numpy(float)
        kept = self._mine(departures) & (departures["use"] == "assimilated").to_numpy() & np.isfinite(o_b)
        rows = departures[kept]
        removed = rows[BIAS_COLUMN].to_numpy(float) if BIAS_COLUMN in rows else 0.0
        numbers = [self._numbers.setdefault(key, len(self._numbers)) for key in _keys(rows)]
        places = zip(rows["latitude"].tolist(), rows["longitude"].tolist(), strict=True)
        self._places.update(zip(numbers, places, strict=True))
        self._past.append((cycle, np.array(numbers, np.intp), o_b[kept] + removed))

    def _mine(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        return table["variable"].isin(self._variables).to_numpy()

    def _biases(self) -> NDArray[np.float64]:
        """(keys,) to remove."""
        out = np.zeros(len(self._places))
        if not self._past:
            return out
        numbers, departures = (np.concatenate([part[i] for part in self._past]) for i in (1, 2))
        count = np.bincount(numbers, minlength=len(out))
        mean = np.bincount(numbers, departures, len(out)) / np.maximum(count, 1)
        for variable in self._variables:
            # Sorted by name: the numbers follow the order in which stations came, which begins anew with a process.
            known = sorted(key for key, i in self._numbers.items() if key[2] == variable and count[i])
            mine = np.array([self._numbers[key] for key in known], np.intp)
            if len(mine) > _FEWEST:
                sites = np.unique([key[1] for key in known], return_inverse=True)[1]
                anchor = self._anchors(mine, sites, mean[mine])
                weight = count[mine] / (count[mine] + self._n0)
                out[mine] = np.where(np.isnan(anchor), 0.0, weight * (mean[mine] - anchor))
        return out

    def _anchors(self, mine: NDArray[np.intp], sites: NDArray[np.intp], mean: NDArray) -> NDArray[np.float64]:
        """(m,) the median of the means of the neighbours, other sites within the radius; NaN where they are too few."""
        points = positions(*np.array([self._places[i] for i in mine]).T)
        k = min(_MOST + 1, len(mine))
        distance, near = cKDTree(points).query(points, k=k, distance_upper_bound=self._radius_km)
        there = np.isfinite(distance)
        near[~there] = 0
        there &= sites[near] != sites[:, None]
        values = np.where(there, mean[near], np.nan)
        enough = there.sum(axis=1) >= _FEWEST
        out = np.full(len(mine), np.nan)
        out[enough] = np.nanmedian(values[enough], axis=1)
        return out


def _keys(rows: pd.DataFrame) -> list[Key]:
    columns = (rows[name].array for name in ("source", "site", "variable"))
    names = (np.asarray(column.categories, object)[column.codes].tolist() for column in columns)
    return list(zip(*names, strict=True))
