"""Which stations of an archive are fetched: those named, the nearest to the centre of each cell of a grid, or all."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dacycle.forecast_adapter.grid import cells, get_grid, great_circle_km
from dacycle.obs_ingest.table import ObservationError

__all__ = ["Choice", "choose"]

_FULL = 0.5
"""A station counts as full if it reports at least so much of what the fullest station of its cell does."""
_NAMED = 10
"""Most stations that a sentence names."""


@dataclass(frozen=True)
class Choice:
    """What the user asks for; one of the three.

    Attributes:
        stations: identifiers.
        grid: name of a grid: of each cell the station nearest to its centre, of those that report nearly as much as
            the fullest of the cell.
        everything: all stations that have reports.
    """

    stations: tuple[str, ...] = ()
    grid: str | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        if bool(self.stations) + (self.grid is not None) + self.everything != 1:
            raise ObservationError(
                "this archive has a file for each station: name stations (--station ID), take the nearest to the "
                "centre of each cell of a grid (--nearest-to 5.625deg), or all of them (--all)"
            )


def choose(
    choice: Choice, listed: pd.DataFrame, reports: Mapping[str, int], period: str, first: int, last: int
) -> tuple[list[str], list[str]]:
    """Choose stations that have reports in a period.

    Args:
        choice: which.
        listed: the archive's stations, see `station_lists`.
        reports: how much each station reports in the period, in any unit; others have nothing.
        period: its name, for sentences.
        first, last: its ends, in the units of the list.

    Returns:
        Their identifiers, and a sentence about each station, or each kind of station, that should have reports and has
        none.
    """
    if choice.stations:
        rows = listed.set_index("station")
        lacking = [
            f"{period}: {station} {_reason(station, rows)}" for station in choice.stations if station not in reports
        ]
        return [station for station in dict.fromkeys(choice.stations) if station in reports], lacking
    due = listed[(listed["first"] <= last) & (listed["last"] >= first)]
    silent = [station for station in due["station"] if station not in reports]
    lacking = [f"{period}: files of stations that are on the list ({len(silent)}): {_names(silent)}"] if silent else []
    if choice.grid is None:
        return sorted(reports), lacking
    present = listed[listed["station"].isin(list(reports)) & listed["latitude"].notna()]
    return _nearest(present.assign(reports=present["station"].map(reports)), choice.grid), lacking


def _reason(station: str, listed: pd.DataFrame) -> str:
    if station not in listed.index:
        return "is not on the archive's list of stations"
    first, last = listed.loc[station, ["first", "last"]]
    return f"has no file; it reported from {first} to {last}" if last else "has no file"


def _names(stations: list[str]) -> str:
    more = f" and {len(stations) - _NAMED} more" if len(stations) > _NAMED else ""
    return ", ".join(stations[:_NAMED]) + more


def _nearest(stations: pd.DataFrame, name: str) -> list[str]:
    """Return a station for each cell that has any."""
    if stations.empty:
        return []
    grid = get_grid(name)
    latitude, longitude = stations["latitude"].to_numpy(float), stations["longitude"].to_numpy(float)
    row, column = cells(grid, latitude, longitude)
    cell = row * grid.shape[1] + column
    fullest = stations["reports"].groupby(cell).transform("max")
    distance = great_circle_km(latitude, longitude, grid.latitude[row], grid.longitude[column])
    full = (stations["reports"] >= _FULL * fullest).to_numpy()
    order = np.lexsort((stations["station"].to_numpy(str), distance, ~full))
    _, first = np.unique(cell[order], return_index=True)
    return sorted(stations["station"].to_numpy(object)[order][first])
