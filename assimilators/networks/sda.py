"""SDA: score-based data assimilation (Rozet & Louppe 2023, arXiv 2306.10574), with a background.

What makes it SDA: a prior learnt without observations, by diffusion; any observation guides it at the time of the
analysis through its observation operator, with a variance that takes in what the noise leaves unknown.

Where it departs: the original has no background, and its prior is of trajectories. Here it is of the background's
error, given the background: in a cycle nearly all that is known comes from there. How it is guided, and in how few
steps, see `diffusion`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dacycle.assimilators.networks.blocks.base import Constants
from dacycle.assimilators.networks.blocks.denoiser import Denoiser
from dacycle.assimilators.networks.blocks.diffusion import DiffusionNetwork, DiffusionSize
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["SdaNetwork"]


class SdaNetwork(DiffusionNetwork):
    """See the module's docstring: what is sampled are the errors themselves."""

    def __init__(
        self, grid: Grid, constants: Constants, size: DiffusionSize, planes: tuple[str, ...] = tuple(PLANES)
    ) -> None:
        super().__init__(grid, constants, size, (CHANNEL_COUNT, *grid.shape), planes)
        self.denoiser = Denoiser(CHANNEL_COUNT, 2, size.context, size.width, size.coarse, size.depth, size.kernel)

    def denoise(self, x: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        """See `Denoiser`."""
        return self.denoiser(x, noise, context)

    def decode(self, latent: Tensor, context: Tensor) -> Tensor:
        """The error itself."""
        return latent

    def prior_loss(self, state: Tensor, target: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Denoising score matching."""
        state, error, sizes = self.error_of(state, target, generator)
        context = self.context(self.known_of(state, sizes))
        return (self.denoising_loss(error, context, generator) * weights).mean()
