"""The tangent linear and adjoint of a network of two frames, run from an ONNX graph beside the network's own.

The network is a forecast model, whose output is x(t+6h), or a learned observation operator, whose output is its planes.
`dacycle gradient` writes the graph. Its inputs are `input` (1, 138, H, W), the two frames about which the network is
linearised, `direction` of the same shape, and `cotangent` (1, F, H, W) like the network's output, all SI. Its outputs
are `tangent`, the derivative of that output along the direction, and `gradient`, that of <cotangent, output> by the
input.
"""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import CHANNEL_COUNT, NAMES
from dacycle.forecast_adapter.models.onnxfile import ORT_ERRORS, ModelFileError, OnnxFile, open_session

__all__ = ["Gradient", "Network", "gradient_metadata", "gradient_path", "load_gradient"]

KIND = "gradient"
Array = NDArray[np.float32]


class Named(Protocol):
    """What has a name and a digest."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...


@runtime_checkable
class Network(Named, Protocol):
    """What may have a gradient: a network from an ONNX file, with the SHA-256 of it."""

    @property
    def path(self) -> Path: ...


def gradient_path(network: Path) -> Path:
    """Return where the gradient of a network's file is: in the folder `gradients` beside it, under the same name."""
    return network.parent / "gradients" / network.name


def gradient_metadata(network: str, digest: str, grid: str, world: str, **more: Any) -> dict[str, Any]:
    """Return the metadata of a gradient's file; `digest` is the SHA-256 of the network's."""
    return {"kind": KIND, "name": network, "of": digest, "grid": grid, "world": world, "channels": NAMES, **more}


class Gradient:
    """The tangent linear and the adjoint of a network.

    Args:
        path: the graph.
        network: the one that it must be of.
        threads: number of threads on the CPU; other numbers give other roundings.

    Raises:
        ModelFileError: the file is damaged, of another kind, or of another network.
    """

    def __init__(self, path: Path, network: Named, threads: int = 1) -> None:
        self.path = path
        self._session = open_session(path, threads)
        template = gradient_metadata("", "", "", "")
        command = f"`dacycle gradient {network.name}`"
        described = OnnxFile(path, self._session, template, ("channels",), f"{command} writes it")
        if described.metadata["of"] != network.digest:
            raise ModelFileError(
                f"{path}: it is the gradient of another file of {described.name} than that of {network.name}; "
                f"{command} makes the right one"
            )
        self.digest: str = described.digest
        self.metadata = described.metadata
        self._shapes = {tensor.name: tuple(tensor.shape) for tensor in self._session.get_inputs()}
        # Both outputs are in one graph, so that they share its weights; only what an output needs is computed.
        self._options = ort.RunOptions()
        self._options.only_execute_path_to_fetches = True

    def tangent(self, older: Array, newer: Array, older_change: Array, newer_change: Array) -> Array:
        """Return the change of the output (F, H, W), to first order, for changes of both frames (69, H, W)."""
        return self._run("tangent", (older, newer), direction=np.concatenate([older_change, newer_change])[None])

    def adjoint(self, older: Array, newer: Array, cotangent: Array) -> tuple[Array, Array]:
        """Return the adjoint of `tangent`: fields (69, H, W) for the older and the newer frame, of (F, H, W)."""
        both = self._run("gradient", (older, newer), cotangent=cotangent[None])
        return both[:CHANNEL_COUNT], both[CHANNEL_COUNT:]

    def _run(self, output: str, frames: tuple[Array, Array], **given: Array) -> Array:
        inputs = {
            **{name: np.zeros(shape, np.float32) for name, shape in self._shapes.items() if name not in given},
            "input": np.concatenate(frames)[None].astype(np.float32),
            **{name: np.asarray(value, np.float32) for name, value in given.items()},
        }
        try:
            (result,) = self._session.run([output], inputs, self._options)
        except ORT_ERRORS as error:
            raise ModelFileError(f"{self.path}: ONNX Runtime failed: {error}") from error
        found: Array = result[0]
        return found


def load_gradient(network: Named, threads: int = 1) -> Gradient:
    """Load the gradient of a forecast model or a learned operator.

    Raises:
        ModelFileError: there is none, which says how to make it; or as for `Gradient`.
    """
    if not isinstance(network, Network):
        raise ModelFileError(f"{network.name} has no gradient: only networks that run from an ONNX file have one")
    path = gradient_path(network.path)
    if not path.is_file():
        raise ModelFileError(
            f"{network.name} has no gradient at {path}; `dacycle gradient {network.name}` makes it "
            "(needs the extra `train`)"
        )
    return Gradient(path, network, threads)
