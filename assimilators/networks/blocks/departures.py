"""What feed-forward methods share that make an increment of departures, beside what all networks have (`base`).

A method is what it makes of them (`DepartureNetwork.observe`, `encode`, `decode`). All change the sign of the increment
with the departures (`estimate`). Free to do otherwise, a network learns what is usually wrong with the backgrounds it
was shown, and takes it away in every cycle, there or not: such cycles go astray.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.blocks.base import AnalysisNetwork, weights_of
from dacycle.assimilators.networks.blocks.layers import RadialConvolution
from dacycle.forecast_adapter.grid import Grid

__all__ = ["DepartureNetwork", "SetConvolutions", "added", "gaussian_loss", "halved"]

NEAR, WIDE = (1500.0,), (3000.0, 6000.0)
"""Supports in km of the set convolutions' kernels, on the grid and on its 2 x 2 blocks."""


class DepartureNetwork(AnalysisNetwork, ABC):
    """See the module's docstring. ``estimate`` is what is trained."""

    @abstractmethod
    def observe(self, departure: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Features of departures and weights, (B, 69 + M, H, W).

        Each is (B, 2 K, C, H', W'): K that change their sign with the departures, and K that do not.
        """

    @abstractmethod
    def encode(self, state: Tensor, known: Tensor) -> tuple[Tensor, ...]:
        """Features of the normalised background and what is `known` beside it, (B, 11, H, W)."""

    @abstractmethod
    def decode(
        self, state: Tensor, known: Tensor, background: tuple[Tensor, ...], observed: tuple[Tensor, ...],
        beside: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Increment, and spread before `_spread` or None, (B, 69, H, W), in units of the background's error.

        beside: (B, latent, H/2, W/2) added to what is fused of background and observations (`adapter`).
        """

    def estimate(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Increment and spread, (B, 69, H, W), in units of ``error``; no spread where the method has none.

        Half the difference of what departures and their opposites give changes its sign with them, and is 0 where
        observations agree with the background without its bias. The bias is taken off where the gate is open.

        Args:
            state: (B, 69, H, W) the normalised background.
            values, errors: (B, 69 + M, H, W) superobs, SI; an error above 0 exactly where there is one.
        """
        state, bias = self.unbiased(state)
        departure, error, sizes = self.departures(state, values, errors)
        weight = weights_of(error)
        known, size = self.known_beside(sizes), sizes[:, :1]
        observed = tuple(_and_opposite(features) for features in self.observe(departure, weight))
        background = tuple(features.repeat(2, 1, 1, 1) for features in self.encode(state, known))
        increment, spread = self.decode(state.repeat(2, 1, 1, 1), known.repeat(2, 1, 1, 1), background, observed)
        there, back = increment.unflatten(0, (2, -1)).unbind(0)
        increment = self.gate(weight) * (0.5 * size * (there - back) - bias)
        if spread is None:
            return increment, None
        return increment, size * self._spread(spread.unflatten(0, (2, -1)).mean(0))

    def estimate_one_way(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor | None]:
        """`estimate` at half the cost, to train with: half of the samples are seen with the opposite departures.

        What is best for both signs then changes its sign with them, as `estimate` does by construction. Two and two,
        because every second sample may be of another kind.
        """
        state, bias = self.unbiased(state)
        departure, error, sizes = self.departures(state, values, errors)
        weight = weights_of(error)
        known, size = self.known_beside(sizes), sizes[:, :1]
        sign = 1.0 - 2.0 * (torch.arange(state.shape[0], device=state.device)[:, None, None, None] // 2 % 2)
        observed = tuple(_signed(features, sign) for features in self.observe(departure, weight))
        increment, spread = self.decode(state, known, self.encode(state, known), observed)
        increment = self.gate(weight) * (sign * size * increment - bias)
        return increment, None if spread is None else size * self._spread(spread)

    def _spread(self, raw: Tensor) -> Tensor:
        return 0.01 + 0.99 * functional.softplus(raw)

    def forward(self, background: Tensor, observations: Tensor, observation_errors: Tensor) -> tuple[Tensor, ...]:
        state = (background - self.mean) / self.std
        increment, spread = self.estimate(state, observations, observation_errors)
        scale = self.std * self.error
        analysis = background + increment * scale
        return (analysis,) if spread is None else (analysis, spread * scale * self.calibration)


class SetConvolutions(nn.Module):
    """Departures as fields with their density (ConvCNP, arXiv 1910.13556; FNP, section 3.2), at three widths in km.

    Kernels are fixed functions of great-circle distance. (B, C, H, W) twice -> (B, 4, C, H, W) at and near the points,
    (B, 4, C, H/2, W/2) far around: mean departures, then densities.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.near, self.wide = RadialConvolution(grid, NEAR), RadialConvolution(halved(grid), WIDE)

    @property
    def fine(self) -> int:
        """Features of each channel on the grid."""
        return 2 * (1 + len(NEAR))

    @property
    def coarse(self) -> int:
        """Features of each channel on 2 x 2 blocks."""
        return 2 * len(WIDE)

    def forward(self, departure: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.stack([departure * weight, weight], 1)
        flat = sums.flatten(1, 2)
        with torch.autocast(departure.device.type, enabled=False):
            near = self.near(flat.float()).unflatten(2, (2, -1))
            blocks = 4 * functional.avg_pool2d(flat.float(), 2)
            wide = self.wide(blocks).unflatten(2, (2, -1))
        fine = torch.cat([sums[:, None], near], 1)
        return _mean_and_density(fine), _mean_and_density(wide)


def gaussian_loss(increment: Tensor, spread: Tensor, target: Tensor) -> Tensor:
    """Negative log likelihood, weighted by the variance within a sample. All are (B, 69, H, W).

    The mean then learns from plain squared errors, as in beta-NLL with beta = 1 (Seitzer et al. 2022, arXiv
    2203.09168): the likelihood itself would give most weight to where the error is smallest, and a cycle lives by where
    it is largest. From sample to sample the weight is the root: a background twice as wrong counts twice, not four
    times, or those of 6 h would hardly be learnt, their spread least of all.
    """
    variance = spread.square()
    weight = variance.detach() / variance.detach().mean((1, 2, 3), keepdim=True).sqrt()
    return 0.5 * weight * (variance.log() + (target - increment).square() / variance)


def _mean_and_density(sums: Tensor) -> Tensor:
    """(B, K, 2, C, H, W), weighted departures and weights, to (B, 2 K, C, H, W).

    The mean fades where there is next to nothing to average: the background's own weight is in it.
    """
    total, density = sums.unbind(2)
    density = density.clamp(min=0)
    return torch.cat([total / (density + 0.2), density / (density + 1)], 1)


def _signed(features: Tensor, sign: Tensor) -> Tensor:
    """Means and densities, (B, 2 K, C, H, W), the means times (B, 1, 1, 1) signs."""
    means, densities = features.chunk(2, 1)
    return torch.cat([means * sign[..., None], densities], 1)


def _and_opposite(features: Tensor) -> Tensor:
    """Means and densities, (B, 2 K, C, H, W), and below them, (2 B, ...), the same with the means' signs changed."""
    means, densities = features.chunk(2, 1)
    return torch.cat([features, torch.cat([-means, densities], 1)])


def added(fused: Tensor, beside: Tensor | None) -> Tensor:
    """Fused features, and what is beside them."""
    return fused if beside is None else fused + beside


def halved(grid: Grid) -> Grid:
    """The grid of the 2 x 2 blocks of cells."""
    latitude, longitude = (np.asarray(c, float).reshape(-1, 2).mean(1) for c in (grid.latitude, grid.longitude))
    return Grid(f"2x2 blocks of {grid.name}", latitude, longitude)
