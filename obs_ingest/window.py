"""The assimilation window: which values belong to a cycle, and which of them arrived in time.

The cycle of 12 UTC takes the values of 09:00:01 to 15:00 UTC. With a cutoff of 3 h, a value of 11 UTC that was received
at 15:10 UTC is late.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["HALF_WIDTH", "Window"]

HALF_WIDTH = np.timedelta64(3, "h")


@dataclass(frozen=True)
class Window:
    """The window (t - 3 h, t + 3 h] of an analysis time t: every time lies in the window of exactly one cycle.

    Attributes:
        time: the analysis time t, UTC, a whole hour.
        cutoff: a value received after t + cutoff is late; None: a value counts whenever it was received.
    """

    time: np.datetime64
    cutoff: pd.Timedelta | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "time", np.datetime64(self.time).astype("datetime64[h]"))

    @property
    def start(self) -> np.datetime64:
        """Return t - 3 h, which is outside the window."""
        return self.time - HALF_WIDTH

    @property
    def end(self) -> np.datetime64:
        """Return t + 3 h, which is inside the window."""
        return self.time + HALF_WIDTH

    def holds(self, times: NDArray[np.datetime64]) -> NDArray[np.bool_]:
        """Return whether each time (n,) lies in the window; for sums and means it is the end of the period."""
        times = np.asarray(times, "datetime64[s]")
        return (times > self.start) & (times <= self.end)

    def late(self, received: NDArray[np.datetime64]) -> NDArray[np.bool_]:
        """Return whether each value (n,) was received after the cutoff; an unknown receipt (NaT) is never late."""
        received = np.asarray(received, "datetime64[s]")
        if self.cutoff is None:
            return np.zeros(len(received), bool)
        return received > self.time + np.timedelta64(round(self.cutoff.total_seconds()), "s")
