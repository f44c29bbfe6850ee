"""What a network's tensors must be to be run as a forecast model."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.models.contract import read_signature
from dacycle.forecast_adapter.models.onnxfile import ModelFileError, open_session


def signature(folder: Path, shape, name="input", kind=TensorProto.FLOAT):
    """Return what is read of a network that gives back its only input."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", [name], ["output"])]
    graph = helper.make_graph(nodes, "same", [value(name, kind, shape)], [value("output", kind, shape)])
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return read_signature(path, open_session(path, 1))


def test_sizes_that_are_fixed_and_sizes_that_are_not(tmp_path):
    free = signature(tmp_path, ["batch", 138, "rows", "columns"])
    assert (free.batch, free.shape) == (None, (None, None))
    fixed = signature(tmp_path, [1, 138, 32, 64])
    assert (fixed.batch, fixed.shape) == (1, (32, 64))
    assert free.fits(get_grid("1.5deg"))
    assert fixed.fits(get_grid("5.625deg"))
    assert not fixed.fits(get_grid("1.5deg"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"shape": [1, 69, 32, 64]}, "two frames of 69 channels"),
        ({"shape": [1, 138, 2048]}, r"must be \(batch, 138, rows, columns\)"),
        ({"shape": [4, 138, 32, 64]}, "a fixed batch of 4"),
        ({"shape": [1, 138, 32, 64], "name": "x"}, "one tensor called `input`, not x"),
        ({"shape": [1, 138, 32, 64], "kind": TensorProto.DOUBLE}, "must be float32"),
    ],
)
def test_other_tensors_are_refused_by_what_is_wrong(tmp_path, given, words):
    with pytest.raises(ModelFileError, match=words):
        signature(tmp_path, **given)
