"""Checks of files whose damage can bring a C library down: HDF5 (netCDF-4) and GRIB.

A foreign file is checked before it is opened in this process. A process of its own (`contained`) does with it what
readers do: of HDF5 it opens every object, of GRIB it decodes every field. This file is also the script of that process.
"""

import os
import pickle
import signal
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

__all__ = ["check_grib", "check_hdf5"]

PATIENCE = {"hdf5": 20, "grib": 10}
"""Seconds that a library may take: for a whole HDF5 file, for each field of GRIB."""

MOST_POINTS = 10**8
"""Points of a field: a hundred times a grid of 0.25 degrees. A damaged number of points would fill the memory."""

MOST_FIELDS = 500
"""Fields of one GRIB message, which usually has one or two; of a damaged one ecCodes can find the same without end."""

_NAMES = {"hdf5": "HDF5", "grib": "ecCodes"}


def check_hdf5(path: Path, error: type[Exception]) -> None:
    """Raise `error` where HDF5 cannot open all objects of a file, breaks down on it or does not come to an end.

    A file that has passed is checked again only when it has changed.
    """
    _check("hdf5", path, error)


def check_grib(path: Path, error: type[Exception]) -> None:
    """Raise `error` where ecCodes breaks down on a field of a file, or does not come to an end.

    Likewise where a field says that it has more values than points. Fields that ecCodes cannot decode are for the
    reader, which leaves them out and names them. A file that has passed
    is checked again only when it has changed.
    """
    _check("grib", path, error)


def _check(kind: str, path: Path, error: type[Exception]) -> None:
    try:
        status = path.stat()
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from None
    try:
        _pass(kind, str(path.absolute()), status.st_size, status.st_mtime_ns)
    except _DamageError as damage:
        raise error(f"{path}: {damage}") from None


class _DamageError(Exception):
    """A file did not pass."""


@lru_cache(maxsize=4096)
def _pass(kind: str, path: str, size: int, modified: int) -> None:
    """Raise _DamageError where a file does not pass; it is asked again then, as the machine may have been at fault."""
    answers = _process().ask((kind, path))
    if not answers:
        name = _NAMES[kind]
        raise _DamageError(f"is damaged: {name} breaks down on it, or does not come to an end in {PATIENCE[kind]} s")
    if answers[0]:
        raise _DamageError(answers[0])


@lru_cache(maxsize=1)
def _process() -> Any:
    from dacycle.common.contained import Contained  # not for the script

    return Contained(Path(__file__))


def _hdf5(path: str) -> str:
    """Return what is wrong with a file; empty if nothing is."""
    import h5py

    def visit(name: str, item: Any) -> None:
        list(item.attrs)
        if isinstance(item, h5py.Dataset):
            [len(dimension) for dimension in item.dims]

    signal.alarm(PATIENCE["hdf5"])
    try:
        with h5py.File(path) as file:
            file.visititems(visit)
    except Exception as problem:  # noqa: BLE001 whatever h5py raises on damaged bytes
        return f"as HDF5: cannot be read: {type(problem).__name__}: {str(problem)[:200]}"
    return ""


_KEYS = (
    "shortName", "validityDate", "validityTime", "dataDate", "level", "typeOfLevel", "stepType", "dataType", "units",
)  # fmt: skip


def _grib(path: str) -> str:
    """Decode all fields; errors that ecCodes reports are none of this check."""
    import eccodes

    grids: set[str] = set()
    fields: Counter[int] = Counter()
    with suppress(eccodes.CodesInternalError, OSError), open(path, "rb") as file, _fields_of(file):
        signal.alarm(PATIENCE["grib"])
        while (message := eccodes.codes_grib_new_from_file(file)) is not None:
            offset = int(eccodes.codes_get(message, "offset"))
            fields[offset] += 1
            if fields[offset] > MOST_FIELDS:
                return f"is damaged: its message at byte {offset} has more than {MOST_FIELDS} fields"
            for key in _KEYS:
                with suppress(eccodes.CodesInternalError):
                    eccodes.codes_get(message, key)
            with suppress(eccodes.CodesInternalError):
                values, points = (
                    eccodes.codes_get_size(message, "values"),
                    eccodes.codes_get(message, "numberOfDataPoints"),
                )
                if values > points or points > MOST_POINTS:
                    return f"is damaged: a field says that it has {values} values on a grid of {points} points"
                image, coded = _image_points(message), eccodes.codes_get(message, "numberOfCodedValues")
                if image > coded:
                    return f"is damaged: a field of {coded} coded values keeps them in an image of {image} points"
                eccodes.codes_get_values(message)
            with suppress(eccodes.CodesInternalError):
                grid = eccodes.codes_get(message, "md5GridSection")
                if grid not in grids:
                    grids.add(grid)
                    eccodes.codes_get_array(message, "latitudes")
                    eccodes.codes_get_array(message, "longitudes")
            eccodes.codes_release(message)
            signal.alarm(PATIENCE["grib"])
    return ""


def _image_points(message: int) -> int:
    """Return the points of the image in which JPEG 2000 or PNG packing keeps a field's values; 0 for other packings.

    ecCodes writes all of them to memory for the coded values, whatever their number.
    """
    import eccodes

    packing = str(eccodes.codes_get(message, "packingType"))
    if not packing.startswith(("grid_jpeg", "grid_png")):
        return 0
    start = eccodes.codes_get(message, "offsetSection7") + 5  # after length and number of the section
    image = eccodes.codes_get_message(message)[start : start + 24]
    if image.startswith(b"\xff\x4f\xff\x51") and len(image) == 24:  # JPEG 2000: start, and size
        right, lower, left, upper = struct.unpack(">4I", image[8:])
        return max(0, right - left) * max(0, lower - upper)
    if image.startswith(b"\x89PNG") and len(image) == 24:
        width, height = struct.unpack(">2I", image[16:])
        return width * height
    return 0


@contextmanager
def _fields_of(file: IO[bytes]) -> Iterator[None]:
    """Switch ecCodes to messages of several fields, and let it forget the file afterwards."""
    import eccodes

    eccodes.codes_grib_multi_support_on()
    try:
        yield
    finally:
        eccodes.codes_grib_multi_support_reset_file(file)


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests with what is wrong with a file, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that asks
    checks = {"hdf5": _hdf5, "grib": _grib}
    answers.write(b"ready\n")
    answers.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # what libraries say of damaged files
    while True:
        try:
            kind, path = pickle.load(requests)
        except EOFError:
            return
        complaint = checks[kind](path)
        signal.alarm(0)
        pickle.dump(complaint, answers)
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
