"""Scores of a learned observation operator against a nature run's own OLR and precipitation. Needs no torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import packaged_assimilators
from dacycle.assimilators.classical.background_error import BackgroundError
from dacycle.assimilators.classical.olr import OlrOperator
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import annual_basis
from dacycle.obs_ingest.operators.learned import LEARNED, LearnedOperator
from dacycle.obs_ingest.table import PLANE_VARIABLES

__all__ = ["OperatorScore", "climatology_of_planes", "packaged_regression", "planes_of", "score_operator"]

logger = logging.getLogger(__name__)

CLIMATOLOGY, REGRESSION = "climatology", "regression of oi"


@dataclass(frozen=True)
class OperatorScore:
    """Hold the scores of one method for one plane over a year, weighted by area.

    Attributes:
        plane, method: `method` is the operator's name, `climatology`, or the regression of optimal interpolation.
        rmse, bias: SI; the bias is the method's minus the truth's.
        correlation: of anomalies from the climatology; NaN for the climatology itself.
        stated: the stated error (root mean square) over the actual one; NaN where the method states none.
    """

    plane: str
    method: str
    rmse: float
    bias: float
    correlation: float
    stated: float


def planes_of(reference: Reference, time: np.datetime64) -> NDArray[np.float32]:
    """Return the learned planes (2, H, W) at a time of a reference, SI."""
    surface = reference.surface(time, LEARNED)
    return np.stack([surface[plane].values for plane in LEARNED])


def climatology_of_planes(references: list[Reference]) -> NDArray[np.float64]:
    """Return (5, 2, H, W) coefficients of `annual_basis` for the learned planes over all times of the references."""
    planes = np.stack([planes_of(reference, time) for reference in references for time in reference.times])
    basis = np.concatenate([annual_basis(reference.times) for reference in references]).astype(float)
    coefficients, *_ = np.linalg.lstsq(basis, planes.reshape(len(planes), -1), rcond=None)
    return coefficients.reshape(basis.shape[1], *planes.shape[1:])


def packaged_regression(world: str) -> OlrOperator | None:
    """Return the regression of OLR that the packaged optimal interpolation uses; None where it is of another world."""
    path = packaged_assimilators().get("oi")
    if path is None:
        return None
    error = BackgroundError.load(path)
    return error.olr.operator if error.olr is not None and error.world == world else None


def score_operator(operator: LearnedOperator, data: Path, year: int) -> list[OperatorScore]:
    """Score an operator over a year, beside the climatology of its training years and the regression of `oi`.

    Args:
        operator: made for the statistics of the nature run.
        data: folder with the years: `year`, and those that the operator was trained on.
        year: held out from its training.

    Raises:
        ReferenceDataError: a year is not there.
    """
    training_years = operator.metadata["training"]["years"]
    logger.info("climatology of %s", ", ".join(map(str, training_years)))
    coefficients = climatology_of_planes([Reference(data / str(training_year)) for training_year in training_years])
    reference, regression = Reference(data / str(year)), packaged_regression(operator.world)
    sums: dict[tuple[str, str], _Sums] = {}
    logger.info("%d times of %d", len(reference.times) - 1, year)
    for i in range(1, len(reference.times)):
        time = reference.times[i]
        truth = planes_of(reference, time)
        climate = np.tensordot(annual_basis(reference.times[i : i + 1])[0], coefficients, 1)
        current = reference.array(time)
        intervals = operator(reference.array(reference.times[i - 1]), current)
        for k, plane in enumerate(LEARNED):
            variable = PLANE_VARIABLES[plane]
            fields: dict[str, tuple[NDArray, NDArray | float]] = {
                operator.name: (intervals.values[variable], intervals.errors[variable]),
                CLIMATOLOGY: (climate[k], np.nan),
            }
            if plane == "olr" and regression is not None:
                fields[REGRESSION] = (regression(current), regression.error)
            for method, (field, error) in fields.items():
                sums.setdefault((plane, method), _Sums(reference.grid.weights)).add(field, truth[k], climate[k], error)
    return [method_sums.score(plane, method) for (plane, method), method_sums in sums.items()]


class _Sums:
    """Hold the running sums behind an `OperatorScore`."""

    def __init__(self, weights: NDArray) -> None:
        self._weights = weights / weights.sum()
        self._total = np.zeros(6)
        self._fields = 0

    def add(self, field: NDArray, truth: NDArray, climate: NDArray, error: NDArray | float) -> None:
        difference, anomaly, true_anomaly = (x.astype(float) for x in (field - truth, field - climate, truth - climate))
        stated = np.broadcast_to(np.square(error), difference.shape)
        products = (difference, difference**2, anomaly * true_anomaly, anomaly**2, true_anomaly**2, stated)
        self._total += [float((product * self._weights).sum()) for product in products]
        self._fields += 1

    def score(self, plane: str, method: str) -> OperatorScore:
        bias, square, covariance, variance, true_variance, stated = self._total / self._fields
        correlation = covariance / np.sqrt(variance * true_variance) if variance > 0 else np.nan
        return OperatorScore(plane, method, float(np.sqrt(square)), bias, correlation, float(np.sqrt(stated / square)))
