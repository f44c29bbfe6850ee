"""The reach of an increment."""

import numpy as np
import pytest

from dacycle.assimilators.judging.evaluation import influence
from dacycle.forecast_adapter.grid import get_grid, great_circle_km

GRID = get_grid("1.5deg")
ROW, COLUMN = 40, 239  # beside the date line of the grid's own longitudes


def away():
    lat, lon = np.meshgrid(GRID.latitude, GRID.longitude, indexing="ij")
    return great_circle_km(lat, lon, np.array(GRID.latitude[ROW]), np.array(GRID.longitude[COLUMN]))


def test_the_half_peak_radius_is_that_of_a_round_increment():
    reach = influence(-np.exp(-((away() / 1000) ** 2)), GRID, ROW, COLUMN, 3000)
    assert reach.half_km == pytest.approx(1000 * np.sqrt(np.log(2)), rel=0.03)
    assert (reach.peak, reach.row, reach.column, reach.away_km) == (1, ROW, COLUMN, 0)
    assert reach.beyond == pytest.approx(np.exp(-9), rel=0.1)


def test_a_peak_away_from_the_observation_and_a_far_one_are_seen():
    field = np.zeros(GRID.shape)
    field[ROW + 2, COLUMN], field[100, 100] = 2.0, -0.5
    reach = influence(field, GRID, ROW, COLUMN, 3000)
    assert reach.away_km == pytest.approx(3 * 111.19, rel=1e-3)
    assert reach.beyond == 0.25


def test_no_increment_reaches_nowhere():
    reach = influence(np.zeros(GRID.shape), GRID, ROW, COLUMN, 3000)
    assert (reach.peak, reach.beyond, reach.half_km) == (0, 0, 0)
