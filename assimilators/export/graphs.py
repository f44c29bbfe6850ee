"""Networks as plain ONNX graphs: with a free batch, or one step of an iterative method, its gradients included."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from dacycle.assimilators.exceptions import ExportError
from dacycle.assimilators.trained.stepping import Stepping

__all__ = ["convolution_backward", "step_to_onnx", "to_onnx", "write_graph"]

OPSET = 18


def to_onnx(network: Any, path: Path, inputs: dict[str, int], outputs: list[str]) -> None:
    """Write a network as a plain ONNX file.

    Args:
        network: in torch.
        path: the file to write.
        inputs: names and channels of its inputs, (batch, channels, H, W) each with the batch free.
        outputs: names of its outputs.
    """
    network = network.eval()
    shape = network.static.shape[1:]
    batch = torch.export.Dim("batch", min=1, max=1024)
    examples = tuple(torch.zeros(2, channels, *shape) for channels in inputs.values())
    write_graph(network, examples, path, list(inputs), outputs, tuple({0: batch} for _ in inputs))


def step_to_onnx(network: Any, path: Path, inputs: dict[str, int], outputs: list[str]) -> None:
    """Write one step of an iterative network, for one chain, as a plain ONNX file (see `trained.stepping`).

    The step may differentiate; its gradients are traced down to operations that ONNX has.

    Args:
        network: in torch, with `stepping`.
        path: the file to write.
        inputs, outputs: as in `to_onnx`, without the step and the carried tensors.
    """
    network = network.eval()
    stepping: Stepping = network.stepping
    shape = network.static.shape[1:]
    examples = (
        *(torch.zeros(1, channels, *shape) for channels in inputs.values()),
        torch.zeros(1, dtype=torch.int64),
        *(torch.zeros(tensor.shape) for tensor in stepping.carried),
    )
    with torch.no_grad():
        traced = make_fx(network, {torch.ops.aten.convolution_backward.default: convolution_backward})(*examples)
    traced.graph.eliminate_dead_code()  # gradients that are not used
    traced.recompile()
    write_graph(traced, examples, path, [*inputs, *stepping.inputs], [*outputs, *stepping.outputs])


def convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, _: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, wanted: list[bool],
) -> tuple[Tensor | None, None, None]:  # fmt: skip
    """Return the gradient of a convolution's input, a transposed convolution; the weights of a graph are constant."""
    if transposed or any(wanted[1:]):
        raise ExportError("aten.convolution_backward: only the gradient of a plain convolution's input can be exported")
    sizes = zip(x.shape[2:], gradient.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    unreached = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, p, d in sizes]  # rows beyond the strides
    of_input = torch.ops.aten.convolution.default(
        gradient, weight, None, stride, padding, dilation, True, unreached, groups
    )
    return of_input, None, None


def write_graph(
    network: Any, examples: tuple[Tensor, ...], path: Path, inputs: list[str], outputs: list[str], free: Any = None
) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            network,
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=free,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # remove source lines of the machine that exports
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
