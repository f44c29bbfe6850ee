"""The base of all trainings: running average of the weights, optimisers and schedule, check and weights of the loss."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any, cast

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dacycle.assimilators.exceptions import TrainingError
from dacycle.assimilators.training.recipe import Recipe
from dacycle.forecast_adapter.channels import CHANNELS

__all__ = ["BETAS", "TOP", "Muon", "Training", "channel_weights", "has_bfloat16"]

TOP = [channel.level is not None and channel.level < 200 for channel in CHANNELS]
"""By channel, whether it is of a level above 200 hPa."""
POLAR_FLOOR = 0.5
"""Least weight of a cell in the loss, as a share of the mean cell's. With weights by area alone the network learns the
rows at the poles badly, and long forecasts and cycles drift from there."""

BETAS = (0.9, 0.98)
"""Memory of AdamW."""
MATRIX_RATE = 10.0
"""Learning rate of the matrices in Muon, as a multiple of AdamW's."""
MATRIX_MEMORY = 0.95
"""Share of the momentum that Muon keeps in an update."""


def channel_weights(top_weight: float) -> NDArray[np.float32]:
    """Return (69,) weights of the loss: `top_weight` above 200 hPa, where a coarse model has few levels, else 1."""
    return np.where(TOP, top_weight, 1.0).astype(np.float32)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16; without them mixed precision is slower than float32."""
    if device.type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Muon(torch.optim.AdamW):
    """Update matrices by their momentum made orthogonal, all other weights as AdamW does.

    Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon. It is for groups of weights with `parts` above
    0: the weights (out, in, ...) of convolutions in so many groups, each group's a matrix of its own, where
    `torch.optim.Muon` takes matrices alone.
    """

    def step(self, closure: Any = None) -> Any:
        """Make one update; a closure gives the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"] if group["parts"] else []:
                self._turn(weight, weight.grad, group)
                weight.grad = None  # AdamW leaves it alone
        super().step()
        return loss

    @torch.no_grad()
    def _turn(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"], state["step"] = torch.zeros_like(weight), torch.zeros(())  # AdamW wants a step
        momentum = state["momentum"].lerp_(gradient, 1 - MATRIX_MEMORY)
        matrices = gradient.lerp(momentum, MATRIX_MEMORY).reshape(group["parts"], -1, weight[0].numel())
        rate = MATRIX_RATE * group["lr"]
        weight.mul_(1 - rate * group["weight_decay"])
        taller = max(1.0, matrices.shape[1] / matrices.shape[2])
        weight.add_(orthogonal(matrices).reshape(weight.shape), alpha=-rate * math.sqrt(taller))


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices (n, rows, columns) with their singular values near 1, by five steps of Muon's iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if has_bfloat16(x.device):
        x = x.bfloat16()
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Training(lightning.LightningModule, ABC):
    """Train ``network`` and keep ``average``, the running average of its weights, which is exported.

    A subclass has `training_step`, `validation_step` and the loaders of their data.

    Args:
        network: to be trained.
        recipe: its settings.
        area: (H, W) weights of the cells. ``loss_weights`` (69, H, W) are the channels' weights times these, none of
            which is below `POLAR_FLOOR`.
        learning_rate: the highest; None: the recipe's.
    """

    loss_weights: Tensor
    area: Tensor

    def __init__(
        self, network: nn.Module, recipe: Recipe, area: NDArray[np.floating], learning_rate: float | None = None
    ) -> None:
        super().__init__()
        self.network = cast(Any, network)
        self.average = cast(Any, copy.deepcopy(network).requires_grad_(False).eval())
        self.recipe = cast(Any, recipe)
        self.learning_rate = recipe.learning_rate if learning_rate is None else learning_rate
        weights = channel_weights(recipe.top_weight)
        cells = np.maximum(area, POLAR_FLOOR).astype(np.float32)
        loss_weights = (weights / weights.mean())[:, None, None] * (cells / cells.mean())
        self.register_buffer("loss_weights", torch.from_numpy(loss_weights), persistent=False)
        self.register_buffer("area", torch.from_numpy(np.asarray(area, np.float32)), persistent=False)

    @property
    @abstractmethod
    def updates(self) -> int:
        """Number of updates in all processes, over which the learning rate falls."""

    def checked(self, loss: Tensor, batch_index: int) -> Tensor:
        """Log and return the loss. Raises TrainingError where it is not finite."""
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} in epoch {self.current_epoch}, batch {batch_index}; the checkpoint of "
                "the last whole epoch is kept. Lower learning_rate, or look at the data, and train into a new folder"
            )
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def describe(self, epoch: int) -> dict[str, Any]:
        """Return further columns of the learning curve for an epoch."""
        return {}

    def mixed(self) -> Any:
        """Return the context of mixed precision, which is on where the recipe asks for it and the device has it."""
        asked = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=asked and has_bfloat16(self.device))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        # The average follows faster at first, so that it forgets the early weights.
        decay = min(self.recipe.average, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)

    def optimiser(self) -> torch.optim.Optimizer:
        """Return the optimiser: AdamW."""

        # Weight decay is for matrices, not for biases, norms and layer scales.
        def is_matrix(weights: Tensor) -> bool:
            return weights.ndim > 1 and weights.numel() > weights.shape[1]

        weights = list(self.network.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [w for w in weights if is_matrix(w)], "weight_decay": self.recipe.weight_decay},
            {"params": [w for w in weights if not is_matrix(w)], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, self.learning_rate, betas=BETAS, fused=True)

    def configure_optimizers(self) -> Any:
        optimiser = self.optimiser()
        updates = max(self.updates // self.trainer.world_size, 1)

        def rate(update: int) -> float:
            rise = min((update + 1) / min(self.recipe.warm_up, max(updates // 10, 1)), 1.0)
            return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(update / updates, 1.0))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
