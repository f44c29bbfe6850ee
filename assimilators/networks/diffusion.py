"""Diffusion of the background's error, guided by observations: score-based assimilation with a background.

Of score-based data assimilation (SDA: Rozet and Louppe 2023, arXiv 2306.10574) it has a prior that is learnt by
diffusion without observations; in the analysis, observations guide it through their observation operators, with a
variance that includes the uncertainty left by the noise.

It is not SDA. SDA's prior is of trajectories, without a background; here it is of the background's error, given the
background, because most of the information in a cycle comes from the background. Its guidance is that of a later paper
(arXiv 2405.13712) unless `guidance: published` is set, and its sampler has few steps (`blocks.diffusion`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dacycle.assimilators.networks.blocks.base import Constants
from dacycle.assimilators.networks.blocks.denoiser import Denoiser
from dacycle.assimilators.networks.blocks.diffusion import DiffusionNetwork, DiffusionSize
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["ErrorDiffusionNetwork"]


class ErrorDiffusionNetwork(DiffusionNetwork):
    """Sample background errors on the grid by diffusion."""

    def __init__(
        self, grid: Grid, constants: Constants, size: DiffusionSize, planes: tuple[str, ...] = tuple(PLANES)
    ) -> None:
        super().__init__(grid, constants, size, (CHANNEL_COUNT, *grid.shape), planes)
        self.denoiser = Denoiser(CHANNEL_COUNT, 2, size.context, size.width, size.coarse, size.depth, size.kernel)

    def denoise(self, x: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        """Return the expected errors of noisy ones; see `Denoiser`."""
        return self.denoiser(x, noise, context)

    def decode(self, latent: Tensor, context: Tensor) -> Tensor:
        """Return the latent, which is the error itself."""
        return latent

    def prior_loss(self, state: Tensor, target: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of denoising score matching."""
        state, error, sizes = self.error_of(state, target, generator)
        context = self.context(self.known_of(state, sizes))
        return (self.denoising_loss(error, context, generator) * weights).mean()
