"""Optimal interpolation with an isotropic background error, one variable at a time, on any list of points.

The textbook form (Gandin 1963; Lorenc 1981, doi:10.1175/1520-0493(1981)109<0701:AGTDMS>2.0.CO;2), solved for all
observations at once:

    x_a = x_b + C(points, stations) (C(stations, stations) + R)^-1 d

d are the departures and R the covariance of their errors, taken as uncorrelated. The background error covariance C
depends on distance alone: a second-order autoregressive function (SOAR), localised by Gaspari and Cohn's function. The
error statistics are estimated from the departures, or given. No world, ensemble or training is needed; correlations
between variables and the influence of terrain are neglected.

Distances are straight through the Earth (0.1 % below the arc at 1000 km), because a SOAR function of the arc is not a
covariance (Gneiting 2013, doi:10.3150/12-BEJSP06).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from dacycle.assimilators.base import AssimilatorError
from dacycle.assimilators.classical.localisation import gaspari_cohn

__all__ = ["MOST_OBSERVATIONS", "ErrorStatistics", "covariance", "estimate_statistics", "increment", "weights"]

MOST_OBSERVATIONS = 10_000
"""One solution for all n observations takes n^3 / 3 multiplications and n^2 x 8 bytes."""

LEAST_DEPARTURES, MOST_DEPARTURES = 100, 1000
"""With fewer departures the two kinds of error cannot be told apart; more departures only take longer."""

_REMEDY = "give --background-error, --observation-error and --length"
_BLOCK = 5_000  # points whose covariances with the observations are held at a time


@dataclass(frozen=True)
class ErrorStatistics:
    """Hold the error statistics of optimal interpolation: standard deviations in the variable's unit, lengths in km.

    Attributes:
        background_error: standard deviation of the background's error.
        observation_error: standard deviation of the observations' error, instrument and representativeness.
        length_km: L of the SOAR function (1 + d/L) exp(-d/L), which falls to a half at 1.7 L.
        reach_km: distance from which on an observation has no influence (Gaspari and Cohn's function is 0).
    """

    background_error: float
    observation_error: float
    length_km: float
    reach_km: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (np.isfinite(value) and value > 0):
                raise AssimilatorError(f"{name} is {value}, not a number above 0")


def covariance(distance: NDArray, statistics: ErrorStatistics) -> NDArray[np.float64]:
    """Return the covariance of the background's errors `distance` km apart, in its shape and the unit squared."""
    correlation = _soar(distance, statistics.length_km) * gaspari_cohn(distance, statistics.reach_km)
    return statistics.background_error**2 * correlation


def _soar(distance: NDArray, length_km: float) -> NDArray[np.float64]:
    scaled = distance / length_km
    return (1 + scaled) * np.exp(-scaled)


def estimate_statistics(stations: NDArray, departures: NDArray, reach_km: float) -> ErrorStatistics:
    """Estimate the error statistics from departures by maximum likelihood.

    Departures are Gaussian with covariance C + R (Dee 1995, doi:10.1175/1520-0493(1995)123<1128:OLEOEC>2.0.CO;2). The
    two kinds of error can be told apart because background errors of neighbours are correlated and observation errors
    are not. Of more than 1000 departures a fixed random sample is used. A mean departure counts as background error.

    Args:
        stations: (n, 3) km, as of `points.positions`.
        departures: (n,) observation minus background, quality-controlled.
        reach_km: of the localisation.

    Raises:
        AssimilatorError: the departures are too few, or fit one kind of error alone; says what to give instead.
    """
    if len(departures) < LEAST_DEPARTURES:
        raise AssimilatorError(f"{len(departures)} departures are too few to estimate errors from; {_REMEDY}")
    if len(departures) > MOST_DEPARTURES:
        chosen = np.random.default_rng(0).choice(len(departures), MOST_DEPARTURES, replace=False)
        stations, departures = stations[chosen], departures[chosen]
    distance = np.linalg.norm(stations[:, None] - stations[None], axis=2)
    localisation = gaspari_cohn(distance, reach_km)

    def likelihood(parameters: NDArray) -> tuple[float, float]:
        """Return minus twice the log-likelihood, without its constant, and the most likely background variance."""
        length, ratio = np.exp(parameters)
        matrix = _soar(distance, length) * localisation
        matrix[np.diag_indices(len(departures))] += ratio
        factor = cho_factor(matrix, lower=True, overwrite_a=True)
        variance = float(departures @ cho_solve(factor, departures)) / len(departures)
        return len(departures) * np.log(variance) + 2 * np.log(np.diag(factor[0])).sum(), variance

    best = minimize(
        lambda parameters: likelihood(parameters)[0],
        np.log([min(100.0, reach_km / 2), 0.5]),
        method="Nelder-Mead",
        bounds=[(np.log(5.0), np.log(reach_km)), (np.log(0.01), np.log(100.0))],
        options={"xatol": 0.03, "fatol": 0.1},
    )
    length, ratio = np.exp(best.x)
    if not (0.02 < ratio < 50 and length < 0.99 * reach_km):
        raise AssimilatorError(
            f"{len(departures)} departures do not tell errors of the background from those of the observations "
            f"(variance ratio {ratio:.2g}, length {length:.0f} km); {_REMEDY}"
        )
    variance = likelihood(best.x)[1]
    return ErrorStatistics(float(variance**0.5), float((ratio * variance) ** 0.5), float(length), reach_km)


def weights(
    stations: NDArray, departures: NDArray, errors: NDArray, statistics: ErrorStatistics
) -> NDArray[np.float64]:
    """Return (n,) (C + R)^-1 d, the weight of each observation's covariance in the increment.

    Args:
        stations: (n, 3) km.
        departures, errors: (n,) observation minus background, and the observations' standard deviations, > 0.
        statistics: of the background's error.

    Raises:
        AssimilatorError: more than `MOST_OBSERVATIONS`, or numbers that are not finite.
    """
    count = len(departures)
    if count > MOST_OBSERVATIONS:
        raise AssimilatorError(f"{count} observations are more than the {MOST_OBSERVATIONS} of one solution; thin them")
    if not (np.isfinite(departures).all() and np.isfinite(errors).all() and (errors > 0).all()):
        raise AssimilatorError("departures and errors must be finite, and errors above 0")
    if count == 0:
        return np.zeros(0)
    matrix = _between(stations, stations, statistics).toarray(order="F")  # the factorisation overwrites it in place
    matrix[np.diag_indices(count)] += errors**2
    return cho_solve(cho_factor(matrix, lower=True, overwrite_a=True), departures)


def increment(points: NDArray, stations: NDArray, weights: NDArray, statistics: ErrorStatistics) -> NDArray[np.float64]:
    """Return analysis minus background (m,) at points (m, 3) in km: 0 beyond the reach of every observation."""
    out = np.zeros(len(points))
    if len(stations):
        for start in range(0, len(points), _BLOCK):
            block = slice(start, start + _BLOCK)
            out[block] = _between(points[block], stations, statistics) @ weights
    return out


def _between(points: NDArray, stations: NDArray, statistics: ErrorStatistics) -> csr_matrix:
    """Return the (m, n) covariances of the background's errors as a sparse matrix of the pairs within reach."""
    near = cKDTree(points).sparse_distance_matrix(cKDTree(stations), statistics.reach_km, output_type="ndarray")
    shape = len(points), len(stations)
    return csr_matrix((covariance(near["v"], statistics), (near["i"], near["j"])), shape=shape)
