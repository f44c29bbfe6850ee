"""Durations as users write them, with their unit."""

import re
from typing import Annotated

import pandas as pd
from pydantic import BeforeValidator, PlainSerializer

__all__ = ["Duration", "parse_duration", "write_duration"]


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
