"""What is usual in a run, and how strongly a cycle departs from it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from dacycle.cycler.verification import usual

KEY = ("rms", "sondes", "t", "surface")


def series(values, key=KEY, start="2024-01-01"):
    times = pd.date_range(start, periods=len(values), freq="6h", name="time")
    columns = pd.MultiIndex.from_tuples([key], names=["quantity", "source", "variable", "layer"])
    return pd.DataFrame(np.asarray(values, float)[:, None], times, columns)


def test_deviations_of_noise_are_those_of_a_normal_distribution():
    """Also early, where few cycles say what is usual: Student's t counts for that."""
    noise = np.random.default_rng(1).normal(5.0, 2.0, (400, 300))
    times = pd.date_range("2024-01-01", periods=400, freq="6h", name="time")
    keys = [("rms", "s", str(i), "") for i in range(300)]
    found = usual.deviations(pd.DataFrame(noise, times, pd.MultiIndex.from_tuples(keys)))
    assert found.iloc[: 4 * usual.FEWEST].isna().all(axis=None)
    assert 0.85 < found.iloc[200:].std(axis=None) < 1.05
    early = found.iloc[20:24].to_numpy().ravel()
    assert kstest(early, "norm").statistic < 0.1
    assert np.abs(early).max() < usual.LIMIT


def test_hours_are_compared_with_the_same_hour():
    daily = np.tile([0.0, 3.0, 8.0, 3.0], 20) + np.random.default_rng(2).normal(0, 0.1, 80)
    assert usual.deviations(series(daily)).abs().max(axis=None) < usual.LIMIT
    daily[-1] = daily[-2]
    assert usual.deviations(series(daily)).iloc[-1, 0] > usual.LIMIT


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 100), st.floats(-50, 50), st.integers(0, 1000))
def test_deviations_do_not_depend_on_the_unit(factor, shift, seed):
    values = np.random.default_rng(seed).normal(0, 10, 60)
    own = usual.deviations(series(values))
    other = usual.deviations(series(factor * values + shift))
    if (own.abs() < 5).all(axis=None):
        np.testing.assert_allclose(other.dropna(), own.dropna(), rtol=1e-4, atol=1e-4)


def test_a_small_steady_shift_is_found_within_a_day():
    values = np.random.default_rng(3).normal(0, 1, 164)
    values[160:] += 4
    strength = usual.strengths(usual.deviations(series(values)))[KEY]
    assert strength.iloc[:160].abs().max() < usual.LIMIT
    assert strength.iloc[160:].max() > usual.LIMIT


def test_a_series_that_hardly_varied_is_not_unusual_for_a_trifle():
    values = np.full(80, 1.0)
    values[-1] += 0.01
    assert abs(usual.deviations(series(values)).iloc[-1, 0]) < 1


def test_missing_values_are_no_zeros():
    values = np.random.default_rng(4).normal(0, 1, 80)
    values[::4] = np.nan
    assert usual.deviations(series(values))[KEY].iloc[::4].isna().all()
    assert usual.strengths(usual.deviations(series(values))).abs().max(axis=None) < usual.LIMIT
    assert usual.typical(series(values[:77])).isna().all(), "no cycle at this hour had a value"
    assert usual.typical(series(values[:78])).notna().all()


@pytest.mark.parametrize("huge", [1e6, -1e6])
def test_a_departure_beyond_all_measure_is_finite(huge):
    values = np.random.default_rng(5).normal(0, 1, 80)
    values[-1] = huge
    found = usual.deviations(series(values)).iloc[-1, 0]
    assert np.isfinite(found)
    assert np.sign(found) == np.sign(huge)
