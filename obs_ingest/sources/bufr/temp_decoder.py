"""Levels of a TEMP in BUFR: a reader for `decoder`.

The levels of a sounding are the first replication of every TEMP template (309007, 309052, 309057); later repetitions
of pressure (wind shear, quality information) are not read. An element is read as one array over all levels, because a
sounding of high resolution has thousands of them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import GRAVITY

Report = dict[str, Any]
"""Place and time by short name (see `_ELEMENTS`), as far as present, and `levels`: arrays over the levels in the order
of the message, NaN where missing, of `pressure` (Pa), `z` (m2/s2), `t`, `td` (K), `direction` (degrees), `speed` (m/s)
and `surface`, whether it is the level of the station."""

_ELEMENTS = {
    "blockNumber": "block", "stationNumber": "number", "shipOrMobileLandStationIdentifier": "ship",
    "wigosLocalIdentifierCharacter": "wigos", "wigosIdentifierSeries": "wigos_series",
    "wigosIssuerOfIdentifier": "wigos_issuer", "wigosIssueNumber": "wigos_issue",
    "year": "year", "month": "month", "day": "day", "hour": "hour", "minute": "minute",
    "latitude": "latitude", "longitude": "longitude",
    "heightOfStation": "elevation", "heightOfStationGroundAboveMeanSeaLevel": "elevation",
}  # fmt: skip
# By ecCodes key, which means one descriptor and so one unit: the factor that converts it to SI.
_LEVELS = {
    "pressure": ("pressure", 1.0),
    "airTemperature": ("t", 1.0), "dewpointTemperature": ("td", 1.0),
    "windDirection": ("direction", 1.0), "windSpeed": ("speed", 1.0),
    "nonCoordinateGeopotential": ("z", 1.0), "nonCoordinateGeopotentialHeight": ("z", GRAVITY),
}  # fmt: skip
_SURFACE = {"verticalSoundingSignificance": 1 << 6, "extendedVerticalSoundingSignificance": 1 << 17}
_STATISTICS = ("firstOrderStatistics", "differenceStatistics")
_REPLICATIONS = ("delayedDescriptorReplicationFactor", "extendedDelayedDescriptorReplicationFactor")


class Reader:
    """Decoding of soundings with ecCodes."""

    def __init__(self, eccodes: Any) -> None:
        self._codes = eccodes

    def reports(self, handle: Any, message: bytes) -> list[Report]:
        """Return a message's soundings; none if it is a wind report (PILOT), a descent, or one of means or extremes."""
        subsets = self._codes.codes_get(handle, "numberOfSubsets")
        if subsets == 1:
            soundings = [self._sounding(handle)]
        else:
            self._codes.codes_set(handle, "unpack", 1)
            soundings = [self._subset(handle, subset) for subset in range(1, subsets + 1)]
        return [sounding for sounding in soundings if sounding]

    def _subset(self, handle: Any, subset: int) -> Report:
        """Return one of several soundings, from a message of its own, whose arrays are over its levels alone."""
        codes = self._codes
        codes.codes_set(handle, "extractSubset", subset)
        codes.codes_set(handle, "doExtractSubsets", 1)
        single = codes.codes_new_from_message(codes.codes_get_message(handle))
        try:
            return self._sounding(single)
        finally:
            codes.codes_release(single)

    def _sounding(self, handle: Any) -> Report:
        """Return the sounding of a message with one subset; empty if it has none."""
        self._codes.codes_set(handle, "skipExtraKeyAttributes", 1)  # units and quality: a third of the time to unpack
        self._codes.codes_set(handle, "unpack", 1)
        n = len(self._array(handle, "airTemperature"))
        if not n or len(self._array(handle, "coordinatesSignificance")):  # which 309056, the descent, alone has
            return {}
        if any(np.isfinite(self._array(handle, statistic)).any() for statistic in _STATISTICS):
            return {}
        levels = {name: np.full(n, np.nan) for name, _ in _LEVELS.values()} | {"surface": np.zeros(n, bool)}
        for key, (name, factor) in _LEVELS.items():
            values = self._array(handle, key)
            if name == "pressure":
                values = values[:n]  # more of them where wind shear follows
            elif not len(values):
                continue
            _check_length(name, len(values), n)
            levels[name] = values * factor
        for key, bit in _SURFACE.items():
            flags = self._array(handle, key)[:n]
            if len(flags):
                _check_length("significance", len(flags), n)
                levels["surface"] = (np.nan_to_num(flags).astype(int) & bit) > 0
        if n not in [count for key in _REPLICATIONS for count in self._array(handle, key)]:
            raise ValueError(f"{n} temperatures, which is not the number of levels: no template of TEMP")
        return self._elements(handle) | {"levels": levels}

    def _elements(self, handle: Any) -> Report:
        """Return place and time: the first of each element, because drift and wind shear may follow."""
        report: Report = {}
        for key, name in _ELEMENTS.items():
            try:
                value = self._codes.codes_get(handle, f"#1#{key}")
            except self._codes.KeyValueNotFoundError:
                continue
            if isinstance(value, str):
                value = value.strip()
            if value not in ("", self._codes.CODES_MISSING_DOUBLE, self._codes.CODES_MISSING_LONG):
                report.setdefault(name, value)
        return report

    def _array(self, handle: Any, key: str) -> NDArray[np.float64]:
        """Return all values of an element, NaN where missing; empty if the message does not have it."""
        try:
            values = self._codes.codes_get_array(handle, key)
        except self._codes.KeyValueNotFoundError:
            return np.empty(0)
        missing = (values == self._codes.CODES_MISSING_DOUBLE) | (values == self._codes.CODES_MISSING_LONG)
        return np.where(missing, np.nan, values)


def _check_length(name: str, count: int, levels: int) -> None:
    if count != levels:
        raise ValueError(f"{count} values of {name} for {levels} temperatures: no template of TEMP")
