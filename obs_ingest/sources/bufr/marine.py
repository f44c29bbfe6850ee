"""Ships and buoys in WMO BUFR: the source `marine_bufr`."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.bufr.decoder import Report
from dacycle.obs_ingest.sources.bufr.headers import ECMWF, NOT_STATED, Header
from dacycle.obs_ingest.sources.bufr.messages import BufrSource
from dacycle.obs_ingest.sources.bufr.synop import MARINE, surface_records
from dacycle.obs_ingest.sources.surface import at_sea, surface_table
from dacycle.obs_ingest.window import Window

__all__ = ["MarineBufr"]

_OVER_SEA = 1  # BUFR table A
_REPORTS = (0, 6, 7, 25)
"""International sub-categories (WMO common table C-13): ships by the hour or more often, and buoys; not sea level or
profiles of the water."""


class MarineBufr(BufrSource):
    """Ships and buoys from BUFR files (308009, 308008, 315008 and others): what `SynopBufr` reads, at sea level.

    A report's station is the call sign, the number of the buoy or the WIGOS identifier. Its elevation is the height of
    the ground that it states (of a lake), else 0. A report far from any coast without a stated height is left out, and
    counted as `ship on land`. Pressure counts reduced to sea level only: that of the barometer has another height.
    """

    kind = "marine_bufr"
    reader = "synop_decoder.py"

    @staticmethod
    def unwanted(header: Header) -> str:
        """Return why a message cannot hold a report of a ship or buoy; empty if it can."""
        if header.centre == ECMWF and header.category == 0 and header.subcategory in MARINE:
            return ""
        if header.category != _OVER_SEA:
            return f"data category {header.category}, not surface data over sea"
        if header.international not in (*_REPORTS, NOT_STATED):
            return f"international sub-category {header.international}, not ships or buoys"
        return ""

    def records(self, reports: list[Report]) -> NDArray:
        """Return records of decoded reports."""
        return surface_records(reports)

    def table(self, records: NDArray, window: Window, inventory: Inventory) -> pd.DataFrame:
        """Return the table of the window's reports at sea."""
        records, on_land = at_sea(records)
        inventory.skip("ship on land", on_land)
        inventory.decoded -= on_land
        inventory.skip("pressure at the height of a ship's barometer", int(np.isfinite(records["ps"]).sum()))
        records["ps"] = np.nan
        return surface_table(records, self.name, inventory, "marine")
