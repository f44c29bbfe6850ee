"""What was observed at one time, in units of its error: departures from a state, and their linearisation.

A state comes with the frame 6 h before, of which a learned operator of OLR also takes account.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.variational.olr import LinearOlr, Olr
from dacycle.forecast_adapter.channels import NAMES

__all__ = ["Departures", "Linearised"]

_CHANNELS = len(NAMES)


@dataclass(frozen=True, eq=False)
class Linearised:
    """Hold R^(-1/2) H linearised about a state; `precision` is (F, H, W), `olr` None where OLR is not used."""

    precision: NDArray
    olr: LinearOlr | None

    def apply(self, older: NDArray, newer: NDArray) -> NDArray:
        """Return R^(-1/2) H x, (F, H, W), of increments (69, H, W) of the frame before and of the state."""
        if self.olr is None:
            return self.precision * newer
        return self.precision * np.concatenate([newer, self.olr.apply(older, newer)[None]])

    def adjoint(self, y: NDArray) -> tuple[NDArray, NDArray]:
        """Return H^T R^(-1/2) y of fields (F, H, W): (69, H, W) for the frame before, and for the state."""
        weighted = self.precision * y
        if self.olr is None:
            return np.zeros_like(weighted), weighted
        older, newer = self.olr.adjoint(weighted[_CHANNELS])
        return older, weighted[:_CHANNELS] + newer


class Departures:
    """The observations of one chain at one time.

    Args:
        values, errors: (69 + M, H, W) SI, as `observed.check_fields` checks them; error > 0 exactly where observed.
        olr: operator of OLR; None: OLR is not used.
        first: (69, H, W) each, the frame before and the background, at which the operator's error is taken. It is added
            to OLR's.
    """

    def __init__(self, values: NDArray, errors: NDArray, olr: Olr | None, first: tuple[NDArray, NDArray]) -> None:
        used = _CHANNELS + (olr is not None)
        self._olr = olr
        error = errors[:used].copy()
        if olr is not None:
            error[-1] = np.where(error[-1] > 0, np.hypot(error[-1], olr.error(*first)), 0)
        self.precision: NDArray = np.divide(1, error, out=np.zeros(error.shape, np.float32), where=error > 0)
        # Selected, not multiplied by 0: values in unobserved places, NaN included, must change nothing.
        self._values = np.where(error > 0, values[:used], 0).astype(np.float32)

    @property
    def count(self) -> int:
        """Return the number of observed values that are used."""
        return int(np.count_nonzero(self.precision))

    def of(self, older: NDArray, newer: NDArray) -> NDArray:
        """Return R^(-1/2) (y - H(x)), (F, H, W), of a state and the frame before, (69, H, W) each."""
        expected = newer if self._olr is None else np.concatenate([newer, self._olr(older, newer)[None]])
        return (self._values - expected) * self.precision

    def linearised(self, older: NDArray, newer: NDArray) -> Linearised:
        """Return the operators linearised about a state and the frame before, (69, H, W) each."""
        return Linearised(self.precision, None if self._olr is None else self._olr.linearised(older, newer))
