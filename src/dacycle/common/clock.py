"""The clock of live runs: the machine's own, or in a rehearsal a past time that passes faster.

`DACYCLE_CLOCK="2024-01-05T03 since 2026-11-29T05:10 x480"` says that it was 2024-01-05T03 when the machine's clock
showed 2026-11-29T05:10, and runs 480 times as fast since. By that clock cycles become due and are told late.
What is recorded of the machine itself, such as the time of a commit, stays the machine's.
"""

import re
from dataclasses import dataclass

import pandas as pd

from dacycle.common.settings import SettingsError, read_settings
from dacycle.common.times import parse_time

__all__ = ["Clock", "now", "read_clock"]

EPOCH = pd.Timestamp(0)

_FORM = re.compile(r"(?P<shown>\S+) since (?P<began>\S+)(?: x(?P<speed>\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Clock:
    """Hold a clock that showed `shown` when the machine's showed `began`, both UTC, and runs `speed` times as fast."""

    shown: pd.Timestamp = EPOCH
    began: pd.Timestamp = EPOCH
    speed: float = 1.0

    @property
    def rehearses(self) -> bool:
        """Return whether this is another clock than the machine's."""
        return self != Clock()

    def now(self) -> pd.Timestamp:
        """Return the time that it shows, UTC, without a zone."""
        return self.shown + (pd.Timestamp.now("UTC").tz_localize(None) - self.began) * self.speed

    def of_machine(self, time: pd.Timestamp) -> pd.Timestamp:
        """Return what the machine's clock shows when this one shows `time`; both UTC, without a zone."""
        return self.began + (time - self.shown) / self.speed


def read_clock() -> Clock:
    """Return the clock that the setting `DACYCLE_CLOCK` describes, or the machine's.

    Raises:
        SettingsError: the setting has another form.
    """
    text = read_settings().clock
    if text is None:
        return Clock()
    form = _FORM.fullmatch(text.strip())
    try:
        if form is None or (speed := float(form["speed"] or 1)) <= 0:
            raise ValueError("it is none of this form")
        return Clock(pd.Timestamp(parse_time(form["shown"])), pd.Timestamp(parse_time(form["began"])), speed)
    except ValueError as error:
        raise SettingsError(
            f"DACYCLE_CLOCK is {text!r}: {error}; write TIME since TIME OF THE MACHINE xSPEED, "
            "e.g. 2024-01-05T03 since 2026-11-29T05:10 x480, in UTC"
        ) from None


def now() -> pd.Timestamp:
    """Return the time of live runs, UTC, without a zone."""
    return read_clock().now()
