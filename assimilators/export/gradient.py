"""The tangent linear and the adjoint of a forecast model as an ONNX graph, made from the model's own ONNX file.

The graph of the file is run in torch, operation by operation, and differentiated there; both derivatives are traced and
exported. So the gradient is that of the file which forecasts, whatever run it came from. It is written only where torch
forecasts as the file does, and the exported derivatives are those of torch and each other's adjoint.
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
from dacycle.assimilators.export.zeros import remove_zeros
from dacycle.common.files import whole
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.channels import CHANNEL_COUNT
from dacycle.forecast_adapter.models.gradient import ModelGradient, gradient_metadata, gradient_path
from dacycle.forecast_adapter.models.model import ForecastModel, OnnxForecastModel
from dacycle.forecast_adapter.models.onnxfile import write_metadata

__all__ = ["export_gradient"]

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference in each check, as a share of the size of what is compared."""


class _Step(torch.nn.Module):
    """One step of a model's graph, (1, 138, H, W) to (1, 69, H, W); its weights are buffers."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._graph = path, onnx.load(str(path)).graph
        unknown = sorted({node.op_type for node in self._graph.node} - OPERATIONS.keys())
        if unknown:
            raise ExportError(f"{path}: its graph has operations that cannot be differentiated here: {unknown}")
        self._weights = {w.name: _constant(numpy_helper.to_array(w)) for w in self._graph.initializer}

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Any] = {**self._weights, self._graph.input[0].name: x, "": None}
        for node in self._graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            inputs = [values[name] for name in node.input]
            with reading(f"{self._path}: the node {node.name or node.output[0]} ({node.op_type})", ExportError):
                values[node.output[0]] = OPERATIONS[node.op_type](*inputs, **attributes)
        # The part of the output that is not for use is NaN, and must not come into the gradient.
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


def export_gradient(model: ForecastModel, out: Path | None = None) -> Path:
    """Write the tangent linear and adjoint of a model beside its file, or to `out`; return the path.

    Raises:
        ExportError: the model's units are not SI, its graph has an operation that is not known here, or a check fails.
    """
    if not isinstance(model, OnnxForecastModel) or not model.metadata:
        raise ExportError(f"{model.name}: only models with dacycle's metadata, in SI units, get a gradient")
    path = out or gradient_path(model.path)
    step = _Step(model.path)

    def both(x: Tensor, direction: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        tangent: Tensor = jvp(step, (x,), (direction,))[1]
        gradient: Tensor = vjp(step, x)[1](cotangent)[0]
        return tangent, gradient

    rows = model.grid.shape
    examples = tuple(torch.rand(1, n * CHANNEL_COUNT, *rows) for n in (2, 2, 1))
    backward = {torch.ops.aten.convolution_backward.default: convolution_backward}
    with torch.no_grad():
        traced = make_fx(both, backward)(*examples)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        write_graph(traced, examples, temporary, ["input", "direction", "cotangent"], ["tangent", "gradient"])
        remove_zeros(temporary)
        about = gradient_metadata(model.name, model.digest, model.grid.name, model.world)
        write_metadata(temporary, about)
        differences = _differences(model, step, ModelGradient(temporary, model))
        for what, difference in differences.items():
            logger.info("%s: %s differ by %.1e of their size", path, what, difference)
            if not difference <= TOLERANCE:  # NaN, too
                raise ExportError(f"{model.name}: {what} differ by {difference:.1e} of their size")
        write_metadata(temporary, {**about, "checks": {what: float(f"{x:.2g}") for what, x in differences.items()}})
    return path


def _differences(model: OnnxForecastModel, step: _Step, gradient: ModelGradient) -> dict[str, float]:
    """Return by how much what should be equal differs, of noise about noise, as a share of its size."""
    generator = np.random.default_rng(0)

    def noise() -> NDArray[np.float32]:
        return generator.standard_normal((CHANNEL_COUNT, *model.grid.shape)).astype(np.float32)

    frames, changes, y = (noise(), noise()), (noise(), noise()), noise()
    x, dx = (torch.from_numpy(np.concatenate(pair)[None]) for pair in (frames, changes))
    with torch.no_grad():
        following, derivative = (found[0].numpy().astype(np.float64) for found in jvp(step, (x,), (dx,)))
    forecast = next(iter(model.forecast(frames[0][None], frames[1][None], 1)))[0]
    tangent = gradient.tangent(*frames, *changes)
    back = gradient.adjoint(*frames, y)
    along = sum(np.vdot(a.astype(np.float64), b) for a, b in zip(back, changes, strict=True))
    sizes = np.linalg.norm(y) * np.linalg.norm(derivative)
    return {
        "forecasts of the file and of torch": _relative(forecast, following),
        "tangent linear forecasts of the graph and of torch": _relative(tangent, derivative),
        "dot products of tangent linear and adjoint": float(abs(np.vdot(y, derivative) - along) / sizes),
    }


def _relative(found: NDArray, expected: NDArray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
