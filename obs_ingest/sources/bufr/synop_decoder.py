"""Elements of a SYNOP in BUFR: a reader for `decoder`.

Coordinates of BUFR (classes 04 to 08: times, periods, heights, statistics) stay in force until they are given again, so
that the elements are read in order, and a value counts only with all that governs it (`_Coordinates`). Fixed templates,
such as ECMWF's, are read as one array of values. Templates with delayed replication (307080 to 307096 and national
ones) are read key by key.
"""

from collections.abc import Iterator
from typing import Any

Report = dict[str, Any]
"""The elements that are present, by short name (see `_ELEMENTS`); winds as direction and speed, `tp` over 6 hours; and
`governed`, the names of values that were there, but are of a statistic, a period or another time."""

# By ecCodes key: the short name, and the descriptors of the key (FXXYYY as ecCodes writes it, an integer).
_ELEMENTS: dict[str, tuple[Any, ...]] = {
    "blockNumber": ("block", 1001), "stationNumber": ("number", 1002),
    "shipOrMobileLandStationIdentifier": ("ship", 1011), "marineObservingPlatformIdentifier": ("platform", 1087),
    "regionNumber": ("buoy_region", 1003), "wmoRegionSubArea": ("buoy_area", 1020),
    "buoyOrPlatformIdentifier": ("buoy", 1005), "stationaryBuoyPlatformIdentifierEGCManBuoys": ("fixed_buoy", 1010),
    "wigosIdentifierSeries": ("wigos_series", 1125), "wigosIssuerOfIdentifier": ("wigos_issuer", 1126),
    "wigosIssueNumber": ("wigos_issue", 1127), "wigosLocalIdentifierCharacter": ("wigos", 1128),
    "year": ("year", 4001), "month": ("month", 4002), "day": ("day", 4003), "hour": ("hour", 4004),
    "minute": ("minute", 4005), "latitude": ("latitude", 5001, 5002), "longitude": ("longitude", 6001, 6002),
    "heightOfStation": ("elevation", 7001), "heightOfStationGroundAboveMeanSeaLevel": ("elevation", 7030),
    "nonCoordinatePressure": ("ps", 10004), "pressureReducedToMeanSeaLevel": ("msl", 10051),
    "airTemperature": ("t2m", 12001, 12101), "airTemperatureAt2M": ("t2m", 12004, 12104),
    "dewpointTemperature": ("td2m", 12003, 12103), "dewpointTemperatureAt2M": ("td2m", 12006, 12106),
    "windDirection": ("direction", 11001), "windDirectionAt10M": ("direction", 11011),
    "windSpeed": ("speed", 11002), "windSpeedAt10M": ("speed", 11012),
    "totalPrecipitationPast6Hours": ("tp", 13021), "totalPrecipitationOrTotalWaterEquivalent": ("amount", 13011),
    "heightOfSensorAboveLocalGroundOrDeckOfMarinePlatform": ("sensor", 7032),
    "timeSignificance": ("significance", 8021),
    "firstOrderStatistics": ("statistic", 8023), "differenceStatistics": ("difference", 8024),
    "dayOfOccurrenceQualifier": ("occurrence", 8053), "measurementUncertaintyExpression": ("uncertainty", 8092),
    "changeQualifierOfATrendTypeForecastOrAnAerodromeForecast": ("trend", 8016),
    "timeSignificanceAviationForecast": ("forecast", 8039),
}  # fmt: skip
_NAMES = {key: name for key, (name, *_) in _ELEMENTS.items()}
_DESCRIPTORS = {descriptor: name for name, *descriptors in _ELEMENTS.values() for descriptor in descriptors}
_TEXTS = {name: key for key, (name, *_) in _ELEMENTS.items() if name in ("ship", "fixed_buoy", "wigos")}

_PLATFORMS = {"ship", "platform", "buoy", "fixed_buoy"}

# Periods before a value, and shifts of the time: the unit in hours, by its name in ecCodes and by descriptor.
_HOURS = {"a": 8766.0, "mon": 730.5, "d": 24.0, "h": 1.0, "min": 1 / 60, "s": 1 / 3600}
_LONGEST = 1e9  # for a unit that is not known
_PERIODS = {4021: "a", 4022: "mon", 4023: "d", 4024: "h", 4025: "min", 4026: "s", 4031: "h",
            4073: "d", 4074: "h", 4075: "min"}  # fmt: skip
_SHIFTS = {4011: "a", 4012: "mon", 4013: "d", 4014: "h", 4015: "min", 4016: "s", 4065: "min", 4066: "s"}
_TIMED = {"timePeriod": "period", "durationOfTimeRelatingToFollowingValue": "period", "timeIncrement": "shift"}
_REPLICATIONS = ("delayedDescriptorReplicationFactor", "shortDelayedDescriptorReplicationFactor",
                 "extendedDelayedDescriptorReplicationFactor")  # fmt: skip

_ANCHORS = {"year": 0.5, "month": 0.5, "day": 0.5, "hour": 0.5, "minute": 0.5, "latitude": 0.02, "longitude": 0.02}
"""Time and place of the report, and by how much they may differ where they are given again."""
_STATISTICS = ("statistic", "difference", "occurrence", "uncertainty", "trend", "forecast")
"""Coordinates under which no value is a plain observation. A missing one ends what is in force; where nothing is, it
begins values of a statistic that is not stated."""
_NOT_STATED = float("nan")
_VALUES = ("ps", "msl", "t2m", "td2m", "direction", "speed", "tp", "amount")

_COORDINATES = ("sensor", "significance", *_STATISTICS)
_AVERAGED, _ACCUMULATED, _NOMINAL = 2, 3, 25
"""Time significances: of a mean wind, of an amount, and of a report's nominal time."""
_MOMENT = 1e-3  # h
_TEN_MINUTES, _DAY = 1 / 6 + _MOMENT, 24.0
_LONGEST_PERIODS: dict[str, tuple[float, int]] = {
    **dict.fromkeys(("direction", "speed"), (_TEN_MINUTES, _AVERAGED)),
    **dict.fromkeys(("tp", "amount"), (_DAY, _ACCUMULATED)),
}
"""Values that are no instants: the longest period (h), and the time significance that they may have."""

Event = tuple[str, list[Any]]
"""An element: its short name, empty for one that is not read; one value or one for each subset, None where missing."""


class Reader:
    """Decoding of messages with ecCodes; the layout of each template is kept."""

    def __init__(self, eccodes: Any) -> None:
        self._codes = eccodes
        self._missing = (eccodes.CODES_MISSING_DOUBLE, eccodes.CODES_MISSING_LONG)
        self._templates: dict[bytes, tuple[int, list[tuple[str, int, float]]]] = {}

    def reports(self, handle: Any, message: bytes) -> list[Report]:
        """Return the SYNOPs of a message."""
        codes = self._codes
        subsets = codes.codes_get(handle, "numberOfSubsets")
        template = _template(message)
        if subsets == 1 and self._templates.get(template, (0, []))[0]:
            codes.codes_set(handle, "skipExtraKeyAttributes", 1)  # units: a walk needs them, an array does not
        codes.codes_set(handle, "unpack", 1)
        report = self._fixed(handle, template) if subsets == 1 else None
        return [report] if report is not None else self._walk(handle, subsets)

    def _fixed(self, handle: int, template: bytes) -> Report | None:
        """Return the report of a message whose template has no delayed replication, else None."""
        if template not in self._templates:
            expanded = self._codes.codes_get_array(handle, "expandedDescriptors").tolist()
            delayed = any(31000 <= descriptor <= 31002 for descriptor in expanded)
            self._templates[template] = (0 if delayed else len(expanded), list(_layout(expanded)))
        length, layout = self._templates[template]
        if not length:
            return None
        values = self._codes.codes_get_array(handle, "numericValues")
        if len(values) != length:
            raise ValueError(f"{len(values)} values for {length} descriptors")
        events = [(name, [self._value(self._number(handle, name, values[i]), unit)]) for name, i, unit in layout]
        return _reports(events, 1)[0]

    def _number(self, handle: int, name: str, number: Any) -> Any:
        return self._codes.codes_get(handle, f"#1#{_TEXTS[name]}") if name in _TEXTS else float(number)

    def _value(self, value: Any, unit: float) -> Any:
        """Return a value in its unit, None where it is missing."""
        if isinstance(value, str):
            return value.strip() or None
        return None if value in self._missing else float(value) * unit

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
                if key[0] == "#" and "->" not in key:
                    groups[-1].append(self._event(handle, key, compressed))
        finally:
            codes.codes_bufr_keys_iterator_delete(iterator)
        if compressed:
            return _reports(groups[0], subsets)
        return [_reports(group, 1)[0] for group in groups if group]

    def _event(self, handle: int, key: str, compressed: bool) -> Event:
        codes, plain = self._codes, key.rpartition("#")[2]
        name = "replication" if plain in _REPLICATIONS else _TIMED.get(plain) or _NAMES.get(plain, "")
        if not name:
            return "", [None]
        unit = _HOURS.get(codes.codes_get(handle, f"{key}->units"), _LONGEST) if plain in _TIMED else 1.0
        values = list(codes.codes_get_array(handle, key)) if compressed else [codes.codes_get(handle, key)]
        return name, [self._value(value, unit) for value in values]


def _reports(events: list[Event], subsets: int) -> list[Report]:
    """Return one report for each subset, from their elements in order.

    Which elements make a report depends on the coordinates, and of other values only on whether they are missing. Most
    subsets of a message agree in that, and one interpretation serves them all.
    """
    names = [name for name, _ in events]
    columns = [values if len(values) > 1 else values * subsets for _, values in events]
    deciding = [
        values if _decides(name, names) else [value is None for value in values]
        for name, values in events
        if len(values) > 1
    ]
    known: dict[tuple[Any, ...], tuple[dict[str, int], list[str]]] = {}
    reports: list[Report] = []
    for subset in range(subsets):
        key = tuple(values[subset] for values in deciding)
        if key not in known:
            known[key] = _Interpreter(names, [column[subset] for column in columns]).interpretation()
        positions, governed = known[key]
        reports.append({name: columns[i][subset] for name, i in positions.items()} | {"governed": governed})
    return reports


def _decides(name: str, names: list[str]) -> bool:
    """Return whether the value of an element, and not only whether it is missing, tells of other elements."""
    if name in _ANCHORS:
        return names.count(name) > 1
    return name in (*_COORDINATES, "period", "shift", "replication")


class _Interpreter:
    """The report that elements make, taken one after the other: of each value the first that nothing else governs.

    Args:
        names: short names of the elements in order.
        values: their values, None where missing.
    """

    def __init__(self, names: list[str], values: list[Any]) -> None:
        self._values = values
        self._report: dict[str, int] = {}  # the position of the element that each entry is
        self._governed: set[str] = set()
        self._coordinates: dict[str, float | None] = {}
        self._periods: list[float | None] = []
        self._moved: dict[str, bool] = {}  # of time and place, and whether under a time significance
        self._shift = self._increment = 0.0
        self._repeats = self._has_values = False
        self._group, self._group_of_wind = 0, -1
        self._previous = ""
        for position, (name, value) in enumerate(zip(names, values, strict=True)):
            self._take(position, name, value)

    def interpretation(self) -> tuple[dict[str, int], list[str]]:
        """Return the positions of the elements that are the report's, by name, and the names of the governed ones."""
        governed = {"tp" if name == "amount" else name for name in self._governed}
        return self._report, sorted(governed - self._report.keys())

    def _take(self, position: int, name: str, value: Any) -> None:
        if name in _ANCHORS:
            self._anchor(position, name, value)
        elif name in _VALUES:
            self._has_values = True
            if value is not None:
                self._measure(position, name)
        elif name == "period":
            self._periods = [*self._periods[-1:], value] if self._previous == "period" else [value]
            self._group += 1
        elif name in ("shift", "replication"):
            self._move(name, value or 0.0)
        elif name in _COORDINATES:
            opens = name in _STATISTICS and value is None and self._coordinates.get(name) is None
            self._coordinates[name] = _NOT_STATED if opens else value
            if name == "significance" and value is None:
                self._moved = {anchor: under for anchor, under in self._moved.items() if not under}
            self._group += 1
            self._repeats &= name != "sensor"
        elif name and value is not None:
            self._report.setdefault(name, position)
        self._previous = name

    def _anchor(self, position: int, name: str, value: float | None) -> None:
        """Take time or place: the report's own, or after it, where it differs, those of other values."""
        if name not in self._report and not self._has_values:
            if value is not None:
                self._report[name] = position
        elif value is None or not self._is_own(name, value):
            self._moved[name] = self._coordinates.get("significance") is not None
        else:
            self._moved.pop(name, None)

    def _is_own(self, name: str, value: float) -> bool:
        """Return whether a time or place is the report's own."""
        return name in self._report and abs(value - self._values[self._report[name]]) <= _ANCHORS[name]

    def _move(self, name: str, value: float) -> None:
        """Add up increments of the time; one before a replication is added in each repetition."""
        if name == "replication":
            self._repeats |= self._increment != 0
            self._shift += self._increment * (value - 1)
            self._increment = 0.0
        else:
            self._increment = value
            self._shift += value
            self._group += 1

    def _measure(self, position: int, name: str) -> None:
        """Take a value, if it is of the right height, and no statistic, period or other time governs it."""
        target = "tp" if name == "amount" else name
        wind = name in ("direction", "speed")
        if wind and "speed" in self._report and self._group != self._group_of_wind:
            return
        if (target in self._report and not wind) or not self._is_wanted(name):
            return
        if not self._is_plain(name):
            self._governed.add(name)
            return
        if wind and self._group != self._group_of_wind:
            self._report.pop("direction", None)  # of a wind without a speed
            self._group_of_wind = self._group
        self._report.setdefault(target, position)

    def _is_wanted(self, name: str) -> bool:
        """Return whether a value is the screen temperature, 10-metre wind or 6-h sum; other names always are."""
        sensor = self._coordinates.get("sensor")
        at_sea = bool(self._report.keys() & _PLATFORMS) and "number" not in self._report  # the deck decides
        if name in ("t2m", "td2m"):
            return sensor is None or 1 <= sensor <= 5 or at_sea
        if name in ("direction", "speed"):
            return sensor is None or sensor >= 5 or at_sea
        return name != "amount" or abs(abs(self._start() - self._end()) - 6) < 0.01

    def _is_plain(self, name: str) -> bool:
        """Return whether a value is what its name says at the report's own time and place."""
        coordinates = self._coordinates
        if self._moved or self._repeats or abs(self._shift) > _MOMENT:
            return False
        if any(coordinates.get(statistic) is not None for statistic in _STATISTICS):
            return False
        longest, own = _LONGEST_PERIODS.get(name, (_MOMENT, None))
        if coordinates.get("significance") not in (None, _NOMINAL, own):
            return False
        return name == "tp" or (abs(self._end()) <= _MOMENT and abs(self._start()) <= longest)

    def _start(self) -> float:
        """Return the beginning of the period in hours from the report's time."""
        return (self._periods[0] or 0.0) if self._periods else 0.0

    def _end(self) -> float:
        """Return the end of the period; a single period ends at the report's time."""
        return (self._periods[1] or 0.0) if len(self._periods) > 1 else 0.0


def _layout(expanded: list[int]) -> Iterator[tuple[str, int, float]]:
    """Yield name, position and unit of the elements of a fixed template; others matter between two periods only."""
    for position, descriptor in enumerate(expanded):
        if descriptor in _PERIODS:
            yield "period", position, _HOURS[_PERIODS[descriptor]]
        elif descriptor in _SHIFTS:
            yield "shift", position, _HOURS[_SHIFTS[descriptor]]
        elif descriptor in _DESCRIPTORS:
            yield _DESCRIPTORS[descriptor], position, 1.0
        elif position and expanded[position - 1] in _PERIODS:
            yield "", position, 1.0


def _template(message: bytes) -> bytes:
    """Return what the layout depends on: edition, centre and tables of section 1, and the descriptors of section 3."""
    start = 8 + int.from_bytes(message[8:11], "big")
    tables = message[7:8] + message[11:16] + (message[21:23] if message[7] == 4 else message[18:20])
    if message[17 if message[7] == 4 else 15] & 0x80:
        start += int.from_bytes(message[start : start + 3], "big")
    return tables + message[start + 7 : start + int.from_bytes(message[start : start + 3], "big")]
