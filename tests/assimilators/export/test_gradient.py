"""The export of a forecast model's gradient: what is refused, and that nothing is written then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import onnx  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from dacycle.assimilators.exceptions import ExportError  # noqa: E402
from dacycle.assimilators.export import gradient  # noqa: E402
from dacycle.assimilators.export.operations import OPERATIONS  # noqa: E402
from dacycle.forecast_adapter.models.gradient import gradient_path, load_gradient  # noqa: E402
from dacycle.forecast_adapter.models.model import load_model  # noqa: E402
from tests.worlds import make_model  # noqa: E402


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "double.onnx")


def replaced(model: Path, monkeypatch: pytest.MonkeyPatch, operation: Callable[..., Any]) -> str:
    """Let one of the graph's operations be done by `operation(its own, *inputs)`; return its name."""
    name = next(node.op_type for node in onnx.load(str(model)).graph.node if node.op_type in ("Add", "Mul", "Sub"))
    own = OPERATIONS[name]
    monkeypatch.setitem(OPERATIONS, name, lambda *inputs, **attributes: operation(own, *inputs, **attributes))
    return name


def test_a_graph_that_torch_runs_otherwise_than_the_file_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(model, monkeypatch, lambda own, a, b: 1.01 * own(a, b))
    with pytest.raises(ExportError, match="outputs of the file and of torch differ"):
        gradient.export_gradient(load_model(model))
    assert not gradient_path(model).exists()


def test_a_node_that_fails_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(own: Any, a: Any, b: Any, *, wanted: int) -> Any:
        return own(a, b)

    name = replaced(model, monkeypatch, unknown)
    with pytest.raises(ExportError, match=rf"double\.onnx: the node .* \({name}\): .*wanted"):
        gradient.export_gradient(load_model(model))


@pytest.mark.parametrize("attributes", [{"strides": [2, 2]}, {"pads": [1, 1, 1, 1]}, {"auto_pad": b"SAME_UPPER"}])
def test_a_convolution_that_is_not_followed_is_refused(attributes: dict[str, Any]) -> None:
    x, weight = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)
    assert OPERATIONS["Conv"](x, weight, kernel_shape=[2, 2]).shape == (1, 1, 3, 3)
    with pytest.raises(ExportError, match="convolution"):
        OPERATIONS["Conv"](x, weight, **attributes)


@pytest.mark.parametrize(
    ("name", "inputs", "attributes"),
    [
        ("Abs", [], {}),
        ("Neg", [], {}),
        ("ReduceSum", [[1]], {"keepdims": 0}),
        ("ReduceSum", [[0, 2]], {}),
        ("ReduceSum", [], {}),
        ("ReduceMean", [[-1]], {"keepdims": 1}),
        ("ReduceL2", [[0, 1]], {"keepdims": 0}),
        ("Tile", [[2, 1, 3]], {}),
    ],
)
def test_operations_are_those_of_onnx(name: str, inputs: list[list[int]], attributes: dict[str, Any]) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)
    integers = [np.array(values, np.int64) for values in inputs]
    node = onnx.helper.make_node(name, ["x", *(f"i{k}" for k in range(len(integers)))], ["y"], **attributes)
    types = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)]
    types += [
        onnx.helper.make_tensor_value_info(f"i{k}", onnx.TensorProto.INT64, i.shape) for k, i in enumerate(integers)
    ]
    graph = onnx.helper.make_graph([node], "one", types, [onnx.ValueInfoProto(name="y")])
    opsets = [onnx.helper.make_opsetid("", 18)]
    expected = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets)).run(
        None, {"x": x, **{f"i{k}": i for k, i in enumerate(integers)}}
    )[0]
    found = OPERATIONS[name](torch.from_numpy(x), *integers, **attributes)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["mini", "mini-2"])
def test_the_operations_of_packaged_models_can_be_differentiated(name: str) -> None:
    assert {node.op_type for node in onnx.load(str(load_model(name).path)).graph.node} <= OPERATIONS.keys()


def test_weights_in_half_precision_are_cast_and_nothing_else_is() -> None:
    halves = np.array([0.5, -3.0], np.float16)
    assert torch.equal(OPERATIONS["Cast"](halves, to=onnx.TensorProto.FLOAT), torch.tensor([0.5, -3.0]))
    with pytest.raises(ExportError, match="single precision"):
        OPERATIONS["Cast"](halves, to=onnx.TensorProto.INT64)


def test_a_reduction_over_no_axis_is_refused() -> None:
    with pytest.raises(ExportError, match="over no axis"):
        OPERATIONS["ReduceSum"](torch.zeros(2, 2), noop_with_empty_axes=1)


def test_the_file_says_how_well_it_fits(model: Path) -> None:
    gradient.export_gradient(load_model(model))
    checks = load_gradient(load_model(model)).metadata["checks"]
    assert len(checks) == 3
    assert all(value <= gradient.TOLERANCE for value in checks.values())
