"""The network of the forecast model `mini`: a small U-shaped convolutional network with FengWu's contract.

The input (B, 138, H, W) holds the physical states x(t-6h) and x(t), 69 channels each, SI. The first 69 channels of the
output (B, 138, H, W) are x(t+6h). The contract leaves the others undefined; the exported graph fills them with NaN, so
that code which feeds them back fails at its first step.

Normalisation and static fields are constants of the network. Longitude is periodic in every convolution; beyond
a pole the grid continues along the opposite meridian (rows mirrored, shifted by 180 degrees).

The contract holds neither the date nor the sea-surface temperature. The network estimates the season, and in a world
with a daily cycle the hour, from the state (`time_of_state`), and gets the usual 2-m temperature of that time and the
sun's place as input. Every step is relaxed slightly towards the climate of season and hour (Newtonian relaxation);
otherwise small errors of the largest scales grow over weeks. Every channel keeps
within the range of the training years and a little more; in months without analyses it might leave it otherwise.

The blocks are those of ConvNeXt (Liu et al. 2022, arXiv 2201.03545): a depthwise convolution, a layer norm over
channels and a pointwise perceptron, added to their input through a learned scale.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dacycle.forecast_adapter.channels import CHANNEL_COUNT, GROUPS, index
from dacycle.forecast_adapter.models.time_of_state import annual_cycle, cycles, hour_of_day, local_time
from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM
from dacycle.forecast_adapter.state import STEP_HOURS

T2M = index("t2m")
CARRIED = slice(len(GROUPS["surface"]), CHANNEL_COUNT)
"""The channels of the five groups on levels, each from the top down."""
FILTER_SPARE = 2
"""Zonal wavenumbers that the polar filter keeps beyond a row's share."""
UPSTREAM = 2
"""Most points from which the wind brings something in a step, along a parallel and along a meridian."""
REACHES = (1, 2, 1, 4)
"""Distance of the points of a 3 x 3 kernel from each other in successive blocks of the coarse grid."""


@dataclass(frozen=True)
class MiniSize:
    """Widths: `fine` on the full grid, `coarse` on a grid with half of its rows and columns; blocks in `depth`.

    `expansion` is that of the perceptron in a block. `joined` channels are convolved together on the coarse grid: 1 in
    kernels of 7 x 7, more in kernels of 3 x 3 whose reach changes from block to block (`REACHES`). With `squared` 1 the
    perceptrons' activation is the square of the positive part (So et al. 2021, arXiv 2109.08668) in place of GELU:
    products of fields, such as advection, are then sums of few terms. With `advection` 1 the network is also given what
    the wind brings to each point, and every step is filtered near the poles, where the columns lie close together.
    """

    fine: int = 64
    coarse: int = 160
    depth: int = 8
    expansion: int = 2
    joined: int = 1
    squared: int = 0
    advection: int = 0

    def __post_init__(self) -> None:
        for name in ("squared", "advection"):
            if getattr(self, name) not in (0, 1):
                raise ValueError(f"{name}: {getattr(self, name)} is unknown; it is 0 or 1")
        if self.joined < 1 or self.coarse % self.joined:
            raise ValueError(f"joined: {self.joined} is no divisor of coarse, {self.coarse}")


def polar_filter(cosine: Tensor, columns: int) -> Tensor:
    """Return matrices (H, columns, columns) that take waves off a row which are shorter there than on the whole globe.

    A row keeps `FILTER_SPARE` more zonal wavenumbers than the share, its cosine of latitude, of those of the equator.

    Args:
        cosine: (H,) cosines of the rows' latitudes.
        columns: number of columns.
    """
    waves = torch.arange(columns // 2 + 1)
    kept = waves[None] <= (columns // 2 * cosine + FILTER_SPARE)[:, None]
    angle = 2 * torch.pi / columns * torch.arange(columns)
    twice = torch.where((waves == 0) | (waves == columns // 2), 1.0, 2.0)
    difference = angle[:, None] - angle[None]
    cosines = torch.cos(waves[:, None, None] * difference) * twice[:, None, None] / columns
    return torch.einsum("hm,mvw->hvw", kept.to(cosines.dtype), cosines)


@dataclass(frozen=True)
class MiniConstants:
    """The constants of a world that the network needs; the exported graph stores them.

    Attributes:
        mean, std: (69,) the world's statistics, SI.
        step_std: (69,) standard deviation of the change of each channel over 6 h, SI.
        floor, ceiling: (69,) the lowest and the highest value that a channel may take; without a ceiling there is none.
        static: (4, H, W), see `static_planes`.
        climate: (5 or 14, 69, H, W) normalised coefficients of `time_of_state.cycles`.
        season, hour: weights that give day and hour, see `time_of_state`; an hour of None has no daily cycle.
        relaxation: fraction of the departure from that climate that each step removes: of all channels, or (69,).
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    step_std: NDArray[np.float32]
    floor: NDArray[np.float32]
    static: NDArray[np.float32]
    climate: NDArray[np.float32]
    season: NDArray[np.float32]
    relaxation: float | NDArray[np.float32]
    hour: NDArray[np.float32] | None = None
    ceiling: NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W): rows and columns."""
        return self.static.shape[1], self.static.shape[2]


def static_planes(
    latitude: NDArray[np.floating], orography: NDArray[np.floating], land_fraction: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return four planes (4, H, W) of order one: orography, land fraction, sine and cosine of latitude.

    Args:
        latitude: (H,) degrees.
        orography: (H, W) m.
        land_fraction: (H, W) 0 to 1.
    """
    phi = np.deg2rad(np.asarray(latitude, float))[:, None] + np.zeros_like(orography, dtype=float)
    return np.stack([orography / 1000.0, land_fraction, np.sin(phi), np.cos(phi)]).astype(np.float32)


def pad_sphere(x: Tensor, margin: int) -> Tensor:
    """Pad (B, C, H, W) by a margin on each side: periodically in longitude, across the poles in latitude."""
    half = x.shape[-1] // 2
    north = x[:, :, :margin].flip(2)
    south = x[:, :, -margin:].flip(2)
    rows = [torch.cat([edge[..., half:], edge[..., :half]], dim=-1) for edge in (north, south)]
    x = torch.cat([rows[0], x, rows[1]], dim=2)
    return torch.cat([x[..., -margin:], x, x[..., :margin]], dim=-1)


def turns_over_poles(rows: int) -> Tensor:
    """Return (65, rows + 2 UPSTREAM, 1) the signs of fields on levels: winds change theirs over a pole."""
    signs = torch.ones(CHANNEL_COUNT, rows + 2 * UPSTREAM, 1)
    for name in "uv":
        signs[GROUPS[name], :UPSTREAM] = signs[GROUPS[name], -UPSTREAM:] = -1
    return signs[CARRIED]


def upstream(padded: Tensor, way: Tensor, dim: int) -> Tensor:
    """Return fields (B, groups x levels, H, W) at the points from which the wind comes, interpolated linearly.

    Args:
        padded: the fields, with `UPSTREAM` more points at both ends of `dim`.
        way: (B, levels, H, W) points along `dim` that the wind goes in a step, of each level.
        dim: 2 or 3.
    """
    way, groups = way.clamp(-UPSTREAM, UPSTREAM), padded.shape[1] // way.shape[1]
    parts = [
        functional.relu(1 - (way - k).abs()).repeat(1, groups, 1, 1) * padded.narrow(dim, UPSTREAM - k, way.shape[dim])
        for k in range(-UPSTREAM, UPSTREAM + 1)
    ]
    return torch.stack(parts).sum(0)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each column of channels."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """ConvNeXt block on the sphere; its convolution takes `joined` channels together, `reach` points apart."""

    def __init__(self, width: int, kernel: int, size: MiniSize, joined: int = 1, reach: int = 1) -> None:
        super().__init__()
        self.margin = reach * (kernel // 2)
        self.squared = bool(size.squared)
        self.mix = nn.Conv2d(width, width, kernel, groups=width // joined, dilation=reach)
        self.norm = ChannelNorm(width)
        self.widen = nn.Conv2d(width, size.expansion * width, 1)
        self.narrow = nn.Conv2d(size.expansion * width, width, 1)
        self.scale = nn.Parameter(torch.full((1, width, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after the block, (B, width, H, W) like `x`."""
        y = self.widen(self.norm(self.mix(pad_sphere(x, self.margin))))
        y = functional.relu(y).square() if self.squared else functional.gelu(y, approximate="tanh")
        return x + self.scale * self.narrow(y)


class MiniNetwork(nn.Module):
    """The network, with its constants as buffers: `forward` is the exported contract; training calls `increment`."""

    mean: Tensor
    std: Tensor
    step_std: Tensor
    floor: Tensor
    ceiling: Tensor | None
    static: Tensor
    climate: Tensor
    season: Tensor
    hour: Tensor | None
    relaxation: Tensor
    filter: Tensor | None
    turns: Tensor

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
        self._constant("hour", constants.hour)
        relaxation = torch.as_tensor(constants.relaxation, dtype=torch.float32).reshape(-1, 1, 1)
        self.register_buffer("relaxation", relaxation, persistent=False)
        ceiling = None if constants.ceiling is None else torch.from_numpy(constants.ceiling[:, None, None])
        self.register_buffer("ceiling", ceiling, persistent=False)
        self.register_buffer(
            "filter", polar_filter(self.static[3, :, 0], width) if size.advection else None, persistent=False
        )
        self.register_buffer("turns", turns_over_poles(height), persistent=False)

        inputs = 2 * CHANNEL_COUNT + len(constants.static) + (3 if constants.hour is None else 5)
        if size.advection:
            inputs += CHANNEL_COUNT - CARRIED.start
        self.stem = nn.Conv2d(inputs, size.fine, 1)
        self.fine_in = Block(size.fine, 3, size)
        # Space to depth keeps all of the fine grid's information on the coarse one.
        self.down = nn.Conv2d(4 * size.fine, size.coarse, 1)
        kernel, reaches = (7, [1]) if size.joined == 1 else (3, REACHES)
        self.coarse = nn.Sequential(
            *(Block(size.coarse, kernel, size, size.joined, reaches[k % len(reaches)]) for k in range(size.depth))
        )
        self.up = nn.Conv2d(size.coarse, 4 * size.fine, 1)
        self.join = nn.Conv2d(2 * size.fine, size.fine, 1)
        self.fine_out = Block(size.fine, 3, size)
        self.head = nn.Conv2d(size.fine, CHANNEL_COUNT, 1)

    def _constant(self, name: str, value: NDArray[np.float32] | None) -> None:
        self.register_buffer(
            name, None if value is None else torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
        )

    def _date(self, current: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return day (B, 5) and hour (B, 2) of normalised states; None without a daily cycle."""
        annual = annual_cycle(current, self.season)
        return annual, None if self.hour is None else hour_of_day(current, self.hour, self.static[1], annual)

    def _brought(self, current: Tensor) -> Tensor:
        """Return what the wind brings in 6 h: the fields on levels upstream minus those of each point, in `step_std`.

        They go along the parallels, then along the meridians, of a grid of equal steps in latitude without poles. What
        is brought is never outside the range of its field, however strong the wind is.
        """
        fields = current[:, CARRIED]
        u, v = (current[:, GROUPS[name]] * self.std[GROUPS[name]] + self.mean[GROUPS[name]] for name in "uv")
        rows, columns = self.static.shape[1:]
        way = 3.6 * STEP_HOURS / (EARTH_RADIUS_KM * torch.pi)  # of 1 m/s, in half-circles
        around = pad_sphere(fields, UPSTREAM)[:, :, UPSTREAM:-UPSTREAM]
        brought = upstream(around, u * way * columns / 2 / self.static[3], 3)
        over_poles = pad_sphere(brought, UPSTREAM)[..., UPSTREAM:-UPSTREAM] * self.turns
        over_poles = over_poles + (self.turns - 1) * (self.mean / self.std)[CARRIED]  # winds turn about 0, not the mean
        return (upstream(over_poles, -v * way * rows, 2) - fields) * (self.std / self.step_std)[CARRIED]

    def increment(self, previous: Tensor, current: Tensor) -> Tensor:
        """Return the 6-h change of normalised states (B, 69, H, W), in units of `step_std`."""
        # In units of its own standard deviation: the difference of normalised fields would be tiny.
        change = (current - previous) * (self.std / self.step_std)
        annual, hour = self._date(current)
        warmth = torch.einsum("bs,shw->bhw", cycles(annual, hour), self.climate[:, T2M])[:, None]
        season = annual[:, 1:3, None, None].expand(-1, -1, *self.static.shape[1:])
        static = self.static.expand(current.shape[0], -1, -1, -1)
        inputs = [current, change, static, warmth, season]
        if hour is not None:
            inputs.append(local_time(hour, *self.static.shape[1:]))
        if self.size.advection:
            inputs.append(self._brought(current))
        skip = self.fine_in(self.stem(torch.cat(inputs, dim=1)))
        deep = self.up(self.coarse(self.down(functional.pixel_unshuffle(skip, 2))))
        y = self.fine_out(self.join(torch.cat([functional.pixel_shuffle(deep, 2), skip], dim=1)))
        return self.head(y)

    def filtered(self, states: Tensor) -> Tensor:
        """Return states (B, 69, H, W) without the waves that the polar filter takes off, if the network has one."""
        return states if self.filter is None else torch.einsum("bchv,hvw->bchw", states, self.filter)

    def step(self, previous: Tensor, current: Tensor) -> Tensor:
        """Return x(t+6h) from the physical states x(t-6h) and x(t), each (B, 69, H, W), SI."""
        previous, current = (previous - self.mean) / self.std, (current - self.mean) / self.std
        following = current + self.increment(previous, current) * (self.step_std / self.std)
        following = self.filtered(following)
        climate = torch.einsum("bs,schw->bchw", cycles(*self._date(current)), self.climate)
        following = following + self.relaxation * (climate - following)
        return torch.clamp(following * self.std + self.mean, self.floor, self.ceiling)

    def forward(self, input: Tensor) -> Tensor:
        """Return the output (B, 138, H, W) of the contract: x(t+6h), then NaN."""
        following = self.step(input[:, :CHANNEL_COUNT], input[:, CHANNEL_COUNT:])
        return torch.cat([following, torch.full_like(following, float("nan"))], dim=1)
