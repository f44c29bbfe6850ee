"""What every trained network has: the world's constants, departures in units of the background's error, the gate.

All of them

- see observations as departures from the background in units of the background's error. How large that is, the
  departures themselves say (`departures`), in all and in each group of variables: a forecast's errors and a cycle's, of
  which observations have taken their part, differ in how they are shared out. Planes without a channel (OLR,
  precipitation, humidity at 2 m) are compared with what an operator makes of the background's column (`planes`);
- take off first what the forecast model does wrong on average (`unbiased`), for observations are too few to find it
  anew in every cycle;
- gate the increment by the density of observations: beyond `reach_km` from the nearest there is none at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dacycle.assimilators.networks.blocks.layers import RadialConvolution
from dacycle.assimilators.networks.blocks.planes import PlaneOperator
from dacycle.assimilators.trained.stepping import Stepping
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, GROUPS, PLANES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.mini import annual_cycle

__all__ = ["AnalysisNetwork", "Constants", "weights_of"]

OPEN = 0.05
"""Density of observations, in observations as good as the background, at which the gate is 63 % open."""
LEAST, MOST, PRIOR = 0.1, 5.0, 50.0
"""Bounds of the size of a background's error in units of the usual one, and how many observations 1 counts for."""
FLOOR = 1e-4
"""Density below which there is none: far above the rounding of the convolution, far below any observation's."""


@dataclass(frozen=True)
class Constants:
    """What the network knows of its world.

    ``mean``, ``std`` (69,): the world's statistics, SI. ``error`` (69,): the backgrounds' usual error in standard
    deviations. ``plane_mean``, ``plane_std`` (M,): of the observation planes, that of precipitation after log(1 + x).
    ``static`` (4, H, W): see `forecast_adapter.mini.static_planes`. ``season`` (2, 13 H + 1): what tells the day of the
    year, see `forecast_adapter.mini.annual_cycle`. ``bias`` (5, 69, H, W): the forecast model's systematic error, see
    `training.backgrounds.systematic_error`.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    error: NDArray[np.float32]
    plane_mean: NDArray[np.float32]
    plane_std: NDArray[np.float32]
    static: NDArray[np.float32]
    season: NDArray[np.float32]
    bias: NDArray[np.float32]


class AnalysisNetwork(nn.Module):
    """See the module's docstring. ``forward`` is the exported contract (`dacycle.assimilators.trained.network`).

    Args:
        grid: with an even number of rows and columns.
        constants: of the world.
        reach_km: distance beyond which an observation changes nothing.
        planes: observation planes after the 69 channels.

    Attributes:
        stepping: of an iterative method, whose ``forward`` makes one step (`dacycle.assimilators.trained.stepping`).
        trust: how much more exact observations than others say of the background's error: a power of their weight.
        shares: bounds of how much larger the error may be in one group of variables than in all.
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
    is_rain: Tensor
    calibration: Tensor
    members: Tensor

    def __init__(self, grid: Grid, constants: Constants, reach_km: float, planes: tuple[str, ...] = tuple(PLANES)):
        super().__init__()
        self.planes = planes
        for name, value in vars(constants).items():
            shaped = value[:, None, None] if value.ndim == 1 else value
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(shaped, np.float32)))
        is_rain = torch.tensor([plane == "tp6h" for plane in planes])[:, None, None]
        self.register_buffer("is_rain", is_rain, persistent=False)
        # What an export multiplies the spread of each channel with (`export_assimilator`).
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
        """What is known everywhere beside the state: (B, 11, H, W), static planes and the error's sizes."""
        static = self.static.expand(sizes.shape[0], -1, -1, -1)
        return torch.cat([static, sizes.log().expand(-1, -1, *self.static.shape[1:])], 1)

    def gate(self, weight: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1): exactly 0 beyond the reach of every observation."""
        with torch.autocast(weight.device.type, enabled=False):
            density = self.reach(weight.float().sum(1, keepdim=True))[:, 0]
        return 1 - torch.exp(-(density - FLOOR).clamp(min=0) / OPEN)

    def unbiased(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised background without the model's systematic error, and this in units of ``error``."""
        bias = torch.einsum("bs,schw->bchw", annual_cycle(state, self.season), self.bias)
        return state - bias, bias / self.error

    def departures(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observations as departures in units of the background's error, their weights against it, and its sizes.

        The sizes (B, 1 + 6, 1, 1) are how large the error is in units of the usual one, and how much larger that of
        each group, as the departures themselves tell: their mean square is the sum of the background's and the
        observations' own. The channels' departures and errors are in units of the first, so that small errors and large
        ones look alike.

        Args:
            state: (B, 69, H, W) normalised. values, errors: (B, 69 + M, H, W), SI; nothing is read of values where the
                error is 0.
        """
        seen = errors > 0
        channels = seen[:, :CHANNEL_COUNT]
        values = torch.where(seen, values, 0.0)
        scale = self.std * self.error
        departure = (values[:, :CHANNEL_COUNT] - self.mean) / scale - state / self.error
        error = errors[:, :CHANNEL_COUNT] / scale
        with torch.autocast(state.device.type, enabled=False):
            told = torch.where(channels, (1 + error.square()) ** -self.trust, 0.0)
            excess = (told * (departure.square() - error.square())).sum((2, 3)) @ self.members
            count = told.sum((2, 3)) @ self.members
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

    def fit_planes(self, states: Tensor, planes: Tensor, seed: int) -> Tensor:
        """Fit the operator of the planes to (n, 69, H, W) normalised states and (n, M, H, W) planes, SI.

        Returns (M,) the share of each plane's standard deviation that it leaves unexplained.
        """
        return self.operator.fit(self._columns(states), self._normalised(planes), seed)

    def _columns(self, state: Tensor) -> Tensor:
        return torch.cat([state, self.static.expand(state.shape[0], -1, -1, -1)], 1)

    def _normalised(self, planes: Tensor) -> Tensor:
        planes = torch.where(self.is_rain, torch.log1p(planes.clamp(min=0)), planes)
        return (planes - self.plane_mean) / self.plane_std


def weights_of(error: Tensor) -> Tensor:
    """Weights of observations against the background, from their errors in its units; 0 where there are none."""
    return torch.where(error > 0, 1 / (1 + error.square()), 0.0)
