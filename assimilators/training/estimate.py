"""What a training will take: worked out from the network itself without running it, and measured where there is a GPU.

The loss and its gradients are gone through once with tensors that have shapes and no values: what is computed and what
is kept for the gradients is counted, for any grid, in seconds and without the memory that it would take. On a GPU some
updates with random numbers say what that comes to.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from dacycle.assimilators.networks import METHODS
from dacycle.assimilators.networks.blocks.base import Constants
from dacycle.assimilators.sampling.backgrounds import LEADS
from dacycle.assimilators.training.assimilator_run import network_of
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.forecast_adapter.channels import NAMES, PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["Estimate", "Measured", "estimate", "loss_of", "measure", "placeholders"]

STATES_A_YEAR = 1461
PER_WEIGHT = 5 * 4
"""Bytes: the weight, its gradient, two moments of AdamW, the running average."""
PASSING = 1.35
"""Peak memory over what is kept for the gradients: an allowance for what comes and goes."""


@dataclass(frozen=True)
class Estimate:
    """What a recipe takes.

    Attributes:
        weights: how many.
        weights_gb: memory of the weights and all that is kept for each, and of constants, in every process.
        sample_gb: memory of what one sample leaves for its gradients.
        teraflops: operations (10^12) of one sample, there and back.
        samples: of the whole training.
        states_gb: the training years' states in single precision.
        backgrounds_gb: the errors of their forecasts, on disk.
    """

    weights: int
    weights_gb: float
    sample_gb: float
    teraflops: float
    samples: int
    states_gb: float
    backgrounds_gb: float

    def memory_gb(self, batch: int) -> float:
        """Of a process that trains with so many samples at once, its data aside."""
        return self.weights_gb + PASSING * batch * self.sample_gb

    def hours(self, processors: int, sustained: float) -> float:
        """With processors that each sustain so many 10^12 operations a second."""
        return self.samples * self.teraflops / (processors * sustained) / 3600


@dataclass(frozen=True)
class Measured:
    """What updates took on a GPU, in the recipe's precision and without `torch.compile`.

    Attributes:
        device: its name.
        memory_gb: the most that was allocated at once.
        seconds: of one sample, there and back and with its share of the update.
    """

    device: str
    memory_gb: float
    seconds: float

    def hours(self, samples: int, processors: int) -> float:
        """With so many of these."""
        return samples * self.seconds / processors / 3600


def estimate(recipe: AssimilatorRecipe, grid: Grid) -> Estimate:
    """Work out what a recipe takes on a grid; neither its world nor its data need to be there.

    Raises:
        RecipeError: see `network_of`.
    """
    network = network_of(recipe, grid, placeholders(grid))
    weights = sum(weight.numel() for weight in network.parameters())
    (kept, operations), (twice, more) = (_count(recipe, network, grid, batch) for batch in (1, 2))
    state = 4 * len(NAMES) * int(np.prod(grid.shape)) / 1e9
    states = STATES_A_YEAR * len(recipe.training_years)
    return Estimate(
        weights=weights,
        weights_gb=(PER_WEIGHT * weights + 2 * kept - twice) / 1e9,
        sample_gb=(twice - kept) / 1e9,
        teraflops=(more - operations) / 1e12,
        samples=(recipe.epochs + recipe.rounds * recipe.round_epochs) * recipe.epoch_samples,
        states_gb=states * state,
        backgrounds_gb=states * len(LEADS) * state / 2,
    )


def measure(recipe: AssimilatorRecipe, grid: Grid, updates: int = 8) -> Measured | None:
    """Train on random numbers for a few updates; the first ones are not timed. None where there is no GPU."""
    if not torch.cuda.is_available():
        return None
    network = network_of(recipe, grid, placeholders(grid)).cuda()
    average = copy.deepcopy(network)  # as a training keeps it
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate, fused=True)
    torch.cuda.reset_peak_memory_stats()
    ends = []
    for _ in range(updates):
        with torch.autocast("cuda", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = loss_of(recipe, network, grid, recipe.batch, "cuda")
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        torch.cuda.synchronize()
        ends.append(time.perf_counter())
    del average
    seconds = float(np.median(np.diff(ends)[1:])) / recipe.batch
    return Measured(torch.cuda.get_device_name(), torch.cuda.max_memory_allocated() / 1e9, seconds)


def _count(recipe: AssimilatorRecipe, network: Any, grid: Grid, batch: int) -> tuple[int, int]:
    """Bytes that a batch leaves for its gradients, and its operations, there and back."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            loss = loss_of(recipe, network, grid, batch)
        loss.backward()
    return sum(kept.values()), counter.get_total_flops()


def loss_of(recipe: AssimilatorRecipe, network: Any, grid: Grid, batch: int, device: str = "cpu") -> Tensor:
    """The loss of a batch of random numbers, observed everywhere."""

    def drawn(channels: int) -> Tensor:
        return torch.rand(batch, channels, *grid.shape, device=device)

    state, target = drawn(len(NAMES)), drawn(len(NAMES))
    values, errors = (drawn(len(NAMES) + len(PLANES)) for _ in range(2))
    weights, loss = torch.ones(len(NAMES), *grid.shape, device=device), METHODS[recipe.method].loss
    if loss is not None:
        return (loss(*network.estimate_one_way(state, values, errors), target) * weights).mean()
    observed = (values, errors) if network.observes else ()
    found: Tensor = network.prior_loss(state, target, weights, torch.Generator(), *observed)
    return found


def placeholders(grid: Grid) -> Constants:
    """Constants of a world that is not there."""
    channels, planes = len(NAMES), len(PLANES)
    ones, plane_ones = np.ones(channels, np.float32), np.ones(planes, np.float32)
    rows = grid.shape[0]
    return Constants(
        mean=0 * ones, std=ones, error=ones, plane_mean=0 * plane_ones, plane_std=plane_ones,
        static=np.zeros((4, *grid.shape), np.float32),
        season=np.zeros((2, 13 * rows + 1), np.float32),
        bias=np.zeros((5, channels, *grid.shape), np.float32),
    )  # fmt: skip
