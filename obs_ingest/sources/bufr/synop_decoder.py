"""Elements of a SYNOP in BUFR: a reader for `decoder`.

Fixed templates, such as ECMWF's, are read as one array of values. Templates with delayed replication (307080 to 307096
and national ones) are read key by key, because an amount of precipitation refers to the period before it, and a
temperature to the sensor height before it.
"""

from typing import Any

Report = dict[str, float | str]
"""The elements that are present, by short name (see `_KEYS`); winds as direction and speed, `tp` over 6 hours."""

# Elements of fixed templates by descriptor (FXXYYY as ecCodes writes it, an integer).
_DESCRIPTORS = {
    1001: "block", 1002: "number", 4001: "year", 4002: "month", 4003: "day", 4004: "hour", 4005: "minute",
    5001: "latitude", 5002: "latitude", 6001: "longitude", 6002: "longitude", 7001: "elevation", 7030: "elevation",
    10004: "ps", 10051: "msl", 11001: "direction", 11011: "direction", 11002: "speed", 11012: "speed",
    12004: "t2m", 12101: "t2m", 12006: "td2m", 12103: "td2m", 13021: "tp",
}  # fmt: skip
# The same by ecCodes key, with the periods and heights that they refer to.
_KEYS = {
    "blockNumber": "block", "stationNumber": "number", "wigosLocalIdentifierCharacter": "wigos",
    "wigosIdentifierSeries": "wigos_series", "wigosIssuerOfIdentifier": "wigos_issuer",
    "wigosIssueNumber": "wigos_issue",
    "year": "year", "month": "month", "day": "day", "hour": "hour", "minute": "minute",
    "latitude": "latitude", "longitude": "longitude",
    "heightOfStationGroundAboveMeanSeaLevel": "elevation", "heightOfStation": "elevation",
    "nonCoordinatePressure": "ps", "pressureReducedToMeanSeaLevel": "msl",
    "airTemperature": "t2m", "airTemperatureAt2M": "t2m", "dewpointTemperature": "td2m",
    "dewpointTemperatureAt2M": "td2m", "windDirection": "direction", "windDirectionAt10M": "direction",
    "windSpeed": "speed", "windSpeedAt10M": "speed", "totalPrecipitationPast6Hours": "tp",
    "totalPrecipitationOrTotalWaterEquivalent": "amount", "timePeriod": "period",
    "heightOfSensorAboveLocalGroundOrDeckOfMarinePlatform": "sensor",
}  # fmt: skip
_HOURS = {"h": 1.0, "min": 1 / 60, "d": 24.0, "s": 1 / 3600}
Event = tuple[str, list[Any], float]


class Reader:
    """Decoding of messages with ecCodes; the layout of each template is kept."""

    def __init__(self, eccodes: Any) -> None:
        self._codes = eccodes
        self._missing = (eccodes.CODES_MISSING_DOUBLE, eccodes.CODES_MISSING_LONG)
        self._templates: dict[bytes, tuple[int, dict[str, int]]] = {}

    def reports(self, handle: Any, message: bytes) -> list[Report]:
        """Return the SYNOPs of a message."""
        codes = self._codes
        subsets = codes.codes_get(handle, "numberOfSubsets")
        template = _template(message)
        if subsets == 1 and self._templates.get(template, (0, {}))[0]:
            codes.codes_set(handle, "skipExtraKeyAttributes", 1)  # units: a walk needs them, an array does not
        codes.codes_set(handle, "unpack", 1)
        report = self._fixed(handle, template) if subsets == 1 else None
        return [report] if report is not None else self._walk(handle, subsets)

    def _fixed(self, handle: int, template: bytes) -> Report | None:
        """Return the report of a message whose template has no delayed replication, else None."""
        if template not in self._templates:
            expanded = self._codes.codes_get_array(handle, "expandedDescriptors").tolist()
            positions: dict[str, int] = {}
            for position, descriptor in enumerate(expanded):
                if descriptor in _DESCRIPTORS:
                    positions.setdefault(_DESCRIPTORS[descriptor], position)
            delayed = any(31000 <= descriptor <= 31002 for descriptor in expanded)
            self._templates[template] = (0 if delayed else len(expanded), positions)
        length, positions = self._templates[template]
        if not length:
            return None
        values = self._codes.codes_get_array(handle, "numericValues")
        if len(values) != length:
            raise ValueError(f"{len(values)} values for {length} descriptors")
        elements = {name: float(values[position]) for name, position in positions.items()}
        return {name: value for name, value in elements.items() if value not in self._missing}

    def _walk(self, handle: int, subsets: int) -> list[Report]:
        """Return the reports of a message with delayed replication or several subsets, from its keys in order."""
        codes = self._codes
        compressed = bool(codes.codes_get(handle, "compressedData"))
        groups: list[list[Event]] = [[]]
        iterator = codes.codes_bufr_keys_iterator_new(handle)
        try:
            while codes.codes_bufr_keys_iterator_next(iterator):
                key = codes.codes_bufr_keys_iterator_get_name(iterator)
                if key == "subsetNumber" and not compressed:
                    groups.append([])
                name = _KEYS.get(key.rpartition("#")[2]) if key[0] == "#" and "->" not in key else None
                if name is not None:
                    values = list(codes.codes_get_array(handle, key)) if compressed else [codes.codes_get(handle, key)]
                    unit = _HOURS.get(codes.codes_get(handle, f"{key}->units"), 0.0) if name == "period" else 1.0
                    groups[-1].append((name, values, unit))
        finally:
            codes.codes_bufr_keys_iterator_delete(iterator)
        if compressed:
            return [self._interpret(groups[0], subset) for subset in range(subsets)]
        return [self._interpret(group, 0) for group in groups if group]

    def _interpret(self, events: list[Event], subset: int) -> Report:
        """Return one report from its elements in order: the first value of each for the period and height before it."""
        report: Report = {}
        period = sensor = None
        for name, values, unit in events:
            value = values[subset] if len(values) > 1 else values[0]
            absent = value in self._missing
            if name == "period":
                period = None if absent else abs(value) * unit
            elif name == "sensor":
                sensor = None if absent else value
            elif isinstance(value, str):
                report.setdefault(name, value.strip())
            elif not absent and _belongs(name, period, sensor):
                report.setdefault("tp" if name == "amount" else name, float(value))
        return report


def _belongs(name: str, period: float | None, sensor: float | None) -> bool:
    """Return whether a value is the screen temperature, 10-metre wind or 6-h precipitation; other names always are."""
    if name in ("t2m", "td2m"):
        return sensor is None or 1 <= sensor <= 5
    if name in ("direction", "speed"):
        return sensor is None or sensor >= 5
    return name != "amount" or (period is not None and abs(period - 6) < 0.01)


def _template(message: bytes) -> bytes:
    """Return the descriptors of section 3 as bytes of the message."""
    start = 8 + int.from_bytes(message[8:11], "big")
    if message[17 if message[7] == 4 else 15] & 0x80:
        start += int.from_bytes(message[start : start + 3], "big")
    return message[start + 7 : start + int.from_bytes(message[start : start + 3], "big")]
