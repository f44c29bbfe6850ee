"""Simulated stations and sondes: observations drawn from a world's reference at real positions and heights.

A value is the reference at the station, plus an error that `drawn_errors` draws; the stations in a cell of the world's
grid share a part of it. Gross errors, missing reports and late reports occur as in practice. A draw is a pure function
of (seed, name, time), in any process and after any other draw. An error that grows with the value is computed from the
observed value or from climatology: computed from the true value, it would tell the assimilator the truth.
"""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS, index
from dacycle.forecast_adapter.grid import interpolate_to_points
from dacycle.forecast_adapter.physics import DEWPOINT_LAPSE_RATE, LAPSE_RATE
from dacycle.forecast_adapter.worlds.reference import EXTRA_FIELDS
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import ERRORS, HUMIDITY_TOP, level_parts, standard_error
from dacycle.obs_ingest.operators.columns import MSL_HEIGHT_LIMIT
from dacycle.obs_ingest.simulation.drawn_errors import ErrorDraw
from dacycle.obs_ingest.sources.base import Inventory, duration, take_inventory
from dacycle.obs_ingest.station_network.stations import load_stations
from dacycle.obs_ingest.table import VARIABLES, ObservationError, empty_table, make_table, site_names
from dacycle.obs_ingest.window import Window

__all__ = ["Simulated", "Sondes", "Stations", "hour_of"]

logger = logging.getLogger(__name__)

_PRESSURES = np.array(LEVELS, float) * 100
_DRAWN_FROM = {"td2m": "td2m", "tp": "tp6h"}
"""Variables of stations that are drawn from an extra field of the reference, and that field."""
_PRECIPITATION_THRESHOLD = 0.1  # kg m-2, the least a rain gauge reports


class Simulated(ABC):
    """A simulated source: the seeded draw, late and missing reports, gross errors, the table."""

    def __init__(
        self,
        world: World,
        seed: int,
        name: str,
        cutoff: pd.Timedelta | None,
        gross_rate: float,
        missing_rate: float,
        latency: str,
        latency_spread: float,
    ) -> None:
        for option, value in (("gross_rate", gross_rate), ("missing_rate", missing_rate)):
            if not 0 <= value < 1:
                raise ObservationError(f"source {name}: {option} is {value!r}, not a share in [0, 1)")
        if latency_spread < 0:
            raise ObservationError(f"source {name}: latency_spread is {latency_spread!r}, below 0")
        self.world, self.seed, self.name, self.cutoff = world, seed, name, cutoff
        self._gross_rate, self._missing_rate = gross_rate, missing_rate
        self._latency = duration(latency, f"source {name}: latency").total_seconds()
        self._spread = latency_spread

    def lacking(self, fields: Mapping[str, str]) -> list[str]:
        """Return the variables, given with the extra fields they are drawn from, that the reference lacks; log them."""
        reference = self.world.reference
        if not fields or not len(reference.times):
            return []
        there = reference.surface_names(reference.times[0])
        absent = [variable for variable, field in fields.items() if field not in there]
        if absent:
            logger.warning(
                "source %s: %s has no %s, so %s is not observed; `dacycle dataset --beside` adds fields",
                self.name,
                reference.folder,
                ", ".join(EXTRA_FIELDS[fields[variable]][0] for variable in absent),
                ", ".join(absent),
            )
        return absent

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """Draw the observations at the window's analysis time, if there are any then."""
        inventory = Inventory(self.name)
        if not self._observes(window.time):
            return empty_table(), inventory
        table = self._draw(window.time, self._generator(window.time), inventory)
        return table, take_inventory(inventory, table, window)

    def _observes(self, time: np.datetime64) -> bool:
        return bool(hour_of(time) % 6 == 0)

    @abstractmethod
    def _draw(self, time: np.datetime64, generator: np.random.Generator, inventory: Inventory) -> pd.DataFrame:
        """Draw the observations at `time`; missing reports are counted in the inventory."""

    def _generator(self, time: np.datetime64) -> np.random.Generator:
        key = f"{self.seed}|{self.name}|{np.datetime_as_string(time, 'h')}"
        return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big"))

    def _received(self, time: np.datetime64, generator: np.random.Generator, n: int) -> NDArray[np.datetime64]:
        """Draw times of receipt (n,): the latency is log-normal about its median, so that a few are very late."""
        seconds = self._latency * np.exp(self._spread * generator.standard_normal(n))
        return time.astype("datetime64[s]") + seconds.astype("timedelta64[s]")

    def _gross(self, values: NDArray, errors: NDArray, generator: np.random.Generator) -> NDArray:
        """Return the values, a share of them with a gross error of 8 to 25 standard errors of either sign."""
        wrong = generator.random(values.shape) < self._gross_rate
        size = generator.uniform(8, 25, values.shape) * np.where(generator.random(values.shape) < 0.5, -1, 1)
        return np.where(wrong, values + size * errors, values)


class _AtStations(Simulated):
    """A simulated source at the stations of a list."""

    _packaged: str

    def __init__(self, world: World, seed: int, network: Path | str | None, **options: Any) -> None:
        super().__init__(world, seed, **options)
        stations = load_stations(network, self._packaged)
        self._latitude = stations["latitude"].to_numpy(float)
        self._longitude = stations["longitude"].to_numpy(float)
        self._elevation = stations["elevation"].to_numpy(float)
        self._site = site_names(self._latitude, self._longitude)
        self._station = pd.Categorical(stations["station"].astype(str))
        self._orography = self._at_stations(world.orography)
        self._errors = ErrorDraw(world.grid, self._latitude, self._longitude)

    @property
    def positions(self) -> NDArray[np.float64]:
        """Latitude and longitude (n, 2) of all stations of the list."""
        return np.stack([self._latitude, self._longitude], axis=1)

    def _at_stations(self, fields: NDArray) -> NDArray:
        return interpolate_to_points(fields, self.world.grid, self._latitude, self._longitude)

    def _table(
        self,
        time: np.datetime64,
        generator: np.random.Generator,
        inventory: Inventory,
        columns: Mapping[str, NDArray],
        shape: tuple[int, ...],
    ) -> pd.DataFrame:
        """Return the rows of the finite values; the reports of some stations are missing.

        Args:
            time, generator, inventory: as for `_draw`.
            columns: value, error, variable, pressure and period, each broadcast to `shape`.
            shape: (..., stations). Each station's values are received together.
        """
        n = len(self._latitude)
        sent = generator.random(n) >= self._missing_rate
        received = self._received(time, generator, n)
        full = {name: np.broadcast_to(field, shape) for name, field in columns.items()}
        present = np.isfinite(full["value"])
        inventory.found, inventory.decoded = n, int(sent.sum())
        inventory.missing = n - inventory.decoded
        rows = np.nonzero(present & sent)
        station = rows[-1]
        values = {name: field[rows] for name, field in full.items()}
        return make_table(
            time=np.broadcast_to(time.astype("datetime64[s]"), len(station)).copy(),
            received=received[station],
            site=self._site[station],
            station=self._station[station],
            latitude=self._latitude[station],
            longitude=self._longitude[station],
            elevation=self._elevation[station],
            source=self.name,
            **values,
        )


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
        return self._table(time, generator, inventory, columns, value.shape)

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
        return self._table(time, generator, inventory, columns, value.shape)


def hour_of(time: np.datetime64) -> int:
    """Return the hours since 1970-01-01T00."""
    return int(time.astype("datetime64[h]").astype(int))
