"""Outgoing long-wave radiation as the columns of a state give it: what optimal interpolation needs to use it.

A state holds no OLR. It follows closely from the temperature and humidity of its column, so a linear regression on the
two, on relative humidity and on its square (which stands for cloud) is an observation operator. What the regression
leaves unexplained is its representativeness error.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import GROUPS, LEVELS
from dacycle.forecast_adapter.physics import humidity_from_dewpoint
from dacycle.forecast_adapter.worlds.reference import Reference

__all__ = ["OlrOperator", "OlrSamples", "fit_olr"]

_MOIST = [k for k, level in enumerate(LEVELS) if level >= 200]  # above, a humidity is no more than its rounding
_RIDGE = 1e-5
_HELD_OUT = 5


@dataclass(frozen=True, eq=False)
class OlrOperator:
    """OLR (W m-2) = constant + weights . predictors; `error` (W m-2) is its error on states it was not fitted to."""

    weights: NDArray
    constant: float
    error: float

    def __call__(self, states: NDArray) -> NDArray[np.float32]:
        """(..., H, W) W m-2 of states (..., 69, H, W), SI."""
        return (np.einsum("f,...fhw->...hw", self.weights, _predictors(states)) + self.constant).astype(np.float32)


@dataclass(frozen=True, eq=False)
class OlrSamples:
    """The operator, and the OLR (N, H, W) W m-2 of the members of an ensemble, to first order in them."""

    operator: OlrOperator
    members: NDArray


def fit_olr(reference: Reference, times: NDArray[np.datetime64], members: NDArray) -> OlrSamples:
    """Fit the operator to states and mean OLR of a reference, and apply it to members of background error.

    Args:
        reference: holds OLR as a surface field.
        times: of the states, of which every fifth is held out to estimate the error.
        members: (N, 69, H, W) SI. Each is taken as a departure from one of the states, in turn.
    """
    states = np.stack([reference.array(time) for time in times])
    olr = np.stack([reference.surface(time)["olr"].values for time in times])
    area, held_out = reference.grid.weights, np.arange(len(times)) % _HELD_OUT == 0
    weights, constant = _regress(states[~held_out], olr[~held_out], area)
    unjudged = OlrOperator(weights, constant, np.nan)
    error = np.sqrt((np.square(unjudged(states[held_out]) - olr[held_out]) * area).mean())
    operator = OlrOperator(weights, constant, float(error))
    base = np.resize(np.arange(len(times)), len(members))
    step = np.float32(0.3)  # about the size that errors have in a cycle
    pairs = zip(members, states[base], strict=True)
    slopes = [
        (operator(state + step * member) - operator(state - step * member)) / (2 * step) for member, state in pairs
    ]
    return OlrSamples(operator, np.stack(slopes) - np.mean(slopes, axis=0))


def _regress(states: NDArray, olr: NDArray, area: NDArray) -> tuple[NDArray, float]:
    """Area-weighted ridge regression; weights in the predictors' own units, and the constant."""
    predictors = np.moveaxis(_predictors(states), 1, -1).reshape(olr.size, -1)
    target, root = olr.astype(float).ravel(), np.sqrt(np.broadcast_to(area, olr.shape)).ravel()
    mean, scale = predictors.mean(axis=0), predictors.std(axis=0)
    scaled, centred = (predictors - mean) / scale * root[:, None], (target - target.mean()) * root
    matrix = scaled.T @ scaled + _RIDGE * len(scaled) * np.eye(scaled.shape[1])
    weights = np.linalg.solve(matrix, scaled.T @ centred) / scale
    return weights, float(target.mean() - mean @ weights)


def _predictors(states: NDArray) -> NDArray[np.float64]:
    """(..., 43, H, W): temperature, specific and relative humidity and its square, on the levels where they count."""
    temperature = states[..., GROUPS["t"], :, :].astype(np.float64)
    humidity = states[..., GROUPS["q"], :, :].astype(np.float64)[..., _MOIST, :, :]
    moist = temperature[..., _MOIST, :, :]
    pressure = 100.0 * np.array(LEVELS, float)[_MOIST, None, None]
    relative = np.clip(
        humidity / humidity_from_dewpoint(moist, pressure), 0, 1.5
    )  # the dewpoint of saturated air is its own
    return np.concatenate([temperature, humidity, relative, relative**2], axis=-3)
