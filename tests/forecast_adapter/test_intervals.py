"""95 % intervals of correlated series, against series whose right interval is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from dacycle.forecast_adapter.intervals import FEWEST_EFFECTIVE, mean_interval, trend_interval

TRIALS = 4000


def autoregressive(memory: float, days: int, trials: int = TRIALS) -> np.ndarray:
    """Return 6-hourly series (trials, 4 days) of variance 1 whose correlation falls to 1/e in `memory` days."""
    generator = np.random.default_rng(7)
    kept, size = np.exp(-0.25 / memory), 4 * days
    shocks = generator.standard_normal((trials, size)) * np.sqrt(1 - kept**2)
    shocks[:, 0] = generator.standard_normal(trials)
    return lfilter([1.0], [1.0, -kept], shocks, axis=1)


def right_error(weights: np.ndarray, memory: float) -> float:
    """Return the standard deviation of a weighted sum of such a series, from its correlation matrix."""
    lag = np.abs(np.subtract.outer(np.arange(len(weights)), np.arange(len(weights)))) / 4
    return float(np.sqrt(weights @ np.exp(-lag / memory) @ weights))


@pytest.mark.parametrize("days", [20, 90])
@pytest.mark.parametrize("memory", [1.5, 2.5, 4.0])
def test_intervals_are_as_wide_as_they_should_be(memory: float, days: int) -> None:
    """The mean width is within 10 % of 2 x 1.96 standard deviations of the mean; with blocks alone it is 0.6 to 0.9."""
    times = np.arange(4 * days) / 4
    right = 1.96 * right_error(np.full(len(times), 1 / len(times)), memory)
    found = [mean_interval(times, series) for series in autoregressive(memory, days)]
    assert np.mean([x.high - x.low for x in found]) / 2 == pytest.approx(right, rel=0.1)
    held = np.mean([x.low < 0 < x.high for x in found])
    assert held > (0.89 if days == 90 else 0.75), "a short series tells its own memory badly"
    effective = 1 / right_error(np.full(len(times), 1 / len(times)), memory) ** 2
    assert np.median([x.effective for x in found]) == pytest.approx(effective, rel=0.1, abs=2)


@pytest.mark.parametrize("memory", [1.5, 2.5, 4.0])
def test_intervals_of_trends_are_as_wide_as_they_should_be(memory: float) -> None:
    times = np.arange(360) / 4
    centred = times - times.mean()
    right = 1.96 * right_error(centred / np.square(centred).sum(), memory)
    found = [trend_interval(times, 3 + 0.7 * times + series) for series in autoregressive(memory, 90)]
    assert np.mean([x.high - x.low for x in found]) / 2 == pytest.approx(right, rel=0.1)
    assert np.mean([x.low < 0.7 < x.high for x in found]) > 0.89


def test_independent_values_have_the_interval_of_textbooks() -> None:
    series = np.random.default_rng(1).normal(size=4000)
    found = mean_interval(np.arange(4000) * 10.0, series)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * series.std(ddof=1) / np.sqrt(4000), rel=1e-3)
    assert found.effective == pytest.approx(4000)


def test_daily_values_and_six_hourly_ones_tell_the_same() -> None:
    """Four values a day hold hardly more than their mean, and an oscillation within the day holds nothing."""
    (series,) = autoregressive(2.5, 90, trials=1)
    wave = 3 * np.cos(np.pi * np.arange(360))
    by_day = mean_interval(np.arange(90), series.reshape(90, 4).mean(1))
    for values in (series, series + wave):
        found = mean_interval(np.arange(360) / 4, values)
        assert found.high - found.low == pytest.approx(by_day.high - by_day.low, rel=0.1)


@given(st.floats(-50, 50), st.floats(0.1, 10), st.integers(0, 100))
@settings(max_examples=25)
def test_an_interval_moves_and_stretches_with_the_series(shift: float, scale: float, seed: int) -> None:
    days, series = np.arange(60.0), np.random.default_rng(seed).normal(size=60)
    plain, moved = mean_interval(days, series), mean_interval(days, scale * series + shift)
    assert plain.low < plain.estimate < plain.high
    for name in ("estimate", "low", "high"):
        assert getattr(moved, name) == pytest.approx(scale * getattr(plain, name) + shift, abs=1e-8)
    assert moved.effective == pytest.approx(plain.effective)


def test_the_trend_is_the_least_squares_slope() -> None:
    days = np.sort(np.random.default_rng(2).uniform(0, 60, 100))
    values = 3 - 0.2 * days + np.random.default_rng(3).normal(size=100)
    found = trend_interval(days, values)
    assert found.estimate == pytest.approx(np.polyfit(days, values, 1)[0])
    assert found.excludes_zero


@pytest.mark.parametrize(
    ("size", "spacing", "there"), [(79, 0.25, False), (80, 0.25, True), (19, 1, False), (4, 9, True)]
)
def test_an_interval_needs_four_blocks_of_five_days(size: int, spacing: float, there: bool) -> None:
    series, days = np.random.default_rng(0).normal(size=size), spacing * np.arange(size)
    for found in (mean_interval(days, series), trend_interval(days, series)):
        assert np.isfinite([found.low, found.high, found.effective]).tolist() == [there] * 3
        assert np.isfinite(found.estimate)
        assert not (found.excludes_zero and not there)


def test_an_interval_of_few_effective_values_does_not_exclude_zero() -> None:
    days = np.arange(80) / 4
    found = mean_interval(days, 5 + np.sin(days / 5))
    assert found.low > 0
    assert found.effective < FEWEST_EFFECTIVE
    assert not found.excludes_zero


def automatic_block_length(series: np.ndarray) -> int:
    """Return the length of blocks of a circular bootstrap, from the series' own autocorrelation.

    Politis and White 2004 (doi:10.1081/ETC-120028836), as corrected by Patton, Politis and White 2009
    (doi:10.1080/07474930802459016).
    """
    size, centred = len(series), series - series.mean()
    covariance = np.array([centred[: size - lag] @ centred[lag:] for lag in range(size // 3)]) / size
    small = np.abs(covariance / covariance[0]) < 2 * np.sqrt(np.log10(size) / size)
    needed = max(5, round(np.sqrt(np.log10(size))))
    last = next(m for m in range(size) if small[m + 1 : m + 1 + needed].all())
    lags = np.arange(-2 * max(last, 1), 2 * max(last, 1) + 1)
    window = np.minimum(1, 2 * (1 - np.abs(lags) / lags[-1])) * covariance[np.abs(lags)]
    ratio = (window @ np.abs(lags)) ** 2 / (2 / 3 * window.sum() ** 2)
    return max(1, round((ratio * size) ** (1 / 3)))


def test_the_length_of_blocks_is_the_published_one_of_an_autoregressive_series() -> None:
    """With R(k) = f^|k| the sums have closed forms: G = 2f / (1-f)^2 and g(0) = (1+f) / (1-f)."""
    kept, size = np.exp(-1 / 2.5), 20000
    (series,) = autoregressive(2.5, size, trials=1)[:, ::4]
    right = ((2 * kept / (1 - kept) ** 2) ** 2 / (2 / 3 * ((1 + kept) / (1 - kept)) ** 2) * size) ** (1 / 3)
    assert automatic_block_length(series) == pytest.approx(right, rel=0.1)


@pytest.mark.parametrize("memory", [1.5, 4.0])
def test_on_long_series_a_block_bootstrap_with_automatic_blocks_agrees(memory: float) -> None:
    """Circular blocks; daily values."""
    generator, ratios = np.random.default_rng(1), []
    for series in autoregressive(memory, 1200, trials=16)[:, ::4]:
        length, size = automatic_block_length(series), len(series)
        sums = np.cumsum(np.concatenate([[0.0], series, series[:length]]))
        means = (sums[length:] - sums[:-length])[:size] / length
        drawn = means[generator.integers(size, size=(1000, round(size / length)))].mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        found = mean_interval(np.arange(size), series)
        ratios.append((high - low) / (found.high - found.low))
    assert np.mean(ratios) == pytest.approx(0.91, abs=0.07), "the bootstrap is a little narrower even then"


def test_the_p_value_is_that_of_the_interval() -> None:
    days, series = np.arange(400.0), np.random.default_rng(5).normal(size=400)
    plain = mean_interval(days, series)
    at_the_end = series - plain.low
    assert mean_interval(days, at_the_end).p_value == pytest.approx(0.05, abs=1e-4)
    assert mean_interval(days, series + 9).p_value < 1e-12
    assert np.isnan(mean_interval(days[:12], series[:12]).p_value)
    assert mean_interval(days, np.zeros(400)).p_value == 1


def test_equal_values_have_no_width() -> None:
    found = mean_interval(np.arange(30), np.full(30, 2.0))
    assert (found.estimate, found.low, found.high) == (2.0, 2.0, 2.0)


def test_a_hole_and_times_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_interval(np.arange(3), np.array([1.0, np.nan, 3.0]))
    with pytest.raises(ValueError, match="increasing time"):
        mean_interval(np.array([0.0, 2.0, 1.0]), np.ones(3))
    with pytest.raises(ValueError, match="two times"):
        trend_interval(np.zeros(1), np.ones(1))
