"""Gridded observations as the classical methods take them: cells with departures, in units of their errors."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import AssimilatorError
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["ObservedCells", "Olr", "check_fields", "equivalents", "observed_cells"]

_CHANNELS = len(NAMES)


@dataclass(frozen=True)
class ObservedCells:
    """Hold what was observed in C cells, with F = 69 + M fields.

    Attributes:
        cells: (C,) sorted flat indices.
        precision: (C, F) float32, 1 / error; 0 where a field was not observed.
        departures: (C, F) float32, times the precision.
    """

    cells: NDArray
    precision: NDArray
    departures: NDArray


def check_fields(
    method: str, grid: Grid, planes: tuple[str, ...], background: NDArray, values: NDArray, errors: NDArray
) -> None:
    """Check what a method with these planes is given.

    Raises:
        AssimilatorError: arrays of other shapes, a negative error, an observed value or error that is not finite.
    """
    chains, used = len(background), _CHANNELS + len(planes)
    if background.shape != (chains, _CHANNELS, *grid.shape):
        raise AssimilatorError(f"{method}: background is {background.shape}, not {(chains, _CHANNELS, *grid.shape)}")
    if values.shape != errors.shape or values[:, :used].shape != (chains, used, *grid.shape):
        raise AssimilatorError(
            f"{method}: values {values.shape} and errors {errors.shape} must both be "
            f"{(chains, f'{used} + M', *grid.shape)}"
        )
    wrong = ~(np.isfinite(errors) & (errors >= 0)) | ((errors > 0) & ~np.isfinite(values))
    if wrong.any():
        channel = int(np.argwhere(wrong)[0, 1])
        name = NAMES[channel] if channel < _CHANNELS else f"further plane {channel - _CHANNELS}"
        raise AssimilatorError(
            f"{method}: {name} has an observed value or an error that is not finite, or a negative error"
        )


class Olr(Protocol):
    """An operator of OLR: `error` (W m-2) is its own, a number or (H, W)."""

    @property
    def error(self) -> float | NDArray: ...

    def __call__(self, states: NDArray) -> NDArray:
        """Return OLR (..., H, W), W m-2, of states (..., 69, H, W), SI."""
        ...


def equivalents(states: NDArray, olr: Olr | None) -> NDArray:
    """Return H(x) (..., F, H, W) of states (..., 69, H, W): the channels and, where it is used, OLR."""
    return states if olr is None else np.concatenate([states, olr(states)[..., None, :, :]], axis=-3)


def observed_cells(background: NDArray, values: NDArray, errors: NDArray, olr: Olr | None) -> ObservedCells:
    """Return what was observed of one chain.

    Args:
        background: (69, H, W) SI.
        values, errors: (69 + M, H, W) SI; error > 0 exactly where observed.
        olr: the operator of OLR, whose error is added to OLR's; None: OLR is not used.
    """
    expected = equivalents(background, olr)
    fields = len(expected)
    error = errors[:fields].reshape(fields, -1)
    if olr is not None:
        error = error.copy()
        error[-1] = np.where(error[-1] > 0, np.hypot(error[-1], np.ravel(olr.error)), 0)
    cells = np.flatnonzero(error.any(axis=0))
    error = error[:, cells].T
    precision = np.divide(1, error, out=np.zeros(error.shape, np.float32), where=error > 0)
    departures = values[:fields].reshape(fields, -1)[:, cells].T - expected.reshape(fields, -1)[:, cells].T
    # Selected, not multiplied by 0: values in unobserved places, NaN included, must change nothing.
    departures = np.where(error > 0, departures, 0).astype(np.float32) * precision
    return ObservedCells(cells, precision, departures)
