"""The weights of a trained network, read back from its file, to begin a training with.

An exported graph holds the tensors of its network under their names. The factors of its layers (``scale``) are an
exception: the export splits them, and numbers the parts in the order of their use.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from dacycle.assimilators.base import Assimilator
from dacycle.assimilators.exceptions import RecipeError
from dacycle.assimilators.trained.network import TrainedAssimilator

__all__ = ["begin_with_file", "give_weights", "stored_tensors"]

PART = "select_"


def begin_with_file(network: Any, method: Assimilator) -> None:
    """Give a network the weights of a trained assimilator; constants, such as the model's mean error, stay its own.

    Args:
        network: of the assimilator's method and size.
        method: it; not of an iterative method, whose file holds no names.

    Raises:
        RecipeError: it does not hold the weights of such a network.
    """
    if not isinstance(method, TrainedAssimilator):
        raise RecipeError(f"weights: {method.name} is no trained assimilator")
    tensors = stored_tensors(method.path)
    give_weights(network, tensors | _factors(network, tensors), method.path)


def give_weights(network: Any, tensors: Mapping[str, NDArray], source: Path) -> None:
    """Give a network the weights of a graph; its constants stay its own.

    Args:
        network: of the same size.
        tensors: by name.
        source: where they are from, for the error.

    Raises:
        RecipeError: they are not all the weights of such a network.
    """
    for name, weights in network.named_parameters():
        if name not in tensors:
            raise RecipeError(f"weights: {source} does not hold {name!r}: it is another network, or iterative")
        if (shape := tensors[name].shape) != tuple(weights.shape):
            raise RecipeError(f"weights: {source} holds {name!r} as {shape}, `network` asks for {tuple(weights.shape)}")
    with torch.no_grad():
        for name, weights in network.named_parameters():
            weights.copy_(torch.from_numpy(np.array(tensors[name])))


def stored_tensors(path: Path) -> dict[str, NDArray]:
    """Return a graph's tensors by name, those that an export took apart in single precision again."""
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    tensors = {name: values for name, values in stored.items() if not name.endswith((".0", ".1"))}
    for name, values in stored.items():
        if name.endswith(".0"):
            steps = stored.get(f"{name[:-2]}.1", np.float32(1))
            tensors[name[:-2]] = values.astype(np.float32) * steps
    return tensors


def _factors(network: Any, tensors: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Return the factors of each layer; none where the graph has another number of them than the network."""
    names = [name for name in tensors if name.startswith(PART) and tensors[name].shape[-2:] == (1, 1)]
    parts = [tensors[name] for name in sorted(names, key=lambda name: int(name.removeprefix(PART)))]
    layers = _layers_with_factors(network)
    if len(parts) != sum(map(len, layers.values())):
        return {}
    numbered = iter(parts)
    return {name: np.stack([next(numbered) for _ in scale]) for name, scale in layers.items()}


def _layers_with_factors(network: Any) -> dict[str, nn.Parameter]:
    """Return the factors of the layers that have any, in the order in which an analysis uses the layers."""
    used: dict[str, nn.Parameter] = {}

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(*_: Any) -> None:
            used.setdefault(f"{name}.scale", cast(nn.Parameter, layer.scale))

        return layer.register_forward_hook(note)

    layers = [item for item in network.named_modules() if isinstance(getattr(item[1], "scale", None), nn.Parameter)]
    hooks = [watch(name, layer) for name, layer in layers]
    shape = network.static.shape[1:]
    nothing = torch.zeros(1, network.inputs, *shape)
    with torch.no_grad():
        network(network.mean.expand(1, -1, *shape), nothing, nothing)
    for hook in hooks:
        hook.remove()
    return used
