"""Errors of simulated observations, drawn as `errors.model` states them and `superobs` assumes them.

Each error is the sum of a part that the places of a cell share and a part of their own. In soundings,

- heights have one error, which is smooth in ln p (`_SMOOTH`);
- temperatures have the error that the thicknesses of these heights imply, and beside it one that differs from level to
  level, as the sums of thicknesses hardly know. So thicknesses and temperatures contradict each other no more than in a
  real sounding, whose heights are computed from its temperatures;
- the shared errors of wind and humidity are correlated in ln p (`_ROUGH`).

Both correlations are those of the differences between ERA-Interim at 1.5 and at 5.625 degrees (docs/real-input.md).
"""

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS, LOG_LEVELS
from dacycle.forecast_adapter.grid import Grid, cells
from dacycle.forecast_adapter.physics import DRY_AIR_GAS_CONSTANT
from dacycle.obs_ingest.table import LEVEL_VARIABLES

__all__ = ["ErrorDraw"]

_DISTANCE = np.abs(np.subtract.outer(LOG_LEVELS, LOG_LEVELS))
_SMOOTH = np.linalg.cholesky(np.exp(-((_DISTANCE / 0.7) ** 2) / 2) + 1e-9 * np.eye(len(LEVELS)))
"""Times independent numbers: profiles of heights' errors; their slopes are uncorrelated at 0.7 in ln p."""
_ROUGH = np.linalg.cholesky(np.exp(-_DISTANCE / 0.5))
"""Times independent numbers: profiles of the shared errors of wind and humidity."""
_TEMPERATURES = np.gradient(np.eye(len(LEVELS)), -DRY_AIR_GAS_CONSTANT * LOG_LEVELS, axis=0)
"""Times a profile of geopotential: the hydrostatic temperatures at its levels."""
_Z, _T = LEVEL_VARIABLES.index("z"), LEVEL_VARIABLES.index("t")


class ErrorDraw:
    """Draw errors at n places; those in one cell of the grid share a part.

    Args:
        grid: whose cells count.
        latitude, longitude: (n,) degrees.
    """

    def __init__(self, grid: Grid, latitude: NDArray, longitude: NDArray) -> None:
        y, x = cells(grid, latitude, longitude)
        occupied, self._cell = np.unique(np.ravel_multi_index((y, x), grid.shape), return_inverse=True)
        self._cells = len(occupied)

    def _normals(self, shape: tuple[int, ...], generator: np.random.Generator) -> tuple[NDArray, NDArray]:
        """Return standard normal numbers of `shape` that the places of a cell share, and some of their own."""
        shared = generator.standard_normal((*shape[:-1], self._cells))[..., self._cell]
        return shared, generator.standard_normal(shape)

    def surface(self, shared: NDArray, own: NDArray, generator: np.random.Generator) -> NDArray[np.float64]:
        """Draw errors (..., n) that have these shared and own variances (..., n)."""
        common, single = self._normals(shared.shape, generator)
        return np.sqrt(shared) * common + np.sqrt(own) * single

    def aloft(
        self, shared: NDArray, own: NDArray, level: NDArray, generator: np.random.Generator
    ) -> NDArray[np.float64]:
        """Draw errors (v, n) of v variables that have these shared and own variances (v, n).

        Args:
            shared, own: variances.
            level: (n,) positions in `LEVELS` of the standard levels to which superobs count the places' values.
            generator: of the numbers.
        """
        profiles = generator.standard_normal((len(shared), len(LEVELS), self._cells))
        common = np.einsum("kl,vlc->vkc", _ROUGH, profiles)[:, level, self._cell]
        return np.sqrt(shared) * common + np.sqrt(own) * generator.standard_normal(shared.shape)

    def soundings(self, shared: NDArray, own: NDArray, generator: np.random.Generator) -> NDArray[np.float64]:
        """Draw errors of z, q, u, v, t on the standard levels, (5, 13, n), that have these shared and own variances."""
        common, single = self._normals(shared.shape, generator)
        errors = np.sqrt(shared) * np.einsum("kl,vln->vkn", _ROUGH, common) + np.sqrt(own) * single
        errors[[_Z, _T]] = 0
        for variance, normals in ((shared, common), (own, single)):
            heights = np.sqrt(variance[_Z])[:, None] * _SMOOTH[:, :, None]
            temperatures = np.einsum("kl,lmn->kmn", _TEMPERATURES, heights)
            beside = np.sqrt(np.maximum(variance[_T] - np.square(temperatures).sum(1), 0))
            errors[_Z] += np.einsum("kmn,mn->kn", heights, normals[_Z])
            errors[_T] += np.einsum("kmn,mn->kn", temperatures, normals[_Z]) + beside * normals[_T]
        return errors
