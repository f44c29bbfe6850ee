"""Simulated observations at grid points, drawn like those of `stations`: OLR on a raster, DAMBench's random mask."""

import numpy as np
import pandas as pd

from dacycle.forecast_adapter.channels import CHANNELS, NAMES, index
from dacycle.forecast_adapter.grid import Grid, conservative_average
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import ERRORS
from dacycle.obs_ingest.simulation.drawing import Simulated, hour_of
from dacycle.obs_ingest.simulation.drawn_errors import ErrorDraw
from dacycle.obs_ingest.sources.base import Inventory, duration
from dacycle.obs_ingest.table import VARIABLES, ObservationError, make_table, site_names

__all__ = ["Mask", "Olr"]


class Olr(Simulated):
    """Outgoing long-wave radiation from satellites on a regular raster, as means over the period that ends at a time.

    Args:
        world, seed, name, cutoff, gross_rate, missing_rate, latency, latency_spread: as for `Stations`.
        spacing: of the raster, in degrees; it divides 180.
        period: `6h`; or `24h`, a daily mean at 00 UTC, which needs the reference at the three earlier times too.
    """

    def __init__(
        self,
        world: World,
        seed: int,
        name: str = "olr",
        cutoff: pd.Timedelta | None = None,
        spacing: float = 5.0,
        period: str = "6h",
        gross_rate: float = 0.0,
        missing_rate: float = 0.03,
        latency: str = "90min",
        latency_spread: float = 0.2,
    ) -> None:
        super().__init__(world, seed, name, cutoff, gross_rate, missing_rate, latency, latency_spread)
        rows = round(180 / spacing) if spacing > 0 else 0
        if not rows or abs(rows * spacing - 180) > 1e-6:
            raise ObservationError(f"source {name}: spacing is {spacing!r}; it has to divide 180 degrees")
        hours = duration(period, f"source {name}: period") / pd.Timedelta("1h")
        if hours not in (6, 24):
            raise ObservationError(f"source {name}: period is {period!r}; OLR comes as means over 6h or 24h")
        self._hours = int(hours)
        self._absent = bool(self.lacking({"olr": "olr"}))
        centres = spacing * (np.arange(2 * rows) + 0.5)
        self._raster = Grid(f"{spacing:g}deg raster", 90 - centres[:rows], centres)
        latitude, longitude = np.meshgrid(self._raster.latitude, self._raster.longitude, indexing="ij")
        self._latitude, self._longitude = latitude.ravel(), longitude.ravel()
        self._site = site_names(self._latitude, self._longitude)
        self._errors = ErrorDraw(world.grid, self._latitude, self._longitude)

    def _observes(self, time: np.datetime64) -> bool:
        return not self._absent and bool(hour_of(time) % self._hours == 0)

    def _draw(self, time: np.datetime64, generator: np.random.Generator, inventory: Inventory) -> pd.DataFrame:
        fields = [
            self.world.reference.surface(time - k * STEP, ("olr",))["olr"].values for k in range(self._hours // 6)
        ]
        truth = conservative_average(np.mean(fields, axis=0), self.world.grid, self._raster).ravel().astype(float)
        n = len(truth)
        shared, own = ERRORS["olr"].parts(truth)
        error = np.sqrt(shared + own)
        value = self._gross(truth + self._errors.surface(shared, own, generator), error, generator)
        sent = np.nonzero(generator.random(n) >= self._missing_rate)[0]
        inventory.found, inventory.decoded, inventory.missing = n, len(sent), n - len(sent)
        return make_table(
            time=np.full(len(sent), time, "datetime64[s]"),
            period=float(self._hours),
            received=np.full(len(sent), self._received(time, generator, 1)[0]),
            site=self._site[sent],
            station=self._site[sent],
            latitude=self._latitude[sent],
            longitude=self._longitude[sent],
            elevation=np.nan,
            pressure=np.nan,
            variable=np.full(len(sent), VARIABLES.index("olr")),
            value=value[sent],
            error=error[sent],
            source=self.name,
        )


class Mask(Simulated):
    """A random share of the grid points of every channel, as DAMBench defines its observations; received at once.

    Args:
        world, seed, name, cutoff: as for `Stations`.
        fraction: share of the grid points observed.
        per: `channel` draws each channel's points on their own, `column` draws points that observe all 69.
        error: standard deviation of the error, as a fraction of each channel's standard deviation; may be small, not 0.
    """

    def __init__(
        self,
        world: World,
        seed: int,
        name: str = "mask",
        cutoff: pd.Timedelta | None = None,
        fraction: float = 0.05,
        per: str = "channel",
        error: float = 0.05,
    ) -> None:
        super().__init__(world, seed, name, cutoff, 0.0, 0.0, "0min", 0.0)
        if not 0 < fraction <= 1:
            raise ObservationError(f"source {name}: fraction is {fraction!r}, not a share in (0, 1]")
        if per not in ("channel", "column"):
            raise ObservationError(f"source {name}: per is {per!r}; it is channel or column")
        if not error > 0:
            raise ObservationError(f"source {name}: error is {error!r}, not above 0")
        self._fraction, self._per, self._error = fraction, per, error
        latitude, longitude = np.meshgrid(world.grid.latitude, world.grid.longitude, indexing="ij")
        self._latitude, self._longitude = latitude.ravel(), longitude.ravel()
        self._site = site_names(self._latitude, self._longitude)
        self._variable = np.array([VARIABLES.index(channel.variable) for channel in CHANNELS])
        self._pressure = np.array([100.0 * channel.level if channel.level else np.nan for channel in CHANNELS])

    def _draw(self, time: np.datetime64, generator: np.random.Generator, inventory: Inventory) -> pd.DataFrame:
        truth = self.world.reference.array(time).reshape(len(NAMES), -1)
        drawn = generator.random(truth.shape if self._per == "channel" else truth.shape[1]) < self._fraction
        channel, point = np.nonzero(np.broadcast_to(drawn, truth.shape))
        error = self._error * self.world.statistics.std[channel].astype(float)
        inventory.found = inventory.decoded = len(channel)
        when = np.full(len(channel), time, "datetime64[s]")
        return make_table(
            time=when,
            period=0.0,
            received=when,
            site=self._site[point],
            station=self._site[point],
            latitude=self._latitude[point],
            longitude=self._longitude[point],
            # t2m refers to this height. The msl of a grid is at sea level, whatever the ground below.
            elevation=np.where(channel == index("t2m"), self.world.orography.ravel()[point], np.nan),
            pressure=self._pressure[channel],
            variable=self._variable[channel],
            value=truth[channel, point] + error * generator.standard_normal(len(channel)),
            error=error,
            source=self.name,
        )
