"""The network of the forecast model ``mini``: a small U-shaped convolutional network with FengWu's contract.

In (B, 138, H, W): the physical states x(t-6h) and x(t), 69 channels each, SI. Out (B, 138, H, W): the first 69
channels are x(t+6h); the others are undefined by that contract, and the exported graph fills them with NaN so
that whatever feeds them back is caught at its first step.

Normalisation and static fields are constants of the network. Longitude is periodic in every convolution; beyond
a pole the grid goes on along the opposite meridian (rows mirrored, shifted by 180 degrees).

The contract holds neither the date nor the sea-surface temperature. The network reads the season off the zonal mean
temperatures, is shown the 2-m temperature that is usual then, and every step is drawn a little towards the climate of
that season: Newtonian relaxation, without which small errors of the largest scales add up over weeks.

The blocks are those of ConvNeXt (Liu et al. 2022, arXiv 2201.03545): a depthwise convolution, a layer norm over
channels and a pointwise perceptron, added to their input through a learned scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dacycle.forecast_adapter.channels import CHANNEL_COUNT, GROUPS, index

T2M = index("t2m")


@dataclass(frozen=True)
class MiniSize:
    """Widths and depths: ``fine`` at the full grid, ``coarse`` on half of it along each axis."""

    fine: int = 64
    coarse: int = 160
    depth: int = 8
    expansion: int = 2


@dataclass(frozen=True)
class MiniConstants:
    """What the network knows of its world, stored in the exported graph.

    ``mean``, ``std`` (69,): the world's statistics, SI. ``step_std`` (69,): standard deviation of the change of
    each channel over 6 h, SI. ``floor`` (69,): the lowest value a channel may take (0 for humidity, else -inf).
    ``static`` (4, H, W): see `static_planes`. ``climate`` (5, 69, H, W): coefficients of 1, cos, sin, cos 2, sin 2 of
    the day of the year, normalised. ``season`` (2, 13 H + 1): what makes cos and sin of the day of the year of the
    normalised zonal mean temperatures of the 13 levels, and a constant. ``relaxation``: share of the departure from
    that climate that is taken away in each step.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    step_std: NDArray[np.float32]
    floor: NDArray[np.float32]
    static: NDArray[np.float32]
    climate: NDArray[np.float32]
    season: NDArray[np.float32]
    relaxation: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.static.shape[1], self.static.shape[2]


def static_planes(
    latitude: NDArray[np.floating], orography: NDArray[np.floating], land_fraction: NDArray[np.floating]
) -> NDArray[np.float32]:
    """(4, H, W) planes of order one: orography, land fraction, sine and cosine of latitude.

    Args:
        latitude: (H,) degrees.    orography: (H, W) m.    land_fraction: (H, W) 0..1.
    """
    phi = np.deg2rad(np.asarray(latitude, float))[:, None] + np.zeros_like(orography, dtype=float)
    return np.stack([orography / 1000.0, land_fraction, np.sin(phi), np.cos(phi)]).astype(np.float32)


def annual_cycle(state: Tensor, season: Tensor) -> Tensor:
    """(B, 5): 1, cos, sin, cos 2, sin 2 of the day of the year that a normalised state (B, 69, H, W) looks like.

    season: (2, 13 H + 1), see `MiniConstants`.
    """
    zonal = state[:, GROUPS["t"]].mean(-1).flatten(1)
    estimate = functional.linear(zonal, season[:, :-1], season[:, -1])
    cos, sin = functional.normalize(estimate, dim=1).unbind(1)
    return torch.stack([torch.ones_like(cos), cos, sin, cos**2 - sin**2, 2 * cos * sin], dim=1)


def pad_sphere(x: Tensor, margin: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H + 2 margin, W + 2 margin): periodic in longitude, across the pole in latitude."""
    half = x.shape[-1] // 2
    north = x[:, :, :margin].flip(2)
    south = x[:, :, -margin:].flip(2)
    rows = [torch.cat([part[..., half:], part[..., :half]], dim=-1) for part in (north, south)]
    x = torch.cat([rows[0], x, rows[1]], dim=2)
    return torch.cat([x[..., -margin:], x, x[..., :margin]], dim=-1)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """ConvNeXt block on the sphere."""

    def __init__(self, width: int, kernel: int, expansion: int) -> None:
        super().__init__()
        self.margin = kernel // 2
        self.mix = nn.Conv2d(width, width, kernel, groups=width)
        self.norm = ChannelNorm(width)
        self.widen = nn.Conv2d(width, expansion * width, 1)
        self.narrow = nn.Conv2d(expansion * width, width, 1)
        self.scale = nn.Parameter(torch.full((1, width, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.mix(pad_sphere(x, self.margin)))
        return x + self.scale * self.narrow(functional.gelu(self.widen(y), approximate="tanh"))


class MiniNetwork(nn.Module):
    """See the module's docstring. ``forward`` is the exported contract; training calls ``increment``."""

    mean: Tensor
    std: Tensor
    step_std: Tensor
    floor: Tensor
    static: Tensor
    climate: Tensor
    season: Tensor

    def __init__(self, constants: MiniConstants, size: MiniSize) -> None:
        super().__init__()
        height, width = constants.shape
        if height % 2 or width % 4:
            raise ValueError(
                f"mini halves its grid once: it needs an even number of rows and columns in fours, not {height}x{width}"
            )
        self.size = size
        self._constant("mean", constants.mean[:, None, None])
        self._constant("std", constants.std[:, None, None])
        self._constant("step_std", constants.step_std[:, None, None])
        self._constant("floor", constants.floor[:, None, None])
        self._constant("static", constants.static)
        self._constant("climate", constants.climate)
        self._constant("season", constants.season)
        self.relaxation = float(constants.relaxation)

        inputs = 2 * CHANNEL_COUNT + len(constants.static) + 3
        self.stem = nn.Conv2d(inputs, size.fine, 1)
        self.fine_in = Block(size.fine, 3, size.expansion)
        # Space to depth keeps all of the fine grid's information on the coarse one.
        self.down = nn.Conv2d(4 * size.fine, size.coarse, 1)
        self.coarse = nn.Sequential(*(Block(size.coarse, 7, size.expansion) for _ in range(size.depth)))
        self.up = nn.Conv2d(size.coarse, 4 * size.fine, 1)
        self.join = nn.Conv2d(2 * size.fine, size.fine, 1)
        self.fine_out = Block(size.fine, 3, size.expansion)
        self.head = nn.Conv2d(size.fine, CHANNEL_COUNT, 1)

    def _constant(self, name: str, value: NDArray[np.float32]) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)))

    def increment(self, previous: Tensor, current: Tensor) -> Tensor:
        """(B, 69, H, W): the 6-h change of the state in units of ``step_std``, from normalised states."""
        # The frames' difference in its own units: as a difference of normalised fields it would be tiny.
        change = (current - previous) * (self.std / self.step_std)
        annual = annual_cycle(current, self.season)
        warmth = torch.einsum("bs,shw->bhw", annual, self.climate[:, T2M])[:, None]
        season = annual[:, 1:3, None, None].expand(-1, -1, *self.static.shape[1:])
        static = self.static.expand(current.shape[0], -1, -1, -1)
        skip = self.fine_in(self.stem(torch.cat([current, change, static, warmth, season], dim=1)))
        deep = self.up(self.coarse(self.down(functional.pixel_unshuffle(skip, 2))))
        y = self.fine_out(self.join(torch.cat([functional.pixel_shuffle(deep, 2), skip], dim=1)))
        return self.head(y)

    def step(self, previous: Tensor, current: Tensor) -> Tensor:
        """x(t+6h) from the physical states x(t-6h) and x(t), each (B, 69, H, W), SI."""
        previous, current = (previous - self.mean) / self.std, (current - self.mean) / self.std
        following = current + self.increment(previous, current) * (self.step_std / self.std)
        climate = torch.einsum("bs,schw->bchw", annual_cycle(current, self.season), self.climate)
        following = following + self.relaxation * (climate - following)
        return torch.maximum(following * self.std + self.mean, self.floor)

    def forward(self, input: Tensor) -> Tensor:
        following = self.step(input[:, :CHANNEL_COUNT], input[:, CHANNEL_COUNT:])
        return torch.cat([following, torch.full_like(following, float("nan"))], dim=1)
