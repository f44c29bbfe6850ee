"""A double of a learned observation operator, which computes OLR and precipitation exactly as the tiny world does."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.models.onnxfile import write_metadata
from dacycle.obs_ingest.operators.learned import operator_metadata
from tests.worlds import GRID, profile

ERRORS = {"tp6h": 0.2, "olr": 5.0}
STD = {"tp6h": 1.2, "olr": 15.0}


def make_operator(path: Path, world: str = "tiny", olr: float = 240.0) -> Path:
    """Write the file: tp = 2 max(q700 anomaly, 0), OLR = `olr` - 15 q500 anomaly (see `tests.worlds`), constant errors.

    The older frame has no influence, but is a required input.
    """
    mean, std = profile()
    moist = [NAMES.index("q700"), NAMES.index("q500")]
    values = {
        "moist": np.array(moist),
        "mean": mean[moist],
        "std": std[moist],
        "factor": np.array([2.0, -15.0]),
        "offset": np.array([0.0, olr]),
        "floor": np.array([0.0, -np.inf]),
        "error": np.array(list(ERRORS.values())),
        "zero": np.array([0.0, 0.0]),
    }
    constants = {
        name: value if name == "moist" else value.astype(np.float32)[:, None, None] for name, value in values.items()
    }
    nodes = [
        helper.make_node("Gather", ["current", "moist"], ["humid"], axis=1),
        helper.make_node("Gather", ["previous", "moist"], ["before"], axis=1),
        helper.make_node("Sub", ["humid", "mean"], ["departure"]),
        helper.make_node("Div", ["departure", "std"], ["anomaly"]),
        helper.make_node("Mul", ["anomaly", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["shifted"]),
        helper.make_node("Max", ["shifted", "floor"], ["equivalents"]),
        helper.make_node("Mul", ["before", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "error"], ["errors"]),
    ]

    def tensors(names: tuple[str, ...], channels: int) -> list[onnx.ValueInfoProto]:
        shape = ["batch", channels, *GRID.shape]
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]

    graph = helper.make_graph(
        nodes,
        "operator",
        tensors(("previous", "current"), len(NAMES)),
        tensors(("equivalents", "errors"), 2),
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    write_metadata(path, operator_metadata("double", "1", GRID.name, world, STD))
    return path
