"""Reports of one level aloft, of aircraft for instance: one record each whatever its format, and their table.

A reader fills records (`new_aloft`, `put_aloft_wind`). A report that is left out says why in `reason`; the inventory
counts it with the window that it belongs to.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import wind_components
from dacycle.obs_ingest.errors.model import HUMIDITY_TOP, standard_error
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.table import VARIABLES, empty_table, make_table, site_names

__all__ = ["ALOFT", "LEFT_OUT", "aloft_table", "new_aloft", "put_aloft_wind"]

_VALUES = ("u", "v", "t", "q", "z")

LEFT_OUT = (
    "",
    "report without a height",
    "report from an impossible height",
    "report of low quality",
    "motion vector of clear sky",
    "report rejected by its provider",
    "report of an aircraft in a turn or in unsteady flight",
    "report of another type",
)
"""Why reports are left out; a record's `reason` is the position in this list."""

ALOFT = np.dtype(
    [
        ("time", "M8[s]"),
        ("received", "M8[s]"),
        ("version", "u4"),
        ("station", object),
        ("name", object),
        ("latitude", "f8"),
        ("longitude", "f8"),
        ("elevation", "f8"),
        ("pressure", "f8"),
        ("reason", "u1"),
        ("undirected", "u1"),
        ("flagged", "u1"),
    ]
    + [(name, "f8") for name in _VALUES]
)
"""A report: UTC, degrees, Pa, SI. `name` is the table's station, empty for places; `station` tells reports of one time
apart. `undirected` counts the values of a wind without a direction, `flagged` those that the provider rejects."""

_HIGHEST, _LOWEST = 1000.0, 110000.0  # Pa; nothing observes above or below


def new_aloft(n: int) -> NDArray:
    """Return (n,) records in which every value is unknown."""
    records = np.zeros(n, ALOFT)
    for name in ("time", "received"):
        records[name] = np.datetime64("NaT")
    for name in ("latitude", "longitude", "elevation", "pressure", *_VALUES):
        records[name] = np.nan
    for name in ("station", "name"):
        records[name] = ""
    return records


def put_aloft_wind(records: NDArray, direction: NDArray, speed: NDArray) -> None:
    """Set u and v from the direction (degrees) the wind blows from and its speed (m/s), as `surface.put_wind` does."""
    present = np.isfinite(speed) & (speed >= 0)
    usable = present & ((speed == 0) | ((direction > 0) & (direction <= 360)))
    records["undirected"] = 2 * (present & ~usable)
    for name, component in zip(("u", "v"), wind_components(direction, speed), strict=True):
        records[name] = np.where(usable, component, np.nan)


def aloft_table(records: NDArray, source: str, kind: str, inventory: Inventory) -> pd.DataFrame:
    """Return the observation table of records.

    Args:
        records: (n,) of `ALOFT`.
        source: the source's name.
        kind: whose errors they have; see `errors.model.errors_of`.
        inventory: gets the numbers of reports and values that are left out.
    """
    reason = records["reason"].copy()
    with np.errstate(invalid="ignore"):
        beyond = (records["pressure"] < _HIGHEST) | (records["pressure"] > _LOWEST)
    reason[(reason == 0) & beyond] = LEFT_OUT.index("report from an impossible height")
    reason[(reason == 0) & np.isnan(records["pressure"])] = LEFT_OUT.index("report without a height")
    for i, sentence in enumerate(LEFT_OUT):
        if sentence:
            inventory.skip(sentence, int((reason == i).sum()))
    inventory.decoded -= int((reason > 0).sum())
    records = records[reason == 0]
    inventory.skip("wind without a direction", int(records["undirected"].sum()))
    inventory.skip("value rejected by its provider", int(records["flagged"].sum()))
    values = np.stack([records[name] for name in _VALUES])
    values[_VALUES.index("q"), records["pressure"] < HUMIDITY_TOP] = np.nan
    which, who = np.nonzero(np.isfinite(values))
    if not len(who):
        return empty_table()
    sites = site_names(records["latitude"], records["longitude"])
    names = np.where(records["name"] == "", np.asarray(sites, object), records["name"])
    errors = np.stack(
        [standard_error(name, value, records["pressure"], kind) for name, value in zip(_VALUES, values, strict=True)]
    )
    return make_table(
        time=records["time"][who],
        period=0.0,
        received=records["received"][who],
        site=sites[who],
        station=pd.Categorical(names)[who],
        latitude=records["latitude"][who],
        longitude=records["longitude"][who],
        elevation=records["elevation"][who],
        pressure=records["pressure"][who],
        variable=np.array([VARIABLES.index(name) for name in _VALUES])[which],
        value=values[which, who],
        error=errors[which, who],
        source=source,
    )
