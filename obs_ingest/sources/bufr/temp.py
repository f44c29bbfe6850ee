"""Radiosondes in WMO BUFR: the source `temp_bufr`."""

from collections import Counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.sources.ascents import SOUNDING, ascent_table, put_levels
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.bufr.decoder import Report
from dacycle.obs_ingest.sources.bufr.headers import Header
from dacycle.obs_ingest.sources.bufr.messages import BufrSource
from dacycle.obs_ingest.sources.bufr.reports import report_time, station_name
from dacycle.obs_ingest.sources.files import Paths
from dacycle.obs_ingest.table import ObservationError
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
        if not tolerance > 0:
            raise ObservationError(f"source {name or self.kind}: tolerance is {tolerance!r}, not above 0")
        self._world, self._tolerance, self.options = world, tolerance, (float(tolerance),)
        super().__init__(path, name, cutoff, latency, received)

    @staticmethod
    def unwanted(header: Header) -> str:
        """Return why a message cannot hold a sounding; empty if it can."""
        if header.category != _VERTICAL_SOUNDINGS:
            return f"data category {header.category}, not vertical soundings"
        if header.international in CLIMAT_TEMP:
            return f"monthly means (international sub-category {header.international})"
        return ""

    def records(self, reports: list[Report]) -> NDArray:
        """Return records of soundings: their values on the standard levels, and how many levels are left out."""
        records = np.zeros(len(reports), SOUNDING)
        records["time"] = np.array([report_time(report) for report in reports], "M8[s]")
        records["received"] = np.datetime64("NaT")
        records["station"] = [station_name(report) for report in reports]
        for name in ("latitude", "longitude", "elevation"):
            records[name] = [float(report.get(name, np.nan)) for report in reports]
        for record, report in zip(records, reports, strict=True):
            put_levels(record, report["levels"], Counter(), self._tolerance)
        return records

    def table(self, records: NDArray, window: Window, inventory: Inventory) -> pd.DataFrame:
        """Return the table of the window's soundings on the standard levels."""
        return ascent_table(records, self.name, window, inventory, self._world)
