"""The base of feed-forward methods, which make an increment of departures.

A method defines `DepartureNetwork.observe`, `encode` and `decode`. The increment of every method is odd in the
departures (`estimate`). Otherwise a network learns the mean error of its training backgrounds and removes it in every
cycle, where it is present or not, and the cycles drift.

So that it can be measured what this harness brings and what the paper's network does, `DepartureSize` has an entry for
each of its parts, with which the method is without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.blocks.base import AnalysisNetwork, Constants, weights_of
from dacycle.assimilators.networks.blocks.layers import RadialConvolution
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["DepartureNetwork", "DepartureSize", "SetConvolutions", "added", "gaussian_loss", "halved"]

NEAR, WIDE = (1500.0,), (3000.0, 6000.0)
"""Supports in km of the set convolutions' kernels, on the grid and on its 2 x 2 blocks."""


_FORMS = {"fields": ("departures", "absolute"), "bias": ("removed", "kept"), "symmetry": ("odd", "none")}


@dataclass(frozen=True)
class DepartureSize:
    """Hold what all feed-forward methods have, beside the size of their network.

    The first of the words that each of three entries may have is dacycle's; with the second, the method is in that
    respect as it was published.

    Attributes:
        reach_km: distance beyond which an observation has no influence.
        fields: `departures` in units of the background's error go in and an increment in these units comes out, or
            `absolute` normalised observations go in and a normalised analysis comes out.
        bias: whether the forecast model's mean error is `removed` from the background, or `kept`.
        symmetry: whether the increment is `odd` in the departures, or has no symmetry (`none`).
        recent: 1: the departures of the last 24 hours are further inputs (`trained.recent`).
    """

    reach_km: int = 2500
    fields: str = "departures"
    bias: str = "removed"
    symmetry: str = "odd"
    recent: int = 0

    def __post_init__(self) -> None:
        for name, words in _FORMS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name}: {getattr(self, name)!r} is unknown; it is {' or '.join(words)}")
        if self.recent not in (0, 1):
            raise ValueError(f"recent: {self.recent} is unknown; it is 0 or 1")
        if self.fields == "absolute" and self.symmetry == "odd":
            raise ValueError("symmetry: absolute fields have no opposites; it must be none")


class DepartureNetwork(AnalysisNetwork, ABC):
    """Make an increment, and perhaps a spread, of departures; ``estimate`` is trained."""

    def __init__(
        self, grid: Grid, constants: Constants, size: DepartureSize, planes: tuple[str, ...] = tuple(PLANES)
    ) -> None:
        if size.bias == "kept":
            constants = replace(constants, bias=np.zeros_like(constants.bias))
        super().__init__(grid, constants, size.reach_km, planes)
        self.absolute, self.odd = size.fields == "absolute", size.symmetry == "odd"
        self.inputs += size.recent * CHANNEL_COUNT

    @abstractmethod
    def observe(self, departure: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Return features of departures and weights, (B, 69 + M, H, W).

        Each tensor is (B, 2 K, C, H', W'): K features that are odd in the departures, then K that are even.
        """

    @abstractmethod
    def encode(self, state: Tensor, known: Tensor) -> tuple[Tensor, ...]:
        """Return features of the normalised background and of the other inputs `known`, (B, 11, H, W)."""

    @abstractmethod
    def decode(
        self, state: Tensor, known: Tensor, background: tuple[Tensor, ...], observed: tuple[Tensor, ...],
        beside: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Return increment, and spread before `_spread` or None, (B, 69, H, W), in units of the background's error.

        Args:
            state: normalised background.
            known: the other inputs.
            background: from `encode`.
            observed: from `observe`.
            beside: (B, latent, H/2, W/2), added to the fused features of background and observations (`adapter`).
        """

    def estimate(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return increment and spread, (B, 69, H, W), in units of ``error``; the spread is None for some methods.

        The increment is half the difference between the results for the departures and for their opposites. So it is
        odd, and 0 where observations agree with the background without its bias. The bias is removed where the gate is
        open.

        Args:
            state: (B, 69, H, W) the normalised background.
            values, errors: (B, 69 + M, H, W) superobs, SI; an error above 0 exactly where there is one.
        """
        if not self.odd:
            return self._estimate_once(state, values, errors, state.new_ones(()))
        state, bias = self.unbiased(state)
        departure, error, sizes = self.departures(state, values, errors)
        weight = weights_of(error)
        known, size = self.known_beside(sizes), sizes[:, :1]
        observed = tuple(_and_opposite(features) for features in self.observe(departure, weight))
        background = tuple(features.repeat(2, 1, 1, 1) for features in self.encode(state, known))
        increment, spread = self.decode(state.repeat(2, 1, 1, 1), known.repeat(2, 1, 1, 1), background, observed)
        positive, negative = increment.unflatten(0, (2, -1)).unbind(0)
        increment = self.gate(weight) * (0.5 * size * (positive - negative) - bias)
        if spread is None:
            return increment, None
        return increment, size * self._spread(spread.unflatten(0, (2, -1)).mean(0))

    def estimate_one_way(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return `estimate` at half the cost, for training: half of the samples have the opposite departures.

        Training on both signs makes the optimum odd. Signs alternate in pairs, because even and odd samples may come
        from different sources (`training.closed_loop`). A method without symmetry is trained as it is.
        """
        if not self.odd:
            return self._estimate_once(state, values, errors, state.new_ones(()))
        sign = 1.0 - 2.0 * (torch.arange(state.shape[0], device=state.device)[:, None, None, None] // 2 % 2)
        return self._estimate_once(state, values, errors, sign)

    def _estimate_once(
        self, state: Tensor, values: Tensor, errors: Tensor, sign: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return increment and spread from the departures times a sign, one for all samples or (B, 1, 1, 1)."""
        state, bias = self.unbiased(state)
        departure, error, sizes = self.departures(state, values, errors)
        weight = weights_of(error)
        known, size = self.known_beside(sizes), sizes[:, :1]
        observed = tuple(_signed(features, sign) for features in self.observe(departure, weight))
        increment, spread = self.decode(state, known, self.encode(state, known), observed)
        increment = (increment - state) / self.error if self.absolute else sign * size * increment
        increment = self.gate(weight) * (increment - bias)
        return increment, None if spread is None else size * self._spread(spread)

    def departures(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `AnalysisNetwork.departures`, and behind them the recent ones, 0 where the values lack them.

        Of absolute fields they are the observations themselves, and the sizes are 1.
        """
        own = CHANNEL_COUNT + len(self.planes)
        if self.inputs == own:
            return self._departures_now(state, values, errors)
        missing = (0, 0, 0, 0, 0, self.inputs - values.shape[1])
        (values, recent), (errors, recent_error) = (
            functional.pad(part, missing).split([own, CHANNEL_COUNT], 1) for part in (values, errors)
        )
        departure, error, sizes = self._departures_now(state, values, errors)
        scale = self.std * self.error * sizes[:, :1]
        return torch.cat([departure, recent / scale], 1), torch.cat([error, recent_error / scale], 1), sizes

    def _departures_now(self, state: Tensor, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        departure, error, sizes = super().departures(state, values, errors)
        if not self.absolute:
            return departure, error, sizes
        channels, planes = values[:, :CHANNEL_COUNT], values[:, CHANNEL_COUNT:]
        observed = torch.cat([(channels - self.mean) / self.std, self._normalised(planes)], 1)
        error = torch.cat([error[:, :CHANNEL_COUNT] * sizes[:, :1], error[:, CHANNEL_COUNT:]], 1)
        return torch.where(errors > 0, observed, 0.0), error, torch.ones_like(sizes)

    def _spread(self, raw: Tensor) -> Tensor:
        return 0.01 + 0.99 * functional.softplus(raw)

    def forward(self, background: Tensor, observations: Tensor, observation_errors: Tensor) -> tuple[Tensor, ...]:
        state = (background - self.mean) / self.std
        increment, spread = self.estimate(state, observations, observation_errors)
        scale = self.std * self.error
        analysis = background + increment * scale
        return (analysis,) if spread is None else (analysis, spread * scale * self.calibration)


class SetConvolutions(nn.Module):
    """Turn departures into fields with their density (ConvCNP, arXiv 1910.13556; FNP, section 3.2), at three widths.

    Kernels are fixed functions of great-circle distance. From departures and weights, (B, C, H, W) each, come
    (B, 4, C, H, W) at and near the points, and (B, 4, C, H/2, W/2) far around: mean departures, then densities.
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
    """Return the negative log likelihood, weighted by the variance within a sample; all are (B, 69, H, W).

    The mean then learns from plain squared errors, as in beta-NLL with beta = 1 (Seitzer et al. 2022, arXiv
    2203.09168). Without the weight, the places of the smallest errors would dominate, but a cycle depends on those of
    the largest. From sample to sample the weight is the root of the variance, so that a background with twice the error
    counts twice, not four times; otherwise backgrounds of 6 h, and above all their spread, would hardly be learnt.
    """
    variance = spread.square()
    weight = variance.detach() / variance.detach().mean((1, 2, 3), keepdim=True).sqrt()
    return 0.5 * weight * (variance.log() + (target - increment).square() / variance)


def _mean_and_density(sums: Tensor) -> Tensor:
    """Return means and densities (B, 2 K, C, H, W) of weighted departures and weights (B, K, 2, C, H, W).

    The mean tends to 0 with the density, because the background has a weight of its own in it.
    """
    total, density = sums.unbind(2)
    density = density.clamp(min=0)
    return torch.cat([total / (density + 0.2), density / (density + 1)], 1)


def _signed(features: Tensor, sign: Tensor) -> Tensor:
    """Return means and densities, (B, 2 K, C, H, W), with the means multiplied by signs (B, 1, 1, 1)."""
    means, densities = features.chunk(2, 1)
    return torch.cat([means * sign[..., None], densities], 1)


def _and_opposite(features: Tensor) -> Tensor:
    """Return means and densities, (B, 2 K, C, H, W), followed by the same with opposite means, (2 B, ...)."""
    means, densities = features.chunk(2, 1)
    return torch.cat([features, torch.cat([-means, densities], 1)])


def added(fused: Tensor, beside: Tensor | None) -> Tensor:
    """Return the sum of fused features and those beside them, if there are any."""
    return fused if beside is None else fused + beside


def halved(grid: Grid) -> Grid:
    """Return the grid of the 2 x 2 blocks of cells."""
    latitude, longitude = (np.asarray(c, float).reshape(-1, 2).mean(1) for c in (grid.latitude, grid.longitude))
    return Grid(f"2x2 blocks of {grid.name}", latitude, longitude)
