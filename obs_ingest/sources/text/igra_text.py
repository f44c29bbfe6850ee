"""The text of IGRA version 2: headers and levels in fixed columns (NCEI, igra2-data-format.txt).

Heights are in metres, pressures in Pa, the others in tenths of a degree, per cent or m/s. -9999 is a missing value,
-8888 one that IGRA's quality assurance removed. The flags A, B and blank say which checks of climatology a value has
passed; a value that failed one is not in the file.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import (
    GRAVITY,
    ZERO_CELSIUS,
    dewpoint_from_relative_humidity,
)
from dacycle.obs_ingest.sources.ascent_files import Ascent, Levels
from dacycle.obs_ingest.sources.text.columns import lines
from dacycle.obs_ingest.table import ObservationError

__all__ = ["ascents", "level_values"]

_HEADER = re.compile(
    rb"#(\S{11}) (\d{4}) ([ \d]\d) ([ \d]\d) ([ \d]\d) ([ \d]{3}\d) ([ \d]{3}\d) .{8} .{8} "
    rb"([ \d-]{6}\d) ([ \d-]{7}\d)\s*"
)
_WIDTH = 51
_LEVEL = {
    "pressure": (9, 15), "height": (16, 21), "temperature": (22, 27), "humidity": (28, 33), "depression": (34, 39),
    "direction": (40, 45), "speed": (46, 51),
}  # fmt: skip
_MAJOR, _MINOR, _FLAGS = 0, 1, (15, 21, 27)
_REMOVED, _MISSING = -8888, -9999
_UNKNOWN_HOUR, _UNKNOWN_RELEASE, _UNKNOWN_MINUTE = 99, 9999, 99
_LONGEST = 16 << 20  # bytes; a sounding has at most 9999 levels of 53
_FAR = np.timedelta64(6, "h")


def ascents(path: Path, problems: list[str]) -> Iterator[Ascent]:
    """Yield the soundings of a file, plain or packed.

    Args:
        path: the file.
        problems: gets a sentence about each damaged sounding, which begins with its line, and one about a packed file
            that is cut off.

    Raises:
        ObservationError: it cannot be read, or is no sounding data of IGRA.
    """
    number = 1
    for texts in _blocks(path, problems):
        if number == 1:
            _check_kind(path, texts)
        starts = [i for i, text in enumerate(texts) if text[:1] == b"#"]
        for start, end in zip(starts, [*starts[1:], len(texts)], strict=True):
            match = _HEADER.fullmatch(texts[start])
            if match is None:
                problems.append(f"line {number + start}: no header of a sounding")
            elif int(match[7]) != end - start - 1:
                problems.append(
                    f"line {number + start}: states {int(match[7])} levels, and {end - start - 1} lines follow"
                )
            else:
                latitude, longitude = (_coordinate(match[i]) for i in (8, 9))
                yield Ascent(match[1].decode(), _time(match), latitude, longitude, texts[start + 1 : end])
        number += len(texts)


def _blocks(path: Path, problems: list[str]) -> Iterator[list[bytes]]:
    """Yield the lines of some soundings at a time, each of them whole."""
    rest: list[bytes] = []
    for piece in lines(path, problems):
        rest.append(piece)
        end = piece.rfind(b"\n#") + 1
        if not end and sum(map(len, rest)) > _LONGEST:
            raise ObservationError(f"{path}: no soundings of IGRA: {_LONGEST >> 20} MB without a header (#)")
        if end:
            yield b"".join([*rest[:-1], piece[:end]]).splitlines()
            rest = [piece[end:]]
    yield b"".join(rest).splitlines()


def _check_kind(path: Path, texts: list[bytes]) -> None:
    first = texts[0] if texts else b""
    if first[:1] != b"#":
        raise ObservationError(f"{path}: no soundings of IGRA: it begins with {first[:40]!r}, not with a header (#)")
    if len(texts) > 1 and len(texts[1].rstrip()) > 2 * _WIDTH:
        raise ObservationError(
            f"{path}: parameters derived from soundings (IGRA's -drvd files); take the soundings themselves (-data)"
        )


def _coordinate(text: bytes) -> float:
    """Return degrees from ten-thousandths; NaN where the text is no number."""
    return int(text) / 10000 if re.fullmatch(rb" *-?\d+", text) else np.nan


def _time(header: re.Match[bytes]) -> np.datetime64:
    """Return the time of release, which may be on the day before or after the nominal hour's, else the nominal time."""
    unknown = np.datetime64("NaT", "s")
    year, month, day, hour, release = (int(header[i]) for i in range(2, 7))
    try:
        date = np.datetime64(f"{year:04d}-{month:02d}-{day:02d}", "s")
    except ValueError:
        return unknown
    nominal = date + np.timedelta64(hour, "h") if hour < 24 else unknown
    if hour not in (*range(24), _UNKNOWN_HOUR):
        return unknown
    if release == _UNKNOWN_RELEASE:
        return nominal
    at, minute = divmod(release, 100)
    minute = 0 if minute == _UNKNOWN_MINUTE else minute
    if at > 23 or minute > 59:
        return unknown
    released = date + np.timedelta64(60 * at + minute, "m")
    if hour == _UNKNOWN_HOUR:
        return released
    days = np.timedelta64(1, "D") * np.rint((nominal - released) / np.timedelta64(1, "D")).astype(int)
    return released + days if abs(released + days - nominal) <= _FAR else unknown


def level_values(soundings: list[list[bytes]]) -> list[Levels]:
    """Return the levels of soundings from their lines.

    A level counts if its pressure is below that of all earlier ones. Dewpoints come from the dewpoint depression, else
    from the relative humidity. A wind from 0 degrees is from the north: IGRA has 0 and 360 for it, and calms are 0 m/s.
    """
    texts = [text for sounding in soundings for text in sounding]
    characters = _characters(texts)
    numbers = {name: _number(characters[:, slice(*columns)]) for name, columns in _LEVEL.items()}
    known = np.isin(characters[:, _FLAGS], np.frombuffer(b" AB", np.uint8)).all(axis=1)
    known &= np.isin(characters[:, _MAJOR], np.frombuffer(b"123", np.uint8))
    known &= np.isin(characters[:, _MINOR], np.frombuffer(b"012", np.uint8))
    readable = np.all([known, *(~np.isnan(number) for number in numbers.values())], axis=0)
    removed = np.sum([number == _REMOVED for number in numbers.values()], axis=0)
    for number in numbers.values():
        number[(number == _REMOVED) | (number == _MISSING) | ~readable] = np.nan
    dry = (numbers["depression"] < 0) | (numbers["humidity"] < 0) | (numbers["humidity"] > 1000)
    off = (numbers["speed"] < 0) | (numbers["direction"] < 0) | (numbers["direction"] > 360)
    t = numbers["temperature"] / 10 + ZERO_CELSIUS
    with np.errstate(invalid="ignore", divide="ignore"):
        by_humidity = dewpoint_from_relative_humidity(numbers["humidity"] / 10, t)
    td = np.where(np.isfinite(numbers["depression"]), t - numbers["depression"] / 10, by_humidity)
    levels = {
        "pressure": numbers["pressure"],
        "z": numbers["height"] * GRAVITY,
        "t": t,
        "td": np.where(dry, np.nan, td),
        "direction": np.where(off, np.nan, numbers["direction"]),
        "speed": np.where(off, np.nan, numbers["speed"] / 10),
        "surface": characters[:, _MINOR] == ord("1"),
    }
    lengths = [len(sounding) for sounding in soundings]
    result = []
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        rows = slice(end - length, end)
        order, left_out = _order(levels["pressure"][rows])
        left_out["level that cannot be read"] = int((~readable[rows]).sum())
        left_out["value rejected by its provider"] = int(removed[rows][readable[rows]].sum())
        left_out["impossible humidity"] = int(dry[rows].sum())
        left_out["impossible wind"] = int(off[rows].sum())
        kept = order & readable[rows]
        result.append(({name: values[rows][kept] for name, values in levels.items()}, left_out))
    return result


def _characters(texts: list[bytes]) -> NDArray[np.uint8]:
    """Return the characters (n, 51) of lines; zeros where a line has another length."""
    fit = [text[:_WIDTH] if len(text.rstrip()) == _WIDTH else b"" for text in texts]
    return np.array(fit, f"S{_WIDTH}").view(np.uint8).reshape(-1, _WIDTH)


def _number(field: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the whole numbers (n,) of right-aligned texts, NaN where there is anything else."""
    digit = field - np.uint8(ord("0"))  # below "0" it wraps to above 9
    is_digit, minus, blank = digit < 10, field == ord("-"), field == ord(" ")
    value = np.zeros(len(field))
    for column in range(field.shape[1]):
        value = np.where(is_digit[:, column], 10 * value + digit[:, column], value)
    before = np.cumsum(is_digit | minus, axis=1) - (is_digit | minus)  # digits and signs to the left
    good = is_digit | ((minus | blank) & (before == 0))
    whole = good.all(axis=1) & is_digit[:, -1]
    return np.where(whole, np.where(minus.any(axis=1), -value, value), np.nan)


def _order(pressure: NDArray) -> tuple[NDArray[np.bool_], Counter[str]]:
    """Return which levels (n,) are above all earlier ones, or have no pressure, and how many others there are."""
    lowest = np.minimum.accumulate(np.append(np.inf, np.where(pressure > 0, pressure, np.inf)))[:-1]
    repeated, below = pressure == lowest, pressure > lowest
    left_out = {"level that repeats a pressure": repeated, "level out of order": below}
    return ~(repeated | below), Counter({reason: int(levels.sum()) for reason, levels in left_out.items()})
