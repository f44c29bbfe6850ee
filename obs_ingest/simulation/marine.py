"""Simulated ships and buoys: observations at sea, drawn from a world's reference.

Ships sail to and fro on the lanes of `station_network/lanes.csv`; moored buoys stand where the tropical arrays are;
drifting buoys are strewn over the oceans and float for `_LIFE` hours, after which another one floats elsewhere. What
comes onto land is silent. All positions are computed.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import index
from dacycle.forecast_adapter.grid import interpolate_to_points
from dacycle.forecast_adapter.physics import DEWPOINT_LAPSE_RATE, LAPSE_RATE
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import errors_of
from dacycle.obs_ingest.simulation.drawing import Places, Simulated, hour_of
from dacycle.obs_ingest.simulation.drawn_errors import ErrorDraw
from dacycle.obs_ingest.simulation.sphere import along, degrees, distances, unit_vectors
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.station_network.inland import is_land
from dacycle.obs_ingest.station_network.stations import packaged_list
from dacycle.obs_ingest.table import VARIABLES, ObservationError, site_names

__all__ = ["Marine"]

_SPEED = (20.0, 40.0)  # km/h of ships
_BESIDE = 60.0  # km, the standard deviation of ships' distances from the middle of their lane
_DRIFT = 0.54  # km/h, 0.15 m/s
_LIFE = 90 * 24  # h
_POLEWARD = 70.0  # degrees; buoys rarely float nearer to a pole
_MOORED = (
    ((8, 5, 2, 0, -2, -5, -8), (165, 180, -170, -155, -140, -125, -110, -95)),
    ((20, 15, 12, 4, 0), (-38, -23)),
    ((0, -6, -10), (-10, 0)),
    ((8, 4, 0, -4, -8, -12), (67, 80.5, 90)),
)
"""Latitudes and longitudes of the arrays in the tropical Pacific, Atlantic and Indian Ocean."""
_REPORTED = {"t2m": 0.9, "td2m": 0.6, "msl": 0.97, "u10": 0.9, "v10": 0.9}
"""Shares of the ships and moored buoys that measure each variable; a drifting buoy measures pressure only."""
_NAMES = ("SHIP", "51", "52")  # of ships, moored and drifting buoys, before five digits
_TRIES = 20  # places, until one is at sea


class Marine(Simulated):
    """Ships and buoys, every 6 h: t2m, td2m, msl, u10, v10 at sea level.

    Args:
        world, seed, name, cutoff, gross_rate, missing_rate, latency, latency_spread: as for `Stations`.
        buoys: drifting ones with a barometer; of the 1300 that drift, about two in three have one.
    """

    VARIABLES = tuple(_REPORTED)

    def __init__(
        self,
        world: World,
        seed: int,
        name: str = "marine",
        cutoff: pd.Timedelta | None = None,
        buoys: int = 800,
        gross_rate: float = 0.005,
        missing_rate: float = 0.1,
        latency: str = "50min",
        latency_spread: float = 0.6,
    ) -> None:
        super().__init__(world, seed, name, cutoff, gross_rate, missing_rate, latency, latency_spread)
        if buoys < 0:
            raise ObservationError(f"source {name}: buoys is {buoys!r}, below 0")
        self._buoys = buoys
        self._dewpoint = "td2m" not in self.lacking({"td2m": "td2m"})

    def _draw(self, time: np.datetime64, generator: np.random.Generator, inventory: Inventory) -> pd.DataFrame:
        places, measured = self._places(hour_of(time))
        truth = np.where(measured, self._truth(time, places), np.nan)
        parts = [errors_of("marine", v).parts(x) for v, x in zip(self.VARIABLES, truth, strict=True)]
        shared, own = (np.stack(part) for part in zip(*parts, strict=True))
        drawn = ErrorDraw(self.world.grid, places.latitude, places.longitude)
        value, error = truth + drawn.surface(shared, own, generator), np.sqrt(shared + own)
        value[1] = np.where(value[1] > value[0], value[0], value[1])  # the air is saturated at most
        columns = {
            "value": self._gross(value, error, generator),
            "error": error,
            "variable": np.array([[VARIABLES.index(v)] for v in self.VARIABLES]),
            "pressure": np.array(np.nan),
            "period": np.array(0.0),
        }
        return self._table(time, generator, inventory, places, columns, value.shape)

    def _truth(self, time: np.datetime64, places: Places) -> NDArray[np.float64]:
        """Return the reference (5, n) at sea level, NaN where it has no dewpoint."""
        state, ground = self.world.reference.array(time), self.world.orography
        dewpoint = np.full(self.world.grid.shape, np.nan, np.float32)
        if self._dewpoint:
            dewpoint = self.world.reference.surface(time, ("td2m",))["td2m"].values
        planes = np.stack([state[index("t2m")], dewpoint, *(state[index(v)] for v in self.VARIABLES[2:]), ground])
        *values, ground = interpolate_to_points(planes, self.world.grid, places.latitude, places.longitude).astype(
            float
        )
        values[0] += LAPSE_RATE * ground
        values[1] += DEWPOINT_LAPSE_RATE * ground
        return np.stack(values)

    def _places(self, hour: int) -> tuple[Places, NDArray[np.bool_]]:
        """Return the n platforms at sea at an hour since 1970, and whether they measure the five variables (5, n)."""
        ships, moored, drifting = self._ships(hour), self._moored(), self._drifting(hour)
        fleets = zip(_NAMES, (ships, moored, drifting), strict=True)
        names = [f"{kind}{i:05d}" for kind, fleet in fleets for i in range(len(fleet))]
        latitude, longitude = degrees(np.concatenate([ships, moored, drifting]))
        numbers = self._numbers("instruments").random((len(names), len(_REPORTED)))
        measured = (numbers < np.array([*_REPORTED.values()])).T
        measured[4] = measured[3]  # a wind has both components
        measured[:, len(ships) + len(moored) :] = np.array([[v == "msl"] for v in self.VARIABLES])
        sea = np.nonzero(~is_land(latitude, longitude))[0]
        latitude, longitude = latitude[sea], longitude[sea]
        station = pd.Categorical(np.array(names, object)[sea])
        site, height = site_names(latitude, longitude), np.zeros(len(sea))
        return Places(station, site, latitude, longitude, height), measured[:, sea]

    def _ships(self, hour: int) -> NDArray[np.float64]:
        """Return where the ships are (n, 3), unit vectors."""
        fleet = []
        for name, lane in packaged_list("lanes").groupby("lane", sort=False):
            n, numbers = int(lane["ships"].iloc[0]), self._numbers(f"lane {name}")
            corners = unit_vectors(lane["latitude"].to_numpy(), lane["longitude"].to_numpy())
            ends = np.cumsum(distances(corners[:-1], corners[1:]))
            sailed = numbers.random(n) * 2 * ends[-1] + numbers.uniform(*_SPEED, n) * hour
            sailed = np.abs((sailed + ends[-1]) % (2 * ends[-1]) - ends[-1])  # to and fro
            leg = np.minimum(np.searchsorted(ends, sailed), len(ends) - 1)
            km = sailed - np.where(leg > 0, ends[leg - 1], 0)
            fleet.append(along(corners[leg], corners[leg + 1], km, numbers.normal(0, _BESIDE, n)))
        return np.concatenate(fleet)

    def _moored(self) -> NDArray[np.float64]:
        grids = [np.meshgrid(*array, indexing="ij") for array in _MOORED]
        return np.concatenate([unit_vectors(lat.ravel(), lon.ravel()) for lat, lon in grids])

    def _drifting(self, hour: int) -> NDArray[np.float64]:
        """Return where the drifting buoys are (n, 3), unit vectors."""
        n = self._buoys
        since = hour + self._numbers("launches").integers(0, _LIFE, n)
        life, age = np.divmod(since, _LIFE)
        floating = np.empty((n, 3))
        for number in np.unique(life):
            mine, numbers = life == number, self._numbers(f"life {number}")
            launched = _somewhere_at_sea(n, numbers)
            ways = unit_vectors(*degrees(launched + 0.1 * numbers.standard_normal((n, 3)))), numbers.rayleigh(_DRIFT, n)
            floating[mine] = along(launched, ways[0], ways[1] * age)[mine]
        return floating


def _somewhere_at_sea(n: int, numbers: np.random.Generator) -> NDArray[np.float64]:
    """Return unit vectors (n, 3) of places at sea, of the same density everywhere."""
    top = np.sin(np.deg2rad(_POLEWARD))
    latitude = np.rad2deg(np.arcsin(numbers.uniform(-top, top, (_TRIES, n))))
    longitude = numbers.uniform(-180, 180, (_TRIES, n))
    first = (~is_land(latitude, longitude)).argmax(axis=0), np.arange(n)
    return unit_vectors(latitude[first], longitude[first])
