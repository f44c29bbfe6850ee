"""A double of FengWu with its contract and its size, at very low cost and without skill.

FengWu's weights are not available everywhere. With this network in their place everything around them can be run,
tested and measured at 0.25 degrees. It moves every normalised field eastward by one degree a step and relaxes it
slightly towards the channel's mean. Its other 69 channels are NaN, so that code which reads them fails.
"""

import tempfile
from pathlib import Path

import numpy as np

from dacycle.forecast_adapter.channels import CHANNEL_COUNT
from dacycle.forecast_adapter.grid import Grid, get_grid
from dacycle.forecast_adapter.models.onnxfile import ModelFileError
from dacycle.forecast_adapter.models.registry import DOUBLE, Registration, add

__all__ = ["KEEP", "add_double", "shift_of", "write_double"]

KEEP = 0.995
"""Fraction of a normalised anomaly that remains after a step."""


def shift_of(grid: Grid) -> int:
    """Return the columns by which a step moves the fields: those of one degree, at least one."""
    return max(1, round(grid.shape[1] / 360))


def add_double(grid: str, world: str) -> Registration:
    """Write the double for a grid and register it as `double-GRID`, for `world`; see `add`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_double(path, get_grid(grid))
        return add(f"double-{grid}", path, world=world, copy=True)


def write_double(path: Path, grid: Grid) -> None:
    """Write the double for a grid as an ONNX file with normalised frames, like FengWu's.

    Raises:
        ModelFileError: the package `onnx` is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ModelFileError(
            'making a double needs the package onnx: `make train`, or `pip install -e ".[train]"`'
        ) from error
    size, shift = CHANNEL_COUNT, shift_of(grid)
    last = np.iinfo(np.int64).max
    constants = {
        "axes": np.array([1, 3]),
        "east_begin": np.array([size, -shift]), "east_end": np.array([2 * size, last]),
        "west_begin": np.array([size, 0]), "west_end": np.array([2 * size, -shift]),
        "keep": np.array(KEEP, np.float32),
        "padding": np.array([0, 0, 0, 0, 0, size, 0, 0]), "nan": np.array(np.nan, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Slice", ["input", "east_begin", "east_end", "axes"], ["east"]),
        helper.make_node("Slice", ["input", "west_begin", "west_end", "axes"], ["west"]),
        helper.make_node("Concat", ["east", "west"], ["moved"], axis=3),
        helper.make_node("Mul", ["moved", "keep"], ["next"]),
        helper.make_node("Pad", ["next", "padding", "nan"], ["output"]),
    ]
    pair: list[str | int | None] = ["batch", 2 * size, *grid.shape]
    graph = helper.make_graph(
        nodes,
        "double",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, pair)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, pair)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {DOUBLE: "stands in for FengWu in tests and measurements; it has no skill"})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
