"""ConvCNP: convolutional conditional neural process (Gordon et al. 2020, arXiv 1910.13556), as FNP's baseline uses it.

Defining parts: a *set convolution* turns observations into fields with their density; each source has *one tower*, a
plain residual convolutional network over all variables; a matrix fuses the features; a perceptron gives a Gaussian at
each point.

Differences from the paper, beside those of all methods (`blocks.departures`): the mean is a residual on the background,
because the baseline's absolute mean has to reconstruct the whole state; convolutions continue around the sphere; towers
are on 2 x 2 blocks of cells, and the perceptron also sees the observations of the cell itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.blocks.base import Constants
from dacycle.assimilators.networks.blocks.departures import DepartureNetwork, DepartureSize, SetConvolutions, added
from dacycle.assimilators.networks.blocks.layers import ConvolutionBlock, Pointwise
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["ConvCnpNetwork", "ConvCnpSize"]


@dataclass(frozen=True)
class ConvCnpSize(DepartureSize):
    """Hold the size of the network, beside `DepartureSize`.

    Attributes:
        width, fine: of the towers, and of the perceptron on the full grid.
        layers, merged: convolution blocks of each source's tower, and of the fused one.
        kernel: of each block.
    """

    width: int = 128
    fine: int = 64
    layers: int = 2
    merged: int = 5
    kernel: int = 5


class ConvCnpNetwork(DepartureNetwork):
    """Make increment and spread by set convolutions and one convolutional tower a source."""

    def __init__(
        self, grid: Grid, constants: Constants, size: ConvCnpSize, planes: tuple[str, ...] = tuple(PLANES)
    ) -> None:
        super().__init__(grid, constants, size, planes)
        self.size, self.latent = size, size.width
        self.set_convolutions = SetConvolutions(grid)
        fine, coarse = (k * self.inputs for k in (self.set_convolutions.fine, self.set_convolutions.coarse))

        def tower(layers: int) -> nn.Sequential:
            return nn.Sequential(*(ConvolutionBlock(1, size.width, size.kernel) for _ in range(layers)))

        self.near = nn.Conv2d(fine, size.width, 2, stride=2)
        self.wide = Pointwise(1, coarse, size.width)
        self.embed = nn.Conv2d(CHANNEL_COUNT + self.known, size.width, 2, stride=2)
        self.observed, self.background, self.merged = tower(size.layers), tower(size.layers), tower(size.merged)
        self.fuse = Pointwise(1, 2 * size.width, size.width)
        self.refine = Pointwise(1, size.width, 4 * size.fine)
        self.local = Pointwise(1, fine + CHANNEL_COUNT + self.known, size.fine)
        self.mix = Pointwise(1, size.fine, size.fine)
        self.head = Pointwise(1, size.fine, 2 * CHANNEL_COUNT)
        nn.init.zeros_(self.head.weight)  # the first analyses are the backgrounds

    def observe(self, departure: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Return the set convolutions of departures and weights."""
        return self.set_convolutions(departure, weight)

    def encode(self, state: Tensor, known: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the background's tower."""
        return (self.background(self.embed(torch.cat([state, known], 1))),)

    def decode(
        self, state: Tensor, known: Tensor, background: tuple[Tensor, ...], observed: tuple[Tensor, ...],
        beside: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return increment and spread from the towers of observations and background."""
        fine, wide = (features.flatten(1, 2) for features in observed)
        seen = self.observed(self.near(fine) + self.wide(wide))
        merged = self.merged(added(self.fuse(torch.cat([seen, *background], 1)), beside))
        here = functional.pixel_shuffle(self.refine(merged), 2) + self.local(torch.cat([fine, state, known], 1))
        increment, spread = self.head(functional.silu(self.mix(functional.silu(here)))).float().chunk(2, 1)
        return increment, spread
