"""What a file keeps of a network's weights: eight bits each, and a step for each row of a matrix.

A row is what makes one output channel. The graph computes in single precision: a weight is its whole number times the
step of its row, exactly, so that torch can be given the very weights that the file has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["round_weights", "store_rounded"]

LARGEST = 127
STEP_BITS = 11
"""Significant bits of a step: so few that its products with whole numbers are exact."""
MATRIX = 1024
"""Fewer weights than these are kept in half precision."""
LEAST = 64
"""Tensors of fewer numbers stay as they are."""


def round_weights(network: nn.Module) -> None:
    """Round a network in place to what `store_rounded` keeps: weights, and the model's systematic error by channel."""
    for weights in network.parameters():
        weights.data = _rounded(weights.data)
    for name, buffer in network.named_buffers():
        if name.split(".")[-1] == "bias":
            buffer.copy_(_rounded(buffer.transpose(0, 1)).transpose(0, 1))


def _rounded(weights: Tensor) -> Tensor:
    if weights.dim() < 2 or weights.numel() < MATRIX:
        return weights.half().float()
    mantissa, exponent = torch.frexp(weights.flatten(1).abs().amax(1) / LARGEST)
    step = torch.ldexp((mantissa * 2**STEP_BITS).ceil() / 2**STEP_BITS, exponent)
    step = step.view(-1, *[1] * (weights.dim() - 1))
    return torch.where(step > 0, (weights / step).round() * step, 0.0)


def store_rounded(path: Path) -> None:
    """Keep a graph's tensors in as few bits as lose nothing; the graph makes single precision of them when loaded."""
    model = onnx.load(str(path))
    made: list[onnx.NodeProto] = []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.size < LEAST or (parts := _whole_numbers(values) or _halves(values)) is None:
            continue
        name = tensor.name
        model.graph.initializer.remove(tensor)
        kept = [onnx.numpy_helper.from_array(part, f"{name}.{k}") for k, part in enumerate(parts)]
        model.graph.initializer.extend(kept)
        to = name if len(kept) == 1 else f"{name}.whole"
        made.append(onnx.helper.make_node("Cast", [kept[0].name], [to], to=onnx.TensorProto.FLOAT))
        if len(kept) == 2:
            made.append(onnx.helper.make_node("Mul", [to, kept[1].name], [name]))
    nodes = [*made, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _whole_numbers(values: NDArray[np.float32]) -> tuple[NDArray, ...] | None:
    """Whole numbers, and steps along the axis on which rows lie in the graph; None where the values are not that."""
    if values.size < MATRIX:
        return None
    for axis in range(values.ndim):
        others = tuple(k for k in range(values.ndim) if k != axis)
        step = np.abs(values).max(others, keepdims=True) / np.float32(LARGEST)
        whole = np.rint(values / np.where(step > 0, step, 1))
        if np.array_equal(whole * step, values):
            return whole.astype(np.int8), step
    return None


def _halves(values: NDArray[np.float32]) -> tuple[NDArray, ...] | None:
    with np.errstate(over="ignore"):  # what is too large is kept as it is
        halves = values.astype(np.float16)
    return (halves,) if np.array_equal(halves.astype(np.float32), values) else None
