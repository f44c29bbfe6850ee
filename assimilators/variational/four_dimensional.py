"""The method `4dvar`: the start of a short forecast is corrected so that it fits the observations along it.

Strong constraint, incremental (Courtier et al. 1994, doi:10.1002/qj.49712051912): the state at the start of the window
is its first guess plus U v, the forecast from it is compared with the observations of each time, and v minimises the
cost function of `minimisation`, whose operators are those of the observations behind the tangent linear of the model.
The analysis is the end of the forecast from the corrected start.

A model steps from two frames. The newer frame at the start is controlled; the older one gets the share of the
correction that the experiment's `frames` says, as it would get of an increment. B is the same as that of `3dvar`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from dacycle.assimilators.base import Analysis, AssimilatorError, Past
from dacycle.assimilators.classical.observed import check_fields
from dacycle.assimilators.variational.covariance import Covariance
from dacycle.assimilators.variational.departures import Departures, Linearised
from dacycle.assimilators.variational.minimisation import Inner, minimise
from dacycle.assimilators.variational.olr import Olr
from dacycle.assimilators.variational.settings import VariationalSettings
from dacycle.assimilators.variational.three_dimensional import ThreeDVar
from dacycle.forecast_adapter.channels import GROUPS
from dacycle.forecast_adapter.models.gradient import Gradient
from dacycle.forecast_adapter.models.model import ForecastModel

if TYPE_CHECKING:
    from dacycle.forecast_adapter.grid import Grid

__all__ = ["FourDVar"]

Frames = Sequence[NDArray]


class FourDVar:
    """Four-dimensional variational assimilation on the grid of a model.

    Args:
        covariance: of the background's error.
        settings: of the cost function.
        model: the forecast model.
        gradient: of the model.
        threads: threads of the matrix products; the same number gives the same bits.
        olr: operator of OLR; None: the covariance's, if it has one.
    """

    name = "4dvar"

    def __init__(
        self,
        covariance: Covariance,
        settings: VariationalSettings,
        model: ForecastModel,
        gradient: Gradient,
        threads: int = 1,
        olr: Olr | None = None,
    ) -> None:
        self.three = ThreeDVar(covariance, settings, threads, olr)
        self.settings, self.model, self.gradient = settings, model, gradient
        self.grid: Grid = covariance.grid
        self.world, self.digest = covariance.world, covariance.digest
        self.planes = self.three.planes
        self.steps = 2 if settings.window == "12h" else 1
        self._pools, self._threads = ThreadpoolController(), threads

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Refuse: without the frames before, there is no forecast to correct."""
        raise AssimilatorError(
            f"{self.name} corrects the start of a forecast; run it in an experiment, or use 3dvar for one analysis"
        )

    def with_past(self, past: Past) -> "Window":
        """Return the assimilator of one chain with this past."""
        return Window(self, past)

    def correct(self, past: Past, values: NDArray, errors: NDArray) -> Analysis:
        """Return the analysis of one chain, (1, 69, H, W); `values` and `errors`, (1, 69 + M, H, W), are of the end."""
        fields = [*past.observations, (values[0], errors[0])]
        for some in fields:
            check_fields(self.name, self.grid, self.planes, past.newer[None], some[0][None], some[1][None])
        none = np.zeros(self.three.covariance.shape, np.float32)
        with self._pools.limit(limits=self._threads, user_api="blas"):
            first = pairwise(self._trajectory(past, none)[1:])
            observed = [Departures(*some, self.three.olr, frames) for some, frames in zip(fields, first, strict=True)]
            minimum = minimise(lambda v: self._linearised(past, observed, v), none, self.settings)
            state = self._trajectory(past, minimum.v)[-1]
        return Analysis(
            state[None],
            None,
            {
                "observations": [sum(of_time.count for of_time in observed)],
                "iterations": [minimum.iterations],
                "gradient": [minimum.gradient],
            },
        )

    def _trajectory(self, past: Past, v: NDArray) -> list[NDArray]:
        """Return both frames of the start with the correction of v, and the states after each step, (69, H, W) each."""
        correction = self.three.transform(v)
        states = [_physical(past.older + np.float32(past.share) * correction), _physical(past.newer + correction)]
        for step in range(len(past.observations) + 1):
            state = next(iter(self.model.forecast(states[-2][None], states[-1][None], 1)))[0]
            states.append(_physical(state - past.bias[step]) if past.bias else state)
        return states

    def _linearised(self, past: Past, observed: Sequence[Departures], v: NDArray) -> Inner:
        """Return the inner loop about the trajectory of v."""
        states = self._trajectory(past, v)
        pairs = list(pairwise(states[1:]))
        operators = [of_time.linearised(*pair) for of_time, pair in zip(observed, pairs, strict=True)]
        return Inner(
            np.stack([of_time.of(*pair) for of_time, pair in zip(observed, pairs, strict=True)]),
            lambda dv: self._forward(states, operators, past.share, dv),
            lambda y: self._backward(states, operators, past.share, y),
        )

    def _forward(self, states: Frames, operators: Sequence[Linearised], share: float, dv: NDArray) -> NDArray:
        """Return R^(-1/2) H M U dv at each time, (times, F, H, W)."""
        newer = self.three.transform(dv)
        older = np.float32(share) * newer
        found = []
        for pair, operator in zip(pairwise(states[:-1]), operators, strict=True):
            older, newer = newer, self.gradient.tangent(*pair, older, newer)
            found.append(operator.apply(older, newer))
        return np.stack(found)

    def _backward(self, states: Frames, operators: Sequence[Linearised], share: float, y: NDArray) -> NDArray:
        """Return the adjoint of `_forward`."""
        newer = np.zeros(states[0].shape, np.float32)
        older = newer.copy()  # sensitivities to the frames of a step
        pairs = list(pairwise(states[:-1]))
        for (first, second), operator, of_time in zip(pairs[::-1], operators[::-1], y[::-1], strict=True):
            of_second, of_third = operator.adjoint(of_time)
            before, now = self.gradient.adjoint(first, second, newer + of_third)
            older, newer = before, now + older + of_second
        return self.three.transform_adjoint(newer + np.float32(share) * older)


def _physical(state: NDArray) -> NDArray:
    """Return a state (69, H, W) with humidity at least 0."""
    state[GROUPS["q"]] = np.maximum(state[GROUPS["q"]], 0)
    return state


class Window:
    """The assimilator of one chain in one cycle: `FourDVar` with the frames and observations before."""

    def __init__(self, method: FourDVar, past: Past) -> None:
        self._method, self._past = method, past
        self.name, self.grid, self.world = method.name, method.grid, method.world
        self.digest, self.planes = method.digest, method.planes

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Return the analysis of one chain; see `base.Assimilator`. The background is the end of the same forecast."""
        return self._method.correct(self._past, values, errors)
