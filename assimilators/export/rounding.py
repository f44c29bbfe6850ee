"""Rounding of a network's weights, so that its file is small, and torch can be given exactly the weights of the file.

An assimilator's file holds eight bits for each weight, and a step for each row of a matrix. A row makes one output
channel. A weight is a whole number times the step of its row, exactly in single precision, in which the graph computes.
A forecast model, whose steps follow one another, has half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["round_to_halves", "round_weights", "store_fields_in_halves", "store_rounded"]

LARGEST = 127
STEP_BITS = 11
"""Significant bits of a step: few enough that its products with whole numbers are exact."""
MATRIX = 1024
"""Matrices of fewer weights are stored in half precision."""
LEAST = 64
"""Tensors of fewer numbers are not rounded."""
FIELDS = 2**19
"""Constants of as many numbers are fields, such as a climate, not weights."""


def round_weights(network: nn.Module) -> None:
    """Round a network in place so that `store_rounded` loses nothing: its weights and the model's systematic error."""
    for weights in network.parameters():
        weights.data = _rounded(weights.data)
    for name, buffer in network.named_buffers():
        if name.split(".")[-1] == "bias":
            buffer.copy_(_rounded(buffer.transpose(0, 1)).transpose(0, 1))


def round_to_halves(network: nn.Module) -> None:
    """Round a network in place so that `store_rounded` needs half of the bytes: its weights and its climate."""
    climate = (buffer for name, buffer in network.named_buffers() if name.split(".")[-1] == "climate")
    with torch.no_grad():
        for values in (*network.parameters(), *climate):
            values.copy_(values.half())


def _rounded(weights: Tensor) -> Tensor:
    if weights.dim() < 2 or weights.numel() < MATRIX:
        return weights.half().float()
    mantissa, exponent = torch.frexp(weights.flatten(1).abs().amax(1) / LARGEST)
    step = torch.ldexp((mantissa * 2**STEP_BITS).ceil() / 2**STEP_BITS, exponent)
    step = step.view(-1, *[1] * (weights.dim() - 1))
    return torch.where(step > 0, (weights / step).round() * step, 0.0)


def store_rounded(path: Path) -> None:
    """Store a graph's tensors in as few bits as lose nothing; the graph expands them to single precision."""
    _store(path, LEAST, lambda values: _whole_numbers(values) or _halves(values))


def store_fields_in_halves(path: Path) -> None:
    """Store a graph's large constants in half precision, rounded to 11 significant bits, where that has their range."""
    _store(path, FIELDS, lambda values: (halves,) if np.isfinite(halves := _as_halves(values)).all() else None)


def _store(path: Path, least: int, factors_of: Callable[[NDArray[np.float32]], tuple[NDArray, ...] | None]) -> None:
    """Store tensors of at least so many numbers as the factors that a function gives, where it gives any."""
    model = onnx.load(str(path))
    expansions: list[onnx.NodeProto] = []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.size < least or (factors := factors_of(values)) is None:
            continue
        name = tensor.name
        model.graph.initializer.remove(tensor)
        stored = [onnx.numpy_helper.from_array(factor, f"{name}.{k}") for k, factor in enumerate(factors)]
        model.graph.initializer.extend(stored)
        to = name if len(stored) == 1 else f"{name}.whole"
        expansions.append(onnx.helper.make_node("Cast", [stored[0].name], [to], to=onnx.TensorProto.FLOAT))
        if len(stored) == 2:
            expansions.append(onnx.helper.make_node("Mul", [to, stored[1].name], [name]))
    nodes = [*expansions, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _whole_numbers(values: NDArray[np.float32]) -> tuple[NDArray, ...] | None:
    """Return whole numbers, and steps along the axis of the rows; None where the values are no such products."""
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
    """Return the values in half precision; None where that is not exact."""
    halves = _as_halves(values)
    return (halves,) if np.array_equal(halves.astype(np.float32), values) else None


def _as_halves(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return the values in half precision; infinity where they are too large for it."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16)
