"""Latent diffusion of the background's error, guided by observations.

Of score-based latent assimilation (SLAMS: Qu et al. 2024, arXiv 2404.06665) it has the sampling by diffusion in the
latent space of an autoencoder, all variables together.

It is not SLAMS. There observations of every modality are encoded into the latent space, by encoding the truth, which is
unknown in a cycle. Here a latent is decoded and then observed, so that observations guide it through the decoder; the
part that the autoencoder cannot represent is added to the observations' error. Latents are of the background's error,
given the background, as in `diffusion`. The decoder is linear in the latent, with gates that depend on the background:
a learnt basis. Autoencoder and denoiser are trained at the same time; no gradient flows from the denoiser into the
autoencoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.blocks.base import Constants
from dacycle.assimilators.networks.blocks.denoiser import Denoiser, OddBlock
from dacycle.assimilators.networks.blocks.diffusion import DiffusionNetwork, DiffusionSize
from dacycle.assimilators.networks.blocks.layers import Pointwise
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["LatentDiffusionNetwork", "LatentDiffusionSize"]

UNIT = 0.1
"""Weight of the penalty that gives latents a variance of 1, which the denoiser assumes."""


@dataclass(frozen=True)
class LatentDiffusionSize(DiffusionSize):
    """Hold the size of the network and of its sampler, beside those of `DiffusionSize`.

    Attributes:
        latent: channels of the latents on 2 x 2 blocks of cells; the error has 276 numbers in a block.
        auto: width of encoder and decoder.
    """

    latent: int = 80
    auto: int = 128


class LatentDiffusionNetwork(DiffusionNetwork):
    """Sample background errors by diffusion in the latent space of an autoencoder."""

    def __init__(
        self, grid: Grid, constants: Constants, size: LatentDiffusionSize, planes: tuple[str, ...] = tuple(PLANES)
    ) -> None:
        half = (grid.shape[0] // 2, grid.shape[1] // 2)
        super().__init__(grid, constants, size, (size.latent, *half), planes)
        folded, auto = 4 * CHANNEL_COUNT, size.auto
        self.denoiser = Denoiser(size.latent, 1, size.context, size.width, size.coarse, size.depth, size.kernel)
        self.encoder_stem = Pointwise(1, folded, auto, bias=False)
        self.encoder_block = OddBlock(auto, size.kernel, size.context)
        self.encoder_head = Pointwise(1, auto, size.latent, bias=False)
        self.decoder_stem = Pointwise(1, size.latent, auto, bias=False)
        self.decoder_block = OddBlock(auto, size.kernel, size.context, linear=True)
        self.decoder_head = Pointwise(1, auto, folded, bias=False)
        self.lost = nn.Parameter(torch.zeros(CHANNEL_COUNT, 1, 1))

    def encode(self, error: Tensor, context: Tensor) -> Tensor:
        """Return the latent (B, latent, H/2, W/2) of an error (B, 69, H, W)."""
        y = self.encoder_stem(functional.pixel_unshuffle(error, 2))
        return self.encoder_head(self.encoder_block(y, context))

    def decode(self, latent: Tensor, context: Tensor) -> Tensor:
        """Return the error of a latent."""
        y = self.decoder_block(self.decoder_stem(latent), context)
        return functional.pixel_shuffle(self.decoder_head(y), 2)

    def denoise(self, x: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        """Return the expected latents of noisy ones; see `Denoiser`."""
        return self.denoiser(x, noise, context)

    def unrepresented(self) -> Tensor:
        """Return the standard deviation that no latent represents, learnt with the autoencoder."""
        return self.lost.exp()

    def prior_loss(self, state: Tensor, target: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of the autoencoder and of denoising score matching in its latent space."""
        state, error, sizes = self.error_of(state, target, generator)
        context = self.context(self.known_of(state, sizes))
        latent = self.encode(error, context)
        lost = (self.decode(latent, context) - error).square()
        likelihood = 0.5 * (lost.detach() * (-2 * self.lost).exp() + 2 * self.lost)
        excess = (latent.square().mean((0, 2, 3)) - 1).square().mean()
        denoising = self.denoising_loss(latent.detach(), context, generator).mean()
        return denoising + ((lost + UNIT * likelihood) * weights).mean() + UNIT * excess
