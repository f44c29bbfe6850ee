"""Make `roll.onnx`, which turns a network's output into its next input without leaving the device.

    following = concatenate(pair[:, 69:], output[:, :69])        state = offset + scale * output[:, :69]

A network's other 69 output channels are never read. This script needs the package `onnx`; run it as
`python -m dacycle.forecast_adapter.models.graphs.make_roll`.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dacycle.forecast_adapter.channels import CHANNEL_COUNT


def roll() -> onnx.ModelProto:
    """Return the graph, for any batch and grid."""
    bounds = {
        "zero": [0],
        "half": [CHANNEL_COUNT],
        "end": [2 * CHANNEL_COUNT],
        "channels": [1],
        "across": [1, CHANNEL_COUNT, 1, 1],
    }
    nodes = [
        helper.make_node("Slice", ["pair", "half", "end", "channels"], ["current"]),
        helper.make_node("Slice", ["output", "zero", "half", "channels"], ["next"]),
        helper.make_node("Concat", ["current", "next"], ["following"], axis=1),
        helper.make_node("Reshape", ["scale", "across"], ["scales"]),
        helper.make_node("Reshape", ["offset", "across"], ["offsets"]),
        helper.make_node("Mul", ["next", "scales"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offsets"], ["state"]),
    ]

    def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    pair = ("batch", 2 * CHANNEL_COUNT, "rows", "columns")
    graph = helper.make_graph(
        nodes,
        "roll",
        [
            tensor("pair", *pair),
            tensor("output", *pair),
            tensor("scale", CHANNEL_COUNT),
            tensor("offset", CHANNEL_COUNT),
        ],
        [tensor("following", *pair), tensor("state", "batch", CHANNEL_COUNT, "rows", "columns")],
        [numpy_helper.from_array(np.array(value), name) for name, value in bounds.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


if __name__ == "__main__":
    onnx.save(roll(), Path(__file__).with_name("roll.onnx"))
