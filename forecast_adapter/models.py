"""Forecast models: two frames in, the state six hours later out, run from ONNX files.

The contract is FengWu's: `input` (B, 138, H, W) float32 is x(t-6h) then x(t); of `output` (B, 138, H, W) the first 69
channels are x(t+6h). The other 69 are undefined: they are never read. States are physical (SI) on both sides,
normalisation is part of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import Grid, GridError, get_grid
from dacycle.forecast_adapter.onnxfile import ModelFileError, digest, open_session, read_metadata

__all__ = [
    "ForecastError",
    "ForecastModel",
    "ModelFileError",
    "OnnxForecastModel",
    "forecast_metadata",
    "load_model",
    "model_files",
]

CHANNELS = len(NAMES)
WEIGHTS = Path(__file__).resolve().parent / "weights"
Array = NDArray[np.float32]


class ForecastError(RuntimeError):
    """A forecast cannot be made from these states, or is no longer finite; names channel and step."""


@runtime_checkable
class ForecastModel(Protocol):
    """A model that steps six hours from two frames.

    Attributes:
        name: what experiments call it.
        grid: the grid it works on.
        world: the world it was trained in; an experiment in another world is refused.
        digest: SHA-256 of its file.
    """

    name: str
    grid: Grid
    world: str
    digest: str

    def forecast(self, previous: Array, current: Array, steps: int) -> Iterator[Array]:
        """Yield x(t+6h), x(t+12h), ..., each (B, 69, H, W) float32 SI, from x(t-6h) and x(t) of the same shape."""
        ...


def forecast_metadata(name: str, version: str, grid: str, world: str, **more: Any) -> dict[str, Any]:
    """The metadata that a forecast model's file needs, and any more that describe it."""
    return {
        "kind": "forecast",
        "name": name,
        "version": version,
        "grid": grid,
        "world": world,
        "channels": NAMES,
        "step_hours": 6,
        **more,
    }


class OnnxForecastModel:
    """A forecast model from an ONNX file; the session is made once and used for every forecast.

    Attributes:
        metadata: everything that the file says of itself.
    """

    def __init__(self, path: Path | str, threads: int = 1) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, threads)
        self.metadata = read_metadata(self._session) if _has_metadata(self._session) else {}
        _check_metadata(self.path, self.metadata)
        self.name: str = self.metadata["name"]
        self.world: str = self.metadata["world"]
        self.grid = _named_grid(self.path, self.metadata["grid"])
        self.digest = digest(self.path)
        _check_tensors(self.path, self._session, self.grid)

    def forecast(self, previous: Array, current: Array, steps: int) -> Iterator[Array]:
        """See `ForecastModel.forecast`.

        Raises:
            ForecastError: the frames have the wrong shape or values that are not finite, or a forecast has.
        """
        previous, current = (np.ascontiguousarray(frame, np.float32) for frame in (previous, current))
        expected = (CHANNELS, *self.grid.shape)
        for frame, time in ((previous, "x(t-6h)"), (current, "x(t)")):
            if frame.ndim != 4 or frame.shape[1:] != expected or frame.shape != previous.shape:
                needed = f"(B, {', '.join(map(str, expected))})"
                raise ForecastError(f"{self.name}: {time} is {frame.shape}, but {needed} is needed")
            self._check_finite(frame, time)
        return self._steps(previous, current, steps)

    def _steps(self, previous: Array, current: Array, steps: int) -> Iterator[Array]:
        for step in range(1, steps + 1):
            (output,) = self._session.run(["output"], {"input": np.concatenate([previous, current], axis=1)})
            # Copied, so that a caller may keep or change what it gets, and the undefined half is let go.
            following = output[:, :CHANNELS].copy()
            self._check_finite(following, f"x(t+{6 * step}h), step {step}")
            previous, current = current, following
            yield following.copy()

    def _check_finite(self, state: Array, time: str) -> None:
        if np.isfinite(state).all():
            return
        bad = [name for name, fields in zip(NAMES, state.swapaxes(0, 1), strict=True) if not np.isfinite(fields).all()]
        raise ForecastError(f"{self.name}: {time} has values that are not finite in {', '.join(bad)}")


def model_files() -> dict[str, Path]:
    """The packaged models by name."""
    return {path.stem: path for path in sorted(WEIGHTS.glob("*.onnx"))}


def load_model(name_or_file: str | Path, threads: int = 1) -> ForecastModel:
    """A forecast model by its packaged name, or from its ONNX file. ModelFileError where it cannot be used."""
    packaged = model_files()
    if str(name_or_file) in packaged:
        return OnnxForecastModel(packaged[str(name_or_file)], threads)
    if not Path(name_or_file).is_file():
        raise ModelFileError(
            f"no model {str(name_or_file)!r}: not a file, and the packaged models are {', '.join(packaged) or 'none'}"
        )
    return OnnxForecastModel(name_or_file, threads)


def _has_metadata(session: ort.InferenceSession) -> bool:
    return "dacycle" in session.get_modelmeta().custom_metadata_map


def _check_metadata(path: Path, metadata: dict[str, Any]) -> None:
    needed = forecast_metadata("", "", "", "")
    missing = [key for key in needed if key not in metadata]
    if missing:
        raise ModelFileError(
            f"{path}: its metadata lack {', '.join(missing)}, so it cannot be known what the model expects; "
            "dacycle.forecast_adapter.onnxfile.write_metadata writes them"
        )
    for key in ("kind", "channels", "step_hours"):
        if metadata[key] != needed[key]:
            found, wanted = _brief(metadata[key]), _brief(needed[key])
            raise ModelFileError(f"{path}: its {key} is {found}, a forecast model needs {wanted}")


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) < 80 else text[:77] + "..."


def _named_grid(path: Path, name: str) -> Grid:
    try:
        return get_grid(name)
    except GridError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _check_tensors(path: Path, session: ort.InferenceSession, grid: Grid) -> None:
    """The graph's input and output must be the contract's, on the grid that its metadata name."""
    for kind, tensors, name in (
        ("input", session.get_inputs(), "input"),
        ("output", session.get_outputs(), "output"),
    ):
        if [tensor.name for tensor in tensors] != [name]:
            found = ", ".join(tensor.name for tensor in tensors) or "nothing"
            raise ModelFileError(f"{path}: its {kind} must be one tensor called `{name}`, not {found}")
        (tensor,) = tensors
        if tensor.type != "tensor(float)":
            raise ModelFileError(f"{path}: `{name}` is {tensor.type}, but must be float32")
        expected = [2 * CHANNELS, *grid.shape]
        if len(tensor.shape) != 4 or list(tensor.shape[1:]) != expected or isinstance(tensor.shape[0], int):
            raise ModelFileError(
                f"{path}: `{name}` is {tensor.shape}, but grid {grid.name} needs (any batch, "
                f"{', '.join(map(str, expected))})"
            )
