"""The base of priors, which learn the background's error from pairs of state and error, without any observation.

The error is the truth minus the background without the model's bias, in units of the usual error (`Constants.error`)
and of its own size. This size, and the size in each group of variables, are inputs of a prior. In training they come
from the error itself, in an analysis from the departures (`AnalysisNetwork.departures`). So a prior also represents the
errors of cycles, which are smaller than a forecast's and distributed otherwise among the groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dacycle.assimilators.networks.blocks.base import LEAST, MOST, AnalysisNetwork, Constants
from dacycle.assimilators.networks.blocks.planes import UPDATES
from dacycle.forecast_adapter.channels import PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["PriorNetwork"]

DOUBT = 0.15
"""Standard deviation of the log error of sizes that are estimated from departures."""


class PriorNetwork(AnalysisNetwork, ABC):
    """Represent the distribution of background errors; ``prior_loss`` is trained.

    Attributes:
        observes: whether its loss also takes the observations that the prior is conditional on, values and errors
            (B, 69 + M, H, W), SI.
    """

    observes = False
    # Training shows no observations, so a prior cannot learn to distrust sizes estimated from rough observations.
    trust = 4
    shares = (0.8, 1.25)
    area: Tensor
    plane_left: Tensor

    def __init__(self, grid: Grid, constants: Constants, reach_km: float, planes: tuple[str, ...] = tuple(PLANES)):
        super().__init__(grid, constants, reach_km, planes)
        self.register_buffer("area", torch.from_numpy(grid.weights).float(), persistent=False)
        # For a prior, the error of the operator of the planes is an error of the observations.
        self.register_buffer("plane_left", torch.zeros(len(planes), 1, 1))

    @abstractmethod
    def prior_loss(self, state: Tensor, target: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch.

        Args:
            state: (B, 69, H, W) normalised backgrounds.
            target: (B, 69, H, W) truth minus background, in standard deviations.
            weights: (69, H, W) of the loss, with a mean of 1.
            generator: of the noise.
        """

    def error_of(self, state: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return the state without the model's bias, its error (B, 69, H, W) in units of its size, and the sizes."""
        state, bias = self.unbiased(state)
        error = target / self.error + bias
        square = (error.square() * self.area).mean((2, 3))
        whole = square.mean(1, keepdim=True).clamp(LEAST**2, MOST**2)
        groups = square @ self.members / self.members.sum(0) / whole
        sizes = torch.cat([whole, groups.clamp(LEAST**2, MOST**2)], 1).sqrt()
        doubt = (DOUBT * torch.randn(sizes.shape, generator=generator)).exp().to(sizes)
        sizes = (sizes * doubt)[..., None, None]
        return state, error / sizes[:, :1], sizes

    def known_of(self, state: Tensor, sizes: Tensor) -> Tensor:
        """Return all inputs of a prior but the error, (B, 80, H, W)."""
        return torch.cat([state, self.known_beside(sizes)], 1)

    def fit_planes(self, states: Tensor, planes: Tensor, seed: int, updates: int = UPDATES) -> Tensor:
        """Fit the operator of the planes, and keep its error; see `AnalysisNetwork.fit_planes`."""
        unexplained = super().fit_planes(states, planes, seed, updates)
        self.plane_left.copy_(unexplained[:, None, None])
        return unexplained

    def observed(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `departures`, with the error of the planes' operator added to the errors of the planes."""
        departure, error, sizes = self.departures(state, values, errors)
        of_operator = torch.cat([torch.zeros_like(self.error), 2 * self.plane_left])
        return departure, torch.where(error > 0, (error.square() + of_operator.square()).sqrt(), 0.0), sizes

    def equivalents(self, slope: Tensor, size: Tensor, error: Tensor) -> Tensor:
        """Return the equivalents (B, 69 + M, H, W) of an error (B, 69, H, W) in the departures, which are linear in it.

        Args:
            slope: of the planes' operator at the background, see `PlaneOperator.slope`.
            size: of the error.
            error: in units of its size.
        """
        return torch.cat([error, 2 * self.operator.tangent(slope, error * (size * self.error))], 1)
