"""The tangent linear and the adjoint of a network of two frames as an ONNX graph, made from the network's own file.

The network is a forecast model or a learned observation operator.

The graph of the file is run in torch, operation by operation, and differentiated there; both derivatives are traced and
exported. So the gradient is that of the file which is used, whatever run it came from. It is written only where torch
computes what the file does, and the exported derivatives are those of torch and each other's adjoint.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor
from torch.func import jvp, vjp
from torch.fx.experimental.proxy_tensor import make_fx

from dacycle.assimilators.exceptions import ExportError
from dacycle.assimilators.export.graphs import convolution_backward, write_graph
from dacycle.assimilators.export.operations import OPERATIONS
from dacycle.assimilators.export.rounding import store_fields_in_halves
from dacycle.assimilators.export.zeros import remove_zeros
from dacycle.common.files import whole
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.channels import CHANNEL_COUNT
from dacycle.forecast_adapter.models.gradient import Gradient, gradient_metadata, gradient_path
from dacycle.forecast_adapter.models.model import ForecastModel, OnnxForecastModel
from dacycle.forecast_adapter.models.onnxfile import write_metadata
from dacycle.obs_ingest.operators.learned import LEARNED, LearnedOperator

__all__ = ["export_gradient"]

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference in each check, as a share of the size of what is compared."""


class _Function(torch.nn.Module):
    """The output that is used of a graph, as a function of its two frames, (1, 138, H, W) to (1, F, H, W)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._graph = path, onnx.load(str(path)).graph
        unknown = sorted({node.op_type for node in self._graph.node} - OPERATIONS.keys())
        if unknown:
            raise ExportError(f"{path}: its graph has operations that cannot be differentiated here: {unknown}")
        self._weights = {w.name: _constant(numpy_helper.to_array(w)) for w in self._graph.initializer}

    def forward(self, x: Tensor) -> Tensor:
        names = [tensor.name for tensor in self._graph.input]
        frames = x.split(x.shape[1] // len(names), dim=1)  # one tensor holds both, or each is one
        values: dict[str, Any] = {**self._weights, **dict(zip(names, frames, strict=True)), "": None}
        for node in self._graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            inputs = [values[name] for name in node.input]
            with reading(f"{self._path}: the node {node.name or node.output[0]} ({node.op_type})", ExportError):
                values[node.output[0]] = OPERATIONS[node.op_type](*inputs, **attributes)
        # The part of a model's output that is not for use is NaN, and must not come into the gradient.
        last = self._graph.node[-1]
        first = values[last.input[0]]
        if last.op_type == "Concat" and first.shape[1] == CHANNEL_COUNT:
            following: Tensor = first
        else:
            following = values[self._graph.output[0].name][:, :CHANNEL_COUNT]
        return following


def _constant(array: NDArray) -> Any:
    """Return an initial value as `operations` take it."""
    if array.ndim == 0:
        return array.item()
    return torch.from_numpy(array.copy()) if array.dtype == np.float32 else array


def export_gradient(network: ForecastModel | LearnedOperator, out: Path | None = None) -> Path:
    """Write the tangent linear and adjoint of a network beside its file, or to `out`; return the path.

    Raises:
        ExportError: a model's units are not SI, the graph has an operation that is not known here, or a check fails.
    """
    if not isinstance(network, LearnedOperator | OnnxForecastModel) or not network.metadata:
        raise ExportError(f"{network.name}: only models with dacycle's metadata, in SI units, get a gradient")
    path = out or gradient_path(network.path)
    function = _Function(network.path)

    def both(x: Tensor, direction: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        tangent: Tensor = jvp(function, (x,), (direction,))[1]
        gradient: Tensor = vjp(function, x)[1](cotangent)[0]
        return tangent, gradient

    of_output = len(LEARNED) if isinstance(network, LearnedOperator) else CHANNEL_COUNT
    sizes = (2 * CHANNEL_COUNT, 2 * CHANNEL_COUNT, of_output)
    examples = tuple(torch.rand(1, size, *network.grid.shape) for size in sizes)
    backward = {torch.ops.aten.convolution_backward.default: convolution_backward}
    with torch.no_grad():
        traced = make_fx(both, backward)(*examples)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        write_graph(traced, examples, temporary, ["input", "direction", "cotangent"], ["tangent", "gradient"])
        remove_zeros(temporary)
        store_fields_in_halves(temporary)
        about = gradient_metadata(network.name, network.digest, network.grid.name, network.world)
        write_metadata(temporary, about)
        differences = _differences(network, function, Gradient(temporary, network))
        for what, difference in differences.items():
            logger.info("%s: %s differ by %.1e of their size", path, what, difference)
            if not difference <= TOLERANCE:  # NaN, too
                raise ExportError(f"{network.name}: {what} differ by {difference:.1e} of their size")
        write_metadata(temporary, {**about, "checks": {what: float(f"{x:.2g}") for what, x in differences.items()}})
    return path


def _differences(
    network: OnnxForecastModel | LearnedOperator, function: _Function, gradient: Gradient
) -> dict[str, float]:
    """Return by how much what should be equal differs, of noise about noise, as a share of its size."""
    generator = np.random.default_rng(0)

    def noise(channels: int = CHANNEL_COUNT) -> NDArray[np.float32]:
        return generator.standard_normal((channels, *network.grid.shape)).astype(np.float32)

    frames, changes = (noise(), noise()), (noise(), noise())
    x, dx = (torch.from_numpy(np.concatenate(pair)[None]) for pair in (frames, changes))
    with torch.no_grad():
        following, derivative = (found[0].numpy().astype(np.float64) for found in jvp(function, (x,), (dx,)))
    y = noise(len(following))
    tangent = gradient.tangent(*frames, *changes)
    back = gradient.adjoint(*frames, y)
    along = sum(np.vdot(a.astype(np.float64), b) for a, b in zip(back, changes, strict=True))
    sizes = np.linalg.norm(y) * np.linalg.norm(derivative)
    return {
        "outputs of the file and of torch": _relative(_output(network, *frames), following),
        "tangent linear outputs of the graph and of torch": _relative(tangent, derivative),
        "dot products of tangent linear and adjoint": float(abs(np.vdot(y, derivative) - along) / sizes),
    }


def _output(network: OnnxForecastModel | LearnedOperator, older: NDArray, newer: NDArray) -> NDArray:
    """Return what the network's file gives (F, H, W) for two frames (69, H, W)."""
    if isinstance(network, LearnedOperator):
        return np.stack(list(network(older, newer).values.values()))
    return next(iter(network.forecast(older[None], newer[None], 1)))[0]


def _relative(found: NDArray, expected: NDArray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
