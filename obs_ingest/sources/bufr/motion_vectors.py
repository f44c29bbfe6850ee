"""Atmospheric motion vectors in WMO BUFR, winds that satellites see: the source `amv_bufr`."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.obs_ingest.sources.aloft import LEFT_OUT, aloft_table, new_aloft, put_aloft_wind
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.bufr.decoder import Report
from dacycle.obs_ingest.sources.bufr.headers import Header
from dacycle.obs_ingest.sources.bufr.messages import BufrSource
from dacycle.obs_ingest.sources.bufr.reports import exact_time
from dacycle.obs_ingest.sources.files import Paths
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window

__all__ = ["MotionVectorsBufr"]

_SATELLITE_DATA = 5  # BUFR table A
_NUMBERS = (
    "latitude", "longitude", "pressure", "direction", "speed", "u", "v", "satellite", "method", "confidence",
)  # fmt: skip
_CLEAR_SKY = (5,)
"""Codes of BUFR table 002023: water vapour without cloud, whose motion is that of a deep layer."""


class MotionVectorsBufr(BufrSource):
    """Atmospheric motion vectors from BUFR files (310195, 310077 and others): u and v at the pressure that they state.

    Vectors without a pressure, of clear sky and of low quality are counted and left out. The quality is the first
    confidence that a vector states, with which centres give their quality index; a vector without one counts as low.

    Args (beside those of `BufrSource`):
        quality: per cent, the least confidence that counts.
    """

    kind = "amv_bufr"
    reader = "aloft_decoder.py"

    def __init__(
        self,
        path: Paths,
        name: str = "",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
        quality: float = 80.0,
    ) -> None:
        if not 0 <= quality <= 100:
            raise ObservationError(f"source {name or self.kind}: quality is {quality!r}, not per cent, 0 to 100")
        self._quality, self.options = float(quality), (float(quality),)
        super().__init__(path, name, cutoff, latency, received)

    @staticmethod
    def unwanted(header: Header) -> str:
        """Return why a message cannot hold a motion vector; empty if it can."""
        if header.category != _SATELLITE_DATA:
            return f"data category {header.category}, not single levels seen by satellites"
        return ""

    def records(self, reports: list[Report]) -> NDArray:
        """Return records of decoded vectors."""
        records = new_aloft(len(reports))
        records["time"] = np.array([exact_time(report) for report in reports], "M8[s]")
        column = {name: np.array([float(report.get(name, np.nan)) for report in reports]) for name in _NUMBERS}
        for name in ("latitude", "longitude", "pressure"):
            records[name] = column[name]
        columns = (column[name].tolist() for name in ("satellite", "method", "latitude", "longitude", "pressure"))
        records["station"] = [
            f"{s:.0f} {m:.0f} {lat:.5f} {lon:.5f} {p:.0f}" for s, m, lat, lon, p in zip(*columns, strict=True)
        ]
        put_aloft_wind(records, column["direction"], column["speed"])
        for name in ("u", "v"):
            records[name] = np.where(np.isnan(column["speed"]), column[name], records[name])
        good = column["confidence"] >= self._quality
        records["reason"][~good] = LEFT_OUT.index("report of low quality")
        records["reason"][np.isin(column["method"], _CLEAR_SKY)] = LEFT_OUT.index("motion vector of clear sky")
        records["reason"][np.isnan(records["pressure"])] = LEFT_OUT.index("report without a height")
        return records

    def table(self, records: NDArray, window: Window, inventory: Inventory) -> pd.DataFrame:
        """Return the table of the window's vectors."""
        return aloft_table(records, self.name, "motion vectors", inventory)
