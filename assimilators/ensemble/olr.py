"""The learned operator of OLR as a filter takes it: about a background, with the frame six hours before it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dacycle.obs_ingest.operators.learned import LearnedOperator

__all__ = ["LearnedOlr"]

STEP = np.float32(0.3)
"""Errors in a cycle, as a share of a static member: over such steps slopes are taken."""


@dataclass(frozen=True, eq=False)
class LearnedOlr:
    """Compute OLR of states that follow on one frame.

    That frame has no perturbations here, as only the newer one is corrected.

    Attributes:
        operator: of two frames.
        older: (69, H, W) SI, six hours before the states.
        error: (H, W) W m-2, that of the operator at the background.
    """

    operator: LearnedOperator
    older: NDArray
    error: NDArray

    @classmethod
    def about(cls, operator: LearnedOperator, older: NDArray, background: NDArray) -> "LearnedOlr":
        """Return the operator about a background (69, H, W) and the frame before it."""
        return cls(operator, older, operator(older, background).errors["olr"])

    def __call__(self, states: NDArray) -> NDArray[np.float32]:
        """Return OLR (..., H, W), W m-2, of states (..., 69, H, W), SI."""
        each = states.reshape(-1, *states.shape[-3:])
        fields = np.stack([self.operator(self.older, state).values["olr"] for state in each])
        return fields.reshape(*states.shape[:-3], *states.shape[-2:])

    def slopes(self, background: NDArray, members: NDArray) -> NDArray[np.float32]:
        """Return the change of OLR (S, H, W) by each static member (S, 69, H, W), linearised over `STEP` of it."""
        there = self(background)
        return np.stack([(self(background + STEP * member) - there) / STEP for member in members])
