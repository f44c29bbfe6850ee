"""An observation operator of the planes: OLR, precipitation and humidity at 2 m from the columns of a state.

No channel holds these quantities, so the operator gives what they are compared with. It is fitted to the truth before a
method is trained and then kept fixed. Priors are guided through its tangent.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["UPDATES", "PlaneOperator"]

UPDATES, COLUMNS, RATE = 2500, 2048, 4e-3
"""Updates of the fit, columns in each, and the highest learning rate."""
WIDTH = 64
"""Width of the hidden layer."""


class PlaneOperator(nn.Module):
    """Apply a perceptron to each column: (B, inputs, H, W) -> (B, planes, H, W), all normalised; `planes` may be 0."""

    def __init__(self, inputs: int, planes: int) -> None:
        super().__init__()
        self.planes = planes
        # one output at least: a convolution without any cannot run
        self.layers = nn.Sequential(nn.Conv2d(inputs, WIDTH, 1), nn.SiLU(), nn.Conv2d(WIDTH, max(planes, 1), 1))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) if self.planes else x[:, :0]

    def slope(self, x: Tensor) -> Tensor:
        """Return the derivative of the hidden layer's activation at columns (B, inputs, H, W); for `tangent`."""
        hidden = self.layers[0](x)
        gate = torch.sigmoid(hidden)
        return gate * (1 + hidden * (1 - gate))

    def tangent(self, slope: Tensor, change: Tensor) -> Tensor:
        """Return the change of the planes, to first order, for a change (B, n, H, W) of the first n inputs."""
        first, _, second = (cast(Any, layer) for layer in self.layers)
        changed = slope * functional.conv2d(change, first.weight[:, : change.shape[1]])
        return functional.conv2d(changed, second.weight) if self.planes else change[:, :0]

    def fit(self, inputs: Tensor, targets: Tensor, seed: int, updates: int = UPDATES) -> Tensor:
        """Fit to (n, inputs, H, W) and (n, planes, H, W); every fifth of the n is held out.

        Returns:
            (planes,) root mean square error on the held-out targets.
        """
        if not self.planes:
            return torch.zeros(0)
        held_out = torch.arange(len(inputs)) % 5 == 0
        columns, truth = (x[~held_out].transpose(0, 1).flatten(1) for x in (inputs, targets))
        generator = torch.Generator().manual_seed(seed)
        self.requires_grad_(True)
        optimiser = torch.optim.AdamW(self.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
        with torch.enable_grad():
            for _ in range(updates):
                drawn = torch.randint(columns.shape[1], (COLUMNS,), generator=generator)
                predicted = self(columns[None, :, drawn, None])
                loss = functional.mse_loss(predicted, truth[None, :, drawn, None])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        self.requires_grad_(False)
        with torch.no_grad():
            return (self(inputs[held_out]) - targets[held_out]).square().mean((0, 2, 3)).sqrt()
