"""What was observed at one time, in units of its error: departures from a state, and their linearisation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.classical.observed import equivalents
from dacycle.assimilators.classical.olr import OlrOperator
from dacycle.forecast_adapter.channels import NAMES

__all__ = ["Departures", "Linearised"]

_CHANNELS = len(NAMES)


@dataclass(frozen=True, eq=False)
class Linearised:
    """Hold R^(-1/2) H linearised about a state; `precision` is (F, H, W), `slopes` (69, H, W) of OLR or None."""

    precision: NDArray
    slopes: NDArray | None

    def apply(self, x: NDArray) -> NDArray:
        """Return R^(-1/2) H x, (F, H, W), of an increment (69, H, W)."""
        if self.slopes is None:
            return self.precision * x
        olr = np.einsum("chw,chw->hw", self.slopes, x)
        return self.precision * np.concatenate([x, olr[None]])

    def adjoint(self, y: NDArray) -> NDArray:
        """Return H^T R^(-1/2) y, (69, H, W), of fields (F, H, W)."""
        weighted = self.precision * y
        if self.slopes is None:
            return weighted
        return weighted[:_CHANNELS] + self.slopes * weighted[_CHANNELS]


class Departures:
    """The observations of one chain at one time.

    Args:
        values, errors: (69 + M, H, W) SI, as `observed.check_fields` checks them; error > 0 exactly where observed.
        olr: operator of OLR, whose error is added to OLR's; None: OLR is not used.
    """

    def __init__(self, values: NDArray, errors: NDArray, olr: OlrOperator | None) -> None:
        used = _CHANNELS + (olr is not None)
        self._olr = olr
        error = errors[:used].copy()
        if olr is not None:
            error[-1] = np.where(error[-1] > 0, np.hypot(error[-1], olr.error), 0)
        self.precision: NDArray = np.divide(1, error, out=np.zeros(error.shape, np.float32), where=error > 0)
        # Selected, not multiplied by 0: values in unobserved places, NaN included, must change nothing.
        self._values = np.where(error > 0, values[:used], 0).astype(np.float32)

    @property
    def count(self) -> int:
        """Return the number of observed values that are used."""
        return int(np.count_nonzero(self.precision))

    def of(self, state: NDArray) -> NDArray:
        """Return R^(-1/2) (y - H(x)), (F, H, W), of a state (69, H, W)."""
        return (self._values - equivalents(state, self._olr)) * self.precision

    def linearised(self, state: NDArray) -> Linearised:
        """Return the operators linearised about a state (69, H, W)."""
        return Linearised(self.precision, None if self._olr is None else self._olr.slopes(state))
