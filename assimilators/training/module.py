"""What trainings share: the running average of the weights, the optimiser and its schedule, the loss refused."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import lightning
import torch
from torch import Tensor, nn

from dacycle.assimilators.training.errors import TrainingError

__all__ = ["Training"]


class Training(lightning.LightningModule):
    """Trains ``network`` and keeps ``average``, the running average of its weights, which is what is exported.

    A subclass has `training_step`, `validation_step` and the loaders of their data.
    """

    def __init__(self, network: nn.Module, recipe: Any) -> None:
        super().__init__()
        self.network = cast(Any, network)
        self.average = cast(Any, copy.deepcopy(network).requires_grad_(False).eval())
        self.recipe = recipe

    @property
    def updates(self) -> int:
        """How many updates there will be, over which the learning rate falls."""
        raise NotImplementedError

    @property
    def learning_rate(self) -> float:
        """The highest."""
        return float(self.recipe.learning_rate)

    def checked(self, loss: Tensor, batch_index: int) -> Tensor:
        """The loss, logged. TrainingError where it is no longer a number."""
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} in epoch {self.current_epoch}, batch {batch_index}; the checkpoint of "
                "the last whole epoch is kept. Lower learning_rate, or look at the data, and train into a new folder"
            )
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def describe(self, epoch: int) -> dict[str, Any]:
        """What the learning curve says of an epoch beside its errors."""
        return {}

    def mixed(self) -> Any:
        """The context of mixed precision, where the recipe asks for it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        # The average follows faster at first: the early weights say nothing about the late ones.
        decay = min(self.recipe.average, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)

    def configure_optimizers(self) -> Any:
        # Weight decay is for matrices: biases, norms and layer scales are left alone.
        def is_matrix(weights: Tensor) -> bool:
            return weights.ndim > 1 and weights.numel() > weights.shape[1]

        weights = list(self.network.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [w for w in weights if is_matrix(w)], "weight_decay": self.recipe.weight_decay},
            {"params": [w for w in weights if not is_matrix(w)], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, self.learning_rate, betas=(0.9, 0.98), fused=True)

        def rate(update: int) -> float:
            rise = min((update + 1) / min(self.recipe.warm_up, max(self.updates // 10, 1)), 1.0)
            return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(update / max(self.updates, 1), 1.0))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
