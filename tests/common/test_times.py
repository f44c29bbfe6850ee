"""Times are read in one form, and everything else is refused with that form."""

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest

from dacycle.common.times import parse_time


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("2024-01-04", "2024-01-04T00:00:00"),
        ("2024-01-04T06", "2024-01-04T06:00:00"),
        ("2024-01-04T06Z", "2024-01-04T06:00:00"),
        ("2024-01-04T06:30", "2024-01-04T06:30:00"),
        ("2024-01-04T06:30:15Z", "2024-01-04T06:30:15"),
        ("20240104T06", "2024-01-04T06:00:00"),
        (date(2024, 1, 4), "2024-01-04T00:00:00"),
        (datetime(2024, 1, 4, 6), "2024-01-04T06:00:00"),
        (datetime(2024, 1, 4, 6, tzinfo=timezone(timedelta(hours=2))), "2024-01-04T04:00:00"),
        (datetime(2024, 1, 4, 6, tzinfo=UTC), "2024-01-04T06:00:00"),
    ],
)
def test_a_time_in_iso_form_is_read(value: object, time: str) -> None:
    assert parse_time(value) == np.datetime64(time)
    assert parse_time(value).dtype == "datetime64[s]"


@pytest.mark.parametrize(
    "value",
    [
        "04.01.2024", "01/04/2024", "4 January 2024", "January 9", "06", "12:00", "2024", "2024-01", "2024-1-4", "",
        "now", "today", "NaT", "2024-01-04 06:00", "2024-01-04T6", "2024-01-04T06:00:00.5", "2024-W01-4", "2024-004",
        "20240104", "20240104T0600", "2024-01-04T06+01:00", "2024-01-04Z", " 2024-01-04", "２０２４-01-04",
        2024, 20240104, None, 1.5, True,
    ],
)  # fmt: skip
def test_any_other_form_is_refused_with_the_form(value: object) -> None:
    with pytest.raises(ValueError, match="is not a time; write it as 2024-01-04, 2024-01-04T06 or 2024-01-04T06:00"):
        parse_time(value)


@pytest.mark.parametrize("value", ["2024-02-30", "2023-02-29T00", "2024-01-04T24", "2024-01-04T23:59:60", "2024-13-01"])
def test_what_the_calendar_does_not_have_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=f"'{value}' is not a time: "):
        parse_time(value)


@pytest.mark.parametrize("value", ["0001-01-06", "1677-12-31", "2262-01-01", date(9999, 1, 1)])
def test_years_that_cannot_be_held_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not in the years 1678 to 2261"):
        parse_time(value)
