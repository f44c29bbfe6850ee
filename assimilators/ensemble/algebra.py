"""The equations of the local ensemble transform Kalman filter (LETKF), for many grid points at once.

Hunt et al. 2007 (doi:10.1016/j.physd.2006.11.008), in the space of the N members. With perturbations X, their
equivalents Y = H X and departures d,

    A = (I + Y^T R^-1 Y / (N-1))^-1,    w = A Y^T R^-1 d / (N-1),    W = A^(1/2)

The analysis is x_b + X w, its perturbations X W. W is the symmetric square root: of all square roots the one that
changes the members least, and one that keeps their mean. Leading
dimensions are batches, such as grid points.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "adaptive_inflation",
    "collapse",
    "limit_spread",
    "mean_weights",
    "relax_spread",
    "spread",
    "square_root",
    "vertical_localisation",
]

PRIOR = 0.25
"""Error variance of the factor 1."""
BOUNDS = (0.5, 4.0)
"""Least and largest factor."""


def mean_weights(information: NDArray, projected: NDArray) -> NDArray:
    """Return w (..., K) of the perturbations P of a covariance B = P P^T, which minimise the cost of x_b + P w.

    Solved in double precision: with many precise observations the matrix is too badly conditioned for single.

    Args:
        information: (..., K, K), Y^T R^-1 Y with Y = H P, localised.
        projected: (..., K), Y^T R^-1 d, localised.
    """
    matrix = information.astype(np.float64) + np.eye(information.shape[-1])
    return np.linalg.solve(matrix, projected.astype(np.float64)[..., None])[..., 0]


def square_root(information: NDArray) -> NDArray[np.float64]:
    """Return the symmetric (I + information)^(-1/2), (..., N, N); `information` as in `mean_weights`."""
    eigenvalues, vectors = np.linalg.eigh(information.astype(np.float64))
    scale = 1 / np.sqrt(1 + np.maximum(eigenvalues, 0))  # rounding leaves some below 0
    return (vectors * scale[..., None, :]) @ vectors.swapaxes(-1, -2)


def adaptive_inflation(excess: NDArray, variance: NDArray, count: NDArray) -> NDArray[np.float64]:
    """Return the factor on the members' covariance that departures ask for; 1 where nothing is observed.

    The mean square of departures is 1 + factor x variance (Li et al. 2009, doi:10.1002/qj.371). The factor is the mean
    of that estimate and of 1, with the inverses of their error variances as weights, as in Miyoshi 2011
    (doi:10.1175/2010MWR3570.1); that of 1 is `PRIOR`, and nothing is kept from cycle to cycle.

    Args:
        excess: sum of the squared departures, in standard deviations of the observations' errors, less one for each.
        variance: sum of the members' variance where the observations are, in the same unit.
        count: number of the observations; all three with the weights of localisation.
    """
    seen = (count > 0) & (variance > 0)
    n, of_members = (np.where(seen, x, 1.0).astype(np.float64) for x in (count, variance))
    error = 2 / n * (1 + n / of_members) ** 2
    factor = (error + PRIOR * excess / of_members) / (error + PRIOR)
    return np.where(seen, np.clip(factor, *BOUNDS), 1.0)


def spread(perturbations: NDArray) -> NDArray:
    """Return the standard deviation of perturbations (N, ...) whose mean is 0."""
    return np.sqrt(np.einsum("n...,n...->...", perturbations, perturbations) / (len(perturbations) - 1))


def limit_spread(perturbations: NDArray, most: NDArray) -> NDArray:
    """Make perturbations (N, ...) smaller where their spread is more than `most` (...), all members alike."""
    found = spread(perturbations)
    return perturbations * np.divide(most, found, out=np.ones_like(found), where=found > most)


def relax_spread(analysis: NDArray, background: NDArray, share: float) -> NDArray:
    """Relax the spread of the analysis to that of the background (RTPS).

    Whitaker and Hamill 2012 (doi:10.1175/MWR-D-11-00276.1): each perturbation is multiplied by
    1 + share (s_b - s_a) / s_a.

    Args:
        analysis, background: perturbations (N, ...).
        share: 0 leaves the analysis, 1 restores the spread of the background.
    """
    after, before = spread(analysis), spread(background)
    return analysis * (1 + share * np.divide(before - after, after, out=np.zeros_like(after), where=after > 0))


def vertical_localisation(of_states: NDArray, of_observations: NDArray, correlation: NDArray) -> NDArray[np.float32]:
    """Return how much observations at each level count for states at each level.

    Args:
        of_states: (A,) index of the level.
        of_observations: (K,) index of the level; -1 where an observation belongs to the whole column.
        correlation: (levels, levels) between levels.
    """
    table = correlation[np.ix_(of_states, of_observations)]
    return np.where(of_observations < 0, 1, table).astype(np.float32)


def collapse(departures: NDArray, spreads: NDArray, least: float, remedy: str) -> str:
    """Return what is wrong with the spread of a background; empty where nothing is.

    The square of a departure is that of the observation's error plus the variance of the background's error.

    Args:
        departures: in standard deviations of the observations' errors.
        spreads: of the background where these observations are, in the same unit.
        least: share of the background's error, as departures imply it, that the spread must have.
        remedy: settings that keep more of it.
    """
    implied = np.square(departures, dtype=np.float64).sum() - departures.size
    share = np.sqrt(np.square(spreads, dtype=np.float64).sum() / implied) if implied > 0 else np.inf
    if share >= least:
        return ""
    return (
        f"the ensemble has collapsed: its spread is {share:.2g} of the error that departures imply, the least is "
        f"{least:g}; a larger {remedy} keeps more of it"
    )
