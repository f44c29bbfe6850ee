"""The tangent linear and the adjoint of a forecast model as an ONNX graph, made from the model's own ONNX file.

The graph of the file is run in torch, operation by operation, and differentiated there; both derivatives are traced and
exported. So the gradient is that of the file which forecasts, whatever run it came from.
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
from dacycle.forecast_adapter.channels import CHANNEL_COUNT
from dacycle.forecast_adapter.models.gradient import ModelGradient, gradient_metadata, gradient_path
from dacycle.forecast_adapter.models.model import ForecastModel, OnnxForecastModel
from dacycle.forecast_adapter.models.onnxfile import write_metadata

__all__ = ["export_gradient"]

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference between <y, M x> and <M^T y, x>, as a share of |y| |M x|."""


class _Step(torch.nn.Module):
    """One step of a model's graph, (1, 138, H, W) to (1, 69, H, W); its weights are buffers."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._graph = onnx.load(str(path)).graph
        unknown = sorted({node.op_type for node in self._graph.node} - OPERATIONS.keys())
        if unknown:
            raise ExportError(f"{path}: its graph has operations that cannot be differentiated here: {unknown}")
        self._weights = {w.name: _constant(numpy_helper.to_array(w)) for w in self._graph.initializer}

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Any] = {**self._weights, self._graph.input[0].name: x, "": None}
        for node in self._graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            values[node.output[0]] = OPERATIONS[node.op_type](*(values[name] for name in node.input), **attributes)
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
        ExportError: the model's units are not SI, its graph has an operation that is not known here, or the two
            derivatives do not belong to each other.
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
        difference = _difference(ModelGradient(temporary, model), rows)
        if not difference <= TOLERANCE:  # NaN, too
            raise ExportError(f"{model.name}: adjoint and tangent linear differ by {difference:.1e} in a dot product")
        write_metadata(temporary, {**about, "dot_product": float(f"{difference:.2g}")})
    logger.info("%s: adjoint and tangent linear differ by %.1e in a dot product", path, difference)
    return path


def _difference(gradient: ModelGradient, shape: tuple[int, int]) -> float:
    """Return the difference between <y, M x> and <M^T y, x>, as a share of |y| |M x|, of noise about noise."""
    generator = np.random.default_rng(0)

    def noise() -> NDArray[np.float32]:
        return generator.standard_normal((CHANNEL_COUNT, *shape)).astype(np.float32)

    frames, changes, y = (noise(), noise()), (noise(), noise()), noise()
    forward = gradient.tangent(*frames, *changes).astype(np.float64)
    back = gradient.adjoint(*frames, y)
    one = np.vdot(y, forward)
    other = sum(np.vdot(a.astype(np.float64), b) for a, b in zip(back, changes, strict=True))
    return float(abs(one - other) / (np.linalg.norm(y) * np.linalg.norm(forward)))
