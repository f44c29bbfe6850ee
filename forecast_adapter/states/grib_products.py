"""Which GRIB fields are the quantity that their name says, at an instant; and why others are not.

Ensemble statistics, probabilities, percentiles, errors, increments and monthly means keep the name, the level and the
unit of the quantity that they are made from. Only what is known to be the quantity itself is taken.
"""

from collections.abc import Collection, Mapping

import numpy as np

from dacycle.forecast_adapter.states.grib_messages import key_of, start_time, valid_time

__all__ = ["SUMS", "hours_summed", "is_analysis", "sums_of_six_hours", "why_unfit"]

SUMS = {"tp": ("tp6h", 1000.0, "m"), "ttr": ("olr", -1 / 21600, "J m**-2")}
"""Fields that are sums over a period: the extra field of each, the factor from its sum over six hours, and its unit."""

_PERIOD = 6  # hours of `tp6h` and `olr`

# Code table 4.0: an analysis or forecast at a point in time, deterministic, of a member, of a member of a reforecast.
_TEMPLATES = {0, 1, 60}
_TEMPLATE_WORDS = {
    **dict.fromkeys((2, 3, 4, 12, 13, 14, 61), "a mean, spread or other statistic of an ensemble"),
    **dict.fromkeys((5, 9), "a probability"),
    **dict.fromkeys((6, 10), "a percentile"),
    7: "an error of an analysis or forecast",
    **dict.fromkeys((8, 11), "a mean, sum or extreme over time"),
    **dict.fromkeys((51, 91), "a category"),
}

# Code table 4.3: analysis, initialisation, (ensemble) forecast, both also corrected, nowcast, hindcast, first guess.
_PROCESSES = {0, 1, 2, 3, 4, 11, 12, 13, 14, 15, 19, 255}
_PROCESS_WORDS = {
    **dict.fromkeys((5, 10), "a probability"),
    **dict.fromkeys((6, 7), "an error of an analysis or forecast"),
    **dict.fromkeys((18, 20, 21), "a difference or increment"),
    9: "a climatology",
}

# ECMWF's names of types (without a local section those of code table 1.4; 10 is that of AIFS) and of streams.
_TYPES = {"an", "fc", "af", "cf", "pf", "cp", "fg", "ia", "oi", "3v", "4v", "bf", "si", "10", "255", "missing"}
_STREAMS = {
    *("oper", "scda", "dcda", "lwda", "toga", "fgge", "clte"),
    *("enfo", "enfh", "efho", "efhc", "efov", "eefo", "eefh", "enda", "elda"),
    *("seas", "mmsf", "mofc", "mmaf", "rfsd"),
    *("egrr", "kwbc", "edzw", "lfpw", "rjtd", "cwao", "ammc"),
}

_TIME_RANGES = {0, 1, 10}
"""Edition 1, code table 5: forecast, analysis, and forecast with a lead of two octets, all at an instant."""

_NCEP_FULL_FIELD, _NCEP_MEMBERS = 1, (1, 2, 3)
"""NCEP's extension of edition 1: a whole field, of a control or a perturbed forecast."""

_ALONG_THE_GRID = {"regular_ll", "regular_gg", "reduced_ll", "reduced_gg"}
"""Grids whose axes run to the east and north, so that wind along them is wind to the east and north."""

_WIND = {"10u", "10v", "u", "v"}


def why_unfit(message: int) -> str:
    """Return why a field is not the quantity of its name at an instant; empty where it is."""
    if key_of(message, "stepType") != "instant":
        return "a mean, sum or extreme over time"
    reason = _why_unfit_2(message) if key_of(message, "edition") == 2 else _why_unfit_1(message)
    if reason:
        return reason
    kind, stream = key_of(message, "dataType"), key_of(message, "stream")
    if kind is not None and str(kind) not in _TYPES:
        return f"a product of type {kind}"
    if stream is not None and str(stream) not in _STREAMS:
        return f"a product of stream {stream}"
    if (
        key_of(message, "shortName") in _WIND
        and key_of(message, "uvRelativeToGrid")
        and key_of(message, "gridType") not in _ALONG_THE_GRID
    ):
        return "wind along the axes of the grid, not to the east and north"
    return ""


def _why_unfit_2(message: int) -> str:
    template, process = (key_of(message, k) for k in ("productDefinitionTemplateNumber", "typeOfGeneratingProcess"))
    if template not in _TEMPLATES:
        return f"{_TEMPLATE_WORDS.get(template, 'a derived product')} (template 4.{template})"
    if process not in _PROCESSES:
        return f"{_PROCESS_WORDS.get(process, 'a derived product')} (generating process {process})"
    return ""


def _why_unfit_1(message: int) -> str:
    time_range = key_of(message, "timeRangeIndicator")
    if time_range not in _TIME_RANGES:
        return f"a mean, sum or extreme over time (time range indicator {time_range})"
    product = key_of(message, "productIdentifier") if key_of(message, "centre") == "kwbc" else None
    if product is not None and (product != _NCEP_FULL_FIELD or key_of(message, "type") not in _NCEP_MEMBERS):
        return f"a mean, spread or other statistic of an ensemble (product {product})"
    return ""


def is_analysis(message: int) -> bool:
    """Return whether a field says of itself that it is an analysis, and not a forecast of any length."""
    kind = key_of(message, "dataType")
    if kind is not None:
        return kind == "an"
    process = key_of(message, "typeOfGeneratingProcess")
    return key_of(message, "timeRangeIndicator") == 1 if process is None else process == 0


def hours_summed(message: int) -> int | None:
    """Return the length (h) of the period that ends at the valid time; None where it is no sum over whole hours."""
    if key_of(message, "stepType") != "accum":
        return None
    first, last = (key_of(message, name) for name in ("startStep", "endStep"))
    end = (valid_time(message) - start_time(message)) // np.timedelta64(1, "h")
    return int(last) - int(first) if int(last) == int(end) and int(last) > int(first) else None


def sums_of_six_hours(
    time: np.datetime64, periods: Mapping[np.datetime64, Collection[int]]
) -> list[tuple[np.datetime64, int]] | None:
    """Return the sums, by end and length (h), that together are the six hours up to `time`; None where they are not.

    Args:
        time: the end of the six hours.
        periods: the lengths of the sums that there are, by their end.
    """
    left, end, chosen = _PERIOD, time, []
    while left:
        length = max((period for period in periods.get(end, ()) if period <= left), default=None)
        if length is None:
            return None
        chosen.append((end, length))
        left, end = left - length, end - np.timedelta64(length, "h")
    return chosen
