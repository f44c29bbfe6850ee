"""Interpolation from blocks of cells to cells, and the points that observed cells surround."""

import numpy as np
import pytest

from dacycle.assimilators import AssimilatorError
from dacycle.assimilators.classical.localisation import Surroundings, gaspari_cohn, interpolation
from dacycle.forecast_adapter.grid import Grid, get_grid, great_circle_km


@pytest.mark.parametrize(("size", "block"), [(8, 2), (7, 2), (9, 3), (5, 1)])
def test_interpolation_keeps_constants_and_slopes(size: int, block: int) -> None:
    centres = np.array([np.arange(size)[first : first + block].mean() for first in range(0, size, block)])
    for periodic in (False, True):
        np.testing.assert_allclose(interpolation(size, block, periodic).sum(axis=1), 1)
    found = interpolation(size, block, False) @ centres
    np.testing.assert_allclose(found, np.clip(np.arange(size), centres[0], centres[-1]), atol=1e-6)


def test_interpolation_goes_around() -> None:
    np.testing.assert_allclose(interpolation(8, 2, True)[[0, 7]], [[0.75, 0, 0, 0.25], [0.25, 0, 0, 0.75]])
    np.testing.assert_allclose(interpolation(8, 2, False)[[0, 7]], [[1, 0, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("name", ["5.625deg", "1.5deg"])
@pytest.mark.parametrize("block", [1, 2])
def test_a_cell_counts_by_its_distance_from_the_centre_of_the_block(name: str, block: int) -> None:
    """Also where the rows are odd in number, and a last block has one row."""
    grid = get_grid(name)
    surroundings = Surroundings(grid, 2000.0, block)
    height, width = grid.shape
    cells = np.sort(np.random.default_rng(0).choice(height * width, 60, replace=False))
    reached = 0
    for row in range(surroundings.shape[0]):
        columns, near, localisation = surroundings.of_row(row, cells)
        latitude = grid.latitude[row * block : (row + 1) * block].mean()
        longitude = (np.asarray(grid.longitude).reshape(-1, block).mean(axis=1))[columns]
        rows, turns = np.divmod(cells[near], width)
        distance = great_circle_km(latitude, longitude[:, None], grid.latitude[rows], grid.longitude[turns])
        np.testing.assert_allclose(localisation, gaspari_cohn(distance, 2000.0), atol=1e-4)
        reached += len(columns)
    assert reached > 0


def test_blocks_that_do_not_fill_a_row_are_refused() -> None:
    grid = Grid("odd", 90 - 45 * (np.arange(4) + 0.5), 72.0 * np.arange(5))
    with pytest.raises(AssimilatorError, match="odd has rows of 5 cells, which blocks of 2 do not fill"):
        Surroundings(grid, 1000.0, 2)
