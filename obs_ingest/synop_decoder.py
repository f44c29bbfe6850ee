"""Decode BUFR messages with ecCodes, in a process of their own: a damaged message can bring ecCodes down.

`Decoder` starts this file as a script, hands it messages through a pipe, and starts another when it dies, so that a
crash costs one message. The script needs ecCodes and numpy only.

Fixed templates, such as ECMWF's, are read as one array of values; templates with delayed replication (307080 to 307096
and national ones) are walked key by key, because an amount of precipitation means nothing without the period, nor a
temperature without the sensor height, that stands before it.
"""

import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

Report = dict[str, float | str]
"""Elements by short name (see `_KEYS`), those present only; winds as direction and speed, `tp` over 6 hours."""

PATIENCE = 10  # seconds for one message, after which the process is killed

# Elements of fixed templates by descriptor (FXXYYY as ecCodes writes it, an integer).
_DESCRIPTORS = {
    1001: "block", 1002: "number", 4001: "year", 4002: "month", 4003: "day", 4004: "hour", 4005: "minute",
    5001: "latitude", 5002: "latitude", 6001: "longitude", 6002: "longitude", 7001: "elevation", 7030: "elevation",
    10004: "ps", 10051: "msl", 11001: "direction", 11011: "direction", 11002: "speed", 11012: "speed",
    12004: "t2m", 12101: "t2m", 12006: "td2m", 12103: "td2m", 13021: "tp",
}  # fmt: skip
# The same, and what gives them their meaning, by ecCodes key.
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
_RECEIPT = ("rdbtimeDay", "rdbtimeHour", "rdbtimeMinute", "rdbtimeSecond")

Receipt = tuple[int, ...]
"""Day of the month, hour, minute and second at which a report was received."""

Request = tuple[bytes, bool]
"""A message, and whether its local section keeps the receipt."""

_BATCH = 200
Event = tuple[str, list[Any], float]


class DecodingError(ValueError):
    """A message cannot be decoded; says why."""


class Decoder:
    """A process that decodes; use it as a context manager."""

    def __enter__(self) -> "Decoder":
        self._process: subprocess.Popen[bytes] | None = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def decode(self, requests: Sequence[Request]) -> Iterator[tuple[list[Report], Receipt | None] | DecodingError]:
        """For each message its reports and receipt, or what is wrong with it.

        Raises:
            RuntimeError: the decoding process does not start; says why.
        """
        done = 0
        while done < len(requests):
            for answer in self._answers(requests[done : done + _BATCH]):
                done += 1
                yield DecodingError(answer) if isinstance(answer, str) else answer

    def _answers(self, requests: Sequence[Request]) -> Iterator[Any]:
        """The process's answers to one batch, up to the message that brings it down, if one does."""
        if self._process is None:
            self._process = self._start()
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            pickle.dump(list(requests), stdin)
            stdin.flush()
            for _ in requests:
                yield pickle.load(stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            self._stop()
            yield "it brings ecCodes down"

    def _start(self) -> "subprocess.Popen[bytes]":
        with tempfile.TemporaryFile() as log:
            command = [sys.executable, "-P", str(Path(__file__).resolve())]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
            assert process.stdout is not None
            if not process.stdout.readline():
                process.wait()
                log.seek(0)
                raise RuntimeError(f"the BUFR decoder does not start: {log.read().decode(errors='replace').strip()}")
        return process

    def _stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more: reports and receipt, or a text that says what is wrong."""
    import eccodes

    answers.write(b"ready\n")
    answers.flush()
    reader = _Reader(eccodes)
    while True:
        try:
            batch: list[Request] = pickle.load(requests)
        except EOFError:
            return
        for message, keeps_receipt in batch:
            signal.alarm(PATIENCE)
            try:
                answer: Any = reader.decode(message, keeps_receipt)
            except (eccodes.CodesInternalError, ValueError) as error:
                answer = str(error)
            signal.alarm(0)
            pickle.dump(answer, answers)
            answers.flush()  # before the next message, which may bring this process down


class _Reader:
    """Decodes messages with ecCodes, remembering the templates it has seen."""

    def __init__(self, eccodes: Any) -> None:
        self._codes = eccodes
        self._missing = (eccodes.CODES_MISSING_DOUBLE, eccodes.CODES_MISSING_LONG)
        self._templates: dict[bytes, tuple[int, dict[str, int]]] = {}

    def decode(self, message: bytes, keeps_receipt: bool) -> tuple[list[Report], Receipt | None]:
        codes = self._codes
        handle = codes.codes_new_from_message(message)
        try:
            subsets = codes.codes_get(handle, "numberOfSubsets")
            template = _template(message)
            if subsets == 1 and self._templates.get(template, (0, {}))[0]:
                codes.codes_set(handle, "skipExtraKeyAttributes", 1)  # units: a walk needs them, an array does not
            codes.codes_set(handle, "unpack", 1)
            report = self._fixed(handle, template) if subsets == 1 else None
            reports = [report] if report is not None else self._walk(handle, subsets)
            for report in reports:
                for name in {"latitude", "longitude"} & report.keys():
                    report[name] = round(float(report[name]), 5)  # BUFR's resolution; the pole comes as -90.00..01
            receipt = tuple(int(codes.codes_get(handle, key)) for key in _RECEIPT) if keeps_receipt else None
            return reports, receipt
        finally:
            codes.codes_release(handle)

    def _fixed(self, handle: int, template: bytes) -> Report | None:
        """The report of a message whose template has no delayed replication, else None."""
        if template not in self._templates:
            expanded = self._codes.codes_get_array(handle, "expandedDescriptors").tolist()
            places: dict[str, int] = {}
            for place, descriptor in enumerate(expanded):
                if descriptor in _DESCRIPTORS:
                    places.setdefault(_DESCRIPTORS[descriptor], place)
            delayed = any(31000 <= descriptor <= 31002 for descriptor in expanded)
            self._templates[template] = (0 if delayed else len(expanded), places)
        length, places = self._templates[template]
        if not length:
            return None
        values = self._codes.codes_get_array(handle, "numericValues")
        if len(values) != length:
            raise ValueError(f"{len(values)} values for {length} descriptors")
        picked = {name: float(values[place]) for name, place in places.items()}
        return {name: value for name, value in picked.items() if value not in self._missing}

    def _walk(self, handle: int, subsets: int) -> list[Report]:
        """The reports of a message with delayed replication or several subsets, from its keys in order."""
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
        """One report from its elements in order: the first value of each, under the period and height it stands."""
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
    """Whether a value is the screen temperature, the 10-metre wind, or precipitation over 6 hours; others always."""
    if name in ("t2m", "td2m"):
        return sensor is None or 1 <= sensor <= 5
    if name in ("direction", "speed"):
        return sensor is None or sensor >= 5
    return name != "amount" or (period is not None and abs(period - 6) < 0.01)


def _template(message: bytes) -> bytes:
    """The descriptors of section 3 as they stand in the message."""
    start = 8 + int.from_bytes(message[8:11], "big")
    if message[17 if message[7] == 4 else 15] & 0x80:
        start += int.from_bytes(message[start : start + 3], "big")
    return message[start + 7 : start + int.from_bytes(message[start : start + 3], "big")]


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
