"""The time, place and name of a decoded report."""

from datetime import datetime
from functools import lru_cache

import numpy as np

from dacycle.obs_ingest.sources.bufr.decoder import Receipt, Report
from dacycle.obs_ingest.table import is_position

__all__ = ["exact_time", "instant", "is_placed", "receipt_time", "report_time", "station_name"]

_ANONYMOUS = ("SHIP", "BUOY", "PLAT", "RIGG")  # call signs of whoever does not want to be named
_NEEDED = ("year", "month", "day", "hour", "latitude", "longitude")


@lru_cache(maxsize=1024)
def instant(year: int, month: int, day: int, hour: int, minute: int) -> np.datetime64 | None:
    """Return the time, or None where these numbers are not a time."""
    try:
        return np.datetime64(datetime(year, month, day, hour, minute), "s")
    except ValueError:
        return None


def receipt_time(receipt: Receipt | None, time: np.datetime64) -> np.datetime64:
    """Return when a report was received, NaT where unknown; the message states only the day of the month."""
    if receipt is not None:
        day, hour, minute, second = receipt
        for offset in (0, 1, -1, 2, 3, 4, 5):
            date = time.astype("datetime64[D]") + offset
            if date.astype(object).day == day:
                return date.astype("datetime64[s]") + np.timedelta64(hour * 3600 + minute * 60 + second, "s")
    return np.datetime64("NaT", "s")


def is_placed(report: Report) -> bool:
    """Return whether a report has a time and a possible position."""
    if not all(name in report for name in _NEEDED) or np.isnat(report_time(report)):
        return False
    return bool(is_position(float(report["latitude"]), float(report["longitude"])))


def report_time(report: Report) -> np.datetime64:
    """Return the time of a report; NaT where its numbers are not a time."""
    year, month, day, hour, minute = (int(report.get(part, 0)) for part in ("year", "month", "day", "hour", "minute"))
    time = instant(year, month, day, hour, minute)
    return np.datetime64("NaT", "s") if time is None else time


def exact_time(report: Report) -> np.datetime64:
    """Return the same with the seconds, if the report has them."""
    seconds = float(report.get("second", 0))
    return report_time(report) + np.timedelta64(int(seconds) if 0 <= seconds < 60 else 0, "s")


def station_name(report: Report) -> str:
    """Return WMO block and station number, else the WIGOS identifier, buoy's number or call sign, else the position."""
    if "block" in report and "number" in report:
        return f"{int(report['block']):02d}{int(report['number']):03d}"
    if "wigos" in report:
        series, issuer, issue = (int(report.get(f"wigos_{part}", 0)) for part in ("series", "issuer", "issue"))
        return f"{series}-{issuer}-{issue}-{report['wigos']}"
    if "platform" in report:
        return f"{int(report['platform']):07d}"
    if "buoy" in report and "buoy_region" in report and "buoy_area" in report:
        digits = 3 if report["buoy"] < 1000 else 5
        return f"{int(report['buoy_region'])}{int(report['buoy_area'])}{int(report['buoy']):0{digits}d}"
    if "fixed_buoy" in report:
        return str(report["fixed_buoy"])
    if report.get("ship", _ANONYMOUS[0]) not in _ANONYMOUS:
        return str(report["ship"])
    return f"{report['latitude']:+.2f}{report['longitude']:+.2f}"
