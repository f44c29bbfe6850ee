"""Scores against values by hand and independent libraries, and their mathematical properties."""

import numpy as np
import pytest
import scores as independent
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.grid import GridError, get_grid

GRID = get_grid("5.625deg")
GLOBE = list(scores.REGIONS).index("globe")


def fields(seed: int, channels: int = 3, grid=GRID) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, *grid.shape)).astype(np.float32) * 7 + 100


def as_xarray(array: np.ndarray, grid=GRID) -> xr.DataArray:
    coordinates = {"latitude": grid.latitude, "longitude": grid.longitude}
    return xr.DataArray(array.astype(np.float64), dims=("channel", "latitude", "longitude"), coords=coordinates)


@pytest.mark.parametrize("name", ["5.625deg", "1.5deg"])
def test_errors_agree_with_the_scores_package(name):
    grid = get_grid(name)
    forecast, truth = fields(1, grid=grid), fields(2, grid=grid)
    a, b = as_xarray(forecast, grid), as_xarray(truth, grid)
    weights = xr.DataArray(grid.weights, coords=a.isel(channel=0).coords)
    # `scores` weights but does not normalise; the mean weight of a grid is one.
    for ours, theirs in [
        (scores.mse, independent.continuous.mse),
        (scores.mae, independent.continuous.mae),
        (scores.bias, independent.continuous.additive_bias),
    ]:
        expected = theirs(a, b, preserve_dims="channel", weights=weights)
        np.testing.assert_allclose(ours(forecast, truth, grid)[:, GLOBE], expected, rtol=1e-5, atol=1e-6)


def test_regional_means_agree_with_xarray():
    data = fields(3)
    area = xr.DataArray(GRID.weights[:, 0], coords={"latitude": GRID.latitude})
    for number, (south, north) in enumerate(scores.REGIONS.values()):
        part = as_xarray(data).sel(latitude=slice(north, south))
        expected = part.weighted(area.sel(latitude=slice(north, south))).mean(("latitude", "longitude"))
        np.testing.assert_allclose(scores.region_means(data, GRID)[:, number], expected, rtol=1e-6)


def test_rmse_is_the_root_of_the_mean_over_times():
    # Errors of 3 and 4 at two times: sqrt((9 + 16) / 2), not (3 + 4) / 2.
    truth = np.zeros((2, 1, *GRID.shape), dtype=np.float32)
    forecast = truth + np.array([3.0, 4.0])[:, None, None, None]
    errors = scores.mse(forecast, truth, GRID)
    np.testing.assert_allclose(scores.rmse(errors), np.sqrt(12.5))
    np.testing.assert_allclose(scores.bias(forecast, truth, GRID)[:, 0, GLOBE], [3, 4])


def test_area_weights_on_a_grid_with_poles():
    # An error of 1 within 30 degrees of the poles covers 1 - sin(60 degrees) of the sphere.
    grid = get_grid("1.5deg")
    cap = (np.abs(grid.latitude) > 60).astype(np.float32)[:, None] * np.ones(grid.shape, dtype=np.float32)
    assert scores.region_means(cap, grid)[GLOBE] == pytest.approx(1 - np.sin(np.deg2rad(60.75)), rel=1e-6)


@pytest.mark.parametrize("name", ["5.625deg", "1.5deg", "0.25deg"])
def test_regions_are_a_partition_of_the_globe(name):
    weights = scores.region_weights(get_grid(name))
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    inside = weights[1:] > 0
    assert (inside.sum(axis=0) == 1).all()


@pytest.mark.parametrize(("latitude", "region"), [(20.0, "northern extratropics"), (-20.0, "southern extratropics")])
def test_a_row_at_exactly_20_degrees_is_extratropical(latitude, region):
    grid = get_grid("0.25deg")
    row = np.zeros(grid.shape, np.float32)
    row[grid.latitude == latitude] = 1
    means = dict(zip(scores.REGIONS, scores.region_means(row, grid), strict=True))
    assert {name for name, mean in means.items() if mean > 0} == {"globe", region}


def test_a_missing_value_is_never_averaged_away():
    forecast = fields(1)
    forecast[1, 16, 0] = np.nan  # in the tropics
    found = np.isnan(scores.mse(forecast, fields(2), GRID))
    assert found[1].tolist() == [True, False, True, False]
    assert not found[[0, 2]].any()


def test_fields_of_another_grid_are_refused():
    with pytest.raises(GridError, match="4, 4"):
        scores.mse(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), GRID)


def test_anomaly_correlation_by_hand_and_by_numpy():
    truth, forecast, climatology = fields(1), fields(2), np.full((3, *GRID.shape), 100.0)
    a, b, w = forecast - climatology, truth - climatology, GRID.weights
    expected = (w * a * b).sum((1, 2)) / np.sqrt((w * a * a).sum((1, 2)) * (w * b * b).sum((1, 2)))
    found = scores.anomaly_correlation(forecast, truth, climatology, GRID)
    np.testing.assert_allclose(found[:, GLOBE], expected, rtol=1e-6)
    np.testing.assert_allclose(scores.anomaly_correlation(truth, truth, climatology, GRID), 1)
    mirrored = 2 * climatology - truth
    np.testing.assert_allclose(scores.anomaly_correlation(mirrored, truth, climatology, GRID), -1)


def test_anomaly_correlation_of_climatology_is_undefined():
    truth, climatology = fields(1), np.full((3, *GRID.shape), 100.0)
    assert np.isnan(scores.anomaly_correlation(climatology, truth, climatology, GRID)).all()


def test_spectrum_finds_a_wave_and_keeps_variance():
    longitude = np.deg2rad(GRID.longitude)
    wave = np.broadcast_to(5 + 3 * np.cos(7 * longitude + 1) + 2 * np.cos(32 * longitude), GRID.shape)
    power = scores.zonal_power_spectrum(wave, GRID)
    assert power.shape == (33,)
    assert power[0] == pytest.approx(25)
    assert power[7] == pytest.approx(9 / 2)
    assert power[32] == pytest.approx(4)  # at the Nyquist wavenumber a cosine is +-2 everywhere
    assert power.sum() == pytest.approx(25 + 4.5 + 4)


@given(st.integers(0, 2**31))
@settings(max_examples=20)
def test_parseval(seed):
    data = fields(seed)
    mean_square = scores.region_means(np.square(data.astype(np.float64)), GRID)[:, GLOBE]
    np.testing.assert_allclose(scores.zonal_power_spectrum(data, GRID).sum(-1), mean_square, rtol=1e-6)


@given(st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=40), st.floats(1e-3, 1e3))
@settings(max_examples=50)
def test_divergence_judges_shape_and_is_never_negative(power, scale):
    power = np.array(power)
    other = power[::-1].copy()
    assert scores.spectral_divergence(scale * power, power) == pytest.approx(0, abs=1e-9)
    assert scores.spectral_divergence(other, power) >= -1e-9


def test_divergence_of_a_smoothed_field_by_hand():
    # p = (1/2, 1/2), q = (3/4, 1/4): ln(2/3)/2 + ln(2)/2
    found = scores.spectral_divergence(np.array([9.0, 3.0, 1.0]), np.array([1.0, 5.0, 5.0]))
    assert found == pytest.approx(0.5 * np.log(2 / 3) + 0.5 * np.log(2))
    assert scores.spectral_divergence(np.array([0.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0])) == np.inf
    nothing, something = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 1.0])
    assert scores.spectral_divergence(nothing, something) == np.inf
    assert np.isnan(scores.spectral_divergence(something, nothing))
    assert np.isnan(scores.spectral_divergence(np.array([1.0, np.nan, 1.0]), something))


def test_lead_time_lost_by_hand():
    leads = np.array([0.0, 6.0, 12.0, 18.0, 24.0])
    reference = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    # An analysis as good as a 6-h forecast that never catches up; the last error lies beyond the reference's.
    np.testing.assert_allclose(scores.lead_time_lost(leads, reference + 1, reference), [6, 6, 6, 6, np.nan])
    np.testing.assert_allclose(scores.lead_time_lost(leads, reference + 0.25, reference)[:4], 1.5)


def test_lead_time_lost_takes_the_first_lead_at_which_a_wavering_reference_has_the_error():
    leads = np.array([0.0, 6.0, 12.0, 18.0, 24.0])
    # Errors of few forecasts may fall: 1.8 is first reached after 5.4 h, 2.8 after 11.4 h although the last is 2.5.
    dip = scores.lead_time_lost(leads, np.full(5, 1.8), np.array([0.0, 2.0, 1.0, 1.5, 3.0]))
    np.testing.assert_allclose(dip, 5.4 - leads)
    fall = scores.lead_time_lost(leads, np.full(5, 2.8), np.array([0.0, 1.0, 3.0, 2.9, 2.5]))
    np.testing.assert_allclose(fall, 11.4 - leads)


@given(st.lists(st.floats(0.01, 10), min_size=4, max_size=20), st.floats(0, 5))
@settings(max_examples=50)
def test_lead_time_lost_is_zero_against_itself_and_grows_with_error(steps, more):
    errors = np.concatenate([[0.0], np.cumsum(steps)])
    leads = 6.0 * np.arange(errors.size)
    np.testing.assert_allclose(scores.lead_time_lost(leads, errors, errors), 0, atol=1e-6)
    worse = scores.lead_time_lost(leads, errors + more, errors)
    assert (worse[~np.isnan(worse)] >= -1e-6).all()


@given(mean=st.floats(-3, 3), spread=st.floats(0.05, 3), truth=st.floats(-5, 5))
@settings(max_examples=30)
def test_the_crps_of_a_gaussian_is_its_integral(mean: float, spread: float, truth: float) -> None:
    """The integrand is the squared difference between the distribution function and the step at the truth."""
    x = np.linspace(-40, 40, 400_001)
    squared = np.square(norm.cdf(x, mean, spread) - (x >= truth))
    found = scores.gaussian_crps(np.array(mean), np.array(spread), np.array(truth))
    assert float(found) == pytest.approx(np.trapezoid(squared, x), abs=1e-3)


def test_without_spread_the_crps_is_the_absolute_error() -> None:
    assert float(scores.gaussian_crps(np.array(1.0), np.array(0.0), np.array(3.0))) == 2.0


def test_a_wave_stands_at_its_total_wavenumber() -> None:
    y, x = np.arange(32)[:, None], np.arange(64)[None]
    wave = np.cos(2 * np.pi * (3 * y / 32 + 4 * x / 64))
    power = scores.radial_power_spectrum(wave[None])[0]
    assert power.argmax() + 1 == 5  # sqrt(3^2 + 4^2); the first bin is wavenumber 1
    assert power[4] > 1e6 * np.delete(power, 4).max()


def test_published_specdiv_sees_only_the_last_tenth_of_the_spectrum() -> None:
    generator = np.random.default_rng(0)
    truth = scores.radial_power_spectrum(generator.standard_normal((32, 64)))
    large, small = truth.copy(), truth.copy()
    large[:10] *= 3
    small[-1] *= 3
    assert scores.high_wavenumber_divergence(large, truth) == pytest.approx(0, abs=1e-12)
    assert scores.high_wavenumber_divergence(small, truth) > 1e-3


def test_ensemble_crps_is_that_of_the_definition_and_of_an_independent_library() -> None:
    generator = np.random.default_rng(8)
    members, truth = generator.normal(3, 2, (9, 4, 5)), generator.normal(3, 3, (4, 5))
    found = scores.ensemble_crps(members, truth)
    theirs = independent.probability.crps_for_ensemble(
        xr.DataArray(members, dims=("member", "y", "x")),
        xr.DataArray(truth, dims=("y", "x")),
        "member",
        method="fair",
        preserve_dims="all",
    )
    np.testing.assert_allclose(found, theirs, rtol=1e-12)
    # The integral of (F(x) - 1[x > y])^2 is the CRPS of the empirical distribution; a fair one has M-1 for M below.
    x = np.linspace(-20, 30, 200_001)
    distribution = (members[:, 1, 2][:, None] <= x).mean(axis=0)
    integral = np.trapezoid((distribution - (x >= truth[1, 2])) ** 2, x)
    differences = np.abs(members[:, None, 1, 2] - members[None, :, 1, 2]).sum()
    assert found[1, 2] == pytest.approx(integral - differences * (1 / (2 * 9 * 8) - 1 / (2 * 9 * 9)), abs=1e-3)


def test_fair_crps_does_not_depend_on_the_number_of_members() -> None:
    generator = np.random.default_rng(1)
    truth = generator.normal(size=40_000)
    of = [scores.ensemble_crps(generator.normal(size=(count, truth.size)), truth).mean() for count in (3, 40)]
    assert of == pytest.approx([1 / np.sqrt(np.pi)] * 2, rel=0.02)
