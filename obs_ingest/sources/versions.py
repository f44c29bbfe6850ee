"""Versions of a report: of a report and its corrections the last one that arrived by the cutoff counts.

What orders the versions, in this order: the update sequence number of a BUFR message; the letters that end the heading
of a WMO bulletin (delayed RRx, amended AAx, corrected CCx), or the word COR; the time of receipt. Names of files never
do.
"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.obs_ingest.window import Window

__all__ = ["CORRECTION", "SUPERSEDED", "heading_version", "letters_version", "superseded"]

SUPERSEDED = "superseded by a later version"
"""The reason in inventories."""

CORRECTION = 101
"""The version of a report that says only that it is a correction; the first of its bulletin."""

_KINDS = {"RR": 0, "AA": 50, "CC": CORRECTION - 1}
_HEADING = re.compile(r"[A-Z]{4}\d{2}\s?[A-Z]{4}\s?\d{6}(?:\s?([A-Z]{3})(?![A-Z0-9]))?")


def letters_version(letters: str) -> int:
    """Return the version of a bulletin by the letters BBB of its heading; 0 is the first."""
    if letters[:2] not in _KINDS or not letters[2:].isalpha():
        return 0
    return _KINDS[letters[:2]] + ord(letters[2:]) - ord("A") + 1


def heading_version(text: str) -> int | None:
    """Return the version by the last heading in a text (T1T2A1A2ii CCCC YYGGgg BBB); None where there is none."""
    headings = _HEADING.findall(text)
    return letters_version(headings[-1]) if headings else None


def superseded(
    station: Sequence[object] | NDArray,
    time: NDArray[np.datetime64],
    version: NDArray[np.int_],
    received: NDArray[np.datetime64],
    window: Window,
) -> NDArray[np.bool_]:
    """Return which reports (n,) a later version of the same station and time supersedes.

    A report that arrived after the window's cutoff supersedes nothing, and is kept: quality control marks it as late.

    Args:
        station: (n,) identifiers.
        time: (n,) of the reports.
        version: (n,) numbers that grow with each version.
        received: (n,) NaT where unknown; of equal versions the one received last counts.
        window: of the cycle.
    """
    if len(set(zip(station, np.asarray(time, "M8[s]").astype(np.int64).tolist(), strict=True))) == len(time):
        return np.zeros(len(time), bool)
    receipt = np.where(np.isnat(received), np.iinfo(np.int64).min, np.asarray(received, "M8[s]").astype(np.int64))
    frame = pd.DataFrame({"station": station, "time": time, "version": version, "receipt": receipt})
    on_time = ~window.late(received)
    report = frame[on_time].groupby(["station", "time"], sort=False)
    later = frame[on_time]["version"] < report["version"].transform("max")
    last = frame[on_time][~later].groupby(["station", "time"], sort=False)["receipt"].transform("max")
    result = np.zeros(len(frame), bool)
    result[later[later].index] = True
    result[last.index] = frame["receipt"][last.index] < last
    return result
