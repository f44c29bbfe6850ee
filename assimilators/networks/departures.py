"""What methods share that make an increment of departures: normalisation, departures, the gate, the contract.

A method is what it makes of them (`DepartureNetwork.observe`, `encode`, `decode`). For the sphere and for cycling, all:

- see observations as departures from the background in units of the background's error, weighted with their errors.
  How large the background's error is, the departures themselves say (`departures`), in all and in each group of
  variables: a forecast's errors and a cycle's, of which observations have taken their part, differ in how they are
  shared out. Planes without a channel (OLR, precipitation, humidity at 2 m) are compared with what an operator makes
  of the background's column (`networks.planes`);
- take off first what the forecast model does wrong on average (`unbiased`), for observations are too few to find it
  anew in every cycle;
- change the sign of the rest with the departures (`estimate`). Free to do otherwise, a network learns what is usually
  wrong with the backgrounds it was shown, and takes it away in every cycle, there or not: such cycles go astray;
- gate the increment by the density of observations: beyond `reach_km` from the nearest there is none at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.layers import RadialConvolution
from dacycle.assimilators.networks.planes import PlaneOperator
from dacycle.forecast_adapter.channels import GROUPS, NAMES, PLANES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.mini import annual_cycle

__all__ = ["CHANNELS", "Constants", "DepartureNetwork", "SetConvolutions", "gaussian_loss", "halved"]

CHANNELS = len(NAMES)
NEAR, WIDE = (1500.0,), (3000.0, 6000.0)
"""Supports in km of the set convolutions' kernels, on the grid and on its 2 x 2 blocks."""
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


class DepartureNetwork(nn.Module, ABC):
    """See the module's docstring. ``forward`` is the exported contract, ``estimate`` what is trained.

    Args:
        grid: with an even number of rows and columns.
        constants: of the world.
        reach_km: distance beyond which an observation changes nothing.
        planes: observation planes after the 69 channels.
    """

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
        self.register_buffer("calibration", torch.ones(CHANNELS, 1, 1), persistent=False)
        members = torch.zeros(CHANNELS, len(GROUPS))
        for number, group in enumerate(GROUPS.values()):
            members[group, number] = 1
        self.register_buffer("members", members, persistent=False)
        self.inputs = CHANNELS + len(planes)
        self.known = len(constants.static) + 1 + len(GROUPS)
        self.operator = PlaneOperator(CHANNELS + len(constants.static), len(planes))
        self.reach = RadialConvolution(grid, (float(reach_km),))

    @abstractmethod
    def observe(self, departure: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Features of departures and weights, (B, 69 + M, H, W).

        Each is (B, 2 K, C, H', W'): K that change their sign with the departures, and K that do not.
        """

    @abstractmethod
    def encode(self, state: Tensor, known: Tensor) -> tuple[Tensor, ...]:
        """Features of the normalised background and what is `known` beside it, (B, 11, H, W)."""

    @abstractmethod
    def decode(
        self, state: Tensor, known: Tensor, background: tuple[Tensor, ...], observed: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """Increment, and spread before `_spread` or None, (B, 69, H, W), in units of the background's error."""

    def estimate(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Increment and spread, (B, 69, H, W), in units of ``error``; no spread where the method has none.

        Half the difference of what departures and their opposites give changes its sign with them, and is 0 where
        observations agree with the background without its bias. The bias is taken off where the gate is open.

        Args:
            state: (B, 69, H, W) the normalised background.
            values, errors: (B, 69 + M, H, W) superobs, SI; an error above 0 exactly where there is one.
        """
        state, bias = self.unbiased(state)
        departure, weight, sizes = self.departures(state, values, errors)
        known, size = self._known(sizes), sizes[:, :1]
        observed = tuple(_and_opposite(features) for features in self.observe(departure, weight))
        background = tuple(features.repeat(2, 1, 1, 1) for features in self.encode(state, known))
        increment, spread = self.decode(state.repeat(2, 1, 1, 1), known.repeat(2, 1, 1, 1), background, observed)
        there, back = increment.unflatten(0, (2, -1)).unbind(0)
        increment = self.gate(weight) * (0.5 * size * (there - back) - bias)
        if spread is None:
            return increment, None
        return increment, size * self._spread(spread.unflatten(0, (2, -1)).mean(0))

    def estimate_one_way(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor | None]:
        """`estimate` at half the cost, to train with: half of the samples are seen with the opposite departures.

        What is best for both signs then changes its sign with them, as `estimate` does by construction. Two and two,
        because every second sample may be of another kind.
        """
        state, bias = self.unbiased(state)
        departure, weight, sizes = self.departures(state, values, errors)
        known, size = self._known(sizes), sizes[:, :1]
        sign = 1.0 - 2.0 * (torch.arange(state.shape[0], device=state.device)[:, None, None, None] // 2 % 2)
        observed = tuple(_signed(features, sign) for features in self.observe(departure, weight))
        increment, spread = self.decode(state, known, self.encode(state, known), observed)
        increment = self.gate(weight) * (sign * size * increment - bias)
        return increment, None if spread is None else size * self._spread(spread)

    def unbiased(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised background without the model's systematic error, and this in units of ``error``."""
        bias = torch.einsum("bs,schw->bchw", annual_cycle(state, self.season), self.bias)
        return state - bias, bias / self.error

    def _known(self, sizes: Tensor) -> Tensor:
        """What is known everywhere beside the state: (B, 11, H, W), static planes and the error's sizes."""
        static = self.static.expand(sizes.shape[0], -1, -1, -1)
        return torch.cat([static, sizes.log().expand(-1, -1, *self.static.shape[1:])], 1)

    def _spread(self, raw: Tensor) -> Tensor:
        return 0.01 + 0.99 * functional.softplus(raw)

    def gate(self, weight: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1): exactly 0 beyond the reach of every observation."""
        with torch.autocast(weight.device.type, enabled=False):
            density = self.reach(weight.float().sum(1, keepdim=True))[:, 0]
        return 1 - torch.exp(-(density - FLOOR).clamp(min=0) / OPEN)

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
        channels = seen[:, :CHANNELS]
        values = torch.where(seen, values, 0.0)
        scale = self.std * self.error
        departure = (values[:, :CHANNELS] - self.mean) / scale - state / self.error
        error = errors[:, :CHANNELS] / scale
        with torch.autocast(state.device.type, enabled=False):
            excess = torch.where(channels, departure.square() - error.square(), 0.0).sum((2, 3)) @ self.members
            count = channels.float().sum((2, 3)) @ self.members
        whole = (excess.sum(1, keepdim=True) + PRIOR) / (count.sum(1, keepdim=True) + PRIOR)
        whole = whole.clamp(LEAST**2, MOST**2)
        groups = (excess / whole + PRIOR) / (count + PRIOR)
        sizes = torch.cat([whole, groups.clamp(LEAST**2, MOST**2)], 1).sqrt()[..., None, None]
        size = sizes[:, :1]
        departure, error = departure / size, error / size
        plane, plane_error = values[:, CHANNELS:], errors[:, CHANNELS:]
        plane_error = torch.where(self.is_rain, plane_error / (1 + plane.clamp(min=0)), plane_error)
        plane = self._normalised(plane) - self.operator(self._columns(state)).float()
        departure = torch.where(seen, torch.cat([departure, 2 * plane], 1), 0.0)
        error = torch.cat([error, 2 * plane_error / self.plane_std], 1)
        return departure, torch.where(seen, 1 / (1 + error.square()), 0.0), sizes

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

    def forward(self, background: Tensor, observations: Tensor, observation_errors: Tensor) -> tuple[Tensor, ...]:
        state = (background - self.mean) / self.std
        increment, spread = self.estimate(state, observations, observation_errors)
        scale = self.std * self.error
        analysis = background + increment * scale
        return (analysis,) if spread is None else (analysis, spread * scale * self.calibration)


class SetConvolutions(nn.Module):
    """Departures as fields with their density (ConvCNP, arXiv 1910.13556; FNP, section 3.2), at three widths in km.

    Kernels are fixed functions of great-circle distance. (B, C, H, W) twice -> (B, 4, C, H, W) at and near the points,
    (B, 4, C, H/2, W/2) far around: mean departures, then densities.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.near, self.wide = RadialConvolution(grid, NEAR), RadialConvolution(halved(grid), WIDE)

    @property
    def fine(self) -> int:
        """Features of each channel on the grid."""
        return 2 * (1 + len(NEAR))

    @property
    def coarse(self) -> int:
        """Features of each channel on 2 x 2 blocks."""
        return 2 * len(WIDE)

    def forward(self, departure: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.stack([departure * weight, weight], 1)
        flat = sums.flatten(1, 2)
        with torch.autocast(departure.device.type, enabled=False):
            near = self.near(flat.float()).unflatten(2, (2, -1))
            blocks = 4 * functional.avg_pool2d(flat.float(), 2)
            wide = self.wide(blocks).unflatten(2, (2, -1))
        fine = torch.cat([sums[:, None], near], 1)
        return _mean_and_density(fine), _mean_and_density(wide)


def gaussian_loss(increment: Tensor, spread: Tensor, target: Tensor) -> Tensor:
    """Negative log likelihood, weighted by the variance within a sample. All are (B, 69, H, W).

    The mean then learns from plain squared errors, as in beta-NLL with beta = 1 (Seitzer et al. 2022, arXiv
    2203.09168): the likelihood itself would give most weight to where the error is smallest, and a cycle lives by where
    it is largest. From sample to sample the weight is the root: a background twice as wrong counts twice, not four
    times, or those of 6 h would hardly be learnt, their spread least of all.
    """
    variance = spread.square()
    weight = variance.detach() / variance.detach().mean((1, 2, 3), keepdim=True).sqrt()
    return 0.5 * weight * (variance.log() + (target - increment).square() / variance)


def _mean_and_density(sums: Tensor) -> Tensor:
    """(B, K, 2, C, H, W), weighted departures and weights, to (B, 2 K, C, H, W).

    The mean fades where there is next to nothing to average: the background's own weight is in it.
    """
    total, density = sums.unbind(2)
    density = density.clamp(min=0)
    return torch.cat([total / (density + 0.2), density / (density + 1)], 1)


def _signed(features: Tensor, sign: Tensor) -> Tensor:
    """Means and densities, (B, 2 K, C, H, W), the means times (B, 1, 1, 1) signs."""
    means, densities = features.chunk(2, 1)
    return torch.cat([means * sign[..., None], densities], 1)


def _and_opposite(features: Tensor) -> Tensor:
    """Means and densities, (B, 2 K, C, H, W), and below them, (2 B, ...), the same with the means' signs changed."""
    means, densities = features.chunk(2, 1)
    return torch.cat([features, torch.cat([-means, densities], 1)])


def halved(grid: Grid) -> Grid:
    """The grid of the 2 x 2 blocks of cells."""
    latitude, longitude = (np.asarray(c, float).reshape(-1, 2).mean(1) for c in (grid.latitude, grid.longitude))
    return Grid(f"2x2 blocks of {grid.name}", latitude, longitude)
