"""SYNOP reports in WMO BUFR: the source `synop_bufr`."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.obs_ingest.sources.base import Inventory, take_inventory
from dacycle.obs_ingest.sources.bufr.messages import ECMWF, BufrFiles, Decoded, Header, report_time, station_name
from dacycle.obs_ingest.sources.files import Paths
from dacycle.obs_ingest.sources.surface import new_reports, put, put_wind, surface_table
from dacycle.obs_ingest.window import Window

__all__ = ["SynopBufr"]

COMPANIONS = (2, 4)
"""ECMWF's sub-categories of additional data (extremes, snow, cloud) that accompany the SYNOPs of 1 and 3."""


class SynopBufr:
    """Land SYNOPs from BUFR files: t2m, td2m, msl, ps, u10, v10 and 6-h precipitation (traces are 0).

    Args:
        path: a file, a folder (its `*.bufr` and `*.bfr` files), a pattern, a URL, or several of them.
        name, cutoff: see `build_source`.
        latency: how long after their time reports are taken to have been received, where the message does not say (only
            ECMWF's do); by default that stays unknown, and such reports are never late.
        received: `mtime` takes them to have been received when their file was last written, instead.
    """

    def __init__(
        self,
        path: Paths,
        name: str = "synop_bufr",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
    ) -> None:
        self.name, self.cutoff = name, cutoff
        self._files = BufrFiles(path, name, "synop_decoder.py", _unwanted, latency, received)

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digests of the files with messages near the window, by path."""
        return self._files.inputs(window)

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """Read the window's SYNOPs; damaged messages are counted and named in the inventory.

        Raises:
            ObservationError: no file is there, or none holds a BUFR message.
        """
        inventory = Inventory(self.name)
        reports = _reports(self._files.read(window, inventory))
        inside = window.holds(reports["time"])
        outside = int((~inside).sum())
        inventory.skip("report outside the window", outside)
        inventory.decoded -= outside
        table = surface_table(reports[inside], self.name, inventory)
        return table, take_inventory(inventory, table, window)


def _unwanted(header: Header) -> str:
    """Return why a message cannot hold a SYNOP; empty if it can."""
    if header.category != 0:
        return f"data category {header.category}, not surface data over land"
    if header.centre == ECMWF and header.subcategory in COMPANIONS:
        return f"additional data (sub-category {header.subcategory})"
    return ""


def _reports(decoded: Decoded) -> NDArray:
    """Return records of the decoded reports."""
    reports = new_reports(len(decoded.reports))
    reports["time"] = [report_time(report) for report in decoded.reports]
    reports["received"] = decoded.received
    reports["station"] = [station_name(report) for report in decoded.reports]
    columns = {
        name: np.array([report.get(name, np.nan) for report in decoded.reports], float)
        for name in ("latitude", "longitude", "elevation", "t2m", "td2m", "msl", "ps", "tp", "direction", "speed")
    }
    for name in ("latitude", "longitude", "elevation"):
        reports[name] = columns[name]
    for name in ("t2m", "td2m", "msl", "ps"):
        put(reports, name, columns[name])
    put(reports, "tp", np.where(columns["tp"] < 0, 0.0, columns["tp"]))  # -0.1 is BUFR's trace
    put_wind(reports, columns["direction"], columns["speed"])
    return reports
