"""Radiosondes in WMO BUFR: the source `temp_bufr`."""

from collections import Counter

import numpy as np
import pandas as pd

from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.errors.model import level_errors, standard_error
from dacycle.obs_ingest.sources.base import Inventory, take_inventory
from dacycle.obs_ingest.sources.bufr.messages import BufrFiles, Decoded, Header, report_time, station_name
from dacycle.obs_ingest.sources.files import Paths
from dacycle.obs_ingest.sources.sounding import STANDARD, above_ground, standard_levels
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES, ObservationError, empty_table, make_table, site_names
from dacycle.obs_ingest.window import Window

__all__ = ["TempBufr"]

_VERTICAL_SOUNDINGS = 2  # BUFR table A


class TempBufr:
    """Radiosondes from BUFR files (TEMP, any template): z, q, u, v, t on the standard levels, q up to 200 hPa.

    Values have the position of the station, whatever the sonde's drift (tens of km in the troposphere, up to 200
    above). Their time is that of the message: the launch in current templates, the nominal time in older ones. The
    inventory counts the levels that `sounding` rejects, beside the messages left out. Its `missing` are the values of
    standard levels above each station that its sounding does not have. Errors of humidity are proportional to the
    season's mean where a world is given, else to the observed value.

    Args:
        path: a file, a folder (its `*.bufr` and `*.bfr` files), a pattern, a URL, or several of them.
        name, cutoff: see `build_source`.
        latency: how long after their time soundings are taken to have been received, where the message does not say
            (only ECMWF's do); by default that stays unknown, and such soundings are never late.
        received: `mtime` takes them to have been received when their file was last written, instead.
        tolerance: multiplies the limits of `sounding`'s checks, which are those of sensors. Simulated
            soundings need 3: their errors include representativeness, independent from level to level.
        world: its climatology scales the errors of humidity.
    """

    def __init__(
        self,
        path: Paths,
        name: str = "temp_bufr",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
        tolerance: float = 1.0,
        world: World | None = None,
    ) -> None:
        if not tolerance > 0:
            raise ObservationError(f"source {name}: tolerance is {tolerance!r}, not above 0")
        self.name, self.cutoff, self._world, self._tolerance = name, cutoff, world, tolerance
        self._files = BufrFiles(path, name, "temp_decoder.py", _unwanted, latency, received)

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digests of the files with messages near the window, by path."""
        return self._files.inputs(window)

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """Read the window's soundings; damaged messages are counted and named in the inventory.

        Raises:
            ObservationError: no file is there, or none holds a BUFR message.
        """
        inventory = Inventory(self.name)
        decoded = self._files.read(window, inventory)
        table = self._table(decoded, window, inventory)
        return table, take_inventory(inventory, table, window)

    def _table(self, decoded: Decoded, window: Window, inventory: Inventory) -> pd.DataFrame:
        times = np.array([report_time(report) for report in decoded.reports], "datetime64[s]")
        inside = np.nonzero(window.holds(times))[0]
        outside = len(times) - len(inside)
        inventory.skip("report outside the window", outside)
        inventory.decoded -= outside
        if not len(inside):
            return empty_table()
        reports = [decoded.reports[i] for i in inside]
        times, received = times[inside], np.array(decoded.received, "datetime64[s]")[inside]
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


def _unwanted(header: Header) -> str:
    """Return why a message cannot hold a sounding; empty if it can."""
    if header.category != _VERTICAL_SOUNDINGS:
        return f"data category {header.category}, not vertical soundings"
    return ""
