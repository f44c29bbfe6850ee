"""95 % intervals of means and trends of correlated series, with their effective sample size.

Errors of a cycling run are correlated over days. How much the mean of such a series varies is seen in the means of its
blocks of `BLOCK_DAYS` (Carlstein 1986, doi:10.1214/aos/1176350057). Blocks alone make intervals too narrow: what is
correlated across their ends is missing, and the mean or line that is taken off follows the slow part of the series.
Both are made good as in a first-order autoregressive series of the same length. Its memory is the one with which
means of blocks are expected to vary as much, relative to daily means, as they do in the sample. The effective sample
size is the number of independent values whose mean varies as much (Zwiers and von Storch 1995,
doi:10.1175/1520-0442(1995)008<0336:TSCIAI>2.0.CO;2).

On autoregressive series of 20 or 90 days whose correlation falls to 1/e in 1.5 to 4 days, the mean width is within 10 %
of the right one. But a single interval of few effective values may be far too narrow: nominal 95 % are 91 to 93 % over
90 days, and 79 to 85 % over 20 days. So the effective sample size belongs beside every interval.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

__all__ = ["BLOCK_DAYS", "FEWEST_BLOCKS", "FEWEST_EFFECTIVE", "Interval", "mean_interval", "trend_interval"]

Array = NDArray[np.float64]

BLOCK_DAYS = 5.0
"""Length of a block, days."""
FEWEST_BLOCKS = 4
"""Least number of blocks that an interval needs; with fewer none is given."""
FEWEST_EFFECTIVE = 10.0
"""Least effective sample size with which an estimate is called different from zero."""
LONGEST = 0.37
"""Longest memory that is tried, as a share of the series.

A longer one cannot be told from a trend. With this share, intervals over 20 days have the right mean width.
"""
NORMAL = 1.9600
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Interval:
    """An estimate, its 95 % interval `low` to `high`, and its effective sample size; NaN in too short a series.

    The effective sample size is the number of independent values that would tell as much as the series does. The
    estimate is a number in any series.
    """

    estimate: float
    low: float
    high: float
    effective: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is on one side of zero, and rests on `FEWEST_EFFECTIVE` values at least."""
        return self.effective >= FEWEST_EFFECTIVE and (self.low > 0 or self.high < 0)

    @property
    def p_value(self) -> float:
        """How often chance alone gives an estimate as far from zero; NaN where fewer than `FEWEST_EFFECTIVE` say."""
        if not self.effective >= FEWEST_EFFECTIVE:
            return np.nan
        error = (self.high - self.low) / (2 * NORMAL)
        return float(erfc(abs(self.estimate) / (np.sqrt(2) * error))) if error > 0 else float(self.estimate == 0)


def mean_interval(days: Array, values: Array) -> Interval:
    """Return the mean of values (n,) at times (n,) in days. To compare experiments, pass their paired differences."""
    days, series = _checked(days, values)
    return _interval(float(series.mean()), series - series.mean(), days, 0, np.sqrt(len(series)))


def trend_interval(days: Array, values: Array) -> Interval:
    """Return the least-squares slope (unit per day) of values (n,) at times (n,) in days."""
    days, series = _checked(days, values)
    centred = days - days.mean()
    length = float(np.sqrt(np.square(centred).sum()))
    if not length > 0:
        raise ValueError("a trend needs values at two times at least")
    slope = float(series @ centred) / length**2
    return _interval(slope, series - series.mean() - slope * centred, days, 1, length)


def _checked(days: Array, values: Array) -> tuple[Array, Array]:
    """Return both series as float64; raise ValueError where no interval can be computed from them."""
    times, series = np.asarray(days, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or series.size == 0 or not np.isfinite(series).all():
        raise ValueError(f"an interval needs a series of finite values, got shape {series.shape}")
    if times.shape != series.shape or not (np.diff(times) > 0).all():
        raise ValueError("an interval needs an increasing time for each value")
    return times, series


def _interval(estimate: float, residuals: Array, days: Array, degree: int, length: float) -> Interval:
    """Return the interval of an estimate whose standard deviation is that of a value over `length` if independent.

    Args:
        estimate: a coefficient of the polynomial that was fitted.
        residuals: (n,) from it.
        days: (n,).
        degree: of the polynomial; the estimate is its last coefficient.
        length: norm of the last regressor.
    """
    size = len(residuals)
    spacing = float(np.median(np.diff(days))) if size > 1 else BLOCK_DAYS
    block = max(1, round(BLOCK_DAYS / spacing))
    if size < FEWEST_BLOCKS * block:
        return Interval(estimate, np.nan, np.nan, np.nan)
    part = max(1, round(1 / spacing))
    memories, of_block, of_part, of_value, of_last = _expected(size, block, part, degree)
    variance = _variance_of_means(residuals, part)
    ratio = _variance_of_means(residuals, block) / variance if variance > 0 else 0.0
    memory = float(np.interp(ratio, of_block / of_part, memories)) if block > part else 0.0
    parts, values, last = (float(np.interp(memory, memories, row)) for row in (of_part, of_value, of_last))
    error = float(np.sqrt(variance / parts * last)) / length
    independent = float(np.sqrt(np.square(residuals).mean() / values)) / length
    effective = size * min(1.0, (independent / error) ** 2) if error > 0 else float(size)
    return Interval(estimate, estimate - NORMAL * error, estimate + NORMAL * error, effective)


def _variance_of_means(residuals: Array, length: int) -> float:
    """Return the mean square of the means of all stretches of so many consecutive values."""
    sums = np.concatenate([[0.0], np.cumsum(residuals)])
    return float(np.square((sums[length:] - sums[:-length]) / length).mean())


@lru_cache(maxsize=64)
def _expected(size: int, block: int, part: int, degree: int) -> tuple[Array, Array, Array, Array, Array]:
    """Return what is expected in first-order autoregressive series of variance 1 whose memory is 0 to LONGEST.

    The memory is the time, in values, in which the correlation falls to 1/e. Every expected value is that of a
    quadratic form of the series: the sum over lags of the correlation times the sum of a diagonal of its matrix.

    Returns:
        The memories; and for each of them the variance, in the residuals of a polynomial fit, of the means of blocks,
        of the means of parts and of values, and the variance of the last coefficient over that in an independent
        series.
    """
    memories = np.geomspace(0.01, LONGEST * size, 200)
    powers = np.vander(np.arange(size) - (size - 1) / 2, degree + 1, increasing=True)
    fitted, _ = np.linalg.qr(powers)
    left = np.eye(size) - fitted @ fitted.T
    forms = [np.outer(fitted[:, -1], fitted[:, -1]), left / size]
    for length in (part, block):
        means = np.lib.stride_tricks.sliding_window_view(left, length, axis=0).mean(axis=-1)
        forms.append(means.T @ means / len(means))
    diagonals = np.array([[np.trace(form, lag) * (2 if lag else 1) for lag in range(size)] for form in forms])
    of_last, of_value, of_part, of_block = diagonals @ np.exp(-np.arange(size)[:, None] / memories)
    return memories, of_block, of_part, of_value, of_last
