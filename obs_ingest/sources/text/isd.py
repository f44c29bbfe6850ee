"""NOAA's Integrated Surface Database: the source `isd`.

Two layouts of the same records: Global-Hourly CSV, and the native fixed-width text (plain or gzip). A CSV cell without
its commas is the text of the native record, so that both are decoded as fixed-width characters. Positions, codes and
scales: NOAA, "Federal Climate Complex data documentation for Integrated Surface Data" (isd-format-document).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import ZERO_CELSIUS
from dacycle.obs_ingest.sources.surface import Parsed, ReportFiles, new_reports, put, put_wind, stacked
from dacycle.obs_ingest.sources.text.columns import by_text, lines, numbers, read_tables, start, times

__all__ = ["Isd"]

Characters = NDArray[np.uint8]
"""(n, width) ASCII codes, one row per report."""

ACCEPTED = b"01459ACIMPRU"
"""Quality codes: passed (0, 1, 4, 5), not checked (9), or set right by hand (letters); not 2, 3, 6, 7."""

CONDITIONS = b"239"
"""Conditions of a precipitation amount for its period: trace, measured, none stated.

3 is documented as the beginning of an accumulation whose amount is missing. But every amount above zero from a SYNOP
has it, and these agree with the SYNOP's text. Without it only dry periods would remain.
"""

_ABSENT = {"wnd": b"9" * 10, "tmp": b"+99999", "dew": b"+99999", "slp": b"999999", "ma1": b"9" * 12}
_NATIVE = {"wnd": (60, 70), "tmp": (87, 93), "dew": (93, 99), "slp": (99, 105)}
_AMOUNT = b"06999999"  # period, depth, condition and quality of an amount over six hours that is absent
_AMOUNTS = ("aa1", "aa2", "aa3", "aa4")
_MANDATORY = 105  # characters before the variable part of a native record
_NATIVE_RECORD = re.compile(rb"\d{4}[0-9A-Z]\d{10}\d{12}")
_SIX_HOURS = re.compile(rb"AA[1-4](06.{6})")
_PRESSURES = re.compile(rb"MA1(.{12})")


class Isd(ReportFiles):
    """Station reports from ISD files: t2m, td2m, msl, ps, u10, v10 and 6-h precipitation (traces are 0).

    Altimeter settings are not used. Report types (SYNOP, METAR, SPECI, ...) are read alike.
    """

    patterns = ("*.csv", "*.gz", "*-*-[12][0-9][0-9][0-9]")
    by_station = True

    def parse(self, path: Path) -> Parsed:
        """Parse all reports of a file of either layout."""
        problems: list[str] = []
        read = _native if _NATIVE_RECORD.match(start(path)) else _global_hourly
        return Parsed(stacked(read(path, problems)), problems)


def _global_hourly(path: Path, problems: list[str]) -> Iterator[NDArray]:
    required = ("station", "date", "latitude", "longitude", "elevation", "wnd", "tmp", "dew", "slp")
    for table in read_tables(path, required, ("ma1", *_AMOUNTS), problems=problems):
        yield _of_table(table)


def _of_table(table: pa.Table) -> NDArray:
    reports = new_reports(table.num_rows)
    reports["time"] = times(table["date"])
    reports["station"] = by_text(table["station"], str, object)
    for name in ("latitude", "longitude", "elevation"):
        reports[name] = numbers(table[name])[0]
    fields = {name: _cells(table, name, absent) for name, absent in _ABSENT.items()}
    amount = _cells(table, "", _AMOUNT)
    for name in _AMOUNTS:
        cells = _cells(table, name, b"99999999")
        six_hours = (cells[:, :2] == np.frombuffer(b"06", np.uint8)).all(axis=1)
        amount = np.where((six_hours | (cells[:, 0] == 0))[:, None], cells, amount)
    _decode(reports, fields, amount)
    return reports


def _cells(table: pa.Table, name: str, absent: bytes) -> Characters:
    """Return a column's cells without commas; `absent` where there is none, zeros where a cell has another width."""

    def characters(text: str) -> bytes:
        plain = text.replace(",", "").encode()
        return absent if not plain else plain if len(plain) == len(absent) else b""

    if name not in table.column_names:
        return np.broadcast_to(np.frombuffer(absent, np.uint8), (table.num_rows, len(absent)))
    return _characters(by_text(table[name], characters, f"S{len(absent)}"))


def _native(path: Path, problems: list[str]) -> Iterator[NDArray]:
    number = 1
    for piece in lines(path, problems):
        records = piece.splitlines()
        length = np.array([len(record) for record in records])
        fixed = _characters(np.array([record[:_MANDATORY] for record in records], f"S{_MANDATORY}"))
        whole = length == _MANDATORY + _digits(fixed[:, :4])
        problems += [f"{path}, record {number + i}: not of the length it states" for i in np.nonzero(~whole)[0]]
        yield _of_records([record for record, good in zip(records, whole, strict=True) if good], fixed[whole])
        number += len(records)


def _of_records(records: list[bytes], fixed: Characters) -> NDArray:
    reports = new_reports(len(fixed))
    reports["time"] = times(
        pa.chunked_array([[line[15:27].decode("latin-1") for line in records]], pa.string()), "%Y%m%d%H%M"
    )
    reports["station"] = [line[4:15].decode("latin-1") for line in records]
    for name, columns, scale in (
        ("latitude", (28, 34), 1000),
        ("longitude", (34, 41), 1000),
        ("elevation", (46, 51), 1),
    ):
        reports[name] = _signed(fixed[:, slice(*columns)])[0] / scale
    fields = {name: fixed[:, slice(*columns)] for name, columns in _NATIVE.items()}
    added = [line[_MANDATORY:].partition(b"REM")[0] for line in records]
    fields["ma1"] = _groups(added, _PRESSURES, _ABSENT["ma1"])
    _decode(reports, fields, _groups(added, _SIX_HOURS, _AMOUNT))
    return reports


def _groups(added: list[bytes], group: re.Pattern[bytes], absent: bytes) -> Characters:
    """Return the content of a group in each record's additional data."""
    contents = [match[1] if (match := group.search(text)) else absent for text in added]
    return _characters(np.array(contents, f"S{len(absent)}"))


def _decode(reports: NDArray, fields: dict[str, Characters], amount: Characters) -> None:
    for name, field in (("t2m", fields["tmp"]), ("td2m", fields["dew"])):
        value, readable = _signed(field[:, :5])
        put(reports, name, value / 10 + ZERO_CELSIUS, _among(field[:, 5], ACCEPTED), readable)
    pressures = fields["ma1"][:, 6:]  # the first pair is the altimeter setting
    for name, field in (("msl", fields["slp"]), ("ps", pressures)):
        value, readable = _number(field[:, :5])
        put(reports, name, value * 10, _among(field[:, 5], ACCEPTED), readable)
    wind = fields["wnd"]
    direction, _ = _number(wind[:, :3])
    speed, readable = _number(wind[:, 5:9])
    passed = _among(wind[:, 3], ACCEPTED) & _among(wind[:, 9], ACCEPTED)
    put_wind(reports, direction, speed / 10, passed, readable)
    depth, readable = _number(amount[:, 2:6])
    depth = np.where(_among(amount[:, 6], b"2"), 0.0, depth / 10)
    put(reports, "tp", depth, _among(amount[:, 6], CONDITIONS) & _among(amount[:, 7], ACCEPTED), readable)


def _characters(texts: NDArray[np.bytes_]) -> Characters:
    return texts.view(np.uint8).reshape(len(texts), texts.dtype.itemsize)


def _among(codes: Characters, accepted: bytes) -> NDArray[np.bool_]:
    return np.isin(codes, np.frombuffer(accepted, np.uint8))


def _digits(field: Characters) -> NDArray[np.float64]:
    """Return the number (n,) that the digits form, NaN where there is another character."""
    digits = field - np.uint8(ord("0"))  # below "0" it wraps to above 9
    number = digits @ (10.0 ** np.arange(field.shape[1])[::-1])
    return np.where((digits < 10).all(axis=1), number, np.nan)


def _number(field: Characters) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the number (n,), NaN where all digits are 9 (missing) or it is unreadable, and whether it is readable."""
    number = _digits(field)
    return np.where(number == 10 ** field.shape[1] - 1, np.nan, number), np.isfinite(number)


def _signed(field: Characters) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the same as `_number` for a number with a sign in front."""
    number, readable = _number(field[:, 1:])
    negative = field[:, 0] == ord("-")
    signed = negative | (field[:, 0] == ord("+"))
    return np.where(signed, np.where(negative, -number, number), np.nan), readable & signed
