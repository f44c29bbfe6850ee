"""Doubles for tests: a tiny world and a forecast model with the true contract, both made up but physically plausible.

The truth is a profile per channel plus smooth anomalies that move one grid column eastward every six hours, damped by
`DAMPING` and refreshed by noise. The model knows the movement and the damping, not the noise, and takes the share
`MEMORY` of what it moves from the older frame. The climatology changes with the season; it is the profile on 1 January.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import xarray as xr
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.ndimage import gaussian_filter

from dacycle.assimilators.base import Analysis, register
from dacycle.forecast_adapter.channels import CHANNELS, NAMES
from dacycle.forecast_adapter.grid import Grid, get_grid
from dacycle.forecast_adapter.models.model import forecast_metadata
from dacycle.forecast_adapter.models.onnxfile import write_metadata
from dacycle.forecast_adapter.state import make_state, to_dataset
from dacycle.forecast_adapter.statistics import Statistics
from dacycle.forecast_adapter.worlds.reference import write_times

GRID = get_grid("5.625deg")
START = np.datetime64("2024-01-01T00", "h")
DAMPING = 0.97
MEMORY = 0.3


def standard_height(level: float) -> float:
    """Return the height (m) of a pressure level (hPa) in the standard atmosphere."""
    if level > 226.32:
        return 44330.8 * (1 - (level / 1013.25) ** 0.190263)
    return 11000 + 6341.62 * np.log(226.32 / level)


def profile() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean and standard deviation (69,) of the truth, SI."""
    surface = {"u10": (2.0, 4.0), "v10": (0.0, 4.0), "t2m": (288.0, 4.0), "msl": (101325.0, 600.0)}
    pairs = []
    for channel in CHANNELS:
        height = standard_height(channel.level or 1000)
        humidity = 0.009 * np.exp(-height / 2500.0) + 3e-6
        upper = {
            "z": (9.80665 * height, 150.0 + 0.02 * height),
            "q": (humidity, 0.12 * humidity),
            "u": (12.0, 4.0 + 1e-4 * height),
            "v": (0.0, 3.5 + 1e-4 * height),
            "t": (max(288.15 - 0.0065 * height, 216.65), 3.0 - 5e-5 * height),
        }
        pairs.append(surface[channel.name] if channel.level is None else upper[channel.variable])
    mean, std = np.array(pairs, np.float32).T
    return mean, std


def smooth(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return (count, H, W) random fields of mean 0 and variance about 1, smooth and periodic in longitude."""
    noise = rng.standard_normal((count, *GRID.shape))
    fields = gaussian_filter(noise, (0, 2, 3), mode=("nearest", "nearest", "wrap"))
    return fields / fields.std()


def make_world(folder: Path, days: int, seed: int = 0, name: str = "tiny") -> Path:
    """Write a world of 6-hourly states from 2024-01-01T00 over `days`; return its folder."""
    rng = np.random.default_rng(seed)
    mean, std = profile()
    folder.mkdir(parents=True, exist_ok=True)
    orography = 600 * np.maximum(smooth(rng, 1)[0], 0)
    land = (orography > 0).astype(np.float32)
    anomaly, states = smooth(rng, len(NAMES)), []
    for step in range(4 * days + 1):
        array = mean[:, None, None] + std[:, None, None] * anomaly
        state = to_dataset(make_state(array.astype(np.float32), GRID, START + 6 * step))
        states.append(state.assign(surface_fields(array, anomaly, orography)))
        fresh = np.sqrt(1 - DAMPING**2) * smooth(rng, len(NAMES))
        anomaly = DAMPING * np.roll(anomaly, 1, axis=-1) + fresh
    write_times(xr.concat(states, "time", data_vars="minimal"), folder / "reference/2024-01-01.nc")
    write_constants(folder, name, GRID, orography, land)
    return folder


def forecast_by_hand(previous: NDArray, current: NDArray, steps: int, scale: float = DAMPING) -> NDArray[np.float64]:
    """Return the state (69, H, W) that the model of `make_model` reaches after so many steps, from its definition."""
    mean = profile()[0][:, None, None].astype(np.float64)
    older, newer = previous - mean, current - mean
    for _ in range(steps):
        moving = (1 - MEMORY) * newer + MEMORY * DAMPING * np.roll(older, 1, axis=-1)
        older, newer = newer, scale * np.roll(moving, 1, axis=-1)
    return mean + newer


def make_model(path: Path, world: str = "tiny", scale: float = DAMPING) -> Path:
    """Write the double of a forecast model; of what it moves one column to the east, a share is the older frame's.

    With anomalies a from the profile, and R the movement by a column,
    a(t+6h) = scale R ((1 - MEMORY) a(t) + MEMORY DAMPING R a(t-6h)),
    which is scale R a(t) where the newer frame is the older one moved and damped.

    The contract is the true one: (B, 138, H, W) in, both frames; (B, 138, H, W) out, of which the last 69 are not for
    use and NaN here.
    """
    mean, _ = profile()
    constants = {
        "first": np.array([69]), "end": np.array([138]), "channel_axis": np.array([1]),
        "last_column": np.array([-1]), "width": np.array([GRID.shape[1]]), "zero": np.array([0]),
        "longitude_axis": np.array([3]), "mean": mean[None, :, None, None].astype(np.float32),
        "newer_share": np.array(1 - MEMORY, np.float32), "older_share": np.array(MEMORY * DAMPING, np.float32),
        "scale": np.array(scale, np.float32), "nan": np.array(np.nan, np.float32),
    }  # fmt: skip

    def moved(name: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Slice", [name, "last_column", "width", "longitude_axis"], [f"{name}_east"]),
            helper.make_node("Slice", [name, "zero", "last_column", "longitude_axis"], [f"{name}_west"]),
            helper.make_node("Concat", [f"{name}_east", f"{name}_west"], [f"{name}_moved"], axis=3),
        ]

    nodes = [
        helper.make_node("Slice", ["input", "zero", "first", "channel_axis"], ["previous"]),
        helper.make_node("Slice", ["input", "first", "end", "channel_axis"], ["current"]),
        helper.make_node("Sub", ["previous", "mean"], ["older"]),
        helper.make_node("Sub", ["current", "mean"], ["newer"]),
        *moved("older"),
        helper.make_node("Mul", ["older_moved", "older_share"], ["of_older"]),
        helper.make_node("Mul", ["newer", "newer_share"], ["of_newer"]),
        helper.make_node("Add", ["of_older", "of_newer"], ["moving"]),
        *moved("moving"),
        helper.make_node("Mul", ["moving_moved", "scale"], ["damped"]),
        helper.make_node("Add", ["damped", "mean"], ["next"]),
        helper.make_node("Mul", ["next", "nan"], ["unused"]),
        helper.make_node("Concat", ["next", "unused"], ["output"], axis=1),
    ]
    shape = ["batch", 138, *GRID.shape]
    graph = helper.make_graph(
        nodes,
        "double",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    write_metadata(path, forecast_metadata("double", "1", GRID.name, world))
    return path


@dataclass(frozen=True)
class Nudge:
    """The double of an assimilator: every observed cell moves by `weight` of its departure, no other."""

    world: str
    weight: float = 0.5
    grid: Grid = GRID
    name: str = "nudge"
    digest: str = ""
    planes: tuple[str, ...] = ()

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Return the background moved towards the values, as `Assimilator.analyse` does."""
        channels = background.shape[1]
        departure = np.where(errors[:, :channels] > 0, values[:, :channels] - background, 0)
        return Analysis((background + self.weight * departure).astype(np.float32))


def register_doubles() -> None:
    """Make `nudge` known as an assimilator, and `wild`, whose analyses are not finite."""
    register("nudge", lambda world, threads: Nudge(world.name, grid=world.grid))
    register("wild", lambda world, threads: Nudge(world.name, weight=np.nan, name="wild"))


def surface_fields(array: NDArray, anomaly: NDArray, orography: NDArray) -> dict[str, tuple]:
    """Return the surface fields of a reference file, from a state (69, H, W) and its normalised anomaly."""
    t2m, msl = array[NAMES.index("t2m")], array[NAMES.index("msl")]
    pressure = msl * (1 - 0.0065 * orography / 288.15) ** 5.257
    fields = {
        "total_precipitation_6hr": 0.002 * np.maximum(anomaly[NAMES.index("q700")], 0),
        "outgoing_longwave_radiation": 240 - 15 * anomaly[NAMES.index("q500")],
        "2m_dewpoint_temperature": t2m - 4,
        "surface_pressure": pressure,
    }
    return {k: (("time", "latitude", "longitude"), v[None].astype(np.float32)) for k, v in fields.items()}


def write_constants(folder: Path, name: str, grid: Grid, orography: NDArray, land: NDArray) -> None:
    """Write everything of a world beside its reference.

    Its climate is the profile on 1 January, and from there rises by 0.06 standard deviations a day at 90 degrees
    north and falls as much at 90 degrees south.
    """
    mean, std = profile()
    Statistics(mean, std, name, "made up").save(folder / "statistics.nc")
    amplitude = std[:, None, None] * np.sin(np.radians(grid.latitude))[:, None] * np.ones(grid.shape[1])
    harmonics = np.array([0.5, 2.0, -0.5, 0.75])  # cos, sin, cos 2, sin 2 of the day of the year
    coefficients = np.concatenate(
        [np.broadcast_to(mean[:, None, None], amplitude.shape)[None], harmonics[:, None, None, None] * amplitude]
    ).astype(np.float32)
    place = {"latitude": grid.latitude, "longitude": grid.longitude}
    climatology = {"coefficients": (("term", "channel", "latitude", "longitude"), coefficients)}
    xr.Dataset(climatology, {"channel": NAMES, **place}).to_netcdf(folder / "climatology.nc", engine="h5netcdf")
    static = {
        "geopotential_at_surface": (("latitude", "longitude"), (9.80665 * orography).astype(np.float32)),
        "land_sea_mask": (("latitude", "longitude"), land),
    }
    xr.Dataset(static, place).to_netcdf(folder / "static.nc", engine="h5netcdf")
    (folder / "world.yaml").write_text(f"name: {name}\ngrid: {grid.name}\ndescription: a double for tests\n")
