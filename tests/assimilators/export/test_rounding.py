"""Rounded weights: the size of the file, and equality with the weights in torch."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("onnxscript", reason="the extra `train` is not installed: onnxscript is missing")

import onnx
import torch
from torch import Tensor, nn

from dacycle.assimilators.export.graphs import to_onnx
from dacycle.assimilators.export.rounding import round_weights, store_fields_in_halves, store_rounded
from dacycle.forecast_adapter.models.onnxfile import open_session


class Small(nn.Module):
    """A network with a convolution, a matrix that is transposed in the graph, and a field named as in networks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.matrix = nn.Conv2d(16, 96, 3, padding=1), nn.Linear(96, 64)
        self.register_buffer("bias", torch.randn(5, 64, 8, 16) * torch.logspace(-6, 3, 64)[:, None, None])
        self.register_buffer("static", torch.zeros(1, 8, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.matrix(self.convolution(x).relu().permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.bias.sum(0)


def test_the_file_computes_with_the_rounded_weights_and_is_a_third_as_large(tmp_path: Path) -> None:
    network = Small().eval()
    with torch.no_grad():
        network.matrix.weight[3] = 0  # a row without a step
    round_weights(network)
    plain, small = tmp_path / "plain.onnx", tmp_path / "small.onnx"
    for path in (plain, small):
        to_onnx(network, path, {"x": 16}, ["y"])
    store_rounded(small)
    x = torch.randn(2, 16, 8, 16)
    output, same = (open_session(path).run(None, {"x": x.numpy()})[0] for path in (small, plain))
    np.testing.assert_array_equal(output, same)
    np.testing.assert_allclose(output, network(x).detach().numpy(), rtol=1e-5, atol=1e-4)
    assert 3 * small.stat().st_size < plain.stat().st_size


@pytest.mark.parametrize(
    ("size", "largest", "bytes_each"),
    [(2**19, 1.0, 2), (2**19, 1e5, 4), (2**18, 1.0, 4)],
    ids=["a field", "beyond the range of halves", "no field"],
)
def test_a_field_is_stored_in_halves_where_they_have_its_range(
    tmp_path: Path, size: int, largest: float, bytes_each: int
) -> None:
    values = np.linspace(largest / size, largest, size, dtype=np.float32)
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [size]) for name in "xy")
    add = onnx.helper.make_node("Add", ["x", "field"], ["y"])
    graph = onnx.helper.make_graph([add], "sum", [x], [y], [onnx.numpy_helper.from_array(values, "field")])
    path = tmp_path / "sum.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    store_fields_in_halves(path)
    (output,) = open_session(path).run(None, {"x": np.zeros(size, np.float32)})
    np.testing.assert_allclose(output, values, rtol=2.0**-11 if bytes_each == 2 else 0, atol=1e-7)
    assert path.stat().st_size == pytest.approx(bytes_each * size, abs=1000)


@settings(max_examples=50)
@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 1000))
def test_a_weight_moves_by_half_a_step_of_its_row_at_most(scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(32, 64)
    layer.weight.data = scale * torch.randn(64, 32) * torch.logspace(-3, 3, 64)[:, None]
    before = layer.weight.detach().clone()
    round_weights(layer)
    step = before.abs().amax(1, keepdim=True) / 127
    assert ((layer.weight - before).abs() <= 0.501 * step).all()
    assert all(len(row.unique()) <= 255 for row in layer.weight)
    again = layer.weight.detach().clone()
    round_weights(layer)
    assert torch.equal(layer.weight, again)
