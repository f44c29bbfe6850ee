"""Measure a recipe's network in ONNX Runtime and in torch, on the same cores."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from dacycle.assimilators.export.assimilator import example_inputs, write_graph
from dacycle.assimilators.training.assimilator_run import build_network
from dacycle.assimilators.training.cost import placeholders
from dacycle.assimilators.training.recipe import AssimilatorRecipe
from dacycle.cycler.timing.measure import machine, median_seconds
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.onnxfile import open_session

__all__ = ["NetworkBench", "bench_network"]

RUNS = 5


@dataclass(frozen=True)
class NetworkBench:
    """Hold what was measured, with fresh weights and one background.

    Attributes:
        machine: processor and cores.
        threads: of both runs.
        weights: number of weights.
        torch, onnx: seconds per call (of an iterative method: per step), median of `RUNS` calls after a first one.
        apart: largest difference of the two analyses, in standard deviations.
        foreign: operations in the file that ONNX itself does not define.
    """

    machine: str
    threads: int
    weights: int
    torch: float
    onnx: float
    apart: float
    foreign: list[str]


def bench_network(recipe: AssimilatorRecipe, grid: Grid, threads: int = 1) -> NetworkBench:
    """Export a recipe's network for a grid, and time it in torch and in ONNX Runtime; no world or data is needed."""
    torch.set_num_threads(threads)
    generator = torch.manual_seed(recipe.seed)
    network = build_network(recipe, grid, placeholders(grid)).eval()
    for weight in network.parameters():  # some start at 0, which would make the increment 0
        weight.data += 0.01 * torch.randn(weight.shape, generator=generator)
    tensors = example_inputs(network)
    tensors[0] = torch.randn(tensors[0].shape, generator=generator)
    observed = torch.rand(tensors[1].shape, generator=generator) < 0.05
    tensors[1] = torch.where(observed, torch.randn(observed.shape, generator=generator), 0.0)
    tensors[2] = torch.where(observed, 0.1, 0.0)

    def in_torch() -> NDArray[np.float32]:
        with torch.no_grad():
            analysis: torch.Tensor = network(*tensors)[0]
        return analysis.numpy()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_graph(network, path)
        domains = {f"{node.domain}.{node.op_type}" for node in onnx.load(str(path)).graph.node if node.domain}
        session = open_session(path, threads)
        names = [tensor.name for tensor in session.get_inputs()]
        inputs = dict(zip(names, (tensor.numpy() for tensor in tensors), strict=True))

        def in_runtime() -> NDArray[np.float32]:
            return np.asarray(session.run(None, inputs)[0])

        apart = float(np.abs(in_torch() - in_runtime()).max())
        torch_seconds, onnx_seconds = (median_seconds(call, RUNS) for call in (in_torch, in_runtime))
    weights = sum(weight.numel() for weight in network.parameters())
    return NetworkBench(machine(), threads, weights, torch_seconds, onnx_seconds, apart, sorted(domains))
