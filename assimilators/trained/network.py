"""Trained methods: ONNX files with one contract, run by ONNX Runtime without torch.

Inputs are `background` (B, 69, H, W), and `observations` and `observation_errors` (B, 69 + M, H, W) with the M planes
named in the metadata. Outputs are `analysis` (B, 69, H, W) and, where the method has one, `spread` of the same shape.
All are float32, absolute, SI. An error above 0 marks an observed value; both tensors are 0 elsewhere. A file whose
metadata have `recent_hours` takes 69 planes more behind the M (`recent`).

The graph of an iterative method makes one step for one chain (`stepping`); its metadata hold the number of steps, and
the tensors that are carried from one to the next.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import RENAMED, Analysis, AssimilatorError, check_fits
from dacycle.assimilators.trained.recent import WithRecent, completed
from dacycle.assimilators.trained.stepping import STEP_INPUT, Stepping, next_name
from dacycle.forecast_adapter.channels import CHANNELS, NAMES, PLANES
from dacycle.forecast_adapter.models.onnxfile import ORT_ERRORS, ModelFileError, OnnxFile, open_session

if TYPE_CHECKING:
    from dacycle.forecast_adapter.worlds.world import World

__all__ = ["INPUTS", "OUTPUTS", "TrainedAssimilator", "assimilator_metadata", "load"]

INPUTS = ("background", "observations", "observation_errors")
OUTPUTS = ("analysis", "spread")
KIND = "assimilator"


def assimilator_metadata(
    name: str, version: str, grid: str, world: str, planes: tuple[str, ...], method: str, reach_km: float, **more: Any
) -> dict[str, Any]:
    """Return the metadata that a trained assimilator's file needs, and any more that describe it.

    Args:
        name, version: of the file.
        grid, world: their names.
        planes: observation planes after the 69 channels, in order.
        method: one of `assimilators.networks.METHODS`.
        reach_km: distance beyond which a single observation has no noticeable influence.
        more: `stepping` (`Stepping.as_dict`) where the graph makes one step of an iterative method;
            `removes_model_bias`, which is False where the graph leaves the model's mean error in the background;
            `recent_hours` where it takes departures of so many hours as further planes (`recent`).
    """
    return {
        "kind": KIND,
        "name": name,
        "version": version,
        "method": method,
        "grid": grid,
        "world": world,
        "channels": NAMES,
        "units": {channel.name: channel.unit for channel in CHANNELS},
        "planes": {plane: PLANES[plane] for plane in planes},
        "reach_km": reach_km,
        **more,
    }


class TrainedAssimilator(WithRecent):
    """Run a trained method from its ONNX file, as an `Assimilator`; the session is made once.

    Attributes:
        metadata: all metadata of the file.
        removes_model_bias: whether the graph takes the model's mean error off the background.
    """

    def __init__(self, path: Path | str, threads: int = 1) -> None:
        self.path = Path(path)
        try:
            self._session = open_session(self.path, threads)
            file = OnnxFile(self.path, self._session, assimilator_metadata("", "", "", "", (), "", 0), ())
        except ModelFileError as error:
            raise AssimilatorError(str(error)) from error
        # Files of a method that had another name when they were written hold that name.
        written = {key: str(file.metadata[key]) for key in ("name", "method")}
        names = {key: RENAMED.get(name, name) for key, name in written.items()}
        self.metadata, self.name, self.world = {**file.metadata, **names}, names["name"], file.world
        self.grid, self.digest = file.grid, file.digest
        _check_units(self.path, self.metadata)
        self.planes: tuple[str, ...] = tuple(self.metadata["planes"])
        self.reach_km = float(self.metadata["reach_km"])
        # All files that dacycle exported before they said so remove it.
        self.removes_model_bias = bool(self.metadata.get("removes_model_bias", True))
        self._stepping = _stepping(self.path, self.metadata)
        self._taken = len(NAMES) + len(self.planes) + len(NAMES) * self.recent
        self._outputs = _checked_outputs(self.path, self._session, self.grid.shape, self._taken, self._stepping)

    @property
    def recent(self) -> bool:
        """Whether the file takes the departures of the last 24 hours."""
        return "recent_hours" in self.metadata

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Correct B chains' backgrounds; see `Assimilator.analyse`.

        Raises:
            AssimilatorError: a tensor has another shape than the file's, or ONNX Runtime fails.
        """
        if self.recent and values.shape[1] < self._taken:
            values, errors = completed(values), completed(errors)
        inputs = dict(zip(INPUTS, (background, values, errors), strict=True))
        for name, array in inputs.items():
            expected = (len(background), len(NAMES) if name == INPUTS[0] else self._taken, *self.grid.shape)
            if array.shape != expected:
                raise AssimilatorError(f"{self.name}: {name} is {array.shape}, but {expected} is needed")
        tensors = [np.ascontiguousarray(array, np.float32) for array in inputs.values()]
        if self._stepping is None:
            return Analysis(*self._run(*tensors))
        return self._stepping.analyse(self._run, *tensors)

    def _run(self, *tensors: NDArray) -> Any:
        """Call the graph once, with its inputs and outputs in the contract's order."""
        names = INPUTS if self._stepping is None else (*INPUTS, *self._stepping.inputs)
        try:
            return self._session.run(self._outputs, dict(zip(names, tensors, strict=True)))
        except ORT_ERRORS as error:
            raise AssimilatorError(f"{self.name}: ONNX Runtime fails on {self.path}: {error}") from error


def load(path: Path, world: "World", threads: int = 1) -> TrainedAssimilator:
    """Load a trained method from its file, for a world.

    Raises:
        AssimilatorError: the file is damaged, no assimilator, or was made for another grid, world or set of channels.
    """
    method = TrainedAssimilator(path, threads)
    check_fits(path, grid=method.grid.name, world=method.world, channels=method.metadata["channels"], target=world)
    return method


def _check_units(path: Path, metadata: dict[str, Any]) -> None:
    """Raise AssimilatorError where the file's channels or planes are in units that are not ours."""
    units = {channel.name: channel.unit for channel in CHANNELS}
    unknown = [name for name, unit in metadata["planes"].items() if PLANES.get(name) != unit]
    if unknown:
        raise AssimilatorError(
            f"{path}: it wants the observation plane {', '.join(unknown)} in a unit that is not known here; "
            f"known are {', '.join(f'{name} ({unit})' for name, unit in PLANES.items())}"
        )
    different = [name for name, unit in metadata["units"].items() if units.get(name, unit) != unit]
    if different:
        raise AssimilatorError(f"{path}: its units differ in {', '.join(different)}")


def _stepping(path: Path, metadata: dict[str, Any]) -> Stepping | None:
    if "stepping" not in metadata:
        return None
    try:
        return Stepping.from_dict(metadata["stepping"])
    except (KeyError, TypeError, ValueError) as error:
        raise AssimilatorError(f"{path}: its metadata do not say how it steps ({error}); export it anew") from error


def _checked_outputs(
    path: Path, session: Any, shape: tuple[int, int], taken: int, stepping: Stepping | None
) -> list[str]:
    """Return the names of the graph's outputs. AssimilatorError where its tensors are not those of the contract."""
    batch = "batch" if stepping is None else 1
    expected = {
        name: ([batch, taken if name in INPUTS[1:] else len(NAMES), *shape], "float") for name in (*INPUTS, *OUTPUTS)
    }
    if stepping is not None:
        expected[STEP_INPUT] = ([1], "int64")
        for tensor in stepping.carried:
            expected |= dict.fromkeys((tensor.name, next_name(tensor.name)), (list(tensor.shape), "float"))
    inputs = [*INPUTS, *(stepping.inputs if stepping else ())]
    outputs = [*OUTPUTS, *(stepping.outputs if stepping else ())]
    for tensor in session.get_inputs():
        if tensor.name not in inputs:
            raise AssimilatorError(f"{path}: it has an input {tensor.name!r}; the contract's are {', '.join(inputs)}")
    tensors = {tensor.name: tensor for tensor in (*session.get_inputs(), *session.get_outputs())}
    for name in (*inputs, *outputs):
        if name not in tensors:
            if name == "spread":
                continue
            raise AssimilatorError(f"{path}: it has no tensor {name!r}")
        dimensions, kind = expected[name]
        actual = [n if isinstance(n, int) else "batch" for n in tensors[name].shape]  # a free one may have any name
        if actual != dimensions:
            raise AssimilatorError(f"{path}: `{name}` is {tensors[name].shape}, but must be {dimensions}")
        if tensors[name].type != f"tensor({kind})":
            raise AssimilatorError(f"{path}: `{name}` is {tensors[name].type}, but must be tensor({kind})")
    return [name for name in outputs if name in tensors]
