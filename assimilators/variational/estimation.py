"""The estimate of the static covariance from samples of the background's error."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import AssimilatorError
from dacycle.assimilators.classical.olr import OlrOperator
from dacycle.assimilators.variational.covariance import DIVERGENCE, MASS, ROTATION, SCALARS, Covariance
from dacycle.assimilators.variational.harmonics import Harmonics
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["estimate_covariance"]

SMOOTH = 12
"""Total wavenumber at which the map of variances is damped to exp(-1/2): samples are too few for each cell."""
_RIDGE = 1e-4


def estimate_covariance(
    samples: NDArray, grid: Grid, world: str, truncation: int, olr: OlrOperator | None = None, **provenance: Any
) -> Covariance:
    """Estimate the covariance of samples of the background's error.

    Args:
        samples: (S, 69, H, W) SI.
        grid, world: of the samples.
        truncation: the largest total wavenumber.
        olr: operator of OLR, with which OLR is used.
        provenance: recorded.

    Raises:
        AssimilatorError: fewer samples than channels, or values that are not finite.
    """
    if len(samples) < len(NAMES):
        raise AssimilatorError(f"{len(samples)} samples of the background's error; at least {len(NAMES)} are needed")
    if not np.isfinite(samples).all():
        raise AssimilatorError("samples of the background's error have values that are not finite")
    harmonics = Harmonics(grid, truncation)
    deviation = np.sqrt(_smoothed(np.square(samples, dtype=np.float64).mean(axis=0), harmonics))
    size = np.sqrt((deviation**2 * grid.weights).mean(axis=(1, 2)))[:, None, None]
    balance = _regression(samples, size, harmonics)
    roots = _roots(samples, size, harmonics, balance)
    unscaled = Covariance(roots, balance, np.ones_like(deviation, np.float32), grid, world)
    rows, channels = range(grid.shape[0]), range(len(NAMES))
    modelled = np.sqrt([[unscaled.variance(channel, row) for row in rows] for channel in channels])
    scale = (deviation / modelled[:, :, None]).astype(np.float32)
    return replace(unscaled, scale=scale, olr=olr, provenance={**provenance, "samples": len(samples)})


def _smoothed(variance: NDArray, harmonics: Harmonics) -> NDArray[np.float64]:
    """Return variances (69, H, W), smoothed on the sphere as logarithms, so that they stay above 0."""
    n = np.arange(harmonics.size)
    damping = np.exp(-n * (n + 1) / (2 * SMOOTH * (SMOOTH + 1)))[None, :, None, None].astype(np.float32)
    logarithm = np.log(np.maximum(variance, 1e-12 * variance.max(axis=(1, 2), keepdims=True)))
    waves = harmonics.analysis(logarithm.astype(np.float32))
    return np.exp(harmonics.synthesis(waves * damping).astype(np.float64))


def _waves(samples: NDArray, size: NDArray, harmonics: Harmonics) -> Iterator[NDArray[np.float32]]:
    """Yield the control variables (M, N, 2, 69) of each sample, balanced parts included.

    Samples are divided by the size of each channel's error over the globe only. Divided by its size in each place,
    small errors of observed places would count as much as the large ones of others, whose scales are larger; cycles
    with such a covariance are worse.
    """
    for sample in samples:
        x = (sample / size).astype(np.float32)
        waves = np.empty((harmonics.size, harmonics.size, 2, len(NAMES)), np.float32)
        waves[..., SCALARS] = harmonics.analysis(x[SCALARS])
        waves[..., ROTATION], waves[..., DIVERGENCE] = harmonics.analysis_of_winds(x[ROTATION], x[DIVERGENCE])
        yield waves * harmonics.exists


def _regression(samples: NDArray, size: NDArray, harmonics: Harmonics) -> NDArray[np.float32]:
    """Return the regression (N, 28, 14) of mass on the linear balance of the streamfunction."""
    matrix = np.zeros((harmonics.size, len(ROTATION), len(ROTATION)))
    right = np.zeros((harmonics.size, len(ROTATION), len(MASS)))
    for waves in _waves(samples, size, harmonics):
        balanced = _rows(harmonics.balanced_mass(waves[..., ROTATION]))
        matrix += balanced.swapaxes(1, 2) @ balanced
        right += balanced.swapaxes(1, 2) @ _rows(waves[..., MASS])
    matrix[0] = np.eye(len(ROTATION))  # linear balance says nothing of the mean
    scale = np.trace(matrix, axis1=1, axis2=2)[:, None, None] / len(ROTATION)
    solved = np.linalg.solve(matrix + _RIDGE * scale * np.eye(len(ROTATION)), right)
    return solved.swapaxes(1, 2).astype(np.float32)


def _roots(samples: NDArray, size: NDArray, harmonics: Harmonics, balance: NDArray) -> NDArray[np.float32]:
    """Return the symmetric square roots (N, 69, 69) of the covariances of the unbalanced control variables."""
    covariance = np.zeros((harmonics.size, len(NAMES), len(NAMES)))
    for waves in _waves(samples, size, harmonics):
        balanced = _rows(harmonics.balanced_mass(waves[..., ROTATION]))
        rows = _rows(waves)
        rows[..., MASS] -= balanced @ balance.swapaxes(1, 2)
        covariance += rows.swapaxes(1, 2) @ rows
    harmonics_of = 2 * np.arange(harmonics.size) + 1
    covariance /= len(samples) * harmonics_of[:, None, None]
    values, vectors = np.linalg.eigh(covariance)
    roots = (vectors * np.sqrt(np.maximum(values, 0))[:, None, :]) @ vectors.swapaxes(1, 2)
    return roots.astype(np.float32)


def _rows(waves: NDArray) -> NDArray[np.float64]:
    """Return waves (M, N, 2, C) by total wavenumber, (N, 2M, C)."""
    return waves.swapaxes(0, 1).reshape(waves.shape[1], -1, waves.shape[3]).astype(np.float64)
