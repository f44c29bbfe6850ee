"""What all simulated sources share: the seeded draw, late and missing reports, gross errors, the table.

A value is the reference at a place, plus an error that `drawn_errors` draws; the places in a cell of the world's grid
share a part of it. Gross errors, missing reports and late reports occur as in practice. A draw is a pure function of
(seed, name, time), in any process and after any other draw. An error that grows with the value is computed from the
observed value or from climatology: computed from the true value, it would tell the assimilator the truth.
"""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.worlds.reference import EXTRA_FIELDS
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.sources.base import Inventory, duration, take_inventory
from dacycle.obs_ingest.table import ObservationError, empty_table, make_table
from dacycle.obs_ingest.window import Window

__all__ = ["Places", "Simulated", "hour_of"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Places:
    """The n places of a draw: a name, a site, degrees and metres each."""

    station: pd.Categorical
    site: pd.Categorical
    latitude: NDArray
    longitude: NDArray
    elevation: NDArray


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
        return self._numbers(str(np.datetime_as_string(time, "h")))

    def _numbers(self, purpose: str) -> np.random.Generator:
        """Return the generator of what is drawn for a purpose, whose numbers no other purpose has."""
        key = f"{self.seed}|{self.name}|{purpose}"
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

    def _table(
        self,
        time: np.datetime64,
        generator: np.random.Generator,
        inventory: Inventory,
        places: Places,
        columns: Mapping[str, NDArray],
        shape: tuple[int, ...],
    ) -> pd.DataFrame:
        """Return the rows of the finite values; the reports of some places are missing.

        Args:
            time, generator, inventory: as for `_draw`.
            places: n of them.
            columns: value, error, variable, pressure and period, each broadcast to `shape`.
            shape: (..., n). Each place's values are received together.
        """
        n = len(places.latitude)
        sent = generator.random(n) >= self._missing_rate
        received = self._received(time, generator, n)
        full = {name: np.broadcast_to(field, shape) for name, field in columns.items()}
        present = np.isfinite(full["value"])
        inventory.found, inventory.decoded = n, int(sent.sum())
        inventory.missing = n - inventory.decoded
        rows = np.nonzero(present & sent)
        place = rows[-1]
        values = {name: field[rows] for name, field in full.items()}
        return make_table(
            time=np.broadcast_to(time.astype("datetime64[s]"), len(place)).copy(),
            received=received[place],
            site=places.site[place],
            station=places.station[place],
            latitude=places.latitude[place],
            longitude=places.longitude[place],
            elevation=places.elevation[place],
            source=self.name,
            **values,
        )


def hour_of(time: np.datetime64) -> int:
    """Return the hours since 1970-01-01T00."""
    return int(time.astype("datetime64[h]").astype(int))
