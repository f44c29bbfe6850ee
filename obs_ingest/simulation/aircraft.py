"""Simulated aircraft: reports from flights between airports, drawn from a world's reference.

Each draw has other flights. Their airports and distances follow the traffic of `station_network/airports.csv`, whose
weights are larger where airlines report. A flight follows the great circle. Far from its airports it gives one report
at its cruising level; while it climbs or descends, the reports of that part of the flight.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import standard_pressure
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.simulation.aloft import draw_aloft
from dacycle.obs_ingest.simulation.drawing import Places, Simulated
from dacycle.obs_ingest.simulation.sphere import along, degrees, distances, unit_vectors
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.station_network.stations import packaged_list
from dacycle.obs_ingest.table import ObservationError, site_names

__all__ = ["Aircraft"]

_SHORTEST = 300.0  # km of a flight
_USUAL = 1500.0  # km; the number of flights falls with the distance by this scale
_LONG, _LONG_HAUL = 0.15, 6000.0  # share of the flights whose number falls by this scale, km
_CLIMB = 200.0  # km on which a flight climbs, and descends
_LEVELS = np.array([290, 310, 330, 350, 370, 390, 410]) * 30.48
_LOW_LEVELS = np.array([240, 260, 280, 300, 320]) * 30.48
"""Cruising levels of long flights and of those below `_USUAL`, m."""
_REPORTS = np.array([100, 400, 800, 1200, 1700, 2300, *range(3000, 13000, 1000)])
"""Heights above the airport of the reports on climb and descent, m."""


class Aircraft(Simulated):
    """Reports of aircraft, every 6 h: u, v, t at the pressures of their flight levels.

    Args:
        world, seed, name, cutoff, gross_rate, missing_rate, latency, latency_spread: as for `Stations`.
        flights: in the air at once, of those that report: more than half of all.
    """

    VARIABLES = ("u", "v", "t")

    def __init__(
        self,
        world: World,
        seed: int,
        name: str = "aircraft",
        cutoff: pd.Timedelta | None = None,
        flights: int = 6000,
        gross_rate: float = 0.003,
        missing_rate: float = 0.02,
        latency: str = "30min",
        latency_spread: float = 0.7,
    ) -> None:
        super().__init__(world, seed, name, cutoff, gross_rate, missing_rate, latency, latency_spread)
        if flights < 0:
            raise ObservationError(f"source {name}: flights is {flights!r}, below 0")
        self._flights = flights
        airports = packaged_list("airports")
        self._airports = unit_vectors(airports["latitude"].to_numpy(), airports["longitude"].to_numpy())
        self._elevation = airports["elevation"].to_numpy()
        self._distance = distances(self._airports[:, None], self._airports)
        weight = airports["flights"].to_numpy()
        number = (
            weight[:, None] * weight * (np.exp(-self._distance / _USUAL) + _LONG * np.exp(-self._distance / _LONG_HAUL))
        )
        in_air = np.where(self._distance >= _SHORTEST, number * self._distance, 0)
        self._routes = np.cumsum(in_air) / in_air.sum()

    def _draw(self, time: np.datetime64, generator: np.random.Generator, inventory: Inventory) -> pd.DataFrame:
        flight, vectors, altitude = self._reports(generator)
        latitude, longitude = degrees(vectors)
        names = pd.Categorical.from_codes(flight, [f"AC{i:05d}" for i in range(self._flights)])
        nowhere = np.full(len(flight), np.nan)
        places = Places(names, site_names(latitude, longitude), latitude, longitude, nowhere)
        pressure = standard_pressure(altitude)
        columns = draw_aloft(self.world, time, "aircraft", self.VARIABLES, places, pressure, generator)
        columns["value"] = self._gross(columns["value"], columns["error"], generator)
        return self._table(time, generator, inventory, places, columns, columns["value"].shape)

    def _reports(self, generator: np.random.Generator) -> tuple[NDArray[np.intp], NDArray, NDArray]:
        """Return the flights (n,), places (n, 3) as unit vectors, and altitudes (n,), m, of n reports."""
        route = np.searchsorted(self._routes, generator.random(self._flights), side="right")
        start, end = np.divmod(route, len(self._airports))
        distance = self._distance[start, end]
        flown = generator.random(self._flights) * distance
        level = np.where(
            distance < _USUAL, generator.choice(_LOW_LEVELS, self._flights), generator.choice(_LEVELS, self._flights)
        )
        descends = flown > distance - _CLIMB
        cruises = np.nonzero((flown >= _CLIMB) & ~descends)[0]
        airport, other = np.where(descends, end, start), np.where(descends, start, end)
        rate = generator.uniform(0.85, 1.15, (self._flights, 1))  # no two flights report at the same heights
        above = _REPORTS * rate * ((flown < _CLIMB) | descends)[:, None]
        height = self._elevation[airport][:, None] + above
        who, which = np.nonzero((above > 0) & (height < level[:, None]))
        share = above[who, which] / (level - self._elevation[airport])[who]
        flight = np.concatenate([cruises, who])
        km = np.concatenate([flown[cruises], share * np.minimum(_CLIMB, distance[who] / 2)])
        first = np.concatenate([start[cruises], airport[who]])
        second = np.concatenate([end[cruises], other[who]])
        altitude = np.rint(np.concatenate([level[cruises], height[who, which]]))
        return flight, along(self._airports[first], self._airports[second], km), altitude
