"""SYNOP reports in WMO BUFR: the source `synop_bufr`."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.worlds import World
from dacycle.obs_ingest.bufr import ECMWF, BufrFiles, Header
from dacycle.obs_ingest.bufr import Decoded as _Decoded
from dacycle.obs_ingest.bufr import report_time as _time
from dacycle.obs_ingest.bufr import station_name as _station
from dacycle.obs_ingest.bufr_decoder import Report
from dacycle.obs_ingest.errors import standard_error
from dacycle.obs_ingest.sources import Inventory, duration, take_inventory
from dacycle.obs_ingest.table import VARIABLES, empty_table, make_table, site_names
from dacycle.obs_ingest.window import Window

__all__ = ["SynopBufr"]

COMPANIONS = (2, 4)
"""ECMWF's sub-categories of additional data (extremes, snow, cloud) that go with the SYNOPs of 1 and 3."""

WANTED = ("t2m", "td2m", "msl", "ps", "u10", "v10", "tp")


class SynopBufr:
    """Land SYNOPs from BUFR files: t2m, td2m, msl, ps, u10, v10 and 6-h precipitation (traces are 0).

    Args:
        world, seed, name, cutoff: see `build_source`; nothing here is drawn.
        path: a file, a folder (its `*.bufr` and `*.bfr` files) or a pattern.
        latency: how long after their time reports are taken to have been received, where the message does not say (only
            ECMWF's do); by default that stays unknown, and such reports are never late.
    """

    def __init__(
        self,
        world: World | None,
        seed: int,
        path: Path | str,
        name: str = "synop_bufr",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
    ) -> None:
        self.name, self.cutoff = name, cutoff
        self._files = BufrFiles(path, name, "synop_decoder.py", _unwanted)
        self._latency = None if latency is None else duration(latency, f"source {name}: latency").to_timedelta64()

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """The window's SYNOPs. Damaged messages are counted and named in the inventory.

        Raises:
            ObservationError: no file is there, or one holds no BUFR message at all.
        """
        inventory = Inventory(self.name)
        decoded = self._files.read(window, inventory)
        table = self._table(decoded, window, inventory)
        return table, take_inventory(inventory, table, window)

    def _table(self, decoded: _Decoded, window: Window, inventory: Inventory) -> pd.DataFrame:
        if not decoded.reports:
            return empty_table()
        times = np.array([_time(report) for report in decoded.reports])
        held = np.nonzero(window.holds(times))[0]
        inventory.skip("report outside the window", len(times) - len(held))
        reports = [decoded.reports[i] for i in held]
        times, received = times[held], np.array(decoded.received, "datetime64[s]")[held]
        if self._latency is not None:
            received = np.where(np.isnat(received), times + self._latency, received)
        columns = {name: _column(reports, name) for name in ("latitude", "longitude", "elevation", *WANTED)}
        columns |= _wind(_column(reports, "direction"), _column(reports, "speed"))
        columns["tp"] = np.where(columns["tp"] < 0, 0.0, columns["tp"])  # -0.1 is BUFR's trace
        values = np.stack([columns[name] for name in WANTED])
        errors = np.stack([standard_error(name, columns[name]) for name in WANTED])
        which, who = np.nonzero(np.isfinite(values))
        inventory.missing = values.size - len(who)
        station = pd.Categorical([_station(report) for report in reports])
        site = site_names(columns["latitude"], columns["longitude"])
        return make_table(
            time=times[who],
            period=np.where(which == WANTED.index("tp"), 6.0, 0.0),
            received=received[who],
            site=site[who],
            station=station[who],
            latitude=columns["latitude"][who],
            longitude=columns["longitude"][who],
            elevation=columns["elevation"][who],
            pressure=np.nan,
            variable=np.array([VARIABLES.index(name) for name in WANTED])[which],
            value=values[which, who],
            error=errors[which, who],
            source=self.name,
        )


def _unwanted(header: Header) -> str:
    """Why a message cannot hold a SYNOP, or nothing."""
    if header.category != 0:
        return f"data category {header.category}, not surface data over land"
    if header.centre == ECMWF and header.subcategory in COMPANIONS:
        return f"additional data (sub-category {header.subcategory})"
    return ""


def _column(reports: list[Report], name: str) -> NDArray[np.float64]:
    return np.array([report.get(name, np.nan) for report in reports], float)


def _wind(direction: NDArray, speed: NDArray) -> dict[str, NDArray]:
    """u10 and v10 from the direction (degrees) the wind blows from; calm needs no direction."""
    angle = np.deg2rad(np.where(speed == 0, 0.0, direction))
    return {"u10": -speed * np.sin(angle), "v10": -speed * np.cos(angle)}
