"""Radiosondes in WMO BUFR: the source `temp_bufr`."""

from collections import Counter

import numpy as np
import pandas as pd

from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import level_errors, standard_error
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.bufr.messages import BufrSource, Decoded, Header, report_time, station_name
from dacycle.obs_ingest.sources.files import Paths
from dacycle.obs_ingest.sources.sounding import STANDARD, above_ground, standard_levels
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES, ObservationError, empty_table, make_table, site_names
from dacycle.obs_ingest.window import Window

__all__ = ["TempBufr"]

_VERTICAL_SOUNDINGS = 2  # BUFR table A
CLIMAT_TEMP = (25, 26)
"""International sub-categories (WMO common table C-13) of monthly means aloft."""


class TempBufr(BufrSource):
    """Radiosondes from BUFR files (TEMP, any template): z, q, u, v, t on the standard levels, q up to 200 hPa.

    Values have the position of the station, whatever the sonde's drift (tens of km in the troposphere, up to 200
    above). Their time is that of the message: the launch in current templates, the nominal time in older ones. The
    inventory counts the levels that `sounding` rejects, beside the messages left out. Its `missing` are the values of
    standard levels above each station that its sounding does not have. Errors of humidity are proportional to the
    season's mean where a world is given, else to the observed value.

    Args (beside those of `BufrSource`):
        tolerance: multiplies the limits of `sounding`'s checks, which are those of sensors. Simulated
            soundings need 3: their temperatures have representativeness errors that differ from level to level.
        world: its climatology scales the errors of humidity.
    """

    kind = "temp_bufr"
    reader = "temp_decoder.py"

    def __init__(
        self,
        path: Paths,
        name: str = "",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
        tolerance: float = 1.0,
        world: World | None = None,
    ) -> None:
        super().__init__(path, name, cutoff, latency, received)
        if not tolerance > 0:
            raise ObservationError(f"source {self.name}: tolerance is {tolerance!r}, not above 0")
        self._world, self._tolerance = world, tolerance

    @staticmethod
    def unwanted(header: Header) -> str:
        """Return why a message cannot hold a sounding; empty if it can."""
        if header.category != _VERTICAL_SOUNDINGS:
            return f"data category {header.category}, not vertical soundings"
        if header.international in CLIMAT_TEMP:
            return f"monthly means (international sub-category {header.international})"
        return ""

    def table(self, decoded: Decoded, window: Window, inventory: Inventory) -> pd.DataFrame:
        """Return the table of the window's soundings on the standard levels."""
        reports = decoded.reports
        if not reports:
            return empty_table()
        times = np.array([report_time(report) for report in reports], "datetime64[s]")
        received = np.array(decoded.received, "datetime64[s]")
        latitude, longitude, elevation = (
            np.array([report.get(name, np.nan) for report in reports], float)
            for name in ("latitude", "longitude", "elevation")
        )
        rejected: Counter[str] = Counter()
        values = np.stack(
            [
                standard_levels(report["levels"], height, rejected, self._tolerance)
                for report, height in zip(reports, elevation, strict=True)
            ]
        )
        for reason, count in rejected.items():
            inventory.skip(reason, count)
        sounding, variable, level = np.nonzero(np.isfinite(values))
        inventory.missing = sum(int(above_ground(report["levels"]).sum()) for report in reports) - len(sounding)
        if self._world is None:
            errors = [standard_error(v, values[:, i], STANDARD) for i, v in enumerate(LEVEL_VARIABLES)]
            error = np.broadcast_to(np.stack(np.broadcast_arrays(*errors), axis=1), values.shape)
        else:
            error = level_errors(self._world, window.time, latitude, longitude).transpose(2, 0, 1)
        return make_table(
            time=times[sounding],
            period=0.0,
            received=received[sounding],
            site=site_names(latitude, longitude)[sounding],
            station=pd.Categorical([station_name(report) for report in reports])[sounding],
            latitude=latitude[sounding],
            longitude=longitude[sounding],
            elevation=elevation[sounding],
            pressure=STANDARD[level],
            variable=np.array([VARIABLES.index(name) for name in LEVEL_VARIABLES])[variable],
            value=values[sounding, variable, level],
            error=error[sounding, variable, level],
            source=self.name,
        )
