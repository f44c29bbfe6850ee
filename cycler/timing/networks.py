"""How fast a recipe's network is in ONNX Runtime, against the same network in torch, on the same cores."""

import tempfile
import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from dacycle.assimilators.export.assimilator import example_inputs, write_graph
from dacycle.assimilators.training.assimilator_run import build_network
from dacycle.assimilators.training.cost import placeholders
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.cycler.timing.cycles import machine
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.onnxfile import open_session

__all__ = ["NetworkBench", "bench_network"]

RUNS = 5


@dataclass(frozen=True)
class NetworkBench:
    """What was measured, with fresh weights and one background.

    Attributes:
        machine: processor and cores.
        threads: of both.
        weights: how many.
        torch, onnx: seconds of a call, medians of `RUNS` after a first; of an iterative method a call is a step.
        apart: largest difference of the analyses, in standard deviations.
        foreign: operations in the file that are not of ONNX itself.
    """

    machine: str
    threads: int
    weights: int
    torch: float
    onnx: float
    apart: float
    foreign: list[str]


def bench_network(recipe: AssimilatorRecipe, grid: Grid, threads: int = 1) -> NetworkBench:
    """Export a recipe's network for a grid and time both. Neither world nor data need to be there."""
    torch.set_num_threads(threads)
    generator = torch.manual_seed(recipe.seed)
    network = build_network(recipe, grid, placeholders(grid)).eval()
    for weight in network.parameters():  # some begin at 0, and the increment with them
        weight.data += 0.01 * torch.randn(weight.shape, generator=generator)
    given = example_inputs(network)
    given[0] = torch.randn(given[0].shape, generator=generator)
    seen = torch.rand(given[1].shape, generator=generator) < 0.05
    given[1] = torch.where(seen, torch.randn(seen.shape, generator=generator), 0.0)
    given[2] = torch.where(seen, 0.1, 0.0)

    def in_torch() -> NDArray[np.float32]:
        with torch.no_grad():
            found: torch.Tensor = network(*given)[0]
        return found.numpy()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_graph(network, path)
        domains = {f"{node.domain}.{node.op_type}" for node in onnx.load(str(path)).graph.node if node.domain}
        session = open_session(path, threads)
        names = [each.name for each in session.get_inputs()]
        inputs = dict(zip(names, (each.numpy() for each in given), strict=True))

        def in_runtime() -> NDArray[np.float32]:
            return np.asarray(session.run(None, inputs)[0])

        apart = float(np.abs(in_torch() - in_runtime()).max())
        in_eager, in_file = _median(in_torch), _median(in_runtime)
    weights = sum(weight.numel() for weight in network.parameters())
    return NetworkBench(machine(), threads, weights, in_eager, in_file, apart, sorted(domains))


def _median(run: Callable[[], Any]) -> float:
    taken = []
    for _ in range(RUNS):
        began = clock.perf_counter()
        run()
        taken.append(clock.perf_counter() - began)
    return float(np.median(taken))
