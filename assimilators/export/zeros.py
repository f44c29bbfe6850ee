"""Removal of what is zero from an exported graph.

Forward differentiation of a product takes both factors as variable. Where one is a constant of the network, its
derivative is a tensor of zeros, and so is everything computed from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import numpy_helper

__all__ = ["remove_zeros"]

_PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Mul"}
_REARRANGEMENTS = {"Concat", "Expand", "Neg", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}


def remove_zeros(path: Path) -> None:
    """Rewrite a graph without products of zeros, sums with them, and what nothing needs any more."""
    model = onnx.load(str(path))
    graph = model.graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.value_info, *graph.output]}
    shapes |= {w.name: list(w.dims) for w in graph.initializer} | {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input
    }
    zeros = {
        w.name
        for w in graph.initializer
        if w.data_type == onnx.TensorProto.FLOAT and not numpy_helper.to_array(w).any()
    }
    instead: dict[str, str] = {}
    outputs = {v.name for v in graph.output}
    for node in graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = instead.get(name, name)
        is_zero = [name in zeros for name in node.input]
        (result,) = node.output[:1]
        if node.op_type == "Add" and any(is_zero):
            other = node.input[1 if is_zero[0] else 0]
            if all(is_zero):
                zeros.add(result)
            elif result not in outputs and shapes.get(other) == shapes.get(result) is not None:
                instead[result] = other
        elif _is_zero(node.op_type, is_zero):
            zeros.add(result)
    _remove_unneeded(graph, outputs)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _is_zero(operation: str, is_zero: Sequence[bool]) -> bool:
    if operation in _PRODUCTS:
        return any(is_zero[:2]) and all(is_zero[2:])
    if operation == "Concat":
        return all(is_zero)
    return operation in _REARRANGEMENTS and is_zero[0]


def _remove_unneeded(graph: onnx.GraphProto, outputs: set[str]) -> None:
    """Remove nodes and constants that no output needs."""
    needed = set(outputs)
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.insert(0, node)
    weights = [w for w in graph.initializer if w.name in needed]
    infos = [v for v in graph.value_info if v.name in needed]
    for field, kept in ((graph.node, nodes), (graph.initializer, weights), (graph.value_info, infos)):
        del field[:]
        field.extend(kept)
