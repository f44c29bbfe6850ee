"""Values of single reports aloft, at any pressure: the reference there, with errors as `drawn_errors` draws them."""

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS, nearest_level
from dacycle.forecast_adapter.grid import interpolate_to_points
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import errors_of
from dacycle.obs_ingest.operators.columns import between_levels
from dacycle.obs_ingest.simulation.drawing import Places
from dacycle.obs_ingest.simulation.drawn_errors import ErrorDraw
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES

__all__ = ["draw_aloft", "reference_aloft"]


def draw_aloft(
    world: World,
    time: np.datetime64,
    kind: str,
    variables: tuple[str, ...],
    places: Places,
    pressure: NDArray,
    generator: np.random.Generator,
) -> dict[str, NDArray]:
    """Return the columns of a table of v variables at n places, NaN below the model's ground.

    Args:
        world: its reference is observed.
        time: when.
        kind: whose errors they have; see `errors.model.errors_of`.
        variables: of `LEVEL_VARIABLES`, without z and q.
        places: n of them.
        pressure: (n,) Pa.
        generator: of the numbers.
    """
    columns = reference_aloft(world, time, variables, places.latitude, places.longitude)
    upper, weight = between_levels(pressure)
    each = np.arange(len(pressure))
    truth = columns[:, upper, each] * (1 - weight) + columns[:, upper + 1, each] * weight
    parts = [errors_of(kind, name).parts(x, pressure) for name, x in zip(variables, truth, strict=True)]
    shared, own = (np.stack(part) for part in zip(*parts, strict=True))
    drawn = ErrorDraw(world.grid, places.latitude, places.longitude)
    value = truth + drawn.aloft(shared, own, nearest_level(pressure), generator)
    ground = interpolate_to_points(world.surface_pressure(time), world.grid, places.latitude, places.longitude)
    return {
        "value": np.where(pressure < ground, value, np.nan),
        "error": np.sqrt(shared + own),
        "variable": np.array([[VARIABLES.index(name)] for name in variables]),
        "pressure": pressure,
        "period": np.array(0.0),
    }


def reference_aloft(
    world: World, time: np.datetime64, variables: tuple[str, ...], latitude: NDArray, longitude: NDArray
) -> NDArray[np.float64]:
    """Return the reference's columns (v, 13, n) of variables at n places."""
    state = world.reference.array(time)[4:].reshape(len(LEVEL_VARIABLES), len(LEVELS), *world.grid.shape)
    chosen = state[[LEVEL_VARIABLES.index(name) for name in variables]]
    columns = interpolate_to_points(chosen.reshape(-1, *world.grid.shape), world.grid, latitude, longitude)
    return columns.reshape(len(variables), len(LEVELS), -1).astype(float)
