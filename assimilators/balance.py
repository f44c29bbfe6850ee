"""Whether an increment's heights and temperatures belong together: hydrostatic balance between the levels."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import GROUPS, LEVELS
from dacycle.forecast_adapter.physics import DRY_AIR_GAS_CONSTANT, virtual_temperature

__all__ = ["LAYERS", "thickness_imbalance"]

LAYERS: tuple[str, ...] = tuple(f"{top}-{bottom}" for top, bottom in pairwise(LEVELS))
"""The layers between neighbouring levels, hPa, from the top down."""


def thickness_imbalance(background: NDArray, analysis: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """By how much an analysis's thicknesses have left its virtual temperatures behind.

    In hydrostatic balance the thickness of a layer is R_d Tv ln(p_bottom / p_top), Tv its mean virtual temperature,
    here that of its two levels (Holton 2004, eq. 1.30). What the background already lacks in that, in thin layers
    above mountains most of all, is subtracted: 0 where increments of z, t and q are consistent.

    Args:
        background, analysis: (69, H, W) SI.
        weights: (H, W) areas, mean 1.

    Returns:
        (12,) K: the imbalance as a temperature of each of `LAYERS`, root mean square over the globe.
    """
    log_ratio = np.diff(np.log(np.array(LEVELS, float)))
    imbalance = np.zeros(len(LAYERS))
    for k, depth in enumerate(log_ratio):  # a layer at a time: a state at 0.25 degrees is large
        change = _excess(analysis, k, depth) - _excess(background, k, depth)
        imbalance[k] = np.sqrt((change**2 * weights).mean())
    return imbalance


def _excess(state: NDArray, k: int, depth: float) -> NDArray[np.float64]:
    """Thickness of layer k as a temperature, minus its virtual temperature, (H, W) K."""
    z, t, q = (state[GROUPS[name][k : k + 2]].astype(np.float64) for name in ("z", "t", "q"))
    virtual = virtual_temperature(t, q).mean(axis=0)
    return (z[0] - z[1]) / (DRY_AIR_GAS_CONSTANT * depth) - virtual
