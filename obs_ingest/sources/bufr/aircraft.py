"""Aircraft reports in WMO BUFR: the source `aircraft_bufr`."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import (
    dewpoint_from_relative_humidity,
    humidity_from_dewpoint,
    standard_pressure,
)
from dacycle.obs_ingest.sources.aloft import LEFT_OUT, aloft_table, new_aloft, put_aloft_wind
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.bufr.decoder import Report
from dacycle.obs_ingest.sources.bufr.headers import Header
from dacycle.obs_ingest.sources.bufr.messages import BufrSource
from dacycle.obs_ingest.sources.bufr.reports import exact_time
from dacycle.obs_ingest.window import Window

__all__ = ["AircraftBufr"]

_AIRCRAFT_DATA = 4  # BUFR table A
_NAMES = ("registration", "tail", "flight")
_NUMBERS = (
    "latitude", "longitude", "pressure", "altitude", "direction", "speed", "t", "td", "mixing_ratio", "rh", "phase",
    "detailed_phase", "roll",
)  # fmt: skip
_UNSTEADY, _UNSTEADY_DETAILED, _ROLLED = (2,), (0, 1, 2), (1,)
"""Codes of BUFR tables 008004, 008009 and 002064: the wind is not to be used."""
_LEAST_HUMIDITY = 1.0  # per cent; a sensor's 0 is no measurement


class AircraftBufr(BufrSource):
    """AMDAR, AIREP and Mode-S reports from BUFR files (311001, 311010 and others): u, v, t, and q below 200 hPa.

    Each value has its own pressure. A height is a pressure altitude, as flight levels are, and becomes a pressure by
    the standard atmosphere. Reports from turns and unsteady flight are left out. A station is a registration, a tail
    number, or else a flight number.
    """

    kind = "aircraft_bufr"
    reader = "aloft_decoder.py"

    @staticmethod
    def unwanted(header: Header) -> str:
        """Return why a message cannot hold an aircraft report; empty if it can."""
        if header.category != _AIRCRAFT_DATA:
            return f"data category {header.category}, not single levels aloft"
        return ""

    def records(self, reports: list[Report]) -> NDArray:
        """Return records of decoded reports."""
        records = new_aloft(len(reports))
        records["time"] = np.array([exact_time(report) for report in reports], "M8[s]")
        column = {name: np.array([float(report.get(name, np.nan)) for report in reports]) for name in _NUMBERS}
        for name in ("latitude", "longitude", "t"):
            records[name] = column[name]
        pressure = np.where(column["pressure"] > 0, column["pressure"], standard_pressure(column["altitude"]))
        records["pressure"] = pressure
        names = [next((str(report[name]) for name in _NAMES if report.get(name)), "") for report in reports]
        records["name"] = names
        places = zip(names, column["latitude"], column["longitude"], pressure, strict=True)
        records["station"] = [f"{name} {lat:.2f} {lon:.2f} {p:.0f}" for name, lat, lon, p in places]
        put_aloft_wind(records, column["direction"], column["speed"])
        turning = np.isin(column["phase"], _UNSTEADY) | np.isin(column["roll"], _ROLLED)
        turning |= np.isin(column["detailed_phase"], _UNSTEADY_DETAILED)
        records["reason"][turning] = LEFT_OUT.index("report of an aircraft in a turn or in unsteady flight")
        records["q"] = _humidity(column, pressure)
        return records

    def table(self, records: NDArray, window: Window, inventory: Inventory) -> pd.DataFrame:
        """Return the table of the window's reports."""
        return aloft_table(records, self.name, "aircraft", inventory)


def _humidity(column: dict[str, NDArray], pressure: NDArray) -> NDArray:
    """Return specific humidity (n,) from mixing ratio (kg/kg), dewpoint or relative humidity, NaN without any."""
    with np.errstate(invalid="ignore", divide="ignore"):
        by_ratio = np.where(column["mixing_ratio"] > 0, column["mixing_ratio"] / (1 + column["mixing_ratio"]), np.nan)
        relative = np.where(column["rh"] >= _LEAST_HUMIDITY, column["rh"], np.nan)
        dewpoint = np.where(
            np.isnan(column["td"]), dewpoint_from_relative_humidity(relative, column["t"]), column["td"]
        )
        return np.where(np.isnan(by_ratio), humidity_from_dewpoint(dewpoint, pressure), by_ratio)
