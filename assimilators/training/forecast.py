"""Training of a forecast model: single steps first, then rollouts, with the loss in units of the 6-h change."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dacycle.assimilators.training.data import Windows, Year
from dacycle.assimilators.training.module import BETAS, Muon, Training
from dacycle.assimilators.training.recipe import ForecastRecipe
from dacycle.forecast_adapter.channels import index
from dacycle.forecast_adapter.models.mini import MiniNetwork

__all__ = ["ForecastTraining"]

VALIDATION_STEPS = 4  # 24 hours
VALIDATION_STARTS = 48
DRIFTED = 0.3
"""Share of the recipe's `noise` by which both frames are moved towards another sample's state."""
JUMP = 5.0
"""The same share for the older frame alone. In a cycle the newer frame holds an increment of which the older one lacks
what `frames` does not give it. A network trained on seamless pairs alone takes an increment for a tendency, and
extrapolates it: without its share in the older frame, its cycles drift."""


class ForecastTraining(Training):
    """Train ``mini``.

    A batch is (B, 2 + steps, 69, H, W) of consecutive normalised states. The loss is the squared error of each state of
    the rollout in units of the channel's 6-h standard deviation, weighted by channel and by cell area.
    """

    def __init__(self, network: MiniNetwork, recipe: ForecastRecipe, area: NDArray[np.floating]) -> None:
        super().__init__(cast(Any, network).to(memory_format=torch.channels_last), recipe, area)
        # Kept out of the module tree: it shares the network's weights.
        self._increment = torch.compile(network.increment) if recipe.compile else network.increment
        self.years: tuple[list[Year], list[Year]] = ([], [])
        self._noise = torch.Generator()

    def advance(self, network: MiniNetwork, previous: Tensor, current: Tensor, increment: Any) -> Tensor:
        """Return the next normalised state; `increment` is `network.increment` or a compiled form of it."""
        change = increment(previous, current).float() * (network.step_std / network.std)
        floor, ceiling = (
            None if bound is None else (bound - network.mean) / network.std
            for bound in (network.floor, network.ceiling)
        )
        return torch.clamp(network.filtered(current + change), floor, ceiling)

    @property
    def updates(self) -> int:
        """Updates of all stages."""
        return sum(
            stage.epochs * (len(Windows(self.years[0], 2 + stage.steps)) // self.recipe.batch)
            for stage in self.recipe.stages
        )

    def optimiser(self) -> torch.optim.Optimizer:
        """Return AdamW, or Muon for the convolutions that mix channels, except the first and the last one."""
        if self.recipe.optimiser == "adamw":
            return super().optimiser()
        ends = (self.network.stem, self.network.head)
        layers = [m for m in self.network.modules() if isinstance(m, nn.Conv2d) and m not in ends]
        mixing = [layer for layer in layers if layer.weight.shape[1] > 1]
        matrices = {id(layer.weight) for layer in mixing}
        others = [weight for weight in self.network.parameters() if id(weight) not in matrices]
        groups: list[dict[str, Any]] = [
            {
                "params": [layer.weight for layer in mixing if layer.groups == parts],
                "parts": parts,
                "weight_decay": self.recipe.weight_decay,
            }
            for parts in sorted({layer.groups for layer in mixing})
        ]
        return Muon([*groups, {"params": others, "parts": 0, "weight_decay": 0.0}], self.learning_rate, betas=BETAS)

    def describe(self, epoch: int) -> dict[str, Any]:
        """Return the length of an epoch's rollouts."""
        return {"steps": self.recipe.steps_at(epoch)}

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        previous, current, *targets = self.perturbed(batch)
        scale = self.network.std / self.network.step_std
        errors = []
        for target in targets:
            with self.mixed():
                following = self.advance(self.network, previous, current, self._increment)
            errors.append((((following - target) * scale).square() * self.loss_weights).mean())
            previous, current = current, following
        return self.checked(torch.stack(errors).mean(), batch_index)

    def perturbed(self, batch: Tensor) -> list[Tensor]:
        """Return the frames of a batch with the two input frames perturbed, each sample by shares of at most `noise`.

        In a cycle or a long forecast the states differ from those of the reference, and the model must recover from
        four kinds of differences:

        - analysis errors, which differ between the frames: shares of other samples' 6-h changes, which have the scales
          and the balance of the atmosphere;
        - what the older frame lacks of an increment, by `frames`: shares of the difference from other samples, in that
          frame;
        - a drifted climate: the same in both frames;
        - noise of the grid's own scale.
        """
        frames = [frame.contiguous(memory_format=torch.channels_last) for frame in batch.unbind(1)]
        if self.recipe.noise == 0:
            return frames
        self._noise.manual_seed(self.recipe.seed * 1_000_003 + self.global_step)
        previous, current = frames[:2]
        change = current - previous
        drifted = DRIFTED * self._shares(current) * (current[self._order(current)] - current)
        lacking = JUMP * (1 - (self.recipe.frames or 0))
        jump = lacking * self._shares(current) * (current[self._order(current)] - current)
        grain = torch.randn(current.shape, generator=self._noise).to(current)
        grain = grain * (self.network.step_std / self.network.std)
        for k, grains in enumerate((grain, grain.flip(0))):
            errors = self._shares(current) * change[self._order(current)] + self._shares(current) * grains
            frames[k] = frames[k] + drifted + errors
        frames[0] = frames[0] + jump
        return frames

    def _shares(self, like: Tensor) -> Tensor:
        uniform = torch.rand((len(like), 1, 1, 1), generator=self._noise)
        return self.recipe.noise * (2 * uniform - 1).to(like)

    def _order(self, like: Tensor) -> Tensor:
        return torch.randperm(len(like), generator=self._noise).to(like.device)

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        previous, current, *targets = (f.contiguous(memory_format=torch.channels_last) for f in batch.unbind(1))
        scale = self.average.std / self.average.step_std
        for lead, target in enumerate(targets, 1):
            following = self.advance(self.average, previous, current, self.average.increment)
            previous, current = current, following
            error = following - target
            if lead == 1:
                self.log("validation_loss", ((error * scale).square() * self.loss_weights).mean())
        for name in ("z500", "t850"):
            i = index(name)
            squared = (error[:, i].square() * self.area).mean() * self.average.std[i].item() ** 2
            self.log(f"{name}_{6 * len(targets)}h_mse", squared)

    def train_dataloader(self) -> DataLoader[Tensor]:
        epoch = self.trainer.current_epoch
        windows = Windows(self.years[0], 2 + self.recipe.steps_at(epoch))
        # A fixed list, not a shuffling sampler, because Lightning asks for the order more often in a resumed run.
        order = np.random.default_rng([self.recipe.seed, epoch]).permutation(len(windows)).tolist()
        return DataLoader(windows, self.recipe.batch, sampler=order, drop_last=True)

    def val_dataloader(self) -> DataLoader[Tensor]:
        frames = 2 + VALIDATION_STEPS
        available = sum(len(year.times) - frames + 1 for year in self.years[1])
        windows = Windows(self.years[1], frames, stride=max(available // VALIDATION_STARTS, 1))
        return DataLoader(windows, self.recipe.batch)
