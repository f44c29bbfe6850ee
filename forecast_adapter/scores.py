"""Verification scores on a grid, in plain numpy.

Every spatial mean is weighted by true cell area on its grid, within one of `REGIONS`. For each forecast or cycle the
weighted *mean squared* error is kept, because its means over sets of times can be merged; the root is taken last, by
`rmse`. This is WeatherBench2's variant, sqrt(mean over times(MSE)), not the mean over times of sqrt(MSE) that other
papers print and that is never larger (Rasp et al. 2024, doi:10.1029/2023MS004019).

Arrays are (..., channel, latitude, longitude). Scores are (..., channel, region) in the order of `REGIONS`, float64, in
the unit of the channel (squared for `mse`). A value that is not finite makes its score NaN: no mean leaves values out.
The next score goes here: a function of such arrays, with its source, and a test against an independent library.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from dacycle.forecast_adapter.channels import LEVELS
from dacycle.forecast_adapter.grid import Grid, GridError
from dacycle.forecast_adapter.physics import GRAVITY

__all__ = [
    "REGIONS",
    "anomaly_correlation",
    "bias",
    "ensemble_crps",
    "error_scores",
    "gaussian_crps",
    "high_wavenumber_divergence",
    "in_regions",
    "lead_time_lost",
    "mae",
    "mse",
    "radial_power_spectrum",
    "region_means",
    "region_weights",
    "rmse",
    "spectral_divergence",
    "zonal_power_spectrum",
]

Array = NDArray[np.floating]

REGIONS: dict[str, tuple[float, float]] = {
    "globe": (-90.0, 90.0),
    "northern extratropics": (20.0, 90.0),
    "tropics": (-20.0, 20.0),
    "southern extratropics": (-90.0, -20.0),
}
"""Latitudes (south, north) of each region.

A row at exactly 20 degrees belongs to the extratropics, so that the last three regions are a partition of the first.
"""


def in_regions(latitude: NDArray) -> NDArray[np.bool_]:
    """Return whether each latitude (n,), degrees, is in each region: (region, n)."""
    return np.stack([latitude < np.inf, latitude >= 20.0, np.abs(latitude) < 20.0, latitude <= -20.0])


def region_weights(grid: Grid) -> Array:
    """Return the area weights (region, latitude) of whole grid rows; those of a region sum to one.

    Raises:
        ValueError: a region holds no row of the grid.
    """
    row = np.asarray(grid.weights, dtype=np.float64).mean(axis=1)
    latitude = np.asarray(grid.latitude, dtype=np.float64)
    weights = np.where(in_regions(latitude), row, 0.0)
    totals = weights.sum(axis=1, keepdims=True)
    if not (totals > 0).all():
        empty = [name for name, total in zip(REGIONS, totals[:, 0], strict=True) if not total > 0]
        raise ValueError(f"grid {grid.name} has no row in: {', '.join(empty)}")
    return weights / totals


def _check(fields: Array, grid: Grid) -> None:
    if fields.shape[-2:] != grid.shape:
        raise GridError(f"fields of shape {fields.shape} are not on the grid {grid.name} {grid.shape}")


def region_means(fields: Array, grid: Grid) -> Array:
    """Return area-weighted means (..., region) of fields (..., latitude, longitude), in the unit of the fields."""
    _check(fields, grid)
    zonal = fields.mean(axis=-1, dtype=np.float64)
    # One region at a time, so that a missing value in one is not multiplied by a weight of zero in the others.
    return np.stack([zonal[..., inside] @ weights for inside, weights in _rows_of_regions(grid)], axis=-1)


@lru_cache(maxsize=8)
def _rows_of_regions(grid: Grid) -> tuple[tuple[NDArray[np.bool_], Array], ...]:
    """Return the rows (latitude,) of each region and their weights."""
    return tuple((row > 0, row[row > 0]) for row in region_weights(grid))


def mse(forecast: Array, truth: Array, grid: Grid) -> Array:
    """Return the weighted mean squared error (..., region)."""
    return region_means(np.square(forecast - truth), grid)


def mae(forecast: Array, truth: Array, grid: Grid) -> Array:
    """Return the weighted mean absolute error (..., region): the error is weighted, not the two fields."""
    return region_means(np.abs(forecast - truth), grid)


def bias(forecast: Array, truth: Array, grid: Grid) -> Array:
    """Return the weighted mean of forecast minus truth (..., region)."""
    return region_means(forecast - truth, grid)


def rmse(mean_squared: Array, axis: int = 0) -> Array:
    """Return the root of the mean over an axis (usually times) of weighted mean squared errors, as WeatherBench2."""
    return np.sqrt(np.mean(mean_squared, axis=axis))


def anomaly_correlation(forecast: Array, truth: Array, climatology: Array, grid: Grid) -> Array:
    """Return the uncentred anomaly correlation (..., region): sum(w a b) / sqrt(sum(w a a) sum(w b b)).

    a and b are the anomalies of forecast and truth from the climatology of the valid time; their spatial means are not
    removed. NaN where either anomaly is zero everywhere, as for a forecast of climatology.
    """
    a, b = forecast - climatology, truth - climatology
    scale = np.sqrt(region_means(np.square(a), grid) * region_means(np.square(b), grid))
    product = region_means(a * b, grid)
    return np.divide(product, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def error_scores(forecasts: Mapping[str, Array], truth: Array, climatology: Array, grid: Grid) -> dict[str, Array]:
    """Return `mse`, `mae`, `bias` and `anomaly_correlation` of each forecast of one valid time, to the bit.

    What the scores have in common is computed once.

    Args:
        forecasts: (channel, latitude, longitude) by name.
        truth, climatology: (channel, latitude, longitude).
        grid: of all of them.

    Returns:
        (4, channel, region) by name.
    """
    b = truth - climatology
    variance = region_means(np.square(b), grid)
    found = {}
    for name, forecast in forecasts.items():
        error, a = forecast - truth, forecast - climatology
        scale = np.sqrt(region_means(np.square(a), grid) * variance)
        correlation = np.full_like(scale, np.nan)
        np.divide(region_means(a * b, grid), scale, out=correlation, where=scale > 0)
        means = [region_means(fields, grid) for fields in (np.square(error), np.abs(error), error)]
        found[name] = np.stack([*means, correlation])
    return found


def zonal_power_spectrum(fields: Array, grid: Grid) -> Array:
    """Return the power (..., W//2 + 1) by zonal wavenumber of fields (..., H, W), in the unit of the fields squared.

    The power is that of one real FFT per latitude, averaged over latitudes by area. Its sum over wavenumbers is the
    weighted mean of the squared field (Parseval); over wavenumbers of at least 1, the variance along latitude circles.
    """
    _check(fields, grid)
    width = grid.shape[1]
    amplitude = np.fft.rfft(np.asarray(fields, dtype=np.float64), axis=-1) / width
    power = np.abs(amplitude) ** 2
    last = -1 if width % 2 == 0 else None  # the Nyquist wavenumber has no mirror image
    power[..., 1:last] *= 2.0
    return np.einsum("...hm,h->...m", power, region_weights(grid)[0])


def spectral_divergence(power: Array, reference: Array) -> Array:
    """Return the Kullback-Leibler divergence sum(p ln(p/q)) of spectra (..., m), p the reference's and q this one's.

    Both are normalised to a sum of one over wavenumbers of at least 1, so that the *shape* of the full zonal spectrum
    is judged. (The published SpecDiv bins a two-dimensional FFT and keeps its last tenth, the corners beyond the zonal
    Nyquist wavenumber on a 121 x 240 grid; the numbers are not comparable.) The divergence is infinite where a scale
    of the reference is missing, and NaN where the reference itself has none.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        p = reference[..., 1:] / reference[..., 1:].sum(axis=-1, keepdims=True)
        total = power[..., 1:].sum(axis=-1, keepdims=True)
        q = power[..., 1:] / np.where(total == 0, 1, total)
        terms = np.where(p > 0, p * np.log(p / q), p)
    return terms.sum(axis=-1)


def radial_power_spectrum(fields: Array) -> Array:
    """Return the power (..., n) by total wavenumber of fields (..., H, W), binned as for the published SpecDiv.

    The power is that of a two-dimensional FFT. Bins are one wide, from 0.5 on; each holds the mean of its squared
    moduli. Wavenumbers of latitude and longitude count as the same unit, as published (ChaosBench, arXiv 2402.00712;
    DAMBench, arXiv 2511.01468).
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
    """Return the published SpecDiv: `spectral_divergence` of the last tenth of radial spectra (..., n)."""
    first = int(np.ceil(0.9 * power.shape[-1]))
    # `spectral_divergence` leaves out the first value, which it takes for the mean.
    return spectral_divergence(power[..., first - 1 :], reference[..., first - 1 :])


def gaussian_crps(mean: Array, spread: Array, truth: Array) -> Array:
    """Return the continuous ranked probability score of Gaussians at every point, in the unit of the fields.

    Gneiting et al. (2005, doi:10.1175/MWR2904.1), equation 5. Where the spread is 0 it is the absolute error.
    """
    error = np.asarray(truth, np.float64) - mean
    safe = np.where(spread > 0, spread, 1.0)
    z = error / safe
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    crps = safe * (z * erf(z / np.sqrt(2)) + 2 * density - 1 / np.sqrt(np.pi))
    return np.where(spread > 0, crps, np.abs(error))


def ensemble_crps(members: Array, truth: Array) -> Array:
    """Return the fair continuous ranked probability score of M members (M, ...) at every point, in their unit.

    mean|x_i - y| - sum|x_i - x_j| / (2 M (M-1)): its expectation is that of infinitely many members of the same
    distribution (Ferro 2014, doi:10.1002/qj.2270). It can be below 0 at a point.
    """
    count = len(members)
    ordered = np.sort(np.asarray(members, np.float64), axis=0)
    factors = 2 * np.arange(count) - count + 1  # of each member in half the sum of all differences
    differences = np.einsum("m,m...->...", factors, ordered)
    return np.abs(ordered - truth).mean(axis=0) - differences / (count * (count - 1))


def lead_time_lost(leads: Array, errors: Array, reference_errors: Array) -> Array:
    """Return by how much lead a forecast is behind one started from the reference.

    The value at a lead is the lead, interpolated linearly, at which the reference-started forecast first has this
    error, minus the lead itself. At lead 0 it is the age of the analysis, seen as a forecast.

    Args:
        leads: (n,) increasing from 0.
        errors: (n,) of the forecast judged.
        reference_errors: (n,) of the reference-started forecast.

    Returns:
        (n,) in the unit of `leads`; NaN where the reference-started forecast does not reach the error within its leads.
    """
    leads, errors = np.asarray(leads, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if leads.shape != errors.shape or leads.shape != np.shape(reference_errors):
        raise ValueError("leads, errors and reference_errors are three series of one length")
    if not (np.diff(leads) > 0).all():
        raise ValueError("leads must increase")
    # Errors of few forecasts are not quite monotone in lead; their running maximum first crosses each level once.
    ceiling = np.maximum.accumulate(np.asarray(reference_errors, dtype=np.float64))
    rising = np.concatenate([[True], np.diff(ceiling) > 0])
    reached = np.interp(errors, ceiling[rising], leads[rising])
    return np.where((errors > ceiling[-1]) | np.isnan(errors), np.nan, reached - leads)


def water_column(humidity: Array, weights: Array) -> float:
    """Return the global mean column water (kg m-2) of specific humidity (13, H, W) on `LEVELS`.

    `weights` (H, W) are cell areas with mean 1.
    """
    columns = np.trapezoid(humidity.astype(np.float64), 100.0 * np.asarray(LEVELS, float), axis=0) / GRAVITY
    return float((columns * weights).mean())
