"""Operators of OLR as a cost function takes them: values and derivatives, from the frames 6 h before and at a time.

`OfColumns` is the regression on a column at the time itself, with derivatives by hand. `Learned` is the world's
network, with those of its exported graph. Both run without torch.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.classical.olr import OlrOperator
from dacycle.forecast_adapter.models.gradient import Gradient
from dacycle.obs_ingest.operators.learned import LEARNED, LearnedOperator

__all__ = ["Learned", "LinearOlr", "OfColumns", "Olr"]

_PLANE = LEARNED.index("olr")


class LinearOlr(Protocol):
    """An operator of OLR, linearised about two frames."""

    def apply(self, older: NDArray, newer: NDArray) -> NDArray:
        """Return the change (H, W) of OLR, W m-2, for changes of both frames (69, H, W)."""
        ...

    def adjoint(self, y: NDArray) -> tuple[NDArray, NDArray]:
        """Return the adjoint of `apply`: fields (69, H, W) for the older and the newer frame, of (H, W)."""
        ...


class Olr(Protocol):
    """An operator of OLR: of two frames (69, H, W), SI, 6 h apart."""

    def __call__(self, older: NDArray, newer: NDArray) -> NDArray:
        """Return OLR (H, W), W m-2."""
        ...

    def error(self, older: NDArray, newer: NDArray) -> NDArray:
        """Return the standard deviation of the operator's error, W m-2, (H, W) or a single number."""
        ...

    def linearised(self, older: NDArray, newer: NDArray) -> LinearOlr:
        """Return the operator linearised about two frames."""
        ...


@dataclass(frozen=True, eq=False)
class _OfSlopes:
    slopes: NDArray

    def apply(self, older: NDArray, newer: NDArray) -> NDArray:
        found: NDArray = np.einsum("chw,chw->hw", self.slopes, newer)
        return found

    def adjoint(self, y: NDArray) -> tuple[NDArray, NDArray]:
        return np.zeros_like(self.slopes), self.slopes * y


@dataclass(frozen=True, eq=False)
class OfColumns:
    """The regression on a column of the newer frame; its error is multiplied by `inflation`."""

    operator: OlrOperator
    inflation: float = 1.0

    def __call__(self, older: NDArray, newer: NDArray) -> NDArray:
        """Return OLR (H, W), W m-2."""
        return self.operator(newer)

    def error(self, older: NDArray, newer: NDArray) -> NDArray:
        """Return the standard deviation of the operator's error, W m-2."""
        return np.asarray(self.inflation * self.operator.error)

    def linearised(self, older: NDArray, newer: NDArray) -> LinearOlr:
        """Return the operator linearised about two frames."""
        return _OfSlopes(self.operator.slopes(newer))


@dataclass(frozen=True, eq=False)
class _OfGraph:
    gradient: Gradient
    older: NDArray
    newer: NDArray

    def apply(self, older: NDArray, newer: NDArray) -> NDArray:
        return self.gradient.tangent(self.older, self.newer, older, newer)[_PLANE]

    def adjoint(self, y: NDArray) -> tuple[NDArray, NDArray]:
        cotangent = np.zeros((len(LEARNED), *y.shape), np.float32)
        cotangent[_PLANE] = y
        return self.gradient.adjoint(self.older, self.newer, cotangent)


@dataclass(frozen=True, eq=False)
class Learned:
    """A learned operator with its gradient; its stated error is multiplied by `inflation`."""

    operator: LearnedOperator
    gradient: Gradient
    inflation: float = 1.0

    def __call__(self, older: NDArray, newer: NDArray) -> NDArray:
        """Return OLR (H, W), W m-2."""
        return self.operator(older, newer).values["olr"]

    def error(self, older: NDArray, newer: NDArray) -> NDArray:
        """Return the standard deviation (H, W) of the operator's error, W m-2."""
        return self.inflation * self.operator(older, newer).errors["olr"]

    def linearised(self, older: NDArray, newer: NDArray) -> LinearOlr:
        """Return the operator linearised about two frames."""
        return _OfGraph(self.gradient, older, newer)
