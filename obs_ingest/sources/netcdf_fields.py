"""Fields of observations in netCDF files: the sources `olr_netcdf` and `precipitation_netcdf`.

A daily mean is not a six-hour mean, and a daily sum is not a six-hour sum: every row keeps the period that it covers.
The OLR plane takes means over any period up to a day, with a larger error (`errors.model.period_variance`). The
precipitation plane takes sums over six hours only; others stay in the table as `no_operator`.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.obs_ingest.errors.model import standard_error
from dacycle.obs_ingest.sources.base import Inventory, duration, take_inventory
from dacycle.obs_ingest.sources.files import Files, Paths
from dacycle.obs_ingest.sources.netcdf import STAMPS, Fields, Wanted, describe
from dacycle.obs_ingest.table import VARIABLES, ObservationError, concatenate, make_table
from dacycle.obs_ingest.window import Window

__all__ = ["OLR", "OlrNetcdf", "PrecipitationNetcdf"]

OLR = Wanted(("olr",), ("toa_outgoing_longwave_flux",), ("mean",))
"""What a file of OLR holds."""

_FLUX = ("wm-2", "w/m2", "wattm-2", "watt/m2", "wattsm-2", "watts/m2")
_AMOUNTS = ("mm", "kgm-2", "kg/m2")
_RATES = {  # units, without blanks and signs of powers: the hours in which the rate gives the amount
    **dict.fromkeys(("mm/day", "mmday-1", "mm/d", "mmd-1", "kgm-2day-1", "kgm-2d-1"), 24.0),
    **dict.fromkeys(("mm/h", "mmh-1", "mm/hr", "mmhr-1", "mm/hour", "mmhour-1"), 1.0),
    **dict.fromkeys(("mm/s", "mms-1", "kgm-2s-1", "kg/m2/s"), 1 / 3600),
}
_LARGEST = float(np.finfo(np.float32).max)  # the largest number that a table holds on disk


class _NetcdfFields(ABC):
    """A source of fields in netCDF files.

    Args:
        path: a file, a folder (its `*.nc` files), a pattern, a URL, or several of them. If a day is there twice, a
            file whose name says `preliminary` comes last.
        name, cutoff: see `build_source`.
        variable, units: name and units of the variable, where the files do not state them.
        stamp: which part of its period a time stamp is (`start`, `middle`, `end`).
        period: how long the period is (such as `24h`). Stamp and period are needed where the files have neither time
            bounds nor the attributes `coordinate_defines` and `avg_period`.
        latency: how long after the end of the period values are taken to have been received; by default that stays
            unknown, and no value is ever late.
        received: `mtime` takes them to have been received when their file was last written, instead.
    """

    _variable: str
    _wanted: Wanted
    _at_middle = False

    def __init__(
        self,
        path: Paths,
        name: str,
        cutoff: pd.Timedelta | None = None,
        variable: str | None = None,
        units: str | None = None,
        stamp: str | None = None,
        period: str | None = None,
        latency: str | None = None,
        received: str | None = None,
    ) -> None:
        if stamp is not None and stamp not in STAMPS:
            raise ObservationError(f"source {name}: stamp is {stamp!r}; it is {', '.join(STAMPS)}")
        self.name, self.cutoff = name, cutoff
        self._files = Files(name, path, ("*.nc",), self._holds, latency, received)
        hours = None if period is None else duration(period, f"source {name}: period").to_timedelta64()
        wanted = self._wanted
        self._wanted = Wanted(wanted.names, wanted.standard_names, wanted.methods, variable, units, stamp, hours)

    def read(self, window: Window) -> tuple[pd.DataFrame, Inventory]:
        """Read the values whose periods end in the window, one row for each point that has one.

        Raises:
            ObservationError: no file is there, or none can be read.
        """
        inventory = Inventory(self.name)

        def read(path: Path) -> pd.DataFrame:
            return self._table(describe(path, self._wanted), window, inventory)

        tables = self._files.read(window, inventory, read)
        table = concatenate([tables[path] for path in sorted(tables, key=lambda p: ("preliminary" in p.name, p))])
        return table, take_inventory(inventory, table, window)

    def inputs(self, window: Window) -> dict[str, str]:
        """Return the digests of the files with fields of the window, by path."""
        return self._files.inputs(window)

    def _holds(self, path: Path, window: Window) -> bool:
        return bool(window.holds(self._times(describe(path, self._wanted))).any())

    def _times(self, fields: Fields) -> NDArray[np.datetime64]:
        return fields.start + (fields.end - fields.start) // 2 if self._at_middle else fields.end

    def _table(self, fields: Fields, window: Window, inventory: Inventory) -> pd.DataFrame:
        times = self._times(fields)
        in_window = np.nonzero(window.holds(times))[0]
        hours = (fields.end - fields.start)[in_window] / np.timedelta64(1, "h")
        received = self._files.received(fields.path, fields.end[in_window])
        values = self._si(fields, fields.read(in_window), hours[:, None])
        too_large = abs(values) > _LARGEST
        field, point = np.nonzero(np.isfinite(values) & ~too_large)
        inventory.found += values.size
        inventory.decoded += len(point)
        inventory.skip("value that cannot be read", int(too_large.sum()))
        inventory.missing += values.size - len(point) - int(too_large.sum())
        points, value = fields.points, values[field, point]
        return make_table(
            time=times[in_window][field],
            period=hours[field],
            received=received[field],
            site=points.site[point],
            station=points.site[point],
            latitude=points.latitude[point],
            longitude=points.longitude[point],
            elevation=np.nan,
            pressure=np.nan,
            variable=np.full(len(point), VARIABLES.index(self._variable)),
            value=value,
            error=standard_error(self._variable, value),
            source=self.name,
        )

    @abstractmethod
    def _si(self, fields: Fields, values: NDArray, hours: NDArray) -> NDArray:
        """Return values (k, n) in SI of periods of (k, 1) hours; ObservationError for an unknown unit or wrong sign."""


class OlrNetcdf(_NetcdfFields):
    """Outgoing long-wave radiation: NOAA's daily climate data record and interpolated OLR, or sub-daily means.

    A mean counts in the cycle whose window holds the end of its period: a daily one at 00 UTC of the next day.

    Args (beside those of `_NetcdfFields`):
        centred: a mean counts in the cycle of the middle of its period instead, and its `time` is that middle: a daily
            one at 12 UTC of its own day. It then contains the time after the analysis, and the report says so.
    """

    _variable = "olr"
    _wanted = OLR

    def __init__(
        self,
        path: Paths,
        name: str = "olr_netcdf",
        cutoff: pd.Timedelta | None = None,
        variable: str | None = None,
        units: str | None = None,
        stamp: str | None = None,
        period: str | None = None,
        latency: str | None = None,
        received: str | None = None,
        centred: bool = False,
    ) -> None:
        super().__init__(path, name, cutoff, variable, units, stamp, period, latency, received)
        if centred and cutoff is not None and latency is None and received is None:
            raise ObservationError(
                f"source {name}: centred values end after the analysis time, and when they are received is unknown; "
                "give `cutoff: none`, or a `latency` and a cutoff that waits for it"
            )
        self._at_middle = centred

    def _si(self, fields: Fields, values: NDArray, hours: NDArray) -> NDArray:
        units, name = _plain(fields), f"{fields.path}: {fields.variable}"
        if units.startswith("j"):
            raise ObservationError(
                f"{name} is in {fields.units}, accumulated energy; divide it by the seconds of its period and make it "
                "positive upward (hourly ERA5: OLR = -ttr / 3600)"
            )
        if units not in _FLUX:
            raise ObservationError(f"{name} is in {fields.units!r}, not in W m-2")
        if np.isfinite(values).any() and (middle := np.nanmedian(values)) < 0:
            raise ObservationError(
                f"{name} has a median of {middle:.4g} W m-2: it looks positive downward; multiply it by -1"
            )
        return values


class PrecipitationNetcdf(_NetcdfFields):
    """Analyses of precipitation from gauges, such as CPC's: sums over the period, in kg/m2 (the same as mm).

    The days of a gauge analysis may end at other hours than 00 UTC, in CPC's at those of each country's observers. The
    period of a row is the one that the file or the experiment states.
    """

    _variable = "tp"
    _wanted = Wanted(
        ("precip", "precipitation", "tp", "pr"),
        (
            "precipitation_amount",
            "lwe_thickness_of_precipitation_amount",
            "precipitation_flux",
            "lwe_precipitation_rate",
        ),
        ("sum", "mean"),
    )

    def _si(self, fields: Fields, values: NDArray, hours: NDArray) -> NDArray:
        units = _plain(fields)
        if units in _AMOUNTS:
            return values
        if units not in _RATES:
            raise ObservationError(
                f"{fields.path}: {fields.variable} is in {fields.units!r}, not mm, mm/day, mm/h, kg m-2 or kg m-2 s-1"
            )
        return values * (hours / _RATES[units])


def _plain(fields: Fields) -> str:
    """Return the units in lower case, without blanks and signs of powers."""
    if not fields.units:
        raise ObservationError(
            f"{fields.path}: {fields.variable} has no units; say what they are with the option `units`"
        )
    return fields.units.lower().translate(str.maketrans("", "", " ^*."))
