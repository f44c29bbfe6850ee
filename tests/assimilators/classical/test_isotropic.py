"""Isotropic optimal interpolation against the textbook formula, and its invariants."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist

from dacycle.assimilators.base import AssimilatorError
from dacycle.assimilators.classical.isotropic import (
    MOST_OBSERVATIONS,
    ErrorStatistics,
    covariance,
    estimate_statistics,
    increment,
    weights,
)
from dacycle.forecast_adapter.states.points import positions

ERRORS = ErrorStatistics(background_error=2.0, observation_error=1.0, length_km=120.0, reach_km=600.0)


def places(n: int, seed: int, size: float = 10.0) -> np.ndarray:
    """Return points in a square of `size` degrees in Europe."""
    rng = np.random.default_rng(seed)
    return positions(45 + size * rng.random(n), 5 + size * rng.random(n))


def analyse(points, stations, departures, errors, statistics=ERRORS):
    return increment(points, stations, weights(stations, departures, errors, statistics), statistics)


def gaspari_cohn(r: float) -> float:
    """Return equation 4.10 of Gaspari and Cohn, for distance over half the reach."""
    if r <= 1:
        return -(r**5) / 4 + r**4 / 2 + 5 * r**3 / 8 - 5 * r**2 / 3 + 1
    if r <= 2:
        return r**5 / 12 - r**4 / 2 + 5 * r**3 / 8 + 5 * r**2 / 3 - 5 * r + 4 - 2 / (3 * r)
    return 0.0


def test_the_textbooks_formula_with_dense_matrices() -> None:
    """x_a - x_b = B H^T (H B H^T + R)^-1 d, with B of points and stations together and H selecting the stations."""
    points, stations = places(40, 1), places(25, 2)
    rng = np.random.default_rng(3)
    departures, errors = rng.normal(size=25), 0.5 + rng.random(25)
    everything = np.concatenate([points, stations])
    distance = cdist(everything, everything)
    localisation = np.array([[gaspari_cohn(d / 300) for d in row] for row in distance])
    B = 4 * (1 + distance / 120) * np.exp(-distance / 120) * localisation
    H = np.eye(65)[40:]
    gain = B @ H.T @ np.linalg.inv(H @ B @ H.T + np.diag(errors**2))
    assert_allclose(analyse(points, stations, departures, errors), (gain @ departures)[:40], rtol=1e-9, atol=1e-12)


def test_the_covariance_is_one() -> None:
    """It has no negative eigenvalue on the whole sphere, even with a length that the localisation shortens."""
    everywhere = positions(*np.random.default_rng(0).uniform((-90, 0), (90, 360), (400, 2)).T)
    wide = ErrorStatistics(1.0, 1.0, 3000.0, 6000.0)
    assert np.linalg.eigvalsh(covariance(cdist(everywhere, everywhere), wide)).min() > -1e-9


@given(st.integers(0, 2**16), st.integers(1, 60))
def test_beyond_the_reach_nothing_changes_at_all(seed: int, n: int) -> None:
    points, stations = places(200, seed, size=40), places(n, seed + 1, size=3)
    departures = np.random.default_rng(seed).normal(size=n) * 10
    made = analyse(points, stations, departures, np.ones(n))
    beyond = cdist(points, stations).min(axis=1) > ERRORS.reach_km
    assert (made[beyond] == 0).all()
    assert (made[~beyond] != 0).any() or beyond.all()


@given(st.integers(0, 2**16), st.floats(-20, 20))
def test_a_perfect_observation_at_a_point_is_fitted(seed: int, departure: float) -> None:
    points = places(50, seed)
    made = analyse(points, points[7:8], np.array([departure]), np.array([1e-6]))
    assert made[7] == pytest.approx(departure, abs=1e-6)
    assert (abs(made) <= abs(departure) + 1e-9).all()


@given(st.integers(0, 2**16))
def test_order_and_repetition(seed: int) -> None:
    """The order of observations has no influence; two equal observations are one with half the variance."""
    points, stations = places(30, seed), places(12, seed + 1)
    departures, errors = np.random.default_rng(seed).normal(size=12), np.full(12, 0.8)
    turned = analyse(points, stations[::-1], departures[::-1], errors)
    assert_allclose(analyse(points, stations, departures, errors), turned, atol=1e-10)
    twice = analyse(points, np.repeat(stations, 2, axis=0), np.repeat(departures, 2), np.repeat(errors, 2))
    assert_allclose(twice, analyse(points, stations, departures, errors / 2**0.5), atol=1e-9)


def test_without_observations_nothing_changes() -> None:
    none = np.zeros(0)
    assert_array_equal(analyse(places(20, 1), np.zeros((0, 3)), none, none), np.zeros(20))


def test_statistics_are_found_again() -> None:
    """Departures are drawn with known errors, by the eigenvectors of their covariance."""
    stations = places(900, 5, size=15)
    values, vectors = np.linalg.eigh(covariance(cdist(stations, stations), ERRORS) + np.eye(900))
    draw = vectors @ (np.sqrt(values) * np.random.default_rng(6).normal(size=900))
    statistics = estimate_statistics(stations, draw, ERRORS.reach_km)
    assert statistics.background_error == pytest.approx(2.0, rel=0.15)
    assert statistics.observation_error == pytest.approx(1.0, rel=0.1)
    assert statistics.length_km == pytest.approx(120, rel=0.2)
    assert statistics.reach_km == ERRORS.reach_km
    assert estimate_statistics(stations, 100 * draw, ERRORS.reach_km).background_error == pytest.approx(
        100 * statistics.background_error, rel=1e-6
    )


def test_what_cannot_be_estimated_is_refused() -> None:
    noise = np.random.default_rng(0).normal(size=500)
    with pytest.raises(AssimilatorError, match="20 departures are too few"):
        estimate_statistics(places(20, 1), noise[:20], 1000.0)
    with pytest.raises(AssimilatorError, match="do not tell errors of the background from those of the observations"):
        estimate_statistics(places(500, 1), noise, 1000.0)
    with pytest.raises(AssimilatorError, match="do not tell"):
        estimate_statistics(places(500, 1), np.full(500, 3.0), 1000.0)


def test_input_that_makes_no_sense() -> None:
    stations, ones = places(3, 1), np.ones(3)
    with pytest.raises(AssimilatorError, match="finite"):
        weights(stations, np.array([1, np.nan, 1]), ones, ERRORS)
    with pytest.raises(AssimilatorError, match="above 0"):
        weights(stations, ones, np.array([1, 0, 1]), ERRORS)
    with pytest.raises(AssimilatorError, match="length_km is -1"):
        ErrorStatistics(1.0, 1.0, -1.0, 1000.0)
    many = MOST_OBSERVATIONS + 1
    with pytest.raises(AssimilatorError, match="thin them"):
        weights(np.zeros((many, 3)), np.zeros(many), np.ones(many), ERRORS)
