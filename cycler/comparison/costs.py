"""What a run's cycles cost, as their commits note it."""

from typing import Any

import numpy as np
import pandas as pd

from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.experiment import cycle_id

__all__ = ["cost"]


def cost(branch: Branch, times: pd.DatetimeIndex) -> dict[str, Any]:
    """Return the median seconds of an `analysis` and of a whole `cycle`, and the number of `fallbacks`, at `times`.

    `clock` says whose seconds: the `processor`'s or, where a version that did not note them made a cycle, the `wall`'s.
    """
    wanted = {cycle_id(time) for time in times}
    notes = [note for note in branch.archive.states.notes(branch.name) if note["time"] in wanted]
    clock = "processor" if notes and all("processor_seconds" in note for note in notes) else "wall"
    seconds = [note.get("processor_seconds" if clock == "processor" else "seconds", {}) for note in notes]
    of_analysis = [stages["analysis"] for stages in seconds if "analysis" in stages]
    of_cycle = [sum(stages.values()) for stages in seconds if stages]
    statuses = {record.time: record.status for record in branch.records}
    return {
        "analysis": float(np.median(of_analysis)) if of_analysis else np.nan,
        "cycle": float(np.median(of_cycle)) if of_cycle else np.nan,
        "clock": clock,
        "fallbacks": sum(statuses[time] == "fallback" for time in times),
    }
