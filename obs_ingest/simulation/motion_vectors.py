"""Simulated atmospheric motion vectors: winds that satellites see by clouds, drawn from a world's reference.

Targets of 140 km stand within `_REACH` degrees of the five geostationary satellites, and poleward of `_POLAR` degrees,
where the orbits of polar satellites overlap; each is a little elsewhere in every draw. Where the reference is moist
enough for clouds, the highest layer of cloud is tracked, or is not; below it nothing is seen. Over land low clouds are
not tracked, as centres leave them out. Clear sky gives no vector.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS, LOG_LEVELS
from dacycle.forecast_adapter.physics import saturation_vapour_pressure
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.simulation.aloft import draw_aloft, reference_aloft
from dacycle.obs_ingest.simulation.drawing import Places, Simulated
from dacycle.obs_ingest.simulation.sphere import degrees, unit_vectors
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.station_network.inland import is_land
from dacycle.obs_ingest.table import ObservationError, site_names

__all__ = ["SATELLITES", "MotionVectors", "seen_by"]

SATELLITES: dict[int, float] = {272: -137.2, 270: -75.2, 57: 0.0, 56: 45.5, 174: 140.7}
"""Longitudes of the geostationary satellites, degrees, by their codes in WMO common table C-5."""

_VIIRS, _POLAR = 224, 60.0  # the code of a polar satellite, and degrees of latitude
_PASSED = 0.4  # share of the polar targets that are seen three times by overlapping orbits near the time
_REACH = 60.0  # degrees of great circle from the place below a satellite
_SPACING = 1.25  # degrees, 140 km
_LAYERS = np.array([200, 250, 300, 400, 500, 700, 850, 925])  # hPa, of cloud that may be tracked
_CLOUDY = np.array([0.4, 0.4, 0.4, 0.5, 0.7, 0.7, 0.7, 0.7])
"""Relative humidity of each layer from which there is cloud; cover is ((RH - this) / (1 - this))^2 (Slingo 1987)."""
_LOW = 600  # hPa; below this clouds are low
_SPREAD = 0.08  # of log p within a layer


class MotionVectors(Simulated):
    """Atmospheric motion vectors, every 6 h: u and v at the pressure of the cloud.

    Args:
        world, seed, name, cutoff, gross_rate, missing_rate, latency, latency_spread: as for `Stations`.
        tracked: share of the clouds that can be followed from image to image.
    """

    VARIABLES = ("u", "v")

    def __init__(
        self,
        world: World,
        seed: int,
        name: str = "motion_vectors",
        cutoff: pd.Timedelta | None = None,
        tracked: float = 0.8,
        gross_rate: float = 0.005,
        missing_rate: float = 0.02,
        latency: str = "90min",
        latency_spread: float = 0.3,
    ) -> None:
        super().__init__(world, seed, name, cutoff, gross_rate, missing_rate, latency, latency_spread)
        if not 0 <= tracked <= 1:
            raise ObservationError(f"source {name}: tracked is {tracked!r}, not a share in [0, 1]")
        self._tracked = tracked
        self._targets = _targets()

    def _draw(self, time: np.datetime64, generator: np.random.Generator, inventory: Inventory) -> pd.DataFrame:
        aside = _SPACING / 3 * generator.uniform(-1, 1, self._targets.shape)
        latitude, longitude = degrees(unit_vectors(*(self._targets + aside)))
        satellite = seen_by(latitude, longitude)
        chance = np.where(satellite == _VIIRS, _PASSED, satellite >= 0)
        near = np.nonzero(generator.random(len(latitude)) < chance)[0]
        latitude, longitude = latitude[near], longitude[near]
        layer = self._layer(time, latitude, longitude, generator)
        seen = np.nonzero((layer >= 0) & (generator.random(len(layer)) < self._tracked))[0]
        latitude, longitude, layer = latitude[seen], longitude[seen], layer[seen]
        spread = np.exp(_SPREAD * generator.uniform(-1, 1, len(seen)))
        pressure = np.rint(_LAYERS[layer] * spread) * 100
        nowhere, site = np.full(len(seen), np.nan), site_names(latitude, longitude)
        places = Places(site, site, latitude, longitude, nowhere)
        columns = draw_aloft(self.world, time, "motion vectors", self.VARIABLES, places, pressure, generator)
        columns["value"] = self._gross(columns["value"], columns["error"], generator)
        return self._table(time, generator, inventory, places, columns, columns["value"].shape)

    def _layer(
        self, time: np.datetime64, latitude: NDArray, longitude: NDArray, generator: np.random.Generator
    ) -> NDArray[np.intp]:
        """Return the highest layer with cloud at each place (n,), as a position in `_LAYERS`; -1: nothing to track."""
        humidity, temperature = reference_aloft(self.world, time, ("q", "t"), latitude, longitude)
        at = [LEVELS.index(level) for level in _LAYERS]
        vapour = humidity[at] * np.exp(LOG_LEVELS[at])[:, None] / 0.622
        relative = vapour / saturation_vapour_pressure(temperature[at], "ecmf")
        cover = np.square(np.clip((relative - _CLOUDY[:, None]) / (1 - _CLOUDY[:, None]), 0, 1))
        cloud = generator.random(cover.shape) < cover
        layer = np.where(cloud.any(axis=0), cloud.argmax(axis=0), -1)
        return np.where((_LAYERS[layer] > _LOW) & is_land(latitude, longitude), -1, layer)


def seen_by(latitude: NDArray, longitude: NDArray) -> NDArray[np.int64]:
    """Return the code of the satellite that sees each place (n,); -1: none does.

    It is the nearest geostationary one within `_REACH`, else a polar one.
    """
    east = np.deg2rad(np.asarray(longitude)[:, None] - np.array([*SATELLITES.values()]))
    distance = np.rad2deg(np.arccos(np.cos(np.deg2rad(latitude))[:, None] * np.cos(east)))
    others = np.where(np.abs(latitude) > _POLAR, _VIIRS, -1)
    return np.where(distance.min(axis=1) < _REACH, np.array([*SATELLITES])[distance.argmin(axis=1)], others)


def _targets() -> NDArray[np.float64]:
    """Return latitude and longitude (2, n) of the middles of targets all over the Earth."""
    rows = np.arange(-90 + _SPACING / 2, 90, _SPACING)
    columns = [np.arange(0.5, round(360 * np.cos(np.deg2rad(row)) / _SPACING)) for row in rows]
    latitude = np.repeat(rows, [len(column) for column in columns])
    longitude = np.concatenate([360 * column / len(column) for column in columns])
    return np.stack([latitude, longitude])
