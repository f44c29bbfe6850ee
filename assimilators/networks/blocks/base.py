"""The base of every trained network: the world's constants, departures in units of the background's error, the gate.

All networks

- see observations as departures from the background in units of the background's error. The size of this error, in all
  and in each group of variables, is estimated from the departures (`departures`), because errors of forecasts and of
  cycles differ in size and in their distribution among the groups. Planes without a channel (OLR, precipitation,
  humidity at 2 m) are compared with the output of an operator on the background's column (`planes`);
- remove the mean error of the forecast model first (`unbiased`), because observations are too sparse to find it anew in
  every cycle;
- gate the increment by the density of observations: there is none beyond `reach_km` from the nearest observation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dacycle.assimilators.networks.blocks.layers import RadialConvolution
from dacycle.assimilators.networks.blocks.planes import UPDATES, PlaneOperator
from dacycle.assimilators.trained.stepping import Stepping
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, GROUPS, PLANES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.time_of_state import annual_cycle, cycles, hour_of_day

__all__ = ["AnalysisNetwork", "Constants", "weights_of"]

OPEN = 0.05
"""Density of observations, in observations as good as the background, at which the gate is 63 % open."""
LEAST, MOST, PRIOR = 0.1, 5.0, 50.0
"""Bounds of the size of a background's error in units of the usual one; weight of the prior size 1, in observations."""
FLOOR = 1e-4
"""Density that counts as 0: far above the rounding error of the convolution, far below that of any observation."""


@dataclass(frozen=True)
class Constants:
    """Hold the constants that a network takes from its world.

    Attributes:
        mean, std: (69,) the world's statistics, SI.
        error: (69,) the backgrounds' usual error in standard deviations.
        plane_mean, plane_std: (M,) of the observation planes, precipitation after log(1 + x).
        static: (4, H, W) see `forecast_adapter.models.mini.static_planes`.
        season, hour: weights that give day and hour, see `forecast_adapter.models.time_of_state`; an hour of None has
            no daily cycle.
        bias: (5 or 14, 69, H, W) the forecast model's mean error, see `sampling.backgrounds.systematic_error`.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    error: NDArray[np.float32]
    plane_mean: NDArray[np.float32]
    plane_std: NDArray[np.float32]
    static: NDArray[np.float32]
    season: NDArray[np.float32]
    bias: NDArray[np.float32]
    hour: NDArray[np.float32] | None = None


class AnalysisNetwork(nn.Module):
    """Make an analysis of background and observations; ``forward`` is the contract of `assimilators.trained.network`.

    Args:
        grid: with an even number of rows and columns.
        constants: of the world.
        reach_km: distance beyond which an observation has no influence.
        planes: observation planes after the 69 channels.

    Attributes:
        stepping: of an iterative method, whose ``forward`` makes one step (`assimilators.trained.stepping`).
        trust: power of an observation's weight with which it counts in the estimate of the background's error.
        shares: bounds of the error in one group of variables over the error in all.
    """

    stepping: Stepping | None = None
    trust = 0
    shares = (LEAST, MOST)
    mean: Tensor
    std: Tensor
    error: Tensor
    plane_mean: Tensor
    plane_std: Tensor
    static: Tensor
    season: Tensor
    bias: Tensor
    hour: Tensor | None
    is_rain: Tensor
    calibration: Tensor
    members: Tensor

    def __init__(self, grid: Grid, constants: Constants, reach_km: float, planes: tuple[str, ...] = tuple(PLANES)):
        super().__init__()
        self.planes = planes
        for name, value in vars(constants).items():
            self.register_buffer(name, None if value is None else _buffer(value))
        is_rain = torch.tensor([plane == "tp6h" for plane in planes], dtype=torch.bool)[:, None, None]
        self.register_buffer("is_rain", is_rain, persistent=False)
        # An export calibrates the spread of each channel with this factor (`export.assimilator`).
        self.register_buffer("calibration", torch.ones(CHANNEL_COUNT, 1, 1), persistent=False)
        members = torch.zeros(CHANNEL_COUNT, len(GROUPS))
        for number, group in enumerate(GROUPS.values()):
            members[group, number] = 1
        self.register_buffer("members", members, persistent=False)
        self.inputs = CHANNEL_COUNT + len(planes)
        self.known = len(constants.static) + 1 + len(GROUPS)
        self.operator = PlaneOperator(CHANNEL_COUNT + len(constants.static), len(planes))
        self.reach = RadialConvolution(grid, (float(reach_km),))

    def known_beside(self, sizes: Tensor) -> Tensor:
        """Return the inputs known at every point beside the state, (B, 11, H, W): static planes and error sizes."""
        static = self.static.expand(sizes.shape[0], -1, -1, -1)
        return torch.cat([static, sizes.log().expand(-1, -1, *self.static.shape[1:])], 1)

    def gate(self, weight: Tensor) -> Tensor:
        """Return the gate (B, 1, H, W) in [0, 1), which is exactly 0 beyond the reach of every observation."""
        with torch.autocast(weight.device.type, enabled=False):
            density = self.reach(weight.float().sum(1, keepdim=True))[:, 0]
        return 1 - torch.exp(-(density - FLOOR).clamp(min=0) / OPEN)

    def unbiased(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised background without the model's mean error, and that error in units of ``error``."""
        annual = annual_cycle(state, self.season)
        hour = None if self.hour is None else hour_of_day(state, self.hour, self.static[1], annual)
        bias = torch.einsum("bs,schw->bchw", cycles(annual, hour), self.bias)
        return state - bias, bias / self.error

    def departures(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return departures and observation errors in units of the background's error, and the sizes of this error.

        The sizes (B, 1 + 6, 1, 1) are the background's error in units of the usual one, and that of each group relative
        to it. They are estimated from the departures, whose mean square is the sum of the background's and the
        observations' error variance. The channels' departures and errors are divided by the first, so that small and
        large errors look alike to the network.

        Args:
            state: (B, 69, H, W) normalised.
            values, errors: (B, 69 + M, H, W), SI; values have no effect where the error is 0.
        """
        seen = errors > 0
        channels = seen[:, :CHANNEL_COUNT]
        values = torch.where(seen, values, 0.0)
        scale = self.std * self.error
        departure = (values[:, :CHANNEL_COUNT] - self.mean) / scale - state / self.error
        error = errors[:, :CHANNEL_COUNT] / scale
        with torch.autocast(state.device.type, enabled=False):
            weight = torch.where(channels, (1 + error.square()) ** -self.trust, 0.0)
            excess = (weight * (departure.square() - error.square())).sum((2, 3)) @ self.members
            count = weight.sum((2, 3)) @ self.members
        whole = (excess.sum(1, keepdim=True) + PRIOR) / (count.sum(1, keepdim=True) + PRIOR)
        whole = whole.clamp(LEAST**2, MOST**2)
        groups = (excess / whole + PRIOR) / (count + PRIOR)
        sizes = torch.cat([whole, groups.clamp(*(bound**2 for bound in self.shares))], 1).sqrt()[..., None, None]
        size = sizes[:, :1]
        departure, error = departure / size, error / size
        plane, plane_error = values[:, CHANNEL_COUNT:], errors[:, CHANNEL_COUNT:]
        plane_error = torch.where(self.is_rain, plane_error / (1 + plane.clamp(min=0)), plane_error)
        plane = self._normalised(plane) - self.operator(self._columns(state)).float()
        departure = torch.where(seen, torch.cat([departure, 2 * plane], 1), 0.0)
        error = torch.cat([error, 2 * plane_error / self.plane_std], 1)
        return departure, torch.where(seen, error, 0.0), sizes

    def fit_planes(self, states: Tensor, planes: Tensor, seed: int, updates: int = UPDATES) -> Tensor:
        """Fit the operator of the planes to (n, 69, H, W) normalised states and (n, M, H, W) planes, SI.

        Returns:
            (M,) unexplained share of each plane's standard deviation.
        """
        return self.operator.fit(self._columns(states), self._normalised(planes), seed, updates)

    def _columns(self, state: Tensor) -> Tensor:
        return torch.cat([state, self.static.expand(state.shape[0], -1, -1, -1)], 1)

    def _normalised(self, planes: Tensor) -> Tensor:
        planes = torch.where(self.is_rain, torch.log1p(planes.clamp(min=0)), planes)
        return (planes - self.plane_mean) / self.plane_std


def _buffer(value: NDArray[np.float32]) -> Tensor:
    """Return a constant as a tensor; one value a channel gets the axes of a field."""
    return torch.from_numpy(np.ascontiguousarray(value[:, None, None] if value.ndim == 1 else value, np.float32))


def weights_of(error: Tensor) -> Tensor:
    """Return weights of observations relative to the background, from their errors in its units; 0 where none is."""
    return torch.where(error > 0, 1 / (1 + error.square()), 0.0)
