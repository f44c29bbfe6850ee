"""Forecast models: two frames in, the state six hours later out, run from ONNX files.

The contract is FengWu's: `input` (B, 138, H, W) float32 holds x(t-6h), then x(t); the first 69 channels of `output`
(B, 138, H, W) are x(t+6h). The other 69 are undefined and are never read. Callers give and get states in SI. Between
steps frames stay in the network's units: SI for the packaged networks, normalised for FengWu's.
"""

import logging
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
from dacycle.forecast_adapter.models.onnxfile import CPU, ORT_ERRORS, ModelFileError, OnnxFile
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

_REMEDY = (
    "a file of FengWu's is added by `dacycle models add fengwu-v1 FILE` (or fengwu-v2) and then has that name; a "
    "network of one's own gets metadata by dacycle.forecast_adapter.models.onnxfile.write_metadata"
)
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
        digest: SHA-256 of its file; of a registered network, over all its files and statistics.
    """

    name: str
    grid: Grid
    world: str
    digest: str

    def forecast(self, previous: Array, current: Array, steps: int) -> Iterator[Array]:
        """Yield x(t+6h), x(t+12h), ..., each (B, 69, H, W) float32 SI, from x(t-6h) and x(t) of the same shape.

        Each array is new: the caller may keep or change it.
        """
        ...


def forecast_metadata(name: str, version: str, grid: str, world: str, **more: Any) -> dict[str, Any]:
    """Return the metadata that a forecast model's file needs, and `more` that describe it."""
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
        file: an ONNX file with dacycle's metadata, or the registration of a network without metadata.
        threads: number of threads on the CPU; other numbers give other roundings.

    Attributes:
        metadata: all metadata of the file; empty for a registered network.
        increments: what the increment test found (`assimilators.judging.increments`); None where it has not been run.
        session: the open network.
        scaling: converts between SI and the network's units.
        batch: most states in one call; more states take several calls.
        provider: the provider of ONNX Runtime that the session really uses.
    """

    def __init__(self, file: Path | str | Registration, threads: int = 1) -> None:
        self._runtime = Runtime.from_settings(threads)
        registration = file if isinstance(file, Registration) else None
        if registration is not None and (complaint := registration.complaint()):
            raise ModelFileError(f"model {registration.name}: {complaint}")
        self.path = file.network if isinstance(file, Registration) else Path(file)
        self.session = self._runtime.open(self.path, large=registration is not None)
        self.metadata: dict[str, Any] = {}
        described: Registration | OnnxFile
        if registration is None:
            template = forecast_metadata("", "", "", "")
            described = OnnxFile(self.path, self.session, template, ("channels", "step_hours"), _REMEDY)
            self.metadata, self.grid = described.metadata, described.grid
            self.increments: dict[str, Any] | None = self.metadata.get("increments")
        else:
            described, self.grid = registration, _named_grid(self.path, registration.grid)
            self.increments = registration.increments
        self.name, self.world, self.digest = described.name, described.world, described.digest
        self.scaling = Scaling(registration.statistics if registration else None)
        signature = read_signature(self.path, self.session)
        _check_grid(self.path, signature, self.grid)
        self.provider: str = self.session.get_providers()[0]
        self._frame_bytes = 4 * CHANNEL_COUNT * int(np.prod(self.grid.shape))
        self.batch = signature.batch or self._runtime.batch_of(self._frame_bytes)
        if registration is not None or self.provider != CPU:
            logger.info("%s", self.running)

    @property
    def running(self) -> str:
        """A sentence on what the model runs on: provider, threads, states a call, memory beside the network's own."""
        threads = self._runtime.threads
        cpu = f"the CPU with {threads} thread{'s' if threads > 1 else ''}"
        where = cpu if self.provider == CPU else self.provider
        memory = 5 * self._frame_bytes / 1e9
        states = "one state" if self.batch == 1 else f"up to {self.batch} states"
        return f"{self.name} ({self.grid.name}) runs on {where}, {states} a call, {memory:.2g} GB of frames for each"

    def forecast(self, previous: Array, current: Array, steps: int) -> Iterator[Array]:
        """Yield forecasts, see `ForecastModel.forecast`; more than `batch` starts take several calls a step.

        Raises:
            ForecastError: the frames have the wrong shape, the frames or a forecast have values that are not finite,
                or ONNX Runtime fails.
        """
        previous, current = (np.asarray(frame, np.float32) for frame in (previous, current))
        expected = (CHANNEL_COUNT, *self.grid.shape)
        for frame, time in ((previous, "x(t-6h)"), (current, "x(t)")):
            if frame.ndim != 4 or frame.shape[1:] != expected or frame.shape != previous.shape:
                needed = f"(B, {', '.join(map(str, expected))})"
                raise ForecastError(f"{self.name}: {time} is {frame.shape}, but {needed} is needed")
            self._check_finite(frame, time)
        # Copied here and not in the generator, so that a caller without references to the frames frees them at once.
        members = [slice(first, first + self.batch) for first in range(0, len(current), self.batch)]
        chains = [self.chain(previous[some], current[some]) for some in members]
        return self._steps(chains, members, current.shape, steps)

    def chain(self, previous: Array, current: Array) -> Chain:
        """Return the chain of forecasts that share a call, from frames (n, 69, H, W) in SI."""
        pair = start_pair(previous, current, self.scaling)
        if self.provider == CPU:
            return HostChain(self.session, pair, self.scaling, self._runtime.threads)
        return DeviceChain(self.session, self._roll, pair, self.scaling, "cuda", self._runtime.device)

    @cached_property
    def _roll(self) -> Any:
        return replace(self._runtime, provider="cuda").open(ROLL, large=True)

    def _steps(self, chains: list[Chain], members: list[slice], shape: tuple[int, ...], steps: int) -> Iterator[Array]:
        for step in range(1, steps + 1):
            states = np.empty(shape, np.float32)
            self._step(chains, members, states, step)
            yield states
            del states  # so that the caller's reference is the only one while the next array is made

    def _step(self, chains: list[Chain], members: list[slice], states: Array, step: int) -> None:
        """Fill `states` with the forecasts after one more step."""
        try:
            finite = [chain.step(states[some]) for chain, some in zip(chains, members, strict=True)]
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
    """Return the files of the packaged models, by name."""
    return {path.stem: path for path in sorted(WEIGHTS.glob("*.onnx"))}


def load_model(name_or_file: str | Path, threads: int = 1) -> OnnxForecastModel:
    """Load a forecast model by its packaged or registered name, or from its ONNX file.

    Raises:
        ModelFileError: there is none, or it cannot be used; says how to get it, if it is one of FengWu's.
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


def _named_grid(path: Path, name: str) -> Grid:
    try:
        return get_grid(name)
    except GridError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _check_grid(path: Path, signature: Signature, grid: Grid) -> None:
    """Raise ModelFileError where the graph does not run on the grid that its metadata name."""
    if not signature.fits(grid):
        rows, columns = signature.shape
        raise ModelFileError(
            f"{path}: its tensors have {rows} x {columns} points, but grid {grid.name} needs {grid.shape[0]} x "
            f"{grid.shape[1]}"
        )
