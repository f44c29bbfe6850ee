"""Simulated stations and sondes: observations drawn from a world's reference at real positions and heights."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS, index
from dacycle.forecast_adapter.grid import interpolate_to_points
from dacycle.forecast_adapter.physics import DEWPOINT_LAPSE_RATE, LAPSE_RATE
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import ERRORS, HUMIDITY_TOP, level_parts, standard_error
from dacycle.obs_ingest.operators.columns import MSL_HEIGHT_LIMIT
from dacycle.obs_ingest.simulation.drawing import Places, Simulated, hour_of
from dacycle.obs_ingest.simulation.drawn_errors import ErrorDraw
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.station_network.stations import load_stations
from dacycle.obs_ingest.table import VARIABLES, ObservationError, site_names

__all__ = ["Sondes", "Stations"]

_PRESSURES = np.array(LEVELS, float) * 100
_DRAWN_FROM = {"td2m": "td2m", "tp": "tp6h"}
"""Variables of stations that are drawn from an extra field of the reference, and that field."""
_PRECIPITATION_THRESHOLD = 0.1  # kg m-2, the least a rain gauge reports


class _AtStations(Simulated):
    """A simulated source at the stations of a list."""

    _packaged: str

    def __init__(self, world: World, seed: int, network: Path | str | None, **options: Any) -> None:
        super().__init__(world, seed, **options)
        stations = load_stations(network, self._packaged)
        self._latitude = stations["latitude"].to_numpy(float)
        self._longitude = stations["longitude"].to_numpy(float)
        self._elevation = stations["elevation"].to_numpy(float)
        self._places = Places(
            pd.Categorical(stations["station"].astype(str)),
            site_names(self._latitude, self._longitude),
            self._latitude,
            self._longitude,
            self._elevation,
        )
        self._orography = self._at_stations(world.orography)
        self._errors = ErrorDraw(world.grid, self._latitude, self._longitude)

    @property
    def positions(self) -> NDArray[np.float64]:
        """Latitude and longitude (n, 2) of all stations of the list."""
        return np.stack([self._latitude, self._longitude], axis=1)

    def _at_stations(self, fields: NDArray) -> NDArray:
        return interpolate_to_points(fields, self.world.grid, self._latitude, self._longitude)


class Stations(_AtStations):
    """Surface stations, every 6 h: t2m, td2m, msl (below 750 m), u10, v10 and 6-h precipitation.

    Args:
        world: its reference is observed; temperature is corrected from its orography to the station's height.
        seed: the experiment's.
        name: the source's name; two sources need two names, or they draw the same numbers.
        cutoff: see `Source`.
        network: a station list (CSV); by default the packaged `station_network/stations.csv`.
        variables: the reported ones.
        gross_rate: share of values with a gross error.
        missing_rate: share of stations without a report.
        latency, latency_spread: median delay to receipt, and the standard deviation of its logarithm.
    """

    _packaged = "stations"
    VARIABLES = ("t2m", "td2m", "msl", "u10", "v10", "tp")

    def __init__(
        self,
        world: World,
        seed: int,
        name: str = "stations",
        cutoff: pd.Timedelta | None = None,
        network: Path | str | None = None,
        variables: tuple[str, ...] | list[str] = VARIABLES,
        gross_rate: float = 0.003,
        missing_rate: float = 0.03,
        latency: str = "45min",
        latency_spread: float = 0.6,
    ) -> None:
        unknown = [v for v in variables if v not in self.VARIABLES]
        if unknown:
            known = ", ".join(self.VARIABLES)
            raise ObservationError(f"source {name}: no variable {', '.join(unknown)}; known are {known}")
        super().__init__(
            world, seed, network, name=name, cutoff=cutoff, gross_rate=gross_rate, missing_rate=missing_rate,
            latency=latency, latency_spread=latency_spread,
        )  # fmt: skip
        absent = self.lacking({v: field for v, field in _DRAWN_FROM.items() if v in variables})
        self._reported = [v in variables and v not in absent for v in self.VARIABLES]

    def _draw(self, time: np.datetime64, generator: np.random.Generator, inventory: Inventory) -> pd.DataFrame:
        truth = self._truth(time)
        shared, own = zip(*(ERRORS[v].parts(x) for v, x in zip(self.VARIABLES, truth, strict=True)), strict=True)
        value = truth + self._errors.surface(np.stack(shared), np.stack(own), generator)
        t2m, td2m, tp = 0, 1, 5
        value[td2m] = np.minimum(value[td2m], value[t2m])
        value[tp] = np.where(truth[tp] > _PRECIPITATION_THRESHOLD, np.maximum(value[tp], 0), 0.0)
        error = np.stack([standard_error(v, x) for v, x in zip(self.VARIABLES, value, strict=True)])
        value = self._gross(value, error, generator)
        value[tp] = np.maximum(value[tp], 0)
        value[~np.array(self._reported)] = np.nan
        columns = {
            "value": value,
            "error": error,
            "variable": np.array([[VARIABLES.index(v)] for v in self.VARIABLES]),
            "pressure": np.array(np.nan),
            "period": np.array([[6.0 if v == "tp" else 0.0] for v in self.VARIABLES]),
        }
        return self._table(time, generator, inventory, self._places, columns, value.shape)

    def _truth(self, time: np.datetime64) -> NDArray:
        """Return the reference (6, stations) at the stations and their heights, NaN where it is not observed."""
        state = self.world.reference.array(time)
        blank = np.full(self.world.grid.shape, np.nan, np.float32)
        dewpoint, rain = blank, blank
        fields = tuple(field for v, field in _DRAWN_FROM.items() if self._reported[self.VARIABLES.index(v)])
        if fields:
            surface = self.world.reference.surface(time, fields)
            dewpoint, rain = (surface[f].values if f in surface else blank for f in _DRAWN_FROM.values())
        planes = [state[index("t2m")], dewpoint, state[index("msl")], state[index("u10")], state[index("v10")], rain]
        values = self._at_stations(np.stack(planes)).astype(float)
        lift = self._elevation - self._orography
        values[0] -= LAPSE_RATE * lift
        values[1] -= DEWPOINT_LAPSE_RATE * lift
        values[2, self._elevation > MSL_HEIGHT_LIMIT] = np.nan
        return values


class Sondes(_AtStations):
    """Radiosondes at 00 and 12 UTC: z, q, u, v, t on the 13 levels that are above ground, q up to 200 hPa.

    The options are those of `Stations`, without `variables`.
    """

    _packaged = "sondes"
    VARIABLES = ("z", "q", "u", "v", "t")

    def __init__(
        self,
        world: World,
        seed: int,
        name: str = "sondes",
        cutoff: pd.Timedelta | None = None,
        network: Path | str | None = None,
        gross_rate: float = 0.002,
        missing_rate: float = 0.05,
        latency: str = "80min",
        latency_spread: float = 0.4,
    ) -> None:
        super().__init__(
            world, seed, network, name=name, cutoff=cutoff, gross_rate=gross_rate, missing_rate=missing_rate,
            latency=latency, latency_spread=latency_spread,
        )  # fmt: skip

    def _observes(self, time: np.datetime64) -> bool:
        return bool(hour_of(time) % 12 == 0)

    def _draw(self, time: np.datetime64, generator: np.random.Generator, inventory: Inventory) -> pd.DataFrame:
        pressure = _PRESSURES[:, None]
        truth = self._at_stations(self.world.reference.array(time)[4:]).astype(float)
        truth = truth.reshape(len(self.VARIABLES), len(LEVELS), -1)
        shared, own = level_parts(self.world, time, self._latitude, self._longitude)
        value, error = truth + self._errors.soundings(shared, own, generator), np.sqrt(shared + own)
        humidity = value[self.VARIABLES.index("q")]
        np.maximum(humidity, 0, out=humidity)
        value = self._gross(value, error, generator)
        ground = self._at_stations(self.world.surface_pressure(time))
        value[:, pressure >= ground] = np.nan
        value[self.VARIABLES.index("q"), _PRESSURES < HUMIDITY_TOP] = np.nan
        columns = {
            "value": value,
            "error": error,
            "variable": np.array([[[VARIABLES.index(v)]] for v in self.VARIABLES]),
            "pressure": pressure,
            "period": np.array(0.0),
        }
        return self._table(time, generator, inventory, self._places, columns, value.shape)
