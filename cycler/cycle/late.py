"""Cycles that start from a late chain: from which of its analyses, and what is run again in between.

A late chain runs the same times with a longer cutoff. The cycle at t starts from its newest analysis whose cutoff has
passed by the cutoff of t: a rule of times alone, so that a replay starts from what the live run started from. The
cycles between that analysis and t are run again, in memory, with what had come by the cutoff of t; only t is committed.
So a cycle depends on the late chain and on observations, not on the experiment's own earlier cycles. Where the late
chain has stopped before that analysis, or the model leaves its range on the way from it, the cycle starts from the
experiment's own last analyses and is `degraded`.
"""

import hashlib
import logging
import time as clock
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.archive.frames import StoredFrames
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.cycle.bridge import Bridge
from dacycle.cycler.cycle.readings import Readings
from dacycle.cycler.cycle.run_cycle import Cycle, Run, RunStoppedError, Start, Stopwatch, run_cycle
from dacycle.cycler.experiment import STEP, Experiment, cycle_id
from dacycle.obs_ingest.errors.station_bias import StationBias

__all__ = ["LateChain", "digest_of", "runs_again", "start_of"]

logger = logging.getLogger(__name__)


def start_of(experiment: Experiment, time: pd.Timestamp) -> pd.Timestamp:
    """Return the time of the late analysis that the cycle at `time` of an experiment with a late chain starts from."""
    assert experiment.late is not None, "only an experiment with `late` has a late chain"
    newest = (time + experiment.wait - experiment.late.cutoff).floor(STEP)
    return max(min(newest, time - STEP), experiment.late_run().start - STEP)


def runs_again(experiment: Experiment) -> int:
    """Return how many cycles each cycle runs again before its own; fewer in the first ones."""
    if experiment.late is None:
        return 0
    ahead = experiment.late.cutoff - experiment.wait
    return max(-(-ahead // STEP), 1) - 1


def digest_of(record: CycleRecord, analysis: NDArray[np.float32]) -> str:
    """Return the SHA-256 of a cycle: of its record and its analysis (69, H, W)."""
    content = hashlib.sha256(record.to_json().encode())
    content.update(np.ascontiguousarray(analysis).data)
    return content.hexdigest()


class LateChain:
    """The late chain of an experiment as it stands, for cycles to start from.

    Args:
        archive: which holds it.
        experiment: whose late chain it is.
        bias: estimates station biases, where the experiment removes them; it has learnt nothing yet.
    """

    def __init__(self, archive: Archive, experiment: Experiment, bias: StationBias | None) -> None:
        self._experiment, self._bias = experiment, bias
        # Stores of its own, which read while the run's writer commits a cycle in another thread.
        self._branch = Archive(archive.folder).branch(experiment.late_run().name)
        self._records = self._branch.records

    def run_cycle(self, run: Run, time: pd.Timestamp) -> Cycle:
        """Run one cycle of the experiment from the late chain; from its own last analyses where that cannot be.

        Raises:
            ArchiveError, RunStoppedError: as `run_cycle.run_cycle`.
        """
        start, name, began = start_of(self._experiment, time), self._branch.name, clock.perf_counter()
        last = self._records[-1].time
        if last < start:
            reason = f"{name} has stopped at {cycle_id(last)} and lacks {cycle_id(start)}"
            cycle = self._from_own(run, time, reason)
        else:
            try:
                cycle = run_cycle(self._begun(run, time, start), time)
            except RunStoppedError as error:
                logger.warning("%s", error)
                cycle = self._from_own(run, time, f"the model leaves its range from {name}, {cycle_id(start)}")
        run.seen += _sites([cycle.record])
        return replace(cycle, began=began)

    def _begun(self, run: Run, time: pd.Timestamp, start: pd.Timestamp) -> Run:
        """Return the run of a cycle that starts from the late analysis at `start`, after those in between."""
        records = [record for record in self._records if record.time <= start]
        bridge = Bridge(self._branch, records)
        if self._bias is not None:
            self._bias.catch_up(start + STEP, bridge.departures_between)
        seen = _sites(records)
        frames, bias = StoredFrames(bridge), deepcopy(self._bias)
        origin: dict[str, Any] = {
            "from": self._branch.name,
            "cycle": cycle_id(start),
            "digest": digest_of(records[-1], frames.frame(start)),
        }
        again = {}
        spent = Stopwatch()
        for at in pd.date_range(start + STEP, time - STEP, freq=STEP):
            inputs = run.inputs.waiting(time - at)
            with spent("again"):
                record = run_cycle(Run(inputs, Readings(), bridge, frames, bias, seen), at).record
            again[record.id] = _again(bridge, record)
        if again:
            origin["again"] = again
        return replace(run, frames=frames, bias=bias, seen=seen, start=Start(bridge, origin, spent=spent))

    def _from_own(self, run: Run, time: pd.Timestamp, reason: str) -> Cycle:
        """Run a cycle from the experiment's own last analyses; withheld are also the sites that the late chain saw."""
        last = run.writer.recent_records(1)[-1]
        origin = {"from": run.writer.name, "cycle": last.id, "digest": digest_of(last, run.frames.frame(last.time))}
        reason = f"{reason}; this cycle starts from the run's own analysis {last.id}"
        seen = [*_sites(self._records), *run.seen]
        return run_cycle(replace(run, seen=seen, start=Start(run.writer, origin, reason)), time)


def _sites(records: Sequence[CycleRecord]) -> list[tuple[float, float]]:
    """Return latitude and longitude of the withheld sites that cycles saw first."""
    return [(a, b) for record in records for a, b in record.withheld_sites or ()]


def _again(bridge: Bridge, record: CycleRecord) -> dict[str, Any]:
    """Return what the record of a cycle says about one that was run again before it.

    That is its status and reason, the digest of its observations, and when the last value that was assimilated was
    received, by source.
    """
    (table,) = (table for _, table in bridge.departures_between(record.time, record.time))
    used = table[table["use"] == "assimilated"].groupby("source", observed=True)["received"].max().dropna()
    said = {"status": record.status, "observations": record.digests["observations"]}
    reason = {"reason": record.reason} if record.reason else {}
    return said | reason | {"received": {str(name): f"{last:%Y-%m-%dT%H:%M:%S}" for name, last in used.items()}}
