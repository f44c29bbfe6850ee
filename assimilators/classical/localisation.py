"""Localisation: how much an observation counts at a distance, and which observed cells count at which grid points.

R-localisation: an observation becomes less certain with distance (Hunt et al. 2007, doi:10.1016/j.physd.2006.11.008),
until from the reach on it does not count at all.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import AssimilatorError
from dacycle.forecast_adapter.grid import Grid, great_circle_km

__all__ = ["Blocks", "Surroundings", "gaspari_cohn", "interpolation", "triangle", "upper_squares"]


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
        if width % block:
            raise AssimilatorError(f"{grid.name} has rows of {width} cells, which blocks of {block} do not fill")
        self._block, self._width = block, width
        latitude, longitude = np.asarray(grid.latitude, float), np.asarray(grid.longitude, float)
        points = np.interp(_block_centres(height, block), np.arange(height), latitude)
        self.shape = len(points), width // block
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


def _block_centres(size: int, block: int) -> NDArray[np.float64]:
    """Return the mean index of each block along an axis; the last one may have fewer cells."""
    blocks = np.array_split(np.arange(size), range(block, size, block))
    return np.array([cells.mean() for cells in blocks])


def interpolation(size: int, block: int, periodic: bool) -> NDArray[np.float32]:
    """Return the matrix (size, blocks) that interpolates from centres of blocks linearly to single cells.

    Beyond the last centres it holds their values, or goes around where the axis is periodic.
    """
    centres = _block_centres(size, block)
    values = np.eye(len(centres))
    if periodic:
        centres = np.array([centres[-1] - size, *centres, centres[0] + size])
        values = np.concatenate([values[-1:], values, values[:1]])
    return np.stack([np.interp(np.arange(size), centres, column) for column in values.T], axis=1).astype(np.float32)


class Blocks:
    """Interpolate fields from the centres of a grid's square blocks of cells to its cells, a row at a time.

    Weights vary smoothly, so that they need not be computed in every cell (Yang et al. 2009, doi:10.1002/qj.353).

    Args:
        grid: the grid.
        block: cells along a side of a block; with 1 fields stay as they are.
    """

    def __init__(self, grid: Grid, block: int) -> None:
        height, self._width = grid.shape
        self._along_rows, self._along_columns = (
            interpolation(height, block, False),
            interpolation(self._width, block, True),
        )

    def rows(self, *fields: NDArray) -> Iterator[tuple[slice, list[NDArray]]]:
        """Yield a row's cells, as flat indices, and there each of some fields (rows', columns', ...), (W, ...)."""
        for row, along in enumerate(self._along_rows):
            cells = slice(row * self._width, (row + 1) * self._width)
            yield cells, [np.tensordot(self._along_columns, np.tensordot(along, field, 1), 1) for field in fields]


def triangle(size: int) -> tuple[NDArray, NDArray]:
    """Return the indices that take the upper triangle out of a flat symmetric matrix, and those that restore it.

    Returns:
        (n,) indices of the upper triangle in the flat (size, size) matrix; (size * size,) indices into the triangle.
    """
    rows, columns = np.triu_indices(size)
    positions = np.empty((size, size), int)
    positions[rows, columns] = positions[columns, rows] = np.arange(len(rows))
    return rows * size + columns, positions.ravel()


def upper_squares(Y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the upper triangles (C, n) of Y^T Y for each of C matrices Y (C, F, K), n = K (K + 1) / 2."""
    size = Y.shape[2]
    upper, _ = triangle(size)
    squares = np.empty((len(Y), len(upper)), np.float32)
    whole = np.empty((size, size), np.float32)  # one at a time: it stays in the processor's cache
    for matrix, square in zip(Y, squares, strict=True):
        np.matmul(matrix.T, matrix, out=whole)
        np.take(whole.ravel(), upper, out=square, mode="clip")
    return squares
