"""The minimisation of an incremental cost function: outer loops that linearise, inner loops of conjugate gradients.

With observation operators G linearised about the state of v (in units of the observation errors, and of the control
variables, whose background term is v^T v / 2) and departures d of that state, an inner loop finds the change of v that
minimises

    J(dv) = (v + dv)^T (v + dv) / 2 + (G dv - d)^T (G dv - d) / 2

(Courtier et al. 1994, doi:10.1002/qj.49712051912). Control variables precondition the problem: its Hessian is the
identity plus G^T G.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.variational.settings import VariationalSettings

__all__ = ["Inner", "Minimum", "conjugate_gradients", "minimise"]

Operator = Callable[[NDArray], NDArray]


@dataclass(frozen=True, eq=False)
class Inner:
    """Hold what an inner loop needs: departures d, G, and its adjoint G^T."""

    departures: NDArray
    apply: Operator
    adjoint: Operator

    def hessian(self, dv: NDArray) -> NDArray:
        """Return (I + G^T G) dv."""
        return dv + self.adjoint(self.apply(dv))


@dataclass(frozen=True, eq=False)
class Minimum:
    """Hold where a minimisation ended.

    Attributes:
        v: the control variables.
        iterations: of all inner loops.
        gradient: what is left of the cost function's gradient, as a share of that at the start of the last inner loop.
    """

    v: NDArray
    iterations: int
    gradient: float


def minimise(linearise: Callable[[NDArray], Inner], first: NDArray, settings: VariationalSettings) -> Minimum:
    """Minimise a cost function from control variables `first`, which are 0 for the background."""
    v, iterations, gradient = first, 0, 0.0
    for _ in range(settings.outer_loops):
        inner = linearise(v)
        change, made, gradient = conjugate_gradients(
            inner.hessian, inner.adjoint(inner.departures) - v, settings.iterations, settings.tolerance
        )
        v, iterations = v + change, iterations + made
    return Minimum(v, iterations, gradient)


def conjugate_gradients(
    hessian: Operator, right: NDArray, iterations: int, tolerance: float
) -> tuple[NDArray, int, float]:
    """Return v with A v = b, for a symmetric positive definite A, from v = 0.

    The cost v^T A v / 2 - b^T v falls in every iteration (Hestenes and Stiefel 1952, doi:10.6028/jres.049.044).

    Args:
        hessian: v -> A v.
        right: b.
        iterations: at most so many.
        tolerance: the gradient A v - b at which to stop, as a share of that at the start.

    Returns:
        v; the iterations made; the gradient left, as a share of that at the start, 0 where that was 0.
    """
    v, residual, direction = np.zeros_like(right), right.copy(), right.copy()
    first = squared = _dot(residual, residual)
    made = 0
    if not np.isfinite(first):
        return np.full_like(right, np.nan), made, np.nan  # a guard then refuses the analysis
    while made < iterations and squared > tolerance**2 * first:
        curved = hessian(direction)
        step = squared / _dot(direction, curved)
        v += step * direction
        residual -= step * curved
        before, squared = squared, _dot(residual, residual)
        direction = residual + squared / before * direction
        made += 1
    return v, made, float(np.sqrt(squared / first)) if first > 0 else 0.0


def _dot(a: NDArray, b: NDArray) -> NDArray:
    return np.dot(a.ravel(), b.ravel())
