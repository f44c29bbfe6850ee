"""Adas: AI-based data assimilation with gated cross-attention (Chen et al. 2023, FengWu-Adas, arXiv 2312.12462).

Defining parts: three streams, of background, observations and *confidence*; *gated convolutions*, in which the
confidence decides how much of the observations passes; *gated cross-attention* between background and observations in
windows, plain and shifted, whose effect on the background the confidence decides as well; a U-shape of such stages;
plain window attention after them; a loss in which all channels have the same weight (`unified_mae`). No spread.

Differences from the paper, beside those of all methods (`blocks.departures`): windows are two-dimensional and levels
are channels, because 13 levels of a coarse model are hardly independent; confidence is not a mask but the weight that
an observation's error gives it, and the density of weights around; shifted windows need no mask, because the grid
continues around the sphere and across the poles; analyses are residuals on the background.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.blocks.base import Constants
from dacycle.assimilators.networks.blocks.departures import DepartureNetwork, DepartureSize, SetConvolutions, added
from dacycle.assimilators.networks.blocks.layers import Attention, Pointwise
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, PLANES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.mini import pad_sphere

__all__ = ["AdasNetwork", "AdasSize", "unified_mae"]


@dataclass(frozen=True)
class AdasSize(DepartureSize):
    """Hold the size of the network, beside `DepartureSize`.

    Attributes:
        width: on 2 x 2 blocks of cells; twice that on blocks of 4 x 4.
        heads: of the attention.
        rows, columns: of a window, in blocks.
        layers: window attentions after the stages.
        fine: width of the perceptron on the full grid.
    """

    width: int = 64
    heads: int = 4
    rows: int = 4
    columns: int = 8
    layers: int = 2
    fine: int = 64

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of a window, in blocks."""
        return self.rows, self.columns


class AdasNetwork(DepartureNetwork):
    """Make an increment by gated cross-attention of three streams."""

    def __init__(
        self, grid: Grid, constants: Constants, size: AdasSize, planes: tuple[str, ...] = tuple(PLANES)
    ) -> None:
        super().__init__(grid, constants, size, planes)
        self.size = size
        self.set_convolutions = SetConvolutions(grid)
        near, wide = (k * self.inputs // 2 for k in (self.set_convolutions.fine, self.set_convolutions.coarse))
        d = self.latent = size.width
        self.embed = nn.Conv2d(CHANNEL_COUNT + self.known, d, 2, stride=2)
        self.departures_near, self.departures_wide = nn.Conv2d(near, d, 2, stride=2), Pointwise(1, wide, d)
        self.confidence_near, self.confidence_wide = nn.Conv2d(near, d, 2, stride=2), Pointwise(1, wide, d)
        streams = ("background", "observed", "confidence")
        self.first, self.deep, self.last = GatedStage(d, size), GatedStage(2 * d, size), GatedStage(d, size)
        self.down = nn.ModuleDict({name: nn.Conv2d(d, 2 * d, 2, stride=2) for name in streams})
        self.up = nn.ModuleDict({name: Pointwise(1, 2 * d, 4 * d) for name in streams})
        self.join = nn.ModuleDict({name: Pointwise(1, 2 * d, d) for name in streams})
        self.fuse = Pointwise(1, 3 * d, d)
        self.after = nn.ModuleList(Attention(d, size.heads, size.window, bool(i % 2)) for i in range(size.layers))
        self.refine = Pointwise(1, d, 4 * size.fine)
        self.local = Pointwise(1, 2 * near + CHANNEL_COUNT + self.known, size.fine)
        self.head = Pointwise(1, size.fine, CHANNEL_COUNT)
        nn.init.zeros_(self.head.weight)  # the first analyses are the backgrounds

    def observe(self, departure: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Return the set convolutions of departures and weights."""
        return self.set_convolutions(departure, weight)

    def encode(self, state: Tensor, known: Tensor) -> tuple[Tensor, ...]:
        """Return the background's patches."""
        return (self.embed(torch.cat([state, known], 1)),)

    def decode(
        self, state: Tensor, known: Tensor, background: tuple[Tensor, ...], observed: tuple[Tensor, ...],
        beside: Tensor | None = None,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """Return the increment that the three streams give."""
        (fine, density), (wide, wide_density) = ([x.flatten(1, 2) for x in pair.chunk(2, 1)] for pair in observed)
        streams = [
            background[0],
            self.departures_near(fine) + self.departures_wide(wide),
            self.confidence_near(density) + self.confidence_wide(wide_density),
        ]
        first = self.first(*streams)
        deep = self.deep(*(down(x) for down, x in zip(self.down.values(), first, strict=True)))
        ups = zip(self.up.values(), self.join.values(), deep, first, strict=True)
        last = self.last(*(join(torch.cat([functional.pixel_shuffle(up(x), 2), skip], 1)) for up, join, x, skip in ups))
        fused = added(self.fuse(torch.cat(last, 1)), beside)
        for attention in self.after:
            fused = attention(fused, fused)
        local = self.local(torch.cat([fine, density, state, known], 1))
        here = functional.pixel_shuffle(self.refine(fused), 2) + local
        return self.head(functional.silu(here)).float(), None


class GatedStage(nn.Module):
    """Apply a gated convolution, then gated cross-attention in plain and shifted windows, to the three streams."""

    def __init__(self, width: int, size: AdasSize) -> None:
        super().__init__()
        self.convolve, self.gate = nn.Conv2d(width, width, 3), nn.Conv2d(width, width, 3)

        def attentions() -> nn.ModuleList:
            return nn.ModuleList(Attention(width, size.heads, size.window, shifted) for shifted in (False, True))

        self.of_background, self.of_observed = attentions(), attentions()

    def forward(self, background: Tensor, observed: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        confidence = self.gate(pad_sphere(confidence, 1))
        gate = torch.sigmoid(confidence)
        observed = observed + gate * self.convolve(pad_sphere(functional.silu(observed), 1))
        for from_observed, from_background in zip(self.of_background, self.of_observed, strict=True):
            attended = from_observed(background, observed)
            observed = from_background(observed, background)
            background = gate * attended + (1 - gate) * background
        return background, observed, confidence


def unified_mae(increment: Tensor, spread: Tensor | None, target: Tensor) -> Tensor:
    """Return absolute errors (B, 69, H, W), rescaled so that all channels have the same weight.

    It is the "UnifyMAE" of the published code. The scale of a channel is its mean absolute error in the batch, through
    which no gradient flows.
    """
    error = (target - increment).abs()
    return error / error.detach().mean((0, 2, 3), keepdim=True).clamp(min=1e-6)
