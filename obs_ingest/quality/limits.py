"""Limits of single values: the range of each variable on Earth, and the range of its usual wrong unit."""

import numpy as np
from numpy.typing import NDArray

from dacycle.obs_ingest.table import OTHER_UNITS, VARIABLES

__all__ = ["GROSS_LIMITS", "beyond_limits", "other_unit"]

GROSS_LIMITS: dict[str, tuple[float, float]] = {
    "t2m": (180.0, 335.0),
    "td2m": (170.0, 310.0),
    "msl": (86000.0, 109000.0),
    "ps": (45000.0, 109000.0),
    "u10": (-75.0, 75.0),
    "v10": (-75.0, 75.0),
    "tp": (0.0, 1000.0),
    "olr": (50.0, 400.0),
    "z": (-8000.0, 240000.0),
    "q": (0.0, 0.05),
    "u": (-150.0, 150.0),
    "v": (-150.0, 150.0),
    "t": (150.0, 335.0),
}
"""Range that each variable never leaves on Earth, or hardly ever: low and high, SI."""


def other_unit(codes: NDArray, value: NDArray) -> NDArray[np.bool_]:
    """Return which values (n,) lie in the range of the usual wrong unit; see `table.OTHER_UNITS`."""
    low, high = (np.full(len(VARIABLES), limit) for limit in (np.inf, -np.inf))
    for name, (below, above, _) in OTHER_UNITS.items():
        low[VARIABLES.index(name)], high[VARIABLES.index(name)] = below, above
    return (value > low[codes]) & (value < high[codes])


def beyond_limits(codes: NDArray, value: NDArray) -> NDArray[np.bool_]:
    """Return which values (n,) are outside `GROSS_LIMITS`."""
    low, high = np.array([GROSS_LIMITS[name] for name in VARIABLES]).T
    return (value < low[codes]) | (value > high[codes])
