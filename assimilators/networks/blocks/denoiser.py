"""Denoisers of background errors: what an error is expected to be that is seen through so much noise.

Preconditioned as in EDM (Karras et al. 2022, arXiv 2206.00364, section 5), with errors of variance 1: nothing is left
to learn where all points are independent and alike. The rest is a U-shaped network of two resolutions on the sphere.

**It changes its sign with its input**, by construction: no layer adds anything that does not come from the error, and
what is known beside it (the background, the noise, how large errors are) opens and closes gates. An error is then as
likely as its opposite, and what a prior knows without observations is 0. Free to do otherwise, it would learn what is
usually wrong with the backgrounds it was shown, which leads cycles astray (`departures`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.blocks.layers import ConvolutionBlock, Depthwise, Pointwise
from dacycle.forecast_adapter.models.mini import pad_sphere

__all__ = ["Context", "Denoiser", "OddBlock"]

WAVES = 8
"""Frequencies by which a network is told the noise."""


class Context(nn.Module):
    """Features (B, width, H/2, W/2) of what is known, (B, inputs, H, W)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.stem = Pointwise(1, 4 * inputs, width)
        self.block = ConvolutionBlock(1, width, 5)

    def forward(self, known: Tensor) -> Tensor:
        return self.block(self.stem(functional.pixel_unshuffle(known, 2)))


class OddBlock(nn.Module):
    """The input, plus what the context lets through of a depthwise convolution and a wider layer.

    It is odd in its input; linear, if `linear`. Else large values open their gates themselves.
    """

    def __init__(self, width: int, kernel: int, context: int, linear: bool = False) -> None:
        super().__init__()
        self.margin, self.linear = kernel // 2, linear
        self.around = Depthwise(width, kernel, bias=False)
        self.widen = Pointwise(1, width, 2 * width, bias=False)
        self.gates = Pointwise(1, context, 2 * width)
        self.narrow = Pointwise(1, 2 * width, width, bias=False)
        self.scale = nn.Parameter(torch.full((1, width, 1, 1), 0.2))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y, gates = x, self.gates(context)
        if not self.linear:
            y = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-3)
        y = self.widen(self.around(pad_sphere(y, self.margin)))
        y = y * torch.sigmoid(gates if self.linear else gates + y.square())
        return x + self.scale * self.narrow(y)


class Denoiser(nn.Module):
    """See the module's docstring. (B, channels, H, W) -> the same.

    Args:
        channels: of the errors.
        fold: 2 where they stand on the grid, 1 where on its 2 x 2 blocks, as the context does.
        context: its width.
        width, coarse: of the network on 2 x 2 and on 4 x 4 blocks of cells.
        depth: blocks before and behind the coarse ones, and half of those.
        kernel: of each block.
    """

    frequencies: Tensor

    def __init__(
        self, channels: int, fold: int, context: int, width: int, coarse: int, depth: int, kernel: int
    ) -> None:
        super().__init__()
        self.fold = fold
        self.register_buffer("frequencies", 0.25 * 1.5 ** torch.arange(WAVES), persistent=False)
        self.noise = nn.Linear(2 * WAVES, context)
        folded = channels * fold**2
        self.stem = Pointwise(1, folded, width, bias=False)
        self.before = nn.ModuleList(OddBlock(width, kernel, context) for _ in range(depth))
        self.down = Pointwise(1, 4 * width, coarse, bias=False)
        self.coarse = nn.ModuleList(OddBlock(coarse, kernel, context) for _ in range(2 * depth))
        self.up = Pointwise(1, coarse, 4 * width, bias=False)
        self.behind = nn.ModuleList(OddBlock(width, kernel, context) for _ in range(depth))
        self.head = Pointwise(1, width, folded, bias=False)
        self.gain = Pointwise(1, context, folded)
        for last in (self.head, self.gain):
            nn.init.zeros_(last.weight)  # at first all points are independent and alike

    def forward(self, x: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        """The expected error.

        Args:
            x: (B, channels, H, W) errors of unit variance, and noise.
            noise: (B, 1, 1, 1) standard deviation of the noise.
            context: (B, width, H', W'), or one for all.
        """
        total = 1 + noise.square()
        y = functional.pixel_unshuffle(x * total.rsqrt(), self.fold)
        return x / total + noise * total.rsqrt() * functional.pixel_shuffle(self._rest(y, noise, context), self.fold)

    def _rest(self, x: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        angle = math.pi * noise.log().flatten(1) * self.frequencies
        told = self.noise(torch.cat([angle.cos(), angle.sin()], 1))[..., None, None]
        context = functional.silu(context + told)
        wide = functional.avg_pool2d(context, 2)
        y = self.stem(x)
        for block in self.before:
            y = block(y, context)
        deep = self.down(functional.pixel_unshuffle(y, 2))
        for block in self.coarse:
            deep = block(deep, wide)
        y = y + functional.pixel_shuffle(self.up(deep), 2)
        for block in self.behind:
            y = block(y, context)
        return self.head(y) + self.gain(context) * x
