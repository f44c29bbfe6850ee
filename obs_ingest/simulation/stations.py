"""Simulated stations and sondes: observations drawn from a world's reference as a real network would see it.

Positions and heights are real; the value is the reference at that place, plus instrument and representativeness error,
plus what goes wrong in practice: gross errors, missing reports, late reports. A draw is a pure function of
(seed, name, time), whatever was drawn before, in any process. Where an error grows with the value, it is computed from
the value observed or from climatology: computed from the true value it would tell an assimilator the truth.
"""

import hashlib
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
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import standard_error
from dacycle.obs_ingest.operators.columns import MSL_HEIGHT_LIMIT
from dacycle.obs_ingest.sources.base import Inventory, duration, take_inventory
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES, ObservationError, empty_table, make_table, site_names
from dacycle.obs_ingest.window import Window

__all__ = ["Simulated", "Sondes", "Stations", "hour_of", "level_errors", "load_network"]

HUMIDITY_TOP = 20000.0
"""Pa; sondes report no humidity above this level, where real sensors cannot measure it."""

_PRESSURES = np.array(LEVELS, float) * 100
_PRECIPITATION_THRESHOLD = 0.1  # kg m-2, the least a rain gauge reports


def load_network(path: Path | str | None, packaged: str) -> pd.DataFrame:
    """Station, latitude, longitude and elevation (m) from a CSV file, or from the packaged list if `path` is None."""
    file = Path(path) if path is not None else Path(__file__).parents[1] / "station_network" / f"{packaged}.csv"
    try:
        network = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise ObservationError(f"{file}: cannot be read as a station list: {error}") from None
    missing = [name for name in ("station", "latitude", "longitude", "elevation") if name not in network]
    if missing:
        raise ObservationError(f"{file}: a station list needs the column {', '.join(missing)}")
    bad = network[["station", "latitude", "longitude", "elevation"]].isna().any(axis=1)
    if bad.any():
        raise ObservationError(f"{file}: an empty field in line {int(bad.argmax()) + 2}")
    if network["station"].duplicated().any():
        raise ObservationError(f"{file}: {network['station'][network['station'].duplicated()].iloc[0]} is listed twice")
    return network


class Simulated(ABC):
    """What the simulated networks share: the seeded draw, late and missing reports, gross errors, the table."""

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

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """The observations of the window: those of its analysis time, where this network observes then."""
        inventory = Inventory(self.name)
        if not self._observes(window.time):
            return empty_table(), inventory
        table = self._draw(window.time, self._generator(window.time), inventory)
        return table, take_inventory(inventory, table, window)

    def _observes(self, time: np.datetime64) -> bool:
        return bool(hour_of(time) % 6 == 0)

    @abstractmethod
    def _draw(self, time: np.datetime64, generator: np.random.Generator, inventory: Inventory) -> pd.DataFrame:
        """What the network observes at `time`; what is missing is counted in the inventory."""

    def _generator(self, time: np.datetime64) -> np.random.Generator:
        key = f"{self.seed}|{self.name}|{np.datetime_as_string(time, 'h')}"
        return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big"))

    def _received(self, time: np.datetime64, generator: np.random.Generator, n: int) -> NDArray[np.datetime64]:
        """(n,) receipt times: the latency is log-normal about its median, so some reports are much later than most."""
        seconds = self._latency * np.exp(self._spread * generator.standard_normal(n))
        return time.astype("datetime64[s]") + seconds.astype("timedelta64[s]")

    def _gross(self, values: NDArray, errors: NDArray, generator: np.random.Generator) -> NDArray:
        """Values of which a share is wrong by 8 to 25 standard errors, either way."""
        wrong = generator.random(values.shape) < self._gross_rate
        size = generator.uniform(8, 25, values.shape) * np.where(generator.random(values.shape) < 0.5, -1, 1)
        return np.where(wrong, values + size * errors, values)


class _Network(Simulated):
    """Stations of a list."""

    _packaged: str

    def __init__(self, world: World, seed: int, network: Path | str | None, **options: Any) -> None:
        super().__init__(world, seed, **options)
        stations = load_network(network, self._packaged)
        self._latitude = stations["latitude"].to_numpy(float)
        self._longitude = stations["longitude"].to_numpy(float)
        self._elevation = stations["elevation"].to_numpy(float)
        self._site = site_names(self._latitude, self._longitude)
        self._station = pd.Categorical(stations["station"].astype(str))
        self._orography = self._at_stations(world.orography)

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
        """Rows of what is finite in `columns` (value, error, variable, pressure, period), broadcast to (..., stations).

        The reports of some stations are missing; each station's values arrive together.
        """
        n = len(self._latitude)
        sent = generator.random(n) >= self._missing_rate
        received = self._received(time, generator, n)
        full = {name: np.broadcast_to(field, shape) for name, field in columns.items()}
        present = np.isfinite(full["value"])
        inventory.found, inventory.decoded = n, int(sent.sum())
        inventory.missing = n - inventory.decoded
        rows = np.nonzero(present & sent)
        who = rows[-1]
        picked = {name: field[rows] for name, field in full.items()}
        return make_table(
            time=np.broadcast_to(time.astype("datetime64[s]"), len(who)).copy(),
            received=received[who],
            site=self._site[who],
            station=self._station[who],
            latitude=self._latitude[who],
            longitude=self._longitude[who],
            elevation=self._elevation[who],
            source=self.name,
            **picked,
        )


class Stations(_Network):
    """Surface stations, every 6 h: t2m, td2m, msl (below 750 m), u10, v10 and 6-h precipitation.

    Args:
        world: its reference is observed; its orography is what temperature is reduced from.
        seed: the experiment's.
        name: the source's name; two networks need two names, or they draw the same numbers.
        cutoff: see `Source`.
        network: a station list (CSV); default the packaged `station_network/stations.csv`.
        variables: which to report.
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
        self._reported = [v in variables for v in self.VARIABLES]
        super().__init__(
            world, seed, network, name=name, cutoff=cutoff, gross_rate=gross_rate, missing_rate=missing_rate,
            latency=latency, latency_spread=latency_spread,
        )  # fmt: skip

    def _draw(self, time: np.datetime64, generator: np.random.Generator, inventory: Inventory) -> pd.DataFrame:
        truth = self._truth(time)
        noise = generator.standard_normal(truth.shape)
        value = np.stack([t + standard_error(v, t) * e for v, t, e in zip(self.VARIABLES, truth, noise, strict=True)])
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
        """(6, stations) the reference at the stations, at their height; NaN where a variable is not observed."""
        state = self.world.reference.array(time)
        blank = np.full(self.world.grid.shape, np.nan, np.float32)
        dewpoint, rain = blank, blank
        if self._reported[1] or self._reported[5]:
            surface = self.world.reference.surface(time)
            dewpoint, rain = surface["td2m"].values, surface["tp6h"].values
        fields = [state[index("t2m")], dewpoint, state[index("msl")], state[index("u10")], state[index("v10")], rain]
        values = self._at_stations(np.stack(fields)).astype(float)
        lift = self._elevation - self._orography
        values[0] -= LAPSE_RATE * lift
        values[1] -= DEWPOINT_LAPSE_RATE * lift
        values[2, self._elevation > MSL_HEIGHT_LIMIT] = np.nan
        return values


class Sondes(_Network):
    """Radiosondes at 00 and 12 UTC: z, q, u, v, t on the 13 levels that are above ground, q up to 200 hPa.

    Options as for `Stations`, which see.
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
        error = level_errors(self.world, time, self._latitude, self._longitude)
        value = truth + error * generator.standard_normal(truth.shape)
        humidity = value[self.VARIABLES.index("q")]
        np.maximum(humidity, 0, out=humidity)
        value = self._gross(value, error, generator)
        ground = self._at_stations(self.world.reference.surface(time)["ps"].values)
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


def level_errors(world: World, time: np.datetime64, latitude: NDArray, longitude: NDArray) -> NDArray[np.float64]:
    """Standard deviations (5, 13, n) of z, q, u, v, t on the standard levels above n places at a time of the year.

    That of humidity is in proportion to the season's mean humidity there. In proportion to the observed value instead,
    dry errors would weigh more than moist ones.
    """
    usual = interpolate_to_points(world.climatology.at(time)[4:], world.grid, latitude, longitude).astype(float)
    usual = usual.reshape(len(LEVEL_VARIABLES), len(LEVELS), -1)
    pressure = _PRESSURES[:, None]
    pairs = zip(LEVEL_VARIABLES, usual, strict=True)
    return np.stack([standard_error(v, x, pressure) + np.zeros(usual.shape[1:]) for v, x in pairs])


def hour_of(time: np.datetime64) -> int:
    """Hours since 1970-01-01T00."""
    return int(time.astype("datetime64[h]").astype(int))
