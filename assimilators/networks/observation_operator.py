"""A network that gives mean OLR and precipitation of the six hours between two frames, each with its error.

No channel holds these two. They follow from temperature, humidity, cloud and motion of a column and its neighbours. The
network is a perceptron on each column, in a few residual layers that also see the neighbouring cells (a depthwise
convolution, then a wider layer and back). It is small and differentiable; it is given no date, and sees one cell
further with each layer.

Its input is the mean of the frames, not their difference. Only the newer frame holds an analysis increment, and a
network that is given the difference takes the increment for a tendency: it infers that water that was added cannot have
rained out, so that a moister analysis gives less rain.

Each quantity has a Gaussian at every point, because the error of precipitation is small in dry places and large in wet
ones. The loss weights squared errors by one over the standard deviation (the beta-NLL of Seitzer et al. 2022, arXiv
2203.09168, with beta = 1/2). Weights of one over the variance would fit drizzle alone, equal weights the heaviest rain
alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.blocks.layers import Depthwise
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.models.mini import pad_sphere

__all__ = ["OperatorConstants", "OperatorNetwork", "OperatorSize", "likelihood_loss", "negative_log_likelihood"]

LEAST = 0.01
"""Least error that the network may state, in standard deviations of the plane."""


@dataclass(frozen=True)
class OperatorSize:
    """Hold the number of channels, of layers, and the expansion of the perceptron in a layer."""

    width: int = 48
    depth: int = 2
    expansion: int = 2


@dataclass(frozen=True)
class OperatorConstants:
    """Hold the constants of the network.

    ``mean``, ``std`` (69,): the world's statistics, SI. ``plane_mean``, ``plane_std`` (2,): of precipitation and OLR
    in the training years, SI. ``static`` (4, H, W): see `forecast_adapter.mini.static_planes`.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    plane_mean: NDArray[np.float32]
    plane_std: NDArray[np.float32]
    static: NDArray[np.float32]


class Layer(nn.Module):
    """Add a perceptron of each cell and its eight neighbours to the input."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.around = Depthwise(width, 3)
        self.widen = nn.Conv2d(width, expansion * width, 1)
        self.narrow = nn.Conv2d(expansion * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(functional.silu(self.widen(self.around(pad_sphere(x, 1)))))


class OperatorNetwork(nn.Module):
    """Compute mean OLR and precipitation; ``forward`` is the exported contract, training calls ``estimate``."""

    mean: Tensor
    std: Tensor
    plane_mean: Tensor
    plane_std: Tensor
    static: Tensor

    def __init__(self, constants: OperatorConstants, size: OperatorSize) -> None:
        super().__init__()
        self.size = size
        for name in ("mean", "std", "plane_mean", "plane_std"):
            values = np.asarray(getattr(constants, name), np.float32)
            self.register_buffer(name, torch.from_numpy(values)[:, None, None])
        self.register_buffer("static", torch.from_numpy(np.asarray(constants.static, np.float32)))
        self.stem = nn.Conv2d(len(NAMES) + len(constants.static), size.width, 1)
        self.layers = nn.Sequential(*(Layer(size.width, size.expansion) for _ in range(size.depth)))
        self.head = nn.Conv2d(size.width, 4, 1)

    def estimate(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and errors, each (B, 2, H, W) in units of ``plane_std``; OLR is relative to its mean.

        Args:
            state: (B, 69, H, W) the mean of x(t-6h) and x(t), normalised.
        """
        static = self.static.expand(state.shape[0], -1, -1, -1)
        y = self.head(self.layers(self.stem(torch.cat([state, static], dim=1))))
        mean = torch.cat([functional.softplus(y[:, :1]), y[:, 1:2]], dim=1)
        return mean, LEAST + functional.softplus(y[:, 2:])

    def forward(self, previous: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """Return H(x) and its error, each (B, 2, H, W): precipitation (kg m-2 over 6 h) and mean OLR (W m-2).

        Args:
            previous, current: (B, 69, H, W) x(t-6h) and x(t), SI.
        """
        mean, error = self.estimate(((previous + current) / 2 - self.mean) / self.std)
        return self.offset + mean * self.plane_std, error * self.plane_std

    @property
    def offset(self) -> Tensor:
        """The values (2, 1, 1) that ``estimate``'s means are relative to, SI."""
        return torch.cat([torch.zeros_like(self.plane_mean[:1]), self.plane_mean[1:]])


def negative_log_likelihood(mean: Tensor, error: Tensor, target: Tensor) -> Tensor:
    """Return (B, 2, H, W) of a Gaussian without its constant; all three arguments in units of ``plane_std``."""
    return 0.5 * ((target - mean) / error).square() + error.log()


def likelihood_loss(mean: Tensor, error: Tensor, target: Tensor) -> Tensor:
    """Return (B, 2, H, W) the beta-NLL, beta = 1/2; its gradient matters, its value need not fall with a better fit."""
    return error.detach() * negative_log_likelihood(mean, error, target)
