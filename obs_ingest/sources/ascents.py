"""Soundings: one record per ascent whatever its format, and the table made of them on the standard levels."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import level_errors, standard_error
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.sounding import REJECTED, STANDARD, above_ground, standard_levels
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES, empty_table, make_table, site_names
from dacycle.obs_ingest.window import Window

__all__ = ["LEFT_OUT", "SOUNDING", "ascent_table", "put_levels"]

LEFT_OUT = (
    *REJECTED,
    "level out of order",
    "level that cannot be read",
    "value rejected by its provider",
    "impossible humidity",
    "impossible wind",
)
"""Why levels are left out, or values of levels: by `sounding`, and by a reader of a format."""

SOUNDING = np.dtype(
    [
        ("time", "M8[s]"),
        ("received", "M8[s]"),
        ("version", "u4"),
        ("station", object),
        ("latitude", "f8"),
        ("longitude", "f8"),
        ("elevation", "f8"),
        ("values", "f8", (len(LEVEL_VARIABLES), len(STANDARD))),
        ("expected", "u1"),
        ("rejected", "u4", (len(LEFT_OUT),)),
    ]
)
"""A sounding: UTC, degrees, m, SI; `expected` is how many values a complete one has."""


def put_levels(record: Any, levels: Mapping[str, NDArray], left_out: Counter[str], tolerance: float) -> None:
    """Set the values of a record on the standard levels, and the counts of what is left out.

    Args:
        record: of `SOUNDING`, with its elevation.
        levels, tolerance: see `sounding.standard_levels`.
        left_out: what the reader itself has left out, by reason of `LEFT_OUT`; gets the rest.
    """
    record["values"] = standard_levels(levels, record["elevation"], left_out, tolerance)
    record["expected"] = above_ground(levels).sum()
    record["rejected"] = [left_out[reason] for reason in LEFT_OUT]


def ascent_table(
    records: NDArray, source: str, window: Window, inventory: Inventory, world: World | None
) -> pd.DataFrame:
    """Return the observation table of soundings on the standard levels.

    Args:
        records: (n,) of `SOUNDING`.
        source: the source's name.
        window: of the cycle.
        inventory: gets the numbers of levels that are left out and of values that are missing.
        world: errors of humidity are proportional to its season's mean; None: to the observed value.
    """
    if not len(records):
        return empty_table()
    values, latitude, longitude = records["values"], records["latitude"], records["longitude"]
    for reason, count in zip(LEFT_OUT, records["rejected"].sum(axis=0).tolist(), strict=True):
        inventory.skip(reason, count)
    sounding, variable, level = np.nonzero(np.isfinite(values))
    inventory.missing = int(records["expected"].sum()) - len(sounding)
    if world is None:
        errors = [standard_error(v, values[:, i], STANDARD) for i, v in enumerate(LEVEL_VARIABLES)]
        error = np.broadcast_to(np.stack(np.broadcast_arrays(*errors), axis=1), values.shape)
    else:
        error = level_errors(world, window.time, latitude, longitude).transpose(2, 0, 1)
    return make_table(
        time=records["time"][sounding],
        period=0.0,
        received=records["received"][sounding],
        site=site_names(latitude, longitude)[sounding],
        station=pd.Categorical(records["station"])[sounding],
        latitude=latitude[sounding],
        longitude=longitude[sounding],
        elevation=records["elevation"][sounding],
        pressure=STANDARD[level],
        variable=np.array([VARIABLES.index(name) for name in LEVEL_VARIABLES])[variable],
        value=values[sounding, variable, level],
        error=error[sounding, variable, level],
        source=source,
    )
