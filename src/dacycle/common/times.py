"""Times as users write them: one form, in UTC; nothing is guessed."""

import re
from datetime import UTC, date, datetime

import numpy as np

__all__ = ["TIME_FORM", "cycle_id", "parse_datetime", "parse_time"]

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
