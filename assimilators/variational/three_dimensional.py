"""The method `3dvar`: the minimum of an incremental cost function in control variables.

The analysis is x_b + U v, where U is a square root of the background's error covariance (`covariance`) and v minimises
the cost function of `minimisation`. Outer loops linearise the operator of OLR about the state that was found.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from dacycle.assimilators.base import Analysis
from dacycle.assimilators.classical.observed import check_fields
from dacycle.assimilators.variational.covariance import Covariance
from dacycle.assimilators.variational.departures import Departures
from dacycle.assimilators.variational.minimisation import Inner, Minimum, minimise
from dacycle.assimilators.variational.settings import VariationalSettings

if TYPE_CHECKING:
    from dacycle.forecast_adapter.grid import Grid

__all__ = ["ThreeDVar"]


class ThreeDVar:
    """Three-dimensional variational assimilation on one grid.

    Args:
        covariance: of the background's error.
        settings: of the cost function.
        threads: threads of the matrix products; the same number gives the same bits.
    """

    name = "3dvar"

    def __init__(self, covariance: Covariance, settings: VariationalSettings, threads: int = 1) -> None:
        self.covariance, self.settings = covariance, settings
        self.grid: Grid = covariance.grid
        self.world, self.digest = covariance.world, covariance.digest
        self.planes: tuple[str, ...] = () if covariance.olr is None else ("olr",)
        olr = covariance.olr
        self.olr = None if olr is None else replace(olr, error=settings.olr_inflation * olr.error)
        self._threads, self._pools = threads, ThreadpoolController()

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Correct B chains' backgrounds; see `base.Assimilator`. Planes beyond `self.planes` are not used.

        The diagnostics count, per chain, the observations used and the iterations; `gradient` is what is left of the
        cost function's, as a share of that at the start of the last inner loop.

        Raises:
            AssimilatorError: arrays of other shapes, a negative error, an observed value or error that is not finite.
        """
        check_fields(self.name, self.grid, self.planes, background, values, errors)
        with self._pools.limit(limits=self._threads, user_api="blas"):
            chains = [self._analyse_one(*fields) for fields in zip(background, values, errors, strict=True)]
        states, used, minima = zip(*chains, strict=True)
        return Analysis(
            np.stack(states),
            None,
            {
                "observations": list(used),
                "iterations": [minimum.iterations for minimum in minima],
                "gradient": [minimum.gradient for minimum in minima],
            },
        )

    def _analyse_one(self, background: NDArray, values: NDArray, errors: NDArray) -> tuple[NDArray, int, Minimum]:
        """Return the analysis of one chain, the number of observations used, and where the minimisation ended."""
        observed = Departures(values, errors, self.olr)

        def state(v: NDArray) -> NDArray:
            return background + self.transform(v)

        def linearise(v: NDArray) -> Inner:
            x = state(v)
            operator = observed.linearised(x)
            return Inner(
                observed.of(x),
                lambda dv: operator.apply(self.transform(dv)),
                lambda y: self.transform_adjoint(operator.adjoint(y)),
            )

        minimum = minimise(linearise, np.zeros(self.covariance.shape, np.float32), self.settings)
        return state(minimum.v), observed.count, minimum

    def transform(self, v: NDArray) -> NDArray:
        """Return the increment (69, H, W), SI, of control variables."""
        return np.float32(self.settings.inflation) * self.covariance.apply(v)

    def transform_adjoint(self, x: NDArray) -> NDArray:
        """Return the adjoint of `transform`."""
        return np.float32(self.settings.inflation) * self.covariance.adjoint(x)
