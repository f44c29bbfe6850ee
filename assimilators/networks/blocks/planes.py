"""What the columns of a state say of the observation planes, which no channel holds: an observation operator.

OLR, precipitation and humidity at 2 m are compared with it, so that they too are departures. It is fitted to the truth
before a method is trained, and then left alone: a method need not differentiate its departures. Priors are guided
through its tangent.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PlaneOperator"]

UPDATES, COLUMNS, RATE = 2500, 2048, 4e-3


class PlaneOperator(nn.Module):
    """A perceptron on each column: (B, inputs, H, W) -> (B, planes, H, W), all normalised."""

    def __init__(self, inputs: int, planes: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(inputs, width, 1), nn.SiLU(), nn.Conv2d(width, planes, 1))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def slope(self, x: Tensor) -> Tensor:
        """How steep the hidden layer is at columns (B, inputs, H, W); for `tangent`."""
        hidden = self.layers[0](x)
        gate = torch.sigmoid(hidden)
        return gate * (1 + hidden * (1 - gate))

    def tangent(self, slope: Tensor, change: Tensor) -> Tensor:
        """How the planes change, to first order, with the first of the inputs (B, n, H, W)."""
        first, _, second = (cast(Any, layer) for layer in self.layers)
        return functional.conv2d(slope * functional.conv2d(change, first.weight[:, : change.shape[1]]), second.weight)

    def fit(self, inputs: Tensor, targets: Tensor, seed: int) -> Tensor:
        """Fit to (n, inputs, H, W) and (n, planes, H, W); every fifth of the n is held out.

        Returns:
            (planes,) root mean square of what is left of the held-out targets.
        """
        held = torch.arange(len(inputs)) % 5 == 0
        columns, truth = (x[~held].transpose(0, 1).flatten(1) for x in (inputs, targets))
        generator = torch.Generator().manual_seed(seed)
        self.requires_grad_(True)
        optimiser = torch.optim.AdamW(self.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, UPDATES)
        with torch.enable_grad():
            for _ in range(UPDATES):
                drawn = torch.randint(columns.shape[1], (COLUMNS,), generator=generator)
                found = self(columns[None, :, drawn, None])
                loss = functional.mse_loss(found, truth[None, :, drawn, None])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        self.requires_grad_(False)
        with torch.no_grad():
            return (self(inputs[held]) - targets[held]).square().mean((0, 2, 3)).sqrt()
