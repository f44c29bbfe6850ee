"""Times and durations as users write them: times in UTC, durations with their unit; nothing is guessed."""

import re
from datetime import UTC, date, datetime
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, PlainSerializer

__all__ = [
    "TIME_FORM",
    "Duration",
    "cycle_id",
    "parse_datetime",
    "parse_duration",
    "parse_time",
    "write_duration",
]

TIME_FORM = "2024-01-04, 2024-01-04T06 or 2024-01-04T06:00, in UTC"
"""How a time is written, for messages and help."""

_ISO = re.compile(r"\d{4}-\d\d-\d\d(T\d\d(:\d\d(:\d\d)?)?Z?)?|\d{8}T\d\dZ?", re.ASCII)
_FIRST_YEAR, _LAST_YEAR = 1678, 2261
"""Whole years that pandas can hold in nanoseconds."""


def parse_time(value: object) -> np.datetime64:
    """Return the time, as datetime64[s] in UTC, of a text, or of a date or datetime as YAML has it.

    A text is in ISO 8601: a date, or a date and a time to the hour, minute or second, with or without a `Z`; or the
    name of a cycle, such as 20240104T06.

    Raises:
        ValueError: the value is in another form, is no time of the calendar, or its year is not from 1678 to 2261.
    """
    if isinstance(value, date):
        time = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    elif isinstance(value, str) and _ISO.fullmatch(value):
        try:
            time = datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"{value!r} is not a time: {error}") from None
    else:
        raise ValueError(f"{value!r} is not a time; write it as {TIME_FORM}")
    if not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        raise ValueError(f"{value} is not in the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time, "s")


def parse_datetime(value: object) -> datetime:
    """Return the time, in UTC, without a zone, of what `parse_time` takes; errors as there."""
    return datetime.fromisoformat(str(parse_time(value)))


def cycle_id(time: datetime) -> str:
    """Return the name of a cycle, e.g. `20240104T00`."""
    return f"{time:%Y%m%dT%H}"


def parse_duration(value: object) -> pd.Timedelta:
    """Return the duration that `90min`, `48h` or `10d` says.

    Raises:
        ValueError: the text has no such form; a bare number has none, as its unit would be a guess.
    """
    if isinstance(value, pd.Timedelta):
        return value
    match = re.fullmatch(r"(\d+)(min|h|d)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write it as 90min, 48h or 10d")
    unit = {"min": "minutes", "h": "hours", "d": "days"}[match[2]]
    return pd.Timedelta(**{unit: int(match[1])})


def write_duration(value: pd.Timedelta) -> str:
    """Return a duration as a file has it: in hours, or in minutes."""
    minutes = round(value.total_seconds() / 60)
    return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}min"


Duration = Annotated[pd.Timedelta, BeforeValidator(parse_duration), PlainSerializer(write_duration)]
"""A duration in a configuration, such as 90min, 48h or 10d."""
