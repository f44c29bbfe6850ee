"""The departures of the last 24 hours, as further inputs of a trained method.

Where they were large the background's error was large, and it persists; between two ascents they say what a sonde
found. A file whose metadata have `recent_hours` takes 69 further planes in its observations and in their errors: the
mean of the departures in each cell, weighted by their precision, and its error. Where there are none, as in single
analyses and in the first cycles of a run, both are 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import Analysis, Past
from dacycle.forecast_adapter.channels import CHANNEL_COUNT

__all__ = ["CYCLES", "HOURS", "WithRecent", "completed", "recent_departures"]

CYCLES = 4
"""Cycles whose departures are further inputs."""
HOURS = 6 * CYCLES

Departures = tuple[NDArray[np.float32], NDArray[np.float32]]


def recent_departures(cycles: Sequence[tuple[NDArray, NDArray, NDArray]]) -> Departures:
    """Return the mean departures (69, H, W), SI, of some cycles, and its error, which is 0 where there are none.

    Args:
        cycles: background (69, H, W), and values and errors (69 + M, H, W), SI, of each; at least one.
    """
    weight, total = np.zeros((2, *cycles[0][0].shape))
    for background, values, errors in cycles:
        seen = errors[:CHANNEL_COUNT] > 0
        precision = np.where(seen, 1 / np.where(seen, errors[:CHANNEL_COUNT], 1) ** 2, 0)
        weight += precision
        total += precision * (values[:CHANNEL_COUNT] - background)
    seen = weight > 0
    precision = np.where(seen, weight, 1)
    return (total / precision).astype(np.float32), np.where(seen, precision**-0.5, 0).astype(np.float32)


def completed(fields: NDArray, further: NDArray | None = None) -> NDArray[np.float32]:
    """Return observations or errors (B, P, H, W) with 69 further planes of one chain (69, H, W), or of zeros."""
    if further is None:
        further = np.zeros((CHANNEL_COUNT, *fields.shape[2:]), np.float32)
    return np.concatenate([fields, np.broadcast_to(further, (len(fields), *further.shape))], 1, dtype=np.float32)


class WithRecent(ABC):
    """Give a method a window, if it takes the departures of the last 24 hours; see `base.WindowAssimilator`."""

    @property
    @abstractmethod
    def recent(self) -> bool:
        """Whether the method takes them."""

    @property
    def steps(self) -> int:
        """Steps of the window whose end is the analysis; 0 where there is none."""
        return CYCLES + 1 if self.recent else 0

    def with_past(self, past: Past) -> InCycle:
        """Return the method for one chain with these observations and backgrounds before."""
        return InCycle(self, past)


class InCycle:
    """A method with the departures of one chain's last 24 hours; see `base.Assimilator`."""

    def __init__(self, method: Any, past: Past) -> None:
        self.inner = method
        self.name, self.grid, self.world = method.name, method.grid, method.world
        self.digest, self.planes = method.digest, method.planes
        cycles = [(background, *seen) for background, seen in zip(past.backgrounds, past.observations, strict=True)]
        self._recent: Departures | tuple[None, None] = recent_departures(cycles) if cycles else (None, None)

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Correct one chain's background (1, 69, H, W)."""
        departures, their_errors = self._recent
        analysis: Analysis = self.inner.analyse(
            background, completed(values, departures), completed(errors, their_errors)
        )
        return analysis
