"""H of surface fields at points: heights, and the lapse rate of the day."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from dacycle.forecast_adapter.grid import EARTH_RADIUS_KM
from dacycle.forecast_adapter.states.points import PointFields
from dacycle.obs_ingest.operators.points import PointOperator, lapse_rate, relief
from dacycle.obs_ingest.table import ObservationError
from tests.obs_ingest.helpers import observations

LATITUDE, LONGITUDE = (a.ravel() for a in np.meshgrid(np.arange(60, 39, -1.0), np.arange(0, 21, 1.0), indexing="ij"))


def fields(**values: float) -> PointFields:
    full = {name: np.full(len(LATITUDE), value) for name, value in values.items()}
    return PointFields(Path("f"), np.datetime64("2024-01-02T12", "h"), LATITUDE, LONGITUDE, full)


def test_t2m_is_moved_from_the_models_ground_and_nothing_else_is() -> None:
    table = observations(
        ["t2m", "t2m", "t2m", "msl", "u10", "td2m", "t2m"],
        280.0,
        latitude=[50.2, 50.2, 50.2, 50, 50, 50, 10],
        elevation=[100, 600, np.nan, 300, 300, 300, 100],
    )
    operator = PointOperator(fields(t2m=285.0, msl=1e5, u10=3.0), table, fields(orography=100.0))
    made = operator(operator_values := fields(t2m=285.0, msl=1e5, u10=3.0).values, 0.006)
    assert_allclose(made, [285, 282, np.nan, 1e5, 3, np.nan, np.nan])
    assert_allclose(operator(operator_values, 0.0)[:2], 285)


def test_relief() -> None:
    """A valley and a summit 3 km apart lie around their mean; a station alone is on its own ground."""
    latitude, longitude = np.array([47.0, 47.0, 60.0, 47.0, 47.0]), np.array([10.0, 10.04, 20.0, 10.0, 10.0])
    height = relief(latitude, longitude, np.array([500.0, 2500.0, 1200.0, 500.0, np.nan]), 60.0)
    assert_allclose(height, [-1000, 1000, 0, -1000, np.nan], atol=2)  # a place counts once however often it reports
    assert_array_equal(relief(latitude[:1], longitude[:1], np.array([np.nan]), 60.0), [np.nan])


@pytest.mark.parametrize("scales", [0.5, 1.5, 2.5])
def test_relief_weighs_neighbours_by_a_gaussian_of_their_distance(scales: float) -> None:
    latitude, longitude = np.array([0.0, 0.0]), np.array([10.0, 10.0 + np.rad2deg(scales * 60.0 / EARTH_RADIUS_KM)])
    weight = np.exp(-(scales**2) / 2)
    height = relief(latitude, longitude, np.array([0.0, 1000.0]), 60.0)
    assert_allclose(height, np.array([-1000, 1000]) * weight / (1 + weight), rtol=1e-3)


@given(st.integers(0, 2**16), st.floats(-3000, 3000))
def test_relief_does_not_depend_on_sea_level(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    latitude, longitude, elevation = rng.uniform(45, 48, 30), rng.uniform(5, 10, 30), rng.uniform(0, 3000, 30)
    made = relief(latitude, longitude, elevation, 50.0)
    assert_allclose(relief(latitude, longitude, elevation + shift, 50.0), made, atol=1e-6)


@given(st.floats(-3, 12), st.integers(0, 2**16))
def test_the_lapse_rate_is_found_in_spite_of_gross_errors(rate: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    heights = rng.normal(0, 300, 400)
    departures = 1.5 - rate / 1000 * heights + rng.normal(0, 0.5, 400)
    departures[:5] = 40.0
    departures[5], heights[6] = np.nan, np.nan
    assert 1000 * lapse_rate(departures, heights) == pytest.approx(rate, abs=0.5)


def test_too_little_for_a_lapse_rate() -> None:
    with pytest.raises(ObservationError, match="20 departures of 2-metre temperature"):
        lapse_rate(np.zeros(20), np.arange(20) * 100.0)
    with pytest.raises(ObservationError, match="differ by 0 m"):
        lapse_rate(np.zeros(200), np.zeros(200))
    with pytest.raises(ObservationError, match="0 departures"):
        lapse_rate(np.full(200, np.nan), np.zeros(200))
