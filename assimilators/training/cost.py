"""Cost of a training: estimated from the network without running it, and measured on a GPU where there is one.

The estimate computes the loss and its gradients once with tensors that have shapes but no values. It counts the
operations and the memory kept for the gradients, for any grid, in seconds. The measurement makes some updates with
random numbers.
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
from dacycle.assimilators.training.assimilator_run import build_network
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.forecast_adapter.channels import NAMES, PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["EstimatedCost", "MeasuredCost", "estimate_cost", "loss_of", "measure_cost", "placeholders"]

STATES_A_YEAR = 1461
PER_WEIGHT = 5 * 4
"""Bytes: the weight, its gradient, two moments of AdamW, the running average."""
PEAK = 1.35
"""Peak memory over the memory kept for the gradients: an allowance for temporary tensors."""


@dataclass(frozen=True)
class EstimatedCost:
    """Hold the estimated cost of a recipe.

    Attributes:
        weights: their number.
        weights_gb: memory of the weights, of their gradients, moments and averages, and of constants, in every process.
        sample_gb: memory that one sample keeps for its gradients.
        teraflops: operations (10^12) of one sample, forward and backward.
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
        """Return the memory of a process that trains with `batch` samples at once, without its data."""
        return self.weights_gb + PEAK * batch * self.sample_gb

    def hours(self, processors: int, sustained: float) -> float:
        """Return the hours on processors that each sustain so many 10^12 operations a second."""
        return self.samples * self.teraflops / (processors * sustained) / 3600


@dataclass(frozen=True)
class MeasuredCost:
    """Hold the cost of updates on a GPU, in the recipe's precision and without `torch.compile`.

    Attributes:
        device: its name.
        memory_gb: largest memory allocated at once.
        seconds: of one sample, forward and backward, with its share of the update.
    """

    device: str
    memory_gb: float
    seconds: float

    def hours(self, samples: int, processors: int) -> float:
        """Return the hours of so many samples on so many of these GPUs."""
        return samples * self.seconds / processors / 3600


def estimate_cost(recipe: AssimilatorRecipe, grid: Grid) -> EstimatedCost:
    """Estimate the cost of a recipe on a grid; neither its world nor its data are needed.

    Raises:
        RecipeError: as `build_network`.
    """
    network = build_network(recipe, grid, placeholders(grid))
    weights = sum(weight.numel() for weight in network.parameters())
    (bytes_of_1, operations_of_1), (bytes_of_2, operations_of_2) = (
        _count(recipe, network, grid, batch) for batch in (1, 2)
    )
    state = 4 * len(NAMES) * int(np.prod(grid.shape)) / 1e9
    states = STATES_A_YEAR * len(recipe.training_years)
    return EstimatedCost(
        weights=weights,
        weights_gb=(PER_WEIGHT * weights + 2 * bytes_of_1 - bytes_of_2) / 1e9,
        sample_gb=(bytes_of_2 - bytes_of_1) / 1e9,
        teraflops=(operations_of_2 - operations_of_1) / 1e12,
        samples=recipe.samples,
        states_gb=states * state,
        backgrounds_gb=states * len(LEADS) * state / 2,
    )


def measure_cost(recipe: AssimilatorRecipe, grid: Grid, updates: int = 8) -> MeasuredCost | None:
    """Train on random numbers for a few updates; the first ones are not timed. Returns None where there is no GPU."""
    if not torch.cuda.is_available():
        return None
    network = build_network(recipe, grid, placeholders(grid)).cuda()
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
    return MeasuredCost(torch.cuda.get_device_name(), torch.cuda.max_memory_allocated() / 1e9, seconds)


def _count(recipe: AssimilatorRecipe, network: Any, grid: Grid, batch: int) -> tuple[int, int]:
    """Return the bytes that a batch keeps for its gradients, and its operations, forward and backward."""
    sizes: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"),
            torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor),
        ):
            loss = loss_of(recipe, network, grid, batch)
        loss.backward()
    return sum(sizes.values()), counter.get_total_flops()


def loss_of(recipe: AssimilatorRecipe, network: Any, grid: Grid, batch: int, device: str = "cpu") -> Tensor:
    """Return the loss of a batch of random numbers, observed everywhere."""

    def drawn(channels: int) -> Tensor:
        return torch.rand(batch, channels, *grid.shape, device=device)

    state, target = drawn(len(NAMES)), drawn(len(NAMES))
    values, errors = (drawn(len(NAMES) + len(PLANES)) for _ in range(2))
    weights, loss = torch.ones(len(NAMES), *grid.shape, device=device), METHODS[recipe.method].loss
    if loss is not None:
        return (loss(*network.estimate_one_way(state, values, errors), target) * weights).mean()
    observed = (values, errors) if network.observes else ()
    prior_loss: Tensor = network.prior_loss(state, target, weights, torch.Generator(), *observed)
    return prior_loss


def placeholders(grid: Grid) -> Constants:
    """Return constants without a world: unit statistics, no geography, season or bias."""
    channels, planes = len(NAMES), len(PLANES)
    ones, plane_ones = np.ones(channels, np.float32), np.ones(planes, np.float32)
    rows = grid.shape[0]
    return Constants(
        mean=0 * ones, std=ones, error=ones, plane_mean=0 * plane_ones, plane_std=plane_ones,
        static=np.zeros((4, *grid.shape), np.float32),
        season=np.zeros((2, 13 * rows + 1), np.float32),
        bias=np.zeros((5, channels, *grid.shape), np.float32),
    )  # fmt: skip
