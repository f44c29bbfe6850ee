"""What priors share: they learn the background's error from pairs of state and error, without any observation.

The error is the truth minus the background without the model's bias, in units of the usual error (`Constants.error`)
and of its own size. A prior is told this size, and how the error is shared out among the groups of variables: in
training the error itself says it, in an analysis the departures do (`AnalysisNetwork.departures`). A cycle's errors,
which are smaller than a forecast's and shared out otherwise, are then no strange ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dacycle.assimilators.networks.blocks.base import LEAST, MOST, AnalysisNetwork, Constants
from dacycle.forecast_adapter.channels import PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["PriorNetwork"]

DOUBT = 0.15
"""Standard deviation of the logarithm of what the departures get wrong about sizes."""


class PriorNetwork(AnalysisNetwork, ABC):
    """See the module's docstring. ``prior_loss`` is what is trained.

    Attributes:
        observes: whether its loss takes observations as well, (B, 69 + M, H, W) values and errors in SI units: those
            that the prior is conditional on.
    """

    observes = False
    # Nothing is seen in training that would teach a prior to distrust what rough observations say of sizes.
    trust = 4
    shares = (0.8, 1.25)
    area: Tensor
    plane_left: Tensor

    def __init__(self, grid: Grid, constants: Constants, reach_km: float, planes: tuple[str, ...] = tuple(PLANES)):
        super().__init__(grid, constants, reach_km, planes)
        self.register_buffer("area", torch.from_numpy(grid.weights).float(), persistent=False)
        # What the operator of the planes leaves unexplained is an error of the observations for a prior.
        self.register_buffer("plane_left", torch.zeros(len(planes), 1, 1))

    @abstractmethod
    def prior_loss(self, state: Tensor, target: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
        """What is to be least, over a batch.

        Args:
            state: (B, 69, H, W) normalised backgrounds.
            target: (B, 69, H, W) truth minus background, in standard deviations.
            weights: (69, H, W) of the loss, with a mean of 1.
            generator: of its noise.
        """

    def error_of(self, state: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The state without the model's bias, its error (B, 69, H, W) in units of its size, and the sizes."""
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
        """(B, 80, H, W): everything that a prior is told."""
        return torch.cat([state, self.known_beside(sizes)], 1)

    def fit_planes(self, states: Tensor, planes: Tensor, seed: int) -> Tensor:
        """See `AnalysisNetwork.fit_planes`."""
        left = super().fit_planes(states, planes, seed)
        self.plane_left.copy_(left[:, None, None])
        return left

    def observed(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`departures`, with what the planes' operator does not know in the errors of the planes."""
        departure, error, sizes = self.departures(state, values, errors)
        left = torch.cat([torch.zeros_like(self.error), 2 * self.plane_left])
        return departure, torch.where(error > 0, (error.square() + left.square()).sqrt(), 0.0), sizes

    def equivalents(self, slope: Tensor, size: Tensor, error: Tensor) -> Tensor:
        """What an error (B, 69, H, W), in units of its size, adds to the departures: (B, 69 + M, H, W); it is linear.

        Args:
            slope: of the planes' operator at the background, see `PlaneOperator.slope`.
        """
        return torch.cat([error, 2 * self.operator.tangent(slope, error * (size * self.error))], 1)
