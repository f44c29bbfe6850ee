"""A branch up to one of its cycles, and cycles after it that are kept in memory only.

It reads as a branch does and takes cycles as a writer does, so that the steps of a cycle need not know of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.archive.members import Smoothed, shortened
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.experiment import STEP
from dacycle.forecast_adapter.state import check_array, make_state
from dacycle.obs_ingest.table import from_arrow, to_arrow

__all__ = ["Bridge"]


@dataclass(frozen=True, eq=False)
class _Kept:
    """Hold a cycle in the form in which a branch would be read."""

    record: CycleRecord
    states: Mapping[str, NDArray[np.float32]]
    departures: pd.DataFrame
    members: NDArray[np.float32] | None
    smoothed: Smoothed | None


class Bridge(Branch):
    """Continue a branch in memory after one of its cycles.

    Args:
        branch: the branch, which is read only.
        records: of its analyses up to the cycle, in order.
    """

    def __init__(self, branch: Branch, records: Sequence[CycleRecord]) -> None:
        super().__init__(branch.archive, branch.name)
        self.experiment = branch.experiment
        self._past = records
        self._kept: dict[pd.Timestamp, _Kept] = {}
        self._times = pd.DatetimeIndex([record.time for record in records]).as_unit("s")

    @property
    def times(self) -> pd.DatetimeIndex:
        """Return the times of the analyses, those in memory last."""
        return self._times

    def commit_cycle(
        self,
        background: NDArray,
        analysis: NDArray,
        departures: pd.DataFrame,
        record: CycleRecord,
        notes: Mapping[str, Any],
        members: NDArray | None = None,
        smoothed: Smoothed | None = None,
    ) -> CycleRecord:
        """Keep one cycle; arguments as `Writer.commit_cycle`.

        Raises:
            StateError: a state is not finite or not plausible.
        """
        time, states = record.time, {"background": background, "analysis": analysis}
        assert time == self._times[-1] + STEP, "cycles are run in order"
        for name, array in states.items():
            check_array(array, self.grid, f"{self.name}, {name}, {np.datetime64(time, 'h')}")
        if smoothed is not None and smoothed.members is not None:
            smoothed = Smoothed(smoothed.frame, shortened(smoothed.members))
        record = replace(record, departures="")
        self._kept[time] = _Kept(
            record,
            {name: np.array(array, np.float32) for name, array in states.items()},
            from_arrow(to_arrow(departures), f"{self.name}, {record.id}").assign(cycle=time),  # rounded as in a file
            None if members is None else shortened(members),
            smoothed,
        )
        self._times = self._times.append(pd.DatetimeIndex([time])).as_unit("s")
        return record

    def recent_records(self, count: int) -> list[CycleRecord]:
        """Return the records of the last `count` analyses."""
        return self._records(slice(-count, None))

    def _records(self, rows: slice) -> list[CycleRecord]:
        first, last, _ = rows.indices(len(self._times))
        known, kept = len(self._past), [kept.record for kept in self._kept.values()]
        return [*self._past[first : min(last, known)], *kept[max(first - known, 0) : max(last - known, 0)]]

    def state(self, group: str, time: pd.Timestamp) -> xr.DataArray:
        """Return a state (channel, latitude, longitude); see `Branch.state`."""
        if time not in self._kept:
            return super().state(group, time)
        return make_state(self._kept[time].states[group], self.grid, np.datetime64(time, "h"))

    def members(self, time: pd.Timestamp) -> NDArray[np.float32] | None:
        """Return the perturbations (N, 69, H, W) of the analysis at `time`; see `Branch.members`."""
        return self._kept[time].members if time in self._kept else super().members(time)

    def smoothed(self, time: pd.Timestamp) -> NDArray[np.float32] | None:
        """Return the frame (69, H, W) before `time` as its analysis smoothed it; see `Branch.smoothed`."""
        if time not in self._kept:
            return super().smoothed(time)
        kept = self._kept[time].smoothed
        return None if kept is None else np.asarray(kept.frame, np.float32)

    def smoothed_members(self, time: pd.Timestamp) -> NDArray[np.float32] | None:
        """Return the perturbations (N, 69, H, W) of `smoothed`; see `Branch.smoothed_members`."""
        if time not in self._kept:
            return super().smoothed_members(time)
        kept = self._kept[time].smoothed
        return None if kept is None else kept.members

    def _departures_of(self, name: str, digest: str, station: str | None = None) -> pd.DataFrame:
        kept = self._kept.get(pd.Timestamp(name))
        if kept is None:
            return super()._departures_of(name, digest, station)
        rows = kept.departures
        return rows if station is None else rows[rows["station"] == station]
