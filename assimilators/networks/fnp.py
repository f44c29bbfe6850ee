"""FNP: Fourier Neural Processes for assimilation (Chen et al. 2024, arXiv 2406.01645), on the sphere and for cycling.

Defining parts: *set convolutions*, which turn scattered observations into a field with its density (section 3.2);
*towers* for each group of variables and one for all of them, separate for observations and background; *neural Fourier
layers*; *dynamic alignment and merging*, which adds to the fused features of each tower the features of the source that
differs more from them; a Gaussian for each variable and point, whose mean is a *residual on the background*.

Differences from the paper, beside those of all methods (`blocks.departures`):
- The set convolution's kernels are functions of great-circle distance, at three widths in km, in place of learned
  kernels of 11 x 11 points. Fourier layers use the sphere's parity; convolutions continue around it and across the
  poles.
- Towers are on 2 x 2 blocks of cells, and a few layers refine their output on the grid.
- The background has no set convolution: it covers the grid, so its density would be one everywhere.
- Some of the Fourier layers come after the merging.
- The loss is a Gaussian likelihood weighted by the variance within a sample, and by its root from sample to sample
  (`departures.gaussian_loss`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.blocks.base import Constants
from dacycle.assimilators.networks.blocks.departures import DepartureNetwork, DepartureSize, SetConvolutions, added
from dacycle.assimilators.networks.blocks.layers import FourierLayer, Pointwise
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, GROUPS, PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["FnpNetwork", "FnpSize"]


@dataclass(frozen=True)
class FnpSize(DepartureSize):
    """Hold the size of the network, beside `DepartureSize`.

    Attributes:
        joint, group, fine: widths of the joint tower, of each group's tower, and of the layers on the full grid.
        layers, merged: Fourier layers before and after the merging.
        kernel, modes, block: of each layer: its convolution, its modes along each axis, the channels that a mode mixes.
    """

    joint: int = 96
    group: int = 16
    fine: int = 32
    layers: int = 1
    merged: int = 3
    kernel: int = 5
    modes: int = 8
    block: int = 16


class FnpNetwork(DepartureNetwork):
    """Make increment and spread by Fourier layers in towers of all variables and of each group."""

    def __init__(
        self, grid: Grid, constants: Constants, size: FnpSize, planes: tuple[str, ...] = tuple(PLANES)
    ) -> None:
        super().__init__(grid, constants, size, planes)
        self.size, self.latent = size, size.joint
        self.set_convolutions = SetConvolutions(grid)
        inputs, known = self.inputs, self.known
        fine, wide = self.set_convolutions.fine, self.set_convolutions.coarse
        towers, half = len(GROUPS), (grid.shape[0] // 2, grid.shape[1] // 2)
        observed = [len(group) for group in GROUPS.values()]
        observed[0] += self.inputs - CHANNEL_COUNT
        self.encode_joint = nn.Conv2d(fine * inputs, size.joint, 2, stride=2)
        self.encode_groups = nn.ModuleList(nn.Conv2d(fine * n, size.group, 2, stride=2) for n in observed)
        self.wide_joint = Pointwise(1, wide * inputs, size.joint)
        self.wide_groups = nn.ModuleList(Pointwise(1, wide * n, size.group) for n in observed)
        self.background_joint = nn.Conv2d(CHANNEL_COUNT + known, size.joint, 2, stride=2)
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
        """Return the channels of each group, (..., C, H, W); the planes belong to the first group."""
        sizes = [len(group) for group in GROUPS.values()]
        first, *groups, planes = x.split([*sizes, x.shape[-3] - CHANNEL_COUNT], -3)
        return [torch.cat([first, planes], -3), *groups]

    def observe(self, departure: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Return the set convolutions of departures and weights."""
        return self.set_convolutions(departure, weight)

    def encode(self, state: Tensor, known: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the background's towers: of the joint one, and of the groups'."""
        groups = zip(self.background_groups, self._grouped(state), strict=True)
        return self.background(
            self.background_joint(torch.cat([state, known], 1)),
            torch.cat([encode(torch.cat([group, known], 1)) for encode, group in groups], 1),
        )

    def decode(
        self, state: Tensor, known: Tensor, background: tuple[Tensor, ...], observed: tuple[Tensor, ...],
        beside: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return increment and spread from the towers of observations and background."""
        fine, wide = observed
        fine_groups = [group.flatten(1, 2) for group in self._grouped(fine)]
        wide_groups = [group.flatten(1, 2) for group in self._grouped(wide)]
        encoders = zip(self.encode_groups, fine_groups, self.wide_groups, wide_groups, strict=True)
        joint, groups = self.observed(
            self.encode_joint(fine.flatten(1, 2)) + self.wide_joint(wide.flatten(1, 2)),
            torch.cat([encode(near) + widen(far) for encode, near, widen, far in encoders], 1),
        )
        joint = added(self.merge_joint(joint, background[0]), beside)
        joint, groups = self.merged(joint, self.merge_groups(groups, background[1]))
        increments, spreads = [], []
        towers = zip(groups.chunk(len(GROUPS), 1), fine_groups, self._grouped(state), strict=True)
        layers = zip(self.refine, self.local, self.heads, strict=True)
        for (tower, seen, channels), (refine, local, head) in zip(towers, layers, strict=True):
            coarse = functional.pixel_shuffle(refine(torch.cat([joint, tower], 1)), 2)
            features = coarse + local(torch.cat([seen, channels, known], 1))
            increment, spread = head(functional.silu(features)).chunk(2, 1)
            increments.append(increment)
            spreads.append(spread)
        return torch.cat(increments, 1).float(), torch.cat(spreads, 1).float()


class Towers(nn.Module):
    """Apply Fourier layers to the joint tower and to the groups' towers, separately."""

    def __init__(self, shape: tuple[int, int], size: FnpSize, layers: int) -> None:
        super().__init__()
        common = (size.kernel, size.modes, size.block)
        self.joint = nn.Sequential(*(FourierLayer(shape, 1, size.joint, *common) for _ in range(layers)))
        self.groups = nn.Sequential(*(FourierLayer(shape, len(GROUPS), size.group, *common) for _ in range(layers)))

    def forward(self, joint: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        return self.joint(joint), self.groups(groups)


class Merge(nn.Module):
    """Fuse two sources, and merge the source that differs more from the fusion into it again (section 3.4)."""

    def __init__(self, towers: int, width: int) -> None:
        super().__init__()
        self.towers = towers
        self.fuse = Pointwise(towers, 2 * width, width)
        self.smooth = Pointwise(towers, 2 * width, width)

    def forward(self, observed: Tensor, background: Tensor) -> Tensor:
        fused = self.fuse(self._paired(observed, background))
        differences = [
            (fused - x).unflatten(1, (self.towers, -1)).square().sum(2, keepdim=True) for x in (observed, background)
        ]
        further = differences[0] > differences[1]
        further = further.expand(-1, -1, observed.shape[1] // self.towers, -1, -1).flatten(1, 2)
        return self.smooth(self._paired(fused, torch.where(further, observed, background)))

    def _paired(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the channels of both, tower by tower."""
        return torch.cat([a.unflatten(1, (self.towers, -1)), b.unflatten(1, (self.towers, -1))], 2).flatten(1, 2)
