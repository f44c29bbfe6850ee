"""The readers under test: each reads inputs, and what it returns is judged. A DacycleError is a refusal."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dacycle.assimilators.base import load_assimilator
from dacycle.common.errors import DacycleError
from dacycle.forecast_adapter.channels import CHANNELS
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.states.points import read_orography, read_points
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, load_world
from dacycle.obs_ingest.quality.limits import beyond_limits
from dacycle.obs_ingest.sources.base import Source, build_source
from dacycle.obs_ingest.sources.ingested import TableFolder, window_file
from dacycle.obs_ingest.table import VARIABLES, check_table
from dacycle.obs_ingest.window import Window
from tests.worlds import make_world

ROOT = Path(__file__).parents[2]

RANGES = {
    "t2m": (150, 350), "msl": (80000, 115000), "u10": (-150, 150), "v10": (-150, 150), "z": (-15000, 700000),
    "q": (-0.01, 0.1), "u": (-300, 300), "v": (-300, 300), "t": (100, 400), "orography": (-1000, 9000),
    "tp6h": (-1, 2000), "olr": (0, 600), "td2m": (100, 350), "ps": (30000, 115000),
}  # fmt: skip
"""Range of each variable of a state that no atmosphere leaves, SI: wider than the product's own checks."""


class ImplausibleError(Exception):
    """A reader returned a value that cannot be."""


@lru_cache(maxsize=1)
def tiny() -> World:
    """Return a world of one state."""
    folder = tempfile.mkdtemp(prefix="dacycle-fuzz-")
    atexit.register(shutil.rmtree, folder)
    return load_world(make_world(Path(folder), days=0))


def read_observations(kind: str, time: str, paths: list[Path], **options: str) -> None:
    """Read the observations of a window."""
    source = build_source({"source": kind, "path": [str(path) for path in paths], **options}, None, 0)
    _check_observations(kind, source, Window(np.datetime64(time)))


def read_table(paths: list[Path]) -> None:
    """Read a window that `dacycle ingest` made."""
    window = Window(np.datetime64("2017-01-01T06"))
    shutil.copy(paths[0], window_file(paths[0].parent, window.time))
    _check_observations("table", TableFolder(paths[0].parent), window)


def _check_observations(kind: str, source: Source, window: Window) -> None:
    table, inventory = source.read(window)
    check_table(table, kind)
    values = table["value"].to_numpy()
    if not np.isfinite(values).all():
        raise ImplausibleError(f"{kind}: a value is not finite")
    if not (np.abs(table["latitude"]) <= 90).all() or not (np.abs(table["longitude"]) <= 360).all():
        raise ImplausibleError(f"{kind}: a position is not on Earth")
    if not (table["error"].to_numpy() > 0).all():
        raise ImplausibleError(f"{kind}: an error is not positive")
    if sum(inventory.values.values()) != len(table):
        raise ImplausibleError(f"{kind}: the inventory counts {inventory.values}, the table has {len(table)} rows")
    codes = table["variable"].array.codes
    wild = ~beyond_limits(codes, values) & (np.abs(values) > 3e5)
    if wild.any():
        raise ImplausibleError(f"{kind}: {VARIABLES[codes[wild][0]]} of {values[wild][0]} passes the limits")


def _check(name: str, values: np.ndarray) -> None:
    low, high = RANGES[name]
    if not np.isfinite(values).all() or values.min() < low or values.max() > high:
        raise ImplausibleError(f"{name} from {values.min()} to {values.max()}")


def _check_surface(fields: xr.Dataset) -> None:
    for name, values in fields.items():
        _check(str(name), values.values)


def read_states(paths: list[Path]) -> None:
    """Read all that a product holds, of its first four times."""
    source = open_states(paths[0])
    for time in source.times[:4]:
        absent = set(source.gaps(time))
        for channel in CHANNELS:
            if channel.name not in absent:
                _check(channel.variable, source.fields(time, [channel.name]).values)
        _check_surface(source.surface(time))


def read_fields(paths: list[Path]) -> None:
    """Read single fields, or the heights of the ground."""
    refusals = []
    for read in (read_points, read_orography):
        try:
            fields = read(paths[0])
        except DacycleError as error:
            refusals.append(error)
            continue
        for name, values in fields.values.items():
            _check(name, values)
    if len(refusals) == 2:
        raise refusals[0]


def read_store(paths: list[Path]) -> None:
    """Read the states of a Zarr store, which comes as a ZIP archive."""
    folder = paths[0].with_suffix(".zarr")
    shutil.unpack_archive(paths[0], folder)
    try:
        read_states([folder])
    finally:
        shutil.rmtree(folder)


def run_model(paths: list[Path]) -> None:
    """Load a forecast model and run a step."""
    model = load_model(paths[0])
    frame = np.full((1, len(CHANNELS), *model.grid.shape), 250, np.float32)
    for state in model.forecast(frame, frame, 1):
        if not np.isfinite(state).all():
            raise ImplausibleError("a forecast that is not finite")


def load_classical(paths: list[Path]) -> None:
    """Load a classical method."""
    load_assimilator(paths[0], load_world("demonstration"))


def run_assimilator(paths: list[Path]) -> None:
    """Load a learnt method and run it without observations."""
    method = load_assimilator(paths[0], tiny())
    background = tiny().reference.array(tiny().reference.times[0])[None]
    nothing = np.zeros((1, len(CHANNELS) + len(method.planes), *method.grid.shape), np.float32)
    method.analyse(background, nothing, nothing)


def read_reference(paths: list[Path]) -> None:
    """Read the states and surface fields of a reference."""
    folder = Path(tempfile.mkdtemp(dir=paths[0].parent))
    try:
        shutil.copy(paths[0], folder / "2024-01-01.nc")
        reference = Reference(folder)
        for time in reference.times:
            state = reference.state(time)
            for channel in CHANNELS:
                _check(channel.variable, state.sel(channel=channel.name).values)
            _check_surface(reference.surface(time, reference.surface_names(time)))
    finally:
        shutil.rmtree(folder)


def read_world(paths: list[Path]) -> None:
    """Open a world whose description is the input."""
    folder = Path(tempfile.mkdtemp(dir=paths[0].parent))
    try:
        for path in (ROOT / "deploy/worlds/demonstration").iterdir():
            os.symlink(path, folder / path.name) if path.name != "world.yaml" else None
        shutil.copy(paths[0], folder / "world.yaml")
        load_world(folder)
    finally:
        shutil.rmtree(folder)


def load(read: Callable[[Path], Any], paths: list[Path]) -> None:
    """Read a file of settings."""
    read(paths[0])
