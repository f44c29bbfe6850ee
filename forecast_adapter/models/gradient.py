"""A forecast model's tangent linear and adjoint, run from an ONNX graph beside the model's.

`dacycle gradient` writes the graph. Its inputs are `input` (1, 138, H, W), the two frames about which the model is
linearised, `direction` of the same shape, and `cotangent` (1, 69, H, W), all SI; its outputs are `tangent`, the
derivative of x(t+6h) along the direction, and `gradient`, that of <cotangent, x(t+6h)> by the input.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import CHANNEL_COUNT, NAMES
from dacycle.forecast_adapter.models.model import ForecastModel, OnnxForecastModel
from dacycle.forecast_adapter.models.onnxfile import ORT_ERRORS, ModelFileError, OnnxFile, open_session

__all__ = ["ModelGradient", "gradient_metadata", "gradient_path", "load_gradient"]

KIND = "gradient"
Array = NDArray[np.float32]


def gradient_path(model: Path) -> Path:
    """Return where the gradient of a model's file is: in the folder `gradients` beside it, under the same name."""
    return model.parent / "gradients" / model.name


def gradient_metadata(model: str, digest: str, grid: str, world: str, **more: Any) -> dict[str, Any]:
    """Return the metadata of a gradient's file; `digest` is the SHA-256 of the model's."""
    return {"kind": KIND, "name": model, "of": digest, "grid": grid, "world": world, "channels": NAMES, **more}


class ModelGradient:
    """The tangent linear and the adjoint of one step of a forecast model.

    Args:
        path: the graph.
        model: the model that it must be of.
        threads: number of threads on the CPU; other numbers give other roundings.

    Raises:
        ModelFileError: the file is damaged, of another kind, or of another model.
    """

    def __init__(self, path: Path, model: ForecastModel, threads: int = 1) -> None:
        self.path = path
        self._session = open_session(path, threads)
        template = gradient_metadata("", "", "", "")
        described = OnnxFile(path, self._session, template, ("channels",), f"`dacycle gradient {model.name}` writes it")
        if described.metadata["of"] != model.digest:
            raise ModelFileError(
                f"{path}: it is the gradient of another file of {described.name} than that of the model {model.name}; "
                f"`dacycle gradient {model.name}` makes the right one"
            )
        self.digest: str = described.digest
        self.metadata = described.metadata
        self._shape = (1, CHANNEL_COUNT, *described.grid.shape)
        # Both outputs are in one graph, so that they share its weights; only what an output needs is computed.
        self._options = ort.RunOptions()
        self._options.only_execute_path_to_fetches = True

    def tangent(self, older: Array, newer: Array, older_change: Array, newer_change: Array) -> Array:
        """Return the change of x(t+6h) (69, H, W), to first order, for changes of both frames (69, H, W)."""
        return self._run("tangent", (older, newer), direction=np.concatenate([older_change, newer_change])[None])

    def adjoint(self, older: Array, newer: Array, cotangent: Array) -> tuple[Array, Array]:
        """Return the adjoint of `tangent`: fields (69, H, W) for the older and the newer frame."""
        both = self._run("gradient", (older, newer), cotangent=cotangent[None])
        return both[:CHANNEL_COUNT], both[CHANNEL_COUNT:]

    def _run(self, output: str, frames: tuple[Array, Array], **given: Array) -> Array:
        zeros = np.zeros(self._shape, np.float32)
        inputs = {
            "input": np.concatenate(frames)[None].astype(np.float32),
            "direction": np.concatenate([zeros, zeros], axis=1),
            "cotangent": zeros,
            **{name: np.asarray(value, np.float32) for name, value in given.items()},
        }
        try:
            (result,) = self._session.run([output], inputs, self._options)
        except ORT_ERRORS as error:
            raise ModelFileError(f"{self.path}: ONNX Runtime failed: {error}") from error
        found: Array = result[0]
        return found


def load_gradient(model: ForecastModel, threads: int = 1) -> ModelGradient:
    """Load the gradient of a model.

    Raises:
        ModelFileError: there is none, which says how to make it; or as for `ModelGradient`.
    """
    if not isinstance(model, OnnxForecastModel):
        raise ModelFileError(f"the model {model.name} has no gradient: only those that run from an ONNX file have one")
    path = gradient_path(model.path)
    if not path.is_file():
        raise ModelFileError(
            f"the model {model.name} has no gradient at {path}; `dacycle gradient {model.name}` makes it "
            "(needs the extra `train`)"
        )
    return ModelGradient(path, model, threads)
