"""The weights that the base of an adapter begins with: those of an exported file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from dacycle.assimilators.base import packaged_assimilators
from dacycle.assimilators.networks.adapter import AdaptedNetwork
from dacycle.assimilators.training.errors import RecipeError

__all__ = ["begin_with"]

CONSTANTS = ("mean", "std", "error", "plane_mean", "plane_std", "static", "bias")
"""What a network is told of its world: weights are worth nothing with another's."""


def begin_with(network: AdaptedNetwork, name_or_file: str) -> None:
    """Give the base, and the adapter, the weights and constants of a file. RecipeError where it lacks any."""
    path = packaged_assimilators().get(name_or_file, Path(name_or_file))
    if not path.is_file():
        raise RecipeError(f"base: {name_or_file!r} is neither a packaged method nor a file")
    stored = _tensors(path)
    wanted = dict(network.base.named_parameters()) | {name: getattr(network.base, name) for name in CONSTANTS}
    wanted |= {name: tensor for name, tensor in network.named_parameters() if name.startswith("operator.")}
    odd = [name for name, tensor in wanted.items() if name not in stored or tuple(tensor.shape) != stored[name].shape]
    if odd:
        raise RecipeError(
            f"base: {path} has no {odd[0]} of this shape ({len(odd)} of {len(wanted)} differ): it is of another "
            "method, or `network` says another size than its"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(torch.from_numpy(stored[name]))
        for name in CONSTANTS:
            own: Tensor = getattr(network, name)
            own.copy_(getattr(network.base, name))


def _tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a graph by the names that they had in torch; those in half precision as single."""
    found = onnx.load(str(path)).graph.initializer
    return {
        tensor.name.removesuffix(".half"): np.array(onnx.numpy_helper.to_array(tensor), np.float32)
        for tensor in found
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }
