"""How good a learned observation operator is, against a nature run's own OLR and precipitation. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
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

CLIMATOLOGY, REGRESSION = "climatology", "regression of oi"


@dataclass(frozen=True)
class OperatorScore:
    """What one method makes of one plane over a year, weighted by area.

    Attributes:
        plane, method: `method` is the operator's name, `climatology`, or the regression of optimal interpolation.
        rmse, bias: SI; the bias is the method's minus the truth's.
        correlation: of anomalies from the climatology; NaN for the climatology itself.
        stated: the error that the method states (root mean square) over the one it has; NaN where it states none.
    """

    plane: str
    method: str
    rmse: float
    bias: float
    correlation: float
    stated: float


def planes_of(reference: Reference, time: np.datetime64) -> NDArray[np.float32]:
    """(2, H, W) the learned planes at a time of a reference, SI."""
    surface = reference.surface(time)
    return np.stack([surface[plane].values for plane in LEARNED])


def climatology_of_planes(references: list[Reference]) -> NDArray[np.float64]:
    """(5, 2, H, W) coefficients of `annual_basis` for the learned planes over all times of the references."""
    planes = np.stack([planes_of(reference, time) for reference in references for time in reference.times])
    basis = np.concatenate([annual_basis(reference.times) for reference in references]).astype(float)
    found, *_ = np.linalg.lstsq(basis, planes.reshape(len(planes), -1), rcond=None)
    return found.reshape(basis.shape[1], *planes.shape[1:])


def packaged_regression(world: str) -> OlrOperator | None:
    """The regression of OLR that optimal interpolation uses, where its packaged file is of this world."""
    path = packaged_assimilators().get("oi")
    if path is None:
        return None
    found = BackgroundError.load(path)
    return found.olr.operator if found.olr is not None and found.world == world else None


def score_operator(
    operator: LearnedOperator, data: Path, year: int, every: int = 1, say: Callable[[str], None] = lambda text: None
) -> list[OperatorScore]:
    """Scores over a year, beside the climatology of the operator's training years and the regression of `oi`.

    Args:
        operator: made for the statistics of the nature run.
        data: folder with the years: `year`, and those that the operator was trained on.
        year: held out from its training.
        every: only every so manieth time.

    Raises:
        ReferenceDataError: a year is not there.
    """
    trained = operator.metadata["training"]["years"]
    say(f"climatology of {', '.join(map(str, trained))}")
    coefficients = climatology_of_planes([Reference(data / str(one)) for one in trained])
    reference, regression = Reference(data / str(year)), packaged_regression(operator.world)
    sums: dict[tuple[str, str], _Sums] = {}
    steps = range(1, len(reference.times), every)
    say(f"{len(steps)} times of {year}")
    for i in steps:
        time = reference.times[i]
        truth = planes_of(reference, time)
        climate = np.tensordot(annual_basis(reference.times[i : i + 1])[0], coefficients, 1)
        current = reference.array(time)
        found = operator(reference.array(reference.times[i - 1]), current)
        for k, plane in enumerate(LEARNED):
            variable = PLANE_VARIABLES[plane]
            made: dict[str, tuple[NDArray, NDArray | float]] = {
                operator.name: (found.values[variable], found.errors[variable]),
                CLIMATOLOGY: (climate[k], np.nan),
            }
            if plane == "olr" and regression is not None:
                made[REGRESSION] = (regression(current), regression.error)
            for method, (field, error) in made.items():
                own = sums.setdefault((plane, method), _Sums(reference.grid.weights))
                own.add(field, truth[k], climate[k], error)
    return [own.score(plane, method) for (plane, method), own in sums.items()]


class _Sums:
    """Running sums behind an `OperatorScore`."""

    def __init__(self, weights: NDArray) -> None:
        self._weights = weights / weights.sum()
        self._total = np.zeros(6)
        self._fields = 0

    def add(self, field: NDArray, truth: NDArray, climate: NDArray, error: NDArray | float) -> None:
        off, ours, theirs = (x.astype(float) for x in (field - truth, field - climate, truth - climate))
        products = (off, off**2, ours * theirs, ours**2, theirs**2, np.broadcast_to(np.square(error), off.shape))
        self._total += [float((product * self._weights).sum()) for product in products]
        self._fields += 1

    def score(self, plane: str, method: str) -> OperatorScore:
        bias, square, common, ours, theirs, stated = self._total / self._fields
        correlation = common / np.sqrt(ours * theirs) if ours > 0 else np.nan
        return OperatorScore(plane, method, float(np.sqrt(square)), bias, correlation, float(np.sqrt(stated / square)))
