"""Aircraft reports and atmospheric motion vectors in BUFR: a reader for `decoder`.

Their templates (311001, 311010; 310195, 310077; ECMWF's) begin with the report itself: of each element the first is
taken. What follows in a template of motion vectors, the vectors of single pairs of images and other assignments of
height, has the same elements again. A message of several subsets is read as arrays where it is compressed, else one
subset at a time.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Report = dict[str, Any]
"""Place, time and elements by short name (see `_PLACE`, `_AIRCRAFT`, `_VECTOR`), as far as present, SI."""

_PLACE = {
    "year": "year", "month": "month", "day": "day", "hour": "hour", "minute": "minute", "second": "second",
    "latitude": "latitude", "longitude": "longitude", "pressure": "pressure",
    "windDirection": "direction", "windSpeed": "speed", "u": "u", "v": "v",
}  # fmt: skip
_AIRCRAFT = {
    "aircraftRegistrationNumberOrOtherIdentification": "registration", "aircraftTailNumber": "tail",
    "aircraftFlightNumber": "flight", "height": "altitude", "flightLevel": "altitude",
    "airTemperature": "t", "dewpointTemperature": "td", "mixingRatio": "mixing_ratio", "relativeHumidity": "rh",
    "phaseOfAircraftFlight": "phase", "detailedPhaseOfFlight": "detailed_phase", "aircraftRollAngleQuality": "roll",
}  # fmt: skip
_VECTOR = {
    "satelliteIdentifier": "satellite", "satelliteDerivedWindComputationMethod": "method",
    "percentConfidence": "confidence", "windSpeed->percentConfidence": "confidence",
}  # fmt: skip
_IDENTIFIERS = ("registration", "tail", "flight")
_CONFIDENCES = 4  # of 310077: by different applications, of which not each gives one
_AIRCRAFT_DATA, _SATELLITE_DATA = 4, 5  # BUFR table A


class Reader:
    """Decoding of reports with ecCodes."""

    def __init__(self, eccodes: Any) -> None:
        self._codes = eccodes

    def reports(self, handle: Any, message: bytes) -> list[Report]:
        """Return a message's reports; none if it has neither wind nor an aircraft's temperature."""
        codes = self._codes
        subsets = codes.codes_get(handle, "numberOfSubsets")
        category = codes.codes_get(handle, "dataCategory")
        codes.codes_set(handle, "unpack", 1)
        if subsets == 1 or codes.codes_get(handle, "compressedData"):
            return self._of_arrays(handle, subsets, category)
        return [report for subset in range(1, subsets + 1) for report in self._subset(handle, subset, category)]

    def _subset(self, handle: Any, subset: int, category: int) -> list[Report]:
        """Return the report of one of several subsets, from a message of its own."""
        codes = self._codes
        codes.codes_set(handle, "extractSubset", subset)
        codes.codes_set(handle, "doExtractSubsets", 1)
        single = codes.codes_new_from_message(codes.codes_get_message(handle))
        try:
            codes.codes_set(single, "unpack", 1)
            return self._of_arrays(single, 1, category)
        finally:
            codes.codes_release(single)

    def _of_arrays(self, handle: Any, subsets: int, category: int) -> list[Report]:
        own = {_AIRCRAFT_DATA: _AIRCRAFT, _SATELLITE_DATA: _VECTOR}.get(category, {})
        columns: dict[str, NDArray] = {}
        for key, name in (_PLACE | own).items():
            ranks = _CONFIDENCES if key == "percentConfidence" else 1
            for rank in range(1, ranks + 1):
                values = self._values(handle, f"#{rank}#{key}", name in _IDENTIFIERS, subsets)
                if values is not None:
                    known = columns.get(name, values)
                    columns[name] = np.where(_missing(known), values, known)
        if not columns.keys() & {"speed", "u", "t"}:
            return []
        listed = {name: values.tolist() for name, values in columns.items()}
        rows = [{name: values[i] for name, values in listed.items()} for i in range(subsets)]
        return [{name: value for name, value in row.items() if value == value and value != ""} for row in rows]

    def _values(self, handle: Any, key: str, text: bool, subsets: int) -> NDArray | None:
        """Return an element's values (subsets,), NaN or empty where missing; None if the message does not have it."""
        try:
            values = np.asarray(self._codes.codes_get_array(handle, key))
        except self._codes.KeyValueNotFoundError:
            return None
        if len(values) not in (1, subsets):
            raise ValueError(f"{len(values)} values of {key} for {subsets} reports")
        values = np.broadcast_to(values, subsets)
        if text:
            return np.array([str(value).strip() for value in values.tolist()], object)
        missing = (values == self._codes.CODES_MISSING_DOUBLE) | (values == self._codes.CODES_MISSING_LONG)
        return np.where(missing, np.nan, values)


def _missing(values: NDArray) -> NDArray[np.bool_]:
    return values == "" if values.dtype == object else np.isnan(values)
