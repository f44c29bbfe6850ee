"""Consistency of an analysis: hydrostatic balance of its increment, and humidity beyond saturation."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import GROUPS, LEVELS
from dacycle.forecast_adapter.physics import DRY_AIR_GAS_CONSTANT, humidity_from_dewpoint, virtual_temperature

__all__ = ["LAYER_NAMES", "supersaturated", "thickness_imbalance"]

LAYER_NAMES: tuple[str, ...] = tuple(f"{top}-{bottom}" for top, bottom in pairwise(LEVELS))
"""Names of the layers between neighbouring levels, hPa, from the top down."""


_SATURATION_TOP, _SUPERSATURATION = 200, 1.1


def supersaturated(state: NDArray) -> int:
    """Return the number of values of humidity above 110 % of saturation over water, on levels up to 200 hPa.

    Args:
        state: (69, H, W) SI.
    """
    levels = [k for k, level in enumerate(LEVELS) if level >= _SATURATION_TOP]
    humidity, temperature = (state[GROUPS[name]][levels] for name in ("q", "t"))
    pressure = 100.0 * np.array(LEVELS, float)[levels, None, None]
    # Saturation humidity is the humidity of air whose dewpoint is its temperature.
    return int(np.count_nonzero(humidity > _SUPERSATURATION * humidity_from_dewpoint(temperature, pressure)))


def thickness_imbalance(background: NDArray, analysis: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Return the hydrostatic imbalance of an increment, (12,) K, for each of `LAYER_NAMES`.

    In hydrostatic balance the thickness of a layer is R_d Tv ln(p_bottom / p_top), with Tv the mean virtual temperature
    of its two levels (Holton 2004, eq. 1.30). The imbalance is the root mean square over the globe, as a temperature,
    of the analysis's deviation from that minus the background's, which is largest in thin layers above mountains. It is
    0 where increments of z, t and q are consistent.

    Args:
        background, analysis: (69, H, W) SI.
        weights: (H, W) areas, mean 1.
    """
    log_ratio = np.diff(np.log(np.array(LEVELS, float)))
    imbalance = np.zeros(len(LAYER_NAMES))
    for k, depth in enumerate(log_ratio):  # a layer at a time, because a state at 0.25 degrees is large
        change = _excess(analysis, k, depth) - _excess(background, k, depth)
        imbalance[k] = np.sqrt((change**2 * weights).mean())
    return imbalance


def _excess(state: NDArray, k: int, depth: float) -> NDArray[np.float64]:
    """Return the thickness of layer k as a temperature, minus its virtual temperature, (H, W) K."""
    z, t, q = (state[GROUPS[name][k : k + 2]].astype(np.float64) for name in ("z", "t", "q"))
    virtual = virtual_temperature(t, q).mean(axis=0)
    return (z[0] - z[1]) / (DRY_AIR_GAS_CONSTANT * depth) - virtual
