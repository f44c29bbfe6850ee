"""Radiosondes in WMO BUFR: the source `temp_bufr`."""

from collections import Counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import level_errors, standard_error
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.bufr.decoder import Report
from dacycle.obs_ingest.sources.bufr.messages import BufrSource, Header, report_time, station_name
from dacycle.obs_ingest.sources.files import Paths
from dacycle.obs_ingest.sources.sounding import REJECTED, STANDARD, above_ground, standard_levels
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES, ObservationError, empty_table, make_table, site_names
from dacycle.obs_ingest.window import Window

__all__ = ["TempBufr"]

_VERTICAL_SOUNDINGS = 2  # BUFR table A
CLIMAT_TEMP = (25, 26)
"""International sub-categories (WMO common table C-13) of monthly means aloft."""

SOUNDING = np.dtype(
    [
        ("time", "M8[s]"),
        ("received", "M8[s]"),
        ("version", "u4"),
        ("station", object),
        ("latitude", "f8"),
        ("longitude", "f8"),
        ("elevation", "f8"),
        ("values", "f8", (len(LEVEL_VARIABLES), len(STANDARD))),
        ("expected", "u1"),
        ("rejected", "u4", (len(REJECTED),)),
    ]
)
"""A sounding: UTC, degrees, m, SI; `expected` is how many values a complete one has."""


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
            rejected: Counter[str] = Counter()
            record["values"] = standard_levels(report["levels"], record["elevation"], rejected, self._tolerance)
            record["expected"] = above_ground(report["levels"]).sum()
            record["rejected"] = [rejected[reason] for reason in REJECTED]
        return records

    def table(self, records: NDArray, window: Window, inventory: Inventory) -> pd.DataFrame:
        """Return the table of the window's soundings on the standard levels."""
        if not len(records):
            return empty_table()
        values, latitude, longitude = records["values"], records["latitude"], records["longitude"]
        for reason, count in zip(REJECTED, records["rejected"].sum(axis=0).tolist(), strict=True):
            inventory.skip(reason, count)
        sounding, variable, level = np.nonzero(np.isfinite(values))
        inventory.missing = int(records["expected"].sum()) - len(sounding)
        if self._world is None:
            errors = [standard_error(v, values[:, i], STANDARD) for i, v in enumerate(LEVEL_VARIABLES)]
            error = np.broadcast_to(np.stack(np.broadcast_arrays(*errors), axis=1), values.shape)
        else:
            error = level_errors(self._world, window.time, latitude, longitude).transpose(2, 0, 1)
        return make_table(
            time=records["time"][sounding],
            period=0.0,
            received=records["received"][sounding],
            site=site_names(latitude, longitude)[sounding],
            station=pd.Categorical(records["station"])[sounding],
            latitude=latitude[sounding],
            longitude=longitude[sounding],
            elevation=records["elevation"][sounding],
            pressure=STANDARD[level],
            variable=np.array([VARIABLES.index(name) for name in LEVEL_VARIABLES])[variable],
            value=values[sounding, variable, level],
            error=error[sounding, variable, level],
            source=self.name,
        )
