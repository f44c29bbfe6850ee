"""Verification scores on a grid, in plain numpy.

Every spatial mean here is weighted by true cell area on the grid it is given, within one of the REGIONS. What
is kept per forecast or cycle is the weighted *mean squared* error, because means of it over any set of times
merge by adding up; its root is taken last, with :func:`rmse`. That is WeatherBench 2's variant, sqrt(mean
over times(MSE)), not the mean over times of sqrt(MSE) which other papers print and which is never larger
(Rasp et al. 2024, doi:10.1029/2023MS004019).

Arrays are (..., channel, latitude, longitude); scores are (..., channel, region) in the order of REGIONS,
float64, in the unit of the channel (squared for `mse`). A value that is not finite makes its score NaN:
nothing is left out of a mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from dacycle.forecast_adapter.channels import LEVELS
from dacycle.forecast_adapter.grid import Grid, GridError

Array = NDArray[np.floating]

#: Name of each region and its latitudes (south, north). A row at exactly 20 degrees belongs to the
#: extratropics, so that the last three regions are a partition of the first.
REGIONS: dict[str, tuple[float, float]] = {
    "globe": (-90.0, 90.0),
    "northern extratropics": (20.0, 90.0),
    "tropics": (-20.0, 20.0),
    "southern extratropics": (-90.0, -20.0),
}


def region_weights(grid: Grid) -> Array:
    """(region, latitude) area weights of a whole grid row, each region's summing to one.

    Raises ValueError where a region holds no row of the grid.
    """
    row = np.asarray(grid.weights, dtype=np.float64).mean(axis=1)
    latitude = np.asarray(grid.latitude, dtype=np.float64)
    inside = np.stack([latitude < np.inf, latitude >= 20.0, np.abs(latitude) < 20.0, latitude <= -20.0])
    weights = np.where(inside, row, 0.0)
    totals = weights.sum(axis=1, keepdims=True)
    if not (totals > 0).all():
        empty = [name for name, total in zip(REGIONS, totals[:, 0], strict=True) if not total > 0]
        raise ValueError(f"grid {grid.name} has no row in: {', '.join(empty)}")
    return weights / totals


def _check(fields: Array, grid: Grid) -> None:
    if fields.shape[-2:] != grid.shape:
        raise GridError(f"fields of shape {fields.shape} are not on the grid {grid.name} {grid.shape}")


def region_means(fields: Array, grid: Grid) -> Array:
    """Area-weighted means (..., region) of fields (..., latitude, longitude), in the unit of the fields."""
    _check(fields, grid)
    zonal = fields.mean(axis=-1, dtype=np.float64)
    # One region at a time, so that a missing value in one is not multiplied by a weight of zero in the
    # others.
    return np.stack([zonal[..., row > 0] @ row[row > 0] for row in region_weights(grid)], axis=-1)


def mse(forecast: Array, truth: Array, grid: Grid) -> Array:
    """Weighted mean squared error (..., region)."""
    return region_means(np.square(forecast - truth), grid)


def mae(forecast: Array, truth: Array, grid: Grid) -> Array:
    """Weighted mean absolute error (..., region): weights on the error, not on the two fields."""
    return region_means(np.abs(forecast - truth), grid)


def bias(forecast: Array, truth: Array, grid: Grid) -> Array:
    """Weighted mean of forecast minus truth (..., region)."""
    return region_means(forecast - truth, grid)


def rmse(mean_squared: Array, axis: int = 0) -> Array:
    """Root of the mean over an axis (usually times) of weighted mean squared errors, as WeatherBench 2 does."""
    return np.sqrt(np.mean(mean_squared, axis=axis))


def anomaly_correlation(forecast: Array, truth: Array, climatology: Array, grid: Grid) -> Array:
    """Uncentred anomaly correlation (..., region): sum(w a b) / sqrt(sum(w a a) sum(w b b)).

    a and b are the anomalies of forecast and truth from the climatology of the valid time; their own spatial
    means are not removed. NaN where either anomaly is zero everywhere, as a forecast of climatology itself
    is.
    """
    a, b = forecast - climatology, truth - climatology
    scale = np.sqrt(region_means(np.square(a), grid) * region_means(np.square(b), grid))
    product = region_means(a * b, grid)
    return np.divide(product, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def zonal_power_spectrum(fields: Array, grid: Grid) -> Array:
    """Power (..., W//2 + 1) by zonal wavenumber of fields (..., H, W), in the unit of the fields squared.

    One real FFT per latitude, averaged over latitudes with their areas. The sum over wavenumbers is the
    weighted mean of the squared field (Parseval), and over wavenumbers of at least 1 its variance along
    latitude circles.
    """
    _check(fields, grid)
    width = grid.shape[1]
    amplitude = np.fft.rfft(np.asarray(fields, dtype=np.float64), axis=-1) / width
    power = np.abs(amplitude) ** 2
    last = -1 if width % 2 == 0 else None  # the Nyquist wavenumber has no mirror image
    power[..., 1:last] *= 2.0
    return np.einsum("...hm,h->...m", power, region_weights(grid)[0])


def spectral_divergence(power: Array, reference: Array) -> Array:
    """Kullback-Leibler divergence sum(p ln(p/q)) of spectra (..., m), p the reference's and q this one's.

    Both are normalised to sum one over wavenumbers of at least 1: it is the *shape* that is judged, over the
    full zonal spectrum. (The published SpecDiv bins a two-dimensional FFT and keeps its last tenth, the
    corners beyond the zonal Nyquist wavenumber on a 121 x 240 grid: the numbers are not comparable.) Infinite
    where a scale the reference has is missing.
    """
    p, q = reference[..., 1:], power[..., 1:]
    p = p / p.sum(axis=-1, keepdims=True)
    q = q / q.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / q), 0.0)
    return terms.sum(axis=-1)


def radial_power_spectrum(fields: Array) -> Array:
    """Power (..., n) by total wavenumber of a two-dimensional FFT of fields (..., H, W), as published SpecDiv bins it.

    Bins are one wide, from 0.5 on; each holds the mean of the squared moduli in it. Wavenumbers of latitude and
    longitude are taken for the same unit, as there (ChaosBench, arXiv 2402.00712; DAMBench, arXiv 2511.01468).
    """
    height, width = fields.shape[-2:]
    power = np.abs(np.fft.fft2(np.asarray(fields, dtype=np.float64))) ** 2
    y, x = np.fft.fftfreq(height) * height, np.fft.fftfreq(width) * width
    bins = np.floor(np.hypot(y[:, None], x) + 0.5).astype(int).ravel()
    count = np.bincount(bins)
    flat = power.reshape(-1, height * width)
    sums = np.stack([np.bincount(bins, row, len(count)) for row in flat])
    return (sums / count)[:, 1:].reshape(*fields.shape[:-2], -1)


def high_wavenumber_divergence(power: Array, reference: Array) -> Array:
    """Published SpecDiv: `spectral_divergence` of the last tenth of radial spectra (..., n), averaged over samples."""
    first = int(np.ceil(0.9 * power.shape[-1]))
    # `spectral_divergence` leaves out the first of what it is given, the mean.
    return spectral_divergence(power[..., first - 1 :], reference[..., first - 1 :])


def gaussian_crps(mean: Array, spread: Array, truth: Array) -> Array:
    """Continuous ranked probability score of Gaussians at every point, in the unit of the fields.

    Source: Gneiting et al. (2005, doi:10.1175/MWR2904.1), equation 5. Without spread it is the absolute error.
    """
    error = np.asarray(truth, np.float64) - mean
    safe = np.where(spread > 0, spread, 1.0)
    z = error / safe
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    crps = safe * (z * erf(z / np.sqrt(2)) + 2 * density - 1 / np.sqrt(np.pi))
    return np.where(spread > 0, crps, np.abs(error))


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; low and high are NaN where the series is too short to give one."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies wholly on one side of zero (False where there is no interval)."""
        return self.low > 0 or self.high < 0


#: A block bootstrap of fewer blocks than this gives intervals that are much too narrow, so it gives none.
FEWEST_BLOCKS = 4


def mean_interval(values: Array, block: int, samples: int = 2000, seed: int = 0) -> Interval:
    """Mean of a series (n,) with a 95 % interval from a moving-block bootstrap.

    `block` is the number of consecutive values that stay together: about two days of them for errors of a
    cycling run, which remember one another for as long. For two experiments pass the paired
    differences. Source: Kuensch (1989, doi:10.1214/aos/1176347265), widened as in :func:`_widening`.
    """
    series = _checked(values, block)
    return _bootstrap(series, np.zeros_like(series), _mean, block, samples, seed)


def trend_interval(days: Array, values: Array, block: int, samples: int = 2000, seed: int = 0) -> Interval:
    """Least-squares slope (unit per day) of values (n,) at times (n,) in days, with a 95 % interval.

    The residuals of the fit are resampled in moving blocks, so that a slow wave in the errors widens the
    interval.
    """
    series = _checked(values, block)
    centred = np.asarray(days, dtype=np.float64) - np.mean(days)
    if not np.square(centred).sum() > 0:
        raise ValueError("a trend needs values at two times at least")

    def slope(rows: Array) -> Array:
        return rows @ centred / np.square(centred).sum()

    line = series.mean() + float(slope(series)) * centred
    return _bootstrap(series - line, line, slope, block, samples, seed)


def _mean(rows: Array) -> Array:
    return rows.mean(axis=-1)


def _checked(values: Array, block: int) -> Array:
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or series.size == 0 or not np.isfinite(series).all():
        raise ValueError(f"an interval needs a series of finite values, got shape {series.shape}")
    if block < 1:
        raise ValueError(f"a block holds at least one value, got {block}")
    return series


def _bootstrap(
    noise: Array, signal: Array, statistic: Callable[[Array], Array], block: int, samples: int, seed: int
) -> Interval:
    """Interval of statistic(signal + noise), the noise resampled in moving blocks."""
    size = noise.size
    estimate = float(statistic(signal + noise))
    count = -(-size // block)
    if size < FEWEST_BLOCKS * block:
        return Interval(estimate, np.nan, np.nan)
    starts = np.random.default_rng(seed).integers(0, size - block + 1, size=(samples, count))
    picks = (starts[:, :, None] + np.arange(block)).reshape(samples, -1)[:, :size]
    quantiles = np.quantile(statistic(signal + noise[picks]), [0.025, 0.975])
    low, high = estimate + _widening(block / size) * (quantiles - estimate)
    return Interval(estimate, float(low), float(high))


def _widening(fraction: float) -> float:
    """Factor that makes up for blocks which are a large fraction of the series.

    Percentiles alone then cover far less than 95 %. The variance of a moving-block bootstrap is Bartlett's
    estimate with the block as its bandwidth, for which Kiefer and Vogelsang (2005,
    doi:10.1017/S0266466605050565, table 1) give the critical value.
    """
    return (1.9600 + 2.9694 * fraction + 0.4160 * fraction**2 - 0.5324 * fraction**3) / 1.9600


def lead_time_lost(leads: Array, errors: Array, reference_errors: Array) -> Array:
    """Lead (n,) by which a forecast is behind one started from the reference, in the unit of `leads`.

    leads (n,) increase from 0; errors (n,) are of the forecast judged and reference_errors (n,) of the
    reference-started one. The value at a lead is the lead, interpolated linearly, at which the
    reference-started forecast first has this error, minus the lead itself; at lead 0 it is the age of the
    analysis seen as a forecast. NaN where the reference-started forecast does not reach the error within its
    leads: it is then lost by more than can be said.
    """
    leads, errors = np.asarray(leads, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if leads.shape != errors.shape or leads.shape != np.shape(reference_errors):
        raise ValueError("leads, errors and reference_errors are three series of one length")
    if not (np.diff(leads) > 0).all():
        raise ValueError("leads must increase")
    # Errors of few forecasts are not quite monotone in lead; the running maximum has a first crossing of
    # every level.
    ceiling = np.maximum.accumulate(np.asarray(reference_errors, dtype=np.float64))
    rising = np.concatenate([[True], np.diff(ceiling) > 0])
    reached = np.interp(errors, ceiling[rising], leads[rising])
    return np.where((errors > ceiling[-1]) | np.isnan(errors), np.nan, reached - leads)


GRAVITY = 9.80665
"""Standard gravity, m s-2."""


def water_column(humidity: Array, weights: Array) -> float:
    """Return the global mean column water (kg m-2) of specific humidity (13, H, W) on `LEVELS`.

    `weights` (H, W) are cell areas with mean 1.
    """
    columns = np.trapezoid(humidity.astype(np.float64), 100.0 * np.asarray(LEVELS, float), axis=0) / GRAVITY
    return float((columns * weights).mean())
