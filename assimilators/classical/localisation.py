"""Localisation: how much an observation counts at a distance, and which observed cells count at which grid points.

R-localisation: an observation becomes less certain with distance (Hunt et al. 2007, doi:10.1016/j.physd.2006.11.008),
until from the reach on it does not count at all.
"""

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import AssimilatorError
from dacycle.forecast_adapter.grid import Grid, great_circle_km

__all__ = ["Surroundings", "gaspari_cohn", "interpolation", "triangle"]


def gaspari_cohn(distance: NDArray, reach: float) -> NDArray:
    """Return the fifth-order piecewise rational correlation of Gaspari and Cohn.

    It is 1 at distance 0, 5/24 at half the reach, and exactly 0 from the reach on (Gaspari and Cohn 1999,
    doi:10.1002/qj.49712555417, equation 4.10, with c = reach / 2).

    Args:
        distance: in any unit.
        reach: in the same unit; may be infinite, then the correlation is 1 everywhere.
    """
    r = 2 * np.abs(np.asarray(distance, np.float64)) / reach
    inner = 1 + r**2 * (-5 / 3 + r * (5 / 8 + r * (1 / 2 - r / 4)))
    far = np.maximum(r, 1)
    outer = 4 - 2 / (3 * far) + far * (-5 + far * (5 / 3 + far * (5 / 8 + far * (-1 / 2 + far / 12))))
    return np.where(r <= 1, inner, np.where(r < 2, np.maximum(outer, 0), 0))


class Surroundings:
    """The observed cells around the points of a grid, or around the centres of its square blocks of cells.

    Args:
        grid: the grid.
        reach_km: great-circle distance from which on a cell does not count.
        block: cells along a side of a block; 1: every cell is a point.

    Attributes:
        shape: rows and columns of the points.
    """

    def __init__(self, grid: Grid, reach_km: float, block: int = 1) -> None:
        height, width = grid.shape
        if height % block or width % block:
            raise AssimilatorError(f"{grid.name} has {height} x {width} cells: blocks of {block} do not fit")
        self.shape = height // block, width // block
        self._block, self._width = block, width
        latitude, longitude = np.asarray(grid.latitude, float), np.asarray(grid.longitude, float)
        points = latitude.reshape(-1, block).mean(axis=1)
        turn = longitude - longitude[:block].mean()
        distance = great_circle_km(points[:, None, None], np.zeros(1), latitude[None, :, None], turn)
        # (rows of points, H, W): at each difference between the column of a cell and the first one of the block.
        self._table = gaspari_cohn(distance, reach_km).astype(np.float32)

    def of_row(self, row: int, cells: NDArray) -> tuple[NDArray, slice, NDArray]:
        """Return what counts at the points of a row.

        Args:
            row: of the points.
            cells: sorted flat indices of the observed cells.

        Returns:
            (n,) columns of the points within reach of an observed cell; a slice of `cells`; and how much each of these
            counts at each of the points, (n, cells) float32.
        """
        rows = np.flatnonzero(self._table[row].any(axis=1))
        near = slice(*np.searchsorted(cells, (rows[0] * self._width, (rows[-1] + 1) * self._width)))
        cell_rows, cell_columns = np.divmod(cells[near], self._width)
        turn = (cell_columns[None, :] - self._block * np.arange(self.shape[1])[:, None]) % self._width
        localisation = self._table[row][cell_rows, turn]
        columns = np.flatnonzero(localisation.any(axis=1))
        return columns, near, localisation[columns]


def interpolation(size: int, block: int, periodic: bool) -> NDArray[np.float32]:
    """Return the matrix (size, size / block) that interpolates from centres of blocks linearly to single cells.

    Beyond the last centres it holds their values, or goes around where the axis is periodic.
    """
    count = size // block
    position = (np.arange(size) + 0.5) / block - 0.5
    lower = np.floor(position).astype(int)
    share = position - lower
    matrix = np.zeros((size, count), np.float32)
    for cell in range(size):
        for index, weight in ((lower[cell], 1 - share[cell]), (lower[cell] + 1, share[cell])):
            matrix[cell, index % count if periodic else np.clip(index, 0, count - 1)] += weight
    return matrix


def triangle(size: int) -> tuple[NDArray, NDArray]:
    """Return the indices that take the upper triangle out of a flat symmetric matrix, and those that restore it.

    Returns:
        (n,) indices of the upper triangle in the flat (size, size) matrix; (size * size,) indices into the triangle.
    """
    rows, columns = np.triu_indices(size)
    positions = np.empty((size, size), int)
    positions[rows, columns] = positions[columns, rows] = np.arange(len(rows))
    return rows * size + columns, positions.ravel()
