"""Learned observation operators: ONNX files that compute OLR and precipitation from two frames, run without torch.

The inputs `previous` and `current` (B, 69, H, W) are x(t-6h) and x(t). The outputs `equivalents` and `errors`
(B, 2, H, W) are the planes over the six hours between them, in the order of the metadata's `planes`, and the standard
deviation of the operator's own error. All are float32 and SI; normalisation is inside the graph. `dacycle train` and
`dacycle export` make such a file; the packaged one belongs to the world whose statistics it carries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dacycle.forecast_adapter.channels import NAMES, PLANES
from dacycle.forecast_adapter.grid import Grid, interpolate_to_points
from dacycle.forecast_adapter.models.onnxfile import ORT_ERRORS, ModelFileError, OnnxFile, open_session, read_metadata
from dacycle.obs_ingest.table import PLANE_VARIABLES, VARIABLES

if TYPE_CHECKING:
    from dacycle.forecast_adapter.worlds.world import World

__all__ = [
    "KIND",
    "LEARNED",
    "NO_OPERATOR",
    "LearnedFields",
    "LearnedOperator",
    "load_operator",
    "operator_files",
    "operator_metadata",
    "over_periods",
]

KIND = "operator"
NO_OPERATOR = "none"
"""The name in an experiment that asks for no learned operator."""
LEARNED: tuple[str, ...] = ("tp6h", "olr")
"""The planes that a learned operator computes, in the order of its tensors."""
INPUTS, OUTPUTS = ("previous", "current"), ("equivalents", "errors")
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"


def operator_metadata(
    name: str, version: str, grid: str, world: str, plane_std: dict[str, float], **more: Any
) -> dict[str, Any]:
    """Return the metadata of an operator's file.

    Args:
        name, version, grid, world: of the operator.
        plane_std: standard deviation of each plane in the training years, SI.
        more: other entries that describe it.
    """
    return {
        "kind": KIND,
        "name": name,
        "version": version,
        "grid": grid,
        "world": world,
        "channels": NAMES,
        "planes": {plane: PLANES[plane] for plane in LEARNED},
        "plane_std": plane_std,
        **more,
    }


@dataclass(frozen=True, eq=False)
class LearnedFields:
    """The output of an operator for two frames: `values` and `errors` by variable (`tp`, `olr`), (H, W) each, SI."""

    values: dict[str, NDArray[np.float32]]
    errors: dict[str, NDArray[np.float32]]


class LearnedOperator:
    """An operator from its ONNX file; the session is created once.

    Attributes:
        name, world, grid, digest: as those of a forecast model.
        std: standard deviation of each variable in the training years, SI.
        metadata: all metadata of the file.
    """

    def __init__(self, path: Path | str, threads: int = 1) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, threads)
        file = OnnxFile(self.path, self._session, operator_metadata("", "", "", "", {}), ("channels", "planes"))
        self.metadata, self.name, self.world = file.metadata, file.name, file.world
        self.grid, self.digest = file.grid, file.digest
        self.std = {PLANE_VARIABLES[plane]: float(self.metadata["plane_std"][plane]) for plane in LEARNED}
        _check_tensors(self.path, self._session, self.grid.shape)

    def __call__(self, previous: NDArray, current: NDArray) -> LearnedFields:
        """Compute precipitation and mean OLR of the six hours between two frames, each (69, H, W) SI.

        Raises:
            ModelFileError: the frames have another shape than the file's, or ONNX Runtime fails.
        """
        frames = dict(zip(INPUTS, (previous, current), strict=True))
        for name, frame in frames.items():
            if frame.shape != (len(NAMES), *self.grid.shape):
                raise ModelFileError(f"{self.name}: {name} is {frame.shape}, not {(len(NAMES), *self.grid.shape)}")
        tensors = {name: np.ascontiguousarray(frame, np.float32)[None] for name, frame in frames.items()}
        try:
            outputs = self._session.run(list(OUTPUTS), tensors)
        except ORT_ERRORS as error:
            raise ModelFileError(f"{self.name}: ONNX Runtime fails: {error}") from error
        values, errors = (
            {PLANE_VARIABLES[plane]: field for plane, field in zip(LEARNED, fields[0], strict=True)}
            for fields in outputs
        )
        return LearnedFields(values, errors)

    def intervals(self, states: Sequence[NDArray]) -> list[LearnedFields]:
        """Return the fields of the six hours between each two neighbouring states, newest first.

        Args:
            states: (69, H, W) each, every 6 h, oldest first; the last one is at the analysis time.
        """
        return [self(*pair) for pair in zip(states[-2::-1], states[:0:-1], strict=True)]

    def background_error(
        self, table: pd.DataFrame, intervals: Sequence[LearnedFields], state_error: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64]:
        """Return the error (n,) of H(x_b) that quality control assumes, SI: the operator's and the background's.

        The two are added in quadrature. Over a longer period the errors of its intervals are assumed to be fully
        correlated: for OLR that is the largest error that a mean can have.

        Args:
            table: observations, n rows.
            intervals: the operator's fields, as given to `equivalents`.
            state_error: the background's part, by variable, over six hours; SI, of a shape that broadcasts to (H, W).
        """
        errors = [
            {name: np.hypot(error, state_error[name]) for name, error in interval.errors.items()}
            for interval in intervals
        ]
        return over_periods(table, errors, self.grid)


def over_periods(table: pd.DataFrame, intervals: Sequence[Mapping[str, NDArray]], grid: Grid) -> NDArray[np.float64]:
    """Return the sum of precipitation or the mean of OLR over the period of each row (n,).

    Args:
        table: observations, n rows.
        intervals: fields (H, W) by variable over six hours each, newest first, back from the analysis time.
        grid: the grid of the fields.

    Returns:
        NaN for other variables, and for periods that are no multiple of 6 h or longer than all intervals.
    """
    result = np.full(len(table), np.nan)
    codes, period = table["variable"].array.codes, table["period"].to_numpy()
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    for count in range(1, len(intervals) + 1):
        for variable in intervals[0]:
            rows = np.nonzero((period == 6 * count) & (codes == VARIABLES.index(variable)))[0]
            if len(rows):
                fields = [interval[variable] for interval in intervals[:count]]
                field = np.sum(fields, axis=0) if variable == "tp" else np.mean(fields, axis=0)
                result[rows] = interpolate_to_points(field, grid, latitude[rows], longitude[rows])
    return result


def operator_files() -> dict[str, Path]:
    """Return the packaged operators by name."""
    return {path.stem: path for path in sorted(WEIGHTS.glob("*.onnx"))}


def load_operator(name_or_file: str | Path | None, world: World, threads: int = 1) -> LearnedOperator | None:
    """Load the operator of a world.

    Args:
        name_or_file: a packaged operator's name or a file; `none` for none; None for the packaged one that carries the
            world's statistics, if there is one.
        world: the world.
        threads: of the session.

    Raises:
        ModelFileError: there is no such operator, it is damaged, or belongs to another world or grid.
    """
    if name_or_file == NO_OPERATOR:
        return None
    packaged = operator_files()
    if name_or_file is None:
        of_world = [path for path in packaged.values() if _world_and_grid(path) == (world.name, world.grid.name)]
        return LearnedOperator(of_world[0], threads) if of_world else None
    path = packaged.get(str(name_or_file), Path(name_or_file))
    if not path.is_file():
        known = ", ".join([*packaged, NO_OPERATOR])
        raise ModelFileError(f"no observation operator {str(name_or_file)!r}: not a file, and the known are {known}")
    operator = LearnedOperator(path, threads)
    if (operator.world, operator.grid.name) != (world.name, world.grid.name):
        raise ModelFileError(
            f"operator {operator.name} carries the statistics of world {operator.world!r} on {operator.grid.name}, "
            f"not of {world.name!r} on {world.grid.name}"
        )
    return operator


@lru_cache(maxsize=8)
def _world_and_grid(path: Path) -> tuple[str, str]:
    metadata = read_metadata(path)
    return metadata["world"], metadata["grid"]


def _check_tensors(path: Path, session: Any, shape: tuple[int, int]) -> None:
    """Raise an error where the graph's tensors are not the contract's on the grid that the metadata name."""
    for kind, tensors, names, channels in (
        ("inputs", session.get_inputs(), INPUTS, len(NAMES)),
        ("outputs", session.get_outputs(), OUTPUTS, len(LEARNED)),
    ):
        shapes = {tensor.name: (tensor.type, list(tensor.shape[1:])) for tensor in tensors}
        if shapes != dict.fromkeys(names, ("tensor(float)", [channels, *shape])):
            raise ModelFileError(
                f"{path}: its {kind} must be {' and '.join(names)}, float32 (batch, {channels}, {shape[0]}, {shape[1]})"
            )
