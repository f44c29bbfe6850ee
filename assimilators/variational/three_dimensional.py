"""The method `3dvar`: the minimum of an incremental cost function in control variables.

The analysis is x_b + U v, where U is a square root of the background's error covariance (`covariance`) and v minimises
the cost function of `minimisation`. Outer loops linearise the operator of OLR about the state that was found.
"""

from copy import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from dacycle.assimilators.base import Analysis, AssimilatorError, Past
from dacycle.assimilators.classical.observed import check_fields
from dacycle.assimilators.variational.covariance import Covariance
from dacycle.assimilators.variational.departures import Departures
from dacycle.assimilators.variational.minimisation import Inner, Minimum, minimise
from dacycle.assimilators.variational.olr import OfColumns, Olr
from dacycle.assimilators.variational.settings import VariationalSettings

if TYPE_CHECKING:
    from dacycle.forecast_adapter.grid import Grid

__all__ = ["ThreeDVar", "ThreeDVarWithPast"]


class ThreeDVar:
    """Three-dimensional variational assimilation on one grid.

    Args:
        covariance: of the background's error.
        settings: of the cost function.
        threads: threads of the matrix products; the same number gives the same bits.
        olr: operator of OLR; None: the covariance's, if it has one.
    """

    name = "3dvar"

    def __init__(
        self, covariance: Covariance, settings: VariationalSettings, threads: int = 1, olr: Olr | None = None
    ) -> None:
        self.covariance, self.settings = covariance, settings
        self.grid: Grid = covariance.grid
        self.world, self.digest = covariance.world, covariance.digest
        if olr is None and covariance.olr is not None:
            olr = OfColumns(covariance.olr, settings.olr_inflation)
        self.olr = olr
        self.planes: tuple[str, ...] = () if olr is None else ("olr",)
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
        older, share = self._before(background)
        observed = Departures(values, errors, self.olr, (older, background))

        def frames(increment: NDArray) -> tuple[NDArray, NDArray]:
            return older + share * increment, background + increment

        def linearise(v: NDArray) -> Inner:
            x = frames(self.transform(v))
            operator = observed.linearised(*x)

            def apply(dv: NDArray) -> NDArray:
                increment = self.transform(dv)
                return operator.apply(share * increment, increment)

            def adjoint(y: NDArray) -> NDArray:
                before, now = operator.adjoint(y)
                return self.transform_adjoint(now + share * before)

            return Inner(observed.of(*x), apply, adjoint)

        minimum = minimise(linearise, np.zeros(self.covariance.shape, np.float32), self.settings)
        return background + self.transform(minimum.v), observed.count, minimum

    def _before(self, background: NDArray) -> tuple[NDArray, np.float32]:
        """Return the frame before, and its share of an increment; the operators of a column need none."""
        return background, np.float32(0)

    def transform(self, v: NDArray) -> NDArray:
        """Return the increment (69, H, W), SI, of control variables."""
        return np.float32(self.settings.inflation) * self.covariance.apply(v)

    def transform_adjoint(self, x: NDArray) -> NDArray:
        """Return the adjoint of `transform`."""
        return np.float32(self.settings.inflation) * self.covariance.adjoint(x)


class ThreeDVarWithPast(ThreeDVar):
    """The same with a learned operator of OLR, which also takes the frame before.

    That frame gets the share of an increment that the experiment's `frames` says.
    """

    steps = 1
    _past: Past | None = None

    def with_past(self, past: Past) -> "ThreeDVarWithPast":
        """Return the assimilator of one chain with this past."""
        of_chain = copy(self)
        of_chain._past = past
        return of_chain

    def _before(self, background: NDArray) -> tuple[NDArray, np.float32]:
        if self._past is None:
            raise AssimilatorError(
                f"{self.name} with variational.olr: learned needs the frame 6 h before; run it in an experiment, or "
                "leave variational.olr out for one analysis"
            )
        return self._past.newer, np.float32(self._past.share)
