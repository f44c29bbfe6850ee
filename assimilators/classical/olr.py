"""An observation operator of outgoing long-wave radiation (OLR), with which optimal interpolation uses it.

A state holds no OLR, but OLR follows closely from the temperature and humidity of a column. The operator is a linear
regression on these two, on relative humidity and on its square, which represents cloud. The part that the regression
does not explain is its representativeness error.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import GROUPS, LEVELS
from dacycle.forecast_adapter.physics import humidity_from_dewpoint

__all__ = ["OlrOperator", "OlrSamples", "fit_olr", "fit_operator"]

_MOIST = [k for k, level in enumerate(LEVELS) if level >= 200]  # above, humidities are within their rounding error
_RIDGE = 1e-5
_HELD_OUT = 5
_WETTEST = 1.5
"""Relative humidity above which a state is as cloudy as at it."""


@dataclass(frozen=True, eq=False)
class OlrOperator:
    """Compute OLR (W m-2) = constant + weights . predictors, with a weight (n,) for each of the n predictors.

    `error` (W m-2) is its error on held-out states.
    """

    weights: NDArray
    constant: float
    error: float

    def __call__(self, states: NDArray) -> NDArray[np.float32]:
        """Return OLR (..., H, W), W m-2, of states (..., 69, H, W), SI."""
        return (np.einsum("f,...fhw->...hw", self.weights, _predictors(states)) + self.constant).astype(np.float32)

    def slopes(self, states: NDArray) -> NDArray[np.float32]:
        """Return the derivatives of OLR by the channels, (..., 69, H, W), W m-2 over SI, at states of that shape.

        In the clipped range of relative humidity, 0 and below or 1.5 and above, its part has none.
        """
        temperature, humidity, pressure = _moist_air(states)
        saturated, by_temperature = (
            humidity_from_dewpoint(temperature, pressure),
            _saturation_slope(temperature, pressure),
        )
        relative = humidity / saturated
        of_temperature, of_humidity, of_relative, of_square = np.split(
            self.weights[:, None, None], np.cumsum([len(LEVELS), len(_MOIST), len(_MOIST)])
        )
        by_relative = np.where((relative > 0) & (relative < _WETTEST), of_relative + 2 * of_square * relative, 0)
        slopes = np.zeros(states.shape, np.float32)
        slopes[..., GROUPS["t"], :, :] = of_temperature
        slopes[..., np.array(GROUPS["t"])[_MOIST], :, :] -= by_relative * relative * by_temperature / saturated
        slopes[..., np.array(GROUPS["q"])[_MOIST], :, :] = of_humidity + by_relative / saturated
        return slopes


@dataclass(frozen=True, eq=False)
class OlrSamples:
    """Hold the operator, and the OLR (N, H, W), W m-2, of an ensemble's members, to first order in them."""

    operator: OlrOperator
    members: NDArray


def fit_operator(states: NDArray, olr: NDArray, area: NDArray) -> OlrOperator:
    """Fit the operator to states and their mean OLR.

    Args:
        states: (n, 69, H, W) SI; every fifth is held out to estimate the error.
        olr: (n, H, W) W m-2.
        area: (H, 1) or (H, W): weights of the cells.
    """
    held_out = np.arange(len(states)) % _HELD_OUT == 0
    weights, constant = _regress(states[~held_out], olr[~held_out], area)
    without_error = OlrOperator(weights, constant, np.nan)
    error = np.sqrt((np.square(without_error(states[held_out]) - olr[held_out]) * area).mean())
    return OlrOperator(weights, constant, float(error))


def fit_olr(states: NDArray, olr: NDArray, area: NDArray, members: NDArray) -> OlrSamples:
    """Fit the operator as `fit_operator` does, and apply it to members of background error.

    Args:
        states, olr, area: of the fit.
        members: (N, 69, H, W) SI. Each is added to one of the states, in turn.
    """
    operator = fit_operator(states, olr, area)
    base = np.resize(np.arange(len(states)), len(members))
    step = np.float32(0.3)  # errors in a cycle are about this share of the members
    pairs = zip(members, states[base], strict=True)
    slopes = [
        (operator(state + step * member) - operator(state - step * member)) / (2 * step) for member, state in pairs
    ]
    return OlrSamples(operator, np.stack(slopes) - np.mean(slopes, axis=0))


def _regress(states: NDArray, olr: NDArray, area: NDArray) -> tuple[NDArray, float]:
    """Return the weights of an area-weighted ridge regression, in the predictors' own units, and the constant."""
    predictors = np.moveaxis(_predictors(states), 1, -1).reshape(olr.size, -1)
    target, root = olr.astype(float).ravel(), np.sqrt(np.broadcast_to(area, olr.shape)).ravel()
    mean, scale = predictors.mean(axis=0), predictors.std(axis=0)
    scaled, centred = (predictors - mean) / scale * root[:, None], (target - target.mean()) * root
    matrix = scaled.T @ scaled + _RIDGE * len(scaled) * np.eye(scaled.shape[1])
    weights = np.linalg.solve(matrix, scaled.T @ centred) / scale
    return weights, float(target.mean() - mean @ weights)


def _predictors(states: NDArray) -> NDArray[np.float64]:
    """Return (..., 43, H, W): temperature, and from 200 hPa down specific and relative humidity and its square."""
    moist, humidity, pressure = _moist_air(states)
    # Saturation humidity is the humidity of air whose dewpoint is its temperature.
    relative = np.clip(humidity / humidity_from_dewpoint(moist, pressure), 0, _WETTEST)
    temperature = states[..., GROUPS["t"], :, :].astype(np.float64)
    return np.concatenate([temperature, humidity, relative, relative**2], axis=-3)


def _moist_air(states: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return temperature and specific humidity at the moist levels, (..., 10, H, W), and pressure (10, 1, 1), Pa."""
    temperature, humidity = (states[..., GROUPS[group], :, :].astype(np.float64)[..., _MOIST, :, :] for group in "tq")
    return temperature, humidity, 100.0 * np.array(LEVELS, float)[_MOIST, None, None]


def _saturation_slope(temperature: NDArray, pressure: NDArray) -> NDArray[np.float64]:
    """Return the derivative of the saturation humidity by temperature, K-1, by central differences of 1 mK."""
    above, below = (humidity_from_dewpoint(temperature + h, pressure) for h in (0.001, -0.001))
    return (above - below) / 0.002
