"""What an experiment sets for a variational method: its key `variational`."""

from typing import Literal

from pydantic import Field

from dacycle.common.configuration import Strict

__all__ = ["VariationalSettings"]


class VariationalSettings(Strict):
    """Set the cost function of `3dvar` and `4dvar`, and its minimisation."""

    covariance: str = "3dvar"
    """The background's error covariance: a packaged one, or a file that `dacycle train` made of a recipe of kind
    `3dvar`."""
    inflation: float = Field(default=0.667, gt=0)
    """Factor on the standard deviations of the background's error."""
    olr_inflation: float = Field(default=6.0, ge=1)
    """Factor on the error of the operator of OLR: its errors are alike in neighbouring cells, which the cost function
    takes as independent."""
    olr: Literal["learned"] | None = None
    """`learned`: the world's learned operator computes OLR, from both frames of the six hours; default: the regression
    on a column that the covariance's file holds."""
    iterations: int = Field(default=40, ge=1, le=500)
    """Most conjugate-gradient iterations of an inner loop."""
    tolerance: float = Field(default=0.02, gt=0, lt=1)
    """An inner loop ends when its gradient is this share of that at its start."""
    outer_loops: int = Field(default=1, ge=1, le=10)
    """How often the operators, and the model, are linearised anew."""
    window: Literal["6h", "12h"] = "6h"
    """Of `4dvar`: how long before the analysis the controlled state is."""
