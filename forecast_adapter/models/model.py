"""Forecast models: two frames in, the state six hours later out, run from ONNX files.

The contract is FengWu's: `input` (B, 138, H, W) float32 is x(t-6h) then x(t); of `output` (B, 138, H, W) the first 69
channels are x(t+6h). The other 69 are undefined: they are never read. Callers give and get states in SI; what is rolled
between steps is in the network's own units: SI for the packaged networks, normalised frames for FengWu's.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dacycle.common.errors import DacycleError
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, NAMES
from dacycle.forecast_adapter.grid import Grid, GridError, get_grid
from dacycle.forecast_adapter.models.contract import Signature, read_signature
from dacycle.forecast_adapter.models.fengwu import RELEASES
from dacycle.forecast_adapter.models.onnxfile import CPU, ORT_ERRORS, ModelFileError, digest, read_metadata
from dacycle.forecast_adapter.models.registry import Registration, registered, registered_models
from dacycle.forecast_adapter.models.rollout import ROLL, Chain, DeviceChain, HostChain, Scaling, start_pair
from dacycle.forecast_adapter.models.runtime import Runtime
from dacycle.forecast_adapter.state import STEP_HOURS

__all__ = [
    "ForecastError",
    "ForecastModel",
    "ModelFileError",
    "OnnxForecastModel",
    "forecast_metadata",
    "load_model",
    "model_files",
]

logger = logging.getLogger(__name__)

UNSHARED = 3
"""References to an array in a list that is gone through, by the list, the loop and the question itself."""
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
Array = NDArray[np.float32]


class ForecastError(DacycleError, RuntimeError):
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
        """Yield x(t+6h), x(t+12h), ..., each (B, 69, H, W) float32 SI, from x(t-6h) and x(t) of the same shape.

        What is yielded is the caller's to keep or change.
        """
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
        "step_hours": STEP_HOURS,
        **more,
    }


class OnnxForecastModel:
    """A forecast model from an ONNX file; the session is made once and used for every forecast.

    Args:
        path: an ONNX file with dacycle's metadata, or the registration of a network that has none.
        threads: on the CPU; other numbers give other roundings.

    Attributes:
        metadata: everything that the file says of itself; empty for a registered network.
        session: of ONNX Runtime.
        scaling: between SI and the network's units.
        batch: most states in one call; more are forecast in several.
        provider: of ONNX Runtime, as it is really used.
    """

    def __init__(self, path: Path | str | Registration, threads: int = 1) -> None:
        self._runtime = Runtime.from_settings(threads)
        brought = None
        if isinstance(path, Registration):
            brought, path = path, path.network
            if complaint := brought.complaint():
                raise ModelFileError(f"model {brought.name}: {complaint}")
        self.path = Path(path)
        self.session = self._runtime.open(self.path, large=brought is not None)
        self.metadata: dict[str, Any] = {}
        if brought is None:
            self.metadata = read_metadata(self.session) if _has_metadata(self.session) else {}
            _check_metadata(self.path, self.metadata)
        self.name: str = brought.name if brought else self.metadata["name"]
        self.world: str = brought.world if brought else self.metadata["world"]
        self.grid = _named_grid(self.path, brought.grid if brought else self.metadata["grid"])
        self.digest = brought.digest if brought else digest(self.path)
        self.scaling = Scaling(brought.statistics if brought else None)
        signature = read_signature(self.path, self.session)
        _check_grid(self.path, signature, self.grid)
        self.provider: str = self.session.get_providers()[0]
        self._frame_bytes = 4 * CHANNEL_COUNT * int(np.prod(self.grid.shape))
        self.batch = signature.batch or self._runtime.batch_of(self._frame_bytes)
        if brought is not None or self.provider != CPU:
            logger.info(self.running)

    @property
    def running(self) -> str:
        """On what it runs, in a sentence: provider, threads, and memory beside the network's own."""
        threads = self._runtime.threads
        cpu = f"the CPU with {threads} thread{'s' if threads > 1 else ''}"
        where = cpu if self.provider == CPU else self.provider
        memory = 5 * self._frame_bytes / 1e9
        states = "one state" if self.batch == 1 else f"up to {self.batch} states"
        return f"{self.name} ({self.grid.name}) runs on {where}, {states} a call, {memory:.2g} GB of frames for each"

    def forecast(self, previous: Array, current: Array, steps: int) -> Iterator[Array]:
        """See `ForecastModel.forecast`; more than `batch` starts go through several calls a step.

        Raises:
            ForecastError: the frames have the wrong shape or values that are not finite, a forecast has, or ONNX
                Runtime fails.
        """
        previous, current = (np.asarray(frame, np.float32) for frame in (previous, current))
        expected = (CHANNEL_COUNT, *self.grid.shape)
        for frame, time in ((previous, "x(t-6h)"), (current, "x(t)")):
            if frame.ndim != 4 or frame.shape[1:] != expected or frame.shape != previous.shape:
                needed = f"(B, {', '.join(map(str, expected))})"
                raise ForecastError(f"{self.name}: {time} is {frame.shape}, but {needed} is needed")
            self._check_finite(frame, time)
        # Here, not in the generator: a caller who keeps nothing lets the two frames go as soon as they are copied.
        parts = [slice(first, first + self.batch) for first in range(0, len(current), self.batch)]
        chains = [self.chain(previous[part], current[part]) for part in parts]
        return self._steps(chains, parts, current.shape, steps)

    def chain(self, previous: Array, current: Array) -> Chain:
        """The start of forecasts that share a call, from frames (n, 69, H, W) in SI."""
        pair = start_pair(previous, current, self.scaling)
        if self.provider == CPU:
            return HostChain(self.session, pair, self.scaling, self._runtime.threads)
        return DeviceChain(self.session, self._roll, pair, self.scaling, "cuda", self._runtime.device)

    @cached_property
    def _roll(self) -> Any:
        return replace(self._runtime, provider="cuda").open(ROLL, large=True)

    def _steps(self, chains: list[Chain], parts: list[slice], shape: tuple[int, ...], steps: int) -> Iterator[Array]:
        handed_out: list[Array] = []
        for step in range(1, steps + 1):
            # Memory that its receiver has let go is used again: new pages cost more than the arithmetic.
            states = next((each for each in handed_out if sys.getrefcount(each) == UNSHARED), None)
            if states is None:
                states = np.empty(shape, np.float32)
                handed_out = [*handed_out[-1:], states]
            self._step(chains, parts, states, step)
            yield states
            del states  # lest it be held here

    def _step(self, chains: list[Chain], parts: list[slice], states: Array, step: int) -> None:
        """Fill `states` with where the forecasts are after one more step."""
        try:
            finite = [chain.step(states[part]) for chain, part in zip(chains, parts, strict=True)]
        except ORT_ERRORS as error:
            raise ForecastError(
                f"{self.name}, step {step}: ONNX Runtime failed on {self.provider}: {error}. If memory is short, set "
                "DACYCLE_BATCH=1, or DACYCLE_PROVIDER=cpu"
            ) from error
        if not all(finite):
            self._check_finite(states, f"x(t+{STEP_HOURS * step}h), step {step}")

    def _check_finite(self, state: Array, time: str) -> None:
        bad = [name for name, fields in zip(NAMES, state.swapaxes(0, 1), strict=True) if not np.isfinite(fields).all()]
        if bad:
            raise ForecastError(f"{self.name}: {time} has values that are not finite in {', '.join(bad)}")


def model_files() -> dict[str, Path]:
    """The packaged models by name."""
    return {path.stem: path for path in sorted(WEIGHTS.glob("*.onnx"))}


def load_model(name_or_file: str | Path, threads: int = 1) -> ForecastModel:
    """A forecast model by its packaged or registered name, or from its ONNX file.

    Raises:
        ModelFileError: there is none, or it cannot be used; says how to get it where it is one of FengWu's.
    """
    name, packaged = str(name_or_file), model_files()
    if name in packaged:
        return OnnxForecastModel(packaged[name], threads)
    if Path(name_or_file).is_file():
        return OnnxForecastModel(name_or_file, threads)
    added = registered_models()
    if name in added or name in RELEASES:
        return OnnxForecastModel(registered(name), threads)
    raise ModelFileError(
        f"no model {name!r}: not a file, and the packaged models are {', '.join(packaged) or 'none'}, the added ones "
        f"{', '.join(added) or 'none'}; of FengWu, {', '.join(RELEASES)} can be added (`dacycle models add --help`)"
    )


def _has_metadata(session: Any) -> bool:
    return "dacycle" in session.get_modelmeta().custom_metadata_map


def _check_metadata(path: Path, metadata: dict[str, Any]) -> None:
    needed = forecast_metadata("", "", "", "")
    missing = [key for key in needed if key not in metadata]
    if missing:
        raise ModelFileError(
            f"{path}: its metadata lack {', '.join(missing)}, so it cannot be known what the model expects. "
            "A file of FengWu's is added by `dacycle models add fengwu-v1 FILE` (or fengwu-v2) and then has that name; "
            "a network of one's own gets them by dacycle.forecast_adapter.models.onnxfile.write_metadata"
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


def _check_grid(path: Path, signature: Signature, grid: Grid) -> None:
    """The graph must run on the grid that its metadata name."""
    if not signature.fits(grid):
        rows, columns = signature.shape
        raise ModelFileError(
            f"{path}: its tensors have {rows} x {columns} points, but grid {grid.name} needs {grid.shape[0]} x "
            f"{grid.shape[1]}"
        )
