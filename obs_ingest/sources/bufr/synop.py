"""SYNOP reports in WMO BUFR: the source `synop_bufr`."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.bufr.decoder import Report
from dacycle.obs_ingest.sources.bufr.headers import ECMWF, NOT_STATED, Header
from dacycle.obs_ingest.sources.bufr.messages import BufrSource
from dacycle.obs_ingest.sources.bufr.reports import report_time, station_name
from dacycle.obs_ingest.sources.surface import new_reports, put, put_wind, surface_table
from dacycle.obs_ingest.window import Window

__all__ = ["MARINE", "SynopBufr", "surface_records"]

SYNOP = range(8)
"""International sub-categories (WMO common table C-13) of SYNOPs, fixed, mobile and automatic, of an hour or less; not
METAR (10, 11), TAF (12), CLIMAT (20) and others."""

COMPANIONS = (2, 4)
"""ECMWF's sub-categories of additional data (extremes, snow, cloud) that accompany the SYNOPs of 1 and 3."""


MARINE = (9, 11, 12, 13, 14, 19, 21, 27, 28, 180, 181, 182, 183)
"""ECMWF's sub-categories of ships and buoys, which it files under surface data over land."""


class SynopBufr(BufrSource):
    """Land SYNOPs from BUFR files: t2m, td2m, msl, ps, u10, v10 and 6-h precipitation (traces are 0).

    A value is an instant (a wind: a mean over ten minutes at most) at the time of the report. Means, extremes and
    values of other periods or times are counted and left out; see `synop_decoder`.
    """

    kind = "synop_bufr"
    reader = "synop_decoder.py"

    @staticmethod
    def unwanted(header: Header) -> str:
        """Return why a message cannot hold a SYNOP; empty if it can."""
        if header.category != 0:
            return f"data category {header.category}, not surface data over land"
        if header.international not in (*SYNOP, NOT_STATED):
            return f"international sub-category {header.international}, not SYNOP"
        if header.centre == ECMWF and header.subcategory in COMPANIONS:
            return f"additional data (sub-category {header.subcategory})"
        if header.centre == ECMWF and header.subcategory in MARINE:
            return f"ships and buoys (sub-category {header.subcategory})"
        return ""

    def records(self, reports: list[Report]) -> NDArray:
        """Return records of decoded reports."""
        return surface_records(reports)

    def table(self, records: NDArray, window: Window, inventory: Inventory) -> pd.DataFrame:
        """Return the table of the window's SYNOPs."""
        return surface_table(records, self.name, inventory)


def surface_records(decoded: list[Report]) -> NDArray:
    """Return records of `surface` of reports that `synop_decoder` has read."""
    reports = new_reports(len(decoded))
    reports["time"] = np.array([report_time(report) for report in decoded], "M8[s]")
    reports["station"] = [station_name(report) for report in decoded]
    columns = {
        name: np.array([report.get(name, np.nan) for report in decoded], float)
        for name in ("latitude", "longitude", "elevation", "t2m", "td2m", "msl", "ps", "tp", "direction", "speed")
    }
    for name in ("latitude", "longitude", "elevation"):
        reports[name] = columns[name]
    for name in ("t2m", "td2m", "msl", "ps"):
        put(reports, name, columns[name])
    put(reports, "tp", np.where(columns["tp"] < 0, 0.0, columns["tp"]))  # -0.1 is BUFR's trace
    put_wind(reports, columns["direction"], columns["speed"])
    reports["governed"] = [_governed(report["governed"]) for report in decoded]
    return reports


def _governed(names: list[str]) -> int:
    """Return how many values of a report are left out for what governs them; a wind is two."""
    return sum(2 if name == "speed" else 1 for name in names if name != "direction")
