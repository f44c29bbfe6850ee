"""What is usual in a run, and how strongly a cycle departs from it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacycle.cycler.verification import usual

KEY = ("rms", "sondes", "t", "surface")


def series(values, key=KEY, start="2024-01-01"):
    times = pd.date_range(start, periods=len(values), freq="6h", name="time")
    columns = pd.MultiIndex.from_tuples([key], names=["quantity", "source", "variable", "layer"])
    return pd.DataFrame(np.asarray(values, float)[:, None], times, columns)


def test_noise_is_not_unusual_even_where_few_cycles_say_what_is_usual():
    """Of 120,000 values of 300 series none is beyond the limit, and the scale is that of standard deviations."""
    noise = np.random.default_rng(1).normal(5.0, 2.0, (400, 300))
    times = pd.date_range("2024-01-01", periods=400, freq="6h", name="time")
    keys = [("rms", "s", str(i), "") for i in range(300)]
    found = usual.strengths(pd.DataFrame(noise, times, pd.MultiIndex.from_tuples(keys)))
    assert found.iloc[: 4 * usual.FEWEST].isna().all(axis=None)
    assert found.iloc[4 * usual.FEWEST :].notna().all(axis=None)
    assert 1.0 < found.median(axis=None) < 1.6, "the largest of three, of which two are nearly independent"
    assert found.max(axis=None) < usual.LIMIT


def test_hours_are_compared_with_the_same_hour():
    daily = np.tile([0.0, 3.0, 8.0, 3.0], 20) + np.random.default_rng(2).normal(0, 0.1, 80)
    assert usual.strengths(series(daily)).abs().max(axis=None) < usual.LIMIT
    daily[-1] = daily[-2]
    assert usual.strengths(series(daily)).iloc[-1, 0] > usual.LIMIT


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 100), st.floats(-50, 50), st.integers(0, 1000))
def test_deviations_do_not_depend_on_the_unit(factor, shift, seed):
    values = np.random.default_rng(seed).normal(0, 10, 60)
    own = usual.strengths(series(values))
    other = usual.strengths(series(factor * values + shift))
    if (own.abs() < 5).all(axis=None):
        np.testing.assert_allclose(other.dropna(), own.dropna(), rtol=1e-4, atol=1e-4)


def test_a_small_steady_shift_is_found_within_a_day():
    values = np.random.default_rng(3).normal(0, 1, 164)
    values[160:] += 4
    strength = usual.strengths(series(values))[KEY]
    assert strength.iloc[:160].abs().max() < usual.LIMIT
    assert strength.iloc[160:].max() > usual.LIMIT


def test_a_series_that_hardly_varied_is_not_unusual_for_a_trifle():
    values = np.full(80, 1.0)
    values[-1] += 0.01
    assert abs(usual.strengths(series(values)).iloc[-1, 0]) < 1


def test_missing_values_are_no_zeros():
    values = np.random.default_rng(4).normal(0, 1, 80)
    values[::4] = np.nan
    assert usual.strengths(series(values)).max(axis=None) < usual.LIMIT
    assert usual.typical(series(values[:77])).isna().all(), "no cycle at this hour had a value"
    assert usual.typical(series(values[:78])).notna().all()


@pytest.mark.parametrize("huge", [1e6, -1e6])
def test_a_departure_beyond_all_measure_is_finite(huge):
    values = np.random.default_rng(5).normal(0, 1, 80)
    values[-1] = huge
    assert usual.LIMIT < usual.strengths(series(values)).iloc[-1, 0] < np.inf


def test_a_jump_of_a_series_that_changes_slowly_is_found_at_once():
    """As of mean departures, which wander for days: the level alone says less."""
    random = np.random.default_rng(6)
    values = np.zeros(120)
    for i in range(1, 120):
        values[i] = 0.95 * values[i - 1] + random.normal(0, 0.1)
    assert usual.strengths(series(values)).max(axis=None) < usual.LIMIT
    values[-1] += 1.0
    assert usual.strengths(series(values)).iloc[-1, 0] > usual.LIMIT


def test_errors_of_a_day_are_compared_with_days_before_that_share_none_of_its_cycles():
    logs = 0.05 * np.sin(np.arange(40.0))
    errors = pd.Series(np.exp([*logs, *np.full(4, 0.5)]))
    past = [np.log(np.exp(logs[first : first + 4]).mean()) for first in range(37)]
    typical, strength = usual.newest_of_errors(errors, together=4)
    assert typical == pytest.approx(np.exp(np.median(past)))
    assert strength > usual.LIMIT
    assert usual.newest_of_errors(errors[:-4], together=4)[1] < 3
    for few in (0, 1, 3, 4, 11):
        assert np.isnan(usual.newest_of_errors(errors[:few], together=4)).all(), "of four days before, too few to say"
