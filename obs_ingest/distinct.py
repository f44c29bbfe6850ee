"""The distinct ones of many values: `numpy.unique` sorts all values, these sort only what is distinct.

A cycle has a few values at each of thousands of sites, and asks for the distinct positions again and again.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["distinct_numbers", "distinct_positions"]


def distinct_positions(positions: NDArray[np.complex128]) -> tuple[NDArray[np.complex128], NDArray[np.intp]]:
    """Return the distinct positions (m,), latitude + i longitude, sorted, and for each of n its index among them."""
    codes, found = pd.factorize(positions, use_na_sentinel=False)
    order = np.argsort(found)
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    return found[order], rank[codes]


def distinct_numbers(numbers: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return the distinct numbers (m,) of small ones that are not negative, sorted, the index of each, their counts."""
    counts = np.bincount(numbers)
    found = np.flatnonzero(counts)
    rank = np.empty(len(counts), np.intp)
    rank[found] = np.arange(len(found))
    return found, rank[numbers], counts[found]
