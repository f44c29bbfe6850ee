"""FNP: Fourier Neural Processes for assimilation (Chen et al. 2024, arXiv 2406.01645), on the sphere and for cycling.

What makes it FNP: *set convolutions*, which turn scattered observations into a field with its density (section 3.2);
*towers* for each group of variables and one for all of them, for observations and background apart; *neural Fourier
layers*; *dynamic alignment and merging*, which adds to the fused features of each tower those of the source that is
less like them; a Gaussian for each variable and point, whose mean is a *residual on the background*.

Where it departs:
- Observations enter as departures from the background in units of the background's error, weighted with their errors:
  the paper's have none. How large the background's error is, the departures themselves say (`departures`), in all and
  in each group of variables: a forecast's errors and a cycle's, of which observations have taken their part, differ in
  how they are shared out. Planes without a channel (OLR, precipitation, humidity at 2 m) are compared with what an
  operator makes of the background's column (`networks.planes`).
- The set convolution's kernels are functions of great-circle distance, at three widths in km, instead of learned ones
  of 11 x 11 points; Fourier layers use the sphere's parity, convolutions go on around it and across the poles.
- Towers stand on 2 x 2 blocks of cells, and a few layers refine what they say on the grid.
- The background covers the grid: its set convolution, with a density of one everywhere, would only smooth it.
- Some of the Fourier layers stand after the merging, where observations meet the flow.
- The increment is gated by the density of observations: beyond `reach_km` from the nearest there is none at all.
- What the forecast model does wrong on average is taken off first (`unbiased`), for observations are too few to find it
  anew in every cycle.
- The rest changes its sign with the departures (`estimate`). Free to do otherwise, a network learns what is usually
  wrong with the backgrounds it was shown, and takes it away in every cycle, there or not: such cycles go astray.
- The loss is a Gaussian likelihood weighted by the variance within a sample, by its root from sample to sample
  (`gaussian_loss`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.layers import FourierLayer, Pointwise, RadialConvolution
from dacycle.assimilators.networks.planes import PlaneOperator
from dacycle.forecast_adapter.channels import GROUPS, NAMES, PLANES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.mini import annual_cycle

__all__ = ["FnpConstants", "FnpNetwork", "FnpSize", "gaussian_loss"]

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
class FnpSize:
    """How large the network is.

    Attributes:
        joint, group, fine: widths of the joint tower, of each group's, and of what refines them on the full grid.
        layers, merged: Fourier layers before and after the merging.
        kernel, modes, block: of each layer: its convolution, its modes along each axis, the channels that a mode mixes.
        reach_km: distance beyond which an observation changes nothing.
    """

    joint: int = 96
    group: int = 16
    fine: int = 32
    layers: int = 1
    merged: int = 3
    kernel: int = 5
    modes: int = 8
    block: int = 16
    reach_km: int = 2500


@dataclass(frozen=True)
class FnpConstants:
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


class FnpNetwork(nn.Module):
    """See the module's docstring. ``forward`` is the exported contract, ``estimate`` what is trained."""

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

    def __init__(
        self, grid: Grid, constants: FnpConstants, size: FnpSize, planes: tuple[str, ...] = tuple(PLANES)
    ) -> None:
        super().__init__()
        self.size, self.planes = size, planes
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

        inputs = CHANNELS + len(planes)
        self.operator = PlaneOperator(CHANNELS + len(constants.static), len(planes))
        self.near, self.wide = RadialConvolution(grid, NEAR), RadialConvolution(_halved(grid), WIDE)
        self.reach = RadialConvolution(grid, (float(size.reach_km),))
        fine, wide, known = 2 * (1 + len(NEAR)), 2 * len(WIDE), len(constants.static) + 1 + len(GROUPS)
        towers, half = len(GROUPS), (grid.shape[0] // 2, grid.shape[1] // 2)
        observed = [len(group) for group in GROUPS.values()]
        observed[0] += len(planes)
        self.encode_joint = nn.Conv2d(fine * inputs, size.joint, 2, stride=2)
        self.encode_groups = nn.ModuleList(nn.Conv2d(fine * n, size.group, 2, stride=2) for n in observed)
        self.wide_joint = Pointwise(1, wide * inputs, size.joint)
        self.wide_groups = nn.ModuleList(Pointwise(1, wide * n, size.group) for n in observed)
        self.background_joint = nn.Conv2d(CHANNELS + known, size.joint, 2, stride=2)
        self.background_groups = nn.ModuleList(
            nn.Conv2d(len(group) + known, size.group, 2, stride=2) for group in GROUPS.values()
        )
        self.observed = Towers(half, size, size.layers)
        self.background = Towers(half, size, size.layers)
        self.merge_joint, self.merge_groups = Merge(1, size.joint), Merge(towers, size.group)
        self.merged = Towers(half, size, size.merged)
        self.refine = nn.ModuleList(Pointwise(1, size.joint + size.group, 4 * size.fine) for _ in GROUPS)
        self.local = nn.ModuleList(
            Pointwise(1, fine * n + len(group) + known, size.fine)
            for n, group in zip(observed, GROUPS.values(), strict=True)
        )
        heads = [Pointwise(1, size.fine, 2 * len(group)) for group in GROUPS.values()]
        for head in heads:
            nn.init.zeros_(head.weight)  # the first analyses are the backgrounds
        self.heads = nn.ModuleList(heads)

    def _grouped(self, x: Tensor) -> list[Tensor]:
        """The channels of each group, (..., C, H, W), with its planes where there are any."""
        sizes = [len(group) for group in GROUPS.values()]
        parts = list(x.split([*sizes, x.shape[-3] - CHANNELS], -3))
        planes = parts.pop()
        return [torch.cat([parts[0], planes], -3), *parts[1:]]

    def estimate(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Increment and spread, (B, 69, H, W), in units of ``error``.

        Half the difference of what departures and their opposites give changes its sign with them, and is 0 where
        observations agree with the background without its bias. The bias is taken off where the gate is open.

        Args:
            state: (B, 69, H, W) the normalised background.
            values, errors: (B, 69 + M, H, W) superobs, SI; an error above 0 exactly where there is one.
        """
        state, bias = self.unbiased(state)
        fine, wide, gate, sizes = self._observations(state, values, errors)
        size = sizes[:, :1]
        fine, wide, known = _and_opposite(fine), _and_opposite(wide), self._known(sizes)
        background = [tower.repeat(2, 1, 1, 1) for tower in self._background(state, known)]
        increment, spread = self._decode(state.repeat(2, 1, 1, 1), fine, wide, known.repeat(2, 1, 1, 1), background)
        there, back = increment.unflatten(0, (2, -1)).unbind(0)
        increment = gate * (0.5 * size * (there - back) - bias)
        return increment, size * self._spread(spread.unflatten(0, (2, -1)).mean(0))

    def estimate_one_way(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
        """`estimate` at half the cost, to train with: half of the samples are seen with the opposite departures.

        What is best for both signs then changes its sign with them, as `estimate` does by construction. Two and two,
        because every second sample may be of another kind.
        """
        state, bias = self.unbiased(state)
        fine, wide, gate, sizes = self._observations(state, values, errors)
        size = sizes[:, :1]
        sign = 1.0 - 2.0 * (torch.arange(state.shape[0], device=state.device)[:, None, None, None] // 2 % 2)
        fine, wide, known = _signed(fine, sign), _signed(wide, sign), self._known(sizes)
        increment, spread = self._decode(state, fine, wide, known, self._background(state, known))
        return gate * (sign * size * increment - bias), size * self._spread(spread)

    def unbiased(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised background without the model's systematic error, and this in units of ``error``."""
        bias = torch.einsum("bs,schw->bchw", annual_cycle(state, self.season), self.bias)
        return state - bias, bias / self.error

    def _observations(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Set convolutions fine and wide, the gate, and the sizes of the background's error: nothing here is learnt."""
        departure, weight, sizes = self.departures(state, values, errors)
        return *self.set_convolutions(departure, weight), self.gate(weight), sizes

    def _known(self, sizes: Tensor) -> Tensor:
        """What is known everywhere beside the state: (B, 11, H, W), static planes and the error's sizes."""
        static = self.static.expand(sizes.shape[0], -1, -1, -1)
        return torch.cat([static, sizes.log().expand(-1, -1, *self.static.shape[1:])], 1)

    def _background(self, state: Tensor, known: Tensor) -> list[Tensor]:
        """The background's towers: the joint one, the groups'."""
        parts = zip(self.background_groups, self._grouped(state), strict=True)
        return list(
            self.background(
                self.background_joint(torch.cat([state, known], 1)),
                torch.cat([encode(torch.cat([part, known], 1)) for encode, part in parts], 1),
            )
        )

    def _decode(
        self, state: Tensor, fine: Tensor, wide: Tensor, known: Tensor, background: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """From the towers of observations and background to increment and spread, both raw, (B, 69, H, W)."""
        own = [part.flatten(1, 2) for part in self._grouped(fine)]
        around = [part.flatten(1, 2) for part in self._grouped(wide)]
        encoders = zip(self.encode_groups, own, self.wide_groups, around, strict=True)
        joint, groups = self.observed(
            self.encode_joint(fine.flatten(1, 2)) + self.wide_joint(wide.flatten(1, 2)),
            torch.cat([encode(part) + spread(whole) for encode, part, spread, whole in encoders], 1),
        )
        joint, groups = self.merged(self.merge_joint(joint, background[0]), self.merge_groups(groups, background[1]))
        increments, spreads = [], []
        towers = zip(groups.chunk(len(GROUPS), 1), own, self._grouped(state), strict=True)
        layers = zip(self.refine, self.local, self.heads, strict=True)
        for (group, seen, part), (refine, local, head) in zip(towers, layers, strict=True):
            coarse = functional.pixel_shuffle(refine(torch.cat([joint, group], 1)), 2)
            increment, spread = head(functional.silu(coarse + local(torch.cat([seen, part, known], 1)))).chunk(2, 1)
            increments.append(increment)
            spreads.append(spread)
        return torch.cat(increments, 1).float(), torch.cat(spreads, 1).float()

    def _spread(self, raw: Tensor) -> Tensor:
        return 0.01 + 0.99 * functional.softplus(raw)

    def set_convolutions(self, departure: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean departures, then densities: (B, 4, C, H, W) at and near the points, (B, 4, C, H/2, W/2) far around."""
        sums = torch.stack([departure * weight, weight], 1)
        flat = sums.flatten(1, 2)
        with torch.autocast(departure.device.type, enabled=False):
            near = self.near(flat.float()).unflatten(2, (2, -1))
            blocks = 4 * functional.avg_pool2d(flat.float(), 2)
            wide = self.wide(blocks).unflatten(2, (2, -1))
        fine = torch.cat([sums[:, None], near], 1)
        return _mean_and_density(fine), _mean_and_density(wide)

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

    def forward(self, background: Tensor, observations: Tensor, observation_errors: Tensor) -> tuple[Tensor, Tensor]:
        state = (background - self.mean) / self.std
        increment, spread = self.estimate(state, observations, observation_errors)
        scale = self.std * self.error
        return background + increment * scale, spread * scale * self.calibration


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


def _halved(grid: Grid) -> Grid:
    """The grid of the 2 x 2 blocks of cells."""
    latitude, longitude = (np.asarray(c, float).reshape(-1, 2).mean(1) for c in (grid.latitude, grid.longitude))
    return Grid(f"2x2 blocks of {grid.name}", latitude, longitude)


class Towers(nn.Module):
    """Fourier layers of the joint tower and of the groups' towers, which do not see each other here."""

    def __init__(self, shape: tuple[int, int], size: FnpSize, layers: int) -> None:
        super().__init__()
        common = (size.kernel, size.modes, size.block)
        self.joint = nn.Sequential(*(FourierLayer(shape, 1, size.joint, *common) for _ in range(layers)))
        self.groups = nn.Sequential(*(FourierLayer(shape, len(GROUPS), size.group, *common) for _ in range(layers)))

    def forward(self, joint: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        return self.joint(joint), self.groups(groups)


class Merge(nn.Module):
    """Dynamic alignment and merging (section 3.4): fuse, find what the fusion is less like, and merge that in again."""

    def __init__(self, towers: int, width: int) -> None:
        super().__init__()
        self.towers = towers
        self.fuse = Pointwise(towers, 2 * width, width)
        self.smooth = Pointwise(towers, 2 * width, width)

    def forward(self, observed: Tensor, background: Tensor) -> Tensor:
        fused = self.fuse(self._paired(observed, background))
        apart = [
            (fused - x).unflatten(1, (self.towers, -1)).square().sum(2, keepdim=True) for x in (observed, background)
        ]
        further = (apart[0] > apart[1]).expand(-1, -1, observed.shape[1] // self.towers, -1, -1).flatten(1, 2)
        return self.smooth(self._paired(fused, torch.where(further, observed, background)))

    def _paired(self, a: Tensor, b: Tensor) -> Tensor:
        """Tower by tower, one after the other."""
        return torch.cat([a.unflatten(1, (self.towers, -1)), b.unflatten(1, (self.towers, -1))], 2).flatten(1, 2)


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
