"""Denoisers of background errors: the expected error, given the sum of an error and noise.

The denoiser is preconditioned as in EDM (Karras et al. 2022, arXiv 2206.00364, section 5), with errors of variance 1,
so that the network has nothing to learn if all points are independent with equal variance. The network is U-shaped,
with two resolutions on the sphere.

**It is odd in its input**, by construction: no layer adds a term that does not depend on the error, and the other
inputs (background, noise, size of the error) only control gates. So an error is as likely as its opposite, and without
observations the mean error is 0. Otherwise it would learn the mean error of the training backgrounds, which makes
cycles drift (`departures`).
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
"""Frequencies that encode the noise."""


class Context(nn.Module):
    """Compute features (B, width, H/2, W/2) of the inputs but the error, (B, inputs, H, W)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.stem = Pointwise(1, 4 * inputs, width)
        self.block = ConvolutionBlock(1, width, 5)

    def forward(self, known: Tensor) -> Tensor:
        return self.block(self.stem(functional.pixel_unshuffle(known, 2)))


class OddBlock(nn.Module):
    """Add a depthwise convolution and a wider layer, gated by the context, to the input.

    The block is odd in its input. If `linear`, it is linear in it; otherwise large values also open their gates.
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
    """Denoise errors (B, channels, H, W).

    Args:
        channels: of the errors.
        fold: 2 for errors on the grid, 1 for errors on its 2 x 2 blocks, where the context is.
        context: width of the context.
        width, coarse: of the network on 2 x 2 and on 4 x 4 blocks of cells.
        depth: number of blocks before the coarse ones, as many after them; there are twice as many coarse ones.
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
            nn.init.zeros_(last.weight)  # at first all points are independent with equal variance

    def forward(self, x: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        """Return the expected error.

        Args:
            x: (B, channels, H, W) errors of unit variance plus noise.
            noise: (B, 1, 1, 1) standard deviation of the noise.
            context: (B, width, H', W'), or (1, width, H', W') for all.
        """
        total = 1 + noise.square()
        y = functional.pixel_unshuffle(x * total.rsqrt(), self.fold)
        return x / total + noise * total.rsqrt() * functional.pixel_shuffle(self._rest(y, noise, context), self.fold)

    def _rest(self, x: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        angle = math.pi * noise.log().flatten(1) * self.frequencies
        encoded_noise = self.noise(torch.cat([angle.cos(), angle.sin()], 1))[..., None, None]
        context = functional.silu(context + encoded_noise)
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
