"""A state: 69 channels on a grid at a time, validated, and its WeatherBench2 form in files.

In memory a state is a float32 `xarray.DataArray` (channel, latitude, longitude) with a scalar `time`. In files it is a
dataset in the WeatherBench2 schema, which `states.netcdf_zarr` reads.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.errors import DacycleError
from dacycle.common.times import parse_time
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, CHANNELS, GROUPS, LEVELS, NAMES, WB2_NAMES, Channel
from dacycle.forecast_adapter.grid import Grid, GridError
from dacycle.forecast_adapter.physics import GRAVITY, ZERO_CELSIUS

__all__ = [
    "GROUND",
    "STEP",
    "STEP_HOURS",
    "StateError",
    "as_hour",
    "check_array",
    "check_ground",
    "check_values",
    "grid_of",
    "make_state",
    "to_arrays",
    "to_dataset",
    "validate",
]

STEP_HOURS = 6
STEP = np.timedelta64(STEP_HOURS, "h")
"""Time between two cycles, and step of every forecast model."""

GROUND = (-1000.0, 9000.0)
"""Heights of the ground on Earth, m; models' grounds overshoot at coasts."""

SURFACE = ("u10", "v10", "t2m", "msl")
UPPER = ("z", "q", "u", "v", "t")


class StateError(DacycleError, ValueError):
    """A state is missing or incomplete, in other units, on another grid, or not physical; names source and field."""


def as_hour(time: Any) -> np.datetime64:
    """Return a time (numpy, pandas or text) as datetime64[h], the key of a state; raise StateError off the hour."""
    time = parse_time(time) if isinstance(time, str) else time
    hour = np.datetime64(time, "h")
    if hour != np.datetime64(time):
        raise StateError(f"{time} is not on the hour; states are filed by the hour")
    return hour


def make_state(array: NDArray, grid: Grid, time: np.datetime64) -> xr.DataArray:
    """Wrap an array (69, H, W) in SI units as a state on `grid` at `time` (UTC)."""
    if array.shape != (CHANNEL_COUNT, *grid.shape):
        raise StateError(f"a state on {grid.name} has shape {(CHANNEL_COUNT, *grid.shape)}, not {array.shape}")
    return xr.DataArray(
        np.asarray(array, np.float32),
        dims=("channel", "latitude", "longitude"),
        coords={
            "channel": NAMES,
            "latitude": grid.latitude,
            "longitude": grid.longitude,
            "time": as_hour(time).astype("datetime64[ns]"),
        },
        name="state",
    )


def grid_of(dataset: xr.Dataset | xr.DataArray) -> Grid:
    """Return the grid of an object with latitude and longitude coordinates in dacycle's order."""
    return Grid("from file", np.asarray(dataset.latitude, float), np.asarray(dataset.longitude, float))


def validate(state: xr.DataArray, source: str, grid: Grid | None = None) -> xr.DataArray:
    """Return `state` if it is complete, ordered, finite and plausible; else raise.

    Args:
        state: (channel, latitude, longitude) with a scalar `time`.
        source: the file or process that the state came from, for the message.
        grid: the grid that the state must be on; None: any.

    Raises:
        StateError: the state is not valid; names source, channel and time, and the remedy.
    """
    if state.dims != ("channel", "latitude", "longitude"):
        raise StateError(f"{source}: a state has dimensions (channel, latitude, longitude), not {state.dims}")
    if "time" not in state.coords or state.time.ndim != 0:
        raise StateError(f"{source}: a state needs one scalar time")
    when = f"{source}, {np.datetime_as_string(state.time.values, 'h')}"
    if list(state.channel.values) != NAMES:
        missing = [name for name in NAMES if name not in state.channel.values]
        raise StateError(
            f"{when}: " + (f"channels missing: {', '.join(missing)}" if missing else "channels out of order")
        )
    try:
        state_grid = grid_of(state)
    except GridError as error:
        raise StateError(f"{when}: {error}; sort the state by its coordinates") from error
    if grid is not None and not state_grid.matches(grid):
        first = state_grid.latitude[0]
        raise StateError(
            f"{when}: the state is on a {state_grid.shape} grid from {first:g}N, not on {grid.name} {grid.shape}"
        )
    for channel, values in zip(CHANNELS, state.values, strict=True):
        check_values(channel, values, when)
    return state


def check_array(array: NDArray, grid: Grid, when: str) -> None:
    """Raise StateError unless an array (69, H, W) has the shape, and finite and plausible values, of a state on `grid`.

    Args:
        array: SI units.
        grid: of the state.
        when: its source and time, for the message.
    """
    if array.shape != (CHANNEL_COUNT, *grid.shape):
        raise StateError(f"a state on {grid.name} has shape {(CHANNEL_COUNT, *grid.shape)}, not {array.shape}")
    for channel, values in zip(CHANNELS, np.asarray(array, np.float32), strict=True):
        check_values(channel, values, when)


def check_values(channel: Channel, values: NDArray, when: str) -> None:
    """Raise StateError unless a channel's values (H, W), SI, are finite and plausible; `when` names source and time."""
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise StateError(f"{when}: {channel.name} has values that are not finite")
    if low < channel.low or high > channel.high:
        raise StateError(
            f"{when}: {channel.name} spans {low:.6g} to {high:.6g} {channel.unit}, outside the plausible "
            f"{channel.low:.6g} to {channel.high:.6g}{_hint(channel.variable, low, high)}"
        )


def check_ground(height: NDArray, source: object) -> None:
    """Raise StateError unless heights of the ground (H, W), m, are finite and between `GROUND`, naming the source."""
    low, high = np.min(height), np.max(height)
    if not (GROUND[0] <= low and high <= GROUND[1]):
        raise StateError(
            f"{source}: the ground's height spans {low:.6g} to {high:.6g} m, outside {GROUND[0]:g} to {GROUND[1]:g}; "
            "geopotential is divided by 9.80665, heights are in metres"
        )


def _hint(variable: str, low: float, high: float) -> str:
    """Return the likely cause of an implausible range; empty where there is none."""
    if variable == "z" and low > -1000 and high < 30000:
        return f"; if these are geopotential heights in metres, multiply by {GRAVITY}"
    if variable == "msl" and low > 800 and high < 1100:
        return "; if this is hPa, multiply by 100"
    if variable in ("t", "t2m") and low > -120 and high < 60:
        return f"; if this is degrees Celsius, add {ZERO_CELSIUS}"
    if variable == "q" and high > 0.05 and high < 50:
        return "; if this is g/kg, divide by 1000"
    return ""


def to_arrays(states: NDArray) -> dict[str, NDArray]:
    """Return views of states (n, 69, H, W) by their names in files: (n, H, W), or (n, 13, H, W) on levels."""
    surface = {WB2_NAMES[short]: states[:, i] for i, short in enumerate(SURFACE)}
    return surface | {WB2_NAMES[v]: states[:, GROUPS[v][0] : GROUPS[v][-1] + 1] for v in UPPER}


def from_arrays(arrays: Mapping[str, NDArray]) -> NDArray:
    """Return states (n, 69, H, W) from what `to_arrays` returns of them."""
    surface = [arrays[WB2_NAMES[short]][:, None] for short in SURFACE]
    return np.concatenate([*surface, *(arrays[WB2_NAMES[short]] for short in UPPER)], axis=1)


def to_dataset(state: xr.DataArray) -> xr.Dataset:
    """Return the state in the WeatherBench2 schema: `geopotential(time, level, latitude, longitude)`, ...

    The time dimension has length 1; values are untouched.
    """
    arrays = to_arrays(state.values[None])
    unit = {c.variable: c.unit for c in CHANNELS}
    variables: dict[str, Any] = {}
    for short in (*SURFACE, *UPPER):
        name, level = WB2_NAMES[short], ("level",) if short in UPPER else ()
        variables[name] = (("time", *level, "latitude", "longitude"), arrays[name], {"units": unit[short]})
    return xr.Dataset(
        variables,
        coords={
            "time": np.atleast_1d(state.time.values.astype("datetime64[ns]")),
            "level": ("level", np.array(LEVELS, np.int32), {"units": "hPa"}),
            "latitude": ("latitude", state.latitude.values, {"units": "degrees_north"}),
            "longitude": ("longitude", state.longitude.values, {"units": "degrees_east"}),
        },
    )
